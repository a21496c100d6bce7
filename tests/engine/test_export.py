"""Export: what services wrote to PostgreSQL since the cutover stands in the copy of the frozen file."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tracemalloc
import uuid
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group, parse_group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.export import difference
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.export import (
    table as export_table,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.export.export import (
    ExportReport,
    count_changes,
    export_changes,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.export.export import (
    rehearse as rehearse_export,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate

from .support import execute, make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

PROJECT = Path(__file__).resolve().parents[2]
NEW_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def copy_of(group: Group) -> Path:
    """Return a fresh private copy of a group's file."""
    copy = Path(group.source_path).with_name("copy.db")
    copy.unlink(missing_ok=True)
    shutil.copyfile(group.source_path, copy)
    copy.chmod(0o600)
    return copy


def bring_back(connection: Connection, group: Group) -> tuple[ExportReport, Path]:
    """Bring the changes back into a fresh copy."""
    frozen, copy = Path(group.source_path), copy_of(group)
    before = frozen.read_bytes()
    report = export_changes(connection, group, frozen, copy)
    assert frozen.read_bytes() == before
    assert_nothing_else(copy)
    return report, copy


def assert_nothing_else(copy: Path) -> None:
    """See that no journal and no work file stays beside the copy."""
    assert sorted(path.name for path in copy.parent.iterdir() if path.name.startswith("copy")) == ["copy.db"]


def refusal(connection: Connection, group: Group) -> str:
    """Return why the changes cannot be brought back; the copy must be as it was."""
    copy = copy_of(group)
    with pytest.raises(MigrationError) as error:
        export_changes(connection, group, Path(group.source_path), copy)
    assert copy.read_bytes() == Path(group.source_path).read_bytes()
    assert_nothing_else(copy)
    return str(error.value)


def rows_of(path: Path, statement: str) -> list[tuple[Any, ...]]:
    """Return all rows of a statement on an SQLite file."""
    with closing(sqlite3.connect(path)) as opened:
        return opened.execute(statement).fetchall()


def counts(report: ExportReport) -> dict[str, tuple[int, int, int]]:
    """Return inserted, updated and deleted rows by source table."""
    return {table.source: (table.inserted, table.updated, table.deleted) for table in report.tables}


@pytest.fixture
def estate(connection: Connection, tmp_path: Path) -> Group:
    """Users with text ids and their notes, moved to PostgreSQL."""
    make_target(
        connection,
        "CREATE TABLE users (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text UNIQUE, active boolean,"
        " made timestamptz, settings jsonb);"
        "CREATE TABLE notes (id serial PRIMARY KEY, owner uuid REFERENCES users (id), body text, price numeric(8, 2),"
        " weight double precision, data bytea)",
    )
    source = make_source(
        tmp_path / "frozen.db",
        "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT UNIQUE, active INTEGER, made TEXT, settings TEXT);"
        "CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT REFERENCES users (id), body TEXT,"
        " price REAL, weight REAL, data BLOB);",
        {
            "users": [
                ("role-admin", "Ann", 1, "2025-12-16 05:51:27", '{"b":1,"a":[1,2]}'),
                ("forge-agent-001", "Bob", 0, "2025-12-17 00:00:00", None),
                (NEW_ID.replace("0f", "1f", 1), "Cid", None, None, "[]"),
            ],
            "notes": [
                (1, "role-admin", "first", 1.25, 0.1, b"\x00\xff"),
                (2, "forge-agent-001", "", None, -0.5, b""),
                (5, None, "fünf\n🦆", 3.0, 1e308, None),
            ],
        },
    )
    group = make_group(source, {"source": "users"}, {"source": "notes"})
    assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])
    return group


@pytest.mark.promise("rollback-keeps-untouched-file")
def test_without_a_change_the_copy_stays_byte_for_byte(connection: Connection, estate: Group) -> None:
    report, copy = bring_back(connection, estate)
    assert not report.changed
    assert report.sequences == {"notes": 5}
    assert copy.read_bytes() == Path(estate.source_path).read_bytes()
    assert [(table.source, table.rows, len(table.content_hash)) for table in report.tables] == [
        ("users", 3, 32), ("notes", 3, 32),
    ]  # fmt: skip


