"""A change behind the engine's back is found: in every type, of every kind, on both sides, and in the engine itself."""

from __future__ import annotations

import re
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.convert import (
    values as convert,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.plan.planner import plan_group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.prepare import (
    copy_file as spool,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.prepare import fast_path
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.proof import row_differences
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres.catalog import read_catalog
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.sqlite.tables import (
    open_snapshot,
    read_tables,
)

from .support import make_group, make_source, make_tables, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Makes every row of a table go through Python: only the server knows this type.
THROUGH_PYTHON = ", odd interval"
SOME_UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"

# type, value in SQLite, changes that must be noticed (SQL over column v)
TYPES: list[tuple[str, Any, list[str]]] = [
    ("smallint", 7, ["v + 1", "-v"]),
    ("integer", 2**31 - 2, ["v + 1", "v - 1"]),
    ("bigint", 2**63 - 2, ["v + 1", "v - 1"]),
    ("numeric", 1.25, ["v + 0.0000000001", "-v"]),
    ("numeric(12,4)", 1.25, ["v + 0.0001", "-v"]),
    ("numeric(8,2)", 5, ["v + 0.01", "-v"]),
    ("numeric", "12345678901234567890.123456789", ["v + 0.000000001", "v + 1"]),
    ("real", 0.5, ["v + 0.0000001::real", "-v"]),
    ("double precision", 0.1, ["0.10000000000000002", "-v"]),
    ("double precision", 0.0, ["'-0'", "5e-324"]),
    ("double precision", -0.0, ["0"]),
    ("double precision", 1e308, ["v / 10", "'Infinity'", "1.0000000000000002e308"]),
    ("double precision", 5e-324, ["0", "1e-323", "-v"]),
    ("boolean", 1, ["NOT v"]),
    ("boolean", 0, ["NOT v"]),
    ("text", "héllo", ["v || ' '", "' ' || v", "upper(v)", "v || v", "'hello'", "normalize(v, NFD)", "''"]),
    ("text", "", ["' '", "chr(1)"]),
    ("text", "12", ["'12.0'", "'012'"]),
    ("varchar(40)", "line\nbreak", ["replace(v, chr(10), chr(13))", "v || chr(10)", "replace(v, chr(10), '\\n')"]),
    ("char(5)", "ab", ["'abc'", "' ab'", "'a'"]),
    ("uuid", "text-id", ["gen_random_uuid()"]),
    ("uuid", SOME_UUID, ["gen_random_uuid()", "'0f8fad5b-d9cb-469f-a165-70867728950f'"]),
    ("json", '{"a": 1, "b": 2}', ['\'{"a": 2, "b": 2}\'', '\'{"b": 2, "a": 1}\'', '\'{"a":1,"b": 2}\'']),
    ("jsonb", '{"a": [1, null]}', ["'{\"a\": [1]}'", "'{\"a\": [null, 1]}'", '\'{"a": [1, null], "b": null}\'']),
    ("jsonb", '{"a": [[1, 2], [3]]}', ["'{\"a\": [[2, 1], [3]]}'", "'{\"a\": [[1], [2, 3]]}'", "'{}'"]),
    ("jsonb", "null", ["'{}'", "'\"null\"'"]),
    ("jsonb", "1", ["'1.0'", "'\"1\"'", "'true'", "'[1]'"]),
    ("jsonb", '"1"', ["'1'", "'\"1.0\"'"]),
    ("date", "2025-12-16", ["v + 1", "v - 365"]),
    ("time", "03:04:05.123456", ["v + interval '1 microsecond'", "v + interval '12 hours'"]),
    ("timestamptz", "2025-12-16 05:51:27", ["v + interval '1 microsecond'", "v - interval '1 hour'"]),
    ("timestamptz", "2025-12-16T05:51:27.178Z", ["v + interval '1 microsecond'", "'infinity'"]),
    ("timestamp", "2025-12-16T05:51:27.178Z", ["v + interval '1 microsecond'", "v + interval '1 hour'"]),
    ("interval", "1 day 02:03:04", ["v + interval '1 microsecond'", "'26:03:04'"]),
    ("bytea", b"\x00\xff\\", ["v || '\\x00'::bytea", "'\\x00ff'", "''"]),
    ("int[]", "{1,2,NULL}", ["'{1,2}'", "'{2,1,NULL}'", "'{{1,2,NULL}}'"]),
    ("text[]", '{a,"b,c",""}', ["'{a,b,c,\"\"}'", "'{a,\"b,c\",NULL}'"]),
    ("mood", "calm", ["'wild'"]),
    ("inet", "10.0.0.1/8", ["'10.0.0.1'", "'10.0.0.2/8'"]),
    ("percent", 50, ["v + 1"]),
]
NEVER_PLAIN = ("numeric(12,4)", "real", "char(5)", "time", "interval", "int[]", "text[]", "mood", "inet")


def differences(connection: Connection, group: Group, tmp_path: Path, change: str = "") -> list[dict[str, str]]:
    """Return what the proof finds after a change of the target, which is then taken back."""
    by_table = differences_by_table(connection, group, tmp_path, [change] if change else [])
    return [difference for found in by_table.values() for difference in found]


def differences_by_table(
    connection: Connection, group: Group, tmp_path: Path, changes: Sequence[str] = ()
) -> dict[str, list[dict[str, str]]]:
    """Return what the proof finds in each table after changes of the target, which are then taken back."""
    for change in changes:
        with connection.cursor() as cursor:
            cursor.execute(change)
            assert cursor.rowcount, f"nothing is changed by {change}"
    tables = migrate.compare(connection, group, str(tmp_path / "work"))["tables"]  # it rolls back at the end
    assert all(bool(table["differences"]) != table["equal"] for table in tables)
    return {table["source"]: table["differences"] for table in tables}


def is_plain(connection: Connection, group: Group) -> bool:
    """Return whether SQLite builds every row of the group's tables by itself."""
    return set(plain_tables(connection, group)) == {mapping.source for mapping in group.tables}


def plain_tables(connection: Connection, group: Group) -> list[str]:
    """Return the tables of which SQLite builds every row by itself."""
    found = []
    with closing(open_snapshot(Path(group.source_path))) as source:
        targets = read_catalog(connection, [mapping.target for mapping in group.tables])
        for planned in plan_group(group, source, read_tables(source), targets):
            plain = fast_path.plain_rows(planned)
            if plain is not None:
                rows, plain_count, _ = fast_path.count_plain_rows(source, plain)
                found += [planned.source.name] * (rows == plain_count)
    return found


# ---------------------------------------------------------------- every type


@pytest.mark.promise("every-difference-found")
@pytest.mark.parametrize("way", ["plain rows", "through Python"])
def test_a_single_changed_value_is_found(connection: Connection, tmp_path: Path, way: str) -> None:
    """One table for each entry of TYPES; each look is at one change in every table."""
    odd = THROUGH_PYTHON if way == "through Python" else ""
    tables = {f"t{number}": entry for number, entry in enumerate(TYPES)}
    source = make_tables(
        connection,
        tmp_path / "t.db",
        {
            name: (
                f"id integer PRIMARY KEY, v {type_name}{odd}",
                f"id INTEGER PRIMARY KEY, v {'TEXT' if type_name == 'uuid' else ''}{odd}",
                [(number, each, *([None] if odd else [])) for number, each in enumerate((value, value, None), 1)],
            )
            for name, (type_name, value, _) in tables.items()
        },
        "CREATE TYPE mood AS ENUM ('calm', 'wild'); CREATE DOMAIN percent AS integer CHECK (VALUE BETWEEN 0 AND 100);",
    )
    group = make_group(source, *({"source": name, "columns": {"v": {"references": "things"}}} for name in tables))
    report = rehearse(connection, group, tmp_path)["report"]
    assert {table["source"]: table["equal"] for table in report["tables"]} == dict.fromkeys(tables, True)
    plain = {
        name
        for name, (type_name, value, _) in tables.items()
        if not odd and type_name not in NEVER_PLAIN and not (type_name == "numeric" and isinstance(value, str))
    }
    assert set(plain_tables(connection, group)) == plain
    assert differences_by_table(connection, group, tmp_path) == {name: [] for name in tables}
    changes = {name: [*new, "NULL"] for name, (_, _, new) in tables.items()}
    for place in range(max(map(len, changes.values()))):
        made = {name: new[place] for name, new in changes.items() if place < len(new)}
        statements = [f"UPDATE app.{name} SET v = {new} WHERE id = 2" for name, new in made.items()]
        for name, found in differences_by_table(connection, group, tmp_path, statements).items():
            what = (tables[name][0], made.get(name))
            assert [(each["key"], each["column"]) for each in found] == ([("id=2", "v")] if name in made else []), what
            for each in found:
                assert each["source"] != each["target"], what
                assert (each["target"] == "NULL") == (made[name] == "NULL"), what
    statements = [f"UPDATE app.{name} SET v = (SELECT v FROM app.{name} WHERE id = 1) WHERE id = 3" for name in tables]
    for name, found in differences_by_table(connection, group, tmp_path, statements).items():
        assert [(each["key"], each["column"], each["source"]) for each in found] == [("id=3", "v", "NULL")], tables[
            name
        ]


@pytest.mark.parametrize(
    ("type_name", "value", "same"),
    [
        ("numeric", 1.5, "1.500"),
        ("jsonb", '{"b": 1, "a": [1, 2]}', '\'{"a":[1,2],"b":1}\''),
        ("char(5)", "ab", "'ab   '"),
        ("timestamptz", "2025-12-16 05:51:27", "'2025-12-16 07:51:27+02'"),
        ("double precision", 0.1, "'0.1000000000000000055'"),
        ("interval", "1 hour", "'60 minutes'"),
        ("inet", "10.0.0.1", "'10.0.0.1/32'"),
    ],
)
def test_the_same_value_written_otherwise_is_no_change(
    connection: Connection, tmp_path: Path, type_name: str, value: Any, same: str
) -> None:
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, v {type_name})")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", {"t": [(1, value)]})
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    assert differences(connection, group, tmp_path, f"UPDATE app.t SET v = {same}") == []


