"""What a snapshot holds: its tables, columns, keys and values, read without interpretation."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

# A value as SQLite stores it. Bytes of a text that are not UTF-8 are kept as lone surrogates
# (Python's surrogateescape), so that no value is ever changed by reading it.
Value = int | float | str | bytes | None

# The names of the row id; a column of the same name takes one away.
ROWID_ALIASES = ("rowid", "_rowid_", "oid")
# Skips strings and comments, so that a word in them is not taken for a collation.
_COLLATE = re.compile(
    r"""'(?:[^']|'')*' | --[^\n]* | /\*.*?\*/
    | \bCOLLATE\s+(?: "((?:[^"]|"")+)" | \[([^\]]+)\] | `([^`]+)` | '((?:[^']|'')+)' | ([^\W\d]\w*) )
    | "(?:[^"]|"")*" | \[[^\]]*\] | `[^`]*`""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_PIECE = 1 << 20  # characters
# One word, name, string or sign of a statement; space and comments are no group.
_TOKEN = re.compile(
    r"""\s+ | --[^\n]* | /\*.*?\*/
    | ( "(?:[^"]|"")*" | '(?:[^']|'')*' | `(?:[^`]|``)*` | \[[^\]]*\] | [\w$]+ | . )""",
    re.VERBOSE | re.DOTALL,
)
# Modules whose tables only show what other tables hold.
_DERIVING_MODULES = frozenset(("fts5vocab", "fts4aux", "fts3tokenize", "dbstat"))
# Modules whose option ``content`` names the table that holds the texts, or '' for none.
_CONTENT_MODULES = frozenset(("fts5", "fts4"))

_AFFINITIES = (
    ("INTEGER", ("INT",)),
    ("TEXT", ("CHAR", "CLOB", "TEXT")),
    ("BLOB", ("BLOB",)),
    ("REAL", ("REAL", "FLOA", "DOUB")),
)


@dataclass(frozen=True)
class SourceColumn:
    """One column of a source table; ``generated`` ones are read but never needed."""

    name: str
    declared_type: str
    generated: bool


@dataclass(frozen=True)
class SourceTable:
    """One table of the source, or the part of it that the inventory selects.

    :param key: the columns of its primary key. If it has none, or NULL stands in it (which SQLite
        allows, even twice), the name by which the row id can be read; empty if the table's own
        columns hide the row id too.
    :param row_filter: SQL condition of the rows to move, None for all.
    :param computed: (name, SQL expression) of further columns; the names clash with no column.
    """

    name: str
    columns: tuple[SourceColumn, ...]
    key: tuple[str, ...]
    row_filter: str | None = None
    computed: tuple[tuple[str, str], ...] = ()

    def affinity(self, name: str) -> str:
        """Return the affinity of a column, which its declared type decides: see SQLite's "Datatypes", section 3.1.

        :returns: ``INTEGER``, ``TEXT``, ``BLOB``, ``REAL`` or ``NUMERIC``; ``BLOB`` for a computed column.
        """
        declared = next((column.declared_type.upper() for column in self.columns if column.name == name), "")
        for affinity, parts in _AFFINITIES:
            if any(part in declared for part in parts):
                return affinity
        return "BLOB" if declared in ("", "ANY") else "NUMERIC"

    @property
    def column_names(self) -> tuple[str, ...]:
        """Return the names of its columns in their order."""
        return tuple(column.name for column in self.columns)

    @property
    def relation(self) -> str:
        """Return what stands after FROM: the table, or a subquery with the same columns and key.

        An alias may follow. SQLite looks rows up in it by an index, as it does in the table.
        """
        return self._selected("") if self._is_selection else quote_name(self.name)

    @property
    def scan(self) -> str:
        """Return what stands after FROM to read every row in the order of the file; no alias may follow."""
        return self._selected(" NOT INDEXED") if self._is_selection else f"{quote_name(self.name)} NOT INDEXED"

    @property
    def _is_selection(self) -> bool:
        """Return whether the inventory selects rows or adds columns."""
        return self.row_filter is not None or bool(self.computed)

    def _selected(self, hint: str) -> str:
        """Return the subquery of the selected rows."""
        row_id = [name for name in self.key if name not in self.column_names]
        fields = [f"{quote_name(name)} AS {quote_name(name)}" for name in (*row_id, *self.column_names)]
        # The line ends keep a comment at the end of an expression from swallowing what follows.
        fields += [f"({expression}\n) AS {quote_name(name)}" for name, expression in self.computed]
        where = "" if self.row_filter is None else f" WHERE ({self.row_filter}\n)"
        return f"(SELECT {', '.join(fields)} FROM {quote_name(self.name)}{hint}{where})"  # noqa: S608 (quoted)


