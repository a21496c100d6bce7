"""Says how far a long run is while it runs: in the ledger for everybody, and in a file for Ansible.

The engine counts rows, which costs next to nothing. A thread looks at the counts once a second and
writes them through a connection of its own: what the engine does stands in one transaction, which
nobody else can see into. A run of less than a second writes nothing and opens no connection.
Whatever fails here, the run goes on without.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ...core.connection import first_row, psycopg2, sql
from ...core.files import progress_file

if TYPE_CHECKING:
    from types import TracebackType

    from psycopg2.extensions import connection as Connection

# A part of ledger.CREATE_LEDGER. Its rows mean nothing after a crash of the server, so they need no WAL.
INTERVAL_SECONDS = 1.0
# The rate is that of the last seconds, not the average: a table with indexes gets slower.
_READINGS = 10
_PATIENCE_SECONDS = 3.0

_STEPS = {
    "snapshot": "taking a snapshot of the source",
    "profile": "looking at every value",
    "compare": "comparing the target with the source",
    "load": "loading",
    "index": "all rows are sent, indexes and constraints are made",
    "statistics": "collecting statistics",
    "verify": "reading every row back",
    "readings": "looking at how numbers are read as times",
    "commit": "committing",
}
_COUNTED = {"load": "rows", "verify": "rows read back"}

_UPSERT = """
INSERT INTO migration.progress (group_name, step, table_name, rows_done, rows_total, started_at, updated_at)
VALUES (%(group)s, %(step)s, %(table)s, %(done)s, %(total)s,
        clock_timestamp() - make_interval(secs => %(seconds)s), clock_timestamp())
ON CONFLICT (group_name) DO UPDATE SET
       step = excluded.step, table_name = excluded.table_name, rows_done = excluded.rows_done,
       rows_total = excluded.rows_total, started_at = excluded.started_at, updated_at = excluded.updated_at
"""
_DELETE = "DELETE FROM migration.progress WHERE group_name = %s"

# Held while the thread talks to the server. A process that is forked in that moment would inherit
# locks of libpq and OpenSSL that nobody ever releases in it.
_TALKING = threading.Lock()
os.register_at_fork(before=_TALKING.acquire, after_in_parent=_TALKING.release, after_in_child=_TALKING.release)


# ---------------------------------------------------------------- what is shown


@dataclass(frozen=True)
class Reading:
    """How many rows were done at a moment.

    :param seconds: on any clock that only goes forward.
    """

    seconds: float
    rows: int


@dataclass(frozen=True)
class State:
    """Where a run is.

    :param table: the table at work, None in a step of the whole group.
    :param seconds: since the step, or within it the table, began.
    """

    group: str
    step: str
    seconds: float
    table: str | None = None
    done: int | None = None
    total: int | None = None


def estimate(readings: Sequence[Reading], total: int | None) -> tuple[float | None, float | None]:
    """Return the rows per second and the seconds left, each None where it cannot be known.

    :param readings: the last few, oldest first.
    """
    if len(readings) < 2 or readings[-1].seconds <= readings[0].seconds:
        return None, None
    rate = (readings[-1].rows - readings[0].rows) / (readings[-1].seconds - readings[0].seconds)
    if total is None or rate <= 0:
        return rate, None
    return rate, max(total - readings[-1].rows, 0) / rate


def describe(state: State, readings: Sequence[Reading]) -> str:
    """Return one line for the terminal."""
    if state.table is None or state.done is None:
        return f"{state.group}: {_STEPS.get(state.step, state.step)}, {duration(state.seconds)} so far"
    counted = _COUNTED.get(state.step, "rows")
    of = "" if state.total is None else f" of {state.total:,}"
    parts = [f"{state.table}: {state.done:,}{of} {counted}"]
    rate, left = estimate(readings, state.total)
    if rate is not None:
        parts.append(f"{_two_digits(rate):,} rows/s")
    if left is not None:
        parts.append(f"{duration(left)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return a duration as a person says it: ``7 s``, ``3 min 20 s``, ``1 h 12 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _two_digits(number: float) -> int:
    """Return a number rounded to two significant digits: more would only flicker."""
    whole = round(number)
    return round(whole, 2 - len(str(abs(whole))))


# ---------------------------------------------------------------- where it is written


class ProgressLog:
    """Counts rows, and shows once a second where a run over one cutover group is.

    ``with ProgressLog(connection, "registry", directory) as log``: then :meth:`step`,
    :meth:`expect` and :meth:`advance`, from any thread. At the end the row and the file are removed.
    """

    def __init__(
        self, connection: Connection, group_name: str, directory: str | None = None, silent: bool = False
    ) -> None:
        """Prepare to show a run; nothing is written yet.

        :param connection: to the target, outside a transaction. Another one is opened like it.
        :param directory: private directory for the file, which must exist by the time it is written.
        :param silent: count, and write nothing anywhere: for check mode.
        """
        self._connection = connection
        self._group = group_name
        self._silent = silent
        self._file = progress_file(group_name, directory)
        self._made_directory = not self._file.parent.exists()
        self._counts = _Counts(group_name)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._ledger: _Ledger | None = None

    def __enter__(self) -> ProgressLog:
        if not self._silent:
            self._ledger = _Ledger.like(self._connection, self._group)
            with suppress(OSError):
                self._file.unlink(missing_ok=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._silent:
            self._stopped.set()
            # A server that does not answer must not hold up the end of the run.
            self._thread.join(_PATIENCE_SECONDS)
            with suppress(OSError):
                self._file.unlink(missing_ok=True)
                if self._made_directory:
                    # The snapshot's end could not remove it, with the file in it.
                    self._file.parent.rmdir()

    def step(self, name: str) -> None:
        """Begin a step of the whole group: ``snapshot``, ``profile``, ``compare``, ``load``, ``verify``, ``commit``.

        The counts start anew, so that a load that is tried again does not count twice.
        """
        self._counts.step(name)

    def expect(self, totals: Mapping[str, int]) -> None:
        """Say how many rows each table will have in the end."""
        self._counts.totals = dict(totals)

    def advance(self, table: str, rows: int) -> None:
        """Count rows of a table that the present step is done with."""
        self._counts.advance(table, rows)

    def _watch(self) -> None:
        """Write once a second, until the run has ended."""
        while not self._stopped.wait(INTERVAL_SECONDS):
            state, readings = self._counts.read()
            with suppress(OSError):
                _write(self._file, describe(state, readings))
            if self._ledger is not None and not self._ledger.write(state):
                self._ledger = None
        if self._ledger is not None:
            self._ledger.close()


class CountedLines:
    """A file of COPY lines that counts the rows which are read from it."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes: in COPY's text format a line end is the end of a row, and nothing else is."""
        data = self._file.read(size)
        self._advance(data.count(b"\n"))
        return data