# ---------------------------------------------------------------- every kind of change

ROW = "(row)"
KINDS_OF_CHANGE: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("one value", "UPDATE app.t SET a = 'x' WHERE id = 2", [("id=2", "a")]),
    ("empty to NULL", "UPDATE app.t SET a = NULL WHERE a = ''", [("id=3", "a")]),
    ("NULL to empty", "UPDATE app.t SET a = '' WHERE a IS NULL", [("id=4", "a")]),
    ("a missing row", "DELETE FROM app.t WHERE id = 2", [("id=2", ROW)]),
    ("an extra row", "INSERT INTO app.t VALUES (9, 'new', 'row')", [("id=9", ROW)]),
    ("a doubled row", "INSERT INTO app.t SELECT * FROM app.t WHERE id = 2", [("id=2", ROW)]),
    (
        "a row in place of another",
        "UPDATE app.t SET (id, a, b) = (SELECT id, a, b FROM app.t WHERE id = 1) WHERE id = 2",
        [("id=1", ROW), ("id=2", ROW)],
    ),
    (
        "values of two rows swapped",
        "UPDATE app.t SET a = CASE id WHEN 1 THEN 'cd' ELSE 'ab' END WHERE id IN (1, 2)",
        [("id=1", "a"), ("id=2", "a")],
    ),
    (
        "values of two columns swapped in one row",
        "UPDATE app.t SET a = b, b = a WHERE id = 1",
        [("id=1", "a"), ("id=1", "b")],
    ),
    (
        "text shifted into the next column",
        "UPDATE app.t SET a = 'a', b = 'bc' WHERE id = 1",
        [("id=1", "a"), ("id=1", "b")],
    ),
    ("text joined with the next column", "UPDATE app.t SET a = a || b, b = '' WHERE id = 1",
     [("id=1", "a"), ("id=1", "b")]),
    ("all rows gone", "DELETE FROM app.t", [(f"id={number}", ROW) for number in (1, 2, 3, 4)]),
]  # fmt: skip
ROWS = [(1, "ab", "c"), (2, "cd", "e"), (3, "", "f"), (4, None, "g")]


