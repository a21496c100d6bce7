"""A private, consistent copy of one source, made by SQLite's own backup interface.

Rows may live in the ``-wal`` file alone, so the file itself is never copied. Symlinks are
resolved first: a source is known by its inode.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from .errors import MigrationError, Problem

WORK_DIRECTORY = "/var/lib/sqlite-migration"
SQLITE_HEADER = b"SQLite format 3\x00"
# The snapshot, and the spooled COPY data made from it, with room to spare.
DISK_FACTOR = 3
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Snapshot:
    """A private copy of a source.

    :param path: the copy, mode 0600, in a directory of mode 0700 that vanishes with it.
    :param source_path: the file it was made from, symlinks resolved.
    :param inode: inode number of that file.
    :param size_bytes: size of the file and its ``-wal`` together.
    """

    path: Path
    source_path: Path
    inode: int
    size_bytes: int

    @property
    def directory(self) -> Path:
        """Return the private directory, for other files that must not outlive the snapshot."""
        return self.path.parent


def resolve_source(path: str) -> Path:
    """Return the source file behind ``path``, after checking that it can be a source at all.

    :raises MigrationError: if it is missing, not a regular file, or not an SQLite database.
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
    with resolved.open("rb") as file:
        header = file.read(len(SQLITE_HEADER))
    if header and header != SQLITE_HEADER:
        raise _unusable(
            path,
            "it is not an SQLite database: its first 16 bytes are not SQLite's header",
            "Correct 'path' in estate_cutover_groups; an encrypted file must be decrypted first",
        )
    return resolved


@contextmanager
def snapshot(source_path: str, directory: str | None = None, frozen: bool = False) -> Iterator[Snapshot]:
    """Take a snapshot of a source and remove it at the end, whatever happens.

    The source is opened read-only: its bytes stay as they are, and a live writer is not disturbed.

    :param directory: where private files go; :data:`WORK_DIRECTORY` if not given.
    :param frozen: the source is fenced and checkpointed, so nothing may be created beside it.
    :raises MigrationError: if the source is missing, not SQLite, corrupt, or the disk is too full.
    """
    source = resolve_source(source_path)
    work = Path(directory or WORK_DIRECTORY)
    made = not work.exists()
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_leftovers(work)
    size = source.stat().st_size + _size_or_zero(Path(f"{source}-wal"))
    _require_disk(work, size, source_path)
    private = work / f"run-{os.getpid()}-{source.stat().st_ino}"
    private.mkdir(mode=0o700)
    try:
        copy = private / "snapshot.db"
        os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            _back_up(source, copy, frozen)
            _require_integrity(source_path, copy)
        except sqlite3.Error as error:
            if "disk is full" in str(error):
                raise _disk_full(work, source_path) from None
            raise _unusable(
                source_path,
                f"SQLite cannot read it: {error}",
                "Restore the file from a backup, or repair it with sqlite3's .recover, then run again",
            ) from None
        yield Snapshot(copy, source, source.stat().st_ino, size)
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


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    :raises OSError: if it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
        # Reading must not push the database's own pages out of memory.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return digest.hexdigest()


def _back_up(source: Path, copy: Path, frozen: bool) -> None:
    """Copy all pages in one step, so that they are of one moment."""
    mode = "immutable=1" if frozen else "mode=ro"
    with (
        closing(sqlite3.connect(f"file:{quote(str(source))}?{mode}", uri=True, timeout=30)) as reader,
        closing(sqlite3.connect(copy)) as writer,
    ):
        writer.execute("PRAGMA synchronous = OFF")
        reader.backup(writer)
        # The copy is ours alone: no -wal beside it, and readers need no lock file.
        writer.execute("PRAGMA journal_mode = OFF")


def _require_integrity(source_path: str, copy: Path) -> None:
    """Raise with SQLite's own findings if a page of the copy is corrupt."""
    with closing(sqlite3.connect(f"file:{quote(str(copy))}?mode=ro", uri=True)) as connection:
        findings = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)")]
    if findings != ["ok"]:
        raise MigrationError(
            f"The source {source_path} is corrupt.",
            [
                Problem(
                    source_path,
                    finding.replace("\n", " "),
                    "Restore the file from a backup, or repair it with sqlite3's .recover, then run again",
                )
                for finding in findings
            ],
        )


def _require_disk(work: Path, size: int, source_path: str) -> None:
    """Raise if the work directory has no room for the snapshot and what is made from it."""
    needed = size * DISK_FACTOR
    free = shutil.disk_usage(work).free
    if free < needed:
        raise _disk_full(work, source_path, f"{free:,} bytes are free and {needed:,} are needed")


def _disk_full(work: Path, source_path: str, what: str = "the disk is full") -> MigrationError:
    """Return the error for a work directory that has no room."""
    fix = "Free some disk, or point sqlite_migrate_work_directory to a larger one"
    return MigrationError(f"Not enough disk to take a snapshot of {source_path}.", [Problem(str(work), what, fix)])


def _remove_leftovers(work: Path) -> None:
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
