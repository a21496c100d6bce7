"""Adds up the source's plain rows in a process of its own, while others are prepared and loaded.

Hashing keeps Python busy, and so does feeding COPY; a thread would not run beside it. The process
begins before it is known whether all rows are plain, and does again only the tables where not.
"""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection as Pipe
from typing import Protocol

from .plain_rows import PlainRows, plain_rows
from .plan import TablePlan
from .prepare_table import PreparedTable
from .row_sums import RowSum, sum_plain_rows
from .snapshot import Snapshot
from .source import count_rows, open_snapshot

# A smaller source is hashed in less time than a process takes to start.
FROM_BYTES = 32 << 20
FROM_ROWS = 20_000
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


class _Process:
    """The process, and the pipe to it."""

    def __init__(self, snapshot: Snapshot, plans: Sequence[TablePlan]) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, other = context.Pipe()
        tables = [rows for rows in map(plain_rows, plans) if rows is not None]
        self._process = context.Process(target=_sum_all, args=(snapshot, tables, other), daemon=True)
        self._process.start()
        other.close()
        self._found: Sums | None = None

    def settle(self, tables: Sequence[PreparedTable]) -> None:
        """Say which tables hold rows that are not plain."""
        self._send(
            {table.plan.source.name: table.plain.odd for table in tables if table.plain is not None and table.odd_rows}
        )

    def _send(self, odd: Odd) -> None:
        try:
            self._pipe.send(odd)
        except OSError:
            return  # it has ended: result() says so

    def result(self) -> Sums:
        """Return the sums, none if the process failed."""
        if self._found is None:
            try:
                self._found = self._pipe.recv()
            except (EOFError, OSError):
                self._found = {}
        return self._found or {}

    def stop(self) -> None:
        """End the process, if it still runs."""
        self._process.terminate()
        self._process.join()
        self._pipe.close()


def _sum_all(copy: Snapshot, tables: Sequence[PlainRows], pipe: Pipe) -> None:
    """Send the sums; the connection to PostgreSQL that was inherited is never touched."""
    # The load goes first: only then is PostgreSQL never kept waiting for its rows.
    os.nice(19)
    odd: Odd | None = None
    sums: Sums = {}
    supposed = []
    with closing(open_snapshot(copy.path)) as snapshot:
        snapshot.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_LINE_BYTES)
        for rows in tables:
            odd = pipe.recv() if odd is None and pipe.poll() else odd
            name = rows.plan.source.name
            if odd is None:
                supposed.append(rows)
            if odd is None or name not in odd:
                with suppress(sqlite3.DataError, sqlite3.OperationalError):
                    # A row that is too long to be plain ends the attempt here.
                    sums[name] = sum_plain_rows(snapshot, rows, all_plain=True)
            else:
                sums[name] = _sum_again(copy, rows, odd[name])
        odd = pipe.recv() if odd is None else odd
        for rows in supposed:
            if rows.plan.source.name in odd:
                sums[rows.plan.source.name] = _sum_again(copy, rows, odd[rows.plan.source.name])
    pipe.send(sums)
    pipe.close()
    # Nothing of the parent's is closed or flushed a second time.
    os._exit(0)


def _sum_again(copy: Snapshot, rows: PlainRows, odd: str) -> RowSum:
    """Return the sum over the rows of a table that are plain, which not all are."""
    with closing(open_snapshot(copy.path)) as snapshot:
        return sum_plain_rows(snapshot, replace(rows, odd=odd))


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
