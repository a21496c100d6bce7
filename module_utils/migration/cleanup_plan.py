"""What cleanup would do, and why not yet: the dry run of phase 6.

Nothing here deletes or changes anything. For the source of each cutover group and for each
legacy file it says what is there (size, hash, the rows of every table, the symlinks that lead to
it), what would become of it, and which conditions are not met. No file is called empty before it
was opened together with its ``-wal``, and that always in a private copy: SQLite writes to a file
that it merely reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from . import ledger, open_files, source, state
from .errors import MigrationError, Problem
from .snapshot import SQLITE_HEADER, WORK_DIRECTORY, sha256_of, snapshot

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from .estate import Group, Service

# The files that SQLite keeps beside a database and without which its rows are not complete.
_COMPANIONS = ("-wal", "-journal")
_DRIVER = "better-sqlite3"

ABSENT = "absent"
ARCHIVE_THEN_REMOVE = "archive, then remove"
KEEP = "keep"


@dataclass
class Entry:
    """One file of the plan.

    :param kind: ``source`` of a cutover group, or ``legacy``.
    :param path: as the inventory names it; ``resolved`` is the file behind it.
    :param action: what cleanup would do once every condition is met.
    :param rows: rows of each table; None if it could not be read.
    :param links: each symlink that the inventory names, and where it leads now.
    :param unmet: why not yet, one sentence each.
    :param may_go_at: the earliest time, once the other conditions are met; None if unknown.
    """

    kind: str
    name: str
    path: str
    resolved: str = ""
    inode: int = 0
    action: str = ARCHIVE_THEN_REMOVE
    size_bytes: int = 0
    companions: dict[str, int] = field(default_factory=dict)
    sha256: str = ""
    rows: dict[str, int] | None = None
    links: list[dict[str, str]] = field(default_factory=list)
    unmet: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    may_go_at: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as plain data."""
        return {**self.__dict__, "total_rows": sum(self.rows.values()) if self.rows is not None else None}


def make_plan(
    connection: Connection | None,
    groups: Sequence[Group],
    legacy_files: Sequence[str],
    soak_days: float,
    now: datetime | None = None,
    work_directory: str | None = None,
    unreachable: str = "",
) -> dict[str, Any]:
    """Return what cleanup would do with every file of the estate, and what keeps it from it.

    :param connection: to the ledger; None where there is none yet, as on a bare host in check mode.
    :param soak_days: days that a group must have lived on PostgreSQL.
    :param work_directory: where private copies are made.
    :param unreachable: why there is no connection.
    """
    now = now or datetime.now(UTC)
    if connection is not None:
        ledger.require(connection)
    sources = {os.path.realpath(group.source_path): group for group in groups}
    entries = []
    for group in groups:
        record = None if connection is None else ledger.read_group(connection, group.name, group.source_path)
        entries.append(_plan_source(group, record, soak_days, now, work_directory, unreachable))
    entries += [_plan_legacy(path, sources, work_directory) for path in legacy_files]
    packages = [_plan_package(service) for group in groups for service in group.services]
    return {
        "plan_id": _plan_id(entries, packages),
        "entries": [entry.as_dict() for entry in entries],
        "packages": packages,
        "lines": _lines(entries, packages, _plan_id(entries, packages)),
    }


def _plan_source(
    group: Group,
    record: ledger.GroupRecord | None,
    soak_days: float,
    now: datetime,
    work_directory: str | None,
    unreachable: str,
) -> Entry:
    """Return the plan for the source of a cutover group."""
    entry = Entry("source", group.name, group.source_path)
    holders = _examine(entry, work_directory)
    entry.links = [_link(alias, entry.resolved) for alias in group.aliases]
    for link in entry.links:
        if link["leads_to"] == "a file of its own":
            entry.unmet.append(f"{link['path']} is no symlink to it but a file of its own: its rows are in no mapping")
        elif link["leads_to"] not in (ABSENT, entry.resolved):
            entry.unmet.append(f"{link['path']} leads to {link['leads_to']} instead")
    if entry.action == ABSENT:
        return entry
    if record is None:
        entry.unmet.append(f"the ledger cannot be read: {unreachable}")
    elif record.state != state.LIVE:
        entry.unmet.append(f"cutover group {group.name} is '{record.state}', not 'live'. {state.advice(record.state)}")
    else:
        _check_soak(entry, record, soak_days, now)
        if record.frozen_sha256 is None:
            entry.unmet.append("the ledger holds no hash of the frozen file")
        elif record.frozen_sha256 != entry.sha256:
            entry.unmet.append("its content is no longer the one recorded at the cutover: somebody has written to it")
        if entry.companions.get("-wal"):
            entry.unmet.append(f"its -wal holds {entry.companions['-wal']:,} bytes written since the cutover")
    _check_common(entry, holders)
    return entry


