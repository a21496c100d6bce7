"""A private, consistent copy of one source, made by SQLite's own backup interface.

Rows may live in the ``-wal`` file alone, so the file itself is not simply copied. Symlinks are
resolved first: a source is known by its inode. A source that SQLite could only read after repairing
it (its writer has crashed and left a rollback journal), or only by creating a file in a directory
that nobody may write to, is copied with its journals, and SQLite repairs the copy.
"""

from __future__ import annotations

import errno
import fcntl
import filecmp
import multiprocessing
import os
import pwd
import re
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from ..core.errors import MigrationError, Problem
from ..core.files import WORK_DIRECTORY
from ..core.rights import rights_of
from .tables import add_missing_collations, open_snapshot, quote_name, read_tables, unknown_collations

SQLITE_HEADER = b"SQLite format 3\x00"
# The snapshot, and the spooled COPY data made from it, with room to spare.
DISK_FACTOR = 3
_CHUNK_BYTES = 1 << 20
# Checking this much takes half a second at most; another process would need its memory beside ours.
_CHECKED_AT_ONCE_BYTES = 128 << 20
# How long to wait for a writer that holds the whole file.
LOCK_TIMEOUT_SECONDS = 30.0

_JOURNALS = ("-journal", "-wal")
_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
# SQLite's result codes: the first byte, or the whole of an extended code.
_BUSY, _LOCKED, _CANNOT_OPEN = 5, 6, 14
_READ_ONLY_RECOVERY, _READ_ONLY_ROLLBACK, _READ_ONLY_CANNOT_INIT, _READ_ONLY_DIRECTORY = 264, 776, 1288, 1544
# Where SQLite's readers put their locks in a file.
_SHARED_LOCK_START, _SHARED_LOCK_LENGTH = 0x40000002, 510
_UNREADABLE_SCHEMA = re.compile(r"malformed database schema|syntax error|unrecognized token")
_SYNTAX = re.compile(r"syntax error|unrecognized token|unknown (?:table option|datatype)|no such function")
_UNKNOWN_FUNCTION = re.compile(r"(?:unknown|no such) function: (\w+)")


@dataclass(frozen=True)
class Snapshot:
    """A private copy of a source.

    :param path: the copy, mode 0600, in a directory of mode 0700 that vanishes with it.
    :param source_path: the file it was made from, symlinks resolved.
    :param inode: inode number of that file.
    :param size_bytes: size of the file and its journals together.
    :param check: the check of its pages, which may still be going on.
    """

    path: Path
    source_path: Path
    inode: int
    size_bytes: int
    check: Check

    @property
    def directory(self) -> Path:
        """Return the private directory, for other files that must not outlive the snapshot."""
        return self.path.parent


