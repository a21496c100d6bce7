"""The proof must find any change made behind its back: one test for each type and each kind of change."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible.module_utils.migration import engine

from .support import execute, make_group, make_source, make_target, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# type, value in SQLite, the smallest change that must be noticed (SQL over column v)
MUTATIONS: list[tuple[str, Any, str]] = [
    ("smallint", 7, "v + 1"),
    ("integer", 2**31 - 2, "v + 1"),
    ("bigint", 2**63 - 2, "v + 1"),
    ("numeric", 1.25, "v + 0.0000000001"),
    ("numeric(12,4)", 1.25, "v + 0.0001"),
    ("real", 0.5, "v + 0.0000001::real"),
    ("double precision", 0.1, "0.10000000000000002"),
    ("double precision", 0.0, "'-0'"),
    ("double precision", 1e308, "v / 10"),
    ("boolean", 1, "NOT v"),
    ("text", "héllo", "v || ' '"),
    ("text", "", "NULL"),
    ("varchar(40)", "line\nbreak", "replace(v, chr(10), chr(13))"),
    ("char(5)", "ab", "'abc'"),
    ("uuid", "text-id", "gen_random_uuid()"),
    ("json", '{"a": 1}', "'{\"a\": 2}'"),
    ("jsonb", '{"a": [1, null]}', "'{\"a\": [1]}'"),
    ("jsonb", "null", "NULL"),
    ("jsonb", '"1"', "'1'"),
    ("timestamptz", "2025-12-16 05:51:27", "v + interval '1 microsecond'"),
    ("timestamp", "2025-12-16T05:51:27.178", "v + interval '1 hour'"),
    ("bytea", b"\x00\xff\\", "v || '\\x00'::bytea"),
    ("date", "2025-12-16", "v + 1"),
    ("integer", None, "0"),
]


@pytest.mark.parametrize(("type_name", "value", "mutation"), MUTATIONS)
def test_a_single_changed_value_is_found(
    connection: Connection, tmp_path: Path, type_name: str, value: Any, mutation: str
) -> None:
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, v {type_name})")
    source = make_source(
        tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", {"t": [(1, value), (2, value)]}
    )
    group = make_group(source, {"source": "t", "columns": {"v": {"references": "things"}}})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    execute(connection, f"UPDATE app.t SET v = {mutation} WHERE id = 2")
    table = engine.compare(connection, group, str(tmp_path / "work"))["tables"][0]
    assert not table["equal"]
    assert [(found["key"], found["column"]) for found in table["differences"]] == [("id=2", "v")]


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ("DELETE FROM app.t WHERE id = 2", "(row)"),
        ("INSERT INTO app.t VALUES (3, 'c')", "(row)"),
        ("UPDATE app.t SET v = CASE v WHEN 'a' THEN 'b' ELSE 'a' END", "v"),
    ],
)
def test_a_missing_added_or_swapped_row_is_found(
    connection: Connection, tmp_path: Path, change: str, column: str
) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text)")
    source = make_source(
        tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", {"t": [(1, "a"), (2, "b")]}
    )
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    execute(connection, change)
    table = engine.compare(connection, group, str(tmp_path / "work"))["tables"][0]
    assert not table["equal"]
    assert {found["column"] for found in table["differences"]} == {column}


def test_a_doubled_row_is_found_without_a_key(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (v text)")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (v TEXT)", {"t": [("a",), ("b",), ("b",)]})
    group = make_group(source, {"source": "t"})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    execute(connection, "UPDATE app.t SET v = 'a' WHERE ctid = (SELECT max(ctid) FROM app.t)")
    assert not engine.compare(connection, group, str(tmp_path / "work"))["tables"][0]["equal"]


def test_secrets_are_masked_in_differences(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text)")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", {"t": [(1, "hush")]})
    group = make_group(source, {"source": "t", "columns": {"v": {"secret": True}}})
    rehearse(connection, group, tmp_path)
    execute(connection, "UPDATE app.t SET v = 'hushed'")
    table = engine.compare(connection, group, str(tmp_path / "work"))["tables"][0]
    assert table["differences"] == [{"key": "id=1", "column": "v", "source": "(secret)", "target": "(secret)"}]


def test_a_trigger_that_changes_a_row_stops_the_commit(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE t (id integer PRIMARY KEY, v text);"
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.v := upper(NEW.v); RETURN NEW; END $$;"
        "CREATE TRIGGER shout BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION shout()",
    )
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", {"t": [(1, "quiet")]})
    with pytest.raises(Exception, match="id=1: v is quiet in SQLite and QUIET in PostgreSQL"):
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM app.t")
        assert cursor.fetchone() == (0,)


def test_the_source_is_compared_as_it_is_stored(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text)")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", {"t": [(1, 0.1), (2, 12)]})
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    with sqlite3.connect(source) as writer:
        writer.execute("UPDATE t SET v = 0.30000000000000004 WHERE id = 1")
    assert not engine.compare(connection, group, str(tmp_path / "work"))["tables"][0]["equal"]
