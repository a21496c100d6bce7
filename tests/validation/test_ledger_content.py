"""What the ledger alone keeps of a group is hashed by each run that writes it, and compared by the validation."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.files import sha256_of
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer.replay import (
    RepairedRow,
    replay_rejects,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation import group as validation
from tests.engine.support import execute, make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

DAMAGE = [
    ("UPDATE migration.original_value SET value = '{\"text\": \"other\"}' WHERE row_key = 'id=2'", "original_value"),
    ("UPDATE migration.original_value SET column_name = 'm' WHERE row_key = 'id=2'", "original_value"),
    ("DELETE FROM migration.original_value WHERE row_key = 'id=2'", "original_value"),
    ("DELETE FROM migration.original_value", "original_value"),
    ("DELETE FROM migration.reject", "reject"),
    ("UPDATE migration.reject SET row_values = '{}'", "reject"),
    ("INSERT INTO migration.reject VALUES ('test', 'other', 'id=1', 'none', '{}')", "reject"),
]


@dataclass
class Moved:
    """A group that was moved, and its source."""

    connection: Connection
    group: Group
    source: Path
    work: Path

    def on_source(self, statement: str) -> None:
        """Write to the SQLite file."""
        with closing(sqlite3.connect(self.source)) as writer:
            writer.execute(statement)
            writer.commit()

    def cut_over(self) -> None:
        """Take the ledger's steps of a cutover."""
        path = str(self.source)
        ledger.take_step(self.connection, "test", "freeze", path, frozen_sha256=sha256_of(self.source))
        self.connection.commit()
        migrate.migrate(self.connection, self.group, migrate.FINAL, work_directory=str(self.work / "work"))
        ledger.take_step(self.connection, "test", "go_live", path)
        self.connection.commit()

    def findings(self) -> list[str]:
        """Return what the validation finds in the ledger."""
        result: dict[str, Any] = validation.validate(
            self.connection, self.group, str(self.work / "work"), ask_services=False
        )
        return [
            f"{found['where']}: {found['what']}"
            for found in result["findings"]
            if found["where"].startswith("migration.")
        ]


@pytest.fixture
def moved(connection: Connection, tmp_path: Path) -> Moved:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, n integer, m integer)")
    rows = [(1, 1, 1), (2, "two", 2), (3, "three", 3), (4, 4, "four"), (5, 5, "five")]
    source = make_source(
        tmp_path / "t.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n, m)",
        {"t": [*rows, *((n, n, n) for n in range(6, 60))]},
    )
    columns = {"n": {"unconvertible": "set_null"}, "m": {"unconvertible": "reject"}}
    group = make_group(source, {"source": "t", "columns": columns})
    rehearse(connection, group, tmp_path)
    return Moved(connection, group, source, tmp_path)


@pytest.mark.promise("damage-is-a-finding")
@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(("damage", "table"), DAMAGE)
def test_what_is_changed_in_the_ledger_is_a_finding(moved: Moved, damage: str, table: str, live: bool) -> None:
    if live:
        moved.cut_over()
    assert moved.findings() == []
    execute(moved.connection, damage)
    (found,) = moved.findings()
    source = "other" if "INSERT" in damage else "t"
    assert found.startswith(f"migration.{table}: what it keeps of {source} is not what the last run wrote there (")


@pytest.mark.promise("damage-is-a-finding")
def test_a_later_run_does_not_take_the_damage_for_its_own(moved: Moved) -> None:
    execute(moved.connection, "UPDATE migration.original_value SET reason = 'other'")
    moved.cut_over()  # nothing is left to move
    assert len(moved.findings()) == 1


@pytest.fixture
def synced(connection: Connection, tmp_path: Path) -> Moved:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, n integer)")
    rows = [(1, "one"), (2, "two"), *((n, n) for n in range(3, 200))]
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, n)", {"t": rows})
    group = make_group(source, {"source": "t", "columns": {"n": {"unconvertible": "set_null"}}})
    rehearse(connection, group, tmp_path)
    return Moved(connection, group, source, tmp_path)


