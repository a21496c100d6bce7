"""The one form in which both sides are compared: a text for each value, typed and of known length.

A field is a letter for its type, then the value: with its length in bytes before it where it is
free text (``t5:hello``), closed by ``;`` where the value itself says where it ends, as numbers and
JSON do (``i42;``). NULL has the length -1 or no value (``t-1:``, ``i;``), so no two different rows
have the same fields.

The target's fields are built by PostgreSQL from its own output of the stored value, by undoing
the conversion; the source's by SQLite for plain rows and by Python for all others. Nothing here
is shared with :mod:`.engine.convert.values` or :mod:`.engine.prepare.fast_path`, so that a mistake there is caught
here.
"""

from __future__ import annotations

import json
import re
import sqlite3
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation
from fractions import Fraction
from functools import lru_cache
from hashlib import md5
from json import decoder, encoder
from typing import TYPE_CHECKING, Any, cast
from zoneinfo import ZoneInfo

from ...core.connection import sql
from ...sqlite.tables import Value, quote_name, show_both
from ...sqlite.tables import show as show_value
from ..plan.ids_in_texts import AsWritten
from ..plan.planner import ColumnPlan

if TYPE_CHECKING:
    from psycopg2.sql import Composable

Read = Callable[[Value], str]

# Longer bytes stand as their MD5: in hexadecimal they would be copied at twice their size.
LONGEST_SHOWN_BYTES = 100_000

# PostgreSQL's numeric has up to 147,455 digits; Decimal's own arithmetic would round to 28.
_ALL_DIGITS = Context(prec=200_000, Emax=MAX_EMAX, Emin=MIN_EMIN)

# Day from which numbers in time columns count, where that is not 1970, and how many of them are a second.
_FIRST_DAYS = {"2001": "2001-01-01", "1601": "1601-01-01", "1904": "1904-01-01", "0001": "0001-01-01"}
_PER_SECOND = {
    "seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000, "ticks": 10_000_000, "nanoseconds": 1_000_000_000,
}  # fmt: skip
_SECONDS_OF_DURATION = {
    "microseconds": Decimal("0.000001"), "milliseconds": Decimal("0.001"), "seconds": Decimal(1),
    "minutes": Decimal(60), "hours": Decimal(3600), "days": Decimal(86_400),
}  # fmt: skip
# Letters of free text, and of values closed by a semicolon.
_FREE_TEXT = {"text": "t", "char": "t", "uuid": "t", "other": "t", "bytes": "x"}
_CLOSED = {
    "integer": "i", "boolean": "b", "timestamp": "m", "date": "a", "time": "c", "numeric": "n", "double": "d",
    "real": "d", "jsonb": "j",
}  # fmt: skip
_LONGEST_SHOWN_FIELD = 60  # characters
# What tells that the string of JSON before it names a member.
_MEMBER = re.compile(r"\s*:")


def show_difference(one: str, other: str) -> tuple[str, str]:
    """Return two different fields for a person, so that they never look alike: of long ones the place is shown."""
    shown = show(one), show(other)
    if "NULL" in shown or (shown[0] != shown[1] and max(len(one), len(other)) <= _LONGEST_SHOWN_FIELD):
        return shown
    return show_both(_content(one), _content(other))


def show(field: str) -> str:
    """Return a field as a short text for a person: a text quoted, so that it is not taken for a number or NULL."""
    letter, text = field[0], _content(field)
    if text == "" if letter in _CLOSED.values() else field[1:].startswith("-1:"):
        return "NULL"
    if letter == "d":
        return repr(struct.unpack(">d", bytes.fromhex(text))[0])
    if letter == "x":
        return f"x'{text[:60]}'" + ("…" if len(text) > 60 else "")
    return text if letter in _CLOSED.values() and len(text) <= _LONGEST_SHOWN_FIELD else show_value(text)


def _content(field: str) -> str:
    """Return a field without its type and length."""
    return field[1:-1] if field[0] in _CLOSED.values() else field.partition(":")[2]


# ---------------------------------------------------------------- PostgreSQL's side