@dataclass(frozen=True)
class VirtualTable:
    """A table that a module of SQLite makes up: a full-text or a spatial index, for example.

    :param module: the module's name in lower case.
    :param content: the table that a full-text index reads its texts from; '' if it keeps none at
        all; None if it holds its own, as the tables of other modules do.
    :param holds_rows: None if SQLite cannot read it, for lack of its module for example.
    """

    name: str
    module: str
    content: str | None
    holds_rows: bool | None

    @property
    def derived(self) -> bool:
        """Return whether other tables hold all that it shows."""
        return self.module in _DERIVING_MODULES or bool(self.content)

    @property
    def readable(self) -> bool:
        """Return whether its rows can be read, and are its own."""
        return not self.derived and self.content is None and self.holds_rows is not None


def open_snapshot(path: Path) -> sqlite3.Connection:
    """Open a snapshot for reading; texts come back byte for byte (see :data:`Value`)."""
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
    connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
    add_missing_collations(connection)
    return connection


def quote_name(name: str) -> str:
    """Return a name quoted for SQLite."""
    return '"' + name.replace('"', '""') + '"'


def read_tables(connection: sqlite3.Connection) -> dict[str, SourceTable]:
    """Return every table of the source that holds rows of its own, by name; SQLite's own tables are left out.

    Among them are virtual tables, if they hold rows that stand nowhere else and SQLite can read them.
    """
    rows = connection.execute(
        "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table' "
        "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    ).fetchall()
    rows += [(table.name, False) for table in read_virtual_tables(connection) if table.readable]
    return {name: _read_table(connection, name, bool(without_rowid)) for name, without_rowid in sorted(rows)}


def read_virtual_tables(connection: sqlite3.Connection) -> tuple[VirtualTable, ...]:
    """Return every virtual table of the source."""
    found = connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%' ORDER BY name"
    ).fetchall()
    tables = []
    for name, statement in found:
        module, content = _module_of(statement)
        query = f"SELECT 1 FROM {quote_name(name)} LIMIT 1"  # noqa: S608 (quoted)
        try:
            holds_rows: bool | None = connection.execute(query).fetchone() is not None
        except sqlite3.Error:
            holds_rows = None
        tables.append(VirtualTable(name, module, content, holds_rows))
    return tuple(tables)


def _module_of(statement: str) -> tuple[str, str | None]:
    """Return the module that a virtual table was made with, and its option ``content``, None if it has none."""
    tokens = [match.group(1) for match in _TOKEN.finditer(statement) if match.group(1)]
    # CREATE VIRTUAL TABLE name USING module ( argument , … )
    module = _unquoted(tokens[5]).lower()
    content = None
    if module in _CONTENT_MODULES:
        for position in range(6, len(tokens) - 3):
            before, option, sign, value = tokens[position : position + 4]
            if before in ("(", ",") and option.lower() == "content" and sign == "=":
                content = "" if value in (",", ")") else _unquoted(value)
    return module, content


def _unquoted(token: str) -> str:
    """Return a name or string without its quotes."""
    quotes = {'"': '"', "'": "'", "`": "`", "[": "]"}
    if token[:1] not in quotes:
        return token
    return token[1:-1].replace(quotes[token[0]] * 2, quotes[token[0]])


def row_id_of(column_names: Iterable[str]) -> str | None:
    """Return a name by which the row id of a table can be read, None if its columns take all of them.

    A table WITHOUT ROWID has no row id, whatever its columns are called.
    """
    taken = {name.lower() for name in column_names}
    return next((alias for alias in ROWID_ALIASES if alias not in taken), None)


def _read_table(connection: sqlite3.Connection, name: str, without_rowid: bool) -> SourceTable:
    """Return one table from SQLite's pragmas."""
    rows = connection.execute(f"PRAGMA table_xinfo({quote_name(name)})").fetchall()
    columns = tuple(SourceColumn(row[1], row[2], row[6] in (2, 3)) for row in rows if row[6] != 1)
    key_rows = sorted((row for row in rows if row[5]), key=lambda row: row[5])
    key = tuple(row[1] for row in key_rows)
    nullable = [quote_name(row[1]) for row in key_rows if not row[3] and not without_rowid]
    if key and not (nullable and _holds_null(connection, name, nullable)):
        return SourceTable(name, columns, key)
    row_id = row_id_of(row[1] for row in rows)
    return SourceTable(name, columns, () if row_id is None else (row_id,))


def _holds_null(connection: sqlite3.Connection, table: str, quoted_columns: Sequence[str]) -> bool:
    """Return whether NULL stands in any of the columns. SQLite looks into the key's index."""
    condition = " OR ".join(f"{column} IS NULL" for column in quoted_columns)
    query = f"SELECT 1 FROM {quote_name(table)} WHERE {condition} LIMIT 1"  # noqa: S608 (quoted)
    return connection.execute(query).fetchone() is not None


