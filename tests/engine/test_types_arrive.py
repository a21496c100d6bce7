"""Values of every kind of target type arrive, or are refused by name: end to end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError

from .support import execute, make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


def test_days_clocks_and_moments_arrive(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE t (id integer PRIMARY KEY, day date, day_of_number date, clock time, short time(2),"
        " at_julian timestamptz, local_julian timestamp(3), at_second timestamp(0), amount numeric(6,2))",
    )
    source = make_source(
        tmp_path / "days.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, day, day_of_number, clock, short, at_julian, local_julian, at_second,"
        " amount);"
        "INSERT INTO t VALUES (1, '2024-02-29', 1709164800, '23:59', '03:04:05.120',"
        " julianday('2024-01-02 03:04:05.678'), julianday('1999-12-31 23:59:59.999'), '2024-01-02T03:04:05.000Z',"
        " '1.5e2');"
        "INSERT INTO t VALUES (2, '2024-02-29T00:00:00Z', '1709164800.0', '03:04:05.123456', '00:00', 2460311.5,"
        " 2451545, '2024-01-02 03:04', 12.5);"
        "INSERT INTO t VALUES (3, '0001-01-01', NULL, '00:00:00.000000', NULL, NULL, NULL, NULL, '+007.10');",
    )
    group = make_group(source, {"source": "t"})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    rows = query(
        connection,
        "SELECT day::text, day_of_number::text, clock::text, short::text, (at_julian AT TIME ZONE 'UTC')::text,"
        " local_julian::text, at_second::text, amount::text FROM app.t ORDER BY id",
    )
    assert rows == [
        ("2024-02-29", "2024-02-29", "23:59:00", "03:04:05.12", "2024-01-02 03:04:05.678", "1999-12-31 23:59:59.999",
         "2024-01-02 03:04:05", "150.00"),
        ("2024-02-29", "2024-02-29", "03:04:05.123456", "00:00:00", "2024-01-02 00:00:00", "2000-01-01 12:00:00",
         "2024-01-02 03:04:00", "12.50"),
        ("0001-01-01", None, "00:00:00", None, None, None, None, "7.10"),
    ]  # fmt: skip
    assert not rehearse(connection, group, tmp_path)["changed"]
    execute(connection, "UPDATE app.t SET at_julian = at_julian + interval '1 millisecond' WHERE id = 1")
    with pytest.raises(MigrationError, match="somebody else wrote to it"):
        rehearse(connection, group, tmp_path)


def test_a_long_number_is_compared_digit_by_digit(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, n numeric, m numeric(60, 10))")
    long = "1234567890" * 5 + ".0123456789"
    source = make_source(
        tmp_path / "long.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, n TEXT, m TEXT)", {"t": [(1, long, long)]}
    )
    group = make_group(source, {"source": "t"})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    assert query(connection, "SELECT n::text, m::text FROM app.t") == [(long, long)]


def test_a_rounded_number_keeps_the_digits_of_its_column(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, n numeric(10, 2))")
    source = make_source(
        tmp_path / "money.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n)",
        {"t": [(1, 19.990000000000002), (2, "0.125"), (3, -1.005), (4, 7)]},
    )
    group = make_group(source, {"source": "t", "columns": {"n": {"fraction": "round"}}})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    stored = [text for (text,) in query(connection, "SELECT n::text FROM app.t ORDER BY id")]
    assert stored == ["19.99", "0.13", "-1.01", "7.00"]
    assert not rehearse(connection, group, tmp_path)["changed"]


@pytest.mark.parametrize(
    ("kind", "text", "stored"),
    [
        ("inet", "192.168.0.1", "192.168.0.1"),
        ("interval", "1 week 25:00", "7 days 25:00:00"),
        ("integer[]", "{ 1 , 2 }", "{1,2}"),
        ("int4range", "[1,4]", "[1,5)"),
        ("bit(3)", "101", "101"),
        ("money", "$1.50", "$1.50"),
    ],
)
def test_another_spelling_of_the_same_value_is_equal(
    connection: Connection, tmp_path: Path, kind: str, text: str, stored: str
) -> None:
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, x {kind})")
    source = make_source(tmp_path / "other.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, x)", {"t": [(1, text)]})
    group = make_group(source, {"source": "t"})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    assert query(connection, f"SELECT x = '{stored}'::{kind} FROM app.t") == [(True,)]


@pytest.mark.parametrize(
    ("kind", "value"),
    [("mood", "angry"), ("interval(0)", "00:00:01.5"), ("bit(3)", "1010"), ("integer[]", "{1,x}"), ("inet", "1.2.3")],
)
def test_what_another_type_cannot_hold_is_refused_by_name(
    connection: Connection, tmp_path: Path, kind: str, value: Any
) -> None:
    make_target(connection, f"CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE t (id integer PRIMARY KEY, x {kind})")
    source = make_source(tmp_path / "other.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, x)", {"t": [(1, value)]})
    with pytest.raises(MigrationError, match=r"t\.x: .*id=1"):
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path)


def test_a_computed_column_may_be_a_key_and_a_reference(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE parents (code text PRIMARY KEY, n integer);"
        "CREATE TABLE children (id integer PRIMARY KEY, parent text REFERENCES parents (code));"
        "CREATE SEQUENCE numbers",
    )
    source = make_source(
        tmp_path / "keys.db",
        "CREATE TABLE parents (name TEXT, n INTEGER, gone INTEGER); CREATE TABLE children (id INTEGER, p TEXT);",
        {"parents": [("a", 1, 0), ("b", 41, 0), ("c", 3, 1)], "children": [(1, "a"), (2, "b"), (3, "c")]},
    )
    kept = {"without_target": "keep"}
    parents = {
        "source": "parents", "row_filter": "gone = 0", "computed": {"code": "upper(name)"},
        "columns": {"name": kept, "gone": kept, "n": {"sequence": "app.numbers"}},
    }  # fmt: skip
    children = {"source": "children", "computed": {"parent": "upper(p)"}, "columns": {"p": kept}}
    with pytest.raises(
        MigrationError, match=r"children\.computed parent: refers to a row of parents that does not exist"
    ):
        rehearse(connection, make_group(source, parents, children), tmp_path)
    answered = {**children, "columns": {"p": kept, "parent": {"orphan": "set_null"}}}
    group = make_group(source, parents, answered)
    report = rehearse(connection, group, tmp_path)["report"]
    assert all(table["equal"] for table in report["tables"])
    assert query(connection, "SELECT id, parent FROM app.children ORDER BY id") == [(1, "A"), (2, "B"), (3, None)]
    assert query(connection, "SELECT nextval('app.numbers')") == [(42,)]


def test_a_column_that_both_sides_generate_is_compared(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE t (id integer PRIMARY KEY, n integer, m integer GENERATED ALWAYS AS (n * 3) STORED)",
    )
    source = make_source(
        tmp_path / "generated.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, m INTEGER AS (n * 2));INSERT INTO t (id, n) VALUES (1, 5);",
    )
    with pytest.raises(MigrationError, match=r"id=1: m is 10 in SQLite and 15 in PostgreSQL"):
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path)
