"""Adds up the source's plain rows in a process of its own, while others are prepared and loaded.

Hashing keeps Python busy, and so does feeding COPY; a thread would not run beside it. The process
begins before it is known whether all rows are plain, and does again only the tables where not. The
tables are divided into pieces: what is left of them once the rows are loaded, both processes do.
"""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection as Pipe
from typing import Protocol

from ...sqlite.snapshot import Snapshot
from ...sqlite.tables import count_rows, open_snapshot, quote_name, row_id_of
from ..plan.planner import TablePlan
from ..prepare.fast_path import PlainRows, plain_rows
from ..prepare.table import PreparedTable
from .checksums import RowSum, sum_plain_rows

# A smaller source is hashed in less time than a process takes to start.
FROM_BYTES = 32 << 20
FROM_ROWS = 20_000
ROWS_OF_A_PIECE = 50_000
# So many numbers find room in a pipe at once, even in the smallest there is (4 KiB). Each stands for several pieces if
# there are more.
_MOST_PIECES = 500
# Longer than the line of any row whose values are plain would be in most tables.
_LONGEST_LINE_BYTES = 4 << 20

Sums = dict[str, RowSum]
# By source table, the SQL that tells its rows that are not plain.
Odd = dict[str, str]


class PlainSums(Protocol):
    """The sums of the source's plain rows, by source table."""

    def settle(self, tables: Sequence[PreparedTable]) -> None:
        """Say which rows are plain, once that is known."""

    def result(self) -> Sums:
        """Return the sums; those of tables that are not among them are still to be made."""


class _Nothing:
    """No process: the sums are made when they are needed."""

    def settle(self, tables: Sequence[PreparedTable]) -> None:
        """Say which rows are plain."""

    def result(self) -> Sums:
        """Return no sum."""
        return {}


@dataclass(frozen=True)
class _Piece:
    """Some rows of a table.

    :param among: SQL condition that tells them, None for all.
    """

    rows: PlainRows
    among: str | None

    @property
    def table(self) -> str:
        """Return the name of the table."""
        return self.rows.plan.source.name


@dataclass
class _Found:
    """What one process has added up.

    :param failed: tables with a row that is too long to be plain.
    """

    sums: Sums = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    def add(self, table: str, found: RowSum) -> None:
        """Add the sum over a piece of a table."""
        self.sums[table] = self.sums.get(table, RowSum()).plus(found)


class _Process:
    """The process, the pipe to it, and the pieces that it shares with this one: who has time takes the next."""

    def __init__(self, snapshot: Snapshot, plans: Sequence[TablePlan]) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, other = context.Pipe()
        tables = [rows for rows in map(plain_rows, plans) if rows is not None]
        self._copy = snapshot
        with _opened(snapshot) as file:
            self._pieces = [piece for rows in tables for piece in _pieces_of(file, rows)]
        self._queue = _queue_of(min(len(self._pieces), _MOST_PIECES))
        arguments = (snapshot, tables, self._pieces, self._queue, other)
        self._process = context.Process(target=_sum_all, args=arguments, daemon=True)
        self._process.start()
        other.close()
        self._odd: Odd = {}
        self._result: Sums | None = None

    def settle(self, tables: Sequence[PreparedTable]) -> None:
        """Say which tables hold rows that are not plain."""
        self._odd = {
            table.plan.source.name: table.plain.odd for table in tables if table.plain is not None and table.odd_rows
        }
        with suppress(OSError):  # it has ended: result() says so
            self._pipe.send(self._odd)

    def result(self) -> Sums:
        """Return the sums, none if the process failed; until it is done, take pieces from it."""
        if self._result is None:
            ours = _Found()
            _take_pieces(self._copy, self._pieces, self._queue, ours, lambda: self._odd)
            try:
                theirs: _Found = self._pipe.recv()
            except (EOFError, OSError):
                self._result = {}
                return {}
            for table, found in ours.sums.items():
                theirs.add(table, found)
            failed = ours.failed | theirs.failed
            self._result = {table: found for table, found in theirs.sums.items() if table not in failed}
        return self._result

    def stop(self) -> None:
        """End the process, if it still runs."""
        self._process.terminate()
        self._process.join()
        self._pipe.close()
        os.close(self._queue)


