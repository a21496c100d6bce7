"""The forward mapping: one stored value to the text that PostgreSQL's own parser reads.

Nothing here changes what a value means. What cannot be said exactly in the target's type is
refused, with the name of the policy that may answer for it. The inverse mapping in
:mod:`.verify` is written apart from this one and shares nothing with it.
"""

from __future__ import annotations

import json
import math
import re
import struct
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from .plan import EPOCH_FACTORS, INTEGER_RANGES, ColumnPlan
from .source import Value, has_invalid_utf8

# Root of the namespaces in which text ids become UUIDs. Never change it: the same id must become
# the same UUID on every run and every host.
ID_ROOT = uuid.UUID("7d0c1e9a-3f1b-5c57-9a53-0b6f3f2f6a11")

Convert = Callable[[Value], "str | None"]
Note = Callable[[str], None]

_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
_ANY_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\Z")
_INTEGER_TEXT = re.compile(r"-?(?:0|[1-9][0-9]*)\Z")
_NUMBER_TEXT = re.compile(r"[0-9]+(?:\.[0-9]+)?\Z")
_TIME_TEXT = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d(?::\d\d)?)(?:\.(\d+))?)?\s*(Z|[+-]\d\d(?::?\d\d)?)?\Z", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# jsonb holds numbers as numeric: at most 131,072 digits before the point and 16,383 after it.
_JSON_EXPONENT_LIMIT = 16_000


class Refused(Exception):
    """A value that its target column cannot hold as it is.

    :param policy: the policy of :data:`.estate.POLICIES` that may answer for it.
    :param what: what is wrong, without the value itself.
    """

    def __init__(self, policy: str, what: str) -> None:
        super().__init__(what)
        self.policy = policy
        self.what = what


def id_namespace(name: str) -> uuid.UUID:
    """Return the namespace in which the text ids of one table become UUIDs."""
    return uuid.uuid5(ID_ROOT, name)


def converter(column: ColumnPlan, note: Note) -> Convert:
    """Return the function that converts the values of one column.

    :param note: called with the name of a conversion each time a value changes its form.
    :returns: a function from a stored value to the text that PostgreSQL parses, None for NULL;
        it raises :class:`Refused`.
    """
    build = _CONVERTERS.get(column.kind, _other)
    convert = build(column, note)

    def guarded(value: Value) -> str | None:
        if value is None:
            if column.not_null:
                raise Refused("null_value", "holds NULL, and the target column is NOT NULL")
            return None
        if value == "" and column.kind not in ("text", "char"):
            raise Refused("empty_string", f"holds '' where {column.display_type} is needed")
        if isinstance(value, str) and has_invalid_utf8(value):
            raise Refused("invalid_utf8", "holds bytes that are not UTF-8")
        return convert(value)

    return guarded


def storage_class(value: Value) -> str:
    """Return SQLite's name of a value's storage class."""
    if value is None:
        return "null"
    return {int: "integer", float: "real", str: "text", bytes: "blob"}[type(value)]


def _needs(column: ColumnPlan, value: Value) -> Refused:
    """Return the refusal of a value whose storage class does not fit the target's type."""
    return Refused("unconvertible", f"holds {storage_class(value)} where {column.display_type} is needed")


def _number_to_text(value: int | float) -> str:
    """Return the shortest text that reads back as the same number. SQLite's own is lossy."""
    return repr(value)


def _text(column: ColumnPlan, note: Note) -> Convert:
    """Text, with or without a longest length."""

    def convert(value: Value) -> str:
        if isinstance(value, bytes):
            raise _needs(column, value)
        if not isinstance(value, str):
            note(f"{storage_class(value)} to text")
            value = _number_to_text(value)  # type: ignore[arg-type] # None never gets here
        if "\x00" in value:
            raise Refused("nul_character", "holds the character U+0000, which PostgreSQL's text cannot")
        if column.max_length is not None and len(value) > column.max_length:
            raise Refused("unconvertible", f"holds {len(value):,} characters where {column.display_type} is needed")
        return value

    return convert


def _char(column: ColumnPlan, note: Note) -> Convert:
    """char(n), which forgets trailing spaces."""
    as_text = _text(column, note)

    def convert(value: Value) -> str | None:
        text = as_text(value)
        if text is not None and text.endswith(" "):
            raise Refused("unconvertible", f"ends in a space, which {column.display_type} would forget")
        return text

    return convert


