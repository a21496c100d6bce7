"""The check of the journal finds whatever is wrong in the store, though the services answer as they should.

The stores and the services are stood in for here. On a host they are read by tests/random_order, after each step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from molecule.load_generator import baseline, checker, journal, stores
from molecule.load_generator.kinds import GROUPS, PORTS, TABLES
from molecule.load_generator.requests import Answer

Row = dict[str, Any]
Tables = dict[tuple[str, str], list[Row]]

EVENTS = [{"id": f"e{number}", "deployment_id": "d1", "stage": number} for number in range(4)]
STEPS = [{"id": f"s{number}", "run_id": "r1"} for number in range(2)]
# One row of each kind, as its service answers it.
ANSWERS: dict[str, Row] = {
    "agent": {
        **{"id": "a1", "name": "load-1", "version": "1", "path": "/a", "description": "d", "runtime": "node"},
        **{"tags": ["x"], "memory_mb": 5, "updated_at": "now"},
    },
    "run": {
        **{"id": "r1", "status": "done", "trigger_type": "manual", "trigger_data": {"key": "load-2"}},
        **{"step_results": None, "steps": STEPS},
    },
    "deployment": {
        **{"id": "d1", "service": "swarm-app", "commit_sha": "load-3", "triggered_by": "load"},
        **{"trigger_type": "manual", "status": "done", "rollback_reason": None, "events": EVENTS},
    },
    "attempt": {
        **{"id": "t1", "ticket_id": "load-4", "attempt_number": 1, "branch_name": "b", "status": "passed"},
        **{"duration_ms": 7, "static_result": {"text": "x"}},
    },
}
KEYS = {"agent": "load-1", "run": "load-2", "deployment": "load-3", "attempt": "load-4"}
LISTED = {"agents": "agent", "deployments": "deployment", "attempts": "attempt"}
# What was there before.
USER = {"id": "u1", "email": "user@example.org", "role_id": "1", "last_login": None}
ROLES = [{"id": str(number), "name": f"role {number}"} for number in range(4)]


class Estate:
    """The tables, and the services, which show what they have acknowledged."""

    def __init__(self) -> None:
        self.tables: Tables = {(group, name): [] for group, names in TABLES.items() for name in names}
        self.tables["platform", "users"] = [dict(USER)]
        self.tables["platform", "roles"] = list(ROLES)
        self.lists: dict[str, list[Row]] = {name: [] for _, name in baseline.every_list()}
        self.lists["users"] = [dict(USER)]

    def write(self, path: Path) -> None:
        """Write one row of each kind, and note it in the journal."""
        shared = journal.Journal(path)
        for name, answer in copy.deepcopy(ANSWERS).items():
            number, key = {"number": name, "at": "now"}, KEYS[name]
            shared.append(event="intent", kind=name, operation=journal.CREATE, key=key, body={}, **number)
            shared.append(event="acknowledged", status=201, answer=answer, **number)
        for name, kind in LISTED.items():
            self.lists[name].append(copy.deepcopy(ANSWERS[kind]))
        for group, table, kind in (
            ("registry", "agents", "agent"),
            ("registry", "workflow_runs", "run"),
            ("deploy", "deployments", "deployment"),
            ("platform", "verification_attempts", "attempt"),
        ):
            self.tables[group, table].append(copy.deepcopy(ANSWERS[kind]))
        self.tables["deploy", "deployment_events"] += EVENTS
        self.tables["registry", "step_executions"] += STEPS

    def send(self, port: int, method: str, path: str, body: Any = None) -> Answer:
        """Answer a request for a list, or for one row with its children."""
        if path == "/health":
            return Answer(200, True, {"store": stores.POSTGRESQL})
        *_, collection, last = path.split("/")
        if not collection:
            return Answer(200, True, {last: copy.deepcopy(self.lists[last])})
        kind = {"runs": "run", "deployments": "deployment"}[collection]
        return Answer(200, True, copy.deepcopy(ANSWERS[kind]))


@pytest.fixture
def estate(monkeypatch: pytest.MonkeyPatch) -> Estate:
    """The estate, as the check of the journal reaches it."""
    made = Estate()
    for module in (baseline, checker):
        monkeypatch.setattr(module, "send", made.send)
    monkeypatch.setattr(stores, "read_all", lambda used: {place: made.tables[place] for place in made.tables})
    return made


def lose(tables: Tables) -> None:
    """Lose a row."""
    tables["platform", "verification_attempts"].clear()


def double(tables: Tables) -> None:
    """Double a row, under another id."""
    (row,) = tables["platform", "verification_attempts"]
    tables["platform", "verification_attempts"].append({**row, "id": "t2"})


def change(tables: Tables) -> None:
    """Change a value."""
    tables["registry", "agents"][0]["description"] = "not what was written"


def give_another_id(tables: Tables) -> None:
    """Give a row another id."""
    tables["registry", "agents"][0]["id"] = "a2"


def lose_a_child(tables: Tables) -> None:
    """Lose one of the rows that were written with another one."""
    tables["deploy", "deployment_events"].pop()


def add_a_stranger(tables: Tables) -> None:
    """Add a row that nobody wrote."""
    tables["platform", "roles"].append({"id": "9", "name": "stranger"})


def add_to_a_written_table(tables: Tables) -> None:
    """Add a row that nobody wrote to a table that the load writes to."""
    tables["registry", "agents"].append({**ANSWERS["agent"], "id": "a9", "name": "stranger"})


def lose_a_row_of_before(tables: Tables) -> None:
    """Lose a row that was there before the load."""
    tables["platform", "users"].clear()


def test_what_is_as_it_should_be_is_no_problem(estate: Estate, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    baseline.record(path)
    estate.write(path)
    found = checker.check(path)
    assert (found["problems"], found["rows"], found["skipped"]) == ([], len(ANSWERS), 0)
    assert found["stores"] == dict.fromkeys(GROUPS, stores.POSTGRESQL)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lose, "attempt load-4: is lost, though it was acknowledged, shows the store"),
        (double, "attempt load-4: is there 2 times, shows the store"),
        (change, "agent load-1: the store holds description 'not what was written' for 'd'"),
        (give_another_id, "agent load-1: has the id a2 in the store, not a1"),
        (lose_a_child, "deployment load-3: has 3 events in the store, not 4"),
        (add_a_stranger, "table roles: 5 rows are not of the load, and 4 were there before it"),
        (add_to_a_written_table, "table agents: 1 rows are not of the load, and 0 were there before it"),
        (lose_a_row_of_before, "table users: 0 rows are not of the load, and 1 were there before it"),
    ],
)
def test_damage_of_the_store_is_found(
    estate: Estate, tmp_path: Path, damage: Callable[[Tables], None], said: str
) -> None:
    path = tmp_path / "journal"
    baseline.record(path)
    estate.write(path)
    damage(estate.tables)
    assert said in checker.check(path)["problems"]


def test_what_a_service_does_not_show_any_more_is_found(estate: Estate, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    baseline.record(path)
    estate.write(path)
    estate.lists["agents"].clear()
    estate.lists["users"] = [{**USER, "role_id": "2", "email": "stranger@example.org"}]
    problems = checker.check(path)["problems"]
    assert "agent load-1: is lost, though it was acknowledged, says swarm-registry" in problems
    assert any(problem.startswith("users: a row that was there before is gone or changed") for problem in problems)
    assert any(problem.startswith("users: a row that nobody wrote has appeared") for problem in problems)


def test_services_that_use_different_stores_are_no_answer(
    estate: Estate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    baseline.record(path)
    estate.write(path)

    def send(port: int, method: str, asked: str, body: Any = None) -> Answer:
        if asked == "/health" and port == PORTS["swarm-tickets"]:
            return Answer(200, True, {"store": stores.SQLITE})
        return estate.send(port, method, asked, body)

    monkeypatch.setattr(baseline, "send", send)
    (problem,) = checker.check(path)["problems"]
    assert "the services of group platform use different stores" in problem
