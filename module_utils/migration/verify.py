"""The proof: every row of PostgreSQL is read back, its conversion undone, and compared with the source.

Both sides are brought to the same canonical fields (:mod:`.canonical`), each row is hashed over
them, and the hashes are added up: a changed value, a missing row and a doubled row all change the
sum. PostgreSQL builds and hashes its own rows, so that only the hashes travel. Where the sums
differ, the very rows, columns and both values are named.
"""

from __future__ import annotations

import sqlite3
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import md5
from importlib import import_module
from itertools import islice
from operator import itemgetter, methodcaller
from typing import TYPE_CHECKING, Any

from .canonical import define_functions, null_field, show, source_field, source_reader, target_field
from .connection import first_row
from .names import table_name
from .plain_rows import PlainRows
from .plan import ColumnPlan, TablePlan
from .policies import repair
from .prepare import PreparedTable
from .server_forms import ServerForms
from .source import Value, read_rows, row_key

try:
    from psycopg2 import sql
except ImportError:  # reported by connection.connect()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.sql import Composable

SHOWN_DIFFERENCES = 20

# Rows are sorted into this many buckets by a hash of their key, to find those that differ.
_BUCKET_DIGITS = 3
_BLOCK_BYTES = 1 << 18
_PIECE = 1 << 20  # characters
# Of up to four arguments each.
_FIELDS_AT_ONCE = 25
_HALF = 1 << 64


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


@dataclass
class RowSum:
    """The number of rows and the sum of their 128-bit hashes, each half modulo 2^64: no order matters.

    The hash is MD5 over the canonical fields, which PostgreSQL has built in; it guards against
    mistakes and faults, not against somebody who may write to the database.
    """

    rows: int = 0
    high: int = 0
    low: int = 0

    def add_digests(self, digests: bytes) -> None:
        """Add the hashes of some rows, 16 bytes each."""
        numbers = array("Q", digests)
        if sys.byteorder == "little":
            numbers.byteswap()
        self.rows += len(numbers) // 2
        self.high = (self.high + sum(numbers[0::2])) % _HALF
        self.low = (self.low + sum(numbers[1::2])) % _HALF

    def plus(self, other: RowSum, sign: int = 1) -> RowSum:
        """Return the sum of both, or with ``sign`` -1 the difference."""
        return RowSum(
            self.rows + sign * other.rows,
            (self.high + sign * other.high) % _HALF,
            (self.low + sign * other.low) % _HALF,
        )

    def hexdigest(self) -> str:
        """Return the hash as 32 hexadecimal digits."""
        return f"{self.high:016x}{self.low:016x}"


def compare_tables(
    connection: Connection,
    snapshot: sqlite3.Connection,
    tables: Sequence[PreparedTable],
    plain_sums: Callable[[], Mapping[str, RowSum]] = dict,
) -> list[Comparison]:
    """Compare each table of the source with its target, and name the rows that differ.

    :param plain_sums: waits for the sums of the source's plain rows, by source table, if they are
        being added up elsewhere.
    """
    targets = [sum_target(connection, table.plan) for table in tables]
    known = plain_sums()
    forms = ServerForms(connection)
    result = []
    for table, target in zip(tables, targets, strict=True):
        source = sum_source(snapshot, table, forms, known.get(table.plan.source.name))
        comparison = Comparison(source.rows, target.rows, source.hexdigest(), target.hexdigest())
        if not comparison.equal:
            comparison.differences = _differences(connection, snapshot, table, forms)
        result.append(comparison)
    return result


# ---------------------------------------------------------------- the source's side


def sum_source(
    snapshot: sqlite3.Connection, prepared: PreparedTable, forms: ServerForms, plain: RowSum | None = None
) -> RowSum:
    """Return the sum over every row that was not rejected."""
    result = RowSum()
    if prepared.plain is not None:
        result = plain or sum_plain_rows(snapshot, prepared.plain, prepared.odd_rows == 0)
    if prepared.odd_rows:
        result = result.plus(_sum_digests(map(_digest, _odd_rows(snapshot, prepared, forms))))
    return result


def sum_plain_rows(snapshot: sqlite3.Connection, rows: PlainRows, all_plain: bool = False) -> RowSum:
    """Return the sum over the plain rows of a table, whose fields SQLite builds itself."""
    with _bytes_of_texts(snapshot):
        line = _printf(_plain_fields(rows))
        return _sum_lines(snapshot.execute(_plain_query(rows, line, all_plain)))


def _plain_fields(rows: PlainRows) -> list[tuple[str, tuple[str, ...]]]:
    """Return each field of a plain row, as :func:`.canonical.source_field` does."""
    fields = [source_field(column) for column in rows.plan.compared]
    return [field for field in fields if field is not None]


