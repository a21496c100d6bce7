"""Brings one table of the copy to what PostgreSQL holds."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ...core.errors import MigrationError, Problem
from ...sqlite.tables import Value, quote_name, row_key, unknown_collations
from ..convert.policies import AS_WRITTEN
from ..plan.ids_in_texts import AsWritten
from ..proof.checksums import sum_source, sum_target
from .clashes import Held, is_clash, locator_of, where, without_triggers
from .difference import Difference, found
from .inputs import Sides, hash_of
from .unmapped_columns import other_columns
from .values import ValueForms, shown_row, shown_value
from .violations import ExportViolations

_ROWS_AT_ONCE = 500
# The values of so many bytes of rows are held at once, or of one row.
_BYTES_AT_ONCE = 4 << 20


@dataclass
class Written:
    """Rows written to one table, and the columns of its target of which nobody can tell what they hold.

    :param ids_as_written: see :class:`.export.TableExport`.
    """

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    not_told: tuple[str, ...] = ()
    ids_as_written: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Change:
    """A row that differs.

    :param locator: how to find it in the file, None for a new row.
    :param place: where PostgreSQL holds it, see its ``ctid``.
    """

    locator: tuple[Value, ...] | None
    place: str


def export_table(sides: Sides, writer: sqlite3.Connection, directory: Path, violations: ExportViolations) -> Written:
    """Write every row of a table that differs; note what cannot be said.

    :param directory: private directory for work files.
    """
    others = other_columns(sides)
    others.note(violations)
    written = Written(not_told=others.not_told)
    if _holds_the_same(sides):
        return written
    with found(sides, directory) as difference:
        if difference:
            _require_known_collations(sides)
            with without_triggers(writer, sides.plan.source.name):
                _TableWriter(sides, writer, violations, written).write(difference)
    return written


def _holds_the_same(sides: Sides) -> bool:
    """Return whether PostgreSQL has exactly the rows of the file; the sums tell it in a fraction of the time.

    If they differ, the rows may still be the same: SQLite may have said one in another way.
    """
    return sum_source(sides.source, sides.prepared, sides.forms) == sum_target(sides.connection, sides.plan)


def _require_known_collations(sides: Sides) -> None:
    """Refuse to write where an order of texts that only the service knows keeps an index.

    :raises MigrationError: naming the collation.
    """
    name = sides.plan.source.name
    statements = [
        text
        for (text,) in sides.source.execute(
            "SELECT sql FROM sqlite_schema WHERE tbl_name = ? COLLATE NOCASE AND sql IS NOT NULL", (name,)
        )
    ]
    problems = [
        Problem(
            name,
            f"it is ordered by the collation {collation}, which only the service knows",
            "Bring its changes back through the service itself",
        )
        for collation in unknown_collations(sides.source)
        if any(re.search(rf"\bCOLLATE\W+{re.escape(collation)}", text, re.IGNORECASE) for text in statements)
    ]
    if problems:
        raise MigrationError(f"The changes of {sides.plan.target.name} cannot be brought back.", problems)


class _TableWriter:
    """Writes the rows of one table that differ."""

    def __init__(self, sides: Sides, writer: sqlite3.Connection, violations: ExportViolations, counts: Written) -> None:
        self._sides = sides
        self._writer = writer
        self._violations = violations
        self._counts = counts
        self._plan = plan = sides.plan
        self._prepared = sides.prepared
        self._columns = sides.columns
        self._table = quote_name(plan.source.name)
        columns = {column.name for column in plan.source.columns if not column.generated}
        self._value_forms = ValueForms(sides.source, plan, sides.forms)
        self._written = [index for index, column in enumerate(plan.columns) if column.source in columns]
        # Columns of the row at hand in which ids of the file are what a service has written.
        self._as_written: set[str] = set()
        # The key and these columns of each row that is updated so: other rows may still hold its key.
        self._updated_as_written: list[tuple[list[Value], tuple[str, ...]]] = []
        # What an inverse of the inventory's gives for computed columns.
        names = {name: target for (name, _), target in zip(plan.source.computed, plan.mapping.computed, strict=True)}
        self._inverses = {
            index: (names[column.source], plan.mapping.back[names[column.source]])
            for index, column in enumerate(plan.columns)
            if names.get(column.source) in plan.mapping.back
        }

    def write(self, difference: Difference) -> None:
        """Delete, update and insert, in this order."""
        for locator in difference.deleted():
            self._delete(locator)
        held = Held(self._writer, self._plan.source, self._sides.locator)
        for change, values in self._changed(difference.updated()):
            self._update(change, values, held)
        for place, what, row in held.put_back():
            self._violations.add(place, what, row)
        for key_values, names in self._updated_as_written:
            self._note_as_written(key_values, names)
        for _, values in self._changed(difference.inserted()):
            self._insert(values)

    def _changed(self, rows: Iterable[tuple[str | None, str, int]]) -> Iterator[tuple[_Change, list[Any]]]:
        """Yield rows that differ with what PostgreSQL holds of them: hash of the field, then value, of each column."""
        block: list[_Change] = []
        size = 0
        for locator, place, row_size in rows:
            if block and (len(block) >= _ROWS_AT_ONCE or size + row_size > _BYTES_AT_ONCE):
                yield from self._read(block)
                block, size = [], 0
            block.append(_Change(None if locator is None else locator_of(locator), place))
            size += row_size
        if block:
            yield from self._read(block)

    def _read(self, block: Sequence[_Change]) -> Iterator[tuple[_Change, list[Any]]]:
        """Yield the rows of a block with what PostgreSQL holds of them."""
        rows = self._sides.read_target([change.place for change in block])
        # So that the forms of all texts are asked for at once.
        first, last = len(self._columns), len(self._columns) + len(self._plan.columns)
        self._value_forms.learn([(row[first:last], row[:first]) for row in rows.values()])
        values = [(*rows[change.place][first:last], number) for number, change in enumerate(block)]
        for learned in self._sides.forms.learned(self._plan, values):
            for *_, number in learned:
                change = block[cast(int, number)]
                yield change, rows[change.place]

    def _delete(self, locator: str) -> None:
        """Delete one row."""
        if self._prepared.changes:
            # Another row may get its row id.
            self._prepared.changes.pop(self._sides.source_row(locator_of(locator))[1], None)
        condition, bound = where(self._sides.locator, locator_of(locator))
        try:
            self._writer.execute(f"DELETE FROM {self._table} WHERE {condition}", bound)  # noqa: S608 (quoted)
        except sqlite3.Error as error:
            secret = not self._plan.secret_columns.isdisjoint(self._sides.locator)
            self._refused(error, "(secret)" if secret else locator)
        self._counts.deleted += 1

    def _update(self, change: _Change, values: Sequence[Any], held: Held) -> None:
        """Write the values of one row that differ."""
        row = self._shown(values)
        condition, bound = where(self._sides.locator, change.locator or ())
        before, key = self._sides.source_row(change.locator or ())
        fields = self._sides.source_fields(before, key)
        new: dict[str, Value] = {}
        self._as_written.clear()
        for index in (*self._written, *self._inverses):
            known = fields[index]
            if known is None or hash_of(known).hex() != values[index]:
                self._say(index, values, row, new)
        if not new:
            return  # nothing, or what is computed from other columns: the proof names it
        self._prepared.rejected.pop(key, None)
        repaired = self._prepared.changes.get(key, {})
        if repaired.keys() & new.keys():
            self._prepared.changes[key] = {name: done for name, done in repaired.items() if name not in new}
        if self._as_written:
            key_values = self._key_after(change.locator or (), new)
            self._updated_as_written.append((key_values, tuple(self._as_written)))
        self._counts.updated += 1
        assignments = ", ".join(f"{quote_name(name)} = ?" for name in new)
        try:
            self._writer.execute(
                f"UPDATE OR ABORT {self._table} SET {assignments} WHERE {condition}",  # noqa: S608 (quoted)
                (*new.values(), *bound),
            )
        except sqlite3.IntegrityError as error:
            if is_clash(error):
                # Perhaps with a row that is still to change.
                held.take(change.locator or (), new, row)
            else:
                self._refused(error, row)
        except sqlite3.Error as error:
            self._refused(error, row)

    def _insert(self, values: Sequence[Any]) -> None:
        """Write one new row."""
        row = self._shown(values)
        new: dict[str, Value] = {}
        self._as_written.clear()
        for index in (*self._written, *self._inverses):
            self._say(index, values, row, new)
        self._counts.inserted += 1
        names = ", ".join(map(quote_name, new))
        marks = ", ".join("?" * len(new))
        try:
            inserted = self._writer.execute(
                f"INSERT OR ABORT INTO {self._table} ({names}) VALUES ({marks})",  # noqa: S608 (quoted)
                tuple(new.values()),
            )
        except sqlite3.Error as error:
            self._refused(error, row)
            return
        if self._as_written:
            key = self._plan.source.key
            if set(key) <= new.keys():
                self._note_as_written([new[name] for name in key], self._as_written)
            elif set(self._sides.locator).isdisjoint(self._plan.source.column_names):  # the file gives the rest of it
                self._note_as_written(self._key_after([inserted.lastrowid], new), self._as_written)

    def _key_after(self, locator: Sequence[Value], new: Mapping[str, Value]) -> list[Value]:
        """Return the values of the key that a row will have."""
        key = self._plan.source.key
        condition, bound = where(self._sides.locator, locator)
        names = ", ".join(map(quote_name, key))
        found = self._writer.execute(f"SELECT {names} FROM {self._table} WHERE {condition}", bound)  # noqa: S608 (quoted)
        return [new.get(name, value) for name, value in zip(key, found.fetchone(), strict=True)]

    def _note_as_written(self, key_values: Sequence[Value], columns: Iterable[str]) -> None:
        """Let the proof take the ids in these columns of a row that was written as they are."""
        key = self._plan.source.key
        condition, bound = where(key, key_values)
        names = ", ".join(map(quote_name, key))
        # As SQLite has stored them.
        query = f"SELECT {names} FROM {self._table} WHERE {condition}"  # noqa: S608 (quoted)
        found = self._writer.execute(query, bound).fetchone()
        if found is not None:  # else SQLite has refused the row
            stored = row_key(self._plan.source, found)
            kept = dict.fromkeys(columns, (AS_WRITTEN,))
            self._prepared.changes[stored] = {**self._prepared.changes.get(stored, {}), **kept}

    def _say(self, index: int, values: Sequence[Any], row: str, new: dict[str, Value]) -> None:
        """Put the value of one column into ``new``, or note that the file cannot hold it."""
        column = self._columns[index]
        text = values[len(self._columns) + index]
        if text is None:
            self._put(index, None, row, new)
            return
        value = self._value_forms.find(index, text, values[index])
        if value is None:
            self._violations.add(
                f"{self._plan.source.name}.{column.source}",
                f"holds a value of type {column.display_type} that the file cannot say exactly",
                row if column.options.secret else f"{row}: {shown_value(column, text)}",
            )
            return
        if self._value_forms.leaves_ids(index, value):
            self._counts.ids_as_written[column.source] += 1
        if isinstance(value, AsWritten):
            self._as_written.add(column.source)
            value = str(value)
        self._put(index, value, row, new)

    def _put(self, index: int, value: Value, row: str, new: dict[str, Value]) -> None:
        """Put a value into ``new``: under its column, or what the inverse of a computed one gives for others."""
        if index not in self._inverses:
            new[self._columns[index].source] = value
            return
        target, back = self._inverses[index]
        for name, expression in back.items():
            try:
                query = f"SELECT ({expression}\n) FROM (SELECT ? AS {quote_name(target)})"  # noqa: S608 (quoted)
                new[name] = self._sides.source.execute(query, (value,)).fetchone()[0]
            except (sqlite3.Error, OverflowError) as error:
                where_from = f"{self._plan.source.name}: computed {target}: back"
                self._violations.add(where_from, f"SQLite refuses it: {error}", row)

    def _shown(self, values: Sequence[Any]) -> str:
        """Return the key of a row of PostgreSQL for a person."""
        return shown_row(self._sides, values[len(self._columns) :])

    def _refused(self, error: sqlite3.Error, row: str) -> None:
        """Note that SQLite refuses a row; its messages name columns, never values."""
        self._violations.add(self._plan.source.name, f"SQLite refuses it: {error}", row)