def test_rows_are_compared_one_by_one_only_where_the_sums_differ(
    connection: Connection, estate: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(connection, "UPDATE app.notes SET body = 'other' WHERE id = 2")
    compared: list[str] = []
    original = difference.found

    def noted(sides: Any, directory: Path) -> Any:
        compared.append(sides.plan.source.name)
        return original(sides, directory)

    monkeypatch.setattr(export_table, "found", noted)
    report, copy = bring_back(connection, estate)
    assert compared == ["notes"]
    assert counts(report) == {"users": (0, 0, 0), "notes": (0, 1, 0)}
    assert rows_of(copy, "SELECT body FROM notes WHERE id = 2") == [("other",)]


@pytest.mark.promise("rollback-keeps-every-row")
def test_new_changed_and_deleted_rows_come_back(connection: Connection, estate: Group) -> None:
    execute(
        connection,
        f"INSERT INTO app.users VALUES ('{NEW_ID}', 'Dora', true, '2026-01-02 03:04:05+00', '{{\"new\": 1.50}}');"
        "UPDATE app.users SET active = true, made = made + interval '1 ms' WHERE name = 'Bob';"
        f"INSERT INTO app.notes (owner, body, price, data) VALUES ('{NEW_ID}', 'new', 9.99, '\\x01');"
        "INSERT INTO app.notes (owner) SELECT id FROM app.users WHERE name = 'Ann';"
        "UPDATE app.notes SET owner = (SELECT id FROM app.users WHERE name = 'Bob'), weight = 0.30000000000000004"
        " WHERE id = 1;"
        "DELETE FROM app.notes WHERE id = 5;"
        "SELECT setval('app.notes_id_seq', 41)",
    )
    report, copy = bring_back(connection, estate)
    assert counts(report) == {"users": (1, 1, 0), "notes": (2, 1, 1)}
    assert rows_of(copy, "SELECT * FROM users ORDER BY rowid") == [
        ("role-admin", "Ann", 1, "2025-12-16 05:51:27", '{"b":1,"a":[1,2]}'),
        ("forge-agent-001", "Bob", 1, "2025-12-17 00:00:00.001", None),
        (NEW_ID.replace("0f", "1f", 1), "Cid", None, None, "[]"),
        (NEW_ID, "Dora", 1, "2026-01-02 03:04:05", '{"new": 1.50}'),
    ]
    assert rows_of(copy, "SELECT * FROM notes ORDER BY id") == [
        (1, "forge-agent-001", "first", 1.25, 0.30000000000000004, b"\x00\xff"),
        (2, "forge-agent-001", "", None, -0.5, b""),
        (6, NEW_ID, "new", 9.99, None, b"\x01"),
        (7, "role-admin", None, None, None, None),
    ]
    assert rows_of(copy, "SELECT * FROM sqlite_sequence") == [("notes", 41)]
    assert report.sequences == {"notes": 41}
    # What was brought back can be moved again, and is what PostgreSQL holds already.
    again = make_group(copy, {"source": "users"}, {"source": "notes"})
    tables = migrate.compare(connection, again, str(copy.parent / "work"))["tables"]
    assert [table["equal"] for table in tables] == [True, True]
    assert [table["source_hash"] for table in tables] == [table.content_hash for table in report.tables]


def test_what_a_killed_run_has_left_is_in_nobodys_way(connection: Connection, estate: Group) -> None:
    left = Path(estate.source_path).with_name("copy.db.export")
    left.mkdir()
    (left / "rows.db").write_text("half written")
    execute(connection, "UPDATE app.users SET name = 'Anna' WHERE name = 'Ann'")
    assert counts(bring_back(connection, estate)[0])["users"] == (0, 1, 0)


def test_a_second_export_changes_nothing(connection: Connection, estate: Group, tmp_path: Path) -> None:
    execute(connection, "UPDATE app.users SET name = 'Anna' WHERE name = 'Ann'")
    _, copy = bring_back(connection, estate)
    second = copy.with_name("second.db")
    shutil.copyfile(copy, second)
    second.chmod(0o600)
    group = make_group(copy, {"source": "users"}, {"source": "notes"})
    assert not export_changes(connection, group, copy, second).changed
    assert second.read_bytes() == copy.read_bytes()


def test_values_swapped_between_unique_rows_come_back(connection: Connection, estate: Group) -> None:
    execute(
        connection,
        "UPDATE app.users SET name = 'x' WHERE name = 'Ann'; UPDATE app.users SET name = 'Ann' WHERE name = 'Bob';"
        "UPDATE app.users SET name = 'Bob' WHERE name = 'x'",
    )
    rowids = rows_of(Path(estate.source_path), "SELECT rowid, id FROM users ORDER BY 1")
    report, copy = bring_back(connection, estate)
    assert counts(report)["users"] == (0, 2, 0)
    assert rows_of(copy, "SELECT id, name FROM users ORDER BY rowid") == [
        ("role-admin", "Bob"), ("forge-agent-001", "Ann"), (NEW_ID.replace("0f", "1f", 1), "Cid"),
    ]  # fmt: skip
    assert rows_of(copy, "SELECT rowid, id FROM users ORDER BY 1") == rowids


# ---------------------------------------------------------------- forms of values

OTHER_FORMS: list[tuple[str, str, list[Any], str, Any]] = [
    # target type, declared in SQLite, what most values look like, new value in PostgreSQL, how it comes back
    ("timestamptz", "TEXT", ["2025-12-16 05:51:27"], "'2026-02-03 04:05:06+01'", "2026-02-03 03:05:06"),
    ("timestamptz", "TEXT", ["2025-12-16 05:51:27"], "'2026-02-03 04:05:06.123456Z'", "2026-02-03 04:05:06.123456"),
    ("timestamptz", "TEXT", ["2025-12-16T05:51:27.178Z"], "'2026-02-03 04:05:06.5Z'", "2026-02-03T04:05:06.500Z"),
    ("timestamptz", "TEXT", ["2025-12-16T05:51:27.178Z"], "'2026-02-03 04:05:06Z'", "2026-02-03T04:05:06.000Z"),
    ("timestamptz", "TEXT", ["2025-12-16T05:51:27.178Z"], "'2026-02-03 04:05:06.1234Z'", "2026-02-03T04:05:06.123400Z"),
    ("timestamptz", "TEXT", ["2025-12-16T05:51:27+02:00"], "'2026-02-03 04:05:06Z'", "2026-02-03T06:05:06+02:00"),
    ("timestamptz", "INTEGER", [1765864287000], "'2026-02-03 04:05:06.007Z'", 1770091506007),
    ("timestamptz", "INTEGER", [1765864287], "'2026-02-03 04:05:06Z'", 1770091506),
    ("timestamptz", "INTEGER", [1765864287], "'2026-02-03 04:05:06.5Z'", "2026-02-03 04:05:06.500"),
    ("timestamptz", "REAL", [1765864287.25], "'2026-02-03 04:05:06.5Z'", 1770091506.5),
    ("timestamptz", "INTEGER", [1765864287000000], "'2026-02-03 04:05:06.000007Z'", 1770091506000007),
    ("timestamptz", "REAL", [2460311.5], "'2026-02-03 12:00:00Z'", 2461075.0),
    ("timestamptz", "TEXT", [], "'2026-02-03 04:05:06Z'", "2026-02-03 04:05:06"),
    ("timestamp", "TEXT", ["2025-12-16T05:51"], "'2026-02-03 04:05:00'", "2026-02-03T04:05"),
    ("timestamp", "TEXT", ["2025-12-16T05:51"], "'2026-02-03 04:05:01'", "2026-02-03T04:05:01.000"),
    ("date", "TEXT", ["2025-12-16"], "'2026-02-03'", "2026-02-03"),
    ("date", "TEXT", ["2025-12-16T00:00:00Z"], "'2026-02-03'", "2026-02-03T00:00:00Z"),
    ("date", "INTEGER", [1765843200], "'2026-02-03'", 1770076800),
    ("time", "TEXT", ["05:51"], "'06:07:00'", "06:07"),
    ("time", "TEXT", ["05:51"], "'06:07:08.5'", "06:07:08.5"),
    ("boolean", "INTEGER", [1, 0, 1], "true", 1),
    ("boolean", "TEXT", ["true", "false"], "false", "false"),
    ("boolean", "", [], "true", 1),
    ("bigint", "TEXT", ["7"], "12", "12"),
    ("bigint", "", ["7"], "12", "12"),
    ("bigint", "INTEGER", [7], "9223372036854775807", 2**63 - 1),
    ("bigint", "REAL", [7], "12", 12.0),
    ("text", "", [7], "'12'", 12),
    ("text", "", [7], "'012'", "012"),
    ("text", "", ["7"], "'12'", "12"),
    ("text", "TEXT", ["7"], "'a\tb''\U0001f986'", "a\tb'\U0001f986"),
    ("numeric", "NUMERIC", [7], "12", 12),
    ("numeric", "REAL", [7.5], "12", 12.0),
    ("numeric", "NUMERIC", [7.5], "0.1", 0.1),
    ("numeric", "TEXT", ["7.5"], "12345678901234567890.123456789", "12345678901234567890.123456789"),
    ("double precision", "REAL", [0.5], "0.1", 0.1),
    ("double precision", "REAL", [0.5], "5e-324", 5e-324),
    ("double precision", "REAL", [0.5], "'Infinity'", float("inf")),
    ("double precision", "", [0.5], "'-0'", -0.0),
    ("bytea", "BLOB", [b"a"], "'\\x00ff'", b"\x00\xff"),
    ("jsonb", "TEXT", ["{}"], '\'{"b": [1.50, "x"]}\'', '{"b": [1.50, "x"]}'),
    ("json", "TEXT", ["{}"], "'{\"b\":1}'", '{"b":1}'),
    ("char(5)", "TEXT", ["ab"], "'xyz'", "xyz"),
    ("interval", "TEXT", ["1 hour"], "'90 minutes'", "01:30:00"),
    ("int[]", "TEXT", ["{1}"], "'{1,2}'", "{1,2}"),
    ("inet", "TEXT", ["10.0.0.1"], "'10.0.0.2/8'", "10.0.0.2/8"),
    ("uuid", "TEXT", ["someone"], f"'{NEW_ID}'", NEW_ID),
]


@pytest.mark.parametrize(("type_name", "declared", "most", "new", "expected"), OTHER_FORMS)
def test_a_value_comes_back_in_the_form_of_its_column(
    connection: Connection, tmp_path: Path, type_name: str, declared: str, most: list[Any], new: str, expected: Any
) -> None:
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, v {type_name})")
    rows = [*((number, value) for number, value in enumerate(most, 10)), (1, None)]
    source = make_source(tmp_path / "frozen.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared})", {"t": rows})
    group = make_group(source, {"source": "t", "columns": {"v": {"references": "people"}}})
    rehearse(connection, group, tmp_path)
    execute(connection, f"UPDATE app.t SET v = {new} WHERE id = 1; INSERT INTO app.t VALUES (2, {new})")
    report, copy = bring_back(connection, group)
    assert counts(report) == {"t": (1, 1, 0)}
    found = [value for (value,) in rows_of(copy, "SELECT v FROM t WHERE id < 10 ORDER BY id")]
    assert [(type(value), repr(value)) for value in found] == [(type(expected), repr(expected))] * 2
    untouched = rows_of(copy, "SELECT id, v FROM t WHERE id >= 10 ORDER BY id")
    assert untouched == rows_of(source, "SELECT id, v FROM t WHERE id >= 10 ORDER BY id")