@pytest.mark.promise("every-difference-found")
@pytest.mark.parametrize("way", ["plain rows", "through Python"])
@pytest.mark.parametrize("filler", [0, 1_000], ids=["small", "many rows"])
def test_every_kind_of_change_is_found(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, filler: int
) -> None:
    # So few buckets of keys that each holds several of the many rows.
    monkeypatch.setattr(row_differences, "_BUCKET_DIGITS", 2)
    odd = THROUGH_PYTHON if way == "through Python" else ""
    # Without a primary key in the target, so that a row can be doubled.
    make_target(connection, f"CREATE TABLE t (id integer, a text, b text{odd})")
    more = [(number, f"a{number}", f"b{number}") for number in range(10, 10 + filler)]
    source = make_source(
        tmp_path / "t.db",
        f"CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT{odd})",
        {"t": [row + ((None,) if odd else ()) for row in ROWS + more]},
    )
    group = make_group(source, {"source": "t"})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    assert is_plain(connection, group) == (not odd)
    for kind, change, expected in KINDS_OF_CHANGE:
        if kind == "all rows gone" and filler:
            continue
        found = differences(connection, group, tmp_path, change)
        assert sorted((each["key"], each["column"]) for each in found) == expected, kind
    assert differences(connection, group, tmp_path) == []


