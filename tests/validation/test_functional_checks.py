"""The functional checks, against a real HTTP server that keeps rows."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation import functional_checks
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation.functional_checks import (
    FAILED,
    NOT_RUN,
    PASSED,
)

PASSWORD = "correct horse/battery"
WRONG = "wrong-password"


class Service:
    """A small service that registers agents, and what it has seen."""

    def __init__(self) -> None:
        self.agents: dict[str, dict[str, Any]] = {}
        self.seen: list[str] = []
        self.refuse_delete = False
        self.stopped = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            """Answers like the services of an estate."""

            def log_message(self, *_arguments: Any) -> None:
                """Keep the test's output clean."""

            def answer(self, status: int, body: Any) -> None:
                """Send JSON."""
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                """Answer with one agent, or with the dashboard."""
                service.seen.append(f"GET {self.path}")
                if self.path == "/dashboard":
                    self.answer(200, {"totals": {"agents": len(service.agents)}, "tables": [{"n": 1}, {"n": 2}]})
                elif self.path == "/elsewhere":
                    self.send_response(302)
                    self.send_header("Location", "/dashboard")
                    self.end_headers()
                elif self.path == "/garbage":
                    self.wfile.write(b"this is no HTTP\r\n\r\n")
                elif self.path == "/short":
                    self.send_response(200)
                    self.send_header("Content-Length", "9")
                    self.end_headers()
                    self.wfile.write(b"{}")
                    self.close_connection = True
                elif self.path == "/endless":
                    self.send_response(200)
                    self.end_headers()
                    with suppress(OSError):
                        while not service.stopped.wait(0.05):
                            self.wfile.write(b" ")
                elif self.path == "/echo":
                    self.answer(200, {"echo": self.headers.get("X-Echo"), "number": self.headers.get("X-Number")})
                elif self.path == "/me":
                    token = self.headers.get("Authorization")
                    self.answer(200 if token == "Bearer t/1" else 401, {})
                else:
                    agent = service.agents.get(self.path.removeprefix("/agents/"))
                    self.answer(200 if agent else 404, agent or {"error": "unknown"})

            def do_POST(self) -> None:
                """Register an agent, or log in."""
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.seen.append(f"POST {self.path}")
                if self.path == "/login":
                    good = body == {"email": "a@example.test", "password": PASSWORD}
                    self.answer(200 if good else 401, {"token": "t/1"} if good else {"error": body["password"]})
                    return
                name = f"agent {len(service.agents) + 1}"
                service.agents[name.replace(" ", "%20")] = {**body, "id": name, "enabled": True}
                self.answer(201, {"id": name})

            def do_DELETE(self) -> None:
                """Delete an agent."""
                service.seen.append(f"DELETE {self.path}")
                if service.refuse_delete:
                    self.answer(500, {})
                    return
                gone = service.agents.pop(self.path.removeprefix("/agents/"), None)
                self.answer(200 if gone else 404, {})

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def service() -> Iterator[Service]:
    """Return a running service."""
    running = Service()
    thread = threading.Thread(target=running.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield running
    running.stopped.set()
    running.server.shutdown()
    running.server.server_close()
    thread.join()


def run(*checks: dict[str, Any], **secrets: Any) -> list[dict[str, Any]]:
    """Run checks as the module does."""
    results: list[dict[str, Any]] = functional_checks.run(functional_checks.parse(checks), secrets)
    return results


def registration(service: Service, **expectations: Any) -> dict[str, Any]:
    """Return a check that registers an agent, reads it, and deletes it."""
    return {
        "name": "Agent registration works",
        "steps": [
            {
                "name": "Register",
                "method": "POST",
                "url": f"{service.url}/agents",
                "body": {"name": "check-${run_token}"},
                "expected_status": [201],
                "save": {"agent": "id"},
            },
            {"name": "Read", "url": service.url + "/agents/${agent}", **expectations},
        ],
        "cleanup": [{"name": "Delete", "method": "DELETE", "url": service.url + "/agents/${agent}"}],
    }


@pytest.mark.promise("functional-checks-honest")
def test_an_answer_that_never_ends_fails_its_step_in_time(service: Service) -> None:
    """Each byte comes soon enough: only the whole is too slow. The next cutover group would wait for it."""
    (result,) = run({"name": "x", "steps": [{"name": "Ask", "url": f"{service.url}/endless", "timeout": 0.5}]})
    assert result["result"] == FAILED
    assert "got no answer: it had not ended after 0.5 seconds" in result["reason"]


@pytest.mark.promise("functional-checks-honest")
def test_a_check_passes_and_leaves_nothing_behind(service: Service) -> None:
    (result,) = run(registration(service, expected_json={"id": "${agent}", "name": "check-${run_token}"}))
    assert (result["result"], result["reason"]) == (PASSED, "")
    assert service.agents == {}
    assert [step["status"] for step in result["steps"]] == [201, 200, 200]
    assert result["steps"][1]["url"].endswith("/agents/${agent}")


@pytest.mark.promise("functional-checks-honest")
@pytest.mark.parametrize(
    ("expectations", "reason"),
    [
        ({"expected_json": {"name": "other"}}, "'name' is"),
        ({"expected_json": {"absent": 1}}, "'absent' is missing"),
        ({"expected_json": {"enabled": 1}}, "'enabled' is true, expected 1"),
        ({"expected_json": []}, "the answer is not a JSON array"),
        ({"expected_json": {"name": {"first": "x"}}}, "'name' is not a JSON object"),
        ({"expected_status": [204, 205]}, "answered 200, expected 204 or 205"),
        ({"expected_not_empty": ["name", "tags.0"]}, "'tags.0' is missing or empty"),
        ({"save": {"run": "run.id"}}, "'run.id' is missing"),
    ],
)
def test_a_wrong_answer_fails_the_check_and_is_cleaned_up(
    service: Service, expectations: dict[str, Any], reason: str
) -> None:
    (result,) = run(registration(service, **expectations))
    assert result["result"] == FAILED
    assert "Read: GET" in result["reason"]
    assert reason in result["reason"]
    assert service.agents == {}


@pytest.mark.promise("functional-checks-honest")
def test_a_row_left_behind_fails_the_check(service: Service) -> None:
    service.refuse_delete = True
    (result,) = run(registration(service))
    assert result["result"] == FAILED
    assert "may still be there" in result["reason"]


def test_what_was_never_created_is_not_deleted(service: Service) -> None:
    check = registration(service)
    check["steps"][0]["url"] = "http://127.0.0.1:1/agents"
    (result,) = run(check)
    assert result["result"] == FAILED
    assert "got no answer" in result["reason"]
    assert service.seen == []


def test_lists_match_in_any_order(service: Service) -> None:
    step = {"name": "Look", "url": f"{service.url}/dashboard"}
    wanted = {**step, "expected_json": {"tables": [{"n": 2}]}}
    unwanted = {**step, "expected_json": {"tables": [{"n": 3}]}}
    results = run({"name": "a", "steps": [wanted]}, {"name": "b", "steps": [unwanted]})
    assert [result["result"] for result in results] == [PASSED, FAILED]
    assert "lacks the expected element 0" in results[1]["reason"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("run.id", 7),
        ("runs.1.id", 8),
        ("counts.auth.users", 2),
        ("counts.auth", None),
        ("runs.2.id", None),
        ("run.id.deeper", None),
    ],
)
def test_paths_in_an_answer(path: str, value: Any) -> None:
    answer = {"run": {"id": 7}, "runs": [{}, {"id": 8}], "counts": {"auth.users": 2}}
    assert functional_checks._at(answer, path) == value


