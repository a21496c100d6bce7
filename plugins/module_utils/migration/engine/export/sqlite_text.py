"""The inverse of one value's conversion: how a source column itself would say what PostgreSQL holds.

A column of a source has a form of its own: times as ``YYYY-MM-DD HH:MM:SS``, as ISO with
milliseconds and ``Z``, or as numbers in some unit; booleans as 0 and 1 or as words; ids as
integers. New values go back in the form that most of the column's values have. Where that form
would lose something, a more exact one follows; whoever asks tests each and takes the first that
reads back as the same value.
"""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from zoneinfo import ZoneInfo

from ...sqlite.tables import SourceTable, Value, quote_name
from ..convert.values import MICROSECONDS
from ..plan.epoch_units import EPOCHS, JULIAN_DAY_OF_1970, JULIAN_DAYS
from ..plan.planner import ColumnPlan

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECONDS_OF_A_DAY = 86_400_000_000
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d(?:([ T])\d\d:\d\d(:\d\d)?(?:\.(\d{1,6}))?)?\s*(Z|[+-]\d\d(?::?\d\d)?)?\Z", re.ASCII
)
_CLOCK = re.compile(r"\d\d:\d\d(:\d\d)?(?:\.(\d{1,6}))?\Z", re.ASCII)
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)?\Z", re.ASCII)
_DURATION = re.compile(r"(-)?(\d+):(\d\d):(\d\d(?:\.\d{1,6})?)\Z", re.ASCII)
_WHOLE_NUMBER = re.compile(r"(?:0|-?[1-9][0-9]{0,18})\Z", re.ASCII)
_LARGEST_INTEGER = 2**63

# Kind of column → what its values can look like; all others are texts or numbers.
_FITTING = {
    "timestamp": ("time", "integer", "real"),
    "date": ("time", "integer", "real"),
    "time": ("time",),
    "boolean": ("words", "integer", "real"),
    "integer": ("integer", "real", "digits"),
    "numeric": ("integer", "real", "digits"),
    "double": ("real", "integer"),
    "real": ("real", "integer"),
    "bytes": ("blob",),
}


@dataclass(frozen=True)
class Form:
    """What most values of a source column look like.

    :param storage_class: SQLite's name of it, ``text`` also for a column without values that does
        not prefer numbers.
    :param shape: of a text only. For a time: the separator, whether seconds are written, the digits
        of the fraction and the offset, for example ``(" ", True, 0, "")``; empty for all others.
    :param words: whether a boolean is written as ``true`` and ``false``.
    :param digits: whether the texts are numbers.
    """

    storage_class: str
    shape: tuple[str, bool, int, str] | tuple[()] = ()
    words: bool = False
    digits: bool = False