def test_local_times_come_back_in_their_zone(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v timestamptz)")
    source = make_source(
        tmp_path / "frozen.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", {"t": [(1, "2025-07-01 12:00:00")]}
    )
    group = make_group(source, {"source": "t", "columns": {"v": {"time_zone": "Europe/Berlin"}}})
    rehearse(connection, group, tmp_path)
    execute(
        connection,
        "INSERT INTO app.t VALUES (2, '2026-01-01 11:00:00Z'), (3, '2026-10-25 00:30:00Z'),"
        " (4, '2026-10-25 01:30:00Z')",
    )
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT id, v FROM t ORDER BY id") == [
        (1, "2025-07-01 12:00:00"),
        (2, "2026-01-01 12:00:00"),
        # That hour is there twice in Berlin, so only UTC says which.
        (3, "2026-10-25T00:30:00.000000Z"),
        (4, "2026-10-25T01:30:00.000000Z"),
    ]


# ---------------------------------------------------------------- what stays


@pytest.mark.promise("rollback-keeps-originals")
def test_repaired_rejected_and_kept_values_stay_as_they_were(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE t (id integer PRIMARY KEY, note text, n integer, extra jsonb, parent integer REFERENCES t (id))",
    )
    source = make_source(
        tmp_path / "frozen.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT, n, extra TEXT, parent INTEGER, legacy TEXT,"
        " colour TEXT NOT NULL DEFAULT 'red')",
        {
            "t": [
                (1, "with \x00 inside", 8.5, "no json", 77, "old", "blue"),
                (2, "fine", "", "{}", None, None, "green"),
                (3, "fine", "many", "{}", 1, "old too", "black"),
                (4, "fine", 4, "{}", 1, "still", "white"),
            ]
        },
    )
    with closing(sqlite3.connect(source)) as writer:
        writer.execute("INSERT INTO t VALUES (6, CAST(x'ff6162' AS TEXT), 6, NULL, NULL, NULL, 'grey')")
        writer.commit()
    columns = {
        "note": {"nul_character": "remove", "invalid_utf8": "replace"},
        "n": {"fraction": "round", "empty_string": "set_null", "unconvertible": "reject"},
        "extra": {"invalid_json": "as_json_string"},
        "parent": {"orphan": "set_null"},
        "legacy": {"without_target": "keep"},
        "colour": {"without_target": "keep"},
    }
    group = make_group(source, {"source": "t", "columns": columns})
    report = rehearse(connection, group, tmp_path)["report"]["tables"][0]
    assert (report["equal"], report["target_rows"], report["rejected_rows"]) == (True, 4, 1)
    unchanged, copy = bring_back(connection, group)
    assert not unchanged.changed
    assert unchanged.tables[0].kept_rows == 1
    assert copy.read_bytes() == source.read_bytes()
    # One column of a row changes; what policies made of its other columns does not go back.
    execute(
        connection,
        "UPDATE app.t SET extra = '[1]' WHERE id = 1; UPDATE app.t SET n = 7 WHERE id = 6;"
        "DELETE FROM app.t WHERE id = 4; INSERT INTO app.t VALUES (9, 'new', 9, NULL, 1)",
    )
    report, copy = bring_back(connection, group)
    assert counts(report) == {"t": (1, 2, 1)}
    assert rows_of(copy, "SELECT id, CAST(note AS BLOB), n, extra, parent, legacy, colour FROM t ORDER BY id") == [
        (1, b"with \x00 inside", 8.5, "[1]", 77, "old", "blue"),
        (2, b"fine", "", "{}", None, None, "green"),
        (3, b"fine", "many", "{}", 1, "old too", "black"),
        (6, b"\xffab", 7, None, None, None, "grey"),
        (9, b"new", 9, None, 1, None, "red"),
    ]
    assert rows_of(copy, "SELECT typeof(note) FROM t WHERE id = 6") == [("text",)]


