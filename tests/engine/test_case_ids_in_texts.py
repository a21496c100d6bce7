"""Old ids that stand in texts and JSON are named with counts before anything is moved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer.report import (
    warnings_of,
)

from .support import make_group, make_source, make_target, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

SOME_UUID = "6fa459ea-ee8a-4ca4-894e-db77e160355e"
HOLDERS: list[tuple[str, Any, int]] = [
    ("jsonb", '[{"agent": "forge-1"}]', 1),
    ("json", '{"a": {"b": ["x", "forge-1"]}}', 1),
    ("text", "forge-1", 1),
    ("text", '{"agent": "forge-1"}', 1),
    ("varchar(20)", "forge-1", 1),
    ("text", "the agent forge-1", 0),
    ("text", SOME_UUID, 0),
    ("jsonb", f'["{SOME_UUID}"]', 0),
    ("jsonb", '{"forge-1": 1}', 0),
    ("text", "[not json", 0),
    ("integer", 1, 0),
    ("uuid REFERENCES agents", "forge-1", 0),
]


@pytest.mark.parametrize(("type_name", "value", "rows"), HOLDERS)
def test_ids_in_texts_and_json_are_named(
    connection: Connection, tmp_path: Path, type_name: str, value: Any, rows: int
) -> None:
    make_target(
        connection, f"CREATE TABLE agents (id uuid PRIMARY KEY); CREATE TABLE t (id integer PRIMARY KEY, v {type_name})"
    )
    script = "CREATE TABLE agents (id TEXT PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, v)"
    source = make_source(
        tmp_path / "t.db", script, {"agents": [("forge-1",), (SOME_UUID,)], "t": [(1, value), (2, None)]}
    )
    group = make_group(source, {"source": "agents"}, {"source": "t"})
    report = rehearse(connection, group, tmp_path, check_mode=True)["report"]
    assert report["ids_in_texts"] == ([{"column": "t.v", "rows": 1, "ids_of": "agents.id"}] if rows else [])
    assert ("t.v: 1 row holds an id of agents.id" in " ".join(warnings_of(report))) == bool(rows)
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]


def test_ids_of_another_group_in_texts_are_named(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE agents (id uuid PRIMARY KEY); CREATE TABLE counters (id uuid PRIMARY KEY);"
        "CREATE TABLE flows (id integer PRIMARY KEY, agent text, steps jsonb, note text)",
    )
    agents = make_source(
        tmp_path / "agents.db",
        "CREATE TABLE agents (id TEXT PRIMARY KEY); CREATE TABLE counters (id INTEGER PRIMARY KEY)",
        {"agents": [("forge-1",), (SOME_UUID.upper(),)], "counters": [(1,), (2,)]},
    )
    flows = make_source(
        tmp_path / "flows.db",
        "CREATE TABLE flows (id INTEGER PRIMARY KEY, agent TEXT, steps TEXT, note TEXT)",
        {"flows": [(1, "forge-1", '[{"agent": "forge-1"}]', "1"), (2, "forge-1", "[]", SOME_UUID)]},
    )
    owners = make_group(agents, {"source": "agents"}, {"source": "counters"})
    holders = make_group(flows, {"source": "flows"}, name="other")
    assert rehearse(connection, holders, tmp_path, check_mode=True)["report"]["ids_in_texts"] == []
    rehearse(connection, owners, tmp_path)
    assert rehearse(connection, holders, tmp_path, check_mode=True)["report"]["ids_in_texts"] == [
        {"column": "flows.agent", "rows": 2, "ids_of": "app.agents"},
        {"column": "flows.steps", "rows": 1, "ids_of": "app.agents"},
    ]
