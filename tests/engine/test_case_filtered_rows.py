"""Rows that ``row_filter`` leaves behind: their ids are not given out again, and a row may become one of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.export.export import (
    count_changes,
)

from .support import execute, make_group, make_source, make_target, query, rehearse
from .test_export import bring_back, counts, refusal, rows_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

FILTER = {"source": "t", "row_filter": "deleted_at IS NULL"}
LATER = "2024-05-01 10:00:00"
# How a table's rows are found again: by the row id, by a key without one, and by a key that hides it.
TABLES = {
    "row id": "CREATE TABLE t (id INTEGER PRIMARY KEY, n TEXT UNIQUE, deleted_at TEXT)",
    "without row id": "CREATE TABLE t (id INTEGER, n TEXT UNIQUE, deleted_at TEXT, PRIMARY KEY (id, n)) WITHOUT ROWID",
    "text key": "CREATE TABLE t (id TEXT, n TEXT PRIMARY KEY, deleted_at TEXT)",
}


def test_ids_of_rows_left_behind_are_not_given_out_again(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id serial PRIMARY KEY, n text, deleted_at timestamp)")
    rows = [(1, "a", None), (2, "b", None), (3, "gone", LATER)]
    source = make_source(tmp_path / "t.db", TABLES["row id"], {"t": rows})
    group = make_group(source, FILTER)
    report = rehearse(connection, group, tmp_path)["report"]
    assert [(each["next_value"], each["required"]) for each in report["sequences"]] == [(4, 4)]
    execute(connection, "INSERT INTO app.t (n) VALUES ('new')")
    exported, copy = bring_back(connection, group)
    assert counts(exported) == {"t": (1, 0, 0)}
    assert rows_of(copy, "SELECT * FROM t") == [*rows, (4, "new", None)]


def test_computed_ids_of_rows_left_behind_count_too(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (number serial PRIMARY KEY, n text, deleted_at timestamp)")
    source = make_source(tmp_path / "t.db", TABLES["row id"], {"t": [(1, "a", None), (3, "gone", LATER)]})
    columns = {"id": {"without_target": "keep"}}
    group = make_group(source, {**FILTER, "computed": {"number": "id * 10"}, "columns": columns})
    assert rehearse(connection, group, tmp_path)["report"]["sequences"][0]["required"] == 31


@pytest.mark.parametrize("table", TABLES)
def test_a_row_that_falls_under_the_filter_goes_back(connection: Connection, tmp_path: Path, table: str) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, n text, deleted_at timestamp)")
    rows = [(1, "a", None), (2, "b", None), (3, "gone", LATER), (4, "d", None)]
    source = make_source(tmp_path / "t.db", TABLES[table], {"t": rows})
    found = rows_of(source, "SELECT * FROM t ORDER BY n")
    group = make_group(source, FILTER)
    rehearse(connection, group, tmp_path)
    exported, _ = bring_back(connection, group)
    assert counts(exported) == {"t": (0, 0, 0)}
    execute(
        connection,
        f"UPDATE app.t SET deleted_at = '{LATER}' WHERE id = 2; DELETE FROM app.t WHERE id = 4;"
        f"INSERT INTO app.t VALUES (5, 'new', NULL), (6, 'new and gone', '{LATER}');",
    )
    assert count_changes(connection, group, source, tmp_path)["t"].total == 4
    exported, copy = bring_back(connection, group)
    assert counts(exported) == {"t": (2, 1, 1)}
    assert exported.tables[0].kept_rows == 1
    text = (lambda number: str(number)) if table == "text key" else (lambda number: number)
    expected = [row if row[1] != "b" else (*row[:2], LATER) for row in found if row[1] != "d"]
    expected += [(text(5), "new", None), (text(6), "new and gone", LATER)]
    assert rows_of(copy, "SELECT * FROM t ORDER BY n") == sorted(expected, key=lambda row: row[1])


def test_a_new_row_with_the_key_of_a_row_left_behind_is_named(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, n text, deleted_at timestamp)")
    source = make_source(tmp_path / "t.db", TABLES["row id"], {"t": [(1, "a", None), (3, "gone", LATER)]})
    group = make_group(source, FILTER)
    rehearse(connection, group, tmp_path)
    execute(connection, "INSERT INTO app.t VALUES (3, 'again', NULL)")
    assert "t: SQLite refuses it: UNIQUE constraint failed: t.id (1 row: id=3)" in refusal(connection, group)


def test_references_to_rows_left_behind_are_found_as_before(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE t (id integer PRIMARY KEY, n text, deleted_at timestamp);"
        "CREATE TABLE c (id integer PRIMARY KEY, t integer REFERENCES t (id));",
    )
    source = make_source(
        tmp_path / "t.db",
        TABLES["row id"] + ";CREATE TABLE c (id INTEGER PRIMARY KEY, t INTEGER);",
        {"t": [(1, "a", None), (3, "gone", LATER)], "c": [(1, 1), (2, 3)]},
    )
    with pytest.raises(MigrationError, match=r"c\.t: refers to a row of t that does not exist \(1 row: id=2: 3\)"):
        rehearse(connection, make_group(source, FILTER, {"source": "c"}), tmp_path)
    group = make_group(source, FILTER, {"source": "c", "columns": {"t": {"orphan": "set_null"}}})
    rehearse(connection, group, tmp_path)
    execute(connection, f"UPDATE app.t SET deleted_at = '{LATER}'; INSERT INTO app.c VALUES (4, 1)")
    exported, copy = bring_back(connection, group)
    assert counts(exported) == {"t": (0, 1, 0), "c": (1, 0, 0)}
    assert rows_of(copy, "SELECT * FROM c") == [(1, 1), (2, 3), (4, 1)]
    assert query(connection, "SELECT count(*) FROM migration.original_value") == [(1,)]
