"""What a snapshot holds: its tables, columns, keys and values, read without interpretation."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

# A value as SQLite stores it. Bytes of a text that are not UTF-8 are kept as lone surrogates
# (Python's surrogateescape), so that no value is ever changed by reading it.
Value = int | float | str | bytes | None

ROWID_ALIAS = "rowid"
_PIECE = 1 << 20  # characters


@dataclass(frozen=True)
class SourceColumn:
    """One column of a source table; ``generated`` ones are read but never needed."""

    name: str
    declared_type: str
    generated: bool


@dataclass(frozen=True)
class SourceTable:
    """One table of the source.

    :param key: the columns of its primary key; the row id if it has none.
    """

    name: str
    columns: tuple[SourceColumn, ...]
    key: tuple[str, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        """Return the names of its columns in their order."""
        return tuple(column.name for column in self.columns)


def open_snapshot(path: Path) -> sqlite3.Connection:
    """Open a snapshot for reading; texts come back byte for byte (see :data:`Value`)."""
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
    connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
    return connection


def quote_name(name: str) -> str:
    """Return a name quoted for SQLite."""
    return '"' + name.replace('"', '""') + '"'


def read_tables(connection: sqlite3.Connection) -> dict[str, SourceTable]:
    """Return every ordinary table of the source by name; SQLite's own tables are left out."""
    names = [
        row[0]
        for row in connection.execute(
            "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' "
            "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
        )
    ]
    return {name: _read_table(connection, name) for name in names}


def _read_table(connection: sqlite3.Connection, name: str) -> SourceTable:
    """Return one table from SQLite's pragmas."""
    rows = connection.execute(f"PRAGMA table_xinfo({quote_name(name)})").fetchall()
    columns = tuple(SourceColumn(row[1], row[2], row[6] in (2, 3)) for row in rows if row[6] != 1)
    key = tuple(row[1] for row in sorted((row for row in rows if row[5]), key=lambda row: row[5]))
    return SourceTable(name, columns, key or (ROWID_ALIAS,))


def count_rows(connection: sqlite3.Connection, table: str) -> int:
    """Return the number of rows of a table."""
    return int(connection.execute(f"SELECT count(*) FROM {quote_name(table)}").fetchone()[0])  # noqa: S608 (quoted)


def read_rows(
    connection: sqlite3.Connection, table: SourceTable, columns: Sequence[str]
) -> Iterator[tuple[Value, ...]]:
    """Yield the named columns of every row, followed by the columns of its key."""
    names = ", ".join(quote_name(name) if name != ROWID_ALIAS else name for name in (*columns, *table.key))
    return iter(connection.execute(f"SELECT {names} FROM {quote_name(table.name)} NOT INDEXED"))  # noqa: S608 (quoted)


def row_key(table: SourceTable, values: Sequence[Value]) -> str:
    """Return a row's whole key as text: ``id='echo'``, or ``role_id='a', permission_id='b'``."""
    return ", ".join(
        f"{name}={value.hex() if isinstance(value, bytes) else repr(value)}"
        for name, value in zip(table.key, values, strict=True)
    )


def shown_key(table: SourceTable, values: Sequence[Value], secret: Collection[str]) -> str:
    """Return a row's key for a person: long values shortened, those of ``secret`` columns masked."""
    return ", ".join(
        f"{name}={'(secret)' if name in secret else show(value)}" for name, value in zip(table.key, values, strict=True)
    )


def show(value: Value, limit: int = 60) -> str:
    """Return a value as a short text for a person."""
    if isinstance(value, bytes):
        text = f"x'{value[:limit].hex()}'"
        return text if len(value) <= limit else f"{text}… ({len(value):,} bytes)"
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(str(value)):,} characters)"


def to_json(value: Value) -> Any:
    """Return a value as JSON that keeps its storage class and every bit of it."""
    if value is None:
        return None
    if isinstance(value, bytes):
        return {"blob": value.hex()}
    if isinstance(value, float):
        return {"real": repr(value)}
    if isinstance(value, int):
        return {"integer": str(value)}
    if "\x00" in value or has_invalid_utf8(value):
        return {"text_bytes": value.encode("utf-8", "surrogateescape").hex()}
    return {"text": value}


def to_json_text(values: Any) -> str:
    """Return plain data as compact JSON text."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def has_invalid_utf8(text: str) -> bool:
    """Return whether a text read from a source holds bytes that are not UTF-8."""
    if text.isascii():
        return False
    try:
        # In pieces, so that a large text is not copied whole.
        for start in range(0, len(text), _PIECE):
            text[start : start + _PIECE].encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def read_sequence(connection: sqlite3.Connection, table: str) -> int:
    """Return the last id that AUTOINCREMENT gave out in a table, 0 if it has none."""
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'").fetchone() is None:
        return 0
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    return 0 if row is None or row[0] is None else int(row[0])