def _printf(fields: Sequence[tuple[str, tuple[str, ...]]]) -> str:
    """Return the SQL of some fields put together by SQLite; a function takes 127 arguments at most."""
    parts = [fields[start : start + _FIELDS_AT_ONCE] for start in range(0, len(fields), _FIELDS_AT_ONCE)]
    return " || ".join(
        f"printf('{''.join(form for form, _ in part)}', {', '.join(each for _, values in part for each in values)})"
        for part in parts
    )


def _plain_query(rows: PlainRows, what: str, all_plain: bool) -> str:
    """Return the query of something over the plain rows of a table."""
    where = "" if all_plain else f" WHERE {rows.condition}"
    return f"SELECT {what} FROM {rows.plan.source.scan}{where}"  # noqa: S608 (quoted)


@contextmanager
def _bytes_of_texts(snapshot: sqlite3.Connection) -> Iterator[None]:
    """Read texts as their UTF-8 bytes for a while."""
    define_functions(snapshot)
    before = snapshot.text_factory
    snapshot.text_factory = bytes
    try:
        yield
    finally:
        snapshot.text_factory = before


def _sum_lines(rows: Iterable[tuple[bytes]]) -> RowSum:
    """Return the sum over rows given as their fields put together; none of Python's own code runs for each."""
    return _sum_digests(map(methodcaller("digest"), map(_hash_at_once, map(itemgetter(0), rows))))


def _sum_digests(digests: Iterable[bytes]) -> RowSum:
    """Return the sum over the hashes of rows."""
    result = RowSum()
    remaining = iter(digests)
    while block := b"".join(islice(remaining, 10_000)):
        result.add_digests(block)
    return result


# Copying a hash that was begun takes less time than beginning one.
_BEGUN = md5(usedforsecurity=False)
# Python's own MD5 takes half the time of OpenSSL's for a short row; some builds of Python leave it out.
try:
    _hash_at_once: Callable[[bytes], Any] = import_module("_md5").md5
except ImportError:
    _hash_at_once = partial(md5, usedforsecurity=False)


def _digest(fields: Sequence[str]) -> bytes:
    """Return the hash of a row over its fields, without putting large ones together."""
    found = _BEGUN.copy()
    for each in fields:
        for start in range(0, len(each), _PIECE):
            found.update(each[start : start + _PIECE].encode("utf-8", "surrogateescape"))
    return found.digest()


def _odd_rows(snapshot: sqlite3.Connection, prepared: PreparedTable, forms: ServerForms) -> Iterator[list[str]]:
    """Yield the fields of every row that is not plain and was not rejected."""
    plan = prepared.plan
    columns = plan.compared
    readers = [source_reader(column, partial(forms.normal_form, plan, column)) for column in columns]
    nulls = [null_field(column) for column in columns]
    names = tuple(column.source for column in columns)
    count = len(names)
    special = bool(prepared.rejected or prepared.changes)
    for rows in forms.learned(plan, read_rows(snapshot, plan.source, names, prepared.odd_condition)):
        for row in rows:
            values: Sequence[Value] = row[:count]
            if special:
                key = row_key(plan.source, row[count:])
                if key in prepared.rejected:
                    continue
                changes = prepared.changes.get(key)
                if changes is not None:
                    values = [
                        _repaired(value, changes.get(column.source, ()), column)
                        for column, value in zip(columns, values, strict=True)
                    ]
            yield [
                null if value is None else read(value) for read, null, value in zip(readers, nulls, values, strict=True)
            ]


def _repaired(value: Value, answers: Sequence[str], column: ColumnPlan) -> Value:
    """Return what the policies make of a value."""
    for answer in answers:
        value = repair(value, answer, column.scale)
    return value


# ---------------------------------------------------------------- the target's side


def sum_target(connection: Connection, plan: TablePlan, only: Composable | None = None) -> RowSum:
    """Return the sum over the rows of the target.

    :param only: SQL to join the target (alias ``t``) with, which leaves only some of its rows.
    """
    fields, joins = _target_fields(connection, plan)
    digest = sql.SQL("md5({})").format(_concat(fields))
    result = RowSum()

    def add(data: str) -> None:
        result.add_digests(bytes.fromhex(data))  # which takes line ends too

    with connection.cursor() as cursor:
        # A hash is small for all the work in it: worth another worker from the first row on.
        cursor.execute("SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0")
    _copy_out(connection, _target_query(plan, digest, joins, only), add)
    return result