@pytest.mark.promise("every-difference-found")
@pytest.mark.parametrize("way", ["plain rows", "through Python"])
def test_the_one_value_of_thousands_is_named(connection: Connection, tmp_path: Path, way: str) -> None:
    odd = THROUGH_PYTHON if way == "through Python" else ""
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, amount bigint, label text{odd})")
    source = make_source(
        tmp_path / "t.db",
        f"CREATE TABLE t (id INTEGER PRIMARY KEY, amount INTEGER, label TEXT{odd})",
        {"t": [(n, n * n, f"row {n}", *([None] if odd else [])) for n in range(5_000)]},
    )
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    found = differences(connection, group, tmp_path, "UPDATE app.t SET amount = amount + 1 WHERE id = 4321")
    assert found == [{"key": "id=4321", "column": "amount", "source": "18671041", "target": "18671042"}]
    # A sum over all rows alone would not see this.
    swapped = "UPDATE app.t SET amount = CASE id WHEN 17 THEN 324 ELSE 289 END WHERE id IN (17, 18)"
    assert sorted((each["key"], each["source"], each["target"]) for each in differences(
        connection, group, tmp_path, swapped
    )) == [("id=17", "289", "324"), ("id=18", "324", "289")]  # fmt: skip


def test_many_differences_are_found_and_the_first_are_named(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text)")
    source = make_source(
        tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", {"t": [(n, "x") for n in range(3_000)]}
    )
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    found = differences(connection, group, tmp_path, "UPDATE app.t SET v = 'y'")
    assert len(found) == 20
    assert {(each["source"], each["target"]) for each in found} == {("'x'", "'y'")}