@pytest.mark.promise("damage-is-a-finding")
@pytest.mark.parametrize("damaged", [False, True])
def test_a_sync_keeps_the_sums_up_to_date(synced: Moved, damaged: bool) -> None:
    if damaged:
        execute(synced.connection, "UPDATE migration.original_value SET reason = 'other' WHERE row_key = 'id=1'")
    for statement in (
        "UPDATE t SET n = 'zwei' WHERE id = 2",
        "UPDATE t SET n = 'fifty' WHERE id = 50",
        "DELETE FROM t WHERE id = 2",
        "INSERT INTO t VALUES (500, 'new'), (501, 1)",
    ):
        synced.on_source(statement)
        report = rehearse(synced.connection, synced.group, synced.work)["report"]
        assert report["way"] == migrate.CHANGED_ROWS
    keys = query(synced.connection, "SELECT row_key FROM migration.original_value ORDER BY row_key")
    assert keys == [("id=1",), ("id=50",), ("id=500",)]
    assert len(synced.findings()) == damaged
    if not damaged:
        execute(synced.connection, "DELETE FROM migration.original_value WHERE row_key = 'id=500'")
        assert len(synced.findings()) == 1


@pytest.mark.promise("damage-is-a-finding")
def test_a_replayed_row_moves_from_one_list_to_the_other(moved: Moved) -> None:
    moved.cut_over()
    replay_rejects(
        moved.connection, moved.group, [RepairedRow("t", "id=4", {"m": 4})], work_directory=str(moved.work / "r")
    )
    assert moved.findings() == []
    execute(moved.connection, "DELETE FROM migration.original_value WHERE row_key = 'id=4'")
    assert len(moved.findings()) == 1


def test_a_group_of_an_earlier_release_is_told_apart(moved: Moved) -> None:
    execute(moved.connection, "UPDATE migration.cutover_group SET detail = detail - 'ledger_content'")
    result = validation.validate(moved.connection, moved.group, str(moved.work / "work"), ask_services=False)
    assert result["valid"]
    assert "The ledger holds no hash of the rejected rows" in result["information"][0]


@pytest.mark.promise("damage-is-a-finding")
def test_rejected_rows_are_no_finding_after_the_cutover(moved: Moved) -> None:
    moved.cut_over()
    result = validation.validate(moved.connection, moved.group, str(moved.work / "work"), ask_services=False)
    assert result["findings"] == []
    assert result["proof_repeated"]


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_rejected_row_that_is_the_only_change_is_kept(
    connection: Connection, tmp_path: Path, check_mode: bool
) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, j jsonb)")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, j TEXT)", {"t": [(1, "[]")]})
    rehearse(connection, make_group(source, {"source": "t"}), tmp_path)
    group = make_group(source, {"source": "t", "columns": {"j": {"invalid_json": "reject"}}})
    moved = Moved(connection, group, source, tmp_path)
    moved.on_source("INSERT INTO t VALUES (2, '{')")
    run = rehearse(connection, group, tmp_path, check_mode)
    assert run["changed"]
    assert [table["changed"] for table in run["report"]["tables"]] == [False]
    assert query(connection, "SELECT row_key FROM migration.reject") == ([] if check_mode else [("id=2",)])
    assert moved.findings() == []
    assert not rehearse(connection, group, tmp_path, check_mode)["changed"] or check_mode


def test_a_value_without_a_column_in_the_target_that_is_the_only_change_is_kept(
    connection: Connection, tmp_path: Path
) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY)")
    script = "CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT)"
    source = make_source(tmp_path / "t.db", script, {"t": [(1, "a"), (2, "b")]})
    group = make_group(source, {"source": "t", "columns": {"k": {"without_target": "keep"}}})
    rehearse(connection, group, tmp_path)
    moved = Moved(connection, group, source, tmp_path)
    moved.on_source("UPDATE t SET k = 'z' WHERE id = 2")
    moved.cut_over()
    assert query(connection, "SELECT row_key, value FROM migration.original_value ORDER BY 1") == [
        ("id=1", {"text": "a"}), ("id=2", {"text": "z"}),
    ]  # fmt: skip
    assert moved.findings() == []
