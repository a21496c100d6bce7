"""An estate that was cut over, has soaked, and has a verified backup; and the cleanup of it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg2.extras import Json

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import cleanup, soak
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import (
    restore as cleanup_return,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import run as cleanup_estate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup.conditions import Settings
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import state
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.clock import read_clock
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import write_protection
from tests.validation.support import Estate

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

DAY = 86400.0


def well(_connection: Connection, _group: Group) -> list[str]:
    """Say that every service is well: there are none here."""
    return []


def settings_of(estate: Estate, base: Path | None = None) -> Settings:
    """Return where this estate's private directories are."""
    base = base or estate.source.parent
    return Settings(
        work_directory=estate.work,
        quarantine_directory=str(base / "quarantine"),
        archive_directory=str(base / "archives"),
        check_services=well,
    )


@dataclass
class Cleaned:
    """An estate under cleanup."""

    estate: Estate
    group: Group
    legacy: tuple[str, ...] = ()
    base: Path | None = None

    @property
    def subject(self) -> cleanup_estate.Estate:
        """Return what the cleanup works on."""
        return cleanup_estate.Estate(
            self.estate.connection, [self.group], self.legacy, settings_of(self.estate, self.base)
        )

    def explain(self) -> dict[str, Any]:
        """Return the plan."""
        result: dict[str, Any] = cleanup.explain(self.subject)
        return result

    def confirm(self, plan_id: str | None = None, check_mode: bool = False) -> dict[str, Any]:
        """Carry out the plan as it is now, or the one of an id."""
        wanted = self.explain()["plan_id"] if plan_id is None else plan_id
        result: dict[str, Any] = cleanup.carry_out(self.subject, wanted, check_mode)
        return result

    def restore(self, *names: str, check_mode: bool = False) -> dict[str, Any]:
        """Bring files back."""
        result: dict[str, Any] = cleanup_return.restore(self.subject, names or ("zoo",), check_mode)
        return result

    def state(self) -> str:
        """Return the group's state."""
        with self.estate.connection.cursor() as cursor:
            cursor.execute("SELECT state FROM migration.cutover_group WHERE name = 'zoo'")
            (found,) = cursor.fetchone() or (state.PENDING,)
        self.estate.connection.rollback()
        return str(found)

    def steps(self) -> dict[str, str]:
        """Return how far each file has come."""
        with self.estate.connection.cursor() as cursor:
            cursor.execute("SELECT path, step FROM migration.cleanup_file")
            found = dict(cursor.fetchall())
        self.estate.connection.rollback()
        return found

    def quarantine_of(self, path: Path | str) -> Path:
        """Return the quarantine of a file."""
        with self.estate.connection.cursor() as cursor:
            cursor.execute("SELECT facts ->> 'quarantine' FROM migration.cleanup_file WHERE path = %s", (str(path),))
            (found,) = cursor.fetchone() or ("",)
        self.estate.connection.rollback()
        return Path(found)

    def soak(self, days: float = 8) -> None:
        """Insert the daily checks of some days, as the timer would have made them, each after a boot of its own."""
        record = self.record()
        period = soak.cutover_period(record[0], record[1])
        insert_checks(self.estate.connection, "zoo", period, days)

    def wait_in_quarantine(self, days: float = 8) -> None:
        """Insert the daily checks of some days in quarantine."""
        with self.estate.connection.cursor() as cursor:
            cursor.execute("SELECT DISTINCT group_name, facts ->> 'quarantined_by' FROM migration.cleanup_file")
            rows = cursor.fetchall()
        for group, plan_id in rows:
            insert_checks(self.estate.connection, group, soak.quarantine_period(plan_id), days)

    def record(self) -> Any:
        """Return the time of the cutover, and of the file's return."""
        with self.estate.connection.cursor() as cursor:
            cursor.execute("SELECT cutover_at, detail ->> 'restored_at' FROM migration.cutover_group")
            row = cursor.fetchone()
        self.estate.connection.rollback()
        return row


def insert_checks(connection: Connection, group: str, period: str, days: float, passed: Sequence[bool] = ()) -> None:
    """Insert one check for each day up to now."""
    now = read_clock(connection)
    count = int(days) + 1
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(max((findings ->> 'number')::int), 0) FROM migration.soak_check")
        (last,) = cursor.fetchone() or (0,)
        for number in range(count):
            ago = (count - 1 - number) * DAY
            clock = replace(now, host=now.host - ago, server=now.server - ago, boot=f"boot {number}")
            findings = {"number": last + number + 1, "period": period, "clock": clock.as_dict(), "failures": []}
            good = passed[number] if number < len(passed) else True
            cursor.execute(
                "INSERT INTO migration.soak_check (group_name, checked_at, passed, findings) VALUES "
                "(%s, to_timestamp(%s), %s, %s)",
                (group, now.server - ago + last * 1e-3, good, Json(findings)),
            )
    connection.commit()


def add_backup(connection: Connection) -> None:
    """Note a backup that was proven to restore."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO migration.backup VALUES (%s, clock_timestamp(), clock_timestamp(), 'sha', '{}')",
            (f"backup-{time.monotonic()}",),
        )
    connection.commit()


def make_legacy(path: Path) -> None:
    """Create a legacy database with rows in its ``-wal`` alone."""
    origin = path.with_name("origin.db")
    with closing(sqlite3.connect(origin)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.executescript("CREATE TABLE notes (id INTEGER PRIMARY KEY); INSERT INTO notes VALUES (1), (2)")
        for suffix in ("", "-wal"):
            Path(f"{path}{suffix}").write_bytes(Path(f"{origin}{suffix}").read_bytes())
    origin.unlink()


def make_ready(estate: Estate, legacy: Sequence[Path] = (), aliases: Sequence[Path] = ()) -> Cleaned:
    """Let an estate that was cut over meet every condition of cleanup."""
    write_protection.protect(estate.source)
    group = replace(estate.group, aliases=tuple(map(str, aliases)))
    cleaned = Cleaned(estate, group, tuple(map(str, legacy)))
    cleaned.soak()
    add_backup(estate.connection)
    return cleaned


def release(directory: Path) -> None:
    """Take every write protection away below a directory, so that pytest can remove it."""
    for path in [directory, *directory.rglob("*")]:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            continue
        write_protection.set_immutable(path, False)


__all__ = [
    "DAY",
    "Cleaned",
    "add_backup",
    "insert_checks",
    "make_legacy",
    "make_ready",
    "release",
    "settings_of",
    "well",
]
