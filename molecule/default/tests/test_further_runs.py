"""What further runs of the playbook do on the finished host: nothing, and least of all to rows written since."""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from testinfra.host import Host

from scripts.playbooks import PlaybookRun

REGISTRY = "http://127.0.0.1:4001"
DEPLOY = "http://127.0.0.1:4002"
TICKETS = "http://127.0.0.1:4003"

# Runs on the host: sends one request and prints the status and the body.
REQUEST = """
import json, sys, urllib.error, urllib.request
method, url, body = sys.argv[1:]
request = urllib.request.Request(url, method=method, headers={"Content-Type": "application/json"})
try:
    with urllib.request.urlopen(request, data=body.encode() if body else None, timeout=10) as response:
        print(json.dumps([response.status, json.load(response)]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, json.load(error)]))
"""

REPORT_TASK = "validation : Report | Write the report on the controller, if it says anything new"

Send = Callable[..., tuple[int, Any]]
RunSite = Callable[..., PlaybookRun]


@pytest.fixture(scope="module")
def send(host: Host) -> Send:
    """Return a function that sends a request from the host itself and returns the status and the decoded body."""

    def request(method: str, url: str, body: Any = None) -> tuple[int, Any]:
        text = "" if body is None else json.dumps(body)
        result = host.run(" ".join(map(shlex.quote, ["python3", "-c", REQUEST, method, url, text])))
        assert result.rc == 0, result.stderr
        status, answer = json.loads(result.stdout)
        return status, answer

    return request


@pytest.fixture(scope="module")
def written_rows(send: Send) -> Iterator[dict[str, Any]]:
    """Let three services write rows after the cutover; yield each row by its address; remove them at the end."""
    mark = uuid.uuid4().hex
    bodies = {
        f"{REGISTRY}/agents": {"name": f"after-cutover-{mark}", "version": "1.0.0", "path": "/agents/after"},
        f"{DEPLOY}/deployments": {"service": "swarm-app", "commit_sha": mark, "triggered_by": "test"},
        f"{TICKETS}/attempts": {"ticket_id": f"TKT-{mark[:8].upper()}", "branch_name": "after-cutover"},
    }
    rows = {}
    for address, body in bodies.items():
        status, row = send("POST", address, body)
        assert status == 201, row
        rows[f"{address}/{row['id']}"] = row
    yield rows
    for address in rows:
        send("DELETE", address)


@pytest.mark.promise("second-run-changes-nothing", "services-rows-never-overwritten", "run-readable")
def test_a_further_run_changes_nothing_and_is_read_at_a_glance(
    run_site: RunSite, send: Send, written_rows: dict[str, Any]
) -> None:
    """Rows that the services wrote since the cutover survive it, and nothing changes on the host.

    A new report is written on the controller, because there are new rows to report.
    """
    run = run_site(readable=True)
    assert run.status == 0, run.output
    # What a person sees of it fits on one screen of 120 columns, with a new report and its commands too.
    assert sum(max(1, -(-len(line) // 120)) for line in run.output.splitlines()) <= 40, run.output
    assert set(run.changed_tasks) <= {REPORT_TASK}, run.output
    assert run.warnings == []
    for address, row in written_rows.items():
        assert send("GET", address) == (200, row)


@pytest.mark.promise("dry-run-changes-nothing", "no-password-in-output")
def test_a_dry_run_on_the_finished_host_announces_nothing_and_prints_no_password(
    run_site: RunSite, send: Send, written_rows: dict[str, Any], host: Host, services: list[dict[str, Any]]
) -> None:
    """--check --diff predicts what a run does, no change; and no password stands in its output at any verbosity."""
    run = run_site("--check", "--diff", "-vvvv")
    for service in services:
        (line,) = host.run(f"grep ^PGPASSWORD= {service['directory']}/.env").stdout.splitlines()
        # Not the password itself: a failing test prints what it compares.
        is_printed = line.removeprefix("PGPASSWORD=").strip("'`\"") in run.output
        assert not is_printed, service["name"]
    assert (run.status, run.changed) == (0, 0), run.output
    assert "TASK [service_env : " in run.output
    assert run.warnings == []
    for address, row in written_rows.items():
        assert send("GET", address) == (200, row)
