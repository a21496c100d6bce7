"""Finds the rows of one table that differ between the file and PostgreSQL, without changing either."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .clashes import locator_of
from .inputs import Sides

_ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class Counts:
    """Rows of one table that differ, seen from the file.

    :param unsaid: rows that are equal as far as the file goes, but hold data for which it has no column.
    """

    inserted: int
    updated: int
    deleted: int
    unsaid: int = 0

    @property
    def total(self) -> int:
        """Return how many rows would be lost with PostgreSQL's copy."""
        return self.inserted + self.updated + self.deleted + self.unsaid


class Difference:
    """The rows of one table that differ; see :func:`found`."""

    def __init__(self, sides: Sides, work: sqlite3.Connection) -> None:
        self._sides = sides
        self._work = work

    def __bool__(self) -> bool:
        """Return whether any row is not the same on both sides."""
        pairs = "t.key = s.key AND t.number = s.number AND t.hash = s.hash"
        return any(
            self._work.execute(query).fetchone()
            for query in (
                f"SELECT 1 FROM target t WHERE NOT EXISTS (SELECT 1 FROM source s WHERE {pairs}) LIMIT 1",  # noqa: S608
                "SELECT 1 FROM source s WHERE NOT s.rejected "  # noqa: S608 (constant)
                f"AND NOT EXISTS (SELECT 1 FROM target t WHERE {pairs}) LIMIT 1",
            )
        )

    def deleted(self) -> Iterator[str]:
        """Yield how to find each row of the file that PostgreSQL has no more."""
        for (locator,) in self._work.execute(f"SELECT s.locator {_DELETED}"):
            yield locator

    def updated(self) -> Iterator[tuple[str | None, str, int]]:
        """Yield each row with other values: how to find it in the file, its place in PostgreSQL, its size in bytes."""
        yield from self._work.execute(f"SELECT s.locator, t.place, t.size {_UPDATED}")

    def inserted(self) -> Iterator[tuple[str | None, str, int]]:
        """Yield each new row: None, its place in PostgreSQL, its size in bytes."""
        yield from self._work.execute(f"SELECT NULL, t.place, t.size {_INSERTED}")

    def count(self, unsaid: Iterator[str]) -> Counts:
        """Return how many rows differ.

        :param unsaid: places of rows that hold data for which the file has no column.
        """
        work = self._work
        work.execute("CREATE TABLE unsaid (place TEXT PRIMARY KEY)")
        work.executemany("INSERT OR IGNORE INTO unsaid VALUES (?)", ((place,) for place in unsaid))
        queries = (
            f"SELECT count(*) {_INSERTED}",
            f"SELECT count(*) {_UPDATED}",
            f"SELECT count(*) {_DELETED}",
            f"SELECT count(*) FROM unsaid WHERE place NOT IN (SELECT t.place {_INSERTED} "  # noqa: S608 (constant)
            f"UNION ALL SELECT t.place {_UPDATED})",
        )
        return Counts(*(int(work.execute(query).fetchone()[0]) for query in queries))


_DELETED = (
    "FROM source s WHERE NOT s.rejected "
    "AND NOT EXISTS (SELECT 1 FROM target t WHERE t.key = s.key AND t.number = s.number)"
)
_UPDATED = "FROM target t JOIN source s ON s.key = t.key AND s.number = t.number WHERE s.hash <> t.hash"
_INSERTED = "FROM target t WHERE NOT EXISTS (SELECT 1 FROM source s WHERE s.key = t.key AND s.number = t.number)"


@contextmanager
def found(sides: Sides, directory: Path) -> Iterator[Difference]:
    """Compare both sides of a table by the hashes of their rows, in a private file that vanishes at the end."""
    path = directory / "rows.db"
    path.touch(mode=0o600)
    try:
        with closing(_open_work(path)) as work:
            _fill(work, sides)
            yield Difference(sides, work)
    finally:
        path.unlink(missing_ok=True)


def _open_work(path: Path) -> sqlite3.Connection:
    """Open an empty file for the hashes of both sides' rows; it need not outlive a crash."""
    work = sqlite3.connect(path, isolation_level=None)
    work.execute("PRAGMA journal_mode = OFF")
    work.execute("PRAGMA synchronous = OFF")
    # One transaction for all: it is never committed, for nobody else reads the file.
    work.execute("BEGIN")
    work.execute("CREATE TABLE source (key BLOB, hash BLOB, locator TEXT, rejected INTEGER, number INTEGER)")
    work.execute("CREATE TABLE target (key BLOB, hash BLOB, place TEXT, size INTEGER, number INTEGER)")
    return work


def _fill(work: sqlite3.Connection, sides: Sides) -> None:
    """Bring the hashes of both sides' rows together, and pair them up."""
    work.executemany("INSERT INTO source VALUES (?, ?, ?, ?, 1)", sides.source_hashes())
    work.executemany("INSERT INTO target VALUES (?, ?, ?, ?, 1)", sides.target_hashes())
    work.execute("CREATE INDEX target_hash ON target (hash)")
    if sides.prepared.plain is not None:
        _read_again(work, sides)
    if not sides.key_positions or _has_duplicates(work):
        # Rows are told apart by all of their values, and equal ones are counted.
        work.execute("UPDATE source SET key = CASE rejected WHEN 0 THEN hash END")
        work.execute("UPDATE target SET key = hash")
        for table in ("source", "target"):
            work.execute(
                f"UPDATE {table} SET number = n.number FROM (SELECT rowid AS id, "  # noqa: S608 (constant)
                f"row_number() OVER (PARTITION BY key ORDER BY rowid) AS number FROM {table}) AS n "
                f"WHERE n.id = {table}.rowid AND n.number > 1"
            )
    for table in ("source", "target"):
        work.execute(f"CREATE INDEX {table}_key ON {table} (key, number)")
    if not sides.prepared.rejected:
        return
    # A rejected row is a row like any other if PostgreSQL has got its key meanwhile, and no other row has it.
    work.execute(
        "UPDATE source SET key = NULL WHERE rejected AND rowid NOT IN "
        "(SELECT rowid FROM (SELECT rowid, row_number() OVER (PARTITION BY key ORDER BY rejected, rowid) AS number "
        "FROM source WHERE key IS NOT NULL AND key IN (SELECT key FROM source WHERE rejected)) WHERE number = 1)"
    )


def _read_again(work: sqlite3.Connection, sides: Sides) -> None:
    """Hash the rows again in Python that seem to differ: perhaps SQLite has only said them in another way.

    :raises NotPlain: if the fast path should not have taken one of them.
    """
    last = 0
    query = (
        "SELECT s.rowid, s.locator FROM source s WHERE s.rowid > ? AND NOT s.rejected "
        "AND NOT EXISTS (SELECT 1 FROM target t WHERE t.hash = s.hash) ORDER BY s.rowid LIMIT ?"
    )
    while suspects := work.execute(query, (last, _ROWS_AT_ONCE)).fetchall():
        last = suspects[-1][0]
        for number, locator in suspects:
            values, key = sides.source_row(locator_of(locator))
            sides.require_plain(values)
            named, whole = sides.exact_hashes(values, key)
            work.execute("UPDATE source SET key = ?, hash = ? WHERE rowid = ?", (named, whole, number))


def _has_duplicates(work: sqlite3.Connection) -> bool:
    """Return whether a key stands for two rows of one side."""
    return any(
        work.execute(
            f"SELECT 1 FROM {table} WHERE {condition} GROUP BY key HAVING count(*) > 1 LIMIT 1"  # noqa: S608 (constant)
        ).fetchone()
        for table, condition in (("source", "NOT rejected"), ("target", "1"))
    )
