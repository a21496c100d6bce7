"""Finds for each value of PostgreSQL the one that stands for it in the file."""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ...sqlite.tables import Value, show
from ..convert.ids_in_texts import texts_in, with_other_ids
from ..convert.refusals import Convert, Refused
from ..convert.server_text import ServerForms
from ..convert.values import converter
from ..plan.ids_in_texts import AsWritten
from ..plan.planner import ColumnPlan, TablePlan
from ..proof.canonical import Read, source_reader
from .inputs import Sides, hash_of
from .sqlite_text import Form, candidates, read_form

_SHOWN_CHARACTERS = 60
_SHOWN_KEYS = 5
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


class ValueForms:
    """Finds for each value of PostgreSQL the one that stands for it in the file."""

    def __init__(self, source: sqlite3.Connection, plan: TablePlan, forms: ServerForms) -> None:
        self._plan = plan
        self._columns = plan.columns
        self._server = forms
        self._source = source
        self._forms: dict[int, Form] = {}
        self._converters: list[Convert] = [converter(column, _no_note) for column in plan.columns]
        self._readers = [source_reader(column, partial(forms.normal_form, plan, column)) for column in plan.columns]
        self._as_written: dict[int, tuple[Convert, Read]] = {}
        self._probe = _Probe(source, plan)
        # How the server reads times of named zones: those of the rows that were learned, by column.
        self._readings: dict[int, dict[str, str | None]] = {
            index: {} for index, column in enumerate(plan.columns) if _is_of_named_zone(column)
        }

    def learn(self, rows: Sequence[tuple[Sequence[str | None], Sequence[str]]]) -> None:
        """Ask the server at once what it makes of the times in a block of rows; the block before is forgotten.

        :param rows: of each row the values and the MD5s of the canonical fields, see :meth:`find`.
        """
        for index, column in enumerate(self._columns):
            if index not in self._readings:
                continue
            first = (
                next(self._read_alike_here(index, text, fields[index]), None)
                for values, fields in rows
                if (text := values[index]) is not None
            )
            moved = [self._converters[index](found[1]) or "" for found in first if found is not None]
            self._readings[index] = self._server.readings(self._plan, column, moved)

    def find(self, index: int, text: str, field_hash: str) -> Value:
        """Return a value that reads back, through SQLite and the mapping, as the same field; None if there is none.

        An :class:`.AsWritten` does so as long as the ids in it are not taken for such as became UUIDs.

        :param text: the value as :func:`.engine.proof.canonical.target_value` gives it.
        :param field_hash: MD5 of its canonical field.
        """
        for candidate, stored in self._read_alike_here(index, text, field_hash):
            if index not in self._readings or self._server_reads(index, stored) == text:
                return candidate
        return self._with_ids_as_written(index, text, field_hash)

    def _with_ids_as_written(self, index: int, text: str, field_hash: str) -> Value:
        """Return a text in which a service has written ids of the file, also beside UUIDs that such became.

        Such a text would be moved with UUIDs: that it reads back holds as long as its ids are taken as they are.
        """
        column = self._columns[index]
        if column.ids is None:
            return None
        if index not in self._as_written:
            plain = replace(column, ids=None)
            read = source_reader(plain, partial(self._server.normal_form, self._plan, plain))
            self._as_written[index] = (converter(plain, _no_note), read)
        for candidate in candidates(column, self._forms[index], text):
            stored = self._probe.stored(column.source, candidate)
            if isinstance(stored, str) and _reads_as(*self._as_written[index], stored, field_hash):
                return AsWritten(candidate)
        return None

    def leaves_ids(self, index: int, value: Value) -> bool:
        """Return whether a value found for the file holds ids that are not those of the file's rows, or not for long.

        It holds ids of the file that the next move makes UUIDs of, or UUIDs that the file's rows do not have: that
        of a row of the file, or where such rows spell theirs otherwise perhaps that of a new one.
        """
        column = self._columns[index]
        if column.ids is None or not isinstance(value, str):
            return False
        return isinstance(value, AsWritten) or any(
            text in column.ids.uuids or (column.spelling is not None and _UUID.match(text) is not None)
            for text, _ in texts_in(value, column.kind)
        )

    def _with_old_ids(self, index: int, text: str) -> str:
        """Return a text in which UUIDs are the ids of the file again."""
        column = self._columns[index]
        return text if column.ids is None else with_other_ids(text, column.kind, column.ids.old_ids)

    def _read_alike_here(self, index: int, text: str, field_hash: str) -> Iterator[tuple[Value, Value]]:
        """Yield the values, and what SQLite makes of each, that this host reads back as the same field."""
        column = self._columns[index]
        if index not in self._forms:
            self._forms[index] = read_form(self._source, self._plan.source, column)
        # A text may spell a UUID as no old id comes back to.
        for each in dict.fromkeys((self._with_old_ids(index, text), text)):
            for candidate in candidates(column, self._forms[index], each):
                stored = self._probe.stored(column.source, candidate)
                if stored is not None and self._reads_as(index, stored, field_hash):
                    yield candidate, stored

    def _server_reads(self, index: int, stored: Value) -> str | None:
        """Return what the server says a time of a named zone means, for this host has named it: their data may differ.

        Where they do, a form with an offset is left, which both read alike.
        """
        moved = self._converters[index](stored) or ""
        known = self._readings[index]
        if moved not in known:
            known.update(self._server.readings(self._plan, self._columns[index], [moved]))
        return known[moved]

    def _reads_as(self, index: int, stored: Value, field_hash: str) -> bool:
        """Return whether a stored value would be moved as it is, and compare equal."""
        return _reads_as(self._converters[index], self._readers[index], stored, field_hash)