def test_a_rejected_row_whose_key_was_used_since_takes_the_new_values(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, n integer)")
    source = make_source(
        tmp_path / "frozen.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, n)", {"t": [(1, "many"), (2, "few"), (3, 3)]}
    )
    group = make_group(source, {"source": "t", "columns": {"n": {"unconvertible": "reject"}}})
    rehearse(connection, group, tmp_path)
    execute(connection, "INSERT INTO app.t VALUES (1, 100)")
    report, copy = bring_back(connection, group)
    assert counts(report) == {"t": (0, 1, 0)}
    assert rows_of(copy, "SELECT * FROM t ORDER BY id") == [(1, 100), (2, "few"), (3, 3)]


def test_rejected_rows_stay_when_nothing_is_in_their_way_any_more(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE p (id integer PRIMARY KEY, mail text UNIQUE);"
        "CREATE TABLE c (id integer PRIMARY KEY, p integer REFERENCES p (id), q integer REFERENCES p (id))",
    )
    source = make_source(
        tmp_path / "frozen.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY, mail TEXT);"
        "CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER, q INTEGER)",
        {"p": [(1, "a@b"), (2, "a@b")], "c": [(1, 1, 1), (2, 77, 1), (3, 1, 77), (4, 1, 78)]},
    )
    group = make_group(
        source,
        {"source": "p", "columns": {"mail": {"duplicate": "reject"}}},
        {"source": "c", "columns": {"p": {"orphan": "reject"}, "q": {"orphan": "set_null"}}},
    )
    rehearse(connection, group, tmp_path)
    # Now the rejected p would be no duplicate, and the references to 77 and 78 no orphans.
    execute(
        connection,
        "UPDATE app.p SET mail = 'other' WHERE id = 1; INSERT INTO app.p VALUES (77, 'late'), (78, 'later');"
        "UPDATE app.c SET q = 77 WHERE id = 4",
    )
    report, copy = bring_back(connection, group)
    assert counts(report) == {"p": (2, 1, 0), "c": (0, 1, 0)}
    assert [table.kept_rows for table in report.tables] == [1, 1]
    assert rows_of(copy, "SELECT * FROM p ORDER BY id") == [(1, "other"), (2, "a@b"), (77, "late"), (78, "later")]
    assert rows_of(copy, "SELECT * FROM c ORDER BY id") == [(1, 1, 1), (2, 77, 1), (3, 1, 77), (4, 1, 77)]


def test_rows_outside_the_filter_stay_and_new_ones_may_be_outside(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, gone integer, origin text NOT NULL)")
    source = make_source(
        tmp_path / "frozen.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, gone INTEGER)",
        {"t": [(1, 0), (2, 1), (3, None)]},
    )
    group = make_group(source, {"source": "t", "row_filter": "gone = 0", "computed": {"origin": "'web'"}})
    rehearse(connection, group, tmp_path)
    execute(connection, "INSERT INTO app.t VALUES (4, 0, 'web')")
    report, copy = bring_back(connection, group)
    assert (counts(report), report.tables[0].kept_rows) == ({"t": (1, 0, 0)}, 2)
    assert rows_of(copy, "SELECT * FROM t ORDER BY id") == [(1, 0), (2, 1), (3, None), (4, 0)]
    execute(connection, "INSERT INTO app.t VALUES (5, 1, 'web')")
    report, copy = bring_back(connection, group)
    assert (counts(report), report.tables[0].kept_rows) == ({"t": (2, 0, 0)}, 2)
    assert rows_of(copy, "SELECT * FROM t ORDER BY id")[-1] == (5, 1)
    execute(connection, "DELETE FROM app.t WHERE id = 5; UPDATE app.t SET origin = 'app' WHERE id = 1")
    assert "would read as 'web', and PostgreSQL holds 'app'" in refusal(connection, group)


