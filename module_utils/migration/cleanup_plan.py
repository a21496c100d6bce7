"""What cleanup would do, and what keeps it from it: the plan of phase 6 and its id.

Nothing here changes anything. For the source of each cutover group and for each legacy file it says
what is there (size, hash, the rows of every table, the symlinks that lead to it), what would become of
it, and which conditions are not met. No file is called empty before it was opened together with its
``-wal``, and that always in a private copy: SQLite writes to a file that it merely reads.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import archive, cleanup_text, ledger, open_files, quarantine, safe_paths, soak, soak_check, source, state
from .cleanup_records import (
    DELETED,
    LEGACY,
    PACKAGE,
    SOURCE,
    UNFINISHED,
    FileRecord,
    newest_verified_backup,
    read_files,
)
from .cleanup_text import ABSENT, ARCHIVE, DELETE, DONE, KEEP
from .errors import MigrationError, Problem
from .quarantine import COMPANION, FILE, SYMLINK, Move
from .snapshot import SQLITE_HEADER, snapshot
from .source import open_snapshot

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from .estate import Group

QUARANTINE_DIRECTORY = "/var/lib/sqlite-migration/quarantine"
# The files that SQLite keeps beside a database; without the first two its rows are not complete.
_COMPANIONS = ("-wal", "-journal", "-shm")
_FURTHER_NAMES = "it has further names (hard links), of which nobody knows who uses them"
ServicesCheck = Callable[["Connection", "Group"], list[str]]


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
    check_services: ServicesCheck = soak_check.services_failures


@dataclass
class Entry:
    """One file of the plan.

    :param kind: ``source`` of a cutover group, or ``legacy``.
    :param path: as the inventory names it; ``resolved`` is the file behind it.
    :param action: what cleanup would do once every condition is met.
    :param rows: rows of each table; None if it could not be read.
    :param links: each symlink that the inventory names, and where it leads now.
    :param moves: what would go into quarantine, or lies there.
    :param unmet: why not yet, one sentence each.
    :param may_go_at: the earliest time, if nothing interrupts the soak; None if unknown.
    """

    kind: str
    name: str
    path: str
    resolved: str = ""
    inode: int = 0
    action: str = ARCHIVE
    size_bytes: int = 0
    companions: dict[str, int] = field(default_factory=dict)
    sha256: str = ""
    rows: dict[str, int] | None = None
    links: list[dict[str, str]] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    quarantine: str = ""
    archive: str = ""
    unmet: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    may_go_at: str | None = None

    @property
    def ready(self) -> bool:
        """Return whether a confirmed run would act on it now."""
        return self.action in (ARCHIVE, DELETE) and not self.unmet

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as plain data."""
        return {
            **self.__dict__,
            "moves": [move.as_dict() for move in self.moves],
            "ready": self.ready,
            "total_rows": sum(self.rows.values()) if self.rows is not None else None,
        }


@dataclass
class Present:
    """What every entry of a plan is measured against.

    :param clock: the present on every clock; None without a server.
    :param services: what is wrong with each group's services, asked once.
    """

    settings: Settings
    connection: Connection | None
    clock: soak.Clock | None
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


