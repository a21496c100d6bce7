"""Feeds COPY from a thread of its own, so that SQLite reads on while PostgreSQL parses."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread

from ...sqlite.tables import open_snapshot

Blocks = Callable[[sqlite3.Connection], Iterator[tuple[int, bytes]]]

# Blocks read ahead: enough to keep both sides busy, and little memory.
_AHEAD = 4


class _Lines:
    """What ``copy_expert`` reads from: one block at each call."""

    def __init__(self, snapshot_path: Path, blocks: Blocks, progress: Callable[[int], None]) -> None:
        self._path = snapshot_path
        self._blocks = blocks
        self._progress = progress
        self._queue: Queue[tuple[int, bytes] | BaseException] = Queue(_AHEAD)
        self._stopped = Event()
        # Why reading failed: psycopg2 reports no more than that it did.
        self.error: BaseException | None = None
        self._thread = Thread(target=self._read_ahead, daemon=True)
        self._thread.start()

    def read(self, _size: int = -1) -> bytes:
        """Return the next block of lines, b"" at the end.

        :raises sqlite3.Error: if the snapshot cannot be read.
        """
        item = self._queue.get()
        if isinstance(item, BaseException):
            self.error = item
            raise item
        rows, block = item
        self._progress(rows)
        return block

    def close(self) -> None:
        """Stop reading ahead."""
        self._stopped.set()
        self._thread.join()

    def _read_ahead(self) -> None:
        try:
            with closing(open_snapshot(self._path)) as snapshot:
                for item in self._blocks(snapshot):
                    self._put(item)
                    if self._stopped.is_set():
                        return
            self._put((0, b""))
        except Exception as error:
            self._put(error)

    def _put(self, item: tuple[int, bytes] | BaseException) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except Full:
                continue
            return


@contextmanager
def plain_lines(snapshot_path: Path, blocks: Blocks, progress: Callable[[int], None]) -> Iterator[_Lines]:
    """Give something to read COPY lines from.

    :param blocks: yields (number of rows, their lines) from an open snapshot.
    :param progress: called with the number of rows of each block that was read.
    """
    lines = _Lines(snapshot_path, blocks, progress)
    try:
        yield lines
    finally:
        lines.close()