def _reads_as(convert: Convert, read: Read, stored: Value, field_hash: str) -> bool:
    """Return whether a stored value can be moved, and its canonical field has this hash."""
    try:
        convert(stored)
        return hash_of(read(stored)).hex() == field_hash
    except (Refused, ValueError, ArithmeticError, TypeError):
        return False


class _Probe:
    """Tells what SQLite makes of a value in a column: affinity may turn it into another."""

    def __init__(self, source: sqlite3.Connection, plan: TablePlan) -> None:
        encoding = str(source.execute("PRAGMA encoding").fetchone()[0])
        strict = bool(
            source.execute(
                "SELECT strict FROM pragma_table_list WHERE schema = 'main' AND name = ?", (plan.source.name,)
            ).fetchone()[0]
        )
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.execute(f"PRAGMA encoding = '{encoding}'")
        declared = {column.name: column.declared_type.upper() for column in plan.source.columns}
        self._tables: dict[str, str] = {}
        for number, name in enumerate(dict.fromkeys(column.source for column in plan.columns)):
            # Any other type would say no more than its affinity.
            kind = plan.source.affinity(name)
            if strict:
                kind = declared.get(name, "ANY")
            elif declared.get(name) == "ANY":
                kind = "NUMERIC"
            self._tables[name] = table = f"column_{number}"
            self._connection.execute(f"CREATE TABLE {table} (value {kind}){' STRICT' if strict else ''}")
            self._connection.execute(f"INSERT INTO {table} VALUES (NULL)")  # noqa: S608 (our own name)

    def stored(self, column: str, value: Value) -> Value:
        """Return what a column holds after a value was written to it, None if it takes no such value."""
        table = self._tables[column]
        try:
            self._connection.execute(f"UPDATE {table} SET value = ?", (value,))  # noqa: S608 (our own name)
        except (sqlite3.Error, OverflowError, UnicodeEncodeError):
            return None
        found: Value = self._connection.execute(f"SELECT value FROM {table}").fetchone()[0]  # noqa: S608
        self._connection.execute(f"UPDATE {table} SET value = NULL")  # noqa: S608 (a large one is held no longer)
        # Nothing is held twice.
        return value if type(found) is type(value) and found == value else found


def shown_value(column: ColumnPlan, text: str | None) -> str:
    """Return a value, as :func:`.engine.proof.canonical.target_value` gives it, for a person."""
    if text is None:
        return "NULL"
    if column.kind in ("double", "real"):
        return repr(struct.unpack(">d", bytes.fromhex(text))[0])
    return show(text) if column.kind in ("text", "char", "uuid", "json", "other") else text[:_SHOWN_CHARACTERS]


def shown_row(sides: Sides, values: Sequence[Any]) -> str:
    """Return the key of a row of PostgreSQL for a person, secrets masked.

    :param values: the value of each column as text.
    """
    positions = sides.key_positions or range(len(sides.plan.columns))
    return ", ".join(
        f"{sides.columns[index].source}="
        + (
            "(secret)"
            if sides.columns[index].source in sides.plan.secret_columns
            else shown_value(sides.columns[index], values[index])
        )
        for index in list(positions)[:_SHOWN_KEYS]
    )


def _is_of_named_zone(column: ColumnPlan) -> bool:
    """Return whether a column holds times whose meaning depends on time zone data."""
    return column.kind == "timestamp" and column.options.time_zone != "UTC"


def _no_note(_conversion: str) -> None:
    """Count nothing."""