def test_an_empty_dashboard_fails(service: Service) -> None:
    step = {"name": "Look", "url": f"{service.url}/dashboard", "expected_not_empty": ["totals.agents"]}
    (result,) = run({"name": "Dashboard displays data", "steps": [step]})
    assert result["result"] == FAILED


def login(service: Service) -> dict[str, Any]:
    """Return a check that logs in and uses the token."""
    return {
        "name": "User login works",
        "steps": [
            {
                "name": "Log in",
                "method": "POST",
                "url": f"{service.url}/login",
                "body": {"email": "a@example.test", "password": "${login_password}"},
                "save": {"token": "token"},
            },
            {"name": "Use", "url": f"{service.url}/me", "headers": {"Authorization": "Bearer ${token}"}},
        ],
    }


def test_secrets_reach_the_service_and_no_output(service: Service) -> None:
    good = run(login(service), login_password=PASSWORD)
    bad = run(login(service), login_password=WRONG)
    assert good[0]["result"] == PASSED
    assert bad[0]["result"] == FAILED
    text = json.dumps([good, bad])
    assert PASSWORD not in text
    assert WRONG not in text
    assert "t/1" not in text


def test_an_echoed_secret_is_masked(service: Service) -> None:
    check = login(service)
    check["steps"][0] |= {"expected_status": [401], "expected_json": {"error": "x"}}
    (result,) = run(check, login_password=WRONG)
    assert result["result"] == FAILED
    assert WRONG not in result["reason"]


@pytest.mark.promise("functional-checks-honest")
@pytest.mark.parametrize("secrets", [{}, {"login_password": ""}])
def test_a_check_without_its_values_is_not_run_and_says_so(service: Service, secrets: dict[str, str]) -> None:
    (result,) = run(login(service), **secrets)
    assert result["result"] == NOT_RUN
    assert "login_password" in result["reason"]
    assert service.seen == []


def test_one_failure_does_not_stop_the_other_checks(service: Service) -> None:
    broken = {"name": "broken", "steps": [{"name": "x", "url": "http://127.0.0.1:1/"}]}
    results = run(broken, registration(service))
    assert [result["result"] for result in results] == [FAILED, PASSED]


def test_an_address_that_is_none_fails_without_a_traceback() -> None:
    (result,) = run({"name": "x", "steps": [{"name": "x", "url": "not an address"}]})
    assert result["result"] == FAILED


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("elsewhere", "answered 302, expected 200"),
        ("garbage", "got no answer: this is no HTTP"),
        ("short", "got no answer: IncompleteRead"),
        ("an address with blanks", "got no answer: URL can't contain control characters"),
    ],
)
def test_an_answer_that_is_none_fails_without_a_traceback(service: Service, path: str, reason: str) -> None:
    (result,) = run({"name": "x", "steps": [{"name": "x", "url": f"{service.url}/{path}"}]})
    assert result["result"] == FAILED
    assert reason in result["reason"]
    # A redirect is an answer: followed, it would carry headers to another address.
    assert "GET /dashboard" not in service.seen


@pytest.mark.parametrize("secret", [4711, 'with "quotes" and \\', "long " + "x" * 200])
def test_a_secret_is_masked_whatever_it_looks_like(service: Service, secret: Any) -> None:
    step = {
        "name": "Echo",
        "url": f"{service.url}/echo",
        "headers": {"X-Echo": "${secret}", "X-Number": 7},
        "expected_json": {"number": "7", "echo": "other than ${secret}"},
    }
    (result,) = run({"name": "x", "steps": [step]}, secret=secret)
    assert '\'echo\' is "********", expected "other than ********"' in result["reason"]
