"""The forward mapping of times: texts and numbers that mean a moment, a day or a time of day."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

from ...sqlite.tables import Value
from ..plan.epoch_units import DAYS_SINCE_1899, EPOCHS, JULIAN_DAYS
from ..plan.planner import ColumnPlan
from .policies import milliseconds_of_days, milliseconds_of_julian_day
from .refusals import Convert, Note, Refused, needs

_NUMBER_TEXT = re.compile(r"[0-9]+(?:\.[0-9]+)?\Z")
_TIME_TEXT = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d(?::\d\d)?)(?:(?<=:\d\d:\d\d)\.(\d+))?)?"
    r"(?:\s*(Z|[+-]\d\d(?::?\d\d)?))?\Z",
    re.ASCII,
)
_CLOCK_TEXT = re.compile(r"([01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.(\d+))?)?\Z", re.ASCII)
_NO_OFFSET = frozenset(("Z", "+00", "+00:00", "+0000", "-00", "-00:00", "-0000"))
# PostgreSQL takes offsets up to ±15:59 and refuses the rest.
_OFFSET = re.compile(r"Z|[+-](?:0\d|1[0-5])(?::?[0-5]\d)?\Z", re.ASCII)
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# No time is written longer; a longer text is not even looked at.
_LONGEST_TIME = 100


def timestamp_converter(column: ColumnPlan, note: Note) -> Convert:
    """A time: ISO text with or without a zone, or a number in the unit that the plan decided."""
    zone: tzinfo = UTC if column.options.time_zone == "UTC" else ZoneInfo(column.options.time_zone)
    zone_name = column.options.time_zone
    with_zone = column.type_name == "timestamptz"

    def convert(value: Value) -> str:
        number = _as_number(value)
        if number is not None:
            moment = _moment(column, number)
            _check_fraction(column, f"{moment.microsecond:06d}")
            note(f"epoch {column.epoch_unit} to {column.display_type}")
            return moment.isoformat(sep=" ") if with_zone else moment.replace(tzinfo=None).isoformat(sep=" ")
        if not isinstance(value, str):
            raise needs(column, value)
        day, clock, fraction, offset = _time_parts(value)
        _check_fraction(column, fraction)
        text = f"{day} {clock}" + (f".{fraction[:6]}" if fraction else "")
        if with_zone and day[:4] in ("0001", "9999"):
            _check_years(datetime.fromisoformat(f"{day} {clock}{_as_iso_offset(offset)}"), zone)
        if not offset:
            if not with_zone:
                return text
            moment = datetime.fromisoformat(f"{day} {clock}")
            if moment.replace(tzinfo=zone, fold=0).utcoffset() != moment.replace(tzinfo=zone, fold=1).utcoffset():
                raise Refused("unconvertible", f"holds a time that is ambiguous or missing in {zone_name}")
            return f"{text} {zone_name}"
        if with_zone:
            return text + ("+00" if offset == "Z" else offset)
        if offset not in _NO_OFFSET:
            raise Refused("unconvertible", f"holds a time with an offset where {column.display_type} is needed")
        return text

    return convert


def date_converter(column: ColumnPlan, note: Note) -> Convert:
    """A day of the calendar, or a time that is its very beginning.

    A time with an offset, or a number, must be midnight in UTC; one without an offset, midnight.
    """
    not_midnight = f"holds a time of day where {column.display_type} is needed"

    def convert(value: Value) -> str:
        number = _as_number(value)
        if number is not None:
            moment = _moment(column, number)
            if (moment.hour, moment.minute, moment.second, moment.microsecond) != (0, 0, 0, 0):
                raise Refused("unconvertible", not_midnight)
            note(f"epoch {column.epoch_unit} to {column.display_type}")
            return moment.date().isoformat()
        if not isinstance(value, str):
            raise needs(column, value)
        day, clock, fraction, offset = _time_parts(value)
        if clock.strip("0:") or fraction.strip("0") or (offset and offset not in _NO_OFFSET):
            raise Refused("unconvertible", not_midnight)
        if value != day:
            note(f"time at midnight to {column.display_type}")
        return day

    return convert


def time_converter(column: ColumnPlan, note: Note) -> Convert:
    """A time of day without a zone: ``HH:MM``, ``HH:MM:SS`` or ``HH:MM:SS.ffffff``, never 24:00."""

    def convert(value: Value) -> str:
        if not isinstance(value, str):
            raise needs(column, value)
        match = _CLOCK_TEXT.match(value) if len(value) <= _LONGEST_TIME else None
        if match is None:
            raise Refused("unconvertible", "holds text that is not a time of day in a known form")
        fraction = match.group(2) or ""
        _check_fraction(column, fraction)
        return value[: len(value) - len(fraction)] + fraction[:6] if fraction else value

    return convert


def _moment(column: ColumnPlan, number: float | Decimal) -> datetime:
    """Return the moment that a number in a time column means, in the unit that the plan decided.

    A Julian day is a REAL whose last bit is worth some 40 µs, so it is rounded to the nearest
    millisecond as SQLite's own ``datetime()`` does it, see :func:`.policies.milliseconds_of_julian_day`. So are
    the days of a spreadsheet.

    :raises Refused: if the unit is not known, or no timestamp can hold the moment exactly.
    """
    if column.epoch_unit is None:
        raise Refused("unconvertible", "holds a number whose unit is not known")
    try:
        if column.epoch_unit == JULIAN_DAYS:
            return _UNIX_EPOCH + timedelta(milliseconds=milliseconds_of_julian_day(float(number)))
        start, size = EPOCHS[column.epoch_unit]
        if column.epoch_unit == DAYS_SINCE_1899:
            if number < 0 and number % 1:
                raise Refused("unconvertible", "holds a time of day before 1899-12-30, which programs read in two ways")
            return start + timedelta(milliseconds=milliseconds_of_days(float(number)))
        # A double stands for the shortest number that it is written as.
        exact = Fraction(str(number)) * size
        if exact.denominator != 1:
            raise Refused("sub_microsecond", "holds a time finer than a microsecond")
        return start + timedelta(microseconds=exact.numerator)
    except OverflowError:
        raise Refused("out_of_range", "holds a time outside the years 1 to 9999") from None


def _as_number(value: Value) -> float | Decimal | None:
    """Return the number in a time column, None if it is a text in some other form."""
    if isinstance(value, (int, float)):
        return value if math.isfinite(value) else None
    if isinstance(value, str) and _NUMBER_TEXT.match(value) and len(value) <= _LONGEST_TIME:
        return Decimal(value)
    return None


def _check_fraction(column: ColumnPlan, digits: str) -> None:
    """Refuse digits of a second that the target's type would round away."""
    scale = 6 if column.scale is None else column.scale
    if digits[scale:].strip("0"):
        finer = "a microsecond" if scale == 6 else f"{column.display_type} can hold"
        raise Refused("sub_microsecond", f"holds a time finer than {finer}")