def make_plan(
    connection: Connection | None,
    groups: Sequence[Group],
    legacy_files: Sequence[str],
    settings: Settings,
    clock: soak.Clock | None = None,
    unreachable: str = "",
) -> dict[str, Any]:
    """Return what cleanup would do with every file of the estate, and what keeps it from it.

    :param connection: to the ledger; None where there is none yet, as on a bare host in check mode.
    :param clock: the present; read from every clock if not given.
    :param unreachable: why there is no connection.
    :returns: ``plan_id``, ``entries``, ``packages``, ``facts`` (what the id stands for), ``unfinished``, ``lines``.
    """
    present = _look_around(connection, groups, settings, clock, unreachable)
    sources = {os.path.realpath(group.source_path): group for group in groups}
    unfinished = sorted(file.plan_id for file in present.files.values() if file.step in UNFINISHED)
    entries = [_plan_source(group, present) for group in groups]
    entries += [_plan_legacy(path, sources, groups, present) for path in legacy_files]
    if unfinished:
        for entry in entries:
            record = present.files.get(entry.path)
            if record is None or record.step not in UNFINISHED:
                entry.unmet.append(f"plan {unfinished[0]} has to be finished first")
    packages = _plan_packages(groups, entries, present)
    plan_id, facts = cleanup_text.plan_id(entries, packages)
    if unfinished:
        plan_id = unfinished[0]
    return {
        "plan_id": plan_id,
        "facts": facts,
        "unfinished": bool(unfinished),
        "entries": [entry.as_dict() for entry in entries],
        "packages": packages,
        "lines": cleanup_text.lines(entries, packages, plan_id, bool(unfinished)),
    }


def _look_around(
    connection: Connection | None,
    groups: Sequence[Group],
    settings: Settings,
    clock: soak.Clock | None,
    unreachable: str,
) -> Present:
    """Return what every entry is measured against."""
    if connection is None:
        return Present(settings, None, None, {}, None, None, unreachable)
    ledger.require(connection)
    records = [ledger.read_group(connection, group.name, group.source_path) for group in groups]
    cutovers = [record.cutover_at for record in records if record.cutover_at is not None]
    return Present(
        settings,
        connection,
        clock or soak.read_clock(connection),
        read_files(connection),
        newest_verified_backup(connection),
        max(cutovers, default=None),
    )


def _plan_source(group: Group, present: Present) -> Entry:
    """Return the plan for the source of a cutover group."""
    entry = Entry(SOURCE, group.name, group.source_path)
    known = present.files.get(group.source_path)
    record = None
    if present.connection is not None:
        record = ledger.read_group(present.connection, group.name, group.source_path)
    if known is not None:
        _continue(entry, known, record, group, present)
        return entry
    holders = _examine(entry, present)
    _plan_links(entry, (group.source_path, *group.aliases))
    if entry.action == ABSENT:
        return entry
    if record is None:
        entry.unmet.append(f"the ledger cannot be read: {present.unreachable}")
    elif record.state != state.LIVE:
        entry.unmet.append(f"cutover group {group.name} is '{record.state}', not 'live'. {state.advice(record.state)}")
    else:
        _check_soak(entry, record, present)
        if record.frozen_sha256 is None:
            entry.unmet.append("the ledger holds no hash of the frozen file")
        elif record.frozen_sha256 != entry.sha256:
            entry.unmet.append("its content is no longer the one recorded at the cutover: somebody has written to it")
        for suffix in ("-wal", "-journal"):
            if entry.companions.get(suffix):
                entry.unmet.append(f"its {suffix} holds {entry.companions[suffix]:,} bytes written since the cutover")
        entry.unmet += present.services_failures(group)
    _check_common(entry, holders, None if record is None else record.cutover_at, present)
    return entry


def _plan_legacy(path: str, sources: dict[str, Group], groups: Sequence[Group], present: Present) -> Entry:
    """Return the plan for a file that no service uses any longer."""
    entry = Entry(LEGACY, "legacy", path)
    known = present.files.get(path)
    if known is not None:
        _continue(entry, known, None, None, present)
        return entry
    holders = _examine(entry, present)
    if entry.action == ABSENT:
        return entry
    if entry.resolved in sources:
        entry.action = KEEP
        entry.unmet.append(f"it leads to the source of cutover group {sources[entry.resolved].name}: not a legacy file")
        return entry
    if entry.resolved and entry.resolved != os.path.normpath(path):
        # Who owns a directory on its way can let it lead to anybody's database.
        entry.action = KEEP
        entry.unmet.append(f"it is reached through a symlink: name the file itself, {entry.resolved}")
        return entry
    if entry.rows and sum(entry.rows.values()):
        held = ", ".join(f"{table} {count:,}" for table, count in entry.rows.items() if count)
        rows = cleanup_text.rows(sum(entry.rows.values()))
        entry.notes.append(f"holds {rows} that no mapping moves ({held}): the archive alone will have them")
    if present.connection is not None:
        for group in groups:
            record = ledger.read_group(present.connection, group.name, group.source_path)
            if not state.is_on_postgresql(record.state):
                entry.unmet.append(f"cutover group {group.name} does not live on PostgreSQL yet")
    _check_common(entry, holders, present.newest_cutover, present)
    return entry