def test_a_change_in_a_table_without_a_key_is_found(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (v text, w text)")
    source = make_source(
        tmp_path / "t.db", "CREATE TABLE t (v TEXT, w TEXT)", {"t": [("a", "1"), ("b", "1"), ("b", "1"), (None, "")]}
    )
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    last = "WHERE ctid = (SELECT max(ctid) FROM app.t WHERE v = 'b')"
    for change in (
        f"UPDATE app.t SET v = 'a' {last}",  # one more of one, one less of the other
        f"UPDATE app.t SET w = '' {last}",
        f"DELETE FROM app.t {last}",
        "INSERT INTO app.t VALUES ('b', '1')",
        "UPDATE app.t SET v = w, w = v WHERE v IS NULL",
    ):
        found = differences(connection, group, tmp_path, change)
        assert found, change
        assert {each["column"] for each in found} == {ROW}


def test_a_changed_key_and_a_changed_reference_are_found(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE users (id uuid PRIMARY KEY, name text);"
        "CREATE TABLE notes (id integer PRIMARY KEY, owner uuid REFERENCES users (id))",
    )
    source = make_source(
        tmp_path / "t.db",
        "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT); CREATE TABLE notes (id INTEGER PRIMARY KEY, owner TEXT)",
        {"users": [("ann", "A"), ("bob", "B"), (SOME_UUID, "C")], "notes": [(1, "ann"), (2, "bob"), (3, None)]},
    )
    group = make_group(source, {"source": "users"}, {"source": "notes"})
    rehearse(connection, group, tmp_path)
    found = differences(
        connection, group, tmp_path,
        "UPDATE app.notes SET owner = (SELECT id FROM app.users WHERE name = 'B') WHERE id = 1",
    )  # fmt: skip
    assert found == [{"key": "id=1", "column": "owner", "source": "'ann'", "target": "'bob'"}]
    stranger = str(uuid.uuid5(uuid.NAMESPACE_DNS, "stranger"))
    found = differences(connection, group, tmp_path, f"UPDATE app.users SET id = '{stranger}' WHERE name = 'C'")
    assert sorted(each["key"] for each in found) == sorted([f"id='{SOME_UUID}'", f"id='{stranger}'"])


# ---------------------------------------------------------------- the source's side

# target type, value that was moved, value in the source now, whether the source still gives what the target holds;
# None: it gives nothing, and the comparison says which value is in the way
SOURCE_CHANGES: list[tuple[str, Any, Any, bool | None]] = [
    ("text", "a", "b", False),
    ("text", "a", None, False),
    ("text", None, "", False),
    ("text", "1", 1, True),
    ("text", 1, 1.0, False),
    ("text", 0.1, "0.1", True),
    ("text", 0.1, 0.10000000000000002, False),
    ("text", "1", b"1", None),
    ("text", "é", "e\u0301", False),
    ("text", "ab", "ab\x00", None),
    ("bigint", 1, "1", True),
    ("bigint", 1, 1.0, True),
    ("bigint", 2**53, 2.0**53 + 2, False),
    ("bigint", 1, 1.5, None),
    ("bigint", 1, "one", None),
    ("double precision", 0.0, 0, True),
    ("double precision", 0.0, -0.0, False),
    ("double precision", 1e308, 1.0000000000000002e308, False),
    ("numeric", 1, 1.0, True),
    ("numeric", 1.5, "1.50", True),
    ("numeric", 1.5, 1.5000000000000002, False),
    ("boolean", 1, "true", True),
    ("boolean", 1, 0, False),
    ("boolean", 1, 2, None),
    ("jsonb", '{"a":1,"b":2}', '{ "b": 2, "a": 1 }', True),
    ("jsonb", "1", 1, True),
    ("jsonb", "1", '"1"', False),
    ("jsonb", "[1,2]", "[2,1]", False),
    ("json", "[1,2]", "[1, 2]", False),
    ("timestamptz", "2025-12-16 05:51:27", "2025-12-16T05:51:27.000Z", True),
    ("timestamptz", "2025-12-16 05:51:27", 1765864287000, True),
    ("timestamptz", "2025-12-16 05:51:27", 1765864287001, False),
    ("timestamptz", "2025-12-16 05:51:27.000001", "2025-12-16 05:51:27.000002", False),
    ("bytea", b"1", b"1\x00", False),
    ("bytea", b"1", "1", None),
    ("uuid", "ann", "bob", False),
    ("uuid", SOME_UUID, SOME_UUID.upper(), None),
    ("interval", "1 hour", "60 minutes", True),
    ("interval", "1 hour", "61 minutes", False),
]


@pytest.mark.promise("every-difference-found")
@pytest.mark.parametrize("way", ["plain rows", "through Python"])
def test_a_change_of_the_source_is_found(connection: Connection, tmp_path: Path, way: str) -> None:
    """One table for each entry of SOURCE_CHANGES."""
    odd = THROUGH_PYTHON if way == "through Python" else ""
    tables = {f"t{number}": entry for number, entry in enumerate(SOURCE_CHANGES)}
    source = make_tables(
        connection,
        tmp_path / "t.db",
        {
            name: (
                f"id integer PRIMARY KEY, v {type_name}{odd}",
                f"id INTEGER PRIMARY KEY, v{odd}",
                [(number, before, *([None] if odd else [])) for number in (1, 2)],
            )
            for name, (type_name, before, _, _) in tables.items()
        },
    )

    def group_of(*names: str) -> Group:
        columns = {"v": {"references": "things", "epoch_unit": "milliseconds"}}
        ignored = [name for name in tables if name not in names]
        return make_group(source, *({"source": name, "columns": columns} for name in names), ignored_tables=ignored)

    rehearse(connection, group_of(*tables), tmp_path)
    with closing(sqlite3.connect(source)) as writer:
        for name, (_, _, after, _) in tables.items():
            writer.execute(f"UPDATE {name} SET v = ? WHERE id = 2", (after,))
        writer.commit()
    in_the_way = {name for name, (*_, same) in tables.items() if same is None}
    named: set[str] = set()
    # What only the server or only the client sees is told by itself.
    while named != in_the_way:
        with pytest.raises(MigrationError) as error:
            differences(connection, group_of(*sorted(in_the_way - named)), tmp_path)
        told = re.findall(r"t\.db: (t\d+)\.v: holds .*id=2", "\n".join(map(str, error.value.problems)))
        assert (len(told), named.intersection(told)) == (len(error.value.problems), set()), error.value
        named.update(told)
    compared = [name for name in tables if name not in in_the_way]
    found = differences_by_table(connection, group_of(*compared), tmp_path)
    assert {name: [(each["key"], each["column"]) for each in each_table] for name, each_table in found.items()} == {
        name: ([] if tables[name][3] else [("id=2", "v")]) for name in compared
    }


@pytest.mark.promise("every-difference-found")
def test_a_row_of_the_source_that_is_gone_or_new_is_found(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text)")
    source = make_source(
        tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", {"t": [(1, "a"), (2, "b")]}
    )
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    with closing(sqlite3.connect(source)) as writer:
        writer.executescript("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (3, 'c')")
    assert sorted((each["key"], each["source"], each["target"]) for each in differences(
        connection, group, tmp_path
    )) == [("id=1", "0 rows", "1 rows"), ("id=3", "1 rows", "0 rows")]  # fmt: skip


# ---------------------------------------------------------------- an engine that makes mistakes

Fields = list[str]
Rows = list[Fields]


def drop_a_microsecond(rows: Rows) -> Rows:
    return [[number, moment[:-1] + "0" if moment.endswith("7") else moment, *rest] for number, moment, *rest in rows]


def swap_columns(rows: Rows) -> Rows:
    return [[number, moment, second, first] for number, moment, first, second in rows]


def truncate_a_text(rows: Rows) -> Rows:
    return [[number, moment, first[:4], second] for number, moment, first, second in rows]


def forget_the_last_row(rows: Rows) -> Rows:
    return [row for row in rows if row[0] != "30"]


def repeat_a_row(rows: Rows) -> Rows:
    return rows + [["31", *row[1:]] for row in rows if row[0] == "30"]


def shift_a_value(rows: Rows) -> Rows:
    """Give a row the value of the one before it."""
    return [[*row[:3], rows[index - 1][3]] if index else row for index, row in enumerate(rows)]


MISTAKES = [drop_a_microsecond, swap_columns, truncate_a_text, forget_the_last_row, repeat_a_row]


def break_plain_rows(monkeypatch: pytest.MonkeyPatch, mistake: Callable[[Rows], Rows]) -> None:
    """Let the lines that SQLite builds go wrong."""
    right = fast_path._escaped

    def wrong(lines: list[bytes]) -> bytes:
        rows = [[field.decode() for field in line.split(b"\x1f")] for line in lines]
        return bytes(right([b"\x1f".join(field.encode() for field in row) for row in mistake(rows)]))

    monkeypatch.setattr(fast_path, "_escaped", wrong)


def break_rows_through_python(monkeypatch: pytest.MonkeyPatch, mistake: Callable[[Rows], Rows]) -> None:
    """Let the lines that Python builds go wrong."""
    right = spool.Spool.write

    def wrong(spool: Any, fields: list[Any]) -> None:
        if len(list(fields)) != 4:  # the ledger's
            right(spool, fields)
            return
        for row in mistake([list(fields)]):
            right(spool, row)

    monkeypatch.setattr(spool.Spool, "write", wrong)


@pytest.fixture
def notes(connection: Connection, tmp_path: Path) -> Group:
    """A group of one table of plain rows."""
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, at timestamp, first text, second text)")
    rows = [(n, f"2025-12-16 05:51:{n}.0000{n}7"[:26], f"first {n}", f"second {n}") for n in range(10, 31)]
    script = "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, first TEXT, second TEXT)"
    return make_group(make_source(tmp_path / "t.db", script, {"t": rows}), {"source": "t"})