def _as_iso_offset(offset: str) -> str:
    """Return an offset as Python 3.11 and every later version reads it."""
    return offset.replace("Z", "+00:00") if offset in ("", "Z") else f"{offset[:3]}:{offset[3:].lstrip(':') or '00'}"


def _check_years(moment: datetime, zone: tzinfo) -> None:
    """Refuse a time that its zone moves out of the years that every part of this engine can name."""
    try:
        (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
    except OverflowError:
        raise Refused("out_of_range", "holds a time outside the years 1 to 9999 in UTC") from None


def _time_parts(text: str) -> tuple[str, str, str, str]:
    """Return day, clock, digits of the second's fraction and offset of an ISO time, each '' if absent.

    :raises Refused: if it is no time that exists.
    """
    match = _TIME_TEXT.match(text) if len(text) <= _LONGEST_TIME else None
    if match is None:
        raise Refused("unconvertible", "holds text that is not a time in a known form")
    day, clock, fraction, offset = match.groups(default="")
    clock = clock or "00:00"
    try:
        datetime.fromisoformat(f"{day} {clock}")
    except ValueError:
        raise Refused("unconvertible", "holds text that looks like a time but is none") from None
    if offset and _OFFSET.match(offset) is None:
        raise Refused("unconvertible", "holds a time with an offset that PostgreSQL does not know")
    return day, clock, fraction, offset