class Check:
    """SQLite's check of every page and index of a copy; that of a large one goes on in a process of its own.

    A thread would not do: SQLite's threads wait for each other whenever they need memory.
    """

    def __init__(self, source_path: str, copy: Path) -> None:
        self._error: MigrationError | None = None
        self._process: BaseProcess | None = None
        if copy.stat().st_size < _CHECKED_AT_ONCE_BYTES:
            self._error = _find_corruption(source_path, copy)
            return
        context = multiprocessing.get_context("fork")
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_check, args=(source_path, copy, sender), daemon=True)
        self._process.start()
        sender.close()

    def require(self) -> None:
        """Wait for the check.

        :raises MigrationError: with SQLite's own findings if the copy is corrupt.
        """
        if self._process is not None:
            try:
                found = self._receiver.recv()
            except EOFError:
                found = ("The check of the snapshot was killed.", [])
            self.stop()
            self._error = None if found is None else MigrationError(*found)
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the check, if it still goes on."""
        if self._process is not None:
            self._process.terminate()
            self._process.join()
            self._receiver.close()
            self._process = None


def _check(source_path: str, copy: Path, sender: Pipe) -> None:
    """Send what is wrong with a copy, None if nothing is."""
    error = _find_corruption(source_path, copy)
    sender.send(None if error is None else (error.summary, error.problems))
    sender.close()
    # Nothing of the parent's is closed or flushed a second time.
    os._exit(0)


def _find_corruption(source_path: str, copy: Path) -> MigrationError | None:
    """Return what is wrong with a copy."""
    try:
        _require_integrity(source_path, copy)
    except sqlite3.Error as error:
        return _explained(source_path, copy, error)
    except MigrationError as error:
        return error
    return None


class _AlreadyChecked(Check):
    """The copy is, to the byte, one that was checked before."""

    def __init__(self) -> None:
        """Start nothing."""
        self._process = None

    def require(self) -> None:
        """Wait for nothing."""


def resolve_source(path: str) -> Path:
    """Return the source file behind ``path``, after checking that it can be a source at all.

    :raises MigrationError: if it is missing, not a regular file, or not an SQLite database, or if something else than a
        file stands in the place of a journal.
    """
    try:
        resolved = Path(path).resolve(strict=True)
    except (FileNotFoundError, RuntimeError):
        dangling = " (a symlink that leads nowhere)" if os.path.islink(path) else ""
        raise _unusable(
            path,
            f"the file does not exist{dangling}",
            "Correct 'path' in estate_cutover_groups, or put the file back",
        ) from None
    if not stat.S_ISREG(resolved.stat().st_mode):
        raise _unusable(path, "it is not a regular file", "Correct 'path' in estate_cutover_groups")
    # It may be another one by now, and a pipe would keep us waiting.
    descriptor = os.open(resolved, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _unusable(path, "it is not a regular file", "Correct 'path' in estate_cutover_groups")
        header = file.read(len(SQLITE_HEADER))
    if header and header != SQLITE_HEADER:
        raise _unusable(
            path,
            "it is not an SQLite database: its first 16 bytes are not SQLite's header",
            "Correct 'path' in estate_cutover_groups; an encrypted file must be decrypted first",
        )
    require_usual_journals(resolved)
    return resolved


def require_usual_journals(source: Path) -> None:
    """Refuse a source beside which something else than a file stands in the place of a journal, or one with two names.

    SQLite opens what has such a name: it would wait for a pipe for ever, and read, through a symlink, whatever whoever
    may write to the directory has chosen.

    :raises MigrationError: if so.
    """
    for suffix in (*_JOURNALS, "-shm"):
        journal = f"{source}{suffix}"
        try:
            found = os.lstat(journal)
        except FileNotFoundError:
            continue
        what = "it is not a regular file" if not stat.S_ISREG(found.st_mode) else ""
        if not what and found.st_nlink > 1:
            what = f"it has {found.st_nlink} names (hard links)"
        if what:
            fix = "Find out who has put it there, and take it away while the services are stopped"
            raise _unusable(journal, what, fix)


@contextmanager
def snapshot(
    source_path: str,
    directory: str | None = None,
    frozen: bool = False,
    checked: Path | None = None,
    wait: bool = True,
    users: Collection[str] = (),
) -> Iterator[Snapshot]:
    """Take a snapshot of a source and remove it at the end, whatever happens.

    The source is opened read-only: its bytes stay as they are, and a live writer is not disturbed.

    :param directory: where private files go; :data:`WORK_DIRECTORY` if not given.
    :param frozen: the source is write-protected and checkpointed, so nothing may be created beside it.
    :param checked: a snapshot that was checked before; if the new one is the same it need not be again.
    :param wait: wait for the check of its pages; if not, the caller calls :meth:`Check.require`.
    :param users: who may own the source, which root then reads with the rights of its owner; empty for anybody, and
        our own rights.
    :raises MigrationError: if the source is missing, not SQLite, corrupt, or somebody else's, or the disk is too full.
    """
    source = resolve_source(source_path)
    rights = _rights_of_owner(source_path, source, users)
    work = Path(directory or WORK_DIRECTORY)
    made = not work.exists()
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove_leftovers(work)
    size = require_room(source_path, work)
    private = work / f"run-{os.getpid()}-{source.stat().st_ino}"
    private.mkdir(mode=0o700)
    try:
        copy = private / "snapshot.db"
        os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            _take(source, copy, frozen, rights)
            _rebuild_indexes_of_unknown_collations(copy)
            same = checked is not None and filecmp.cmp(copy, checked, shallow=False)
            check = _AlreadyChecked() if same else Check(source_path, copy)
            if wait:
                check.require()
        except sqlite3.Error as error:
            if "disk is full" in str(error):
                raise _disk_full(work, source_path) from None
            raise _explained(source_path, copy, error) from None
        try:
            yield Snapshot(copy, source, source.stat().st_ino, size, check)
        except sqlite3.DatabaseError:
            # A corrupt page was read before the check came to it.
            check.require()
            raise
        finally:
            check.stop()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise _disk_full(work, source_path) from None
    finally:
        shutil.rmtree(private, ignore_errors=True)
        if made:
            # A dry run leaves the host as it was.
            with suppress(OSError):
                work.rmdir()


# Opens files with the rights that a source may be read with.
_Rights = Callable[[], AbstractContextManager[None]]


def _rights_of_owner(path: str, source: Path, users: Collection[str]) -> _Rights:
    """Return with whose rights root reads a source, which its services' users may exchange at any moment.

    :param path: as the inventory names it.
    :raises MigrationError: if the source belongs to nobody of the users.
    """
    known = set()
    for user in users:
        with suppress(KeyError):
            known.add(pwd.getpwnam(user).pw_uid)
    # Where none of them is known no service runs, and nobody of them can exchange anything: a trial on another machine.
    if not known or os.geteuid() != 0:
        return nullcontext
    owner = source.stat().st_uid
    if owner not in known:
        leads = f": it leads to {source}" if str(source) != path else ""
        raise _unusable(
            path,
            f"it belongs to user id {owner} and not to {' or '.join(users)}, who runs the service{leads}",
            "Let 'path' in estate_cutover_groups name the service's own file, and give that to the service's user",
        )
    return lambda: rights_of(owner)


def _take(source: Path, copy: Path, frozen: bool, rights: _Rights) -> None:
    """Bring all pages of one moment into the copy, by the gentlest way that works."""
    if (frozen and has_pages(Path(f"{source}-journal"))) or (not frozen and _needs_new_index(source)):
        # Opened as immutable, SQLite would not look at the journal and read half a transaction. Opened otherwise, it
        # would leave a file of ours beside that of a service that was killed.
        _copy_and_recover(source, copy, rights)
        return
    try:
        _back_up(source, copy, frozen, rights)
    except sqlite3.OperationalError as error:
        code = _result_code(error)
        recoverable = (_READ_ONLY_RECOVERY, _READ_ONLY_ROLLBACK, _READ_ONLY_CANNOT_INIT, _READ_ONLY_DIRECTORY)
        if code not in recoverable and code & 0xFF != _CANNOT_OPEN:
            raise
        _copy_and_recover(source, copy, rights)


def _back_up(source: Path, copy: Path, frozen: bool, rights: _Rights) -> None:
    """Copy all pages in one step, so that they are of one moment."""
    mode = "immutable=1" if frozen else "mode=ro"
    address = f"file:{quote(str(source))}?{mode}"
    with closing(sqlite3.connect(copy)) as writer:
        writer.execute("PRAGMA synchronous = OFF")
        # With the rights of another user no journal could be made beside the copy.
        writer.execute("PRAGMA journal_mode = OFF")
        with (
            rights(),
            closing(sqlite3.connect(address, uri=True, timeout=LOCK_TIMEOUT_SECONDS)) as reader,
        ):
            # backup() itself would wait for a busy writer for ever.
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            reader.backup(writer)
        # The copy is ours alone: no -wal beside it, and readers need no lock file.
        writer.execute("PRAGMA journal_mode = OFF")


def read_structure(
    source_path: str,
    directory: str | None = None,
    frozen: bool = False,
    rights: AbstractContextManager[None] | None = None,
) -> dict[str, list[str]]:
    """Return each table of a source with its columns, without a snapshot where SQLite can read the file in place.

    Nothing is created beside the source.

    :param directory: as in :func:`snapshot`, as is ``frozen``.
    :param rights: with whose rights the file is opened in place, ours if not given.
    :returns: by table a text for each column: its name, declared type, NOT NULL, and place in the key. What a table
        holds has no part in it.
    :raises MigrationError: if the source is missing, not SQLite, or cannot be read.
    """
    source = resolve_source(source_path)
    # Nobody writes to what is write-protected, nor but through its journal to a file that has none of its pages there.
    immutable = frozen or (_is_in_wal_mode(source) and not _size_or_zero(Path(f"{source}-wal")))
    address = f"file:{quote(str(source))}?{'immutable=1' if immutable else 'mode=ro'}"
    in_place = not (_needs_new_index(source) or (frozen and has_pages(Path(f"{source}-journal"))))
    try:
        if in_place:
            with (
                rights or nullcontext(),
                closing(sqlite3.connect(address, uri=True, timeout=LOCK_TIMEOUT_SECONDS)) as reader,
            ):
                return _structure(reader)
    except sqlite3.Error:
        # The snapshot knows each way to read it, and explains why none works.
        pass
    with snapshot(source_path, directory, frozen) as copy, closing(open_snapshot(copy.path)) as reader:
        return _structure(reader)


def _structure(reader: sqlite3.Connection) -> dict[str, list[str]]:
    """Return each table of an open source with its columns, as :func:`read_structure` does."""
    reader.text_factory = lambda data: data.decode("utf-8", "replace")
    reader.execute("BEGIN")
    rows = reader.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    ).fetchall()
    found: dict[str, list[str]] = {}
    for name, statement in sorted(rows):
        try:
            columns = reader.execute(f"PRAGMA table_xinfo({quote_name(name)})").fetchall()
        except sqlite3.Error:
            # A virtual table whose module this host does not have.
            found[name] = [str(statement)]
            continue
        found[name] = [
            " ".join(filter(None, (row[1], row[2], "NOT NULL" if row[3] else "", f"key {row[5]}" if row[5] else "")))
            for row in columns
        ]
    return found


def _is_in_wal_mode(source: Path) -> bool:
    """Return whether a source's header says that its writers use a write-ahead log."""
    with source.open("rb") as file:
        return file.read(20)[18:] == b"\2\2"


