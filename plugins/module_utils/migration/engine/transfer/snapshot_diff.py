"""Which rows differ between two snapshots of one source.

Rows are matched by their row id (by their key in a table without one) and compared column by
column inside SQLite, which takes a second or two for a million rows.
"""

from __future__ import annotations

import filecmp
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from ...sqlite.tables import ROWID_ALIASES, SourceTable, Value, quote_name, row_id_of
from ..plan.planner import TablePlan

# With more rows than these, or a larger share of them, loading all is no slower and simpler.
MOST_ROWS = 200_000
LARGEST_SHARE = 0.25

Locator = tuple[Value, ...]


@dataclass
class TableDifference:
    """The rows of one table that differ, by their locators.

    :param locator: the columns that locate a row: the row id, or the key of a table without one.
    :param new: rows of the new snapshot that were inserted or changed.
    :param old: rows of the old snapshot that were changed or deleted.
    """

    plan: TablePlan
    locator: tuple[str, ...]
    new: list[Locator] = field(default_factory=list)
    old: list[Locator] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Return whether any row differs."""
        return bool(self.new or self.old)


def difference(
    snapshot: sqlite3.Connection, path: Path, old_path: Path, plans: Sequence[TablePlan]
) -> list[TableDifference] | None:
    """Return what differs in each table, or None if that cannot be told, or is too much to be worth it."""
    if filecmp.cmp(path, old_path, shallow=False):
        return [TableDifference(plan, ()) for plan in plans]
    snapshot.execute("ATTACH ? AS old", (f"file:{quote(str(old_path))}?mode=ro",))
    try:
        if _schema(snapshot, "main") != _schema(snapshot, "old"):
            return None
        result = []
        for plan in plans:
            found = _table(snapshot, plan)
            if found is None:
                return None
            result.append(found)
        return result
    finally:
        snapshot.execute("DETACH old")


def choose(snapshot: sqlite3.Connection, number: int, locator: Sequence[str], rows: Sequence[Locator]) -> str:
    """Return the SQL condition that chooses these rows in a snapshot.

    :param number: tells the tables of one snapshot apart.
    """
    table = f"temp.chosen_{number}"
    names = ", ".join(f"part_{position}" for position in range(len(locator)))
    snapshot.execute("PRAGMA temp_store = MEMORY")
    snapshot.execute(f"DROP TABLE IF EXISTS {table}")
    snapshot.execute(f"CREATE TABLE {table} ({names})")
    marks = ", ".join("?" * len(locator))
    snapshot.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608 (names of our own)
    columns = ", ".join(map(quote_name, locator))
    return f"({columns}) IN (SELECT {names} FROM {table})"  # noqa: S608 (quoted)


def _schema(snapshot: sqlite3.Connection, name: str) -> list[tuple[str, ...]]:
    """Return the statements that made a database, in their order."""
    return snapshot.execute(
        f"SELECT type, name, tbl_name, sql FROM {name}.sqlite_schema ORDER BY type, name"  # noqa: S608 (our own name)
    ).fetchall()


def _table(snapshot: sqlite3.Connection, plan: TablePlan) -> TableDifference | None:
    """Return what differs in one table."""
    source = plan.source
    locator = _locator(snapshot, source)
    if locator is None or source.scan != f"{quote_name(source.name)} NOT INDEXED":
        return None
    result = TableDifference(plan, locator)
    table = quote_name(source.name)
    match = " AND ".join(f"o.{quote_name(name)} = n.{quote_name(name)}" for name in locator)
    found = f"o.{quote_name(locator[0])} IS NOT NULL"
    same = " AND ".join(_same(source, name) for name in source.column_names)
    columns = ", ".join(f"n.{quote_name(name)}" for name in locator)
    rows = _count(snapshot, "main", table)
    most = min(MOST_ROWS, max(100, int(rows * LARGEST_SHARE)))
    matched = rows
    for *row, is_changed in snapshot.execute(
        f"SELECT {columns}, {found} FROM main.{table} n LEFT JOIN old.{table} o ON {match} "  # noqa: S608 (quoted)
        f"WHERE NOT ({found} AND {same})"
    ):
        result.new.append(tuple(row))
        if is_changed:
            result.old.append(tuple(row))
        else:
            matched -= 1
        if len(result.new) > most:
            return None
    gone = _count(snapshot, "old", table) - matched
    if gone:
        if gone > most:
            return None
        result.old.extend(_gone(snapshot, table, locator))
    return result


def _locator(snapshot: sqlite3.Connection, source: SourceTable) -> tuple[str, ...] | None:
    """Return the columns that locate a row, or None if nothing does."""
    found = snapshot.execute(
        "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?", (source.name,)
    ).fetchone()
    if found is not None and found[0]:
        return source.key
    row_id = row_id_of(source.column_names)
    return None if row_id is None else (row_id,)


def _same(source: SourceTable, name: str) -> str:
    """Return the SQL that tells whether a column is the same in both rows, to the bit."""
    new, old = f"n.{quote_name(name)}", f"o.{quote_name(name)}"
    same = f"{new} IS {old} COLLATE BINARY"
    if source.affinity(name) not in ("BLOB", "REAL"):
        # Its affinity leaves no two storage classes in which values can be equal.
        return same
    # 1 and 1.0 are equal to SQLite, and so are 0.0 and -0.0.
    return f"({same} AND typeof({new}) = typeof({old}) AND ({new} <> 0 OR CAST({new} AS TEXT) IS CAST({old} AS TEXT)))"


def _count(snapshot: sqlite3.Connection, database: str, table: str) -> int:
    """Return the number of rows, which SQLite finds in the smallest index."""
    return int(snapshot.execute(f"SELECT count(*) FROM {database}.{table}").fetchone()[0])  # noqa: S608 (quoted)


def _gone(snapshot: sqlite3.Connection, table: str, locator: Sequence[str]) -> Iterator[Locator]:
    """Yield the rows of the old snapshot that no row of the new one matches."""
    names = ", ".join(map(quote_name, locator))
    if len(locator) > 1 or locator[0] not in ROWID_ALIASES:
        match = " AND ".join(f"n.{quote_name(name)} = o.{quote_name(name)}" for name in locator)
        yield from snapshot.execute(
            f"SELECT {names} FROM old.{table} o "  # noqa: S608 (quoted)
            f"WHERE NOT EXISTS (SELECT 1 FROM main.{table} n WHERE {match})"
        )
        return
    # Two scans in the order of the row ids, side by side, are twice as fast as looking each one up.
    new = snapshot.execute(f"SELECT {names} FROM main.{table} NOT INDEXED ORDER BY {names}")  # noqa: S608 (quoted)
    old = snapshot.execute(f"SELECT {names} FROM old.{table} NOT INDEXED ORDER BY {names}")  # noqa: S608 (quoted)
    present = next(new, None)
    for row in old:
        while present is not None and present < row:
            present = next(new, None)
        if present != row:
            yield row
