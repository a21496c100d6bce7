"""What the inventory selects from a source table: rows by a filter, and computed columns.

Both are SQL that a person wrote, so they are tried out here, and everything that is wrong with them
is told before a single value is converted.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from ...core.errors import Problem
from ...core.estate import COMPUTED, TableMapping
from ...sqlite.tables import ROWID_ALIASES, SourceTable, count_rows, quote_name, shown_key

_SHOWN_KEYS = 5
# A string, a comment, or a name in double quotes, which alone is a group.
_QUOTED_NAME = re.compile(r"""'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/|"((?:[^"]|"")*)\"""", re.DOTALL)


def select(
    where: str,
    mapping: TableMapping,
    source: SourceTable,
    sources: Mapping[str, SourceTable],
    snapshot: sqlite3.Connection,
    problems: list[Problem],
) -> tuple[SourceTable, int]:
    """Return the part of a table that the inventory selects, and the number of rows that it leaves out.

    Notes a problem for each option whose SQL SQLite refuses, and goes on without it.
    """
    names = {name.lower() for table in sources.values() for name in (table.name, *table.column_names)}
    names.update(ROWID_ALIASES)
    selected, left_out = source, 0
    if mapping.row_filter is not None:
        filtered = replace(source, row_filter=mapping.row_filter)
        option = f"{where}: row_filter"
        if _can_be_used(option, mapping.row_filter, f"FROM {filtered.relation}", snapshot, names, problems):
            selected, left_out = filtered, count_rows(snapshot, source) - count_rows(snapshot, filtered)
    computed = []
    for target, expression in mapping.computed.items():
        option = f"{where}: computed: {target}"
        # Not through the relation: there an aggregate would be valid, and melt all rows into one.
        counted = f"({expression}\n)"
        where_clause = "" if selected.row_filter is None else f" WHERE ({selected.row_filter}\n)"
        query = f"FROM {quote_name(source.name)}{where_clause}"
        if not _can_be_used(option, expression, query, snapshot, names, problems, counted):
            expression = "NULL"
        computed.append((_free_name(target, source), expression))
    return replace(selected, computed=tuple(computed)), left_out


def _can_be_used(
    option: str,
    expression: str,
    query: str,
    snapshot: sqlite3.Connection,
    names: set[str],
    problems: list[Problem],
    counted: str = "*",
) -> bool:
    """Return whether SQLite can evaluate an expression for every row; note a problem if not."""
    fix = "Correct it in the inventory: SQL of SQLite over the source's columns"
    for match in _QUOTED_NAME.finditer(expression):
        name = match.group(1)
        if name is not None and name.replace('""', '"').lower() not in names:
            # SQLite would silently take it for a string.
            problems.append(Problem(option, f'the source has no column "{name}"', f"{fix}; strings stand in 'quotes'"))
            return False
    try:
        snapshot.execute(f"SELECT count({counted}) {query}").fetchone()
    except (sqlite3.Error, sqlite3.Warning) as error:
        problems.append(Problem(option, f"SQLite refuses it: {error}", fix))
        return False
    return True


def _free_name(target: str, source: SourceTable) -> str:
    """Return a name for a computed column that is no column of the table."""
    taken = {name.lower() for name in (*source.column_names, *ROWID_ALIASES)}
    name = f"{COMPUTED}{target}"
    while name.lower() in taken:
        name += "'"
    return name


def half_surrogates(
    where: str, snapshot: sqlite3.Connection, source: SourceTable, columns: Sequence[str], secret: Collection[str]
) -> Iterator[Problem]:
    """Yield a problem for each column whose UTF-16 texts SQLite would change on their way to us.

    A database may be encoded in UTF-16. SQLite hands its texts out in UTF-8, which has no form for half
    a surrogate pair, and then melts it with the character after it into another one. So such databases
    are read once byte for byte.
    """
    encoding = str(snapshot.execute("PRAGMA encoding").fetchone()[0])
    if not encoding.startswith("UTF-16") or not source.key:
        return
    codec = {"UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}[encoding]

    def is_sound(text: bytes) -> bool:
        try:
            text.decode(codec)
        except UnicodeDecodeError:
            return False
        return True

    snapshot.create_function("is_sound_utf16", 1, is_sound, deterministic=True)
    keys = ", ".join(map(quote_name, source.key))
    for column in columns:
        name = quote_name(column)
        rows = snapshot.execute(
            f"SELECT {keys} FROM {source.scan} "  # noqa: S608 (quoted)
            f"WHERE typeof({name}) = 'text' AND NOT is_sound_utf16(CAST({name} AS BLOB)) LIMIT {_SHOWN_KEYS + 1}"
        ).fetchall()
        if rows:
            shown = "; ".join(shown_key(source, row, secret) for row in rows[:_SHOWN_KEYS])
            more = " and more" if len(rows) > _SHOWN_KEYS else ""
            yield Problem(
                f"{where}.{column}",
                f"it holds half a surrogate pair, which SQLite cannot hand out unchanged (rows: {shown}{more})",
                "Repair the value in the source",
            )
