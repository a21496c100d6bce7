"""What the schema of a snapshot says: columns, keys, indexes, references, checks: from pragmas, and from its SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..sqlite.tables import SourceTable, quote_name, read_tables, read_virtual_tables
from .expressions import Token, closing, split_list, tokens

_TABLE_CONSTRAINTS = ("CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN")


@dataclass(frozen=True)
class Column:
    """One column as it is declared.

    :param declared: its declared type as it stands there, may be empty.
    :param default: the SQL of its default, None without one.
    :param generated: the expression that generates it, None if it is an ordinary column.
    :param collation: as declared, in capitals; ``BINARY`` if not.
    """

    name: str
    declared: str
    not_null: bool
    default: str | None
    generated: str | None
    collation: str


@dataclass(frozen=True)
class IndexPart:
    """One column or expression of an index, of which exactly one is given."""

    column: str | None
    expression: str | None
    collation: str
    descending: bool

    @property
    def names(self) -> list[str]:
        """Return what it names, columns among it, in lower case."""
        if self.column is not None:
            return [self.column.lower()]
        return [token.value.lower() for token in tokens(self.expression or "") if token.kind in ("word", "name")]

    @property
    def whole_columns(self) -> list[str]:
        """Return what it may hold the whole values of, in lower case."""
        return [] if {"substr", "substring"} & set(self.names) else self.names


@dataclass(frozen=True)
class Index:
    """An index, or the unique constraint that one stands behind.

    :param constraint: whether it is a UNIQUE of the table itself, not a CREATE INDEX.
    :param where: the condition of a partial index.
    """

    name: str
    unique: bool
    constraint: bool
    parts: tuple[IndexPart, ...]
    where: str | None


@dataclass(frozen=True)
class Reference:
    """A foreign key.

    :param referenced_columns: empty if the primary key is meant.
    :param orphans: rows that refer to no row; None if SQLite cannot tell, for lack of the table or of a key in it.
    """

    columns: tuple[str, ...]
    referenced_table: str
    referenced_columns: tuple[str, ...]
    on_update: str
    on_delete: str
    orphans: int | None


@dataclass(frozen=True)
class Table:
    """One table that holds rows of its own.

    :param source: the same table as the engine reads it.
    :param key: the columns of its primary key as declared.
    :param key_holds_null: which SQLite allows, even twice.
    :param numbers_itself: the column that SQLite itself gives the next number, None without one.
    :param module: of a virtual table, in lower case.
    :param notes: what a reader of its SQL should know.
    """

    name: str
    source: SourceTable
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    key_holds_null: bool
    numbers_itself: str | None
    indexes: tuple[Index, ...]
    references: tuple[Reference, ...]
    checks: tuple[str, ...]
    module: str | None
    notes: tuple[str, ...]


def read_structure(connection: sqlite3.Connection) -> list[Table]:
    """Return every table that holds rows of its own, virtual ones that can be read among them."""
    statements = dict(connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'").fetchall())
    modules = {table.name: table.module for table in read_virtual_tables(connection)}
    return [
        _read_table(connection, source, statements.get(name) or "", modules.get(name))
        for name, source in read_tables(connection).items()
    ]


def read_left_out(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Return views and triggers as (kind, name, SQL)."""
    return connection.execute(
        "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('view', 'trigger') ORDER BY type DESC, name"
    ).fetchall()


def read_shadow_tables(connection: sqlite3.Connection) -> list[str]:
    """Return the tables in which the modules of virtual tables keep their own structures."""
    query = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow' ORDER BY name"
    return [name for (name,) in connection.execute(query)]


def _read_table(connection: sqlite3.Connection, source: SourceTable, statement: str, module: str | None) -> Table:
    """Return one table."""
    name = source.name
    found = [] if module else tokens(statement)
    details = _column_details(found)
    rows = connection.execute(f"PRAGMA table_xinfo({quote_name(name)})").fetchall()
    columns = []
    for _, column, declared, not_null, default, _, hidden in rows:
        if hidden == 1:
            continue
        generated, collation = details.get(column.lower(), (None, "BINARY"))
        if hidden not in (2, 3):
            generated = None
        elif generated is None:
            generated = "?"
        shown = declared.upper().replace("GENERATED ALWAYS", "").strip() if hidden in (2, 3) else declared
        columns.append(Column(column, shown, bool(not_null), default, generated, collation))
    key_rows = sorted((row for row in rows if row[5]), key=lambda row: row[5])
    key = tuple(row[1] for row in key_rows)
    listed = connection.execute(
        "SELECT wr, strict FROM pragma_table_list WHERE schema = 'main' AND name = ?", (name,)
    ).fetchone()
    without_rowid, strict = (bool(listed[0]), bool(listed[1])) if listed else (False, False)
    numbers_itself = None
    if len(key_rows) == 1 and key_rows[0][2].upper() == "INTEGER" and not without_rowid:
        numbers_itself = key[0]
    notes = []
    if without_rowid:
        notes.append(
            "WITHOUT ROWID in SQLite, where rows lie in the order of the primary key; PostgreSQL has no such choice."
        )
    if strict:
        notes.append("STRICT in SQLite: PostgreSQL's types are always so.")
    words = [token.text.upper() for token in found]
    if any(pair == ("ON", "CONFLICT") for pair in pairwise(words)):
        notes.append("ON CONFLICT stands in SQLite's definition: a service must say INSERT … ON CONFLICT itself.")
    return Table(
        name=name,
        source=source,
        columns=tuple(columns),
        key=key,
        key_holds_null=bool(key) and source.key != key,
        numbers_itself=numbers_itself,
        indexes=() if module else tuple(_read_indexes(connection, name)),
        references=() if module else tuple(_read_references(connection, name)),
        checks=tuple(_checks(statement, found)),
        module=module,
        notes=tuple(notes),
    )


