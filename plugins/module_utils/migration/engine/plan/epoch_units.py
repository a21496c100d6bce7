"""Decides in which unit the numbers of a time column are, from all of them together."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...core.errors import Problem
from ...core.estate import EPOCH_UNITS
from ...sqlite.tables import SourceTable, quote_name

if TYPE_CHECKING:
    from .planner import ColumnPlan

# A number in a time column means a moment between 1973 and 2286 in exactly one of these units.
# A Julian day in the range is one between the years -58 and 3501.
JULIAN_DAYS = "julian_days"
JULIAN_DAY_OF_1970 = 2_440_587.5
EPOCH_RANGES = {
    "seconds": (1e8, 1e10),
    "milliseconds": (1e11, 1e13),
    "microseconds": (1e14, 1e16),
    JULIAN_DAYS: (1.7e6, 3.0e6),
}
EPOCH_FACTORS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
# A whole number of this size is a year: no unit makes a time of it that anybody would mean.
_YEARS = (1900, 2100)


def epoch_units(
    where: str,
    snapshot: sqlite3.Connection,
    source: SourceTable,
    columns: Sequence[ColumnPlan],
    problems: list[Problem],
) -> dict[str, str]:
    """Return the unit of the numbers in each time column, decided from all of them together.

    All columns are profiled in one scan of the table. Columns without numbers are left out.
    """
    times = [column for column in columns if column.kind in ("timestamp", "date")]
    if not times:
        return {}
    numbers, dates, extremes = [], [], []
    for position, column in enumerate(times):
        name = quote_name(column.source)
        # The fifth character already tells an ISO time from a text that may be a number.
        numbers.append(
            f"CASE typeof({name}) WHEN 'text' THEN CASE WHEN substr({name}, 5, 1) <> '-' "
            f"AND {name} NOT GLOB '*[^0-9.]*' AND {name} GLOB '[0-9]*' THEN CAST({name} AS REAL) END "
            f"WHEN 'blob' THEN NULL ELSE {name} END AS number_{position}"
        )
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
        unit, problem = _unit_of(column, numbers_found, dates_found, years_found)
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
    column: ColumnPlan, numbers: _Numbers, dates: _Numbers, years: _Numbers
) -> tuple[str | None, Problem | None]:
    """Return the unit of the numbers in one column, None if it holds none, or why it is not known.

    :param dates: those of the numbers that look like dates.
    :param years: those that look like years.
    """
    named = column.options.epoch_unit
    if numbers.smallest is None:
        return named, None
    if years.count:
        what = f"it holds numbers{years.shown(column)}, which look like years"
        return None, Problem("", what, _day_of_a_year(column, years.count == numbers.count))
    smallest, largest = numbers.smallest, numbers.largest
    in_range = (unit for unit, (low, high) in EPOCH_RANGES.items() if low <= smallest and largest < high)
    unit = named or next(in_range, None)
    if dates.count and (named or unit is None or dates.count == numbers.count):
        what = f"it holds numbers{dates.shown(column)}, which look like dates written without separators"
        fix = f"Say by 'computed' in the inventory which times they are, cut out with substr({column.source}, 1, 4)"
        if named is None and unit is not None:
            fix += f"; if they are {unit} since 1970, name 'epoch_unit'"
        return None, Problem("", what, fix)
    if unit is not None:
        return unit, None
    return None, Problem(
        "",
        f"it holds numbers{numbers.shown(column)}, which do not all read as a time in one unit",
        f"Name 'epoch_unit' for the column in the inventory ({', '.join(EPOCH_UNITS)})",
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