def target_value(column: ColumnPlan, old_id: Composable | None) -> Composable:
    """Return the SQL of a stored value as text, its conversion undone, over the table's alias ``t``.

    :param old_id: for a column of ids: the SQL of the old id in the id map, NULL if it has none.
    """
    name = sql.Identifier("t", column.target)
    if column.kind == "uuid" and old_id is not None:
        return sql.SQL("coalesce({}, {}::text)").format(old_id, name)
    if column.kind == "bytes":
        return sql.SQL("CASE WHEN octet_length({}) > {} THEN md5({}) ELSE encode({}, 'hex') END").format(
            name, sql.Literal(LONGEST_SHOWN_BYTES), name, name
        )
    if column.kind == "char":
        # ::text would drop the padding and with it the difference between '' and ' '.
        return sql.SQL("rtrim({}::text)").format(name)
    if column.kind == "numeric":
        return sql.SQL("trim_scale({})::text").format(name)
    if column.kind in ("double", "real"):
        return sql.SQL("encode(float8send({}::float8), 'hex')").format(name)
    return sql.SQL("{}::text").format(name)


def target_field(column: ColumnPlan, old_id: Composable | None = None) -> tuple[str, tuple[Composable, ...]]:
    """Return one field for PostgreSQL.

    :returns: a format for PostgreSQL's ``format``, to which NULL is nothing, and the SQL of its arguments. One
        ``format`` for a whole row takes half the time of ``concat``.
    """
    kind = _kind(column)
    if kind in _CLOSED:
        return f"{_CLOSED[kind]}%s;", (_formatted_value(column),)
    name = sql.Identifier("t", column.target)
    if kind == "uuid" and old_id is None:
        return "t%s:%s", (sql.SQL("CASE WHEN {} IS NULL THEN -1 ELSE 36 END").format(name), name)
    value = target_value(column, old_id)
    length = sql.SQL("coalesce(octet_length({}), -1)").format(name if kind == "bytes" else value)
    return f"{_FREE_TEXT[kind]}%s:%s", (length, value)


def _formatted_value(column: ColumnPlan) -> Composable:
    """Return the SQL of a value that ``format`` makes the same text of as :func:`target_value` does."""
    name = sql.Identifier("t", column.target)
    # Made a text first it would be copied once more.
    if column.kind in ("integer", "timestamp", "date", "time", "json"):
        return name
    return sql.SQL("trim_scale({})").format(name) if column.kind == "numeric" else target_value(column, None)


def _kind(column: ColumnPlan) -> str:
    """Return the kind of a column here: ``json`` keeps its text letter for letter, ``jsonb`` only its value."""
    if column.kind == "json":
        return "text" if column.type_name == "json" else "jsonb"
    return column.kind


# ---------------------------------------------------------------- SQLite's side, plain rows


def source_field(column: ColumnPlan) -> tuple[str, tuple[str, ...]] | None:
    """Return one field of a plain row for SQLite, or None if only Python can build it.

    :returns: a format for SQLite's ``printf`` and the SQL of its arguments. One ``printf`` for a whole
        row takes a third of the time of putting its parts together one by one.
    """
    name = quote_name(column.source)
    kind = _kind(column)
    if kind in _CLOSED:
        value = _closed_value(column, name)
        return None if value is None else (f"{_CLOSED[kind]}%s;", (value,))
    if column.kind == "bytes":
        return "x%d:%s", (f"ifnull(length({name}), -1)", f"CASE WHEN {name} IS NOT NULL THEN lower(hex({name})) END")
    # The length of a BLOB counts what stands behind U+0000 too, where text ends for SQLite. In a database in UTF-16
    # it would be that of another encoding.
    is_utf8 = "length(CAST('a' AS BLOB)) = 1"
    length = f"CASE WHEN {is_utf8} THEN length(CAST({name} AS BLOB)) ELSE utf8_length({name}) END"
    return "t%d:%s", (f"ifnull({length}, -1)", name)