class _Counts:
    """The rows that are done, in the present step, by table."""

    def __init__(self, group_name: str) -> None:
        self.totals: dict[str, int] = {}
        self._group = group_name
        self._lock = threading.Lock()
        self.step("start")

    def step(self, name: str) -> None:
        """Begin a step, without a table."""
        with self._lock:
            self._step = name
            self._table: str | None = None
            self._done: dict[str, int] = {}
            self._since: dict[str | None, float] = {None: time.monotonic()}
            self._readings: dict[str | None, deque[Reading]] = {}
            self._all_sent: float | None = None

    def advance(self, table: str, rows: int) -> None:
        """Add rows to a table."""
        with self._lock:
            if table not in self._done:
                self._done[table] = 0
                self._since[table] = time.monotonic()
            self._done[table] += rows
            self._table = table

    def read(self) -> tuple[State, Sequence[Reading]]:
        """Return where the run is, and the last readings of its table."""
        with self._lock:
            now, table = time.monotonic(), self._table
            if self._step == "load" and self.totals and self._complete():
                self._all_sent = self._all_sent or now
                return State(self._group, "index", now - self._all_sent), ()
            total = None if table is None else self.totals.get(table)
            since = self._since[table]
            state = State(self._group, self._step, now - since, table, self._done.get(table or ""), total)
            readings = self._readings.setdefault(table, deque([Reading(since, 0)], _READINGS))
            readings.append(Reading(now, state.done or 0))
            return state, list(readings)

    def _complete(self) -> bool:
        """Return whether every row that is expected was counted."""
        return all(self._done.get(table, 0) >= rows for table, rows in self.totals.items())


class _Ledger:
    """Writes the row of one group through a connection of its own, which is opened at the first write."""

    def __init__(self, parameters: dict[str, Any], role: str, group_name: str) -> None:
        self._parameters = parameters
        self._role = role
        self._group = group_name
        self._connection: Connection | None = None

    @classmethod
    def like(cls, connection: Connection, group_name: str) -> _Ledger | None:
        """Return what will log in as another connection did, and remove what a killed run has left.

        :returns: None if the ledger has no table for it.
        """
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_setting('role'), to_regclass('migration.progress') IS NOT NULL")
                role, found = first_row(cursor)
                if found:
                    cursor.execute("SET LOCAL lock_timeout = '1s'")
                    cursor.execute(_DELETE, (group_name,))
            connection.commit()
        except psycopg2.Error:
            if not connection.closed:
                connection.rollback()
            return None
        parameters = {
            **connection.info.dsn_parameters,
            "password": connection.info.password,
            "application_name": "sqlite_to_postgresql progress",
            "connect_timeout": str(int(_PATIENCE_SECONDS)),
        }
        return cls(parameters, role, group_name) if found else None

    def write(self, state: State) -> bool:
        """Write where the run is; return whether that was possible. If not, it is not tried again."""
        values = {
            "group": self._group,
            "step": state.step,
            "table": state.table,
            "done": state.done,
            "total": state.total,
            "seconds": state.seconds,
        }
        with _TALKING:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                with self._connection.cursor() as cursor:
                    cursor.execute(_UPSERT, values)
            except psycopg2.Error:
                if self._connection is not None:
                    self._connection.close()
                return False
        return True

    def close(self) -> None:
        """Remove the row."""
        if self._connection is not None:
            with _TALKING, suppress(psycopg2.Error):
                with self._connection.cursor() as cursor:
                    cursor.execute(_DELETE, (self._group,))
                self._connection.close()

    def _connect(self) -> Connection:
        """Open the connection, in autocommit."""
        connection: Connection = psycopg2.connect(**self._parameters)
        connection.autocommit = True
        with connection.cursor() as cursor:
            # Neither a busy disk nor a lock may keep the thread.
            cursor.execute("SET synchronous_commit = off; SET lock_timeout = '1s'; SET statement_timeout = '3s'")
            if self._role != "none":
                cursor.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(self._role)))
        return connection


def _write(path: Path, line: str) -> None:
    """Replace a file that only its owner may read, so that a reader finds a whole line.

    :raises OSError: if its directory does not exist, or is full.
    """
    new = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"{line}\n")
    new.replace(path)