def _parts_of(found: Sequence[Token]) -> list[Sequence[Token]]:
    """Return the parts between the commas of CREATE TABLE's outer parentheses."""
    opening = next((position for position, token in enumerate(found) if token.text == "("), None)
    return [] if opening is None else list(split_list(found[opening + 1 : closing(found, opening)]))


def _column_details(found: Sequence[Token]) -> dict[str, tuple[str | None, str]]:
    """Return for each column, by its name in lower case, the expression that generates it and its collation."""
    details = {}
    for part in _parts_of(found):
        if not part or part[0].is_word(*_TABLE_CONSTRAINTS):
            continue
        generated, collation, depth = None, "BINARY", 0
        for position, token in enumerate(part):
            if depth == 0 and token.is_word("COLLATE") and position + 1 < len(part):
                collation = part[position + 1].value.upper()
            if depth == 0 and token.is_word("AS") and position + 1 < len(part) and part[position + 1].text == "(":
                generated = _between(part, position + 1)
            depth += {"(": 1, ")": -1}.get(token.text, 0) if token.kind == "sign" else 0
        details[part[0].value.lower()] = (generated, collation)
    return details


def _between(found: Sequence[Token], opening: int) -> str:
    """Return what stands in a pair of parentheses, tokens apart by one space, without comments."""
    return " ".join(token.text for token in found[opening + 1 : closing(found, opening)])


def _checks(statement: str, found: Sequence[Token]) -> Iterator[str]:
    """Yield the condition of each CHECK."""
    for part in _parts_of(found):
        depth = 0
        for position, token in enumerate(part):
            if depth == 0 and token.is_word("CHECK") and position + 1 < len(part) and part[position + 1].text == "(":
                yield _between(part, position + 1)
            depth += {"(": 1, ")": -1}.get(token.text, 0) if token.kind == "sign" else 0


def _read_indexes(connection: sqlite3.Connection, table: str) -> Iterator[Index]:
    """Yield the indexes of a table but for that of its primary key."""
    for _, name, unique, origin, _ in connection.execute(f"PRAGMA index_list({quote_name(table)})").fetchall():
        if origin == "pk":
            continue
        (statement,) = connection.execute(
            "SELECT sql FROM sqlite_schema WHERE type = 'index' AND name = ?", (name,)
        ).fetchone() or (None,)
        expressions, where = _index_expressions(statement)
        parts = []
        rows = connection.execute(f"PRAGMA index_xinfo({quote_name(name)})").fetchall()
        for position, (_, number, column, descending, collation, is_key) in enumerate(rows):
            if not is_key:
                continue
            expression = None
            if number == -2:
                expression = expressions[position] if position < len(expressions) else "?"
            parts.append(IndexPart(column if number >= 0 else None, expression, collation.upper(), bool(descending)))
        if all(part.column or part.expression for part in parts):
            yield Index(name, bool(unique), origin == "u", tuple(parts), where)


def _index_expressions(statement: str | None) -> tuple[list[str], str | None]:
    """Return what an index is on, part by part as it stands there, and the condition of a partial one."""
    if statement is None:
        return [], None
    found = tokens(statement)
    on = next((position for position, token in enumerate(found) if token.is_word("ON")), 0)
    opening = next((position for position in range(on, len(found)) if found[position].text == "("), None)
    if opening is None:
        return [], None
    end = closing(found, opening)
    parts = []
    for part in split_list(found[opening + 1 : end]):
        kept = list(part)
        while kept and kept[-1].is_word("ASC", "DESC"):
            kept.pop()
        if len(kept) > 2 and kept[-2].is_word("COLLATE"):
            kept = kept[:-2]
        parts.append(" ".join(token.text for token in kept))
    rest = found[end + 1 :]
    where = " ".join(token.text for token in rest[1:]) if rest and rest[0].is_word("WHERE") else None
    return parts, where


def _read_references(connection: sqlite3.Connection, table: str) -> Iterator[Reference]:
    """Yield the foreign keys of a table, each with the number of its orphans."""
    orphans: dict[int, int] = {}
    is_known = True
    try:
        for _, _, _, number in connection.execute(f"PRAGMA foreign_key_check({quote_name(table)})"):
            orphans[number] = orphans.get(number, 0) + 1
    except sqlite3.Error:
        is_known = False  # SQLite calls it a foreign key mismatch
    keys: dict[int, list[tuple[str, str | None, str, str, str]]] = {}
    for number, _, referenced, column, to, on_update, on_delete, _ in connection.execute(
        f"PRAGMA foreign_key_list({quote_name(table)})"
    ):
        keys.setdefault(number, []).append((column, to, referenced, on_update, on_delete))
    for number, rows in sorted(keys.items(), reverse=True):
        referenced_columns = tuple(row[1] for row in rows if row[1] is not None)
        _, _, referenced, on_update, on_delete = rows[0]
        columns = tuple(row[0] for row in rows)
        count = orphans.get(number, 0) if is_known else None
        yield Reference(columns, referenced, referenced_columns, on_update, on_delete, count)
