"""SQLite files by their names: what stands at a path, and a bounded search of directories.

The directories belong to the services' users, who may put anything into them at any moment. A service's directory is
looked into with the rights of the service's user. Every directory is walked by descriptors and through no symlink;
where root finds a symlink, it looks with the rights of the symlink's owner. Only a regular file is ever opened.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from ..core.rights import rights_of
from ..host import safe_paths
from ..host.open_files import SQLITE_HEADER

# Device and inode.
Inode = tuple[int, int]

# How the kernel writes a space, for example, in the name of a mount point.
_OCTAL = re.compile(rb"\\([0-7]{3})")
# How an empty file is known for a database that nothing was written to.
_NAMES = (".db", ".db3", ".sqlite", ".sqlite3")


@dataclass(frozen=True)
class Limits:
    """How far a search goes.

    :param depth: directories below the one that the search begins in.
    :param entries: files and directories that are looked at below it.
    :param skipped: names of directories that are not entered.
    :param left_out: patterns of paths, as those of a shell, that are no application's data.
    """

    depth: int = 6
    entries: int = 20_000
    skipped: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()

    def leaves_out(self, path: str) -> bool:
        """Return whether a path is no application's data."""
        return any(fnmatch.fnmatch(path, pattern) for pattern in self.left_out)


@dataclass(frozen=True)
class Database:
    """One SQLite file.

    :param path: its own path, symlinks resolved.
    :param size: bytes of the file; one without any is no database yet.
    :param log: bytes of the ``-wal`` beside it.
    :param owner: id of the user that it belongs to.
    :param links: how many names (hard links) it has.
    """

    inode: Inode
    path: str
    size: int
    log: int
    owner: int
    links: int


@dataclass
class Found:
    """What a search has found.

    :param databases: by device and inode.
    :param aliases: device and inode → paths of symlinks that lead there.
    :param unfinished: directory → which limit has ended the search there.
    """

    databases: dict[Inode, Database] = field(default_factory=dict)
    aliases: dict[Inode, set[str]] = field(default_factory=dict)
    unfinished: dict[str, str] = field(default_factory=dict)

    def add(self, database: Database, name: str = "") -> None:
        """Take a database in, and the name that has led to it where that is another than its path."""
        self.databases.setdefault(database.inode, database)
        if name and name != self.databases[database.inode].path:
            self.aliases.setdefault(database.inode, set()).add(name)


def is_text(name: str) -> bool:
    """Return whether a name can stand in an inventory: it is UTF-8, and no NUL is in it."""
    return "\x00" not in name and told(name) == name


def told(name: str) -> str:
    """Return a name as it is shown: with ``?`` for what is not UTF-8."""
    return name.encode("utf-8", "replace").decode("utf-8")


def look(path: str, directory: int | None = None, follow: bool = True) -> Database | None:
    """Return the SQLite file at a path, with the rights that this process has at the moment; None if there is none.

    :param directory: descriptor of the directory that a relative path begins at.
    """
    try:
        with safe_paths.regular_file(path, directory, follow) as descriptor:
            return _database(descriptor)
    except OSError:
        return None


def _database(descriptor: int) -> Database | None:
    """Return the SQLite file that is open, None if it is none."""
    path = os.readlink(safe_paths.through(descriptor))
    beginning = os.pread(descriptor, len(SQLITE_HEADER), 0)
    if beginning != SQLITE_HEADER and (beginning or not path.endswith(_NAMES)):
        return None
    info = os.fstat(descriptor)
    log = 0
    with suppress(OSError):
        log = os.lstat(f"{path}-wal").st_size
    return Database((info.st_dev, info.st_ino), path, info.st_size, log, info.st_uid, info.st_nlink)


def search(places: Iterable[tuple[str, int]], limits: Limits) -> Found:
    """Return what stands in directories and below them, in their own file systems.

    :param places: each directory, and the id of the user with whose rights it is looked into.
    """
    found = Found()
    mounts = _mount_points()
    for directory, uid in sorted(set(places)):
        # A name that no file can have is a ValueError.
        with suppress(OSError, ValueError), rights_of(uid):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                path = os.readlink(safe_paths.through(descriptor))
                _Search(path, uid, limits, mounts, found).look_into(descriptor, path, limits.depth)
            finally:
                os.close(descriptor)
    return found


class _Search:
    """The search of one directory.

    :param begun: the directory.
    :param uid: the user with whose rights it is looked into.
    :param mounts: where other file systems begin.
    """

    def __init__(self, begun: str, uid: int, limits: Limits, mounts: frozenset[str], found: Found) -> None:
        self.begun, self.limits, self.mounts, self.found = begun, limits, mounts, found
        self.has_own_rights = uid == os.geteuid()
        self.looked_at = 0

    def look_into(self, descriptor: int, path: str, depth: int) -> bool:
        """Look into an open directory, and return whether the search may go on.

        :param depth: how many directories below it are entered.
        """
        with os.scandir(descriptor) as entries:
            for entry in entries:
                self.looked_at += 1
                if self.looked_at > self.limits.entries:
                    self.found.unfinished[self.begun] = f"{self.limits.entries:,} entries"
                    return False
                name = f"{path.rstrip('/')}/{entry.name}"
                if self.limits.leaves_out(name) or name in self.mounts:
                    continue
                if entry.is_symlink():
                    self._follow(descriptor, entry.name, name)
                elif entry.is_dir(follow_symlinks=False):
                    if entry.name not in self.limits.skipped and not self._enter(descriptor, entry.name, name, depth):
                        return False
                elif entry.is_file(follow_symlinks=False):
                    database = look(entry.name, descriptor, follow=False)
                    if database is not None:
                        self.found.add(database)
        return True

    def _enter(self, outer: int, entry: str, name: str, depth: int) -> bool:
        """Look into a directory of an open one, and return whether the search may go on."""
        if not depth:
            self.found.unfinished.setdefault(self.begun, f"depth {self.limits.depth}")
            return True
        try:
            descriptor = os.open(entry, safe_paths.DIRECTORY, dir_fd=outer)
        except OSError:
            # It is gone, a symlink by now, or not for this user to see.
            return True
        try:
            return self.look_into(descriptor, name, depth - 1)
        finally:
            os.close(descriptor)

    def _follow(self, directory: int, entry: str, name: str) -> None:
        """Look where a symlink leads; as root only with the rights of its owner."""
        with suppress(OSError), ExitStack() as rights:
            if self.has_own_rights:
                rights.enter_context(rights_of(os.lstat(entry, dir_fd=directory).st_uid))
            database = look(entry, directory)
            if database is not None and not self.limits.leaves_out(database.path):
                self.found.add(database, name)


def _mount_points() -> frozenset[str]:
    """Return where other file systems begin: they are not asked for anything, for their server may never answer."""
    with open("/proc/self/mountinfo", "rb") as file:
        return mount_points_in(file)


def mount_points_in(lines: Iterable[bytes]) -> frozenset[str]:
    """Return the mount points that lines of ``mountinfo`` name."""
    names = (_OCTAL.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), line.split()[4]) for line in lines)
    return frozenset(map(os.fsdecode, names))