def _continue(
    entry: Entry, known: FileRecord, record: ledger.GroupRecord | None, group: Group | None, present: Present
) -> None:
    """Plan what comes next for a file that cleanup is at work on already."""
    entry.moves = known.moves
    entry.quarantine = str(known.facts.get("quarantine", ""))
    entry.archive = str(known.facts.get("archive_name", ""))
    described = known.facts.get("archive") or {}
    entry.rows = described.get("tables") if described else None
    main = next((move for move in entry.moves if move.kind == FILE), None)
    if main is not None:
        entry.resolved, entry.inode = main.path, main.inode
        entry.size_bytes, entry.sha256 = main.size, main.sha256
    if known.step == DELETED:
        entry.action = DONE
        entry.notes.append(f"deleted; its archive is {described.get('directory')}")
        return
    if known.step in UNFINISHED:
        entry.action = DELETE if known.step != "confirmed" else ARCHIVE
        entry.notes.append(f"plan {known.plan_id} was confirmed and is not finished")
        return
    entry.action = DELETE
    entry.notes.append(f"in quarantine: {entry.quarantine}; its archive is {described.get('directory')}")
    entry.unmet += quarantine.inspect(entry.moves, entry.quarantine)
    try:
        archive.require_intact(described)
    except (MigrationError, OSError, KeyError) as error:
        entry.unmet.append(f"its archive cannot be relied on: {error}".replace("\n", " "))
    if known.kind == SOURCE and (record is None or record.state != state.ARCHIVED):
        entry.unmet.append(f"cutover group {known.group} is '{record.state if record else 'unknown'}', not 'archived'")
    _check_period(
        entry,
        known.group,
        soak.quarantine_period(known.quarantined_by),
        soak.Clock.from_dict(known.facts.get("clock")),
        present.settings.quarantine_days,
        "it has been in quarantine",
        present,
    )
    if group is not None:
        entry.unmet += present.services_failures(group)
    cutover_at = record.cutover_at if record is not None else present.newest_cutover
    _check_common(entry, [], cutover_at, present)


# ---------------------------------------------------------------- what is there


def _examine(entry: Entry, present: Present) -> list[str]:
    """Fill in what is at the path of an entry, and return the processes that have it open."""
    path = Path(entry.path)
    try:
        resolved = path.resolve(strict=True)
        status = resolved.stat()
    except (FileNotFoundError, NotADirectoryError):
        entry.action = ABSENT
        if path.is_symlink():
            entry.notes.append(f"a symlink that leads nowhere: {os.readlink(path)}")
        return []
    except (OSError, RuntimeError) as error:
        entry.action = KEEP
        entry.unmet.append(f"cannot be looked at: {error}")
        return []
    entry.resolved = str(resolved)
    entry.inode = status.st_ino
    entry.size_bytes = status.st_size
    if not stat.S_ISREG(status.st_mode):
        entry.action = KEEP
        entry.unmet.append("it is not a regular file")
        return []
    if status.st_nlink != 1:
        entry.unmet.append(_FURTHER_NAMES)
    holders: list[str] = []
    try:
        # One process may have it open under several names.
        found = {holder.pid: holder.command for holder in open_files.find_holders(resolved)}
        holders = [f"process {pid} ({command})" for pid, command in sorted(found.items())]
    except MigrationError as error:
        what = "; ".join(str(problem) for problem in error.problems) or error.summary
        entry.unmet.append(f"nobody can tell whether it is open: {what}")
    try:
        with ExitStack() as stack:
            pieces = _pieces(entry, resolved, stack)
            entry.quarantine = _quarantine_of(entry, resolved, present.settings)
            entry.archive = f"{Path(entry.quarantine).name}-{entry.sha256[:12]}"
            entry.rows = _count(resolved, pieces, bool(holders), present.settings.work_directory)
    except (MigrationError, OSError) as error:
        problems = error.problems if isinstance(error, MigrationError) else []
        what = "; ".join(problem.what for problem in problems) or str(error)
        entry.action = KEEP
        entry.unmet.append(f"its rows cannot be counted: {what}")
    return holders


