"""The forward mapping: one stored value to the text that PostgreSQL's own parser reads.

Nothing here changes what a value means. What cannot be said exactly in the target's type is
refused, with the name of the policy that may answer for it. The inverse mapping in
:mod:`.engine.proof.canonical` is written apart from this one and shares nothing with it.
"""

from __future__ import annotations

import json
import math
import re
import struct
import uuid
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from hashlib import sha1
from typing import Any

from ...sqlite.tables import Value, has_invalid_utf8
from ..plan.planner import INTEGER_RANGES, ColumnPlan
from .ids_in_texts import texts_in, with_other_ids
from .refusals import UNCLEAR_ID, Convert, Note, Refused, needs, storage_class
from .times import date_converter, time_converter, timestamp_converter

# Root of the namespaces in which text ids become UUIDs. Never change it: the same id must become
# the same UUID on every run and every host.
ID_ROOT = uuid.UUID("7d0c1e9a-3f1b-5c57-9a53-0b6f3f2f6a11")


_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
_ANY_UUID = re.compile(r"(?:[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|[0-9a-fA-F]{32})\Z")
_DECIMAL_TEXT = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,6})?\Z")
_INTEGER_TEXT = re.compile(r"-?(?:0|[1-9][0-9]*)\Z")
# jsonb holds numbers as numeric: at most 131,072 digits before the point and 16,383 after it.
_JSON_EXPONENT_LIMIT = 16_000
# What a numeric without a modifier holds: digits before the point, and after it.
_NUMERIC_LIMITS = (131_072, 16_383)
_LONGEST_NUMBER = sum(_NUMERIC_LIMITS) + len("-.e-999999")
# Longest whole number that any integer type holds, with its sign.
_INTEGER_LENGTH = 20
# Types outside our own kinds for which '' is a value like any other.
_EMPTY_IS_A_VALUE = frozenset(("citext", "ltree", "tsvector", "tsquery", "hstore", "varbit", "xml", "name", "char"))


def id_namespace(name: str) -> uuid.UUID:
    """Return the namespace in which the text ids of one table become UUIDs."""
    return uuid.uuid5(ID_ROOT, name)


def name_based_id(namespace: bytes, name: str) -> str:
    """Return ``str(uuid.uuid5(…))`` in a third of its time: a million ids are the rule, not the exception.

    :param namespace: the 16 bytes of the namespace's UUID.
    :raises UnicodeEncodeError: if the name is not valid text.
    """
    digits = sha1(namespace + name.encode(), usedforsecurity=False).hexdigest()
    # RFC 9562, 5.5: the version, and two bits of the variant.
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


def converter(column: ColumnPlan, note: Note) -> Convert:
    """Return the function that converts the values of one column.

    :param note: called with the name of a conversion each time a value changes its form.
    :returns: a function from a stored value to the text that PostgreSQL parses, None for NULL;
        it raises :class:`Refused`.
    """
    build = _CONVERTERS.get(column.kind, _other)
    convert = build(column, note)
    empty_is_a_value = column.kind in ("text", "char") or (
        column.kind not in _CONVERTERS and column.type_name.rpartition(".")[2] in _EMPTY_IS_A_VALUE
    )

    def guarded(value: Value) -> str | None:
        if value is None:
            if column.not_null:
                raise Refused("null_value", "holds NULL, and the target column is NOT NULL")
            return None
        if value == "" and not empty_is_a_value:
            raise Refused("empty_string", f"holds '' where {column.display_type} is needed")
        if isinstance(value, str) and has_invalid_utf8(value):
            raise Refused("invalid_utf8", "holds bytes that are not UTF-8")
        return convert(value)

    return guarded


def _number_to_text(value: int | float) -> str:
    """Return the shortest text that reads back as the same number. SQLite's own is lossy."""
    return repr(value)


def _text(column: ColumnPlan, note: Note) -> Convert:
    """Text, with or without a longest length."""

    def convert(value: Value) -> str:
        if isinstance(value, bytes):
            raise needs(column, value)
        if not isinstance(value, str):
            note(f"{storage_class(value)} to text")
            value = _number_to_text(value)  # type: ignore[arg-type] # None never gets here
        elif column.ids is not None:
            value = _with_new_ids(column, value, note)
        if "\x00" in value:
            raise Refused("nul_character", "holds the character U+0000, which PostgreSQL's text cannot")
        if column.max_length is not None and len(value) > column.max_length:
            what = f"holds more characters than {column.display_type} can"
            raise Refused("unconvertible", what, characters=len(value))
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
    """A UUID, also without hyphens; any other id as uuid5 in the namespace of the table it belongs to.

    A REAL is no id: in a column of numbers SQLite has made one of each hexadecimal id with an exponent in it,
    such as 9e7866347, and many ids are one number then.
    """
    namespace = None if column.namespace is None else id_namespace(column.namespace)

    def convert(value: Value) -> str:
        if isinstance(value, bytes):
            raise needs(column, value)
        if isinstance(value, float):
            raise Refused("unconvertible", "holds a REAL where an id is needed")
        text = value if isinstance(value, str) else _number_to_text(value)  # type: ignore[arg-type]
        if _CANONICAL_UUID.match(text):
            return text
        if namespace is not None and _ANY_UUID.match(text):
            # The id map keeps its spelling.
            note("uuid in other spelling to uuid")
            return str(uuid.UUID(text))
        if namespace is None or not column.text_ids:
            raise Refused(
                "unconvertible",
                "holds an id that is not a UUID, and no foreign key or 'references' says whose id it is",
            )
        if "\x00" in text:
            raise Refused("nul_character", "holds the character U+0000, which PostgreSQL's text cannot")
        note(f"{storage_class(value)} id to uuid")
        return name_based_id(namespace.bytes, text)

    return convert


