"""The proof: PostgreSQL is read back through the inverse mapping and compared with the source.

Both sides are brought to the same canonical fields: the source's values as they are stored (or
as a policy says), the target's values by undoing the conversion. The inverse mapping shares no
code with :mod:`.convert`, so that a mistake in one is caught by the other. Each row is hashed
over its typed, length-prefixed fields, and the hashes are added up modulo 2^128: a changed
value, a missing row and a doubled row all change the sum.
"""

from __future__ import annotations

import json
import re
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from .load import table_name
from .plan import ColumnPlan, TablePlan
from .policies import repair
from .prepare import PreparedTable
from .source import Value, read_rows, row_key

try:
    from psycopg2 import sql
except ImportError:  # reported by connection.connect()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.sql import Composable

# The fields of one row: each a letter for its type, then its bytes; None for NULL.
Fields = tuple[bytes | None, ...]
Consumer = Callable[[Fields], None]
SHOWN_DIFFERENCES = 20

_MODULUS = 1 << 128
_MICROSECOND = timedelta(microseconds=1)
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PER_SECOND = {"seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000}
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_UNESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


@dataclass
class Comparison:
    """Both sides of one table.

    :param differences: the first rows that differ: key, column, and both values (masked if secret).
    """

    source_rows: int = 0
    target_rows: int = 0
    source_hash: str = ""
    target_hash: str = ""
    differences: list[dict[str, str]] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Return whether every row arrived and no other is there."""
        return self.source_rows == self.target_rows and self.source_hash == self.target_hash


def compare_table(connection: Connection, snapshot: sqlite3.Connection, prepared: PreparedTable) -> Comparison:
    """Compare one table of the source with its target, and name the rows that differ."""
    plan = prepared.plan
    result = Comparison()
    source, target = _Sum(), _Sum()
    for fields in _source_fields(snapshot, prepared):
        source.add(fields)
    _read_target(connection, plan, target.add)
    result.source_rows, result.source_hash = source.rows, source.hexdigest()
    result.target_rows, result.target_hash = target.rows, target.hexdigest()
    if not result.equal:
        result.differences = _differences(connection, snapshot, prepared)
    return result


def row_hash(fields: Fields) -> bytes:
    """Return the 128-bit hash of one row over its typed, length-prefixed fields."""
    digest = blake2b(digest_size=16)
    for item in fields:
        if item is None:
            digest.update(b"N")
        else:
            digest.update(b"V%d:" % len(item))
            digest.update(item)
    return digest.digest()


class _Sum:
    """The number of rows and the sum of their hashes."""

    def __init__(self) -> None:
        self.rows = 0
        self._total = 0

    def add(self, fields: Fields) -> None:
        """Add one row."""
        self.rows += 1
        self._total += int.from_bytes(row_hash(fields), "big")

    def hexdigest(self) -> str:
        """Return the sum modulo 2^128 as 32 hexadecimal digits."""
        return f"{self._total % _MODULUS:032x}"


# ---------------------------------------------------------------- the source's side


def _source_fields(snapshot: sqlite3.Connection, prepared: PreparedTable) -> Iterator[Fields]:
    """Yield the canonical fields of every row that was not rejected."""
    plan = prepared.plan
    readers = [_SOURCE[column.kind](column) for column in plan.columns]
    names = tuple(column.source for column in plan.columns)
    count = len(names)
    special = bool(prepared.rejected or prepared.changes)
    for row in read_rows(snapshot, plan.source, names):
        values = row[:count]
        if special:
            key = row_key(plan.source, row[count:])
            if key in prepared.rejected:
                continue
            changes = prepared.changes.get(key)
            if changes is not None:
                values = tuple(
                    _repaired(value, changes.get(name, ())) for name, value in zip(names, values, strict=True)
                )
        yield tuple(None if value is None else read(value) for read, value in zip(readers, values, strict=True))


def _repaired(value: Value, answers: Sequence[str]) -> Value:
    """Return what the policies make of a value."""
    for answer in answers:
        value = repair(value, answer)
    return value


def _source_text(_column: ColumnPlan) -> Callable[[Value], bytes]:
    """Text, and numbers in their shortest exact form."""

    def read(value: Value) -> bytes:
        text = value if isinstance(value, str) else str(value)
        return b"t" + text.encode("utf-8", "surrogateescape")

    return read


def _source_integer(_column: ColumnPlan) -> Callable[[Value], bytes]:
    """A whole number, whatever storage class holds it."""

    def read(value: Value) -> bytes:
        number = Fraction(value) if isinstance(value, (int, float, str)) else None
        return b"i" + str(number).encode()

    return read


def _source_boolean(_column: ColumnPlan) -> Callable[[Value], bytes]:
    """0 or 1."""
    return lambda value: b"b1" if str(value).lower() in ("1", "1.0", "true") else b"b0"


def _source_json(_column: ColumnPlan) -> Callable[[Value], bytes]:
    """The value that the JSON text means."""
    return lambda value: b"j" + _canonical_json(value if isinstance(value, str) else repr(value))


def _source_timestamp(column: ColumnPlan) -> Callable[[Value], bytes]:
    """Microseconds since 1970, in UTC."""
    zone = ZoneInfo(column.options.time_zone) if column.type_name == "timestamptz" else UTC

    def read(value: Value) -> bytes:
        try:
            number = Fraction(value)  # type: ignore[arg-type] # only numbers and texts get here
        except ValueError:
            moment = datetime.fromisoformat(re.sub(r"\s+(?=[Z+-])", "", str(value)))
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=zone)
            return b"m%d" % ((moment - _UNIX_EPOCH) // _MICROSECOND)
        microseconds = number * 1_000_000 / _PER_SECOND[column.epoch_unit or "seconds"]
        return b"m" + str(microseconds).encode()

    return read


def _source_numeric(_column: ColumnPlan) -> Callable[[Value], bytes]:
    """The decimal value."""
    return lambda value: b"n" + _canonical_number(str(value)).encode()


def _source_double(_column: ColumnPlan) -> Callable[[Value], bytes]:
    """The eight bytes of the double."""
    return lambda value: b"d" + struct.pack(">d", value)


def _source_bytes(_column: ColumnPlan) -> Callable[[Value], bytes]:
    """The bytes."""
    return lambda value: b"x" + (value if isinstance(value, bytes) else repr(value).encode())


_SOURCE: dict[str, Callable[[ColumnPlan], Callable[[Value], bytes]]] = {
    "text": _source_text,
    "char": _source_text,
    "uuid": _source_text,
    "other": _source_text,
    "integer": _source_integer,
    "boolean": _source_boolean,
    "json": _source_json,
    "timestamp": _source_timestamp,
    "numeric": _source_numeric,
    "double": _source_double,
    "real": _source_double,
    "bytes": _source_bytes,
}


# ---------------------------------------------------------------- the target's side


def _read_target(connection: Connection, plan: TablePlan, consume: Consumer) -> None:
    """Hand the canonical fields of every row of the target to ``consume``, as the server sends them."""
    readers = [_TARGET[column.kind] for column in plan.columns]
    expressions = sql.SQL(", ").join(_expression(column) for column in plan.columns)
    query = sql.SQL("COPY (SELECT {} FROM {} AS t) TO STDOUT").format(expressions, table_name(plan.target.name))

    def consume_line(line: bytes) -> None:
        consume(
            tuple(
                None if text == b"\\N" else read(_unescape(text))
                for read, text in zip(readers, line.split(b"\t"), strict=True)
            )
        )

    with connection.cursor() as cursor:
        cursor.copy_expert(query, _Lines(consume_line))


class _Lines:
    """What COPY TO writes to: cuts the stream into lines, so that no more than one is held."""

    def __init__(self, consume: Callable[[bytes], None]) -> None:
        self._consume = consume
        self._rest = b""

    def write(self, data: bytes) -> None:
        """Take the next piece of the stream."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._consume(line)


def _unescape(text: bytes) -> bytes:
    """Undo COPY's backslash escapes."""
    if b"\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: _UNESCAPED.get(match.group(1), match.group(1)), text)


def _expression(column: ColumnPlan) -> Composable:
    """Return the SQL that undoes the conversion as far as the server does it better than we."""
    name = sql.Identifier("t", column.target)
    if column.kind == "uuid" and column.namespace is not None:
        return sql.SQL(
            "coalesce((SELECT m.old_id FROM migration.id_map AS m WHERE m.namespace = {} AND m.new_id = {}), {}::text)"
        ).format(sql.Literal(column.namespace), name, name)
    if column.kind == "timestamp":
        return sql.SQL("(extract(epoch FROM {}) * 1000000)::numeric(40, 0)").format(name)
    if column.kind == "bytes":
        return sql.SQL("encode({}, 'hex')").format(name)
    if column.kind == "char":
        # ::text would drop the padding and with it the difference between '' and ' '.
        return sql.SQL("rtrim({}::text)").format(name)
    return sql.SQL("{}::text").format(name)


_TARGET: dict[str, Callable[[bytes], bytes]] = {
    "text": lambda text: b"t" + text,
    "char": lambda text: b"t" + text,
    "uuid": lambda text: b"t" + text,
    "other": lambda text: b"t" + text,
    "integer": lambda text: b"i%d" % int(text),
    "boolean": lambda text: b"b1" if text == b"true" else b"b0",
    "json": lambda text: b"j" + _canonical_json(text.decode()),
    "timestamp": lambda text: b"m%d" % int(text),
    "numeric": lambda text: b"n" + _canonical_number(text.decode()).encode(),
    "double": lambda text: b"d" + struct.pack(">d", float(text)),
    "real": lambda text: b"d" + struct.pack(">d", struct.unpack("f", struct.pack("f", float(text)))[0]),
    "bytes": lambda text: b"x" + bytes.fromhex(text.decode()),
}


# ---------------------------------------------------------------- both sides


def _canonical_number(text: str) -> str:
    """Return a decimal number in one form: digits without trailing zeros, then the exponent."""
    sign, digits, exponent = Decimal(text).as_tuple()
    significant = "".join(map(str, digits)).lstrip("0")
    stripped = significant.rstrip("0")
    if not stripped:
        return "0"
    return f"{'-' if sign else ''}{stripped}e{int(exponent) + len(significant) - len(stripped)}"


def _canonical_json(text: str) -> bytes:
    """Return a JSON value in one form: keys sorted, the last of equal keys, numbers by value."""
    # A number becomes a string that starts with U+0000, which no string in PostgreSQL can.
    parsed: Any = json.loads(text, parse_float=_number_mark, parse_int=_number_mark)
    return json.dumps(parsed, sort_keys=True, separators=(",", ":")).encode()


def _number_mark(text: str) -> str:
    """Return a JSON number in one form, marked as a number."""
    return "\x00" + _canonical_number(text)


def _differences(connection: Connection, snapshot: sqlite3.Connection, prepared: PreparedTable) -> list[dict[str, str]]:
    """Return the first rows that differ, by key, with both values of each column."""
    plan = prepared.plan
    by_source = {column.source: index for index, column in enumerate(plan.columns)}
    mapped = [by_source[name] for name in plan.source.key if name in by_source]
    positions = mapped if len(mapped) == len(plan.source.key) else list(range(len(plan.columns)))

    def key_of(fields: Fields) -> Fields:
        return tuple(fields[index] for index in positions)

    source_totals: dict[Fields, tuple[int, int]] = {}
    target_totals: dict[Fields, tuple[int, int]] = {}
    source_rows: dict[Fields, list[Fields]] = {}
    target_rows: dict[Fields, list[Fields]] = {}

    def totals_into(totals: dict[Fields, tuple[int, int]]) -> Consumer:
        def consume(fields: Fields) -> None:
            count, total = totals.get(key_of(fields), (0, 0))
            totals[key_of(fields)] = (count + 1, total + int.from_bytes(row_hash(fields), "big"))

        return consume

    def rows_into(rows: dict[Fields, list[Fields]], wanted: set[Fields]) -> Consumer:
        def consume(fields: Fields) -> None:
            if key_of(fields) in wanted:
                rows.setdefault(key_of(fields), []).append(fields)

        return consume

    def read_both(source: Consumer, target: Consumer) -> None:
        for fields in _source_fields(snapshot, prepared):
            source(fields)
        _read_target(connection, plan, target)

    # Two passes: the first keeps a hash for each key, the second only the rows to show.
    read_both(totals_into(source_totals), totals_into(target_totals))
    differing = [key for key in {**source_totals, **target_totals} if source_totals.get(key) != target_totals.get(key)]
    shown = set(differing[:SHOWN_DIFFERENCES])
    read_both(rows_into(source_rows, shown), rows_into(target_rows, shown))
    result = []
    for key in differing[:SHOWN_DIFFERENCES]:
        name = ", ".join(
            f"{plan.columns[index].source}={_shown(plan.columns[index], item)}"
            for index, item in zip(positions, key, strict=True)
        )
        ours, theirs = source_rows.get(key, []), target_rows.get(key, [])
        if len(ours) != len(theirs):
            result.append(
                {"key": name, "column": "(row)", "source": f"{len(ours)} rows", "target": f"{len(theirs)} rows"}
            )
            continue
        for column, left, right in zip(plan.columns, ours[0], theirs[0], strict=True):
            if left != right:
                result.append(
                    {
                        "key": name,
                        "column": column.source,
                        "source": _shown(column, left),
                        "target": _shown(column, right),
                    }
                )
    return result


def _shown(column: ColumnPlan, item: bytes | None) -> str:
    """Return a canonical field as a short text for a person, masked if it is secret."""
    if item is None:
        return "NULL"
    if column.options.secret:
        return "(secret)"
    if item[:1] == b"d":
        return repr(struct.unpack(">d", item[1:])[0])
    if item[:1] == b"x":
        return f"x'{item[1:31].hex()}'"
    text = item[1:].decode("utf-8", "replace").replace("\x00", "")
    return text if len(text) <= 60 else f"{text[:60]}…"