def read_left_out(connection: sqlite3.Connection) -> list[dict[str, str]]:
    """Return what is not moved as it is, each as ``{"kind": …, "name": …}``.

    Kinds: ``view`` and ``trigger``, whose logic belongs into files/sql; ``virtual table``, an index
    that some module of SQLite keeps (its rows are moved only if it is mapped), with its ``shadow
    table``s; ``collation``, an order of texts that only the service defines (rows are read without it).
    """
    shadows = connection.execute(
        "SELECT type || ' table', name FROM pragma_table_list WHERE schema = 'main' AND type IN ('virtual', 'shadow')"
    )
    others = connection.execute("SELECT type, name FROM sqlite_schema WHERE type IN ('view', 'trigger')")
    found = [*shadows, *others, *(("collation", name) for name in unknown_collations(connection))]
    return [{"kind": kind, "name": name} for kind, name in sorted(found)]


def unknown_collations(connection: sqlite3.Connection) -> tuple[str, ...]:
    """Return the collations that the schema names and SQLite itself does not know."""
    with closing(sqlite3.connect(":memory:")) as plain:
        known = {name.upper() for _, name in plain.execute("PRAGMA collation_list")}
    found: dict[str, str] = {}
    for (statement,) in connection.execute("SELECT sql FROM sqlite_schema WHERE sql LIKE '%collate%'"):
        for token in _COLLATE.finditer(statement):
            name = next((group for group in token.groups() if group is not None), None)
            if name is not None and name.upper() not in known:
                found.setdefault(name.upper(), name)
    return tuple(sorted(found.values()))


def add_missing_collations(connection: sqlite3.Connection) -> None:
    """Let a byte-wise order stand in for each collation that SQLite does not know.

    Without it SQLite refuses every statement that so much as looks at such an index.
    """
    for name in unknown_collations(connection):
        connection.create_collation(name, _byte_wise)


def _byte_wise(left: str, right: str) -> int:
    """Compare as BINARY does: the order of code points is that of their bytes in UTF-8."""
    return (left > right) - (left < right)


def count_rows(connection: sqlite3.Connection, table: str | SourceTable) -> int:
    """Return the number of rows of a table, by name or as the inventory selects them."""
    relation = table.relation if isinstance(table, SourceTable) else quote_name(table)
    return int(connection.execute(f"SELECT count(*) FROM {relation}").fetchone()[0])  # noqa: S608 (quoted)


def read_rows(
    connection: sqlite3.Connection, table: SourceTable, columns: Sequence[str], only: str | None = None
) -> Iterator[tuple[Value, ...]]:
    """Yield the named columns of every row, followed by the columns of its key.

    :param only: SQL condition over the table's columns that chooses the rows, all if not given.
    """
    names = ", ".join(map(quote_name, (*columns, *table.key)))
    where = "" if only is None else f" WHERE {only}"
    return iter(connection.execute(f"SELECT {names} FROM {table.scan}{where}"))  # noqa: S608 (quoted)


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
    """Return a value as a short text for a person: quoted, so that no other value is shown alike.

    Of a long one the beginning is shown, and the beginning of its SHA-256.
    """
    if isinstance(value, bytes):
        text = f"x'{value[:limit].hex()}'"
        return text if len(value) <= limit else f"{text}… ({len(value):,} bytes, sha256 {_short_hash(value)}…)"
    if not isinstance(value, str):
        return repr(value)
    if len(value) <= limit:
        return repr(value)
    return f"{value[:limit]!r}… ({len(value):,} characters, sha256 {_short_hash(value)}…)"


def show_both(one: str, other: str, limit: int = 60) -> tuple[str, str]:
    """Return two different texts for a person: of long ones the part where they begin to differ, and its place."""
    if max(len(one), len(other)) <= limit:
        return repr(one), repr(other)
    place = next((index for index, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), -1)
    if place < 0:
        place = min(len(one), len(other))
    width = limit // 2
    start = max(place - width // 3, 0)

    def part(text: str) -> str:
        end = start + width
        shown = f"{'…' if start else ''}{text[start:end]!r}{'…' if end < len(text) else ''}"
        return f"{shown} ({len(text):,} characters, different from {place + 1:,} on)"

    return part(one), part(other)


def _short_hash(value: str | bytes) -> str:
    """Return enough of a value's hash to tell it from another one; a large text is not copied whole."""
    digest = hashlib.sha256()
    for start in range(0, len(value), _PIECE):
        piece = value[start : start + _PIECE]
        digest.update(piece if isinstance(piece, bytes) else piece.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:12]


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
    row = connection.execute(
        "SELECT max(CAST(seq AS INTEGER)) FROM sqlite_sequence WHERE name = ?", (table,)
    ).fetchone()
    return int(row[0] or 0)