def _needs_new_index(source: Path) -> bool:
    """Return whether SQLite would have to create the ``-shm`` file to read what the write-ahead log holds."""
    return _size_or_zero(Path(f"{source}-wal")) > 0 and not Path(f"{source}-shm").exists()


def size_of_source(source_path: str) -> int:
    """Return the bytes of a source and its journals together.

    :raises MigrationError: if it is missing or no source.
    """
    source = resolve_source(source_path)
    return source.stat().st_size + sum(_size_or_zero(Path(f"{source}{suffix}")) for suffix in _JOURNALS)


def _copy_and_recover(source: Path, copy: Path, rights: _Rights) -> None:
    """Copy the file with its journals, and let SQLite roll back or replay them in the copy.

    :raises MigrationError: if somebody writes to it all the while.
    """
    for _ in range(3):
        with _read_lock(source, rights) as file:
            before = _stamps(source)
            for suffix in _JOURNALS:
                with suppress(FileNotFoundError), _opened(Path(f"{source}{suffix}"), rights) as journal:
                    _write_private(journal, Path(f"{copy}{suffix}"))
            # Through the locked file itself: closing another one of it would end the lock.
            _write_private(file, copy)
            unchanged = _stamps(source) == before
        if unchanged:
            break
        for suffix in _JOURNALS:
            Path(f"{copy}{suffix}").unlink(missing_ok=True)
    else:
        raise _unusable(str(source), "it changes all the time while it is read", "Stop its services, then run again")
    with closing(sqlite3.connect(copy)) as writer:
        writer.execute("PRAGMA synchronous = OFF")
        writer.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        writer.execute("PRAGMA journal_mode = OFF")