def _plan_legacy(path: str, sources: dict[str, Group], work_directory: str | None) -> Entry:
    """Return the plan for a file that no service uses any longer."""
    entry = Entry("legacy", "legacy", path)
    holders = _examine(entry, work_directory)
    if entry.action == ABSENT:
        return entry
    if entry.resolved in sources:
        entry.action = KEEP
        entry.unmet.append(f"it leads to the source of cutover group {sources[entry.resolved].name}: not a legacy file")
        return entry
    if entry.rows and sum(entry.rows.values()):
        held = ", ".join(f"{table} {count:,}" for table, count in entry.rows.items() if count)
        entry.notes.append(f"holds {_rows(sum(entry.rows.values()))} that no mapping moves ({held})")
        entry.unmet.append("its rows are in no mapping: somebody must say that they may go")
    _check_common(entry, holders)
    return entry


def _examine(entry: Entry, work_directory: str | None) -> list[str]:
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
    entry.companions = _companions(resolved)
    entry.sha256 = sha256_of(resolved)
    holders: list[str] = []
    try:
        # One process may have it open under several names.
        found = {holder.pid: holder.command for holder in open_files.find_holders(resolved)}
        holders = [f"process {pid} ({command})" for pid, command in sorted(found.items())]
    except MigrationError as error:
        what = "; ".join(str(problem) for problem in error.problems) or error.summary
        entry.unmet.append(f"nobody can tell whether it is open: {what}")
    try:
        entry.rows = count_rows(resolved, bool(holders), work_directory)
    except MigrationError as error:
        what = "; ".join(problem.what for problem in error.problems) or error.summary
        entry.action = KEEP
        entry.unmet.append(f"its rows cannot be counted: {what}")
    return holders


def _check_soak(entry: Entry, record: ledger.GroupRecord, soak_days: float, now: datetime) -> None:
    """Say from when on the file may go, counted from the ledger's stamp and never from a file's time."""
    if record.cutover_at is None:
        entry.unmet.append("the ledger holds no time of its cutover")
        return
    may_go_at = record.cutover_at + timedelta(days=soak_days)
    entry.may_go_at = may_go_at.astimezone(UTC).isoformat(timespec="seconds")
    if now < may_go_at:
        entry.unmet.append(
            f"it has been on PostgreSQL for {_age(now - record.cutover_at)} of {soak_days:g} days; "
            f"the soak time ends at {_moment(may_go_at)}"
        )


def _check_common(entry: Entry, holders: list[str]) -> None:
    """Add the conditions that every file must meet."""
    if holders:
        entry.unmet.append(f"it is open in {', '.join(holders)}")
    entry.unmet.append("there is no verified backup of PostgreSQL that is newer than the cutover")


def _companions(path: Path) -> dict[str, int]:
    """Return the files that SQLite keeps beside a database, with their sizes in bytes."""
    found = {}
    for suffix in _COMPANIONS:
        try:
            found[suffix] = os.stat(f"{path}{suffix}").st_size
        except FileNotFoundError:
            continue
    return found


def _link(alias: str, resolved: str) -> dict[str, str]:
    """Return where a symlink of the inventory leads now."""
    path = Path(alias)
    if not path.is_symlink():
        return {"path": alias, "leads_to": "a file of its own" if path.exists() else ABSENT}
    target = os.path.realpath(path)
    return {"path": alias, "leads_to": target if os.path.exists(target) or target == resolved else ABSENT}


# --- counting -----------------------------------------------------------------------------------


def count_rows(path: Path, is_open: bool, work_directory: str | None = None) -> dict[str, int]:
    """Return the rows of every table of an SQLite file, those in its ``-wal`` included.

    Neither the file nor anything beside it changes. A file that nobody has open is copied
    together with its companions, and SQLite sees only the copy; one that is in use goes through
    SQLite's backup interface, which knows how to live with writers.

    :param is_open: whether a process has the file open.
    :raises MigrationError: if it is no SQLite database, or a corrupt one.
    """
    if not is_open:
        with _private_copy(path, work_directory) as copy:
            if copy is not None:
                return _count(copy, path)
    with snapshot(str(path), work_directory) as taken:
        return _count(taken.path, path)