def _closed_value(column: ColumnPlan, name: str) -> str | None:
    """Return the SQL of a value with a small alphabet, NULL for NULL."""
    if column.kind == "integer":
        return f"CAST({name} AS INTEGER)"
    if column.kind == "json":
        return f"canonical_json({name})"
    if column.kind == "boolean":
        return f"CASE {name} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END"
    if column.kind == "date":
        return f"date({name})"
    if column.kind == "timestamp":
        zone = " || '+00'" if column.type_name == "timestamptz" else ""
        # Of YYYY-MM-DDTHH:MM:SS.fffZ, the fraction without the zeros at its end.
        clock = f"rtrim(rtrim(substr({name}, 12, 12), '0'), '.')"
        iso = f"substr({name}, 1, 10) || ' ' || {clock}{zone}"
        return f"CASE length({name}) WHEN 19 THEN {name}{zone} WHEN 24 THEN {iso} END"
    if column.kind == "numeric":
        return f"canonical_number({name})"
    if column.kind == "double":
        return f"double_in_hex({name})"
    return None


def define_functions(snapshot: sqlite3.Connection) -> None:
    """Give SQLite the parts of the canonical form that its own SQL cannot say exactly."""
    snapshot.create_function("canonical_json", 1, _json_or_null, deterministic=True)
    snapshot.create_function("canonical_number", 1, _number_or_null, deterministic=True)
    snapshot.create_function("double_in_hex", 1, _double_or_null, deterministic=True)
    snapshot.create_function("utf8_length", 1, _utf8_length, deterministic=True)


def _json_or_null(text: Any) -> str | None:
    if text is None:
        return None
    try:
        return canonical_json(text)
    except (ValueError, RecursionError):
        return f"not JSON: {text}"


def _utf8_length(value: Any) -> int | None:
    return None if value is None else len(str(value).encode())


def _number_or_null(value: Any) -> str | None:
    return None if value is None else _number(repr(value))


def _double_or_null(value: Any) -> str | None:
    return None if value is None else _double_in_hex(value)


# ---------------------------------------------------------------- SQLite's side, any row


def source_reader(column: ColumnPlan, normal_form: Callable[[str], str]) -> Read:
    """Return the function that builds one field of any stored value but NULL in Python.

    :param normal_form: for a type that only the server knows: how the server writes a text.
    """
    if column.ids is not None:
        read = source_reader(replace(column, ids=None), normal_form)
        new_ids, is_json = column.ids.new_ids, column.kind == "json"
        return lambda value: read(
            _with_new_ids(value, new_ids, is_json)
            if isinstance(value, str) and not isinstance(value, AsWritten)
            else value
        )
    if column.kind == "timestamp":
        return _timestamp_reader(column)
    if column.kind == "date":
        moment = _timestamp_reader(column)
        return lambda value: f"a{moment(value)[1:11]};"
    if column.type_name == "interval" and column.options.duration_unit is not None:
        return _duration_reader(column.options.duration_unit, normal_form)
    if column.kind == "other":
        return lambda value: _free_text("t", normal_form(_as_text(value)))
    if column.type_name == "json":
        return lambda value: _free_text("t", _as_text(value))
    return _READERS[column.kind]


def _with_new_ids(text: str, new_ids: Mapping[str, str], is_json: bool) -> str:
    """Return a text in which ids are the UUIDs that they became: all of it, or strings in JSON but names of members."""
    if not is_json:
        if text in new_ids:
            return new_ids[text]
        try:
            is_json = text.lstrip(" \t\r\n").startswith(("[", "{"))
            if is_json:
                # The members are dropped as soon as they are read; a number may have more digits than Python reads.
                json.loads(text, object_pairs_hook=lambda _: 0, parse_int=str)
        except (ValueError, RecursionError):
            return text
    parts, done = [], 0
    start = text.find('"') if is_json else -1
    while start >= 0:
        found, end = cast(Any, decoder).scanstring(text, start + 1)
        if found in new_ids and not _MEMBER.match(text, end):
            parts += [text[done:start], f'"{new_ids[found]}"']
            done = end
        start = text.find('"', end)
    return "".join([*parts, text[done:]])