def _target_fields(connection: Connection, plan: TablePlan) -> tuple[list[Composable], Composable]:
    """Return the SQL of each field, and of the joins with the id map that they need."""
    fields: list[Composable] = []
    joins: list[Composable] = []
    for number, column in enumerate(plan.compared):
        old_id = None
        if column.kind == "uuid" and column.namespace is not None and _has_old_ids(connection, column.namespace):
            alias = sql.Identifier(f"m{number}")
            old_id = sql.SQL("{}.old_id").format(alias)
            joins.append(
                sql.SQL(" LEFT JOIN migration.id_map AS {} ON {}.namespace = {} AND {}.new_id = {}").format(
                    alias, alias, sql.Literal(column.namespace), alias, sql.Identifier("t", column.target)
                )
            )
        fields.append(target_field(column, old_id))
    return fields, sql.SQL("").join(joins)


def _concat(fields: Sequence[Composable]) -> Composable:
    """Return the SQL of all fields put together; a function takes 100 arguments at most."""
    parts = [fields[start : start + _FIELDS_AT_ONCE] for start in range(0, len(fields), _FIELDS_AT_ONCE)]
    return sql.SQL(" || ").join(sql.SQL("concat({})").format(sql.SQL(", ").join(part)) for part in parts)


def _has_old_ids(connection: Connection, namespace: str) -> bool:
    """Return whether any id of a namespace became another UUID."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM migration.id_map WHERE namespace = %s)", (namespace,))
        return bool(first_row(cursor)[0])


def _target_query(plan: TablePlan, what: Composable, joins: Composable, only: Composable | None) -> Composable:
    """Return the query of something over the rows of the target."""
    return sql.SQL("COPY (SELECT {} FROM {} AS t{}{}) TO STDOUT").format(
        what, table_name(plan.target.name), only or sql.SQL(""), joins
    )


def _copy_out(connection: Connection, query: Composable, consume: Callable[[str], None]) -> None:
    """Hand the output of a COPY to ``consume``, in pieces that end with a line."""
    with connection.cursor() as cursor:
        output = _Pieces(consume)
        cursor.copy_expert(query, output)
        output.flush()


class _Pieces:
    """What COPY TO writes to: gathers the stream into pieces of whole lines."""

    def __init__(self, consume: Callable[[str], None]) -> None:
        self._consume = consume
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        """Take the next piece of the stream; psycopg2 hands over one line at a time."""
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand on what has gathered."""
        if self._parts:
            self._consume(b"".join(self._parts).decode())
        self._parts.clear()
        self._size = 0


# ---------------------------------------------------------------- which rows differ


def _differences(
    connection: Connection, snapshot: sqlite3.Connection, prepared: PreparedTable, forms: ServerForms
) -> list[dict[str, str]]:
    """Return the first rows that differ, by key, with both values of each column.

    First each side adds up its rows in buckets of keys; then only the rows of the first buckets
    that differ are read, so that no more than a small share of a table is held.
    """
    finder = _Finder(connection, snapshot, prepared, forms)
    source, target = finder.source_buckets(), finder.target_buckets()
    differing = sorted(name for name in {**source, **target} if source.get(name) != target.get(name))
    result: list[dict[str, str]] = []
    for bucket in differing:
        result.extend(finder.differences_in(bucket))
        if len(result) >= SHOWN_DIFFERENCES:
            break
    return result[:SHOWN_DIFFERENCES]