@contextmanager
def _read_lock(source: Path, rights: _Rights) -> Iterator[BinaryIO]:
    """Hold SQLite's own read lock on a file: until it ends, nobody else rolls back or writes pages.

    :raises MigrationError: if a writer holds the file for longer than :data:`LOCK_TIMEOUT_SECONDS`.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    with _opened(source, rights) as file:
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, _SHARED_LOCK_LENGTH, _SHARED_LOCK_START)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() > deadline:
                    raise _busy(str(source)) from None
                time.sleep(0.1)
        yield file


@contextmanager
def _opened(path: Path, rights: _Rights) -> Iterator[BinaryIO]:
    """Open a source or its journal for reading, and nothing else that may stand at its name by now.

    :raises FileNotFoundError: if there is nothing.
    :raises MigrationError: if it is not a regular file, or its user may not read it.
    """
    try:
        with rights():
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.ELOOP, errno.ENXIO):
            raise
        what, fix = f"it cannot be read: {error.strerror}", "Find out who has put it there, then run again"
        if error.errno == errno.EACCES:
            what = f"it cannot be read by its own user: {error.strerror}"
            fix = (
                "Let the service's user read it, and enter every directory above it. If another file stood there "
                "before, find out who has exchanged it. Then run again"
            )
        raise _unusable(str(path), what, fix) from None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _unusable(str(path), "it is not a regular file", "Find out who has put it there, then run again")
        yield file


def _write_private(file: BinaryIO, path: Path) -> None:
    """Write a file's bytes into a private one."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as written:
        file.seek(0)
        shutil.copyfileobj(file, written, _CHUNK_BYTES)


