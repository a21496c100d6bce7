"""Both sides of one table: its rows in the file and in PostgreSQL, and the hashes that tell them apart.

A row is hashed over its canonical fields (:mod:`.engine.proof.canonical`), those of the file after the policies
have repaired them, so a value that a policy changed on its way to PostgreSQL is no difference.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from hashlib import md5
from typing import TYPE_CHECKING, Any

from ...core.connection import first_row, sql
from ...core.sql import table_name
from ...sqlite.tables import Value, quote_name, read_rows, row_key
from ..convert.policies import repair
from ..convert.refusals import Refused
from ..convert.server_text import ServerForms
from ..convert.values import converter
from ..plan.planner import ColumnPlan, TablePlan
from ..prepare.table import PreparedTable
from ..proof.canonical import define_functions, null_field, source_field, source_reader, target_field, target_value
from ..proof.checksums import TargetField, concatenated, digest_of, old_id_in, put_together
from .clashes import locator_columns, locator_text, where

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.sql import Composable

_STREAMED_ROWS = 5_000


class NotPlain(Exception):
    """The fast path took a row that it cannot write exactly: a policy may have answered for it in the load."""


class Sides:
    """One table of the file and its target.

    :param columns: the columns that both sides have.
    :param fields: each column's canonical field in PostgreSQL, over the alias ``t``.
    :param values: the SQL of each column's value there as text.
    :param relation: the SQL of the target with its alias ``t`` and the joins that fields and values need.
    :param place: the SQL that tells where PostgreSQL holds a row.
    :param locator: the columns by which a row of the file is found.
    """

    def __init__(
        self, connection: Connection, source: sqlite3.Connection, prepared: PreparedTable, forms: ServerForms
    ) -> None:
        self.connection = connection
        self.source = source
        self.prepared = prepared
        self.forms = forms
        self.plan = plan = prepared.plan
        self.columns = plan.compared
        self._readers = [source_reader(column, partial(forms.normal_form, plan, column)) for column in self.columns]
        self._nulls = [null_field(column) for column in self.columns]
        self._converters = [converter(column, lambda _: None) for column in plan.columns]
        self.locator = locator_columns(source, plan.source)
        self._located = replace(plan.source, key=self.locator)
        self.fields, self.values, joins = _target_columns(plan)
        self.place, self.relation = _relation(connection, plan, joins)
        self.key_positions = _key_positions(plan)

    # ------------------------------------------------------------ the file

    def source_hashes(self) -> Iterator[tuple[bytes | None, bytes, str, int]]:
        """Yield for each row of the file: hash of its key, of all of it, how to find it, whether it was rejected."""
        prepared = self.prepared
        if prepared.plain is not None:
            yield from self._plain_hashes("" if prepared.odd_rows == 0 else prepared.plain.condition)
            if not prepared.odd_rows:
                return
        for values, key, locator in self._source_rows(prepared.odd_condition):
            named, whole = self.exact_hashes(values, key)
            yield named, whole, locator_text(locator), int(key in prepared.rejected)

    def exact_hashes(self, values: Sequence[Value], key: str) -> tuple[bytes | None, bytes]:
        """Return the hash of a row's key, and of all of it."""
        fields = self.source_fields(values, key)
        whole = [each for each in fields if each is not None]
        named = [each for index in self.key_positions if (each := fields[index]) is not None]
        return (
            hash_of("".join(named)) if self.key_positions and len(named) == len(self.key_positions) else None,
            # Nothing is equal to a row of which some value has no canonical form.
            hash_of("".join(whole)) if len(whole) == len(fields) else b"",
        )

    def require_plain(self, values: Sequence[Value]) -> None:
        """See that the row of these values, which the fast path took, is one that needs no policy.

        :raises NotPlain: else every row has to be converted in Python.
        """
        for convert, value in zip(self._converters, values, strict=False):
            try:
                convert(value)
            except Refused:
                raise NotPlain from None

    def source_row(self, locator: Sequence[Value]) -> tuple[Sequence[Value], str]:
        """Return the values of one row of the file, and its key as text."""
        plan = self.plan
        condition, bound = where(self.locator, locator)
        names = ", ".join(quote_name(name) for name in (*(column.source for column in self.columns), *plan.source.key))
        row = self.source.execute(
            f"SELECT {names} FROM {self._located.relation} WHERE {condition}",  # noqa: S608 (quoted)
            bound,
        ).fetchone()
        count = len(self.columns)
        return row[:count], row_key(plan.source, row[count:])

    def _plain_hashes(self, condition: str) -> Iterator[tuple[bytes, bytes, str, int]]:
        """Yield the same for rows whose fields SQLite builds itself, as in :mod:`.engine.proof.checksums`.

        What only seems to differ is found by :meth:`_read_again`.
        """
        define_functions(self.source)
        whole = _built_by_sqlite(self.columns)
        named = _built_by_sqlite([self.columns[index] for index in self.key_positions]) if self.key_positions else "''"
        locators = ", ".join(f"{name}, typeof({name})" for name in map(quote_name, self.locator))
        filtered = f" WHERE {condition}" if condition else ""
        before = self.source.text_factory
        self.source.text_factory = bytes
        try:
            for line, key, *locator in self.source.execute(
                f"SELECT {whole}, {named}, {locators} FROM {self._located.scan}{filtered}"  # noqa: S608 (quoted)
            ):
                yield _digest(key), _digest(line), locator_text(list(map(_as_stored, locator[::2], locator[1::2]))), 0
        finally:
            self.source.text_factory = before

    def _source_rows(self, condition: str | None) -> Iterator[tuple[Sequence[Value], str, tuple[Value, ...]]]:
        """Yield the values of each row of the file, its key as text, and how to find it."""
        plan = self.plan
        names = tuple(column.source for column in self.columns)
        count, end = len(names), len(names) + len(plan.source.key)
        rows = read_rows(self.source, self._located, (*names, *plan.source.key), condition)
        for block in self.forms.learned(plan, rows):
            for row in block:
                yield row[:count], row_key(plan.source, row[count:end]), tuple(row[end:])

    def source_fields(self, values: Sequence[Value], key: str) -> list[str | None]:
        """Return the canonical fields of a row of the file, policies applied; a rejected row may lack some."""
        changes = self.prepared.changes.get(key, {})
        fields: list[str | None] = []
        for column, read, null, value in zip(self.columns, self._readers, self._nulls, values, strict=True):
            for answer in changes.get(column.source, ()):
                value = repair(value, answer, column.scale)
            try:
                read_as = null if value is None else read(value)
                hash_of(read_as)
            except Exception:
                if key not in self.prepared.rejected:
                    raise
                fields.append(None)
            else:
                fields.append(read_as)
        return fields

    # ------------------------------------------------------------ PostgreSQL

    def target_hashes(self) -> Iterator[tuple[bytes, bytes, str, int]]:
        """Yield for each row of PostgreSQL: hash of its key, of all of it, its place, and its size in bytes."""
        line = concatenated(self.fields)
        keys = [self.fields[index] for index in self.key_positions]
        named = concatenated(keys) if keys else sql.SQL("''")
        query = sql.SQL(
            "SELECT place, md5(named), md5(line), octet_length(line) FROM "
            "(SELECT {} AS place, {} AS named, {} AS line FROM {} OFFSET 0) AS rows"
        ).format(self.place, named, line, self.relation)
        with self.connection.cursor(name="rows_of_target") as cursor:
            cursor.itersize = _STREAMED_ROWS
            cursor.execute(query)
            for place, key, whole, size in cursor:
                yield bytes.fromhex(key), bytes.fromhex(whole), place, size

    def read_target(self, places: Sequence[str]) -> dict[str, list[Any]]:
        """Return what PostgreSQL holds of some rows, by place: hash of the field, then value, of each column."""
        columns: list[Composable] = [self.place]
        columns += [sql.SQL("md5({})").format(concatenated([each])) for each in self.fields]
        columns += self.values
        query = sql.SQL("SELECT {} FROM {} WHERE t.ctid = ANY ({}::tid[])").format(
            sql.SQL(", ").join(columns),
            self.relation,
            # No parameter: then a name may hold a percent sign.
            sql.Literal([place.rpartition(":")[2] for place in places]),
        )
        with self.connection.cursor() as cursor:
            cursor.execute(query)
            return {row[0]: list(row[1:]) for row in cursor}