def _pieces(entry: Entry, resolved: Path, stack: ExitStack) -> list[archive.Piece]:
    """Note the file and what SQLite keeps beside it as moves, and return them as pieces of a database."""
    directory = stack.enter_context(safe_paths.open_directory(resolved.parent))
    inode = os.fstat(directory).st_ino
    pieces = []
    for suffix in ("", *_COMPANIONS):
        name = resolved.name + suffix
        found = safe_paths.identify(directory, name)
        if found is None and suffix:
            continue
        with safe_paths.open_file(directory, name, f"{resolved}{suffix}") as file:
            status = os.fstat(file)
            sha256 = safe_paths.sha256_of(file)
        if suffix:
            entry.companions[suffix] = status.st_size
        else:
            entry.sha256, entry.inode, entry.size_bytes = sha256, status.st_ino, status.st_size
        kind = COMPANION if suffix else FILE
        entry.moves.append(
            Move(kind, str(resolved.parent), inode, name, status.st_ino, f"database{suffix}", status.st_size, sha256)
        )
        pieces.append(archive.Piece(suffix, directory, name, f"{resolved}{suffix}", status.st_ino, sha256))
    return pieces


def _quarantine_of(entry: Entry, resolved: Path, settings: Settings) -> str:
    """Return the private directory that a file would go to, on its own file system."""
    root = quarantine.choose_directory(str(resolved.parent), settings.quarantine_directory)
    name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in entry.path.strip("/"))
    return f"{root}/{name[-80:]}-{entry.inode}"


def _plan_links(entry: Entry, paths: Sequence[str]) -> None:
    """Note each symlink of the inventory that leads to the file: it goes with it."""
    for number, alias in enumerate(paths):
        if number == 0 and not Path(alias).is_symlink():
            continue
        leads_to = _leads_to(alias, entry.resolved)
        entry.links.append({"path": alias, "leads_to": leads_to})
        if leads_to == "a file of its own":
            entry.unmet.append(f"{alias} is no symlink to it but a file of its own: its rows are in no mapping")
        elif leads_to not in (ABSENT, entry.resolved):
            entry.unmet.append(f"{alias} leads to {leads_to} instead")
        elif leads_to == entry.resolved:
            parent = os.path.realpath(os.path.dirname(alias))
            with suppress(MigrationError), safe_paths.open_directory(parent) as directory:
                found = safe_paths.identify(directory, os.path.basename(alias))
                if found is not None and found.kind == "symlink":
                    inode = os.fstat(directory).st_ino
                    name, place = os.path.basename(alias), f"symlink-{number}"
                    entry.moves.append(Move(SYMLINK, parent, inode, name, found.inode, place, target=found.target))


def _leads_to(alias: str, resolved: str) -> str:
    """Return where a symlink of the inventory leads now."""
    path = Path(alias)
    if not path.is_symlink():
        return "a file of its own" if path.exists() else ABSENT
    target = os.path.realpath(path)
    return target if os.path.exists(target) or target == resolved else ABSENT


