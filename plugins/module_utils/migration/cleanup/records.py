"""What the ledger knows of cleanup: the plans that were shown, and how far each file has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.connection import Json, first_row
from ..quarantine.entry import Move

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from psycopg2.extensions import connection as Connection

# How far a file has come. A confirmed plan is in the ledger before anything is touched.
CONFIRMED = "confirmed"
QUARANTINED = "quarantined"
DELETING = "deleting"
DELETED = "deleted"
# A run that was killed has left these to be finished.
UNFINISHED = (CONFIRMED, DELETING)

SOURCE, LEGACY, PACKAGE = "source", "legacy", "package"


@dataclass(frozen=True)
class FileRecord:
    """One file that cleanup is at work on, or has been.

    :param path: as the inventory names it; a service's ``package.json`` for a package.
    :param facts: its moves, where its quarantine and its archive are, and the clock of the move.
    """

    path: str
    kind: str
    group: str
    plan_id: str
    step: str
    changed_at: datetime | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def moves(self) -> list[Move]:
        """Return its moves."""
        return [Move.from_dict(entry) for entry in self.facts.get("moves", ())]

    @property
    def quarantine(self) -> str:
        """Return its private directory in quarantine, whether it is there already or not."""
        return str(self.facts.get("quarantine", ""))

    @property
    def quarantine_inode(self) -> int | None:
        """Return the inode of that directory, None if nothing can have been moved into it."""
        inode = self.facts.get("quarantine_inode")
        return None if inode is None else int(inode)

    @property
    def quarantined_by(self) -> str:
        """Return the id of the plan that brought it into quarantine; its time there counts under this id."""
        return str(self.facts.get("quarantined_by", self.plan_id))


def read_files(connection: Connection) -> dict[str, FileRecord]:
    """Return every file that cleanup knows, by its path; none where the ledger is an older one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('migration.cleanup_file') IS NOT NULL")
        if not first_row(cursor)[0]:
            return {}
        cursor.execute(
            "SELECT path, kind, group_name, plan_id, step, changed_at, facts FROM migration.cleanup_file ORDER BY path"
        )
        return {row[0]: FileRecord(*row) for row in cursor.fetchall()}


def write_file(connection: Connection, record: FileRecord) -> None:
    """Write how far a file has come. The caller commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO migration.cleanup_file (path, kind, group_name, plan_id, step, facts)
            VALUES (%s, %s, %s, %s, %s, %s)
            ON CONFLICT (path) DO UPDATE SET kind = excluded.kind, group_name = excluded.group_name,
                   plan_id = excluded.plan_id, step = excluded.step, facts = excluded.facts,
                   changed_at = clock_timestamp()
            """,
            (record.path, record.kind, record.group, record.plan_id, record.step, Json(record.facts)),
        )


def forget_file(connection: Connection, path: str) -> None:
    """Forget a file that is where it was. The caller commits."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM migration.cleanup_file WHERE path = %s", (path,))


def remember_plan(connection: Connection, plan_id: str, facts: Mapping[str, Any]) -> None:
    """Keep a plan that is shown, so that an outdated id can be refused with the difference. The caller commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO migration.cleanup_plan (plan_id, facts) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            (plan_id, Json(dict(facts))),
        )


def recall_plan(connection: Connection, plan_id: str) -> dict[str, Any] | None:
    """Return the facts of a plan that was shown, None if there was none of this id."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('migration.cleanup_plan') IS NOT NULL")
        if not first_row(cursor)[0]:
            return None
        cursor.execute("SELECT facts FROM migration.cleanup_plan WHERE plan_id = %s", (plan_id,))
        row = cursor.fetchone()
    return None if row is None else dict(row[0])


def newest_verified_backup(connection: Connection) -> datetime | None:
    """Return when the newest backup of PostgreSQL was taken that has been proven to restore."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('migration.backup') IS NOT NULL")
        if not first_row(cursor)[0]:
            return None
        cursor.execute("SELECT max(taken_at) FROM migration.backup WHERE verified_at IS NOT NULL")
        taken: datetime | None = first_row(cursor)[0]
    return taken