def _key_positions(plan: TablePlan) -> list[int]:
    """Return the positions of the columns that tell rows apart; none if only all of them together do."""
    by_target = {column.target: index for index, column in enumerate(plan.columns)}
    keys = [plan.target.key] + [
        key for key in plan.target.unique_keys if all(plan.target.columns[name].not_null for name in key)
    ]
    for key in keys:
        if key and all(name in by_target for name in key):
            return [by_target[name] for name in key]
    by_source = {column.source: index for index, column in enumerate(plan.columns)}
    return [by_source[name] for name in plan.source.key if name in by_source]


def _relation(connection: Connection, plan: TablePlan, joins: Composable) -> tuple[Composable, Composable]:
    """Return the SQL of a row's place in the target, and of the target with what it is joined with."""
    name = table_name(plan.target.name)
    with connection.cursor() as cursor:
        cursor.execute("SELECT relkind = 'p' FROM pg_class WHERE oid = %s::regclass", (name.as_string(connection),))
        partitioned = bool(first_row(cursor)[0])
    # What inherits from an ordinary table is not its own; what is a part of a partitioned one is.
    table = name if partitioned else sql.SQL("ONLY {}").format(name)
    place = sql.SQL("t.tableoid::text || ':' || t.ctid::text" if partitioned else "t.ctid::text")
    return place, sql.SQL("{} AS t{}").format(table, joins)


def _target_columns(plan: TablePlan) -> tuple[list[TargetField], list[Composable], Composable]:
    """Return each column's field, the SQL of its value as text, and of the joins that both need."""
    fields: list[TargetField] = []
    values: list[Composable] = []
    joins: list[Composable] = []
    for number, column in enumerate(plan.compared):
        old_id = None
        if column.kind == "uuid" and column.namespace is not None:
            alias = sql.Identifier(f"m{number}")
            old_id = old_id_in(column, alias)
            joins.append(
                sql.SQL(" LEFT JOIN migration.id_map AS {} ON {}.namespace = {} AND {}.new_id = {}").format(
                    alias, alias, sql.Literal(column.namespace), alias, sql.Identifier("t", column.target)
                )
            )
        fields.append(target_field(column, old_id))
        whole = sql.SQL("encode({}, 'hex')").format(sql.Identifier("t", column.target))
        values.append(whole if column.kind == "bytes" else target_value(column, old_id))
    return fields, values, sql.SQL("").join(joins)


def _as_stored(value: Any, storage_class: bytes) -> Value:
    """Return a value that was read with its texts as bytes."""
    stored: Value = value.decode("utf-8", "surrogateescape") if storage_class == b"text" else value
    return stored


def hash_of(text: str) -> bytes:
    """Return the MD5 of canonical fields, piece by piece: they may be large."""
    return digest_of([text])


def _digest(data: bytes) -> bytes:
    """Return the MD5 of the bytes of canonical fields."""
    return md5(data, usedforsecurity=False).digest()


def _built_by_sqlite(columns: Sequence[ColumnPlan]) -> str:
    """Return the SQL of some fields of a plain row put together."""
    return put_together([found for found in map(source_field, columns) if found is not None])