def _count(path: Path, pieces: Sequence[archive.Piece], is_open: bool, work_directory: str | None) -> dict[str, int]:
    """Return the rows of every table of an SQLite file, those in its ``-wal`` included; the file does not change.

    A file that nobody has open is copied together with its companions, and SQLite sees only the copy;
    one that is in use goes through SQLite's backup interface, which knows how to live with writers.

    :raises MigrationError: if it is no SQLite database, or a corrupt one.
    """
    if is_open:
        with snapshot(str(path), work_directory) as taken, closing(open_snapshot(taken.path)) as connection:
            return {name: source.count_rows(connection, name) for name in source.read_tables(connection)}
    with archive.private_copy(pieces, work_directory) as copy:
        header = copy.read_bytes()[:16] if copy.stat().st_size < 16 else _header_of(copy)
        if header and header != SQLITE_HEADER:
            what = "it is not an SQLite database"
            raise MigrationError(f"{path} is not an SQLite database.", [_problem(path, what)])
        try:
            # Opened for writing, so that SQLite can recover the -wal or a hot journal of the copy.
            with closing(sqlite3.connect(copy)) as connection:
                source.add_missing_collations(connection)
                return {name: source.count_rows(connection, name) for name in source.read_tables(connection)}
        except sqlite3.Error as error:
            what = f"SQLite cannot read it: {error}"
            raise MigrationError(f"{path} cannot be read.", [_problem(path, what)]) from None


def _header_of(path: Path) -> bytes:
    """Return the first 16 bytes of a file."""
    with path.open("rb") as file:
        return file.read(len(SQLITE_HEADER))


def _problem(path: Path, what: str) -> Problem:
    """Return the problem of a file that cannot be counted."""
    return Problem(str(path), what, "Look at the file; cleanup will keep it")


# ---------------------------------------------------------------- the conditions


def _check_soak(entry: Entry, record: ledger.GroupRecord, present: Present) -> None:
    """Say how long the group has lived on PostgreSQL, by the ledger's stamp and the daily checks."""
    if record.cutover_at is None:
        entry.unmet.append("the ledger holds no time of its cutover")
        return
    restored_at = record.detail.get(soak.RESTORED_AT)
    start = None if restored_at else soak.Clock.from_dict(record.detail.get(soak.CLOCK))
    period = soak.cutover_period(record.cutover_at, restored_at)
    days = present.settings.soak_days
    _check_period(entry, record.name, period, start, days, "it has been on PostgreSQL", present)


def _check_period(
    entry: Entry, group: str, period: str, start: soak.Clock | None, days: float, what: str, present: Present
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


def _check_common(entry: Entry, holders: Sequence[str], cutover_at: datetime | None, present: Present) -> None:
    """Add the conditions that every file must meet."""
    if holders:
        entry.unmet.append(f"it is open in {', '.join(holders)}")
    newest = present.newest_backup
    if newest is None or (cutover_at is not None and newest <= cutover_at):
        entry.unmet.append("there is no verified backup of PostgreSQL that is newer than the cutover")


# ---------------------------------------------------------------- the services' packages


def _plan_packages(groups: Sequence[Group], entries: Sequence[Entry], present: Present) -> list[dict[str, Any]]:
    """Return which services still depend on the SQLite driver; it goes with the last file of those that share it."""
    from . import driver_package

    gone = {entry.name for entry in entries if entry.kind == SOURCE and (entry.action == DONE)}
    going = {entry.name for entry in entries if entry.kind == SOURCE and entry.action == DELETE and entry.ready}
    packages = []
    for package in driver_package.find(groups):
        known = present.files.get(package["path"])
        package["unfinished"] = known is not None and known.kind == PACKAGE and known.step in UNFINISHED
        waiting = [name for name in package["groups"] if name not in gone | going]
        package["ready"] = bool(package["driver"]) and not waiting
        if package["driver"] and waiting:
            package["note"] = f"waits until the files of {', '.join(waiting)} are deleted"
        packages.append(package)
    return packages