def test_triggers_of_the_file_do_not_act(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text)")
    source = make_source(
        tmp_path / "frozen.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); CREATE TABLE log (entry TEXT);"
        "CREATE TRIGGER shout AFTER UPDATE ON t BEGIN UPDATE t SET v = upper(v) WHERE id = new.id;"
        " INSERT INTO log VALUES ('updated'); END;"
        "CREATE TRIGGER note AFTER INSERT ON t BEGIN INSERT INTO log VALUES ('inserted'); END;",
    )
    with closing(sqlite3.connect(source)) as writer:
        writer.executescript("INSERT INTO t VALUES (1, 'a'); DELETE FROM log;")
    group = make_group(source, {"source": "t"}, ignored_tables=["log"])
    rehearse(connection, group, tmp_path)
    execute(connection, "UPDATE app.t SET v = 'quiet'; INSERT INTO app.t VALUES (2, 'too')")
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT v FROM t ORDER BY id") == [("quiet",), ("too",)]
    assert rows_of(copy, "SELECT * FROM log") == []
    triggers = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' ORDER BY name"
    assert rows_of(copy, triggers) == rows_of(source, triggers)


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_file_of_any_kind_comes_back(connection: Connection, tmp_path: Path, journal: str) -> None:
    make_target(
        connection,
        'CREATE TABLE "a b" (x text, y integer, z text, PRIMARY KEY (x, y)); CREATE TABLE loose (v text, w integer);'
        "CREATE TABLE strict (id bigint PRIMARY KEY, n double precision, anything text);"
        "CREATE TABLE child (id integer PRIMARY KEY, double integer GENERATED ALWAYS AS (id * 2) STORED, a text)",
    )
    source = make_source(
        tmp_path / "frozen.db",
        f"PRAGMA journal_mode = {journal}; PRAGMA encoding = 'UTF-16le';"
        'CREATE TABLE "a b" (x TEXT, y INTEGER, z, PRIMARY KEY (x, y)) WITHOUT ROWID; CREATE TABLE loose (v, w);'
        "CREATE TABLE strict (id INTEGER PRIMARY KEY, n REAL, anything ANY) STRICT;"
        "CREATE TABLE child (id INTEGER PRIMARY KEY, double INTEGER AS (id * 2), a TEXT)",
    )
    with closing(sqlite3.connect(source)) as writer:
        writer.executescript(
            "INSERT INTO \"a b\" VALUES ('k', 1, 'v'), ('k', 2, 5), ('ü', 1, NULL);"
            "INSERT INTO loose VALUES ('same', 1), ('same', 1), ('same', 1), (NULL, NULL);"
            "INSERT INTO strict VALUES (1, 0.5, 'text'), (2, NULL, 7); INSERT INTO child (id, a) VALUES (3, 'x');"
        )
    assert not Path(f"{source}-wal").exists()
    group = make_group(source, *({"source": name} for name in ("a b", "loose", "strict", "child")))
    rehearse(connection, group, tmp_path)
    execute(
        connection,
        "UPDATE app.\"a b\" SET z = 'new' WHERE x = 'ü'; INSERT INTO app.\"a b\" VALUES ('k', 3, NULL);"
        'DELETE FROM app."a b" WHERE y = 2;'
        "DELETE FROM app.loose WHERE ctid = (SELECT max(ctid) FROM app.loose WHERE v = 'same');"
        "INSERT INTO app.loose VALUES (NULL, NULL), ('other', 2);"
        "UPDATE app.strict SET anything = 'more', n = 1 WHERE id = 2; UPDATE app.child SET id = 4",
    )
    report, copy = bring_back(connection, group)
    assert counts(report) == {"a b": (1, 1, 1), "loose": (2, 0, 1), "strict": (0, 1, 0), "child": (1, 0, 1)}
    assert rows_of(copy, 'SELECT * FROM "a b" ORDER BY x, y') == [("k", 1, "v"), ("k", 3, None), ("ü", 1, "new")]
    assert rows_of(copy, "SELECT * FROM loose ORDER BY v, w") == [
        (None, None), (None, None), ("other", 2), ("same", 1), ("same", 1),
    ]  # fmt: skip
    assert rows_of(copy, "SELECT * FROM strict ORDER BY id") == [(1, 0.5, "text"), (2, 1.0, "more")]
    assert rows_of(copy, "SELECT * FROM child") == [(4, 8, "x")]
    assert rows_of(copy, "PRAGMA journal_mode") == [(journal,)]
    assert rows_of(copy, "PRAGMA encoding") == [("UTF-16le",)]


# ---------------------------------------------------------------- what cannot be said


@pytest.mark.promise("rollback-violations-at-once")
def test_everything_that_cannot_be_said_is_named_at_once(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE parents (id integer PRIMARY KEY, added text, level integer DEFAULT 3,"
        " at timestamptz DEFAULT now());"
        "CREATE TABLE t (id integer PRIMARY KEY, needed text, short text, amount numeric, at timestamptz,"
        " parent integer, big numeric, nan double precision, code text)",
    )
    source = make_source(
        tmp_path / "frozen.db",
        "CREATE TABLE parents (id INTEGER PRIMARY KEY);"
        "CREATE TABLE t (id INTEGER PRIMARY KEY, needed TEXT NOT NULL, short TEXT CHECK (length(short) < 5),"
        " amount REAL, at TEXT, parent INTEGER REFERENCES parents (id), big INTEGER, nan REAL, code TEXT UNIQUE);"
        "INSERT INTO parents VALUES (1); INSERT INTO t VALUES (1, 'a', 'b', 0.5, NULL, 1, 1, 1, 'one');",
    )
    group = make_group(source, {"source": "parents"}, {"source": "t"})
    rehearse(connection, group, tmp_path)
    execute(
        connection,
        "UPDATE app.parents SET added = 'since', level = 4;"
        "INSERT INTO app.t VALUES (2, NULL, 'b'), (3, 'a', 'too long');"
        "INSERT INTO app.t (id, needed, amount) VALUES (4, 'a', 0.12345678901234567890);"
        "INSERT INTO app.t (id, needed, at) VALUES (5, 'a', 'infinity'), (6, 'a', '0044-03-15 BC'),"
        " (7, 'a', '12026-1-1');"
        "INSERT INTO app.t (id, needed, parent) VALUES (8, 'a', 99), (9, 'a', 98);"
        "INSERT INTO app.t (id, needed, big) VALUES (10, 'a', 9223372036854775809);"
        "INSERT INTO app.t (id, needed, nan) VALUES (11, 'a', 'NaN');"
        "INSERT INTO app.t (id, needed, code) VALUES (12, 'a', 'one');",
    )
    found = refusal(connection, group)
    for part in (
        "parents ← app.parents.added: holds data, and the file has no such column (1 row: id=1)",
        "parents ← app.parents.level: holds data, and the file has no such column (1 row: id=1)",
        "t: SQLite refuses it: NOT NULL constraint failed: t.needed (1 row: id=2)",
        "t: SQLite refuses it: CHECK constraint failed: length(short) < 5 (1 row: id=3)",
        "t.amount: holds a value of type numeric that the file cannot say exactly (1 row: id=4: 0.1234567890123456789)",
        "t.at: holds a value of type timestamp with time zone that the file cannot say exactly (3 rows: id=5: inf",
        "t.big: holds a value of type numeric that the file cannot say exactly (1 row: id=10",
        "t.nan: holds a value of type double precision that the file cannot say exactly (1 row: id=11",
        "t: SQLite refuses it: UNIQUE constraint failed: t.code (1 row: id=12)",
        "t: parent would refer to rows of parents that do not exist (2 rows: row 8; row 9)",
    ):
        assert part in found
    assert "parents.at" not in found


def test_a_default_that_changes_cannot_be_told_from_data(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE t (id integer PRIMARY KEY, at timestamptz DEFAULT now(), number bigserial,"
        " fixed jsonb DEFAULT '{}', plain json DEFAULT '[]')",
    )
    source = make_source(tmp_path / "frozen.db", "CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)")
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    execute(connection, "INSERT INTO app.t (id) VALUES (2)")
    report, _ = bring_back(connection, group)
    assert report.tables[0].not_told == ("at", "number")


def test_new_rows_without_a_value_for_a_kept_column_that_needs_one_are_refused(
    connection: Connection, tmp_path: Path
) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY)")
    source = make_source(
        tmp_path / "frozen.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, old TEXT NOT NULL)", {"t": [(1, "x")]}
    )
    group = make_group(source, {"source": "t", "columns": {"old": {"without_target": "keep"}}})
    rehearse(connection, group, tmp_path)
    execute(connection, "INSERT INTO app.t VALUES (2), (3)")
    assert "NOT NULL constraint failed: t.old (2 rows: id=2; id=3)" in refusal(connection, group)


def test_orphans_that_were_there_before_are_no_reason(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection, "CREATE TABLE p (id integer PRIMARY KEY); CREATE TABLE c (id integer PRIMARY KEY, p integer)"
    )
    source = make_source(
        tmp_path / "frozen.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p (id));"
        "INSERT INTO c VALUES (1, 77)",
    )
    group = make_group(source, {"source": "p"}, {"source": "c"})
    rehearse(connection, group, tmp_path)
    execute(connection, "INSERT INTO app.p VALUES (1); INSERT INTO app.c VALUES (2, 1)")
    assert bring_back(connection, group)[0].changed
    execute(connection, "INSERT INTO app.c VALUES (3, 78)")
    assert "c: p would refer to rows of p that do not exist (1 row" in refusal(connection, group)


@pytest.mark.promise("secret-column-masked")
def test_no_secret_is_shown(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (token text PRIMARY KEY, at timestamptz, n numeric)")
    source = make_source(
        tmp_path / "frozen.db", "CREATE TABLE t (token TEXT PRIMARY KEY, at TEXT, n REAL CHECK (n < 9))",
        {"t": [("hush", None, None)]},
    )  # fmt: skip
    secret = {"secret": True}
    group = make_group(source, {"source": "t", "columns": {"token": secret, "at": secret, "n": secret}})
    rehearse(connection, group, tmp_path)
    execute(
        connection,
        "INSERT INTO app.t VALUES ('hush-hush', 'infinity', NULL), ('hush-2', NULL, 77),"
        " ('hush-3', NULL, 0.1111111111111111111)",
    )
    found = refusal(connection, group)
    assert "t.at: holds a value" in found
    assert "t.n: holds a value" in found
    assert not any(part in found for part in ("hush", "infinity", "77", "0.111"))


def test_a_collation_that_only_the_service_knows_is_refused(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id text PRIMARY KEY, v text)")
    source = tmp_path / "frozen.db"
    with closing(sqlite3.connect(source)) as writer:
        writer.create_collation("backwards", lambda a, b: (a < b) - (a > b))
        writer.executescript(
            "CREATE TABLE t (id TEXT COLLATE backwards PRIMARY KEY, v TEXT);INSERT INTO t VALUES ('a', 'x'), ('b', 'y')"
        )
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    assert not bring_back(connection, group)[0].changed
    execute(connection, "INSERT INTO app.t VALUES ('c', 'z')")
    assert "ordered by the collation backwards" in refusal(connection, group)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda copy: copy.chmod(0o640), "others may read or write it"),
        (lambda copy: copy.write_bytes(copy.read_bytes() + b"\x00"), "its bytes differ"),
        (lambda copy: copy.unlink(), "there is no such file"),
        (lambda copy: Path(f"{copy}-wal").write_bytes(b"x"), "it holds pages that the file lacks"),
    ],
)
def test_only_a_private_copy_is_written_to(connection: Connection, estate: Group, spoil: Any, message: str) -> None:
    copy = copy_of(estate)
    spoil(copy)
    with pytest.raises(MigrationError, match=message):
        export_changes(connection, estate, Path(estate.source_path), copy)


