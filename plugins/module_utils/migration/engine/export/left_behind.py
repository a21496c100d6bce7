"""The rows that ``row_filter`` left in the file: they stay, and are told by their place from all that comes back.

A row that was moved may come to meet the filter's condition no more, and a new one may never have. Both go into the
file all the same, so on the rollback the filter itself does not say which rows PostgreSQL has to have.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import replace

from ...core.estate import Group
from ...sqlite.tables import SourceTable, quote_name
from .clashes import locator_columns

_PREFIX = "left_behind_"


def excluded(group: Group, source: sqlite3.Connection, tables: Mapping[str, SourceTable]) -> Group:
    """Note the rows that the filters leave behind, and return the group with filters that leave out those rows.

    :param source: the frozen file; the rows are noted in its connection's temporary tables.
    """
    source.execute("PRAGMA temp_store = MEMORY")
    mappings = []
    for number, mapping in enumerate(group.tables):
        if mapping.row_filter is None:
            mappings.append(mapping)
            continue
        columns = locator_columns(source, tables[mapping.source])
        names = ", ".join(map(quote_name, columns))
        parts = ", ".join(f"part_{position}" for position in range(len(columns)))
        noted = f"temp.{_PREFIX}{number}"
        # The line end keeps a comment at the end of a filter from swallowing what follows.
        source.execute(f"CREATE TABLE {noted} ({parts}, PRIMARY KEY ({parts})) WITHOUT ROWID")
        source.execute(
            f"INSERT INTO {noted} SELECT {names} FROM {quote_name(mapping.source)} "  # noqa: S608 (quoted)
            f"WHERE ({mapping.row_filter}\n) IS NOT TRUE"
        )
        mappings.append(replace(mapping, row_filter=f"({names}) NOT IN (SELECT {parts} FROM {noted})"))  # noqa: S608
    return replace(group, tables=tuple(mappings))


def note_in(writer: sqlite3.Connection, source: sqlite3.Connection) -> None:
    """Note the same rows for another connection, which is in a transaction and has another file."""
    for name, statement in source.execute(
        "SELECT name, sql FROM temp.sqlite_schema WHERE type = 'table' AND name GLOB ?", (f"{_PREFIX}*",)
    ).fetchall():
        writer.execute(statement.replace("CREATE TABLE ", "CREATE TEMP TABLE ", 1))
        marks = ", ".join("?" * len(source.execute(f"PRAGMA temp.table_info({name})").fetchall()))
        writer.executemany(
            f"INSERT INTO temp.{name} VALUES ({marks})",  # noqa: S608 (our own name)
            source.execute(f"SELECT * FROM temp.{name}"),  # noqa: S608 (our own name)
        )