def read_form(snapshot: sqlite3.Connection, table: SourceTable, column: ColumnPlan) -> Form:
    """Return the form that most values of a source column have, in one scan of the table.

    Values that no column of its kind holds, and that only a policy lets pass, do not count.
    """
    name = quote_name(column.source)
    what = f"typeof({name})"
    if column.kind in ("timestamp", "date", "time", "boolean"):
        # Only what is short and plain ASCII can be such a value; all else is some text.
        snapshot.create_function("shape_of_value", 1, _shape, deterministic=True)
        short = f"length({name}) <= 40 AND {name} NOT GLOB '*[^ -~]*'"
        what = f"CASE WHEN {what} = 'text' AND {short} THEN shape_of_value({name}) ELSE {what} END"
    elif column.kind in ("integer", "numeric") or column.options.duration_unit is not None:
        is_number = f"{name} <> '' AND {name} NOT GLOB '*[^0-9.eE+-]*'"
        fraction = (
            f" WHEN {what} = 'real' AND {name} <> round({name}) THEN 'fraction'" if column.kind == "integer" else ""
        )
        what = f"CASE WHEN {what} = 'text' AND {is_number} THEN 'digits'{fraction} ELSE {what} END"
    rows = snapshot.execute(
        f"SELECT {what}, count(*) FROM {table.scan} WHERE {name} IS NOT NULL "  # noqa: S608 (quoted)
        "GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    fitting = _FITTING.get(column.kind, ("text", "integer", "real", "digits"))
    found = next((str(shape) for shape, _ in rows if str(shape).partition("|")[0] in fitting), None)
    if found is None:
        return _form_of_nothing(table, column)
    if found.startswith("time"):
        _, separator, seconds, digits, offset = found.split("|")
        return Form("text", (separator, seconds == "s", int(digits), offset))
    return Form("text" if found in ("words", "digits") else found, words=found == "words", digits=found == "digits")


def _form_of_nothing(table: SourceTable, column: ColumnPlan) -> Form:
    """Return the form for a column that holds no value yet: by its affinity, times as SQLite's own clock says them."""
    affinity = table.affinity(column.source)
    if column.kind in ("timestamp", "date", "time"):
        if affinity in ("INTEGER", "REAL") and column.epoch_unit is not None:
            return Form("integer" if affinity == "INTEGER" else "real")
        return Form("text", ("" if column.kind == "date" else " ", True, 0, ""))
    if column.kind in ("integer", "boolean", "numeric"):
        return Form("text" if affinity == "TEXT" else "integer")
    return Form({"double": "real", "real": "real", "bytes": "blob"}.get(column.kind, "text"))


def _shape(text: str) -> str:
    """Return the shape of a text in a column of times or booleans, as one word."""
    if text.lower() in ("true", "false"):
        return "words"
    match = _TIME.match(text)
    if match is not None and _is_day(text[:10]):
        separator, seconds, fraction, offset = match.groups(default="")
        return f"time|{separator}|{'s' if seconds else ''}|{len(fraction)}|{offset}"
    match = _CLOCK.match(text)
    if match is not None:
        seconds, fraction = match.groups(default="")
        return f"time||{'s' if seconds else ''}|{len(fraction)}|"
    return "text"


def _is_day(text: str) -> bool:
    """Return whether a day in the form of ISO is in the calendar, as 0000-00-00 is not."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def candidates(column: ColumnPlan, form: Form, text: str) -> Iterator[Value]:
    """Yield the values that may stand in the source for what PostgreSQL holds, the best first.

    Not each of them says the same exactly, and none may at all.

    :param text: the stored value as :func:`.engine.proof.canonical.target_value` gives it; bytes in hexadecimal.
    """
    if column.kind == "timestamp":
        yield from _moments(column, form, text)
    elif column.kind == "date":
        yield from _days(column, form, text)
    elif column.kind == "time":
        yield from _clocks(form, text)
    elif column.kind == "boolean":
        number = int(text == "true")
        yield from (text, number) if form.words else (number, text)
    elif column.kind in ("double", "real"):
        yield from _doubles(form, text)
    elif column.kind == "numeric":
        yield from _decimals(form, text)
    elif column.kind == "bytes":
        yield bytes.fromhex(text)
    elif column.options.duration_unit is not None:
        yield from _durations(column.options.duration_unit, form, text)
    else:
        yield from _texts(form, text)


def _texts(form: Form, text: str) -> Iterator[Value]:
    """Yield a text; first as a number where the column holds those."""
    if form.storage_class == "real":
        try:
            yield float(text)
        except ValueError:
            pass
    elif form.storage_class == "integer" and _WHOLE_NUMBER.match(text):
        number = int(text)
        if -_LARGEST_INTEGER <= number < _LARGEST_INTEGER:
            yield number
    yield text


def _durations(unit: str, form: Form, text: str) -> Iterator[Value]:
    """Yield a duration: first as a number of the unit where the column holds those, then as PostgreSQL writes it."""
    match = _DURATION.match(text)
    if match is not None and (form.storage_class in ("integer", "real") or form.digits):
        sign, hours, minutes, seconds = match.groups()
        exact = (int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)) * 1_000_000 / MICROSECONDS[unit]
        exact = -exact if sign else exact
        number: Value = exact.numerator if exact.denominator == 1 else float(exact)
        if form.digits:
            yield repr(number)
        yield float(exact) if form.storage_class == "real" else number
    yield text


def _decimals(form: Form, text: str) -> Iterator[Value]:
    """Yield an exact number; as text only where the column holds texts."""
    if form.storage_class == "text":
        yield text
    numbers: list[Value] = [float(text)] if text not in ("NaN", "Infinity", "-Infinity") else []
    if _WHOLE_NUMBER.match(text) and -_LARGEST_INTEGER <= int(text) < _LARGEST_INTEGER:
        numbers.insert(len(numbers) if form.storage_class == "real" else 0, int(text))
    yield from numbers


def _doubles(form: Form, text: str) -> Iterator[Value]:
    """Yield a double, given as its eight bytes in hexadecimal."""
    number: float = struct.unpack(">d", bytes.fromhex(text))[0]
    if form.storage_class == "integer" and number.is_integer() and abs(number) < _LARGEST_INTEGER:
        yield int(number)
    yield number


def _clocks(form: Form, text: str) -> Iterator[Value]:
    """Yield a time of day."""
    if form.shape:
        _, seconds, digits, _ = form.shape
        shaped = _shaped_clock(text, seconds, digits)
        if shaped is not None:
            yield shaped
    yield text


def _shaped_clock(text: str, seconds: bool, digits: int) -> str | None:
    """Return ``HH:MM:SS.ffffff`` with another number of digits, None if some would be lost."""
    clock, _, fraction = text.partition(".")
    if fraction[digits:].strip("0"):
        return None
    if digits:
        return f"{clock}.{fraction[:digits].ljust(digits, '0')}"
    if seconds:
        return clock
    return clock[:5] if clock.endswith(":00") else None


def _days(column: ColumnPlan, form: Form, text: str) -> Iterator[Value]:
    """Yield a day of the calendar."""
    try:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return  # infinity, or a year that SQLite has no date for
    if form.storage_class in ("integer", "real"):
        yield from _numbers(column, form, moment)
    if form.shape and form.shape[0]:
        shaped = _shaped_moment(form.shape, moment, None)
        if shaped is not None:
            yield shaped
    yield text


def _moments(column: ColumnPlan, form: Form, text: str) -> Iterator[Value]:
    """Yield a moment; its exact forms last."""
    with_zone = column.type_name == "timestamptz"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return  # infinity, or a year that SQLite has no date for
    moment = moment.astimezone(UTC) if with_zone else moment.replace(tzinfo=UTC)
    zone = ZoneInfo(column.options.time_zone) if with_zone and column.options.time_zone != "UTC" else None
    if form.storage_class in ("integer", "real"):
        yield from _numbers(column, form, moment)
    separator, seconds, digits, offset = form.shape or (" ", True, 0, "")
    for more in (digits, 3, 6):
        if more >= digits:
            shaped = _shaped_moment((separator, seconds, more, offset), moment, zone)
            if shaped is not None:
                yield shaped
    yield moment.isoformat(timespec="microseconds").replace("+00:00", "Z" if with_zone else "")


def _shaped_moment(shape: tuple[str, bool, int, str], moment: datetime, zone: ZoneInfo | None) -> str | None:
    """Return a moment as a text of some shape, None if something would be lost.

    :param zone: the zone of texts without an offset; None if that is UTC, or if the type has no zone.
    """
    separator, seconds, digits, offset = shape
    match = _OFFSET.match(offset)
    try:
        if match is not None:
            sign, hours, minutes = match.groups(default="0")
            distance = timedelta(hours=int(hours), minutes=int(minutes))
            moment = moment.astimezone(timezone(-distance if sign == "-" else distance))
        elif not offset and zone is not None:
            moment = moment.astimezone(zone)
    except OverflowError:
        return None  # there it is of a year before 1 or after 9999
    day, _, clock = moment.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds").partition(" ")
    if not separator:
        return day + offset if not clock.strip("0:.") else None
    shaped = _shaped_clock(clock, seconds, digits)
    return None if shaped is None else f"{day}{separator}{shaped}{offset}"


def _numbers(column: ColumnPlan, form: Form, moment: datetime) -> Iterator[Value]:
    """Yield a moment as a number in the column's unit."""
    unit = column.epoch_unit
    if unit is None:
        return
    if unit == JULIAN_DAYS:
        microseconds = (moment - _EPOCH) // timedelta(microseconds=1)
        yield float(Fraction(microseconds, _MICROSECONDS_OF_A_DAY) + Fraction(JULIAN_DAY_OF_1970))
        return
    start, size = EPOCHS[unit]
    exact = (moment - start) // timedelta(microseconds=1) / size
    if exact.denominator == 1 and form.storage_class == "integer":
        yield exact.numerator
    elif form.storage_class == "real":
        yield float(exact)
