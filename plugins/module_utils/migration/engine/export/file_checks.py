"""What must hold for a whole SQLite file once its rows are back: foreign keys, AUTOINCREMENT, its pages."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.connection import first_row, sql
from ...core.errors import MigrationError, Problem
from ..plan.planner import TablePlan
from .violations import ExportViolations

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Row ids by table, foreign key and parent; None stands for each row without a row id.
Orphans = dict[tuple[str, str, int], Counter[int | None]]


def orphans_of(connection: sqlite3.Connection) -> Orphans | None:
    """Return the rows that refer to no row, by foreign key; None if SQLite cannot tell."""
    found: Orphans = {}
    try:
        for table, parent, number, row_id in connection.execute(
            'SELECT "table", parent, fkid, rowid FROM pragma_foreign_key_check'
        ):
            found.setdefault((table, parent, number), Counter())[row_id] += 1
    except sqlite3.Error:
        return None  # a key refers to columns that are not unique: SQLite itself would refuse it
    return found


def note_new_orphans(writer: sqlite3.Connection, before: Orphans | None, violations: ExportViolations) -> None:
    """Note each row that refers to no row and did not do so before."""
    after = orphans_of(writer)
    if before is None or after is None:
        return
    for (table, parent, number), rows in after.items():
        new = rows - before.get((table, parent, number), Counter())
        if not new:
            continue
        columns = writer.execute(
            "SELECT group_concat(\"from\", ', ') FROM pragma_foreign_key_list(?) WHERE id = ?", (table, number)
        ).fetchone()[0]
        what = f"{columns} would refer to rows of {parent} that do not exist"
        names = sorted(row_id for row_id in new if row_id is not None)
        violations.add(table, what, *(f"row {row_id}" for row_id in names), count=new.total())


def move_sequences(connection: Connection, writer: sqlite3.Connection, plans: Sequence[TablePlan]) -> dict[str, int]:
    """Keep AUTOINCREMENT from giving out what PostgreSQL's sequences gave out; return where each table stands."""
    moved: dict[str, int] = {}
    if writer.execute("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'").fetchone() is None:
        return moved
    for plan in plans:
        name = plan.source.name
        (statement,) = writer.execute(
            "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (name,)
        ).fetchone()
        sequences = [column.sequence for column in plan.columns if column.sequence is not None]
        if not sequences or re.search(r"\bAUTOINCREMENT\b", statement, re.IGNORECASE) is None:
            continue
        given_out = 0
        with connection.cursor() as cursor:
            for sequence in sequences:
                # The server wrote the name, quoted where needed.
                query = sql.SQL("SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {}")
                cursor.execute(query.format(sql.SQL(sequence)))
                given_out = max(given_out, int(first_row(cursor)[0]))
        row = writer.execute("SELECT max(CAST(seq AS INTEGER)) FROM sqlite_sequence WHERE name = ?", (name,)).fetchone()
        if row[0] is None:
            writer.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, given_out))
        elif row[0] < given_out:
            writer.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (given_out, name))
        moved[name] = max(given_out, row[0] or 0)
    return moved


def require_integrity(source: sqlite3.Connection, writer: sqlite3.Connection, frozen: Path) -> None:
    """Refuse a copy in which SQLite finds faults that the frozen file has not.

    :raises MigrationError: with what SQLite says.
    """
    found = [text for (text,) in writer.execute("PRAGMA integrity_check")]
    if found == ["ok"]:
        return
    known = {text for (text,) in source.execute("PRAGMA integrity_check")}
    new = [text for text in found if text not in known]
    if new:
        raise MigrationError(
            "SQLite finds faults in the copy; nothing was brought back.",
            [Problem(str(frozen), text, "Please report this") for text in new],
        )
