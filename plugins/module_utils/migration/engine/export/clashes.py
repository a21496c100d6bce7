"""Rows of an SQLite file: how each is found again, and how one is written that clashes with others."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ...sqlite.tables import SourceTable, Value, has_invalid_utf8, quote_name, row_id_of, to_json


def locator_columns(source: sqlite3.Connection, table: SourceTable) -> tuple[str, ...]:
    """Return the columns by which every row of a table is found: its row id, or its key."""
    without_rowid = source.execute(
        "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?", (table.name,)
    ).fetchone()[0]
    row_id = row_id_of(table.column_names)
    return table.key if without_rowid or row_id is None else (row_id,)


def locator_text(values: Sequence[Value]) -> str:
    """Return how to find a row as a text that keeps every bit of it."""
    return json.dumps([to_json(value) for value in values], ensure_ascii=True)


def locator_of(text: str) -> tuple[Value, ...]:
    """Return what :func:`locator_text` was given."""
    readers: dict[str, Callable[[str], Value]] = {
        "blob": bytes.fromhex,
        "real": float,
        "integer": int,
        "text": str,
        "text_bytes": lambda data: bytes.fromhex(data).decode("utf-8", "surrogateescape"),
    }
    values: list[Value] = []
    for item in json.loads(text):
        ((kind, data),) = item.items()
        values.append(readers[kind](data))
    return tuple(values)


def where(names: Sequence[str], values: Sequence[Value]) -> tuple[str, tuple[Value, ...]]:
    """Return the SQL that finds one row, and the values to bind to it."""
    conditions, bound = [], []
    for name, value in zip(names, values, strict=True):
        broken = isinstance(value, str) and has_invalid_utf8(value)
        # Python binds no text that is not UTF-8; SQLite makes one of bytes. BINARY looks at nothing else.
        conditions.append(f"{quote_name(name)} = {'CAST(? AS TEXT)' if broken else '?'} COLLATE BINARY")
        bound.append(value.encode("utf-8", "surrogateescape") if broken and isinstance(value, str) else value)
    return " AND ".join(conditions), tuple(bound)


class Held:
    """Rows that clash with others on their way to new values: taken out, and put back when all others are right."""

    def __init__(self, writer: sqlite3.Connection, table: SourceTable, locator: Sequence[str]) -> None:
        self._writer = writer
        self._name = table.name
        self._table = quote_name(table.name)
        self._locator = locator
        columns = [column.name for column in table.columns if not column.generated]
        # The row id stays what it is, unless a column is one.
        row_id = [name for name in locator if name not in table.column_names and not _is_row_id(writer, table)]
        self._columns = [*row_id, *columns]
        self._rows: list[str] = []

    def take(self, locator: Sequence[Value], new: Mapping[str, Value], row: str) -> None:
        """Take one row out of its table, and change it."""
        places = [f"c{number}" for number in range(len(self._columns))]
        if not self._rows:
            self._writer.execute(f"CREATE TEMP TABLE held ({', '.join(places)})")
        condition, bound = where(self._locator, locator)
        names = ", ".join(map(quote_name, self._columns))
        self._writer.execute(
            f"INSERT INTO temp.held SELECT {names} FROM {self._table} WHERE {condition}",  # noqa: S608 (quoted)
            bound,
        )
        self._writer.execute(f"DELETE FROM {self._table} WHERE {condition}", bound)  # noqa: S608 (quoted)
        assignments = ", ".join(f"{places[self._columns.index(name)]} = ?" for name in new)
        self._writer.execute(
            f"UPDATE temp.held SET {assignments} WHERE rowid = (SELECT max(rowid) FROM temp.held)",  # noqa: S608
            tuple(new.values()),
        )
        self._rows.append(row)

    def put_back(self) -> Iterator[tuple[str, str, str]]:
        """Put all rows back; yield the table, the reason and the row of each that SQLite refuses."""
        names = ", ".join(map(quote_name, self._columns))
        places = ", ".join(f"c{number}" for number in range(len(self._columns)))
        for number, row in enumerate(self._rows, 1):
            try:
                self._writer.execute(
                    f"INSERT OR ABORT INTO {self._table} ({names}) "  # noqa: S608 (quoted)
                    f"SELECT {places} FROM temp.held WHERE rowid = ?",
                    (number,),
                )
            except sqlite3.Error as error:
                yield self._name, f"SQLite refuses it: {error}", row
        if self._rows:
            self._writer.execute("DROP TABLE temp.held")


def _is_row_id(connection: sqlite3.Connection, table: SourceTable) -> bool:
    """Return whether a column of a table is its row id: its only key, and declared INTEGER."""
    rows = connection.execute(f"PRAGMA table_xinfo({quote_name(table.name)})").fetchall()
    keys = [row for row in rows if row[5]]
    return len(keys) == 1 and str(keys[0][2]).upper() == "INTEGER"


def is_clash(error: sqlite3.IntegrityError) -> bool:
    """Return whether another row holds the same key."""
    return error.sqlite_errorname in (
        "SQLITE_CONSTRAINT_UNIQUE",
        "SQLITE_CONSTRAINT_PRIMARYKEY",
        "SQLITE_CONSTRAINT_ROWID",
    )


@contextmanager
def without_triggers(writer: sqlite3.Connection, table: str) -> Iterator[None]:
    """Keep the triggers of a table from changing what is written: they acted in PostgreSQL, or not at all."""
    triggers = writer.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE ORDER BY rowid",
        (table,),
    ).fetchall()
    for name, _ in triggers:
        writer.execute(f"DROP TRIGGER {quote_name(name)}")
    yield
    for _, statement in triggers:
        writer.execute(statement)
