"""What the ledger knows of a group's way back, and the one place that says what an interrupted one means.

- ``open`` is committed before the services stop. As long as the group's state is ``live``, PostgreSQL
  is the store, whatever stands in the place of the SQLite file: the frozen file goes back there,
  and the services are started on PostgreSQL.
- ``committed`` is committed together with the state ``rolled_back`` and the fence around the tables.
  From here on SQLite is the store, its file is in place, and the services are started there.
- ``done``: they have been seen healthy there.
- ``over``: a later cutover has made PostgreSQL the store again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

from ..core import ledger, state
from ..core.estate import Group
from ..core.group_detail import COMMITTED, DONE, OPEN, OVER, ROLLBACK
from ..postgres import write_lock
from . import frozen_file

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


class Standing(Enum):
    """What a run has to do about an earlier way back before anything else."""

    NOTHING = "nothing"
    # PostgreSQL is the store: put the frozen file back, start the services there.
    UNDO = "undo"
    # SQLite is the store, and its file is in place: start the services there.
    FINISH = "finish"


def read(record: ledger.GroupRecord) -> dict[str, Any]:
    """Return what the ledger says of the group's last way back."""
    found = record.detail.get(ROLLBACK)
    return dict(found) if isinstance(found, Mapping) else {}


def standing(record: ledger.GroupRecord) -> Standing:
    """Return what an interrupted way back means for a group."""
    phase = read(record).get("phase")
    if phase == OPEN and record.state == state.LIVE:
        return Standing.UNDO
    if phase == COMMITTED and not state.is_on_postgresql(record.state):
        return Standing.FINISH
    return Standing.NOTHING


def note(connection: Connection, group: Group, entry: Mapping[str, Any]) -> None:
    """Write the whole entry of a way back into the ledger, and commit it."""
    connection.rollback()
    ledger.merge_detail(connection, group.name, {ROLLBACK: dict(entry)})
    connection.commit()


def undo(connection: Connection, group: Group, record: ledger.GroupRecord) -> None:
    """Put the frozen file of an interrupted way back into its place again.

    :raises MigrationError: if somebody has written to it.
    """
    frozen_file.undo_swap(group, record.frozen_sha256, read(record))
    note(connection, group, {"phase": OPEN})


def close(connection: Connection, group: Group) -> None:
    """Let a way back that did not come about be none; the services run on PostgreSQL."""
    note(connection, group, {})


def end(connection: Connection, group: Group, record: ledger.GroupRecord) -> None:
    """Open the tables again for whom the way back has shut them; in the commit that makes PostgreSQL the store."""
    entry = read(record)
    if entry.get("phase") in (COMMITTED, DONE):
        write_lock.give_rights(connection, entry.get("rights", ()))
        kept = {"old_file": entry["old_file"]} if entry.get("old_file") else {}
        ledger.merge_detail(connection, group.name, {ROLLBACK: {"phase": OVER, **kept}})