def _stamps(source: Path) -> list[tuple[int, int] | None]:
    """Return size and time of change of a source and of each of its journals."""
    stamps: list[tuple[int, int] | None] = []
    for suffix in ("", *_JOURNALS):
        try:
            found = Path(f"{source}{suffix}").stat()
        except FileNotFoundError:
            stamps.append(None)
        else:
            stamps.append((found.st_size, found.st_mtime_ns))
    return stamps


def has_pages(journal: Path) -> bool:
    """Return whether a rollback journal is there and was not ended by emptying it or its header."""
    try:
        descriptor = os.open(journal, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        # A symlink is no journal of SQLite's.
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            raise
        return False
    with os.fdopen(descriptor, "rb") as file:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and file.read(len(_JOURNAL_MAGIC)) == _JOURNAL_MAGIC


def _rebuild_indexes_of_unknown_collations(copy: Path) -> None:
    """Bring the indexes of collations that SQLite does not know into our stand-in's order.

    They are ordered as the service's own function orders texts. Read by another order, a lookup
    would miss rows that are there.
    """
    with closing(sqlite3.connect(copy)) as writer:
        writer.text_factory = lambda data: data.decode("utf-8", "replace")
        names = unknown_collations(writer)
        if names:
            add_missing_collations(writer)
            writer.execute("PRAGMA synchronous = OFF")
            for name in names:
                writer.execute(f"REINDEX {quote_name(name)}")
            writer.commit()


def _require_integrity(source_path: str, copy: Path) -> None:
    """Raise with SQLite's own findings if a page of the copy is corrupt, or a table cannot be read.

    SQLite does not look at CHECK constraints in a file that is opened read-only, and we need not:
    the target has its own.
    """
    with closing(open_snapshot(copy)) as connection:
        findings = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)")]
        for table in read_tables(connection):
            connection.execute(f"SELECT * FROM {quote_name(table)} LIMIT 0")  # noqa: S608 (quoted)
        collations = ", ".join(unknown_collations(connection))
    if findings != ["ok"]:
        fix = "Restore the file from a backup, or repair it with sqlite3's .recover, then run again"
        if collations:
            fix += f"; a table without row ids may also be ordered by {collations}, which only the service knows"
        raise MigrationError(
            f"The source {source_path} is corrupt.",
            [Problem(source_path, finding.replace("\n", " "), fix) for finding in findings],
        )


def _explained(source_path: str, copy: Path, error: sqlite3.Error) -> MigrationError:
    """Return the error for a source that SQLite cannot read."""
    if _result_code(error) & 0xFF in (_BUSY, _LOCKED):
        return _busy(source_path)
    function = _UNKNOWN_FUNCTION.search(str(error))
    if function is not None:
        name = function.group(1)
        return _unusable(
            source_path,
            f"{_users_of(copy, name)} needs the function {name}(), which SQLite itself does not have",
            "Drop the index or generated column that calls it in the source, then run again",
        )
    if _UNREADABLE_SCHEMA.search(str(error)) is not None:
        in_the_way = _newer_objects(source_path)
        if in_the_way:
            return _made_by_newer(source_path, in_the_way)
    return _unusable(
        source_path,
        f"SQLite cannot read it: {error}",
        "Restore the file from a backup, or repair it with sqlite3's .recover, then run again",
    )


