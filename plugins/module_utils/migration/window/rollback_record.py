"""What the ledger keeps of a group's rollback: written, undone, closed and ended here.

What an interrupted one asks for is decided in :mod:`.core.decide`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core import ledger
from ..core.estate import Group
from ..core.group_detail import Phase, changes
from ..postgres import write_lock
from . import frozen_file

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


def note(connection: Connection, group: Group, entry: Mapping[str, Any]) -> None:
    """Write the whole entry of a rollback into the ledger, and commit it."""
    connection.rollback()
    ledger.merge_detail(connection, group.name, changes(rollback=entry))
    connection.commit()


def undo(connection: Connection, group: Group, record: ledger.GroupRecord) -> None:
    """Put the frozen file of an interrupted rollback into its place again.

    :raises MigrationError: if somebody has written to it.
    """
    frozen_file.undo_swap(group, record.frozen_sha256, record.detail.rollback)
    note(connection, group, {"phase": Phase.OPEN})


def close(connection: Connection, group: Group) -> None:
    """Let a rollback that did not come about be none; the services run on PostgreSQL."""
    note(connection, group, {})


def end(connection: Connection, group: Group, record: ledger.GroupRecord) -> None:
    """Give back the rights that the rollback has taken; in the commit that makes PostgreSQL the store."""
    entry = record.detail.rollback
    if record.detail.phase in (Phase.COMMITTED, Phase.DONE):
        write_lock.give_rights(connection, entry.get("rights", ()))
        kept = {"old_file": entry["old_file"]} if entry.get("old_file") else {}
        ledger.merge_detail(connection, group.name, changes(rollback={"phase": Phase.OVER, **kept}))
