"""What the clients have seen of the way back and there again; and once more the rows, at rest."""

from __future__ import annotations

import json
import os
import shlex
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

CONTAINER = f"{os.environ.get('TEST_HOST_PREFIX', 'molecule-')}swarm-dev"
JOURNAL = "/var/lib/load_generator/journal.jsonl"
SERVICES = ("swarm-registry", "swarm-deploy", "swarm-tickets", "swarm-platform")
# Back to SQLite, and to PostgreSQL again.
MOVES = 2
# Far more than a window takes, but less than a service that somebody has to start by hand.
LONGEST_OUTAGE_SECONDS = 120.0


@pytest.fixture(scope="module")
def host() -> Host:
    """Return the test host."""
    return testinfra.get_host(f"docker://{CONTAINER}")


def load_generator(host: Host, command: str) -> Any:
    """Return what a command of the load generator prints."""
    result = host.run(f"cd /opt && python3 -m load_generator {command} --journal {shlex.quote(JOURNAL)}")
    assert result.rc == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


@pytest.mark.promise("acknowledged-write-kept")
def test_every_acknowledged_write_is_there_exactly_once(host: Host) -> None:
    """Nothing was left out of the comparison, and there was enough to compare."""
    found = load_generator(host, "check")
    assert found["problems"] == []
    assert set(found["stores"].values()) == {"postgresql"}
    assert found["skipped"] == 0
    assert found["outcomes"]["acknowledged"] > 500


def test_clients_saw_each_move_and_nothing_else(host: Host) -> None:
    """Each service was away once for each move, and has come back each time."""
    outages = load_generator(host, "outages")
    assert set(outages) == set(SERVICES)
    for service, found in outages.items():
        assert all(outage["until"] for outage in found), service
        assert max(outage["seconds"] for outage in found) < LONGEST_OUTAGE_SECONDS, service
        assert len(found) == MOVES, (service, found)


# Statements that damage the store, and what the check says of each.
DAMAGE = [
    (
        "DELETE FROM verification.attempts WHERE id = (SELECT id FROM verification.attempts "
        "WHERE ticket_id LIKE 'load-%' LIMIT 1)",
        "is lost",
    ),
    (
        "UPDATE registry.agents SET description = 'not what was written' WHERE id = (SELECT id "
        "FROM registry.agents WHERE name LIKE 'load-%' LIMIT 1)",
        "not what was written",
    ),
    (
        "INSERT INTO verification.attempts (ticket_id, attempt_number, branch_name, status) SELECT ticket_id, "
        "attempt_number, branch_name, status FROM verification.attempts WHERE ticket_id LIKE 'load-%' LIMIT 1",
        "is there 2 times",
    ),
    (
        "DELETE FROM deploy.deployment_events WHERE id = (SELECT max(id) FROM deploy.deployment_events)",
        "has 3 events in the store, not 4",
    ),
    ("INSERT INTO auth.roles (name, level) VALUES ('stranger', 1)", "table roles: 5 rows are not of the load"),
]


def test_the_check_finds_everything_that_is_wrong(host: Host) -> None:
    """The last test on this host: it damages the store."""
    for statement, _ in DAMAGE:
        changed = host.run(f"cd / && runuser -u postgres -- psql -d swarm -c {shlex.quote(statement)}")
        assert (changed.rc, changed.stdout.strip()[-2:]) == (0, " 1"), changed.stdout + changed.stderr
    result = host.run(f"cd /opt && python3 -m load_generator check --journal {shlex.quote(JOURNAL)}")
    assert result.rc == 1
    found = json.loads(result.stdout)["problems"]
    assert [problem for _, problem in DAMAGE if not any(problem in text for text in found)] == []
