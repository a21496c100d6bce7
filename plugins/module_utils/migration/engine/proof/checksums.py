"""The sum over the rows of one table, of either side: each row's canonical fields are hashed.

The fields are those of :mod:`.engine.proof.canonical`.

The hashes are added up: a changed value, a missing row and a doubled row all change the sum.
PostgreSQL builds, hashes and adds up its own rows, so that only the sum travels.
"""

from __future__ import annotations

import sqlite3
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import md5
from importlib import import_module
from itertools import islice
from operator import itemgetter, methodcaller
from typing import TYPE_CHECKING, Any

from ...core.connection import first_row, sql
from ...core.errors import Problem, RowsRefused
from ...core.sql import table_name
from ...sqlite.tables import Value, read_rows, row_key, show, shown_key
from ..convert.policies import repair
from ..convert.server_text import ServerForms
from ..plan.planner import ColumnPlan, TablePlan
from ..prepare.fast_path import PlainRows
from ..prepare.table import PreparedTable
from .canonical import Read, define_functions, null_field, source_field, source_reader, target_field

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.sql import Composable

_PIECE = 1 << 20  # characters
# Of up to four arguments each.
_FIELDS_AT_ONCE = 25
_HALF = 1 << 64

TargetField = tuple[str, "tuple[Composable, ...]"]


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


# ---------------------------------------------------------------- the source's side


def sum_source(
    snapshot: sqlite3.Connection, prepared: PreparedTable, forms: ServerForms, plain: RowSum | None = None
) -> RowSum:
    """Return the sum over every row that was not rejected."""
    result = RowSum()
    if prepared.plain is not None:
        result = plain or sum_plain_rows(snapshot, prepared.plain, prepared.odd_rows == 0)
    if prepared.odd_rows:
        result = result.plus(_sum_digests(map(digest_of, odd_rows_of(snapshot, prepared, forms))))
    return result


def sum_plain_rows(
    snapshot: sqlite3.Connection, rows: PlainRows, all_plain: bool = False, among: str | None = None
) -> RowSum:
    """Return the sum over the plain rows of a table, whose fields SQLite builds itself.

    :param among: SQL condition of the rows to add up, None for all.
    """
    with _bytes_of_texts(snapshot):
        line = put_together(plain_fields(rows))
        return _sum_lines(snapshot.execute(plain_query(rows, line, all_plain, among)))


def plain_fields(rows: PlainRows) -> list[tuple[str, tuple[str, ...]]]:
    """Return each field of a plain row, as :func:`.engine.proof.canonical.source_field` does."""
    fields = [source_field(column) for column in rows.plan.compared]
    return [field for field in fields if field is not None]


def put_together(fields: Sequence[tuple[str, tuple[str, ...]]]) -> str:
    """Return the SQL of some fields put together by SQLite; a function takes 127 arguments at most."""
    parts = [fields[start : start + _FIELDS_AT_ONCE] for start in range(0, len(fields), _FIELDS_AT_ONCE)]
    return " || ".join(
        f"printf('{''.join(form for form, _ in part)}', {', '.join(each for _, values in part for each in values)})"
        for part in parts
    )


def plain_query(rows: PlainRows, what: str, all_plain: bool, among: str | None = None) -> str:
    """Return the query of something over the plain rows of a table, or over some of them."""
    conditions = [each for each in (None if all_plain else rows.condition, among) if each is not None]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
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


def digest_of(fields: Sequence[str]) -> bytes:
    """Return the hash of a row over its fields, without putting large ones together."""
    found = _BEGUN.copy()
    for each in fields:
        for start in range(0, len(each), _PIECE):
            found.update(each[start : start + _PIECE].encode("utf-8", "surrogateescape"))
    return found.digest()


def odd_rows_of(snapshot: sqlite3.Connection, prepared: PreparedTable, forms: ServerForms) -> Iterator[list[str]]:
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
            try:
                fields = [
                    null if value is None else read(value)
                    for read, null, value in zip(readers, nulls, values, strict=True)
                ]
            except (ValueError, ArithmeticError, TypeError):
                raise _unreadable(plan, readers, values, row[count:]) from None
            yield fields


