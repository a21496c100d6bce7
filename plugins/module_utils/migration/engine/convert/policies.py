"""What the named policies do to a value that its column cannot hold as it is.

Every value that a policy changes is kept, as it was, in ``migration.original_value``.
"""

from __future__ import annotations

import json
import math
import re
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from typing import Any

from ...sqlite.tables import Value
from ..plan.epoch_units import DAYS_SINCE_1899, EPOCHS, JULIAN_DAY_OF_1970, JULIAN_DAYS
from ..plan.ids_in_texts import AsWritten
from ..plan.planner import ColumnPlan

SET_NULL = "set_null"
# The value goes to PostgreSQL as it is, and PostgreSQL makes another of it.
KEEP = "keep"

# On the rollback: the ids in the value are those of the file, and stay.
AS_WRITTEN = "as_written"

# The value becomes another one, which follows these words.
_BECOMES = "becomes "

# Digits of a second that stand before the point of a number in a unit, by the unit's size in microseconds.
_DIGITS_IN_UNIT = {1_000_000: 0, 1_000: 3, 1: 6, Fraction(1, 10): 7, Fraction(1, 1_000): 9}
_ROUNDING_OF_TIMES = {"round": ROUND_HALF_EVEN, "truncate": ROUND_FLOOR}
_TIME_WITH_FRACTION = re.compile(r"(.*\d\d:\d\d)\.(\d+)(.*)", re.DOTALL)


def repair_name(policy: str, answer: str, column: ColumnPlan) -> str:
    """Return the name by which :func:`repair` knows what a policy's answer does to a column's values.

    :param policy: a policy of :data:`.core.estate.POLICIES`.
    """
    if policy == "sub_microsecond" and answer in _ROUNDING_OF_TIMES:
        return f"{answer} {column.epoch_unit or 'times'}"
    return answer


def becomes(value: str) -> str:
    """Return the name by which :func:`repair` knows that a text stands in place of another one."""
    return _BECOMES + value


def repair(value: Value, answer: str, scale: int | None = None) -> Value:
    """Return the value that the policy's answer puts in place of ``value``.

    :param answer: as :func:`repair_name` names it; neither ``refuse`` nor ``reject``.
    :param scale: digits after the point that ``round`` keeps: those of the target column
        (:attr:`.plan.ColumnPlan.scale`), none if not given.
    """
    if answer.startswith(_BECOMES):
        return answer.removeprefix(_BECOMES)
    rounding, _, unit = answer.partition(" ")
    if unit and isinstance(value, (int, float, str)):
        return _rounded_time(value, unit, 6 if scale is None else scale, _ROUNDING_OF_TIMES[rounding])
    if answer == SET_NULL:
        return None
    if answer == KEEP:
        return value
    if answer == AS_WRITTEN and isinstance(value, str):
        return AsWritten(value)
    if answer == "keep_last" and isinstance(value, str):
        return _write(json.loads(value, parse_float=_Number, parse_int=_Number))
    if answer == "as_json_string":
        return json.dumps(value, ensure_ascii=False)
    if answer == "round" and isinstance(value, (int, float, str)):
        return _rounded(value, scale or 0)
    if answer == "replace" and isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if answer == "remove" and isinstance(value, str):
        return value.replace("\x00", "") if "\x00" in value else _without_nul(value)
    raise ValueError(f"no such answer: {answer}")


def _rounded(value: int | float | str, scale: int) -> Value:
    """Return a number rounded half away from zero, as PostgreSQL's numeric rounds, and never as a double."""
    exact = Decimal(value if isinstance(value, str) else repr(value))
    digits = Context(prec=max(exact.adjusted() + 1 + scale, 0) + 2)
    rounded = exact.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, digits)
    return int(rounded) if scale <= 0 else format(rounded, "f")