def test_postgresql_is_left_as_it_is(connection: Connection, estate: Group) -> None:
    execute(connection, "UPDATE app.users SET name = 'Anna' WHERE name = 'Ann'")
    everything = "SELECT xmin::text, ctid::text, * FROM app.users ORDER BY name"
    before = query(connection, everything)
    bring_back(connection, estate)
    assert connection.info.transaction_status == 0
    assert query(connection, everything) == before


def test_a_failure_in_the_middle_leaves_the_copy_as_it_was(
    connection: Connection, estate: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(connection, f"INSERT INTO app.users (id, name) VALUES ('{uuid.uuid4()}', 'late')")

    def fail(*_: Any) -> None:
        raise MigrationError("the power is gone")

    monkeypatch.setattr(
        "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.export.export.move_sequences",
        fail,
    )
    assert refusal(connection, estate) == "the power is gone"


@pytest.mark.promise("rollback-proven")
def test_a_copy_in_which_sqlite_finds_faults_is_not_taken(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_target(connection, "CREATE TABLE notes (id integer PRIMARY KEY, body text)")
    source = make_source(
        tmp_path / "frozen.db",
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT); CREATE INDEX bodies ON notes (body)",
        {"notes": [(1, "first")]},
    )
    group = make_group(source, {"source": "notes"})
    rehearse(connection, group, tmp_path)
    execute(connection, "INSERT INTO app.notes VALUES (2, 'second')")

    def lose_an_index(_: Any, writer: sqlite3.Connection, __: Any) -> dict[str, int]:
        # Its pages stay, and nothing leads to them any more.
        writer.execute("PRAGMA writable_schema = ON")
        writer.execute("DELETE FROM sqlite_schema WHERE name = 'bodies'")
        writer.execute("PRAGMA writable_schema = RESET")
        return {}

    monkeypatch.setattr(
        "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.export.export.move_sequences",
        lose_an_index,
    )
    assert "SQLite finds faults in the copy; nothing was brought back" in refusal(connection, group)


@pytest.mark.promise("rollback-proven")
def test_a_wrong_value_does_not_pass_the_proof(
    connection: Connection, estate: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(connection, "UPDATE app.notes SET body = 'right' WHERE id = 1")
    monkeypatch.setattr(
        "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.export.values.ValueForms.find",
        lambda *_: "wrong",
    )
    found = refusal(connection, estate)
    assert "notes: id=1: body would read as 'wrong', and PostgreSQL holds 'right'" in found


def test_rows_are_found_by_keys_of_every_kind(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE by_bytes (id bytea, part text, v text, PRIMARY KEY (id, part));"
        "CREATE TABLE by_number (id double precision PRIMARY KEY, v text);"
        "CREATE TABLE by_broken_text (id text PRIMARY KEY, v text)",
    )
    source = make_source(
        tmp_path / "frozen.db",
        "CREATE TABLE by_bytes (id BLOB, part TEXT, v TEXT, PRIMARY KEY (id, part)) WITHOUT ROWID;"
        "CREATE TABLE by_number (id REAL PRIMARY KEY, v TEXT) WITHOUT ROWID;"
        "CREATE TABLE by_broken_text (id TEXT PRIMARY KEY, v TEXT) WITHOUT ROWID;"
        "INSERT INTO by_broken_text VALUES (CAST(x'61ff' AS TEXT), 'broken'), ('é', 'whole'), ('z', 'last')",
        {
            "by_bytes": [(b"a", "ä", "1"), (b"a", "b", "2"), (b"\x00\xff", "", "3")],
            "by_number": [(0.1, "1"), (1e308, "2"), (3, "3")],
        },
    )
    group = make_group(
        source,
        {"source": "by_bytes"},
        {"source": "by_number"},
        {"source": "by_broken_text", "columns": {"id": {"invalid_utf8": "replace"}}},
    )
    rehearse(connection, group, tmp_path)
    for table in ("by_bytes", "by_number", "by_broken_text"):
        execute(connection, f"UPDATE app.{table} SET v = v || ' changed'")
    report, copy = bring_back(connection, group)
    assert set(counts(report).values()) == {(0, 3, 0)}
    assert rows_of(copy, "SELECT id, part, v FROM by_bytes ORDER BY v") == [
        (b"a", "ä", "1 changed"), (b"a", "b", "2 changed"), (b"\x00\xff", "", "3 changed"),
    ]  # fmt: skip
    assert rows_of(copy, "SELECT * FROM by_number ORDER BY v") == [
        (0.1, "1 changed"), (1e308, "2 changed"), (3.0, "3 changed"),
    ]  # fmt: skip
    assert rows_of(copy, "SELECT CAST(id AS BLOB), v FROM by_broken_text ORDER BY v") == [
        (b"a\xff", "broken changed"), (b"z", "last changed"), ("é".encode(), "whole changed"),
    ]  # fmt: skip
    execute(connection, "DELETE FROM app.by_bytes WHERE part <> 'b'; DELETE FROM app.by_number WHERE id > 1")
    execute(connection, "DELETE FROM app.by_broken_text WHERE v LIKE 'broken%%'")
    report, copy = bring_back(connection, group)
    assert counts(report) == {"by_bytes": (0, 1, 2), "by_number": (0, 1, 2), "by_broken_text": (0, 2, 1)}


def test_unique_values_that_all_move_on_by_one_come_back(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, place integer UNIQUE DEFERRABLE, name text)")
    source = make_source(
        tmp_path / "frozen.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, place INTEGER UNIQUE ON CONFLICT REPLACE, name TEXT, extra TEXT)",
        {"t": [(number, number, f"n{number}", "kept" if number % 2 else None) for number in range(1_200)]},
    )
    group = make_group(source, {"source": "t", "columns": {"extra": {"without_target": "keep"}}})
    rehearse(connection, group, tmp_path)
    execute(connection, "UPDATE app.t SET place = (place + 1) % 1200")
    report, copy = bring_back(connection, group)
    assert counts(report) == {"t": (0, 1_200, 0)}
    assert rows_of(
        copy, "SELECT count(*) FROM t WHERE place = (id + 1) % 1200 AND (extra = 'kept') IS (id % 2 OR NULL)"
    ) == [(1_200,)]


def test_memory_stays_flat(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text)")
    source = make_source(tmp_path / "frozen.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    insert = "INSERT INTO app.t SELECT n, repeat(n::text, 400) FROM generate_series(%s, %s) n"
    execute(connection, insert, 100_000, 100_999)
    bring_back(connection, group)  # once, so that everything is imported
    execute(connection, insert, 101_000, 103_000)
    tracemalloc.start()
    try:
        report, _ = bring_back(connection, group)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.tables[0].inserted == 3_001
    assert peak < 5 << 20  # of 7 MB of text, each row of which would be held as more than its text


# ---------------------------------------------------------------- the sample estate

SINCE_THE_CUTOVER = """
INSERT INTO auth.users (id, email, password_hash, name, role_id, tenant_id, created_at)
  SELECT '{new}', 'new@example.org', 'scrypt$x', 'New', role_id, tenant_id, '2026-01-02T03:04:05.678Z'
  FROM auth.users WHERE role_id IS NOT NULL ORDER BY id LIMIT 1;
UPDATE auth.users SET last_login = '2026-01-02T03:04:06Z' WHERE id <> '{new}';
INSERT INTO verification.attempts (id, ticket_id, attempt_number, branch_name, commit_sha, status, static_result)
  VALUES (gen_random_uuid(), 'TKT-1', 4, 'main', 'abc', 'passed', '{{"score": 8}}');
INSERT INTO deploy.deployments (id, service, commit_sha, triggered_by, trigger_type, status)
  VALUES ('{new}', 'swarm-registry', 'abc', 'somebody', 'manual', 'pending');
INSERT INTO deploy.deployment_events (deployment_id, stage, status, message, details)
  VALUES ('{new}', 'build', 'started', 'as usual', '{{"step": 1}}');
UPDATE deploy.queue SET status = 'deployed', deployed_at = '2026-01-02T03:04:05Z';
DELETE FROM deploy.commit_ticket_map WHERE commit_sha = (SELECT min(commit_sha) FROM deploy.commit_ticket_map);
INSERT INTO registry.workflows (id, name, version, path, trigger_type, steps)
  VALUES ('{new}', 'new', '1.0.0', '/new', 'manual', '[{{"id": "a"}}]');
INSERT INTO registry.workflow_runs (id, workflow_id, workflow_version, status)
  VALUES ('{new}', '{new}', '1.0.0', 'running');
UPDATE registry.step_executions SET status = 'failed', retry_count = 3;
"""


def test_what_the_sample_estate_has_written_comes_back(schema_database: Any, tmp_path: Path) -> None:
    root = tmp_path / "root"
    program = PROJECT / "molecule" / "sample_estate" / "create_databases.py"
    subprocess.run([sys.executable, str(program), "--root", str(root)], check=True, capture_output=True)
    groups = []
    for entry in yaml.safe_load((PROJECT / "inventory/group_vars/all/estate.yml").read_text())["estate_cutover_groups"]:
        source = tmp_path / entry["name"] / "frozen.db"
        source.parent.mkdir()
        with (
            closing(sqlite3.connect(f"{root}{entry['source']['path']}")) as before,
            closing(sqlite3.connect(source)) as to,
        ):
            before.backup(to)
        entry["source"] = {"path": str(source)}
        groups.append(parse_group(entry))
    with closing(connect(schema_database)) as connection:
        for group in groups:
            rehearse(connection, group, tmp_path)
            report, copy = bring_back(connection, group)
            assert not report.changed
            assert copy.read_bytes() == Path(group.source_path).read_bytes()
        execute(connection, SINCE_THE_CUTOVER.format(new=NEW_ID))
        copies, done = {}, {}
        for group in groups:
            report, copies[group.name] = bring_back(connection, group)
            done.update(counts(report))
    assert {name: changes for name, changes in done.items() if any(changes)} == {
        "users": (1, 2, 0),
        "verification_attempts": (1, 0, 0),
        "deployments": (1, 0, 0),
        "deployment_events": (1, 0, 0),
        "deploy_queue": (0, 8, 0),
        "commit_ticket_map": (0, 0, 1),
        "workflows": (1, 0, 0),
        "workflow_runs": (1, 0, 0),
        "step_executions": (0, 3, 0),
    }
    users = "SELECT id, role, role_id, tenant_id FROM users ORDER BY rowid"
    old = rows_of(Path(groups[2].source_path), users)
    assert rows_of(copies["platform"], users)[:-1] == old
    new = rows_of(copies["platform"], users)[-1]
    # In the spelling that all ids of the table have in the file.
    assert {len(row[0]) for row in old if len(row[0]) in (32, 36)} == {32}
    assert new[0] == NEW_ID.replace("-", "")
    assert new[2:] in {row[2:] for row in old}
    unchanged = "SELECT * FROM {} EXCEPT SELECT * FROM frozen.{}"
    for name, table in (("platform", "permissions"), ("registry", "agents"), ("deploy", "commit_ticket_map")):
        with closing(sqlite3.connect(copies[name])) as opened:
            opened.execute("ATTACH ? AS frozen", (str(copies[name].with_name("frozen.db")),))
            assert opened.execute(unchanged.format(table, table)).fetchall() == []
    kept = "SELECT agent_id FROM step_executions ORDER BY id"
    assert rows_of(copies["registry"], kept) == rows_of(Path(groups[0].source_path), kept)


# ---------------------------------------------------------------- before the services stop


def test_a_rehearsal_tells_the_same_and_leaves_nothing(connection: Connection, estate: Group, tmp_path: Path) -> None:
    execute(connection, "UPDATE app.users SET name = 'Anna' WHERE name = 'Ann'; DELETE FROM app.notes WHERE id = 2")
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    report = rehearse_export(connection, estate, Path(estate.source_path), private)
    assert counts(report) == {"users": (0, 1, 0), "notes": (0, 0, 1)}
    assert list(private.iterdir()) == []
    assert report == bring_back(connection, estate)[0]


def test_the_rows_that_would_be_lost_are_counted_once_each(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection, "CREATE TABLE t (id integer PRIMARY KEY, v text, extra text DEFAULT 'no', made timestamptz)"
    )
    source = make_source(
        tmp_path / "frozen.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)",
        {"t": [(number, "same") for number in range(10)]},
    )
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    assert count_changes(connection, group, source, tmp_path)["t"].total == 0
    execute(
        connection,
        "UPDATE app.t SET v = 'other' WHERE id IN (1, 2); UPDATE app.t SET extra = 'yes' WHERE id IN (2, 3);"
        "DELETE FROM app.t WHERE id = 4; INSERT INTO app.t VALUES (50, 'new', 'yes', now()), (51, 'new', 'no', NULL);"
        "UPDATE app.t SET made = now() WHERE id = 5",
    )
    found = count_changes(connection, group, source, tmp_path)["t"]
    assert (found.inserted, found.updated, found.deleted, found.unsaid, found.total) == (2, 2, 1, 2, 7)
    refused = refusal(connection, group)
    assert "t ← app.t.extra: holds data, and the file has no such column (3 rows: id=" in refused
    assert "t ← app.t.made: holds data, and the file has no such column (2 rows: id=" in refused


def test_a_snapshot_of_another_session_is_what_comes_back(connection: Connection, estate: Group, login: Login) -> None:
    other = connect(login)
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_export_snapshot()")
            (snapshot_id,) = cursor.fetchone() or ("",)
        execute(connection, "UPDATE app.users SET name = 'Anna' WHERE name = 'Ann'")
        frozen, copy = Path(estate.source_path), copy_of(estate)
        assert not export_changes(connection, estate, frozen, copy, snapshot_id).changed
        assert export_changes(connection, estate, frozen, copy).changed
    finally:
        other.close()


def test_a_partitioned_table_comes_back(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE t (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);"
        "CREATE TABLE t_low PARTITION OF t FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE t_high PARTITION OF t FOR VALUES FROM (10) TO (20)",
    )
    source = make_source(
        tmp_path / "frozen.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)",
        {"t": [(number, str(number)) for number in (1, 2, 11, 12)]},
    )
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    assert not bring_back(connection, group)[0].changed
    # Both parts hold a row at the same place.
    execute(connection, "UPDATE app.t SET v = 'x' || id WHERE id IN (1, 11); DELETE FROM app.t WHERE id = 2")
    report, copy = bring_back(connection, group)
    assert counts(report) == {"t": (0, 2, 1)}
    assert rows_of(copy, "SELECT * FROM t") == [(1, "x1"), (11, "x11"), (12, "12")]


def test_a_row_that_loses_its_parent_is_named_though_another_finds_one(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection, "CREATE TABLE p (id integer PRIMARY KEY); CREATE TABLE c (id integer PRIMARY KEY, p integer)"
    )
    source = make_source(
        tmp_path / "frozen.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p (id))",
        {"p": [(1,)], "c": [(1, 1), (2, 7)]},
    )
    group = make_group(source, {"source": "p"}, {"source": "c"})
    rehearse(connection, group, tmp_path)
    execute(connection, "UPDATE app.c SET p = CASE id WHEN 1 THEN 8 ELSE 1 END")
    assert "p would refer to rows of p that do not exist (1 row: row 1)" in refusal(connection, group)