def _integer(column: ColumnPlan, note: Note) -> Convert:
    """A whole number within the range of the target's type."""
    low, high = INTEGER_RANGES[column.type_name]

    def convert(value: Value) -> str:
        if isinstance(value, float):
            if math.isinf(value):
                raise Refused("out_of_range", f"holds a number outside the range of {column.display_type}")
            if not value.is_integer():
                raise Refused("fraction", f"holds a fraction where {column.display_type} is needed")
            note("real to integer")
            number = int(value)
        elif isinstance(value, str) and _INTEGER_TEXT.match(value) and value != "-0":
            if len(value) > _INTEGER_LENGTH:
                raise Refused("out_of_range", f"holds a number outside the range of {column.display_type}")
            note("text to integer")
            number = int(value)
        elif isinstance(value, int):
            number = value
        else:
            raise needs(column, value)
        if not low <= number <= high:
            raise Refused("out_of_range", f"holds a number outside the range of {column.display_type}")
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
        raise needs(column, value)

    return convert


def _json(column: ColumnPlan, note: Note) -> Convert:
    """JSON text as it is; a number that NUMERIC affinity made of a JSON text as that number."""

    def convert(value: Value) -> str:
        if isinstance(value, bytes):
            raise needs(column, value)
        if isinstance(value, str):
            text = value
        else:
            note(f"{storage_class(value)} to JSON number")
            text = _number_to_text(value)  # type: ignore[arg-type]
        _check_json(text, column)
        return _with_new_ids(column, text, note)

    return convert


def _with_new_ids(column: ColumnPlan, text: str, note: Note) -> str:
    """Return a text in which the ids that the inventory names are UUIDs."""
    if column.ids is None:
        return text
    unclear = column.ids.unclear
    if unclear and any(each in unclear for each, names_a_member in texts_in(text, column.kind) if not names_a_member):
        raise Refused("unconvertible", UNCLEAR_ID)
    rewritten = with_other_ids(text, column.kind, column.ids.new_ids)
    if rewritten != text:
        note("ids in it to uuid")
    return rewritten


def _refuse_constant(name: str) -> Any:
    """Refuse NaN and Infinity, which Python's parser takes and JSON does not know."""
    raise ValueError(name)


def _check_json(text: str, column: ColumnPlan) -> None:
    """Refuse what is not JSON, and what jsonb cannot hold: U+0000, lone surrogates, huge numbers.

    Numbers and objects are dropped as soon as they are checked, so that a large document does not
    become a much larger tree of Python objects.

    :raises Refused: naming ``invalid_json``, ``nul_character`` or ``repeated_key``.
    """
    found: list[Refused] = []
    one_of_each = column.type_name == "jsonb"
    # The parser refuses raw control characters, so only an escape can bring in what jsonb cannot hold.
    has_escapes = "\\u" in text

    def number(digits: str) -> None:
        if len(digits) > 20 or "e" in digits or "E" in digits:
            try:
                exponent = Decimal(digits).adjusted()
            except ArithmeticError:
                exponent = _JSON_EXPONENT_LIMIT + 1
            if abs(exponent) > _JSON_EXPONENT_LIMIT or len(digits) > _JSON_EXPONENT_LIMIT:
                found.append(Refused("invalid_json", "holds a JSON number that PostgreSQL's numeric cannot hold"))

    def members(pairs: list[tuple[str, Any]]) -> None:
        if one_of_each and len(dict(pairs)) != len(pairs):
            found.append(Refused("repeated_key", "holds a JSON object that names a key twice"))
        if has_escapes:
            for name, member in pairs:
                strings(name)
                strings(member)

    def strings(value: Any) -> None:
        pending = [value]
        while pending:
            item = pending.pop()
            if isinstance(item, list):
                pending.extend(item)
            elif isinstance(item, str):
                if "\x00" in item:
                    found.append(Refused("nul_character", "holds U+0000 inside JSON, which jsonb cannot"))
                if has_invalid_utf8(item):
                    found.append(Refused("invalid_json", "holds half a surrogate pair inside JSON, which jsonb cannot"))

    try:
        parsed = json.loads(
            text, parse_constant=_refuse_constant, parse_float=number, parse_int=number, object_pairs_hook=members
        )
    except RecursionError:
        raise Refused("invalid_json", "holds JSON that is nested too deeply") from None
    except ValueError:
        raise Refused("invalid_json", f"holds text that is not JSON where {column.display_type} is needed") from None
    if has_escapes:
        strings(parsed)
    if found:
        raise found[0]


