"""What is at a path of the cleanup plan: the file, what SQLite keeps beside it, its rows, the symlinks to it.

Nothing here changes anything. No file is called empty before it was opened together with its ``-wal``, and that
always in a private copy: SQLite writes to a file that it merely reads. The paths lie in directories of the services'
users, who may let them lead to anything, so nothing is read before it is known to be a file of a size that fits.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from ..core.errors import MigrationError, Problem
from ..core.files import WORK_DIRECTORY, sha256_of_open
from ..host import open_files, safe_paths
from ..quarantine import archive
from ..quarantine import place as quarantine_place
from ..quarantine.entry import COMPANION, FILE, SYMLINK, Move
from ..sqlite import tables
from ..sqlite.snapshot import SQLITE_HEADER, snapshot
from ..sqlite.tables import open_snapshot
from .entry import ABSENT, Entry

# The files that SQLite keeps beside a database; without the first two its rows are not complete.
_COMPANIONS = ("-wal", "-journal", "-shm")
_FURTHER_NAMES = "it has further names (hard links), of which nobody knows who uses them"
A_FILE_OF_ITS_OWN = "a file of its own"
# The private copy, the snapshot made of it, and what is read back from the archive, with room to spare.
_COPIES = 4


def locate(entry: Entry) -> None:
    """Fill in the file behind the path of an entry, without reading it."""
    path = Path(entry.path)
    try:
        resolved = path.resolve(strict=True)
        status = resolved.lstat()
    except (FileNotFoundError, NotADirectoryError):
        entry.action = ABSENT
        if path.is_symlink():
            entry.notes.append(f"a symlink that leads nowhere: {printable(os.readlink(path))}")
        return
    except (OSError, RuntimeError) as error:
        entry.keep(f"cannot be looked at: {error}")
        return
    entry.resolved = printable(str(resolved))
    entry.inode = status.st_ino
    entry.size_bytes = status.st_size
    if entry.resolved != str(resolved):
        entry.keep("the name of the file that it leads to is not UTF-8")
    elif not stat.S_ISREG(status.st_mode):
        entry.keep("it is not a regular file")
    elif status.st_nlink != 1:
        entry.unmet.append(_FURTHER_NAMES)


def printable(path: str) -> str:
    """Return a path in which every byte that is not UTF-8 is written as an escape."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read(entry: Entry, quarantine_directory: str, work_directory: str | None) -> list[str]:
    """Fill in the content of a located file, and return the processes that have it open.

    :param quarantine_directory: where it would go, if that is on its file system.
    """
    resolved = Path(entry.resolved)
    holders: list[str] = []
    try:
        # One process may have it open under several names.
        found = {holder.pid: holder.command for holder in open_files.find_holders(resolved)}
        holders = [f"process {pid} ({command})" for pid, command in sorted(found.items())]
    except MigrationError as error:
        what = "; ".join(str(problem) for problem in error.problems) or error.summary
        entry.unmet.append(f"nobody can tell whether it is open: {what}")
    try:
        _require_room(resolved, work_directory)
        with ExitStack() as stack:
            pieces = _pieces(entry, resolved, stack)
            entry.quarantine = _quarantine_of(entry, resolved, quarantine_directory)
            entry.archive = f"{Path(entry.quarantine).name}-{entry.sha256[:12]}"
            entry.rows = _count(resolved, pieces, bool(holders), work_directory)
    except (MigrationError, OSError, sqlite3.Error, ValueError) as error:
        # A ValueError too: a file can be made so that the name of a table holds what no statement can.
        problems = error.problems if isinstance(error, MigrationError) else []
        entry.keep(f"its rows cannot be counted: {'; '.join(problem.what for problem in problems) or error}")
    return holders


def _require_room(path: Path, work_directory: str | None) -> None:
    """Raise if a private copy would not fit: before it is hashed, because anybody can make a huge file of holes."""
    size = 0
    for suffix in ("", *_COMPANIONS):
        with suppress(FileNotFoundError):
            size += os.lstat(f"{path}{suffix}").st_size
    work = Path(work_directory or WORK_DIRECTORY)
    while not work.exists():
        work = work.parent
    free = shutil.disk_usage(work).free
    if free < _COPIES * size:
        what = f"{_COPIES * size:,} bytes are needed for private copies in {work}, and {free:,} are free"
        raise MigrationError(f"{path} cannot be copied.", [_problem(path, what)])


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
            if safe_paths.mount_of(file) != safe_paths.mount_of(directory):
                entry.unmet.append(f"{resolved}{suffix} is a mount of its own, which cannot be moved")
            sha256 = sha256_of_open(file)
        if suffix:
            entry.companions[suffix] = status.st_size
            if status.st_nlink != 1:
                entry.unmet.append(f"its {suffix}: {_FURTHER_NAMES}")
        else:
            entry.sha256, entry.inode, entry.size_bytes = sha256, status.st_ino, status.st_size
        kind = COMPANION if suffix else FILE
        entry.moves.append(
            Move(kind, str(resolved.parent), inode, name, status.st_ino, f"database{suffix}", status.st_size, sha256)
        )
        pieces.append(archive.Piece(suffix, directory, name, f"{resolved}{suffix}", status.st_ino, sha256))
    return pieces


