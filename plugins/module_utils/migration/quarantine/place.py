"""Where a quarantine lies: on the mount of the file that goes there, in a directory that is root's alone.

A file goes into quarantine by an exchange of two names, and no name leaves its mount (EXDEV). It is never copied
there instead: a copy is another file, so nothing would prove that it is the one of the plan, that no process has it
open, or that nobody wrote to the first one before that was removed; and there would be a moment with two files or
with none. So the quarantine comes to the file: a file on another mount gets one at the top of that. Where none can
be, the plan says so before anything is done, and the file stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..core.errors import MigrationError, Problem
from ..host import safe_paths
from ..host.safe_paths import changed, identify

_AT_THE_TOP = ".sqlite-migration-quarantine"
_PROBES = ("probe-1", "probe-2")


def choose(directory: str, preferred: str) -> str:
    """Return a directory for a quarantine, from and to which a directory's entries can be renamed.

    :param directory: without symlinks on its way.
    :param preferred: taken if it is on the same mount; else one at the top of the directory's mount.
    """
    reach = _reach_of(Path(directory))
    nearest = Path(preferred)
    while not nearest.exists():
        nearest = nearest.parent
    if _reach_of(nearest) == reach:
        return preferred
    top = Path(directory)
    while top != top.parent and _reach_of(top.parent) == reach:
        top = top.parent
    return str(top / _AT_THE_TOP)


def _reach_of(path: Path) -> tuple[int, int]:
    """Return mount and device of a directory: a bind mount has another's device, a btrfs subvolume another's mount."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _reach(descriptor)
    finally:
        os.close(descriptor)


def _reach(descriptor: int) -> tuple[int, int]:
    """Return mount and device of an open directory."""
    return safe_paths.mount_of(descriptor), os.fstat(descriptor).st_dev


def shortcomings(directory: str, where: str) -> list[str]:
    """Return why a file of a directory could not go into quarantine, one sentence each; nothing is made.

    :param where: the private directory that it would get.
    """
    wrong = []
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        wrong.append("its file system is mounted read-only: nothing can be moved there")
    try:
        safe_paths.require_private(Path(where).parent)
    except MigrationError as error:
        found = "; ".join(f"{problem.where}: {problem.what}" for problem in error.problems)
        wrong.append(
            f"its file system has no place for a quarantine that is root's alone ({found}), and a file is never copied "
            "into one on another: set sqlite_cleanup_quarantine_directory to a directory of root's on that file system"
        )
    return wrong


@contextmanager
def opened(where: str) -> Iterator[int]:
    """Give a descriptor of the quarantine of one file, made if it is missing."""
    with safe_paths.private_directory(Path(where).parent), safe_paths.private_directory(where) as descriptor:
        yield descriptor


@contextmanager
def existing(where: str, inode: int | None = None) -> Iterator[int]:
    """Give a descriptor of the quarantine of one file, which must be there.

    :param inode: refuse any other directory; None if it is not known.
    :raises Changed: if it is missing, or another one.
    """
    if not is_there(where, inode):
        raise changed(where, "the quarantine is not there: is its file system mounted?")
    with safe_paths.private_directory(where, create=False) as descriptor:
        yield descriptor


def is_there(where: str, inode: int | None = None) -> bool:
    """Return whether the quarantine of one file is there."""
    try:
        found = os.lstat(where).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return False
    return inode is None or found == inode


def prepare(where: str, directory: str, inode: int, path: str) -> int:
    """Make the quarantine of one file, try in it what will be done with the file, and return its inode.

    :param directory: the file's directory, and its inode; ``path`` is the file's.
    :raises MigrationError: if a name cannot be exchanged between the two.
    """
    with opened(where) as quarantine:
        with safe_paths.open_directory(directory, inode) as source:
            require_reach(source, quarantine, path, where)
        _remove_probes(quarantine)
        try:
            inodes = []
            for probe in _PROBES:
                os.mkdir(probe, 0o700, dir_fd=quarantine)
                inodes.append(os.stat(probe, dir_fd=quarantine, follow_symlinks=False).st_ino)
            safe_paths.exchange(quarantine, _PROBES[0], quarantine, _PROBES[1])
            found = [identify(quarantine, probe) for probe in _PROBES]
            if [entry.inode for entry in found if entry is not None] != inodes[::-1]:
                raise impossible(path, "its file system does not exchange two names when told so")
        except OSError as error:
            raise impossible(path, f"its file system cannot exchange two names: {error.strerror}") from None
        finally:
            _remove_probes(quarantine)
        return os.fstat(quarantine).st_ino


def _remove_probes(quarantine: int) -> None:
    """Remove what a probe has left."""
    for probe in _PROBES:
        with suppress(FileNotFoundError):
            os.rmdir(probe, dir_fd=quarantine)


def require_reach(directory: int, quarantine: int, path: str, where: str) -> None:
    """Raise if an entry of an open directory cannot be renamed into the quarantine: it is on another mount."""
    if _reach(directory) != _reach(quarantine):
        raise impossible(path, f"{where} is not on its file system")


def remove(where: str) -> None:
    """Remove the directory of one file if it is empty, and the quarantine itself if it was the last."""
    path = Path(where)
    with suppress(OSError, MigrationError), safe_paths.private_directory(path, create=False) as descriptor:
        _remove_probes(descriptor)
    for directory in (path, path.parent):
        with (
            suppress(OSError, MigrationError),
            safe_paths.private_directory(directory.parent, create=False, secret=False) as parent,
        ):
            os.rmdir(directory.name, dir_fd=parent)


def impossible(path: str, what: str) -> MigrationError:
    """Return the error for a file system on which a quarantine cannot be."""
    fix = "Set sqlite_cleanup_quarantine_directory to a directory of root's on the same file system"
    return MigrationError(f"{path} cannot be moved into quarantine.", [Problem(path, what, fix)])