@contextmanager
def _private_copy(path: Path, work_directory: str | None) -> Iterator[Path | None]:
    """Give a private copy of a file with its companions; None if somebody wrote while it was made."""
    work = Path(work_directory or WORK_DIRECTORY)
    made = not work.exists()
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        # Its name is one that the snapshot removes after a crash.
        with tempfile.TemporaryDirectory(prefix=f"run-{os.getpid()}-", dir=work) as directory:
            copy = Path(directory) / "copy.db"
            before = _stamp(path)
            for suffix in ("", *_companions(path)):
                with (
                    open(f"{path}{suffix}", "rb") as reader,
                    open(os.open(f"{copy}{suffix}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as writer,
                ):
                    shutil.copyfileobj(reader, writer, 1024 * 1024)
            yield copy if _stamp(path) == before else None
    finally:
        if made:
            # A dry run leaves the host as it was.
            with suppress(OSError):
                work.rmdir()


def _stamp(path: Path) -> list[tuple[int, int, int]]:
    """Return what changes when somebody writes to a database."""
    stamps = []
    for suffix in ("", *_COMPANIONS):
        try:
            status = os.stat(f"{path}{suffix}")
        except FileNotFoundError:
            continue
        stamps.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return stamps


def _count(copy: Path, path: Path) -> dict[str, int]:
    """Return the rows of every table in a copy that is ours alone."""
    with copy.open("rb") as file:
        header = file.read(len(SQLITE_HEADER))
    if header and header != SQLITE_HEADER:
        raise MigrationError(f"{path} is not an SQLite database.", [_problem(path, "it is not an SQLite database")])
    try:
        # Opened for writing, so that SQLite can recover the -wal or a hot journal of the copy.
        with closing(sqlite3.connect(f"file:{quote(str(copy))}?mode=rw", uri=True)) as connection:
            return {name: source.count_rows(connection, name) for name in source.read_tables(connection)}
    except sqlite3.Error as error:
        raise MigrationError(f"{path} cannot be read.", [_problem(path, f"SQLite cannot read it: {error}")]) from None


# --- the services' packages ---------------------------------------------------------------------


def _plan_package(service: Service) -> dict[str, Any]:
    """Return whether a service still depends on the SQLite driver, which cleanup would remove."""
    path = Path(service.directory) / "package.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = next(
            (data[kind][_DRIVER] for kind in ("dependencies", "optionalDependencies") if _DRIVER in data.get(kind, {})),
            None,
        )
    except FileNotFoundError:
        return {"service": service.name, "path": str(path), "driver": None, "note": ABSENT}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return {"service": service.name, "path": str(path), "driver": None, "note": f"cannot be read: {error}"}
    return {"service": service.name, "path": str(path), "driver": version, "note": ""}


# --- the plan as text ---------------------------------------------------------------------------


def _plan_id(entries: Sequence[Entry], packages: Sequence[dict[str, Any]]) -> str:
    """Return an id that changes as soon as any file, its content, its links or its fate changes.

    Times and conditions are no part of it: waiting does not change what would be deleted.
    """
    facts = [
        [
            *(entry.path, entry.resolved, entry.inode, entry.size_bytes, entry.sha256),
            *(entry.action, entry.links, entry.rows, entry.companions),
        ]
        for entry in entries
    ]
    text = json.dumps([facts, list(packages)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _lines(entries: Sequence[Entry], packages: Sequence[dict[str, Any]], plan_id: str) -> list[str]:
    """Return the plan for a person."""
    waiting = sum(bool(entry.unmet) for entry in entries)
    present = sum(entry.action != ABSENT for entry in entries)
    lines = [
        f"Cleanup plan {plan_id}: an explanation only. Nothing was archived, moved or deleted.",
        f"{present} of {len(entries)} files are there; {waiting} of them must stay for now.",
    ]
    for entry in entries:
        lines += ["", *_entry_lines(entry)]
    drivers = [package for package in packages if package["driver"]]
    if drivers:
        names = ", ".join(f"{package['service']} ({package['driver']})" for package in drivers)
        lines += ["", f"Would also remove {_DRIVER} from package.json of: {names}"]
    for package in packages:
        if package["note"] not in ("", ABSENT):
            lines.append(f"{package['path']}: {package['note']}")
    return lines


def _entry_lines(entry: Entry) -> list[str]:
    """Return one file for a person."""
    title = f"{entry.name}: {entry.path}" if entry.kind == "source" else f"legacy file: {entry.path}"
    if entry.action == ABSENT:
        return [f"{title}: {ABSENT}", *(f"  note: {note}" for note in entry.notes)]
    lines = [title]
    if entry.resolved != entry.path:
        lines.append(f"  is a symlink to {entry.resolved}")
    companions = "".join(f", {suffix} {size:,} bytes" for suffix, size in entry.companions.items())
    lines.append(f"  size: {entry.size_bytes:,} bytes{companions}; sha256 {entry.sha256 or 'unknown'}")
    if entry.rows is not None:
        listed = ", ".join(f"{table} {count:,}" for table, count in entry.rows.items())
        lines.append(f"  holds: {_rows(sum(entry.rows.values()))}" + (f" ({listed})" if listed else ", no table"))
    lines += [f"  symlink: {link['path']} → {link['leads_to']}" for link in entry.links]
    lines += [f"  note: {note}" for note in entry.notes]
    lines.append(f"  would: {entry.action}" + (f", not before {entry.may_go_at}" if entry.may_go_at else ""))
    lines += [f"  not yet: {reason}" for reason in entry.unmet]
    return lines


def _rows(count: int) -> str:
    """Return a number of rows."""
    return "1 row" if count == 1 else f"{count:,} rows"


def _age(age: timedelta) -> str:
    """Return an age in the largest unit that tells something."""
    if age >= timedelta(days=1):
        return f"{age / timedelta(days=1):.1f}"
    return f"{max(age, timedelta()) / timedelta(hours=1):.1f} hours"


def _moment(moment: datetime) -> str:
    """Return a time for a person, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _problem(path: Path, what: str) -> Problem:
    """Return the problem of a file that cannot be counted."""
    return Problem(str(path), what, "Look at the file; cleanup will keep it")