def _rounded_time(value: int | float | str, unit: str, scale: int, rounding: str) -> Value:
    """Return a time with so many digits of a second, in the form that it has: a text stays one.

    :param unit: of a number; a text that is none needs no unit.
    """
    text = _TIME_WITH_FRACTION.fullmatch(value) if isinstance(value, str) else None
    if text is not None:
        clock, digits, offset = text.groups()
        # The last digit of the seconds says whether a half goes up where no fraction is kept.
        second = int(clock[-1])
        fraction = _quantized(Decimal(f"{second}.{digits}"), scale, rounding) - second
        if fraction == 1:
            return _next_second(clock) + offset
        return clock + (f".{str(fraction)[2:]}" if scale else "") + offset
    exact = Decimal(value if isinstance(value, str) else repr(value))
    if unit == JULIAN_DAYS:
        milliseconds = milliseconds_of_julian_day(float(exact))
        seconds = _quantized(Decimal(milliseconds).scaleb(-3), scale, rounding)
        return float(seconds) / 86_400 + JULIAN_DAY_OF_1970
    if unit == DAYS_SINCE_1899:
        seconds = _quantized(Decimal(milliseconds_of_days(float(exact))).scaleb(-3), scale, rounding)
        return float(seconds) / 86_400
    number = _quantized(exact, scale - _DIGITS_IN_UNIT[EPOCHS[unit][1]], rounding)
    if number == number.to_integral_value():
        return int(number)
    return format(number, "f") if number > 0 else float(number)


def milliseconds_of_julian_day(day: float) -> int:
    """Return the milliseconds since 1970 that a Julian day means to SQLite.

    SQLite multiplies the day itself, in doubles, adds a half and cuts the rest off.

    :raises OverflowError: if it is no time at all.
    """
    return int(day * 86_400_000.0 + 0.5) - int(JULIAN_DAY_OF_1970 * 86_400_000)


def milliseconds_of_days(days: float) -> int:
    """Return the milliseconds that a number of days is to SQLite, and to other programs that take such days.

    :raises OverflowError: if it is no time at all.
    """
    return int(days * 1_000.0 * 86_400.0 + math.copysign(0.5, days))


def _quantized(number: Decimal, scale: int, rounding: str) -> Decimal:
    """Return a number with so many digits after the point; with fewer than none for a negative scale."""
    digits = Context(prec=max(number.adjusted() + 1 + scale, 0) + 2)
    return number.quantize(Decimal(1).scaleb(-scale), rounding, digits)


def _next_second(clock: str) -> str:
    """Return the time one second later; of a time of day alone also one that no clock shows, which is refused."""
    if len(clock) == len("HH:MM:SS"):
        seconds = int(clock[:2]) * 3_600 + int(clock[3:5]) * 60 + int(clock[6:]) + 1
        return f"{seconds // 3_600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    try:
        return (datetime.fromisoformat(clock) + timedelta(seconds=1)).isoformat(sep=" ")
    except (ValueError, OverflowError):
        return f"after {clock}"


def _without_nul(text: str) -> str:
    """Return a JSON text without U+0000 in any of its strings, numbers left as they are written."""

    def clean(item: Any) -> Any:
        if isinstance(item, _Number):
            return item
        if isinstance(item, str):
            return item.replace("\x00", "")
        if isinstance(item, list):
            return [clean(entry) for entry in item]
        if isinstance(item, dict):
            return {clean(key): clean(entry) for key, entry in item.items()}
        return item

    return _write(clean(json.loads(text, parse_float=_Number, parse_int=_Number)))


class _Number(str):
    """A number still as its text, so that it is written back digit for digit."""


def _write(item: Any) -> str:
    """Return plain data as JSON text; numbers are written as they were read."""
    if isinstance(item, _Number):
        return str(item)
    if isinstance(item, list):
        return "[" + ",".join(_write(entry) for entry in item) + "]"
    if isinstance(item, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_write(entry)}" for key, entry in item.items()) + "}"
    return json.dumps(item, ensure_ascii=False)
