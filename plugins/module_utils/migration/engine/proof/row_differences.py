"""Which rows of a table differ between two sides, by key, with both values of each column."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from ...core.connection import sql
from ...core.sql import table_name
from ..convert.server_text import ServerForms
from ..plan.planner import ColumnPlan, TablePlan
from ..prepare.table import PreparedTable
from .canonical import define_functions, null_field, show, show_difference
from .checksums import (
    RowSum,
    TargetField,
    concatenated,
    digest_of,
    odd_rows_of,
    plain_fields,
    plain_query,
    put_together,
    target_fields,
    target_query,
)

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.sql import Composable

SHOWN_DIFFERENCES = 20
# In place of a column, where one side lacks the row.
WHOLE_ROW = "(row)"

# Rows are sorted into this many buckets by a hash of their key, to find those that differ.
_BUCKET_DIGITS = 3
# Buckets are read together as long as they hold no more rows than this.
_ROWS_AT_ONCE = 20_000
# What COPY TO sends is handed on in pieces of this size at least.
_BLOCK_BYTES = 1 << 18

_RowsByKey = dict[tuple[str, ...], list[list[str]]]


def find_differences(
    connection: Connection, snapshot: sqlite3.Connection, prepared: PreparedTable, forms: ServerForms
) -> list[dict[str, str]]:
    """Return the first rows that differ, by key, with both values of each column.

    First each side adds up its rows in buckets of keys; then only the rows of the first buckets
    that differ are read, all in one go, so that no more than a small share of a table is held.
    """
    finder = _Finder(connection, snapshot, prepared, forms)
    source, target = finder.source_buckets(), finder.target_buckets()
    differing = sorted(name for name in {**source, **target} if source.get(name) != target.get(name))
    chosen: list[str] = []
    rows = 0
    for name in differing[:SHOWN_DIFFERENCES]:
        rows += max(source.get(name, (0,))[0], target.get(name, (0,))[0])
        if chosen and rows > _ROWS_AT_ONCE:
            break
        chosen.append(name)
    return list(islice(finder.differences_in(chosen), SHOWN_DIFFERENCES))


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
            sums.setdefault(self._bucket(fields), RowSum()).add_digests(digest_of(fields))
        return {name: (found.rows, found.high, found.low) for name, found in sums.items()}

    def target_buckets(self) -> dict[str, tuple[int, int, int]]:
        """Return the sum of the target's rows in each bucket."""
        sums: dict[str, RowSum] = {}

        def consume(data: str) -> None:
            for line in data.splitlines():
                bucket, _, digest = line.partition("\t")
                sums.setdefault(bucket, RowSum()).add_digests(bytes.fromhex(digest))

        fields, joins = target_fields(self._connection, self._prepared.plan)
        what = sql.SQL("{}, md5({})").format(self._target_bucket(fields), concatenated(fields))
        _copy_out(self._connection, target_query(self._prepared.plan, what, joins, None), consume)
        return {name: (found.rows, found.high, found.low) for name, found in sums.items()}

    def differences_in(self, buckets: Sequence[str]) -> Iterator[dict[str, str]]:
        """Yield what differs between both sides' rows of some buckets, the first bucket's rows first."""
        source: dict[str, _RowsByKey] = {bucket: {} for bucket in buckets}
        target: dict[str, _RowsByKey] = {bucket: {} for bucket in buckets}
        for fields in self._source_rows():
            bucket = self._bucket(fields)
            if bucket in source:
                source[bucket].setdefault(self._key(fields), []).append(fields)
        for bucket, fields in self._target_rows(buckets):
            target[bucket].setdefault(self._key(fields), []).append(fields)
        for bucket in buckets:
            yield from _between(self._prepared.plan, self._positions, source[bucket], target[bucket])

    def _source_rows(self) -> Iterator[list[str]]:
        """Yield the fields of every row of the source that was not rejected."""
        prepared = self._prepared
        if prepared.plain is not None:
            define_functions(self._snapshot)
            what = ", ".join(put_together([each]) for each in plain_fields(prepared.plain))
            query = plain_query(prepared.plain, what, prepared.odd_rows == 0)
            for row in self._snapshot.execute(query):
                yield list(row)
        if prepared.odd_rows:
            yield from odd_rows_of(self._snapshot, prepared, self._forms)

    def _target_rows(self, buckets: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        """Yield the fields of the target's rows in some buckets, each with its bucket."""
        plan = self._prepared.plan
        fields, joins = target_fields(self._connection, plan)
        wanted = sql.SQL("SELECT {}, {} FROM {} AS t{} WHERE {} = ANY ({})").format(
            self._target_bucket(fields),
            sql.SQL(", ").join(concatenated([each]) for each in fields),
            table_name(plan.target.name),
            joins,
            self._target_bucket(fields),
            sql.Literal(list(buckets)),
        )
        with self._connection.cursor() as cursor:
            cursor.execute(wanted)
            for bucket, *found in cursor:
                yield bucket, found

    def _key(self, fields: Sequence[str]) -> tuple[str, ...]:
        """Return the fields of a row's key."""
        return tuple(fields[index] for index in self._positions)

    def _bucket(self, fields: Sequence[str]) -> str:
        """Return the name of the bucket that a row of the source belongs to."""
        return digest_of(self._key(fields)).hex()[:_BUCKET_DIGITS]

    def _target_bucket(self, fields: Sequence[TargetField]) -> Composable:
        """Return the SQL of the bucket's name for a row of the target."""
        key = concatenated([fields[index] for index in self._positions])
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
        for fields in odd_rows_of(connection, table, forms):
            rows.setdefault(tuple(fields[index] for index in positions), []).append(fields)
        sides.append(rows)
    return list(islice(_between(after.plan, positions, *sides), SHOWN_DIFFERENCES))


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
            yield {"key": name, "column": WHOLE_ROW, "source": f"{len(ours)} rows", "target": f"{len(theirs)} rows"}
            continue
        left, right = next(pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1])
        for column, one, other in zip(columns, left, right, strict=True):
            if one != other:
                shown = (
                    (_shown(column, one), _shown(column, other))
                    if column.options.secret
                    else show_difference(one, other)
                )
                yield {"key": name, "column": column.source, "source": shown[0], "target": shown[1]}


def _shown(column: ColumnPlan, item: str) -> str:
    """Return a canonical field as a short text for a person, masked if it is secret."""
    if column.options.secret:
        return "NULL" if item == null_field(column) else "(secret)"
    return show(item)


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
