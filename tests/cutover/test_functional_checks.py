"""The functional checks of the groups that have moved, before the next one does: with a real ledger and HTTP server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.group_detail import changes
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation.group_checks import (
    GroupChecks,
)
from tests.conftest import PROJECT
from tests.engine.support import make_target

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login

pytestmark = pytest.mark.promise("functional-checks-between-groups")

HEALTH = {
    "registry": ["http://127.0.0.1:4001/health"],
    "deploy": ["http://127.0.0.1:4002/health"],
    "platform": ["http://127.0.0.1:4003/health", "https://tickets.example.org/health"],
    "jobs": [],
}
MOVED = {"changed": True, "state": "live", "msg": "registry lives on PostgreSQL."}


def check(name: str, *urls: str, cleanup: str = "") -> dict[str, Any]:
    """Return a check that asks for some addresses."""
    steps = [{"name": f"Ask {url}", "url": url} for url in urls]
    return {"name": name, "steps": steps, "cleanup": [{"name": "Clean up", "url": cleanup}] if cleanup else None}


# ---------------------------------------------------------------- which check belongs to which group, and when


@pytest.mark.parametrize(
    ("urls", "groups"),
    [
        (["http://127.0.0.1:4001/agents"], {"registry"}),
        (["http://localhost:4001/agents"], {"registry"}),
        (["http://user@[::1]:4002/agents?x=1"], {"deploy"}),
        (["http://127.0.0.1:4001/agents", "http://127.0.0.1:4002/"], {"registry", "deploy"}),
        (["https://tickets.example.org:443/login"], {"platform"}),
        (["http://tickets.example.org/login"], set()),
        (["http://127.0.0.1:4999/agents"], set()),
        (["http://${host}:4001/agents", "/agents", "http://127.0.0.1:port/"], set()),
        (["http://127.0.0.1:9999/token", "http://127.0.0.1:4003/login"], {"platform"}),
    ],
)
def test_a_check_belongs_to_the_groups_whose_services_it_asks(urls: list[str], groups: set[str]) -> None:
    checks = GroupChecks.from_inventory([check("A check", *urls)], {}, HEALTH)
    assert checks.groups_of(checks.checks[0]) == groups


@pytest.mark.parametrize(
    ("on_postgresql", "passed", "due"),
    [
        ([], [], []),
        (["registry"], [], ["one"]),
        (["registry"], ["registry"], []),
        (["deploy"], [], []),
        (["registry", "deploy"], [], ["one", "both", "cleaned"]),
        # The one that moves last brings the checks that ask both.
        (["registry", "deploy"], ["registry"], ["both", "cleaned"]),
        (["registry", "deploy"], ["registry", "deploy"], []),
        (["registry", "deploy", "platform", "jobs"], ["registry", "deploy"], []),
    ],
)
def test_a_check_is_due_once_all_its_groups_have_moved(
    on_postgresql: list[str], passed: list[str], due: list[str]
) -> None:
    one, two = "http://127.0.0.1:4001/", "http://127.0.0.1:4002/"
    declared = [
        check("one", one),
        check("both", two, one),
        check("cleaned", one, cleanup=two),
        check("none", "http://x/"),
    ]
    checks = GroupChecks.from_inventory(declared, {}, HEALTH)
    assert [found.name for found in checks.due(on_postgresql, passed)] == due


def test_a_dry_run_names_the_checks_of_a_group() -> None:
    checks = GroupChecks.from_inventory([check("One", "http://127.0.0.1:4001/"), check("Two", "http://x/")], {}, HEALTH)
    assert checks.would_run("registry") == "Then these functional checks would be run: 'One'."
    assert checks.would_run("deploy") == ""


@pytest.mark.parametrize("wrong", [{"name": "No steps"}, {"name": "x", "steps": [{"nmae": "x", "url": "http://x/"}]}])
def test_a_check_that_is_not_described_as_it_should_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MigrationError, match="cannot be read; nothing was changed"):
        GroupChecks.from_inventory([wrong], {}, HEALTH)


def test_the_role_hands_over_where_the_services_of_every_group_answer() -> None:
    loader = DataLoader()
    variables = loader.load_from_file(
        str(PROJECT / "roles" / "service_env" / "vars" / "main.yml"), trusted_as_template=True
    )
    groups = [
        {"name": "shop", "services": [{"health_url": "http://a/"}, {"health_url": "http://b/"}]},
        {"name": "jobs"},
    ]
    templar = Templar(loader=loader, variables={**variables, "service_env_groups": groups})
    assert templar.template(variables["__service_env_health_urls"]) == {"shop": ["http://a/", "http://b/"], "jobs": []}


# ---------------------------------------------------------------- with a ledger and a service


class Web:
    """A service that is well or not, and the paths that it was asked for."""

    def __init__(self) -> None:
        self.status = 200
        self.asked: list[str] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            """Answers everything with the same status."""

            def log_message(self, *_arguments: Any) -> None:
                """Keep the test's output clean."""

            def do_GET(self) -> None:
                """Answer."""
                web.asked.append(self.path)
                self.send_response(web.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def web() -> Iterator[Web]:
    """Return a running service."""
    running = Web()
    thread = threading.Thread(target=running.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield running
    running.server.shutdown()
    running.server.server_close()
    thread.join()


@pytest.fixture
def checks(connection: Connection, web: Web) -> GroupChecks:
    """Return a check of the group registry, which lives on PostgreSQL; deploy is rehearsed."""
    make_target(connection, "CREATE TABLE notes (text text PRIMARY KEY)")
    for name in ("registry", "deploy"):
        take(connection, name, "rehearse")
    for step in ("freeze", "go_live"):
        take(connection, "registry", step)
    ledger.merge_detail(connection, "registry", changes(proven=True))
    connection.commit()
    health = {"registry": [f"{web.url}/health"], "deploy": ["http://127.0.0.1:1/health"]}
    declared = [check("Agents are listed", f"{web.url}/agents")]
    return GroupChecks.from_inventory([*declared, check("Login works", f"{web.url}/${{password}}")], {}, health)


def take(connection: Connection, group: str, step: str) -> None:
    """Take a step of a group in the ledger."""
    ledger.take_step(connection, group, step, f"/{group}.db", frozen_sha256="0" * 64 if step == "freeze" else None)
    connection.commit()


def test_the_checks_of_a_group_run_once_after_it_has_moved(login: Login, checks: GroupChecks, web: Web) -> None:
    result = checks.after(login, MOVED)
    assert result["msg"] == "registry lives on PostgreSQL. 1 functional check passed."
    (warning,) = result["warnings"]
    assert "'Login works' was not run: no value for password" in warning
    checks.before(login, "deploy")
    assert checks.after(login, MOVED)["msg"] == MOVED["msg"]
    assert web.asked == ["/agents"]


def test_a_run_that_has_moved_nothing_asks_nothing(login: Login, checks: GroupChecks, web: Web) -> None:
    kept = {**MOVED, "changed": False}
    assert checks.after(login, kept) == kept
    # Nor one that keeps a group, or finishes it: only one that is about to move a group.
    checks.before(login, "registry")
    assert web.asked == []


def test_a_failed_check_stops_the_next_group_in_this_run_and_in_every_later_one(
    connection: Connection, login: Login, checks: GroupChecks, web: Web
) -> None:
    web.status = 500
    with pytest.raises(MigrationError) as failed:
        checks.after(login, MOVED)
    said = str(failed.value)
    assert said.startswith("registry lives on PostgreSQL. But a functional check has failed. No further group is moved")
    assert "functional check 'Agents are listed' of cutover group registry: Ask" in said
    assert "answered 500, expected 200" in said
    assert "playbooks/4_service_cutover.yml -l dev" in said
    assert "playbooks/rollback.yml -l dev -e service_env_rollback_groups=registry" in said
    for _ in range(2):
        with pytest.raises(MigrationError, match="Cutover group deploy was not moved"):
            checks.before(login, "deploy")
    assert ledger.read_group(connection, "registry").state == "live"
    web.status = 200
    checks.before(login, "deploy")
    assert len(web.asked) == 4
    checks.before(login, "deploy")
    assert len(web.asked) == 4


def test_a_group_that_is_back_on_sqlite_or_in_its_window_is_not_asked(
    connection: Connection, login: Login, checks: GroupChecks, web: Web
) -> None:
    web.status = 500
    ledger.merge_detail(connection, "registry", changes(proven=False))
    connection.commit()
    # Its services may be down: the run brings them up when it comes to it.
    checks.before(login, "deploy")
    ledger.merge_detail(connection, "registry", changes(proven=True))
    take(connection, "registry", "roll_back")
    checks.before(login, "deploy")
    assert web.asked == []


def test_a_window_that_was_left_open_is_never_kept_waiting(
    connection: Connection, login: Login, checks: GroupChecks, web: Web
) -> None:
    """Its services are down: a check of another group does not keep them from being started."""
    web.status = 500
    take(connection, "deploy", "freeze")
    checks.before(login, "deploy")
    assert web.asked == []