def null_field(column: ColumnPlan) -> str:
    """Return the field of NULL."""
    kind = _kind(column)
    return f"{_CLOSED[kind]};" if kind in _CLOSED else f"{_FREE_TEXT[kind]}-1:"


def _free_text(letter: str, text: str) -> str:
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))
    return f"{letter}{size}:{text}"


def _as_text(value: Value) -> str:
    """Return a text as it is and a number in its shortest exact form."""
    return value if isinstance(value, str) else repr(value)


def _read_bytes(value: Value) -> str:
    if not isinstance(value, bytes):
        return _free_text("x", repr(value))
    if len(value) > LONGEST_SHOWN_BYTES:
        return f"x{len(value)}:{md5(value, usedforsecurity=False).hexdigest()}"
    return f"x{len(value)}:{value.hex()}"


def _read_time(value: Value) -> str:
    """Return a time of day as PostgreSQL writes it: seconds always, a fraction without trailing zeros."""
    clock, _, fraction = str(value).partition(".")
    clock = f"{clock}:00" if clock.count(":") == 1 else clock
    fraction = fraction.rstrip("0")
    return f"c{clock}{'.' if fraction else ''}{fraction};"


def _duration_reader(unit: str, normal_form: Callable[[str], str]) -> Read:
    """Return the function for durations: a number of the unit as PostgreSQL writes that much time."""

    def read(value: Value) -> str:
        try:
            seconds = Decimal(str(value)) * _SECONDS_OF_DURATION[unit]
        except InvalidOperation:
            return _free_text("t", normal_form(_as_text(value)))
        whole, fraction = divmod(abs(seconds), 1)
        minutes, second = divmod(int(whole), 60)
        digits = format(fraction, "f").partition(".")[2].rstrip("0")
        clock = f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}{'.' if digits else ''}{digits}"
        return _free_text("t", f"-{clock}" if seconds < 0 else clock)

    return read


def _double_in_hex(value: Any) -> str:
    return struct.pack(">d", value).hex()


_READERS: dict[str, Read] = {
    "text": lambda value: _free_text("t", _as_text(value)),
    "char": lambda value: _free_text("t", _as_text(value)),
    "uuid": lambda value: _free_text("t", _as_text(value)),
    "integer": lambda value: f"i{Fraction(cast(Any, value))};",
    "boolean": lambda value: f"b{'true' if str(value).lower() in ('1', '1.0', 'true') else 'false'};",
    "json": lambda value: f"j{canonical_json(_as_text(value))};",
    "numeric": lambda value: f"n{_number(str(value))};",
    "double": lambda value: f"d{_double_in_hex(value)};",
    "real": lambda value: f"d{_double_in_hex(value)};",
    "bytes": _read_bytes,
    "time": _read_time,
}


def _timestamp_reader(column: ColumnPlan) -> Read:
    """Return the function for times: as PostgreSQL writes them, in UTC."""
    with_zone = column.type_name == "timestamptz"
    named = column.options.time_zone
    zone = ZoneInfo(named) if with_zone and named != "UTC" else UTC
    suffix = "+00" if with_zone else ""
    # What a number means is for SQLite itself to say.
    said_by_sqlite = _number_reader(column.epoch_unit or "seconds")

    def read(value: Value) -> str:
        try:
            # A double is taken for the shortest number that it is written as.
            number = value if isinstance(value, int) else Fraction(str(value))
        except ValueError:
            moment = datetime.fromisoformat(re.sub(r"\s+(?=[Z+-])", "", str(value)))
            moment = moment.replace(tzinfo=zone) if moment.tzinfo is None else moment
        else:
            moment = datetime.fromisoformat(said_by_sqlite(number, value))
        clock, _, fraction = moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ").partition(".")
        fraction = fraction.rstrip("0")
        return f"m{clock}{'.' if fraction else ''}{fraction}{suffix};"

    return read