def assert_nothing_was_committed(connection: Connection) -> None:
    """Look into every table that a run writes to."""
    connection.rollback()
    for table in ("app.t", "migration.run", "migration.cutover_group", "migration.id_map"):
        assert query(connection, f"SELECT count(*) FROM {table}") == [(0,)], table


@pytest.mark.promise("proven-before-commit")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_an_engine_that_makes_a_mistake_commits_nothing(
    connection: Connection, notes: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Any
) -> None:
    break_plain_rows(monkeypatch, mistake)
    break_rows_through_python(monkeypatch, mistake)
    with pytest.raises(MigrationError, match=r"Verification of cutover group test failed.*\n(.*\n)*.*id=\d\d"):
        rehearse(connection, notes, tmp_path)
    assert_nothing_was_committed(connection)


@pytest.mark.promise("proven-before-commit")
@pytest.mark.parametrize("mistake", [*MISTAKES[1:], shift_a_value])
def test_a_mistake_of_the_fast_way_alone_is_mended_by_the_exact_way(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Any
) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, at timestamp, first text, second text)")
    rows = [(n, f"2025-12-16 05:51:{n}", f"first {n}", f"second {n}") for n in range(10, 31)]
    script = "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, first TEXT, second TEXT)"
    group = make_group(make_source(tmp_path / "t.db", script, {"t": rows}), {"source": "t"})
    assert is_plain(connection, group)
    break_plain_rows(monkeypatch, mistake)
    report = rehearse(connection, group, tmp_path)["report"]
    assert report["tables"][0]["equal"]
    assert query(connection, "SELECT id, at::text, first, second FROM app.t ORDER BY id") == rows


