"""The tombstone that stands where a SQLite file was.

A tombstone is a directory: SQLite cannot open one, not even as root, and better-sqlite3 fails as soon as it
opens it. It belongs to root, holds a README, and is immutable where the file system can do that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..core.files import synchronise
from ..host import safe_paths
from ..host.safe_paths import changed

README = "README"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def opened(directory: int, name: str, finished: bool = True) -> Iterator[int | None]:
    """Give a descriptor of the tombstone of a name in an open directory, None if no tombstone of ours stands there.

    :param finished: False if one counts, too, whose making was interrupted.
    """
    tombstone = None
    with suppress(OSError):
        tombstone = os.open(name, _DIRECTORY, dir_fd=directory)
    try:
        yield tombstone if tombstone is not None and _is_ours(tombstone, finished) else None
    finally:
        if tombstone is not None:
            os.close(tombstone)


def _is_ours(directory: int, finished: bool) -> bool:
    """Return whether an open directory is a tombstone that we have made."""
    held = os.listdir(directory)
    return os.fstat(directory).st_uid == os.geteuid() and (held == [README] or (not held and not finished))


def stands(directory: int, name: str) -> bool:
    """Return whether a tombstone of ours stands at a name of an open directory."""
    with opened(directory, name) as tombstone:
        return tombstone is not None


def make(quarantine: int, place: str, readme: str) -> int:
    """Make a tombstone in the quarantine, in place of one that a killed run has left there, and return its inode."""
    remove(quarantine, place)
    os.mkdir(place, 0o755, dir_fd=quarantine)
    tombstone = os.open(place, _DIRECTORY, dir_fd=quarantine)
    try:
        # Whatever the umask is.
        os.fchmod(tombstone, 0o755)
        with os.fdopen(os.open(README, _FILE, 0o644, dir_fd=tombstone), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(readme)
            file.flush()
            synchronise(file.fileno())
        synchronise(tombstone)
        return os.fstat(tombstone).st_ino
    finally:
        os.close(tombstone)


def remove(quarantine: int, place: str) -> None:
    """Remove a tombstone from the quarantine, if there is one of ours, finished or not."""
    with opened(quarantine, place, finished=False) as tombstone:
        if tombstone is None:
            return
        safe_paths.set_immutable(tombstone, False)
        with suppress(FileNotFoundError):
            os.unlink(README, dir_fd=tombstone)
    os.rmdir(place, dir_fd=quarantine)


def guard(directory: int, name: str, path: str) -> None:
    """Make a tombstone immutable, so that the directory's owner cannot rename it away.

    :param path: its path, for errors.
    :raises Changed: if there is none.
    """
    with opened(directory, name) as tombstone:
        if tombstone is None:
            raise changed(path, "its tombstone is gone: an old program could create an empty database there")
        safe_paths.set_immutable(tombstone, True)
