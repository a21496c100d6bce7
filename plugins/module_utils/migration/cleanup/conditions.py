"""What keeps a file from going: each condition of cleanup, measured against the present, as one sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ..core import ledger
from ..core.clock import Clock, read_clock
from ..core.errors import MigrationError
from ..host import safe_paths
from ..host.service_health import Listings
from ..quarantine import archive
from ..quarantine import place as quarantine_place
from . import soak, soak_check
from . import text as cleanup_text
from .entry import Entry
from .records import FileRecord, newest_verified_backup, read_files

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ..core.estate import Group

QUARANTINE_DIRECTORY = "/var/lib/sqlite-migration/quarantine"
ServicesCheck = Callable[["Connection", "Group"], list[str]]


def _with_shared_listings() -> ServicesCheck:
    """Return the daily check's look at the services, with one answer of pm2 for all groups."""
    listings = Listings()
    return lambda connection, group: soak_check.services_failures(connection, group, listings)


@dataclass(frozen=True)
class Settings:
    """What the plan depends on beside the estate.

    :param soak_days: days that a group must have lived on PostgreSQL before its file may go into quarantine.
    :param quarantine_days: days that a file must have been there before it may be deleted.
    :param work_directory: where private copies are made.
    :param quarantine_directory: where files go that are on the same file system.
    """

    soak_days: float = 7.0
    quarantine_days: float = 7.0
    work_directory: str | None = None
    quarantine_directory: str = QUARANTINE_DIRECTORY
    archive_directory: str = archive.ARCHIVE_DIRECTORY
    check_services: ServicesCheck = field(default_factory=_with_shared_listings)


@dataclass
class Present:
    """What every entry of a plan is measured against.

    :param clock: the present on every clock; None without a server.
    :param services: what is wrong with each group's services, asked once.
    """

    settings: Settings
    connection: Connection | None
    clock: Clock | None
    files: dict[str, FileRecord]
    newest_backup: datetime | None
    newest_cutover: datetime | None
    unreachable: str = ""
    services: dict[str, list[str]] = field(default_factory=dict)

    def services_failures(self, group: Group) -> list[str]:
        """Return what is wrong with a group's services."""
        if self.connection is None:
            return []
        if group.name not in self.services:
            self.services[group.name] = self.settings.check_services(self.connection, group)
        return self.services[group.name]


def look_around(
    connection: Connection | None,
    groups: Sequence[Group],
    settings: Settings,
    clock: Clock | None,
    unreachable: str,
) -> Present:
    """Return what every entry is measured against.

    :param connection: to the ledger; None where there is none, and ``unreachable`` says why.
    :param clock: the present; read from every clock if not given.
    """
    if connection is None:
        return Present(settings, None, None, {}, None, None, unreachable)
    ledger.require(connection)
    records = [ledger.read_group(connection, group.name, group.source_path) for group in groups]
    cutovers = [record.cutover_at for record in records if record.cutover_at is not None]
    return Present(
        settings,
        connection,
        clock or read_clock(connection),
        read_files(connection),
        newest_verified_backup(connection),
        max(cutovers, default=None),
    )


def check_soak(entry: Entry, record: ledger.GroupRecord, present: Present) -> None:
    """Say how long the group has lived on PostgreSQL, by the ledger's stamp and the daily checks."""
    if record.cutover_at is None:
        entry.unmet.append("the ledger holds no time of its cutover")
        return
    restored_at = record.detail.restored_at
    start = None if restored_at else record.detail.clock
    period = soak.cutover_period(record.cutover_at, restored_at)
    days = present.settings.soak_days
    check_period(entry, record.name, period, start, days, "it has been on PostgreSQL", present)


def check_period(
    entry: Entry, group: str, period: str, start: Clock | None, days: float, what: str, present: Present
) -> None:
    """Say how much of a period has passed that no clock can shorten."""
    if present.connection is None or present.clock is None:
        return
    measured = soak.measure(soak.read_checks(present.connection, group), period, present.clock, start)
    left = days * soak.DAY_SECONDS - measured.seconds
    if measured.interruption:
        entry.notes.append(f"a daily check failed, and the time began anew: {measured.interruption}")
    if left <= 0:
        return
    ends = datetime.fromtimestamp(present.clock.server, UTC) + timedelta(seconds=left)
    entry.may_go_at = ends.isoformat(timespec="seconds")
    entry.unmet.append(
        f"{what} for {cleanup_text.age(timedelta(seconds=measured.seconds))} of {days:g} days that the daily checks "
        f"prove ({measured.checks} passed); the rest ends at {cleanup_text.moment(ends)}, if all pass"
    )


def check_frozen(entry: Entry, frozen_sha256: str | None) -> None:
    """Say whether a source is still, to the byte, the file that was frozen at the cutover."""
    if frozen_sha256 is None:
        entry.unmet.append("the ledger holds no hash of the frozen file")
    elif frozen_sha256 != entry.sha256:
        entry.unmet.append("its content is no longer the one recorded at the cutover: somebody has written to it")
    for suffix in ("-wal", "-journal"):
        if entry.companions.get(suffix):
            entry.unmet.append(f"its {suffix} holds {entry.companions[suffix]:,} bytes written since the cutover")


def check_every_file(entry: Entry, holders: Sequence[str], cutover_at: datetime | None, present: Present) -> None:
    """Add the conditions that every file must meet."""
    if holders:
        entry.unmet.append(f"it is open in {', '.join(holders)}")
    newest = present.newest_backup
    if newest is None or (cutover_at is not None and newest <= cutover_at):
        entry.unmet.append("there is no verified backup of PostgreSQL that is newer than the cutover")


def check_places(entry: Entry, settings: Settings) -> None:
    """Say what keeps the file from going where it should: into its archive, and into quarantine."""
    if not entry.quarantine:
        return
    entry.unmet += quarantine_place.shortcomings(str(Path(entry.resolved).parent), entry.quarantine)
    try:
        safe_paths.require_private(settings.archive_directory)
    except MigrationError as error:
        entry.unmet += [f"its archive would not be root's alone: {problem.what}" for problem in error.problems]