@pytest.mark.promise("proven-before-commit")
@pytest.mark.parametrize(
    ("kind", "type_name", "value", "wrong"),
    [
        ("timestamp", "timestamptz", "2025-12-16 05:51:27.123456", lambda text: text.replace("123456", "123450")),
        ("text", "text", "a long text", lambda text: text[:-1]),
        ("text", "text", "a long text", lambda text: text.upper()),
        ("integer", "bigint", "9007199254740993", lambda text: str(int(float(text)))),
        ("double", "double precision", 0.30000000000000004, lambda text: f"{float(text):.15g}"),
        ("numeric", "numeric", "0.1234567890123456789", lambda text: f"{float(text):.17g}"),
        ("boolean", "boolean", "true", lambda _: "f"),
        ("json", "jsonb", '[1, 1.0, "1"]', lambda text: text.replace('"1"', "1")),
        ("bytes", "bytea", b"\x00\x01" * 60_000, lambda text: text[:-2]),
        ("date", "date", "2024-02-29", lambda _: "2024-02-28"),
        ("time", "time", "23:59:59", lambda _: "23:59:58"),
        ("char", "char(4)", "ab", lambda text: f" {text}"),
        ("real", "real", 0.5, lambda _: "0.50000006"),
    ],
)
def test_a_wrong_conversion_commits_nothing(
    connection: Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    type_name: str,
    value: Any,
    wrong: Callable[[str], str],
) -> None:
    right = convert._CONVERTERS[kind]

    def build(column: Any, note: Any) -> Any:
        convert_right = right(column, note)
        return lambda stored: wrong(str(convert_right(stored)))

    monkeypatch.setitem(convert._CONVERTERS, kind, build)
    make_target(connection, f"CREATE TABLE t (v {type_name}{THROUGH_PYTHON})")
    source = make_source(tmp_path / "t.db", f"CREATE TABLE t (v{THROUGH_PYTHON})", {"t": [(value, None)]})
    with pytest.raises(MigrationError, match="Verification of cutover group test failed"):
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path)
    assert_nothing_was_committed(connection)


@pytest.mark.promise("proven-before-commit")
def test_what_changes_a_row_behind_the_load_commits_nothing(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE t (id integer PRIMARY KEY, v text);"
        "CREATE FUNCTION shout(integer) RETURNS boolean LANGUAGE plpgsql AS "
        "$$ BEGIN UPDATE app.t SET v = upper(v); RETURN true; END $$;"
        "CREATE TABLE u (id integer PRIMARY KEY CHECK (shout(id)))",
    )
    script = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); CREATE TABLE u (id INTEGER PRIMARY KEY)"
    source = make_source(tmp_path / "t.db", script, {"t": [(1, "quiet")], "u": [(1,)]})
    with pytest.raises(MigrationError, match="id=1: v is 'quiet' in SQLite and 'QUIET' in PostgreSQL"):
        rehearse(connection, make_group(source, {"source": "t"}, {"source": "u"}), tmp_path)
    assert_nothing_was_committed(connection)