def _pieces_of(snapshot: sqlite3.Connection, rows: PlainRows) -> Iterator[_Piece]:
    """Divide a table by its row ids, if it has any; the pieces are of equal size if no id was ever deleted."""
    source = rows.plan.source
    row_id = row_id_of(source.column_names)
    first = last = None
    if row_id is not None and source.relation == quote_name(source.name):
        with suppress(sqlite3.OperationalError):  # it was created WITHOUT ROWID
            first, last = snapshot.execute(
                f"SELECT (SELECT min({row_id}) FROM {source.relation}), "  # noqa: S608 (quoted)
                f"(SELECT max({row_id}) FROM {source.relation})"
            ).fetchone()
    if first is None or last is None:
        yield _Piece(rows, None)
        return
    count = min(_MOST_PIECES, -(-count_rows(snapshot, source) // ROWS_OF_A_PIECE))
    step = -(-(last - first + 1) // count)
    for start in range(first, last + 1, step):
        # The ends are row ids themselves: no number is beyond what SQLite can hold.
        yield _Piece(rows, f"{row_id} BETWEEN {start} AND {min(start + step - 1, last)}")


def _queue_of(count: int) -> int:
    """Return a pipe that gives out the numbers below ``count``, each once, to whoever reads from it."""
    reading, writing = os.pipe()
    os.write(writing, array("I", range(count)).tobytes())
    os.close(writing)
    return reading


def _take_pieces(
    copy: Snapshot, pieces: Sequence[_Piece], queue: int, found: _Found, read_odd: Callable[[], Odd | None]
) -> None:
    """Add up pieces that nobody else has taken, until there are no more.

    :param read_odd: returns which tables hold rows that are not plain, None as long as that is not known.
    """
    with _opened(copy) as snapshot:
        while number := os.read(queue, array("I").itemsize):
            for piece in pieces[array("I", number)[0] :: _MOST_PIECES]:
                if piece.table in (read_odd() or ()):
                    continue
                try:
                    found.add(piece.table, sum_plain_rows(snapshot, piece.rows, all_plain=True, among=piece.among))
                except (sqlite3.DataError, sqlite3.OperationalError):
                    found.failed.add(piece.table)


def _sum_all(copy: Snapshot, tables: Sequence[PlainRows], pieces: Sequence[_Piece], queue: int, pipe: Pipe) -> None:
    """Send the sums; the connection to PostgreSQL that was inherited is never touched."""
    # The load goes first: only then is PostgreSQL never kept waiting for its rows.
    os.nice(19)
    odd: Odd | None = None
    found = _Found()

    def read_odd() -> Odd | None:
        nonlocal odd
        if odd is None and pipe.poll():
            odd = pipe.recv()
        return odd

    _take_pieces(copy, pieces, queue, found, read_odd)
    odd = pipe.recv() if odd is None else odd
    for rows in tables:
        name = rows.plan.source.name
        if name in odd:
            # Not all of its rows are plain, as was supposed.
            with closing(open_snapshot(copy.path)) as snapshot:
                found.sums[name] = sum_plain_rows(snapshot, replace(rows, odd=odd[name]))
            found.failed.discard(name)
    pipe.send(found)
    pipe.close()
    # Nothing of the parent's is closed or flushed a second time.
    os._exit(0)


@contextmanager
def _opened(copy: Snapshot) -> Iterator[sqlite3.Connection]:
    """Open the snapshot; a row that is too long to be plain ends what reads it."""
    with closing(open_snapshot(copy.path)) as snapshot:
        snapshot.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_LINE_BYTES)
        yield snapshot


def _holds_many_rows(copy: Snapshot, plans: Sequence[TablePlan]) -> bool:
    """Return whether hashing takes its time: a few large values alone would only need memory twice."""
    with closing(open_snapshot(copy.path)) as snapshot:
        return any(count_rows(snapshot, plan.source) >= FROM_ROWS for plan in plans)


@contextmanager
def summing(snapshot: Snapshot, plans: Sequence[TablePlan]) -> Iterator[PlainSums]:
    """Start adding up, if there is enough to add up. The process ends with the block."""
    if snapshot.size_bytes < FROM_BYTES or not _holds_many_rows(snapshot, plans):
        yield _Nothing()
        return
    process = _Process(snapshot, plans)
    try:
        yield process
    finally:
        process.stop()
