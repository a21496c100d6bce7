"""What the target tables hold, and whether that is what a run of ours left: the one answer to "written to since?".

Every row carries the transaction that wrote it. As long as a table has the same number of rows of the same
transactions, nothing in it was inserted, updated or deleted: that takes a tenth of a second for a million rows. Only
after a restore from a dump do the transactions differ without the content; then the hash of the content decides, which
costs more and so is recorded while the services already run again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...core.connection import Login, connect, first_row, sql
from ...core.estate import Group
from ...core.sql import table_name
from ...postgres.content import table_sums

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ..plan.planner import TablePlan


@dataclass(frozen=True)
class TargetState:
    """What one target table holds.

    :param writers: transaction id → number of rows that it wrote.
    :param ours: whether this is what our last run left.
    """

    rows: int
    writers: Mapping[str, int]
    ours: bool

    def as_record(self, content_hash: str) -> dict[str, Any]:
        """Return it for the ledger."""
        return {"rows": self.rows, "hash": content_hash, "writers": dict(self.writers)}


def read_writers(connection: Connection, names: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return by table how many of its rows each transaction wrote."""
    result = {}
    for name in names:
        with connection.cursor() as cursor:
            cursor.execute(
                sql.SQL("SELECT t.xmin::text, count(*) FROM {} AS t GROUP BY t.xmin::text").format(table_name(name))
            )
            result[name] = {str(writer): int(rows) for writer, rows in cursor.fetchall()}
    return result


def read_target_state(
    connection: Connection, plans: Sequence[TablePlan], loaded: Mapping[str, Mapping[str, Any]]
) -> dict[str, TargetState]:
    """Return what each target table of a group holds.

    :param loaded: what our last run left, as in the ledger.
    """
    result = {}
    present = read_writers(connection, [plan.target.name for plan in plans])
    for plan in plans:
        name = plan.target.name
        writers = present[name]
        rows = sum(writers.values())
        known = loaded.get(name)
        ours = known is not None and known["rows"] == rows
        if ours and known is not None and known["writers"] != writers:
            # Only here: who asks whether a table was written to needs nothing else of the engine.
            from .checksums import sum_target

            ours = sum_target(connection, plan).hexdigest() == known["hash"]
        result[name] = TargetState(rows, writers, ours)
    return result


@dataclass(frozen=True)
class Since:
    """What has become of a table since something was recorded of it.

    :param written: whether rows were written to it; None if nothing was recorded.
    :param rows: its rows now.
    """

    written: bool | None
    rows: int


def fingerprint(connection: Connection, group: Group) -> dict[str, dict[str, Any]]:
    """Return rows and hash of each target table of a group; tables that do not exist are left out.

    The hash is the sum of the rows' 128-bit hashes in two halves, each modulo 2^64, so the order
    of the rows does not matter. It depends on the session settings that
    :func:`.core.connection.connect` makes.
    """
    return {name: _content(connection, name) for name in _existing(connection, group)}


def since(connection: Connection, group: Group, recorded: Mapping[str, Mapping[str, Any]]) -> dict[str, Since]:
    """Return what has become of each target table of a group; tables that do not exist are left out.

    :param recorded: for each table ``rows``, and of ``writers`` and ``hash`` at least one.
    """
    result = {}
    for name in _existing(connection, group):
        before, writers = recorded.get(name), read_writers(connection, [name])[name]
        rows = sum(writers.values())
        written: bool | None = None
        if before is not None:
            written = before["rows"] != rows or before.get("writers") != writers
            if written and before["rows"] == rows and "hash" in before:
                written = _content(connection, name)["hash"] != before["hash"]
        result[name] = Since(written, rows)
    return result


class LaterFingerprint:
    """Takes the dear part of the fingerprint of one moment while the services run again.

    A session of its own holds the moment. Whatever fails here is only missed where transactions do not tell any
    more whether rows were written, so it never ends a run.
    """

    def __init__(self, login: Login, group: Group) -> None:
        self._login = login
        self._group = group
        self._connection: Connection | None = None
        self._found: dict[str, dict[str, Any]] = {}
        self._thread = threading.Thread(target=self._read, daemon=True)

    def hold(self) -> None:
        """Hold the content as it is now. Takes some milliseconds."""
        with suppress(Exception):
            self._connection = connect(self._login)
            with self._connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                cursor.execute("SELECT 1")

    def begin(self) -> None:
        """Start to read what is held."""
        with suppress(RuntimeError):
            self._thread.start()

    def result(self) -> dict[str, dict[str, Any]]:
        """Wait until it is read and return what :func:`fingerprint` does; empty if that failed."""
        if self._thread.ident is not None:
            self._thread.join()
        self.close()
        return self._found

    def close(self) -> None:
        """Let the moment go; a thread that still reads ends with an error of its own."""
        with suppress(Exception):
            if self._connection is not None:
                self._connection.cancel()
                self._connection.close()

    def _read(self) -> None:
        with suppress(Exception):
            if self._connection is not None:
                self._found = fingerprint(self._connection, self._group)


def _existing(connection: Connection, group: Group) -> list[str]:
    """Return the names of the group's target tables that exist."""
    names = []
    with connection.cursor() as cursor:
        for mapping in group.tables:
            cursor.execute(
                "SELECT to_regclass(quote_ident(%s) || '.' || quote_ident(%s)) IS NOT NULL",
                (mapping.target_schema, mapping.target_table),
            )
            if first_row(cursor)[0]:
                names.append(mapping.target)
    return names


def _content(connection: Connection, name: str) -> dict[str, Any]:
    """Return rows and hash of one table."""
    with connection.cursor() as cursor:
        return table_sums(cursor, table_name(name))