def _uuid(column: ColumnPlan, note: Note) -> Convert:
    """A UUID as it is; any other id as uuid5 in the namespace of the table it belongs to."""
    namespace = None if column.namespace is None else id_namespace(column.namespace)

    def convert(value: Value) -> str:
        if isinstance(value, bytes):
            raise _needs(column, value)
        text = value if isinstance(value, str) else _number_to_text(value)  # type: ignore[arg-type]
        if _CANONICAL_UUID.match(text):
            return text
        if namespace is None:
            raise Refused(
                "unconvertible",
                "holds an id that is not a UUID, and no foreign key or 'references' says whose id it is",
            )
        if _ANY_UUID.match(text):
            note("uuid in other spelling to uuid")
            return text.lower()
        if "\x00" in text:
            raise Refused("nul_character", "holds the character U+0000, which PostgreSQL's text cannot")
        note(f"{storage_class(value)} id to uuid")
        return str(uuid.uuid5(namespace, text))

    return convert


def _integer(column: ColumnPlan, note: Note) -> Convert:
    """A whole number within the range of the target's type."""
    low, high = INTEGER_RANGES[column.type_name]

    def convert(value: Value) -> str:
        if isinstance(value, float):
            if not value.is_integer():
                raise Refused("fraction", f"holds a fraction where {column.display_type} is needed")
            note("real to integer")
            number = int(value)
        elif isinstance(value, str) and _INTEGER_TEXT.match(value) and value != "-0":
            note("text to integer")
            number = int(value)
        elif isinstance(value, int):
            number = value
        else:
            raise _needs(column, value)
        if not low <= number <= high:
            raise Refused("unconvertible", f"holds a number outside the range of {column.display_type}")
        return str(number)

    return convert


def _boolean(column: ColumnPlan, note: Note) -> Convert:
    """0 and 1, and the words true and false."""
    texts = {"0": "f", "1": "t", "true": "t", "false": "f", "0.0": "f", "1.0": "t"}

    def convert(value: Value) -> str:
        if isinstance(value, (int, float)) and value in (0, 1):
            return "t" if value else "f"
        if isinstance(value, str) and value.lower() in texts:
            note("text to boolean")
            return texts[value.lower()]
        if isinstance(value, (int, float)):
            raise Refused("unconvertible", "holds a number other than 0 and 1 where boolean is needed")
        raise _needs(column, value)

    return convert


def _json(column: ColumnPlan, note: Note) -> Convert:
    """JSON text as it is; a number that NUMERIC affinity made of a JSON text as that number."""

    def convert(value: Value) -> str:
        if isinstance(value, bytes):
            raise _needs(column, value)
        if isinstance(value, str):
            text = value
        else:
            note(f"{storage_class(value)} to JSON number")
            text = _number_to_text(value)  # type: ignore[arg-type]
        try:
            parsed = json.loads(text, parse_constant=_refuse_constant, parse_float=_JsonNumber, parse_int=_JsonNumber)
        except RecursionError:
            raise Refused("invalid_json", "holds JSON that is nested too deeply") from None
        except ValueError:
            raise Refused(
                "invalid_json", f"holds text that is not JSON where {column.display_type} is needed"
            ) from None
        _check_json(parsed)
        return text

    return convert


class _JsonNumber(str):
    """A number in JSON, still as its text."""


def _refuse_constant(name: str) -> Any:
    """Refuse NaN and Infinity, which Python's parser takes and JSON does not know."""
    raise ValueError(name)


