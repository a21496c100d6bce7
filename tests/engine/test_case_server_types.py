"""Types that only the server knows: a text that the type would change is refused, or kept and counted by a policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError

from .support import execute, make_group, make_source, make_target, query, rehearse
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


@pytest.mark.parametrize("check_mode", [True, False])
@pytest.mark.parametrize(("type_name", "same", "changed", "form"), CHANGED)
def test_a_value_that_its_type_would_change_is_refused(
    connection: Connection, tmp_path: Path, type_name: str, same: Any, changed: Any, form: str, check_mode: bool
) -> None:
    source = one_column(connection, tmp_path, type_name, [same, changed, None])
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path, check_mode)
    found = str(error.value)
    assert "t.v: holds a value that " in found
    assert "writes otherwise and may lose something of (1 row: id=1: " in found
    assert "set 'rewritten' for the column: keep" in found


@pytest.mark.parametrize(("type_name", "same", "changed", "form"), CHANGED)
def test_a_changed_value_is_kept_and_counted(
    connection: Connection, tmp_path: Path, type_name: str, same: Any, changed: Any, form: str
) -> None:
    source = one_column(connection, tmp_path, type_name, [same, changed, None])
    group = make_group(source, {"source": "t", "columns": {"v": {"rewritten": "keep"}}})
    report = rehearse(connection, group, tmp_path)["report"]["tables"][0]
    assert report["equal"]
    assert {"column": "v", "conversion": "rewritten: keep, original kept in the ledger", "rows": 1} in report[
        "conversions"
    ]
    assert query(connection, "SELECT v::text FROM app.t ORDER BY id") == [(str(same),), (form,), (None,)]
    ((key, kept),) = query(connection, "SELECT row_key, value FROM migration.original_value")
    assert (key, list(kept.values())) == ("id=1", [str(changed)])
    exported, copy = bring_back(connection, group)
    assert counts(exported) == {"t": (0, 0, 0)}
    assert rows_of(copy, "SELECT v FROM t") == rows_of(source, "SELECT v FROM t")


@pytest.mark.parametrize("answer", ["set_null", "reject"])
def test_other_answers_for_a_changed_value(connection: Connection, tmp_path: Path, answer: str) -> None:
    source = one_column(connection, tmp_path, "money", ["$1.99", "1.999"])
    group = make_group(source, {"source": "t", "columns": {"v": {"rewritten": answer}}})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    assert query(connection, "SELECT v::text FROM app.t") == [("$1.99",), *([(None,)] if answer == "set_null" else [])]


@pytest.mark.parametrize(("type_name", "value"), SPELLED)
def test_another_spelling_of_the_same_value_needs_no_policy(
    connection: Connection, tmp_path: Path, type_name: str, value: Any
) -> None:
    source = one_column(connection, tmp_path, type_name, [value, None])
    group = make_group(source, {"source": "t"})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    exported, _ = bring_back(connection, group)
    assert counts(exported) == {"t": (0, 0, 0)}


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


@pytest.mark.parametrize(("unit", "declared", "values", "stored", "new", "expected"), NUMBERS)
def test_numbers_are_durations_in_the_named_unit_and_come_back_as_such(
    connection: Connection,
    tmp_path: Path,
    unit: str,
    declared: str,
    values: list[Any],
    stored: list[str],
    new: str,
    expected: Any,
) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, took interval)")
    source = make_source(
        tmp_path / "t.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY, took {declared})", {"t": enumerate(values)}
    )
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path)
    numbers = len([value for value in values if "day" not in str(value)])
    assert f"t.took: holds a number whose unit is not known ({numbers} row" in str(error.value)
    assert "Name 'duration_unit' for the column: " in str(error.value)

    group = make_group(source, {"source": "t", "columns": {"took": {"duration_unit": unit}}})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    assert query(connection, "SELECT took::text FROM app.t ORDER BY id") == [(text,) for text in stored]
    report, _ = bring_back(connection, group)
    assert counts(report) == {"t": (0, 0, 0)}
    execute(connection, f"INSERT INTO app.t VALUES (100, {new})")
    report, copy = bring_back(connection, group)
    assert counts(report) == {"t": (1, 0, 0)}
    ((found,),) = rows_of(copy, "SELECT took FROM t WHERE id = 100")
    if declared == "TEXT":
        assert found == expected
    else:
        assert (type(found), found) == (type(expected), expected)


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
