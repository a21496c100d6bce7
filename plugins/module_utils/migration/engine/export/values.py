"""Finds for each value of PostgreSQL the one that stands for it in the file."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Sequence
from functools import partial
from typing import Any

from ...sqlite.tables import Value, show
from ..convert.refusals import Convert, Refused
from ..convert.server_text import ServerForms
from ..convert.values import converter
from ..plan.planner import ColumnPlan, TablePlan
from ..proof.canonical import source_reader
from .inputs import Sides, hash_of
from .sqlite_text import Form, candidates, read_form

_SHOWN_CHARACTERS = 60
_SHOWN_KEYS = 5


class TwoReadings(Exception):
    """A time of a named zone that this host and the server read differently, with both readings."""


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
        self._probe = _Probe(source, plan)

    def find(self, index: int, text: str, field_hash: str) -> Value:
        """Return a value that reads back, through SQLite and the mapping, as the same field; None if there is none.

        :param text: the value as :func:`.engine.proof.canonical.target_value` gives it.
        :param field_hash: MD5 of its canonical field.
        :raises TwoReadings: if the server reads that value as another time.
        """
        column = self._columns[index]
        if index not in self._forms:
            self._forms[index] = read_form(self._source, self._plan.source, column)
        for candidate in candidates(column, self._forms[index], text):
            stored = self._probe.stored(column.source, candidate)
            if stored is not None and self._reads_as(index, stored, field_hash):
                self._require_same_reading(index, candidate, stored, text)
                return candidate
        return None

    def _require_same_reading(self, index: int, candidate: Value, stored: Value, text: str) -> None:
        """Let the server say what a time of a named zone means, for this host has named it: their data may differ."""
        column = self._columns[index]
        if column.kind != "timestamp" or column.options.time_zone == "UTC":
            return
        moved = self._converters[index](stored) or ""
        said = self._server.reading(self._plan, column, moved)
        if said != text:
            here = "a time" if column.options.secret else f"{text} is {show(candidate)} here"
            there = "" if column.options.secret else f", and {said} there"
            raise TwoReadings(here + there)

    def _reads_as(self, index: int, stored: Value, field_hash: str) -> bool:
        """Return whether a stored value would be moved as it is, and compare equal."""
        try:
            self._converters[index](stored)
            return hash_of(self._readers[index](stored)).hex() == field_hash
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


def _no_note(_conversion: str) -> None:
    """Count nothing."""