def _number_reader(unit: str) -> Callable[[int | Fraction, Value], str]:
    """Return the function that lets SQLite say which moment a number means, in UTC; '' if it is none."""
    clock = sqlite3.connect(":memory:", check_same_thread=False)
    with_fraction = "%Y-%m-%dT%H:%M:%fZ"

    def julian_day(_number: int | Fraction, value: Value) -> str:
        return clock.execute("SELECT strftime(?, ?)", (with_fraction, value)).fetchone()[0] or ""

    def day_of_spreadsheet(_number: int | Fraction, value: Value) -> str:
        days = f"{value} days" if isinstance(value, str) else f"{value!r} days"
        return clock.execute("SELECT strftime(?, '1899-12-30', ?)", (with_fraction, days)).fetchone()[0] or ""

    def count(number: int | Fraction, _value: Value) -> str:
        seconds, rest = divmod(number, per_second)
        microseconds, finer = divmod(rest * 1_000_000, per_second)
        if finer:
            raise ValueError("finer than a microsecond")
        said = clock.execute("SELECT datetime(?, ?)", (first_day, f"{seconds} seconds")).fetchone()[0]
        return f"{said or ''}.{microseconds:06d}+00:00"

    if unit == "julian_days":
        return julian_day
    if unit == "days_since_1899":
        return day_of_spreadsheet
    what, _, since = unit.partition("_since_")
    per_second, first_day = _PER_SECOND[what], _FIRST_DAYS.get(since, "1970-01-01")
    return count


def _number(text: str) -> str:
    """Return a decimal number in plain digits, without trailing zeros behind the point."""
    digits = format(Decimal(text).normalize(_ALL_DIGITS), "f")
    return "0" if digits == "-0" else digits


# ---------------------------------------------------------------- JSON as jsonb writes it

# A number that is no whole one becomes a string with this mark, which jsonb can hold in no string.
_MARK = "\x00"
_MARKED_NUMBER = re.compile(r'"\\u0000([^"]*)"')


def canonical_json(text: str) -> str:
    """Return a JSON text as ``jsonb`` writes it: keys by length then bytes, exact numbers.

    :raises ValueError: if it is not JSON, or if an object names a key twice.
    """
    try:
        value, end = _scan(text, 0)
        if end != len(text):
            value = _patient.decode(text)
    except (StopIteration, ValueError):
        value = _patient.decode(text)
    written = "".join(_encode(value, 0))
    return _MARKED_NUMBER.sub(r"\1", written) if "\\u0000" in written else written


def _in_order(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object with its keys in jsonb's order: shorter ones first, then by their bytes."""
    members = dict(pairs)
    if len(members) != len(pairs):
        # jsonb keeps one of them: no text of its own would be the same.
        raise ValueError("a key is named twice")
    keys = tuple(members)
    order = _order(keys)
    return members if order == keys else {key: members[key] for key in order}


@lru_cache(maxsize=10_000)
def _order(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return keys in jsonb's order; most objects of a column have the same ones."""
    return tuple(sorted(keys, key=_bytes_in_order))


def _bytes_in_order(key: str) -> tuple[int, bytes]:
    data = key.encode("utf-8", "surrogatepass")
    return len(data), data


def _marked(text: str) -> str:
    """Return a JSON number with a point or an exponent in plain digits, marked; jsonb keeps trailing zeros."""
    digits = format(Decimal(text), "f")
    return _MARK + (digits[1:] if digits.startswith("-") and not digits.strip("-0.") else digits)


def _whole(text: str) -> Any:
    """Return a whole JSON number; one with more digits than Python reads at once is marked."""
    return int(text) if len(text) < 4_000 else _marked(text)


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


_scan = cast(
    Any, json.JSONDecoder(object_pairs_hook=_in_order, parse_float=_marked, parse_constant=_refuse_constant)
).scan_once
# For space around the value, and for numbers of thousands of digits.
_patient = json.JSONDecoder(
    object_pairs_hook=_in_order, parse_float=_marked, parse_int=_whole, parse_constant=_refuse_constant
)


def _unknown(value: Any) -> Any:
    raise TypeError(type(value).__name__)


# json.dumps without building its encoder for each value; PostgreSQL separates with the same ", " and ": ".
_encode = cast(Any, encoder).c_make_encoder(
    None, _unknown, cast(Any, encoder).encode_basestring, None, ": ", ", ", False, False, False
)
