"""Decides in which unit the numbers of a time column are, from all of them together."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING

from ...core.errors import Problem
from ...core.estate import EPOCH_UNITS
from ...sqlite.tables import SourceTable, quote_name

if TYPE_CHECKING:
    from .planner import ColumnPlan

JULIAN_DAYS = "julian_days"
JULIAN_DAY_OF_1970 = 2_440_587.5
DAYS_SINCE_1899 = "days_since_1899"
_SINCE_1970 = datetime(1970, 1, 1, tzinfo=UTC)
_SINCE_2001 = datetime(2001, 1, 1, tzinfo=UTC)
_SINCE_1601 = datetime(1601, 1, 1, tzinfo=UTC)
# Unit → the moment of its 0, and the microseconds of its 1. A Julian day is of another kind.
EPOCHS = {
    "seconds": (_SINCE_1970, Fraction(1_000_000)),
    "milliseconds": (_SINCE_1970, Fraction(1_000)),
    "microseconds": (_SINCE_1970, Fraction(1)),
    "seconds_since_2001": (_SINCE_2001, Fraction(1_000_000)),
    "nanoseconds_since_2001": (_SINCE_2001, Fraction(1, 1_000)),
    "ticks_since_1601": (_SINCE_1601, Fraction(1, 10)),
    "microseconds_since_1601": (_SINCE_1601, Fraction(1)),
    "seconds_since_1904": (datetime(1904, 1, 1, tzinfo=UTC), Fraction(1_000_000)),
    "ticks_since_0001": (datetime(1, 1, 1, tzinfo=UTC), Fraction(1, 10)),
    DAYS_SINCE_1899: (datetime(1899, 12, 30, tzinfo=UTC), Fraction(86_400_000_000)),
}
# Applications mostly count these from their own clock, in whatever zone it is.
LOCAL_TIMES = ("seconds_since_1904", "ticks_since_0001", DAYS_SINCE_1899)
# Units that are read without being named: the numbers of all others may mean a moment in another one too.
_DETECTED = ("seconds", "milliseconds", "microseconds", JULIAN_DAYS)
# When the times of most applications are, and never so near the 0 of a unit that any small number is one.
_LIKELY = (datetime(1997, 1, 1, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC))
_LEAST_AGE = timedelta(days=365)
# A number in a time column means a moment between 1973 and 2286 in exactly one of the first four units.
# A Julian day in the range is one between the years -58 and 3501.
EPOCH_RANGES = {
    "seconds": (1e8, 1e10),
    "milliseconds": (1e11, 1e13),
    "microseconds": (1e14, 1e16),
    JULIAN_DAYS: (1.7e6, 3.0e6),
    **{
        unit: tuple(float((_SINCE_1970 + timedelta(seconds=end) - start) // timedelta(microseconds=1) / size)
                    for end in (1e8, 1e10))
        for unit, (start, size) in EPOCHS.items() if unit not in _DETECTED
    },
}  # fmt: skip
# A whole number of this size is a year: no unit makes a time of it that anybody would mean.
_YEARS = (1900, 2100)


def epoch_units(
    where: str,
    snapshot: sqlite3.Connection,
    source: SourceTable,
    columns: Sequence[ColumnPlan],
    problems: list[Problem],
    asks: bool = True,
) -> dict[str, str]:
    """Return the unit of the numbers in each time column, decided from all of them together.

    All columns are profiled in one scan of the table. Columns without numbers are left out.

    :param asks: whether numbers that read as Unix times, and as times in another unit too, are a question.
    """
    times = [column for column in columns if column.kind in ("timestamp", "date")]
    if not times:
        return {}
    numbers, dates, extremes = [], [], []
    for position, column in enumerate(times):
        name = quote_name(column.source)
        numbers.append(f"{number_in(name)} AS number_{position}")
        number, date, year = f"number_{position}", f"date_{position}", f"year_{position}"
        is_date = _looks_like_a_date(number, column.options.epoch_unit)
        is_year = f"{number} BETWEEN {_YEARS[0]} AND {_YEARS[1]} AND {number} = CAST({number} AS INTEGER)"
        dates.append(f"{number}, CASE WHEN {is_date} THEN {number} END AS {date}")
        dates.append(f"CASE WHEN {is_year} THEN {number} END AS {year}")
        extremes += [f"{what}({of})" for of in (number, date, year) for what in ("min", "max", "count")]
    # Most rows hold ISO times alone, which costs least to see.
    candidates = " OR ".join(f"{quote_name(column.source)} NOT GLOB '????-*'" for column in times)
    # The limits keep SQLite from evaluating each expression once for every use of it.
    found = snapshot.execute(
        f"SELECT {', '.join(extremes)} FROM (SELECT {', '.join(dates)} FROM "  # noqa: S608 (quoted)
        f"(SELECT {', '.join(numbers)} FROM {source.scan} WHERE {candidates} LIMIT -1) LIMIT -1)"
    ).fetchone()
    units = {}
    for position, column in enumerate(times):
        numbers_found, dates_found, years_found = (
            _Numbers(*found[start : start + 3]) for start in range(9 * position, 9 * position + 9, 3)
        )
        unit, problem = _unit_of(column, numbers_found, dates_found, years_found, asks)
        if unit is not None:
            units[column.source] = unit
        if problem is not None:
            problems.append(replace(problem, where=f"{where}.{column.source}"))
    return units


@dataclass(frozen=True)
class _Numbers:
    """Some of the numbers of a column; the smallest is None if there are none."""

    smallest: float | None
    largest: float
    count: int

    def shown(self, column: ColumnPlan) -> str:
        """Return the words for a message that say from where to where they go."""
        return "" if column.options.secret else f" from {self.smallest:.0f} to {self.largest:.0f}"


def _unit_of(
    column: ColumnPlan, numbers: _Numbers, dates: _Numbers, years: _Numbers, asks: bool
) -> tuple[str | None, Problem | None]:
    """Return the unit of the numbers in one column, None if it holds none, or why it is not known.

    :param dates: those of the numbers that look like dates.
    :param years: those that look like years.
    """
    named = column.options.epoch_unit
    if numbers.smallest is None:
        return named, None
    if asks and named in LOCAL_TIMES and column.options.time_zone != "UTC":
        what = f"'time_zone' is {column.options.time_zone}, and numbers in {named} are read as times of UTC"
        return None, Problem("", what, "Bring them to the right moments by 'computed', or leave 'time_zone' out")
    if years.count:
        what = f"it holds numbers{years.shown(column)}, which look like years"
        return None, Problem("", what, _day_of_a_year(column, years.count == numbers.count))
    smallest, largest = numbers.smallest, numbers.largest
    in_range = (unit for unit in _DETECTED if EPOCH_RANGES[unit][0] <= smallest and largest < EPOCH_RANGES[unit][1])
    unit = named or next(in_range, None)
    readings = [] if named or (unit is not None and not asks) else _likely_readings(smallest, largest)
    if dates.count and (named or (unit is None and not readings) or dates.count == numbers.count):
        what = f"it holds numbers{dates.shown(column)}, which look like dates written without separators"
        fix = f"Say by 'computed' in the inventory which times they are, cut out with substr({column.source}, 1, 4)"
        if named is None and unit is not None:
            fix += f"; if they are {unit} since 1970, name 'epoch_unit'"
        return None, Problem("", what, fix)
    if unit is not None and (not readings or unit in readings or unit not in EPOCHS):
        return unit, None
    if readings:
        units = readings if unit is None else [*readings, unit]
        what = f"it holds numbers{numbers.shown(column)}, which may be {_in_words(units, numbers, column)}"
        return None, Problem("", what, f"Name 'epoch_unit' for the column in the inventory ({', '.join(units)})")
    return None, Problem(
        "",
        f"it holds numbers{numbers.shown(column)}, which do not all read as a time in one unit",
        f"Name 'epoch_unit' for the column in the inventory ({', '.join(EPOCH_UNITS)})",
    )


def _likely_readings(smallest: float, largest: float) -> list[str]:
    """Return the units in which all numbers of a column mean times that an application may well have."""
    likely = {unit: _likely_numbers(unit) for unit in EPOCHS}
    return [unit for unit, (low, high) in likely.items() if low <= smallest and largest < high]


def _likely_numbers(unit: str) -> tuple[Fraction, Fraction]:
    """Return the first and the last number of a unit that mean such a time."""
    start, size = EPOCHS[unit]
    first, last = max(_LIKELY[0], start + _LEAST_AGE), _LIKELY[1]
    return (first - start) // timedelta(microseconds=1) / size, (last - start) // timedelta(microseconds=1) / size


def _in_words(units: Sequence[str], numbers: _Numbers, column: ColumnPlan) -> str:
    """Return units with the days from the first to the last that they would make of the numbers."""
    shown = []
    for unit in units:
        start, size = EPOCHS.get(unit, (None, Fraction(0)))
        days = ""
        if start is not None and numbers.smallest is not None and not column.options.secret:
            first, last = (
                (start + timedelta(microseconds=int(Fraction(number) * size))).date()
                for number in (numbers.smallest, numbers.largest)
            )
            days = f" (from {first} to {last})"
        shown.append(unit + days)
    return " or ".join(shown)


def number_in(name: str) -> str:
    """Return the SQL of the number that a value of a time column is, NULL for anything else.

    :param name: the column, quoted.
    """
    # The fifth character already tells an ISO time from a text that may be a number.
    return (
        f"CASE typeof({name}) WHEN 'text' THEN CASE WHEN substr({name}, 5, 1) <> '-' "
        f"AND {name} NOT GLOB '*[^0-9.]*' AND {name} GLOB '[0-9]*' THEN CAST({name} AS REAL) END "
        f"WHEN 'blob' THEN NULL ELSE {name} END"
    )


def _day_of_a_year(column: ColumnPlan, only_years: bool) -> str:
    """Return how to say which day a year stands for.

    :param only_years: whether all numbers of the column are years.
    """
    if not only_years:
        return "Say by 'computed' in the inventory which day of the year they mean"
    name = column.source
    # A number has no hyphen, nor has a text that is one; NULL stays NULL.
    expression = f"CASE WHEN {name} NOT LIKE '%-%' THEN printf('%d-01-01', {name}) ELSE {name} END"
    return f"Say by 'computed' in the inventory which day they mean, for example {name}: \"{expression}\""


def _looks_like_a_date(number: str, named_unit: str | None) -> str:
    """Return the SQL that tells a number such as 20150102 or 20150102230000 from a time in some unit.

    Such a number lies far outside the range of every unit, but for YYYYMMDDHHMM, which may also be
    milliseconds in 1976: those it is if the inventory names the unit.
    """
    forms = []
    for clock in ("", "HHMM", "HHMMSS", "HHMMSSmmm"):
        unit = 10 ** len(clock)
        day = f"CAST({number} / {unit} AS INTEGER)"
        forms.append(
            f"WHEN {number} BETWEEN {19000101 * unit} AND {21001232 * unit - 1} "
            f"THEN {day} % 100 BETWEEN 1 AND 31 AND {day} / 100 % 100 BETWEEN 1 AND 12"
        )
    condition = f"(CASE {' '.join(forms)} END)"
    if named_unit is not None:
        low, high = EPOCH_RANGES[named_unit]
        condition += f" AND NOT ({number} >= {low:.0f} AND {number} < {high:.0f})"
    return condition