def _unreadable(plan: TablePlan, readers: Sequence[Read], values: Sequence[Value], key: Sequence[Value]) -> RowsRefused:
    """Return the error that names the first value of a row that the inverse mapping cannot read."""
    problems = []
    for column, read, value in zip(plan.compared, readers, values, strict=True):
        try:
            if value is not None:
                read(value)
        except (ValueError, ArithmeticError, TypeError):
            shown = "a secret value" if column.options.secret else show(value)
            what = f"the proof cannot read it ({shown_key(plan.source, key, plan.secret_columns)}: {shown})"
            problems.append(Problem(f"{plan.source.name}.{column.source}", what, "Please report this"))
    return RowsRefused(f"{plan.source.name} holds a value that was moved and cannot be compared.", problems)


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
    fields, joins = target_fields(connection, plan)
    digest = sql.SQL("md5({})").format(concatenated(fields))
    # OFFSET keeps a row from being hashed once for each half. As a text it is a constant from the first, and
    # several workers may share the rows; a number is still to be cast, and they may not.
    query = sql.SQL(
        "SELECT count(*), sum(digest::bit(64)::bigint), sum(substring(digest FROM 65)::bigint) "
        "FROM (SELECT ('x' || {})::bit(128) AS digest FROM {} AS t{}{} OFFSET '0') AS rows"
    ).format(digest, table_name(plan.target.name), only or sql.SQL(""), joins)
    with connection.cursor() as cursor:
        # A hash is small for all the work in it: worth another worker from the first row on.
        cursor.execute("SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0")
        cursor.execute(query)
        rows, high, low = first_row(cursor)
    # PostgreSQL takes each half for a signed number, which is the same modulo 2^64.
    return RowSum(rows, int(high or 0) % _HALF, int(low or 0) % _HALF)


def target_fields(connection: Connection, plan: TablePlan) -> tuple[list[TargetField], Composable]:
    """Return each field as :func:`.engine.proof.canonical.target_field` does, and the SQL of the joins."""
    fields: list[TargetField] = []
    joins: list[Composable] = []
    for number, column in enumerate(plan.compared):
        old_id = None
        if column.kind == "uuid" and column.namespace is not None and _has_old_ids(connection, column.namespace):
            alias = sql.Identifier(f"m{number}")
            old_id = old_id_in(column, alias)
            joins.append(
                sql.SQL(" LEFT JOIN migration.id_map AS {} ON {}.namespace = {} AND {}.new_id = {}").format(
                    alias, alias, sql.Literal(column.namespace), alias, sql.Identifier("t", column.target)
                )
            )
        fields.append(target_field(column, old_id))
    return fields, sql.SQL("").join(joins)


def old_id_in(column: ColumnPlan, id_map: Composable) -> Composable:
    """Return the SQL of a UUID as it stands in the file: as the id map has it, or in the file's own spelling.

    :param id_map: alias of the id map, joined by the UUID.
    """
    known = sql.SQL("{}.old_id").format(id_map)
    if column.spelling is None:
        return known
    new = sql.SQL("{}::text").format(sql.Identifier("t", column.target))
    if not column.spelling.hyphens:
        new = sql.SQL("replace({}, '-', '')").format(new)
    if column.spelling.capitals:
        new = sql.SQL("upper({})").format(new)
    return sql.SQL("coalesce({}, {})").format(known, new)


def concatenated(fields: Sequence[TargetField]) -> Composable:
    """Return the SQL of all fields put together by PostgreSQL; a function takes 100 arguments at most."""
    parts = [fields[start : start + _FIELDS_AT_ONCE] for start in range(0, len(fields), _FIELDS_AT_ONCE)]
    return sql.SQL(" || ").join(
        sql.SQL("format({}, {})").format(
            sql.Literal("".join(form for form, _ in part)),
            sql.SQL(", ").join(each for _, values in part for each in values),
        )
        for part in parts
    )


def _has_old_ids(connection: Connection, namespace: str) -> bool:
    """Return whether any id of a namespace became another UUID."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM migration.id_map WHERE namespace = %s)", (namespace,))
        return bool(first_row(cursor)[0])


def target_query(plan: TablePlan, what: Composable, joins: Composable, only: Composable | None) -> Composable:
    """Return the query of something over the rows of the target."""
    return sql.SQL("COPY (SELECT {} FROM {} AS t{}{}) TO STDOUT").format(
        what, table_name(plan.target.name), only or sql.SQL(""), joins
    )
