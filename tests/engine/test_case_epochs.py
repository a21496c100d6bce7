"""Numbers that count from another day than 1970: named, never guessed, exact there and back."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import EPOCH_UNITS
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.plan import epoch_units
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.plan.epoch_units import (
    EPOCHS,
    LOCAL_TIMES,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate

from .support import execute, make_group, make_source, make_target, query, rehearse
from .test_export import bring_back, counts, rows_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# What its documentation gives as 1970-01-01 in each unit, and how many of it are a day.
UNITS: dict[str, tuple[int, int]] = {
    "seconds": (0, 86_400),
    "milliseconds": (0, 86_400_000),
    "microseconds": (0, 86_400_000_000),
    "seconds_since_2001": (-978_307_200, 86_400),
    "nanoseconds_since_2001": (-978_307_200_000_000_000, 86_400_000_000_000),
    "ticks_since_1601": (116_444_736_000_000_000, 864_000_000_000),
    "microseconds_since_1601": (11_644_473_600_000_000, 86_400_000_000),
    "seconds_since_1904": (2_082_844_800, 86_400),
    "ticks_since_0001": (621_355_968_000_000_000, 864_000_000_000),
    "days_since_1899": (25_569, 1),
}
# The 1st and the 19,723rd day after 1970-01-01, and one before: 2024 is the last.
DAYS = {1: "1970-01-02", 19_723: "2024-01-01", 14_610: "2010-01-01", -7_305: "1950-01-01"}
FIRST, LAST = datetime(1950, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)


def estate(connection: Connection, tmp_path: Path, values: list[Any], **options: Any) -> Any:
    """Make a table of times in a column without a type; return its group."""
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, at {options.pop('type_name', 'timestamptz')})")
    declared = options.pop("declared", "")
    source = make_source(
        tmp_path / "t.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY, at {declared})", {"t": enumerate(values)}
    )
    return make_group(source, {"source": "t", "columns": {"at": options}})


def made_up(unit: str) -> list[Any]:
    """Return numbers of a unit that a microsecond can hold: whole ones, with a fraction, and as text."""
    choose = random.Random(unit)  # noqa: S311 (no secret)
    zero, day = UNITS[unit]
    numbers: list[Any] = [zero + number * day for number in DAYS]
    for _ in range(300):
        microseconds = choose.randint(int(FIRST.timestamp()), int(LAST.timestamp())) * 10**6 + choose.randrange(10**6)
        if unit == "days_since_1899":
            # A double of days does not tell microseconds apart.
            milliseconds = microseconds // 1000 + 25_569 * 86_400_000
            numbers.append(milliseconds / 86_400_000)
            continue
        exact = zero + Fraction(microseconds * day, 86_400_000_000)
        numbers.append(int(exact) if exact.denominator == 1 else float(exact))
    return [*numbers, *(str(number) for number in numbers[4:20] if "e" not in str(number) and number > 0)]


def by_postgresql(connection: Connection, unit: str, values: list[Any]) -> list[tuple[int, datetime]]:
    """Return which moments these numbers are, computed by PostgreSQL in exact decimals."""
    zero, day = UNITS[unit]
    digits = 3 if unit == "days_since_1899" else 6
    rows = ", ".join(f"({number}, {value!r}::text::numeric)" for number, value in enumerate(map(str, values)))
    return query(
        connection,
        f"SELECT id, timestamptz '1970-01-01 00:00:00+00' + "
        f"(round((n - ({zero})) * 86400 / {day}, {digits}) * 1000000)::bigint * interval '1 microsecond' "
        f"FROM (VALUES {rows}) AS v (id, n) ORDER BY id",
    )


def test_every_unit_is_tried_here() -> None:
    assert {*UNITS, "julian_days"} == {*EPOCH_UNITS}


@pytest.mark.promise("rollback-keeps-every-row")
@pytest.mark.parametrize(
    ("unit", "declared"),
    [*((unit, "") for unit in UNITS), ("ticks_since_0001", "INTEGER"), ("days_since_1899", "REAL")],
)
def test_numbers_are_the_moments_that_postgresql_computes_and_come_back_as_they_were(
    connection: Connection, tmp_path: Path, unit: str, declared: str
) -> None:
    zero, day = UNITS[unit]
    values = made_up(unit)
    group = estate(connection, tmp_path, values, epoch_unit=unit, declared=declared)
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    assert query(connection, "SELECT id, at FROM app.t ORDER BY id") == by_postgresql(connection, unit, values)
    days = query(connection, "SELECT (at AT TIME ZONE 'UTC')::date::text FROM app.t WHERE id < 4 ORDER BY id")
    assert [found for (found,) in days] == list(DAYS.values())
    report, _ = bring_back(connection, group)
    assert counts(report) == {"t": (0, 0, 0)}
    execute(connection, "UPDATE app.t SET at = at + interval '1 day'; DELETE FROM app.t WHERE id >= 4")
    execute(connection, "INSERT INTO app.t VALUES (999, '2025-06-01 00:00:00+00')")
    _, copy = bring_back(connection, group)
    wanted = [zero + (number + 1) * day for number in DAYS] + [zero + 20_240 * day]
    # As most of the column's numbers are.
    reals = sum(isinstance(value, float) for value in values)
    kind = "real" if declared == "REAL" or reals > len(values) / 2 else "integer"
    assert rows_of(copy, "SELECT at, typeof(at) FROM t ORDER BY id") == [(number, kind) for number in wanted]


@pytest.mark.parametrize("unit", ["ticks_since_1601", "ticks_since_0001", "nanoseconds_since_2001"])
@pytest.mark.parametrize(("answer", "microsecond"), [("truncate", 123_456), ("round", 123_457), ("reject", None)])
def test_what_a_microsecond_cannot_hold_is_refused_or_kept(
    connection: Connection, tmp_path: Path, unit: str, answer: str, microsecond: int | None
) -> None:
    zero, day = UNITS[unit]
    second = day // 86_400
    number = zero + 19_723 * day + 1_234_567 * second // 10_000_000
    group = estate(connection, tmp_path, [number], epoch_unit=unit)
    with pytest.raises(MigrationError, match=r"t\.at: holds a time finer than a microsecond"):
        rehearse(connection, group, tmp_path)
    options = {"epoch_unit": unit, "sub_microsecond": answer}
    group = make_group(Path(group.source_path), {"source": "t", "columns": {"at": options}})
    rehearse(connection, group, tmp_path)
    stored = query(connection, "SELECT at FROM app.t")
    wanted = [] if microsecond is None else [(datetime(2024, 1, 1, 0, 0, 0, microsecond, tzinfo=UTC),)]
    assert stored == wanted
    report, _ = bring_back(connection, group)
    assert counts(report) == {"t": (0, 0, 0)}


def test_a_time_of_day_before_the_first_day_of_spreadsheets_is_refused(connection: Connection, tmp_path: Path) -> None:
    group = estate(connection, tmp_path, [-1.25, -2], epoch_unit="days_since_1899")
    with pytest.raises(MigrationError, match=r"before 1899-12-30, which programs read in two ways \(1 row: id=0"):
        rehearse(connection, group, tmp_path)


@pytest.mark.parametrize("unit", ["seconds", "seconds_since_2001", "ticks_since_0001", "days_since_1899"])
def test_the_proof_does_not_share_the_conversions_epoch(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    zero, day = UNITS[unit]
    group = estate(connection, tmp_path, [zero + 19_723 * day], epoch_unit=unit)
    start, size = EPOCHS[unit]
    monkeypatch.setitem(EPOCHS, unit, (start.replace(day=start.day + 1), size))
    with pytest.raises(MigrationError, match=r"id=0: at is 2024-01-01 00:00:00\+00 in SQLite and 2024-01-02"):
        rehearse(connection, group, tmp_path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        # Core Data in 2010 and 2024; as Unix's they would be in 1979 and 1993.
        ([284_000_000, 726_000_000.5], "which may be seconds_since_2001 (from 2010-01-01 to 2024-01-03) or seconds "),
        ([132_539_328_000_000_000], "ticks_since_1601 (from 2021-01-01 to 2021-01-01)"),
        ([13_253_932_800_000_000], "which may be microseconds_since_1601 (from 2021-01-01 to 2021-01-01)"),
        ([637_450_560_000_000_000], "ticks_since_0001 (from 2021-01-01 to 2021-01-01)"),
        ([44_197.5, 40_000], "which may be days_since_1899 (from 2009-07-06 to 2021-01-01)"),
        # One of them would be a time of 1998: that does not make Unix times of all the others.
        ([600_000_000, 900_000_000], "which may be seconds_since_2001 (from 2020-01-06 to 2029-07-09) or seconds "),
        ([3_692_304_000], "which may be seconds_since_1904 (from 2021-01-01 to 2021-01-01) or seconds "),
        ([0, 5], "which do not all read as a time in one unit"),
    ],
)
def test_numbers_that_may_be_such_are_asked_about(
    connection: Connection, tmp_path: Path, values: list[Any], said: str
) -> None:
    with pytest.raises(MigrationError) as error:
        rehearse(connection, estate(connection, tmp_path, values), tmp_path)
    assert said in str(error.value)
    assert "Name 'epoch_unit' for the column in the inventory (" in str(error.value)
    # The first unit that is proposed is an answer.
    unit = str(error.value).rpartition("in the inventory (")[2].partition(")")[0].partition(",")[0]
    source = tmp_path / "t.db"
    group = make_group(source, {"source": "t", "columns": {"at": {"epoch_unit": unit}}})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]


@pytest.mark.parametrize("values", [[500_000_000, 1_700_000_000], [1_000_000_000], [1_700_000_000_000], [2_460_000.5]])
def test_numbers_of_today_are_read_without_a_question(
    connection: Connection, tmp_path: Path, values: list[Any]
) -> None:
    assert rehearse(connection, estate(connection, tmp_path, values), tmp_path)["report"]["tables"][0]["equal"]


@pytest.mark.parametrize("values", [[200_000_000, 700_000_000], [4_102_444_800]])
def test_what_an_earlier_version_has_read_is_asked_about_by_a_rehearsal_alone(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[int]
) -> None:
    group = estate(connection, tmp_path, values)
    with monkeypatch.context() as patch:
        patch.setattr(epoch_units, "_likely_readings", lambda *_: [])
        rehearse(connection, group, tmp_path)
    with pytest.raises(MigrationError, match="which may be seconds_since_"):
        rehearse(connection, group, tmp_path)
    # Services wait, or have moved: nothing stops at such a question.
    report = migrate.migrate(connection, group, migrate.FINAL, work_directory=str(tmp_path / "work"))["report"]
    assert report["tables"][0]["equal"]
    execute(connection, "INSERT INTO app.t VALUES (77, '2020-01-01 00:00:00+00')")
    found, copy = bring_back(connection, group)
    assert counts(found) == {"t": (1, 0, 0)}
    assert rows_of(copy, "SELECT at FROM t ORDER BY id") == [*((value,) for value in values), (1_577_836_800,)]


@pytest.mark.parametrize("unit", LOCAL_TIMES)
def test_a_zone_for_numbers_that_are_read_as_utc_is_refused(connection: Connection, tmp_path: Path, unit: str) -> None:
    zero, day = UNITS[unit]
    group = estate(connection, tmp_path, [zero + 19_723 * day], epoch_unit=unit, time_zone="Europe/Berlin")
    with pytest.raises(MigrationError, match=rf"'time_zone' is Europe/Berlin, and numbers in {unit} are read as"):
        rehearse(connection, group, tmp_path)


def test_a_zone_that_an_earlier_version_took_stops_nothing_but_a_rehearsal(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = estate(connection, tmp_path, [45_292], epoch_unit="days_since_1899", time_zone="Europe/Berlin")
    with monkeypatch.context() as patch:
        patch.setattr(epoch_units, "LOCAL_TIMES", ())
        rehearse(connection, group, tmp_path)
    migrate.migrate(connection, group, migrate.FINAL, work_directory=str(tmp_path / "work"))
    found, _ = bring_back(connection, group)
    assert counts(found) == {"t": (0, 0, 0)}


def test_a_long_text_of_digits_is_shortened_in_the_report(connection: Connection, tmp_path: Path) -> None:
    group = estate(connection, tmp_path, ["9" * 100_000, 1_600_000_000], epoch_unit="seconds", unconvertible="reject")
    report = rehearse(connection, group, tmp_path)["report"]
    assert len(str(report["number_readings"])) < 1_000


@pytest.mark.parametrize("check_mode", [True, False])
def test_the_report_shows_how_numbers_are_read(connection: Connection, tmp_path: Path, check_mode: bool) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, at timestamptz, day date, took interval, x text)")
    source = make_source(
        tmp_path / "t.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, at, day, took, x)",
        {"t": [(1, 1_700_000_000, 45_000, 90, 1), (2, "1600000000", 40_000, 30, 2), (3, "2024-01-01", None, None, 3)]},
    )
    columns = {"day": {"epoch_unit": "days_since_1899"}, "took": {"duration_unit": "minutes"}}
    group = make_group(source, {"source": "t", "columns": columns})
    report = rehearse(connection, group, tmp_path, check_mode)["report"]
    at = {"column": "t.at", "unit": "seconds", "first": "'1600000000' = 2020-09-13 12:26:40+00:00",
          "last": "1700000000 = 2023-11-14 22:13:20+00:00"}  # fmt: skip
    day = {"column": "t.day", "unit": "days_since_1899", "first": "40000 = 2009-07-06", "last": "45000 = 2023-03-15"}
    assert report["number_readings"][:2] == [at, day]
    assert [(found["column"], found["unit"]) for found in report["number_readings"][2:]] == [("t.took", "minutes")]
    assert report["number_readings"][2]["first"].startswith("30 = ")
    secret = make_group(source, {"source": "t", "columns": {**columns, "at": {"secret": True}}})
    report = rehearse(connection, secret, tmp_path, check_mode)["report"]
    assert report["number_readings"][0] == {**at, "first": "(secret)", "last": "(secret)"}