class _Finder:
    """Finds the rows of one table that differ."""

    def __init__(
        self, connection: Connection, snapshot: sqlite3.Connection, prepared: PreparedTable, forms: ServerForms
    ) -> None:
        self._connection = connection
        self._snapshot = snapshot
        self._prepared = prepared
        self._forms = forms
        self._positions = _key_positions(prepared.plan)

    def source_buckets(self) -> dict[str, tuple[int, int, int]]:
        """Return the sum of the source's rows in each bucket."""
        sums: dict[str, RowSum] = {}
        for fields in self._source_rows():
            sums.setdefault(self._bucket(fields), RowSum()).add_digests(_digest(fields))
        return {name: (found.rows, found.high, found.low) for name, found in sums.items()}

    def target_buckets(self) -> dict[str, tuple[int, int, int]]:
        """Return the sum of the target's rows in each bucket."""
        sums: dict[str, RowSum] = {}

        def consume(data: str) -> None:
            for line in data.splitlines():
                bucket, _, digest = line.partition("\t")
                sums.setdefault(bucket, RowSum()).add_digests(bytes.fromhex(digest))

        fields, joins = _target_fields(self._connection, self._prepared.plan)
        what = sql.SQL("{}, md5({})").format(self._target_bucket(fields), _concat(fields))
        _copy_out(self._connection, _target_query(self._prepared.plan, what, joins, None), consume)
        return {name: (found.rows, found.high, found.low) for name, found in sums.items()}

    def differences_in(self, bucket: str) -> Iterator[dict[str, str]]:
        """Yield what differs between both sides' rows of one bucket."""
        source: dict[tuple[str, ...], list[list[str]]] = {}
        for fields in self._source_rows():
            if self._bucket(fields) == bucket:
                source.setdefault(self._key(fields), []).append(fields)
        target: dict[tuple[str, ...], list[list[str]]] = {}
        for fields in self._target_rows(bucket):
            target.setdefault(self._key(fields), []).append(fields)
        yield from _between(self._prepared.plan, self._positions, source, target)

    def _source_rows(self) -> Iterator[list[str]]:
        """Yield the fields of every row of the source that was not rejected."""
        prepared = self._prepared
        if prepared.plain is not None:
            define_functions(self._snapshot)
            what = ", ".join(_printf([each]) for each in _plain_fields(prepared.plain))
            query = _plain_query(prepared.plain, what, prepared.odd_rows == 0)
            for row in self._snapshot.execute(query):
                yield list(row)
        if prepared.odd_rows:
            yield from _odd_rows(self._snapshot, prepared, self._forms)

    def _target_rows(self, bucket: str) -> Iterator[list[str]]:
        """Yield the fields of the target's rows in one bucket."""
        plan = self._prepared.plan
        fields, joins = _target_fields(self._connection, plan)
        wanted = sql.SQL("SELECT {} FROM {} AS t{} WHERE {} = {}").format(
            sql.SQL(", ").join(sql.SQL("concat({})").format(each) for each in fields),
            table_name(plan.target.name),
            joins,
            self._target_bucket(fields),
            sql.Literal(bucket),
        )
        with self._connection.cursor() as cursor:
            cursor.execute(wanted)
            yield from map(list, cursor)

    def _key(self, fields: Sequence[str]) -> tuple[str, ...]:
        """Return the fields of a row's key."""
        return tuple(fields[index] for index in self._positions)

    def _bucket(self, fields: Sequence[str]) -> str:
        """Return the name of the bucket that a row of the source belongs to."""
        return _digest(self._key(fields)).hex()[:_BUCKET_DIGITS]

    def _target_bucket(self, fields: Sequence[Composable]) -> Composable:
        """Return the SQL of the bucket's name for a row of the target."""
        key = _concat([fields[index] for index in self._positions])
        return sql.SQL("left(md5({}), {})").format(key, sql.Literal(_BUCKET_DIGITS))


def differences_of_rows(
    snapshot: sqlite3.Connection,
    after: PreparedTable,
    old_snapshot: sqlite3.Connection,
    before: PreparedTable,
    forms: ServerForms,
) -> list[dict[str, str]]:
    """Return what differs between some rows as they are and as they were, as for source and target."""
    positions = _key_positions(after.plan)
    sides: list[_RowsByKey] = []
    for connection, table in ((snapshot, after), (old_snapshot, before)):
        rows: _RowsByKey = {}
        for fields in _odd_rows(connection, table, forms):
            rows.setdefault(tuple(fields[index] for index in positions), []).append(fields)
        sides.append(rows)
    return list(islice(_between(after.plan, positions, *sides), SHOWN_DIFFERENCES))


_RowsByKey = dict[tuple[str, ...], list[list[str]]]


def _key_positions(plan: TablePlan) -> list[int]:
    """Return which fields are the key of a row; all if the key is not among them."""
    by_source = {column.source: index for index, column in enumerate(plan.compared)}
    mapped = [by_source[name] for name in plan.source.key if name in by_source]
    return mapped if len(mapped) == len(plan.source.key) else list(range(len(plan.compared)))


def _between(
    plan: TablePlan, positions: Sequence[int], source: _RowsByKey, target: _RowsByKey
) -> Iterator[dict[str, str]]:
    """Yield what differs between rows of both sides, by key."""
    columns = plan.compared
    for key in {**source, **target}:
        ours, theirs = sorted(source.get(key, [])), sorted(target.get(key, []))
        if ours == theirs:
            continue
        name = ", ".join(
            f"{columns[index].source}={_shown(columns[index], item)}"
            for index, item in zip(positions, key, strict=True)
        )
        if len(ours) != len(theirs):
            yield {"key": name, "column": "(row)", "source": f"{len(ours)} rows", "target": f"{len(theirs)} rows"}
            continue
        left, right = next(pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1])
        for column, one, other in zip(columns, left, right, strict=True):
            if one != other:
                yield {
                    "key": name,
                    "column": column.source,
                    "source": _shown(column, one),
                    "target": _shown(column, other),
                }


def _shown(column: ColumnPlan, item: str) -> str:
    """Return a canonical field as a short text for a person, masked if it is secret."""
    if column.options.secret:
        return "NULL" if item == null_field(column) else "(secret)"
    return show(item)
