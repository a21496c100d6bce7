"""Types that only the server knows: a text that the type would change is refused, or kept and counted by a policy."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError

from .support import execute, make_group, make_source, make_tables, make_target, problems_by_table, query, rehearse
from .test_export import bring_back, counts, rows_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Type, a value that it writes as it was, one that it changes, and what it makes of that.
CHANGED: list[tuple[str, Any, Any, str]] = [
    ("money", "$1.99", "1.999", "$2.00"),
    ("float4[]", "{0.5,1}", "{0.123456789}", "{0.12345679}"),
    ("interval", "00:00:01.5", "1.0000004 seconds", "00:00:01"),
    ("interval", "1 mon", "0.51 months", "15 days 07:12:00"),
    ("name", "short", "n" * 80, "n" * 63),
    ('"char"', "x", "xyz", "x"),
    ("timetz", "10:00:00.5+02", "10:00:00.1234567+02", "10:00:00.123457+02"),
    ("date[]", "{2021-05-01}", '{"2021-05-01 13:00:00"}', "{2021-05-01}"),
    ("tsvector", "'cat' 'the'", "the cat the dog", "'cat' 'dog' 'the'"),
    ("oid", 5, -1, "4294967295"),
    ("tsrange", "empty", "[2021-05-01 10:00:00.1234567,)", '["2021-05-01 10:00:00.123457",)'),
    ("point", "(1,2)", "(0.12345678901234567890,2)", "(0.12345678901234568,2)"),
]
# Type, and a text that it writes otherwise without losing anything.
SPELLED: list[tuple[str, Any]] = [
    ("interval", "90 minutes"),
    ("inet", "192.168.0.1/32"),
    ("int[]", "{1, 2}"),
    ("text[]", '{"a", b}'),
    ("int4range", "[1,5]"),
    ("macaddr", "08002b010203"),
    ("bool[]", "{yes,f}"),
    ("mood", "sad"),
    ("mood[]", '{"sad"}'),
]


def one_column(connection: Connection, tmp_path: Path, type_name: str, values: list[Any]) -> Path:
    """Create a table with one column of a type, and a source with these values."""
    ddl = f"CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE t (id integer PRIMARY KEY, v {type_name})"
    make_target(connection, ddl)
    return make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", {"t": enumerate(values)})


def one_column_each(
    connection: Connection, tmp_path: Path, columns: Iterable[tuple[str, list[Any]]]
) -> tuple[Path, list[str]]:
    """Create a table for each type with a column of it, and a source with its values; return its tables too."""
    tables = {
        f"t{number}": (f"id integer PRIMARY KEY, v {type_name}", "id INTEGER PRIMARY KEY, v", enumerate(values))
        for number, (type_name, values) in enumerate(columns)
    }
    ddl = "CREATE TYPE mood AS ENUM ('sad');"
    return make_tables(connection, tmp_path / "t.db", tables, ddl), list(tables)


def all_equal(report: dict[str, Any]) -> bool:
    """Return whether every table is the same on both sides."""
    return all(table["equal"] for table in report["tables"])


def test_a_value_that_its_type_would_change_is_refused(connection: Connection, tmp_path: Path) -> None:
    source, names = one_column_each(connection, tmp_path, ((entry[0], [*entry[1:3], None]) for entry in CHANGED))
    group = make_group(source, *({"source": name} for name in names))
    for check_mode in (True, False):
        with pytest.raises(MigrationError) as error:
            rehearse(connection, group, tmp_path, check_mode)
        problems = problems_by_table(error.value)
        assert set(problems) == set(names)
        for name, found in problems.items():
            assert f"{name}.v: holds a value that " in found
            assert "writes otherwise and may lose something of (1 row: id=1: " in found
            assert "; or set 'rewritten' for the column: keep" in found


def test_a_changed_value_is_kept_and_counted(connection: Connection, tmp_path: Path) -> None:
    source, names = one_column_each(connection, tmp_path, ((entry[0], [*entry[1:3], None]) for entry in CHANGED))
    columns = {"v": {"rewritten": "keep"}}
    group = make_group(source, *({"source": name, "columns": columns} for name in names))
    report = rehearse(connection, group, tmp_path)["report"]
    assert all_equal(report)
    kept_one = {"column": "v", "conversion": "rewritten: keep, original kept in the ledger", "rows": 1}
    assert [table["source"] for table in report["tables"] if kept_one not in table["conversions"]] == []
    kept = query(connection, "SELECT source_table, row_key, value FROM migration.original_value")
    originals = {name: (key, list(value.values())) for name, key, value in kept}
    # One for each table.
    assert (set(originals), len(kept)) == (set(names), len(names))
    exported, copy = bring_back(connection, group)
    assert counts(exported) == dict.fromkeys(names, (0, 0, 0))
    for name, (type_name, same, changed, form) in zip(names, CHANGED, strict=True):
        stored = query(connection, f"SELECT v::text FROM app.{name} ORDER BY id")
        assert stored == [(str(same),), (form,), (None,)], type_name
        assert originals[name] == ("id=1", [str(changed)]), type_name
        assert rows_of(copy, f"SELECT v FROM {name}") == rows_of(source, f"SELECT v FROM {name}"), type_name


@pytest.mark.parametrize("answer", ["set_null", "reject"])
def test_other_answers_for_a_changed_value(connection: Connection, tmp_path: Path, answer: str) -> None:
    source = one_column(connection, tmp_path, "money", ["$1.99", "1.999"])
    group = make_group(source, {"source": "t", "columns": {"v": {"rewritten": answer}}})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    assert query(connection, "SELECT v::text FROM app.t") == [("$1.99",), *([(None,)] if answer == "set_null" else [])]


def test_another_spelling_of_the_same_value_needs_no_policy(connection: Connection, tmp_path: Path) -> None:
    source, names = one_column_each(connection, tmp_path, ((type_name, [value, None]) for type_name, value in SPELLED))
    group = make_group(source, *({"source": name} for name in names))
    assert all_equal(rehearse(connection, group, tmp_path)["report"])
    exported, _ = bring_back(connection, group)
    assert counts(exported) == dict.fromkeys(names, (0, 0, 0))


# ---------------------------------------------------------------- numbers that are durations

NUMBERS: list[tuple[str, str, list[Any], list[str], str, Any]] = [
    # unit, declared in SQLite, values, what they are, a new value in PostgreSQL, how it comes back
    ("milliseconds", "bigint", [90000000, 1, -1500, 0], ["25:00:00", "00:00:00.001", "-00:00:01.5", "00:00:00"],
     "'90 seconds'", 90000),
    ("seconds", "bigint", [90000000], ["25000:00:00"], "'1 minute 1 second'", 61),
    ("seconds", "REAL", [1.5, 2.0], ["00:00:01.5", "00:00:02"], "'2.25 seconds'", 2.25),
    ("microseconds", "INTEGER", [1, 2**53 + 1], ["00:00:00.000001", "2501999:47:34.740993"], "'1 second'", 1_000_000),
    ("minutes", "INTEGER", [90], ["01:30:00"], "'2 hours'", 120),
    ("minutes", "INTEGER", [90], ["01:30:00"], "'30 seconds'", 0.5),
    ("hours", "INTEGER", [36], ["36:00:00"], "'3 hours'", 3),
    ("days", "INTEGER", [2], ["48:00:00"], "'24:00:00'", 1),
    ("seconds", "TEXT", ["90", "7.5"], ["00:01:30", "00:00:07.5"], "'10 seconds'", "10"),
    ("seconds", "INTEGER", [90, "1 day 02:00:00"], ["00:01:30", "1 day 02:00:00"], "'1 mon'", "1 mon"),
]  # fmt: skip


def test_numbers_are_durations_in_the_named_unit_and_come_back_as_such(connection: Connection, tmp_path: Path) -> None:
    entries = {f"t{number}": entry for number, entry in enumerate(NUMBERS)}
    tables = {
        name: ("id integer PRIMARY KEY, took interval", f"id INTEGER PRIMARY KEY, took {declared}", enumerate(values))
        for name, (_, declared, values, *_) in entries.items()
    }
    source = make_tables(connection, tmp_path / "t.db", tables)
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, *({"source": name} for name in entries)), tmp_path)
    problems = problems_by_table(error.value)
    for name, (_, _, values, *_) in entries.items():
        numbers = len([value for value in values if "day" not in str(value)])
        assert f"{name}.took: holds a number whose unit is not known ({numbers} row" in problems[name]
        assert "Name 'duration_unit' for the column: " in problems[name]

    group = make_group(
        source,
        *({"source": name, "columns": {"took": {"duration_unit": entry[0]}}} for name, entry in entries.items()),
    )
    assert all_equal(rehearse(connection, group, tmp_path)["report"])
    report, _ = bring_back(connection, group)
    assert counts(report) == dict.fromkeys(entries, (0, 0, 0))
    for name, (_, _, _, stored, new, _) in entries.items():
        found = [text for (text,) in query(connection, f"SELECT took::text FROM app.{name} ORDER BY id")]
        assert found == stored, entries[name]
        execute(connection, f"INSERT INTO app.{name} VALUES (100, {new})")
    report, copy = bring_back(connection, group)
    assert counts(report) == dict.fromkeys(entries, (1, 0, 0))
    for name, (_, declared, *_, expected) in entries.items():
        ((value,),) = rows_of(copy, f"SELECT took FROM {name} WHERE id = 100")
        assert value == expected, entries[name]
        assert declared == "TEXT" or type(value) is type(expected), entries[name]


@pytest.mark.parametrize(
    ("unit", "value", "what"),
    [
        ("microseconds", 1.5, "finer than a microsecond"),
        ("days", 2**60, "outside the range of interval"),
        ("seconds", float("inf"), "outside the range of interval"),
    ],
)
def test_a_number_that_is_no_duration_is_refused(
    connection: Connection, tmp_path: Path, unit: str, value: Any, what: str
) -> None:
    source = one_column(connection, tmp_path, "interval", [1, value])
    group = make_group(source, {"source": "t", "columns": {"v": {"duration_unit": unit}}})
    with pytest.raises(MigrationError) as error:
        rehearse(connection, group, tmp_path)
    assert what in str(error.value)
    assert "(1 row: id=1" in str(error.value)