def _check_json(value: Any) -> None:
    """Refuse what is JSON but cannot be held by jsonb: U+0000, lone surrogates, huge numbers."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, _JsonNumber):
            if abs(Decimal(item).adjusted()) > _JSON_EXPONENT_LIMIT or len(item) > _JSON_EXPONENT_LIMIT:
                raise Refused("invalid_json", "holds a JSON number that PostgreSQL's numeric cannot hold")
        elif isinstance(item, str):
            if "\x00" in item:
                raise Refused("nul_character", "holds U+0000 inside JSON, which jsonb cannot")
            if has_invalid_utf8(item):
                raise Refused("invalid_json", "holds half a surrogate pair inside JSON, which jsonb cannot")
        elif isinstance(item, dict):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _timestamp(column: ColumnPlan, note: Note) -> Convert:
    """A time: ISO text with or without a zone, or a number in the unit that the plan decided."""
    zone = ZoneInfo(column.options.time_zone)
    with_zone = column.type_name == "timestamptz"

    def from_number(number: Decimal) -> str:
        if column.epoch_unit is None:
            raise Refused("unconvertible", "holds a number whose unit is not known")
        microseconds = number * EPOCH_FACTORS[column.epoch_unit]
        if microseconds != microseconds.to_integral_value():
            raise Refused("unconvertible", "holds a time finer than a microsecond")
        note(f"epoch {column.epoch_unit} to {column.display_type}")
        try:
            moment = _EPOCH + timedelta(microseconds=int(microseconds))
        except OverflowError:
            raise Refused("unconvertible", "holds a time outside the years 1 to 9999") from None
        return moment.isoformat(sep=" ") if with_zone else moment.replace(tzinfo=None).isoformat(sep=" ")

    def convert(value: Value) -> str:
        if isinstance(value, bytes):
            raise _needs(column, value)
        if isinstance(value, float) and not math.isfinite(value):
            raise _needs(column, value)
        if isinstance(value, (int, float)):
            return from_number(Decimal(value))
        if isinstance(value, str) and _NUMBER_TEXT.match(value):
            return from_number(Decimal(value))
        match = _TIME_TEXT.match(value)  # type: ignore[arg-type]
        if match is None:
            raise Refused("unconvertible", "holds text that is not a time in a known form")
        day, clock, fraction, offset = match.groups()
        if fraction is not None and fraction[6:].strip("0"):
            raise Refused("unconvertible", "holds a time finer than a microsecond")
        try:
            moment = datetime.fromisoformat(f"{day} {clock or '00:00'}")
        except ValueError:
            raise Refused("unconvertible", "holds text that looks like a time but is none") from None
        text = f"{day} {clock or '00:00'}" + (f".{fraction[:6]}" if fraction else "")
        if offset is None:
            if not with_zone:
                return text
            if moment.replace(tzinfo=zone, fold=0).utcoffset() != moment.replace(tzinfo=zone, fold=1).utcoffset():
                raise Refused("unconvertible", f"holds a time that is ambiguous or missing in {zone.key}")
            return f"{text} {zone.key}"
        if with_zone:
            return text + ("+00" if offset == "Z" else offset)
        if offset not in ("Z", "+00", "+00:00", "+0000"):
            raise Refused("unconvertible", f"holds a time with an offset where {column.display_type} is needed")
        return text

    return convert


def _numeric(column: ColumnPlan, note: Note) -> Convert:
    """An exact number; the target's scale must hold every digit."""
    modifier = column.display_type.partition("(")[2].rstrip(")")
    scale = int(modifier.split(",")[1]) if "," in modifier else (0 if modifier else None)

    def convert(value: Value) -> str:
        if isinstance(value, str) and re.match(r"-?[0-9]+(\.[0-9]+)?\Z", value, re.ASCII):
            note("text to numeric")
            text = value
        elif isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            text = _number_to_text(value)
        else:
            raise _needs(column, value)
        number = Decimal(text)
        if scale is not None and number != round(number, scale):
            raise Refused("fraction", f"holds more decimals than {column.display_type} can")
        return text

    return convert


def _double(column: ColumnPlan, note: Note) -> Convert:
    """A double; a whole number only if a double holds it exactly."""

    def convert(value: Value) -> str:
        if isinstance(value, float):
            return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, repr(value))
        if isinstance(value, int):
            if int(float(value)) != value:
                raise Refused("unconvertible", f"holds a whole number that {column.display_type} cannot hold exactly")
            return str(value)
        raise _needs(column, value)

    return convert


def _real(column: ColumnPlan, note: Note) -> Convert:
    """A single-precision number; the double in the source must be one already."""
    as_double = _double(column, note)

    def convert(value: Value) -> str | None:
        text = as_double(value)
        number = float(value)  # type: ignore[arg-type]
        try:
            exact = math.isinf(number) or struct.unpack("f", struct.pack("f", number))[0] == number
        except OverflowError:
            exact = False
        if not exact:
            raise Refused("unconvertible", "holds a number that real (4 bytes) cannot hold exactly")
        return text

    return convert


def _bytes(column: ColumnPlan, note: Note) -> Convert:
    """A BLOB; text is refused, for nobody knows how it is meant."""

    def convert(value: Value) -> str:
        if not isinstance(value, bytes):
            raise _needs(column, value)
        return "\\x" + value.hex()

    return convert


def _other(column: ColumnPlan, note: Note) -> Convert:
    """Any other type through its text input; verification demands the very same text back."""
    as_text = _text(column, note)

    def convert(value: Value) -> str | None:
        return as_text(value)

    return convert


_CONVERTERS: dict[str, Callable[[ColumnPlan, Note], Convert]] = {
    "text": _text,
    "char": _char,
    "uuid": _uuid,
    "integer": _integer,
    "boolean": _boolean,
    "json": _json,
    "timestamp": _timestamp,
    "numeric": _numeric,
    "double": _double,
    "real": _real,
    "bytes": _bytes,
}