def _numeric(column: ColumnPlan, note: Note) -> Convert:
    """An exact number; the target's precision and scale must hold every digit."""
    whole_digits, scale = _NUMERIC_LIMITS
    if column.precision is not None and column.scale is not None:
        whole_digits, scale = column.precision - column.scale, column.scale

    def convert(value: Value) -> str:
        if isinstance(value, str):
            match = _DECIMAL_TEXT.match(value) if len(value) <= _LONGEST_NUMBER else None
            if match is None:
                raise Refused("unconvertible", f"holds text that is not a number where {column.display_type} is needed")
            note("text with an exponent to numeric" if match.group(1) else "text to numeric")
            text = value
        elif isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            text = _number_to_text(value)
            if isinstance(value, int) and scale >= 0 and len(text) <= whole_digits:
                return text
        else:
            raise needs(column, value)
        _check_digits(text)
        return text

    def _check_digits(text: str) -> None:
        """Refuse what PostgreSQL would round, or refuse itself."""
        number = Decimal(text)
        if not number:
            return
        _, digits, exponent = number.as_tuple()
        zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
        if -(int(exponent) + zeros) > scale:
            raise Refused("fraction", f"holds more decimals than {column.display_type} can")
        if number.adjusted() + 1 > whole_digits:
            raise Refused("out_of_range", f"holds a number outside the range of {column.display_type}")

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
        raise needs(column, value)

    return convert


def _real(column: ColumnPlan, note: Note) -> Convert:
    """A single-precision number; the double in the source must be one already."""
    as_double = _double(column, note)

    def convert(value: Value) -> str | None:
        text = as_double(value)
        number = float(value)  # type: ignore[arg-type]
        try:
            exact = math.isinf(number) or struct.unpack("=f", struct.pack("=f", number))[0] == number
        except OverflowError:
            raise Refused("out_of_range", "holds a number outside the range of real (4 bytes)") from None
        if not exact:
            raise Refused("unconvertible", "holds a number that real (4 bytes) cannot hold exactly")
        return text

    return convert


# A number in a column of durations, also as text.
_DURATION_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?\Z")
_LONGEST_DURATION = 100
MICROSECONDS = {
    "microseconds": 1,
    "milliseconds": 1_000,
    "seconds": 1_000_000,
    "minutes": 60_000_000,
    "hours": 3_600_000_000,
    "days": 86_400_000_000,
}


def _interval(column: ColumnPlan, note: Note) -> Convert:
    """A duration as the type's own input reads it, or a number in the unit that the inventory names."""
    as_text = _text(column, note)
    unit = column.options.duration_unit

    def convert(value: Value) -> str | None:
        if not is_duration_number(value):
            return as_text(value)
        if unit is None:
            raise Refused("duration_unit", "holds a number whose unit is not known")
        out_of_range = Refused("out_of_range", f"holds a number outside the range of {column.display_type}")
        if isinstance(value, float) and math.isinf(value):
            raise out_of_range
        # A double stands for the shortest number that it is written as.
        exact = Fraction(str(value)) * MICROSECONDS[unit]
        if exact.denominator != 1:
            raise Refused("unconvertible", "holds a duration finer than a microsecond")
        if abs(exact.numerator) >= 2**63:
            raise out_of_range
        note(f"{unit} to {column.display_type}")
        return f"{exact.numerator} microseconds"

    return convert


def is_duration_number(value: Value) -> bool:
    """Return whether a value in a column of durations is a number without a unit."""
    if isinstance(value, str):
        return len(value) <= _LONGEST_DURATION and _DURATION_NUMBER.match(value) is not None
    return isinstance(value, (int, float))


def _bytes(column: ColumnPlan, note: Note) -> Convert:
    """A BLOB; text is refused, for nobody knows how it is meant."""

    def convert(value: Value) -> str:
        if not isinstance(value, bytes):
            raise needs(column, value)
        return "\\x" + value.hex()

    return convert


def _other(column: ColumnPlan, note: Note) -> Convert:
    """Any other type through its text input; verification demands the very same text back."""
    if column.type_name == "interval":
        return _interval(column, note)
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
    "timestamp": timestamp_converter,
    "date": date_converter,
    "time": time_converter,
    "numeric": _numeric,
    "double": _double,
    "real": _real,
    "bytes": _bytes,
}