def _newer_objects(source_path: str) -> list[tuple[str, str]]:
    """Return kind and name of what the schema holds that the SQLite of this host cannot parse."""
    address = f"file:{quote(os.path.realpath(source_path))}?mode=ro"
    found = []
    with closing(sqlite3.connect(address, uri=True)) as source, closing(sqlite3.connect(":memory:")) as scratch:
        source.text_factory = lambda data: data.decode("utf-8", "replace")
        # The schema is then read as far as it can be; nothing can be written to a file that is opened like this.
        source.execute("PRAGMA writable_schema = ON")
        for kind, name, statement in source.execute("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL"):
            try:
                scratch.execute(statement)
            except sqlite3.Error as error:
                if _SYNTAX.search(str(error)) is not None:
                    found.append((str(kind), str(name)))
    return found


def _made_by_newer(source_path: str, in_the_way: Sequence[tuple[str, str]]) -> MigrationError:
    """Return the error for a file whose schema only a newer SQLite can read."""
    with Path(source_path).open("rb") as file:
        number = int.from_bytes(file.read(100)[96:100], "big")
    writer = f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"
    named = ", ".join(f"{kind} {name}" for kind, name in in_the_way)
    what = (
        f"it is for a newer SQLite than {sqlite3.sqlite_version}, the one of this host: that cannot read the SQL of "
        f"{named} (the file was last written by SQLite {writer})"
    )
    droppable = [name for kind, name in in_the_way if kind in ("view", "trigger", "index")]
    fix = "Give this host's Python a newer SQLite"
    if len(droppable) == len(in_the_way):
        fix = f"Drop {', '.join(droppable)} in the source, for views, triggers and indexes are not moved; or g{fix[1:]}"
    return _unusable(source_path, what, fix)


def _users_of(copy: Path, function: str) -> str:
    """Return the names of the tables and indexes whose definition calls a function."""
    with closing(sqlite3.connect(f"file:{quote(str(copy))}?mode=ro", uri=True)) as connection:
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        rows = connection.execute("SELECT type, name, sql FROM sqlite_schema WHERE type IN ('table', 'index')")
        call = re.compile(rf"\b{re.escape(function)}\W*\(", re.IGNORECASE)
        users = [f"{kind} {name}" for kind, name, statement in rows if statement and call.search(statement)]
    return ", ".join(users) or "it"


def _busy(source_path: str) -> MigrationError:
    """Return the error for a source that a writer holds."""
    return _unusable(
        source_path,
        f"another process has held its write lock for {LOCK_TIMEOUT_SECONDS:.0f} seconds",
        "Wait until its long transaction ends, or stop the service, then run again",
    )


def _result_code(error: sqlite3.Error) -> int:
    """Return SQLite's extended result code, 0 if the error is none of SQLite's."""
    return int(getattr(error, "sqlite_errorcode", 0))


def require_room(source_path: str, work: Path) -> int:
    """Refuse a work directory without room for the snapshot of a source and what is made from it. Writes nothing.

    :param work: need not exist yet.
    :returns: bytes of the source and its journals together.
    :raises MigrationError: saying what is missing, or that the source is.
    """
    size = size_of_source(source_path)
    needed = size * DISK_FACTOR
    existing = next(place for place in (work, *work.absolute().parents) if place.exists())
    status = os.statvfs(existing)
    if status.f_flag & os.ST_RDONLY:
        raise _disk_full(work, source_path, "its file system is mounted read-only")
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise _disk_full(work, source_path, f"{free:,} bytes are free and {needed:,} are needed")
    # A file system without a fixed number of files says that it has none at all.
    if status.f_files and not status.f_favail:
        raise _disk_full(work, source_path, "its file system can hold no further file")
    return size


def _disk_full(work: Path, source_path: str, what: str = "the disk is full") -> MigrationError:
    """Return the error for a work directory that has no room."""
    fix = "Free some disk, or point sqlite_migrate_work_directory to a larger one"
    return MigrationError(f"Not enough disk to take a snapshot of {source_path}.", [Problem(str(work), what, fix)])


def remove_leftovers(work: Path) -> None:
    """Remove the private directories of runs that were killed."""
    for entry in work.glob("run-*"):
        pid = entry.name.split("-")[1]
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(entry, ignore_errors=True)


def _size_or_zero(path: Path) -> int:
    """Return the size of a file that may not be there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _unusable(path: str, what: str, fix: str) -> MigrationError:
    """Return the error for a source that cannot be used."""
    return MigrationError(f"The source {path} cannot be used.", [Problem(path, what, fix)])