def _quarantine_of(entry: Entry, resolved: Path, preferred: str) -> str:
    """Return the private directory that a file would go to, on its own file system."""
    root = quarantine_place.choose(str(resolved.parent), preferred)
    name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in entry.path.strip("/"))
    return f"{root}/{name[-80:]}-{entry.inode}"


def find_links(entry: Entry, paths: Sequence[str]) -> None:
    """Note each symlink of the inventory that leads to the file: it goes with it."""
    for number, alias in enumerate(paths):
        if number == 0 and not Path(alias).is_symlink():
            continue
        leads_to = _leads_to(alias, entry.resolved)
        entry.links.append({"path": alias, "leads_to": leads_to})
        if leads_to == A_FILE_OF_ITS_OWN:
            entry.unmet.append(f"{alias} is no symlink to it but a file of its own: its rows are in no mapping")
        elif leads_to not in (ABSENT, entry.resolved):
            entry.unmet.append(f"{alias} leads to {leads_to} instead")
        elif leads_to == entry.resolved:
            _note_link(entry, alias, f"symlink-{number}")


def _note_link(entry: Entry, alias: str, place: str) -> None:
    """Note a symlink that leads to the file as a move."""
    parent = os.path.realpath(os.path.dirname(alias))
    with suppress(MigrationError), safe_paths.open_directory(parent) as directory:
        name = os.path.basename(alias)
        found = safe_paths.identify(directory, name)
        if found is None or found.kind != "symlink":
            return
        if printable(parent + found.target) != parent + found.target:
            entry.unmet.append(f"{alias} names its target by bytes that are not UTF-8")
            return
        inode = os.fstat(directory).st_ino
        entry.moves.append(Move(SYMLINK, parent, inode, name, found.inode, place, target=found.target))
        if os.path.normpath(alias) != f"{parent}/{name}":
            entry.notes.append(f"the symlink {alias} is reached through another one, and lies in {parent}")


def _leads_to(alias: str, resolved: str) -> str:
    """Return where a symlink of the inventory leads now."""
    path = Path(alias)
    if not path.is_symlink():
        return A_FILE_OF_ITS_OWN if path.exists() else ABSENT
    target = os.path.realpath(path)
    return printable(target) if os.path.exists(target) or target == resolved else ABSENT


def _count(path: Path, pieces: Sequence[archive.Piece], is_open: bool, work_directory: str | None) -> dict[str, int]:
    """Return the rows of every table of an SQLite file, those in its ``-wal`` included; the file does not change.

    A file that nobody has open is copied together with its companions, and SQLite sees only the copy;
    one that is in use goes through SQLite's backup interface, which knows how to live with writers.

    :raises MigrationError: if it is no SQLite database, or a corrupt one.
    """
    if is_open:
        with snapshot(str(path), work_directory) as taken, closing(open_snapshot(taken.path)) as connection:
            return {name: tables.count_rows(connection, name) for name in tables.read_tables(connection)}
    with archive.private_copy(pieces, work_directory) as copy:
        with copy.open("rb") as file:
            header = file.read(len(SQLITE_HEADER))
        if header and header != SQLITE_HEADER:
            what = "it is not an SQLite database"
            raise MigrationError(f"{path} is not an SQLite database.", [_problem(path, what)])
        try:
            # Opened for writing, so that SQLite can recover the -wal or a hot journal of the copy.
            with closing(sqlite3.connect(copy)) as connection:
                tables.add_missing_collations(connection)
                return {name: tables.count_rows(connection, name) for name in tables.read_tables(connection)}
        except sqlite3.Error as error:
            what = f"SQLite cannot read it: {error}"
            raise MigrationError(f"{path} cannot be read.", [_problem(path, what)]) from None


def _problem(path: Path, what: str) -> Problem:
    """Return the problem of a file that cannot be counted."""
    return Problem(str(path), what, "Look at the file; cleanup will keep it")
