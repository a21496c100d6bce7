"""Numbers in time columns: Julian days mean what SQLite says they mean, and a year is asked about as a year."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.convert import times

from .support import execute, make_group, make_source, make_tables, make_target, problems_by_table, query, rehearse
from .test_export import bring_back, counts

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# On the border between two milliseconds; the first was found in a real database.
BORDERS = [2458798.635558455, 2460311.6278434955, 2440587.5, 2440588]


def said_by_sqlite(values: list[Any]) -> list[tuple[int, str]]:
    """Return what SQLite itself makes of each value, numbered."""
    with closing(sqlite3.connect(":memory:")) as opened:
        return [
            (number, opened.execute("SELECT strftime('%Y-%m-%d %H:%M:%f', ?)", (value,)).fetchone()[0])
            for number, value in enumerate(values)
        ]


@pytest.mark.parametrize("type_name", ["timestamp", "timestamptz", "timestamp(3)"])
def test_a_julian_day_is_what_sqlite_says(connection: Connection, tmp_path: Path, type_name: str) -> None:
    choose = random.Random(15)  # noqa: S311 (no secret)
    values: list[Any] = [*BORDERS, *(choose.uniform(1_721_426, 2_999_999) for _ in range(3_000))]
    values += [str(value) for value in values[:50]]
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, at {type_name})")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, at)", {"t": enumerate(values)})
    group = make_group(source, {"source": "t", "columns": {"at": {"epoch_unit": "julian_days"}}})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    stored = query(connection, "SELECT id, to_char(at, 'YYYY-MM-DD HH24:MI:SS.MS') FROM app.t ORDER BY id")
    assert stored == said_by_sqlite(values)
    report, _ = bring_back(connection, group)
    assert counts(report) == {"t": (0, 0, 0)}


def test_the_proof_finds_a_julian_day_that_is_not_what_sqlite_says(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, at timestamp)")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, at)", {"t": enumerate(BORDERS)})

    real = times._moment

    def another(column: Any, number: Any) -> Any:
        if number != BORDERS[0]:
            return real(column, number)
        # What a wrong formula makes of it.
        return real(column, number).replace(microsecond=250_000)

    monkeypatch.setattr(times, "_moment", another)
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path)
    assert "t → app.t: id=0: at is 2019-11-11 03:15:12.251 in SQLite and 2019-11-11 03:15:12.25 in PostgreSQL" in str(
        error.value
    )


def test_a_julian_day_is_rounded_from_what_sqlite_says(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, at timestamp(2))")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, at)", {"t": enumerate(BORDERS)})
    group = make_group(source, {"source": "t", "columns": {"at": {"sub_microsecond": "truncate"}}})
    rehearse(connection, group, tmp_path)
    assert query(connection, "SELECT at::text FROM app.t WHERE id = 0") == [("2019-11-11 03:15:12.25",)]


# ---------------------------------------------------------------- years

DECLARED = ("DATETIME", "TEXT", "REAL", "")
YEARS: list[list[Any]] = [[2024], ["2023", 2024], [1999.0, 2031], [2024, "2024-05-01 10:00:00"], [1900, 2100, None]]


@pytest.mark.parametrize(("type_name", "unit"), [("timestamp", "seconds"), ("date", None)])
def test_a_year_is_asked_about_as_a_year(
    connection: Connection, tmp_path: Path, type_name: str, unit: str | None
) -> None:
    years: list[list[Any]] = [[2024, "2024-05-01"] if type_name == "date" and len(str(v)) > 20 else v for v in YEARS]
    held = {f"t{number}_{declared}".lower(): values for number, values in enumerate(years) for declared in DECLARED}
    tables = {
        name: (f"id integer PRIMARY KEY, at {type_name}", f"id INTEGER PRIMARY KEY, at {name.partition('_')[2]}",
               enumerate(values))
        for name, values in held.items()
    }  # fmt: skip
    source = make_tables(connection, tmp_path / "t.db", tables)
    options = {} if unit is None else {"epoch_unit": unit}
    with pytest.raises(MigrationError) as error:
        rehearse(
            connection, make_group(source, *({"source": name, "columns": {"at": options}} for name in held)), tmp_path
        )
    problems = problems_by_table(error.value)
    answered = []
    for name, values in held.items():
        found = problems[name]
        numbers = [int(value) for value in values if value is not None and len(str(value)) < 10]
        assert f"{name}.at: it holds numbers from {min(numbers)} to {max(numbers)}, which look like years" in found
        assert "epoch_unit" not in found
        expression = found.partition(f"{name}.at: ")[2].partition('"')[2].partition('"')[0]
        kept = {"at": {"without_target": "keep"}}
        answered.append({"source": name, "computed": {"at": expression}, "columns": kept})
    rehearse(connection, make_group(source, *answered), tmp_path)
    for name, values in held.items():
        stored = [value for (value,) in query(connection, f"SELECT left(at::text, 10) FROM app.{name} ORDER BY id")]
        wanted = [
            None if value is None else f"{int(value)}-01-01" if len(str(value)) < 10 else "2024-05-01"
            for value in values
        ]
        assert stored == wanted, name


@pytest.mark.parametrize("check_mode", [True, False])
def test_the_report_shows_how_texts_are_read(connection: Connection, tmp_path: Path, check_mode: bool) -> None:
    make_target(
        connection,
        "CREATE TABLE t (id integer PRIMARY KEY, at timestamptz, day date, clock time, "
        '"{n}" timestamp, none date, x text)',
    )
    source = make_source(
        tmp_path / "t.db",
        'CREATE TABLE t (id INTEGER PRIMARY KEY, at, day, clock, "{n}", none, x)',
        {
            "t": [
                (1, "2024-05-01 10:00", "1066-10-14", "23:59", "2024-05-01T10:00:00Z", None, "2024-05-01"),
                (2, "0204-05-01 10:00", "2024-01-01 00:00", "07:00", 1_600_000_000, None, "x"),
            ]
        },
    )
    group = make_group(source, {"source": "t", "columns": {"at": {"time_zone": "Europe/Berlin"}}})
    report = rehearse(connection, group, tmp_path, check_mode)["report"]
    at = {"column": "t.at", "time_zone": "Europe/Berlin",
          "first": "'0204-05-01 10:00' = 0204-05-01 10:00 Europe/Berlin",
          "last": "'2024-05-01 10:00' = 2024-05-01 10:00 Europe/Berlin"}  # fmt: skip
    assert report["text_readings"] == [
        at,
        {"column": "t.day", "time_zone": None, "first": "'1066-10-14' = 1066-10-14",
         "last": "'2024-01-01 00:00' = 2024-01-01"},
        {"column": "t.clock", "time_zone": None, "first": "'07:00' = 07:00", "last": "'23:59' = 23:59"},
        {"column": "t.{n}", "time_zone": None, "first": "'2024-05-01T10:00:00Z' = 2024-05-01 10:00:00",
         "last": "'2024-05-01T10:00:00Z' = 2024-05-01 10:00:00"},
    ]  # fmt: skip
    secret = {"at": {"time_zone": "Europe/Berlin", "secret": True}}
    group = make_group(source, {"source": "t", "columns": secret})
    report = rehearse(connection, group, tmp_path, check_mode)["report"]
    assert report["text_readings"][0] == {**at, "first": "(secret)", "last": "(secret)"}


@pytest.mark.parametrize(
    ("unit", "values"), [("seconds", [0, 1899, 2101]), ("seconds", [2024.5]), (None, [1704164645])]
)
def test_other_small_numbers_are_no_years(
    connection: Connection, tmp_path: Path, unit: str | None, values: list[Any]
) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, at timestamp)")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, at)", {"t": enumerate(values)})
    options = {} if unit is None else {"epoch_unit": unit}
    group = make_group(source, {"source": "t", "columns": {"at": options}})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    execute(connection, "UPDATE app.t SET at = at")


def test_a_year_among_other_numbers_is_asked_about(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, at timestamp)")
    source = make_source(
        tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, at)", {"t": [(1, 1704164645), (2, 2024)]}
    )
    with pytest.raises(MigrationError, match=r"t\.at: it holds numbers from 2024 to 2024, which look like years"):
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path)
    secret = make_group(source, {"source": "t", "columns": {"at": {"secret": True}}})
    with pytest.raises(MigrationError, match=r"t\.at: it holds numbers, which look like years"):
        rehearse(connection, secret, tmp_path)
