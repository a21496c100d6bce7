"""Files in directories that somebody else may change at any moment, handled without ever following a name twice.

Root cleans up in directories of the services' users, who may replace a file, a directory or a symlink
between two steps of ours. So a directory is opened once, component by component and never through a
symlink; from then on only its descriptor is used, every entry is known by its inode, and what a move
has really moved is looked at afterwards and put back if it is another file.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import pwd
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..core.commands import playbook
from ..core.errors import MigrationError, Problem
from ..core.files import synchronise
from ..core.rights import files_as
from . import write_protection

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a fifo in the place of a file must not hold us up.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# From linux/fs.h.
_NO_REPLACE, _EXCHANGE = 1, 2
_CHUNK_BYTES = 1 << 20


class Changed(MigrationError):
    """A file or directory is not the one that the plan named."""


def changed(path: str | Path, what: str) -> Changed:
    """Return the error for a path at which something else stands than the plan names."""
    return Changed(
        f"{path} is not what the plan names.",
        [Problem(str(path), what, f"Find out who changed it; then make a new plan: {playbook('6_cleanup')}")],
    )


@dataclass(frozen=True)
class Identity:
    """What an entry of a directory is. Devices have other numbers after a boot, so they are only compared in a run.

    :param kind: ``file``, ``symlink``, ``directory`` or ``other``.
    """

    kind: str
    device: int
    inode: int
    size: int
    links: int
    owner: int
    target: str = ""


@contextmanager
def open_directory(path: str | Path, inode: int | None = None) -> Iterator[int]:
    """Open an absolute directory from ``/`` on, through no symlink and no ``..``, and give its descriptor.

    :param inode: refuse any other directory.
    :raises Changed: if a component is missing, a symlink or no directory, or the inode is another.
    """
    components = _components(path)
    descriptor = os.open("/", DIRECTORY)
    try:
        for component in components:
            try:
                inner = os.open(component, DIRECTORY, dir_fd=descriptor)
            except OSError as error:
                raise changed(path, f"{component} on its way is no directory any more: {error.strerror}") from None
            os.close(descriptor)
            descriptor = inner
        if inode is not None and os.fstat(descriptor).st_ino != inode:
            raise changed(path, "another directory stands at this path")
        yield descriptor
    finally:
        os.close(descriptor)


def _components(path: str | Path) -> list[str]:
    """Return the names on the way from ``/`` to a path.

    :raises Changed: if the path is relative or holds ``..``.
    """
    parts = str(path).split("/")
    if parts[0] or ".." in parts or not str(path).startswith("/"):
        raise changed(path, "it is no absolute path free of '..'")
    return [part for part in parts if part not in ("", ".")]


@contextmanager
def private_directory(path: str | Path, create: bool = True, secret: bool = True) -> Iterator[int]:
    """Open a directory that is ours alone (mode 0700), making what is missing, and give its descriptor.

    :param secret: False if others may look into it, though not change it.
    :raises MigrationError: if somebody else could exchange it, or look into it.
    """
    components = _components(path)
    descriptor = os.open("/", DIRECTORY)
    try:
        for number, component in enumerate(components, 1):
            last = number == len(components)
            if create:
                with suppress(FileExistsError):
                    os.mkdir(component, 0o700 if last else 0o755, dir_fd=descriptor)
                    synchronise(descriptor)
            try:
                inner = _open_own(descriptor, path, component, secret and last)
            except FileNotFoundError as error:
                raise _not_private(path, f"{component} on its way cannot be used: {error.strerror}") from None
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def require_private(path: str | Path, secret: bool = True) -> None:
    """Raise unless :func:`private_directory` could open a directory, or make it; nothing is made.

    :raises MigrationError: if somebody else could exchange it, or look into it.
    """
    components = _components(path)
    descriptor = os.open("/", DIRECTORY)
    try:
        for number, component in enumerate(components, 1):
            try:
                inner = _open_own(descriptor, path, component, secret and number == len(components))
            except FileNotFoundError:
                return
            os.close(descriptor)
            descriptor = inner
    finally:
        os.close(descriptor)


def _open_own(outer: int, path: str | Path, component: str, secret: bool) -> int:
    """Return a descriptor of a directory in an open one, which must be ours.

    :raises FileNotFoundError: if it is missing.
    :raises MigrationError: if it is no directory, or somebody else may change it.
    """
    try:
        inner = os.open(component, DIRECTORY, dir_fd=outer)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _not_private(path, f"{component} on its way cannot be used: {error.strerror}") from None
    try:
        _require_own(inner, path, component, secret)
    except BaseException:
        os.close(inner)
        raise
    return inner


def _require_own(descriptor: int, path: str | Path, component: str, secret: bool) -> None:
    """Raise if somebody else may change a directory, or look into a secret one."""
    status = os.fstat(descriptor)
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    if status.st_uid not in (0, os.geteuid()) or shared:
        raise _not_private(path, f"{component} on its way may be changed by somebody else")
    if secret and status.st_mode & 0o077:
        raise _not_private(path, f"its mode is {stat.S_IMODE(status.st_mode):04o}, not 0700")


def _not_private(path: str | Path, what: str) -> MigrationError:
    """Return the error for a directory that is not ours alone."""
    fix = "Name a directory whose whole path belongs to root and that root alone may write to"
    return MigrationError(f"{path} is not root's alone.", [Problem(str(path), what, fix)])


# ---------------------------------------------------------------- entries


def identify(directory: int, name: str) -> Identity | None:
    """Return what an entry of an open directory is, None if there is none. A symlink is never followed."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        target = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(status.st_mode) else ""
    except FileNotFoundError:
        return None
    except OSError as error:
        # It was a symlink a moment ago.
        if error.errno != errno.EINVAL:
            raise
        return None
    kinds = ((stat.S_ISREG, "file"), (stat.S_ISLNK, "symlink"), (stat.S_ISDIR, "directory"))
    kind = next((kind for test, kind in kinds if test(status.st_mode)), "other")
    return Identity(kind, status.st_dev, status.st_ino, status.st_size, status.st_nlink, status.st_uid, target)


@contextmanager
def open_file(directory: int, name: str, path: str | Path, inode: int | None = None) -> Iterator[int]:
    """Open a regular file of an open directory for reading, and give its descriptor.

    :param path: its path, for errors.
    :raises Changed: if there is none, it is no regular file, or its inode is another.
    """
    try:
        descriptor = os.open(name, _FILE, dir_fd=directory)
    except OSError as error:
        raise changed(path, f"it cannot be opened: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise changed(path, "it is no regular file")
        if inode is not None and status.st_ino != inode:
            raise changed(path, "another file stands at this path")
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def regular_file(path: str | Path, directory: int | None = None, follow: bool = True) -> Iterator[int]:
    """Open a regular file for reading, and give its descriptor. Nothing else is ever opened, whatever stands there.

    :param directory: descriptor of the directory that a relative path begins at.
    :param follow: whether symlinks are followed, which the rights of their owner have to bound, see :func:`rights_of`.
    :raises OSError: if there is none, or it may not be read.
    """
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    place = os.open(path, flags, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise FileNotFoundError(errno.ENOENT, "it is no regular file", str(path))
        # The file itself, not its name once more.
        descriptor = os.open(through(place), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(place)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def copy_to(descriptor: int, copy: Path) -> str:
    """Copy an open file into a new private one (mode 0600), and return the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    offset = 0
    with os.fdopen(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as writer:
        while chunk := os.pread(descriptor, _CHUNK_BYTES, offset):
            digest.update(chunk)
            writer.write(chunk)
            offset += len(chunk)
    return digest.hexdigest()


# ---------------------------------------------------------------- files of the services' users


@dataclass(frozen=True)
class Opened:
    """A file of a service's user, opened through no symlink.

    :param path: its path, symlinks resolved, for errors and for programs that run as its owner.
    :param directory: descriptor of the directory that holds it.
    :param name: its name there.
    :param descriptor: the file itself, open for reading.
    """

    path: Path
    directory: int
    name: str
    descriptor: int

    @property
    def status(self) -> os.stat_result:
        """Return what the open file is now."""
        return os.fstat(self.descriptor)

    def require_same(self) -> None:
        """Refuse to go on if the name leads to another file than the open one.

        :raises MigrationError: if somebody has exchanged it since it was opened.
        """
        found, ours = identify(self.directory, self.name), self.status
        if found is None or (found.device, found.inode) != (ours.st_dev, ours.st_ino):
            raise refused(
                self.path,
                "somebody has exchanged it while it was being worked on",
                "Find out who did, put the service's own file back, then run again",
            )


def refused(path: str | Path, what: str, fix: str) -> MigrationError:
    """Return the error for a file that is not used because somebody could lead us to another one by it."""
    return MigrationError(f"The file {path} cannot be used.", [Problem(str(path), what, fix)])


@contextmanager
def open_owned(
    path: str | Path, users: Collection[str] | None, inode: int | None = None, links: int | None = 1
) -> Iterator[Opened]:
    """Open a file of a service's user, which that user may exchange for anything else at any moment.

    Symlinks are resolved once; the way that this gives is then walked without following any.

    :param users: who may own the file; empty for the user that this process runs as; None for anybody, where
        the file is only looked at.
    :param inode: refuse any other file.
    :param links: how many names (hard links) the file may have; None for any number.
    :raises FileNotFoundError: if there is no such file.
    :raises MigrationError: if it is no regular file, belongs to somebody else, has a further name, or is being
        exchanged.
    """
    resolved = Path(os.path.realpath(path))
    if not os.path.lexists(resolved):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with (
        refusing_exchanges(path),
        open_directory(resolved.parent) as directory,
        open_file(directory, resolved.name, resolved, inode) as descriptor,
    ):
        if users is not None:
            _require_owner(path, resolved, os.fstat(descriptor), users)
        found = os.fstat(descriptor).st_nlink
        if links is not None and found > links:
            what = f"it has {found} names (hard links), so another file could be changed through it"
            fix = f"See which they are (find / -xdev -samefile {resolved}); give the service a file of its own"
            raise refused(path, what, fix)
        yield Opened(resolved, directory, resolved.name, descriptor)


@contextmanager
def refusing_exchanges(path: str | Path) -> Iterator[None]:
    """Say of what turns out to be exchanged that the file cannot be used, where no plan of a cleanup is at work.

    :raises MigrationError: instead of :class:`Changed`.
    """
    try:
        yield
    except Changed as error:
        fix = "Find out who changes it, then run again"
        raise refused(path, error.problems[0].what, fix) from None


def _require_owner(path: str | Path, resolved: Path, status: os.stat_result, users: Collection[str]) -> None:
    """Raise unless a file belongs to one of the users, or to us if none is named."""
    owners = set() if users else {os.geteuid()}
    for user in users:
        with suppress(KeyError):
            owners.add(pwd.getpwnam(user).pw_uid)
    if status.st_uid in owners:
        return
    names = " or ".join(users) or "the user who runs this"
    what = f"it belongs to user id {status.st_uid} and not to {names}{', who runs the service' if users else ''}"
    if str(path) != str(resolved):
        raise refused(path, f"{what}: it leads to {resolved}", "Let this name lead to the service's own file")
    fix = "Name its owner as 'owner' of the source in estate_cutover_groups, which no service of the group tells"
    if users:
        fix = f"If it is the service's own file, run: chown --no-dereference {next(iter(users))} {resolved}"
    raise refused(path, what, fix)


@contextmanager
def files_as_owner(status: os.stat_result) -> Iterator[None]:
    """Open files with the rights of a file's owner for a moment; with our own if they are the same.

    :param status: of the file, from its open descriptor.
    """
    if status.st_uid == os.geteuid():
        yield
        return
    account = pwd.getpwuid(status.st_uid)
    with files_as(status.st_uid, account.pw_gid, os.getgrouplist(account.pw_name, account.pw_gid)):
        yield


# ---------------------------------------------------------------- moves


def exchange(from_directory: int, from_name: str, to_directory: int, to_name: str) -> None:
    """Let two entries change places in one step, so that neither name is ever free.

    :raises OSError: if one of them is not there, or the file system cannot do it.
    """
    _rename(from_directory, from_name, to_directory, to_name, _EXCHANGE)


def move(from_directory: int, from_name: str, to_directory: int, to_name: str) -> None:
    """Rename an entry, and never over another one.

    :raises FileExistsError: if there is an entry of the new name.
    """
    _rename(from_directory, from_name, to_directory, to_name, _NO_REPLACE)


def _rename(from_directory: int, from_name: str, to_directory: int, to_name: str, flags: int) -> None:
    """Call renameat2, which Python does not have."""
    for name in (from_name, to_name):
        if "/" in name or name in ("", ".", ".."):
            raise ValueError(f"{name!r} is no name of an entry")
    library = ctypes.CDLL(None, use_errno=True)
    if library.renameat2(from_directory, os.fsencode(from_name), to_directory, os.fsencode(to_name), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), from_name)


def is_immutable(descriptor: int) -> bool:
    """Return whether an open file or directory has the attribute "immutable"."""
    return write_protection.is_immutable(descriptor)


def is_protected(descriptor: int) -> bool:
    """Return whether an open file is write-protected in either way."""
    return write_protection.is_protected(descriptor)


def set_immutable(descriptor: int, wanted: bool) -> bool:
    """Set or clear the attribute "immutable" and return whether that was possible."""
    return write_protection.set_immutable(descriptor, wanted)


def through(descriptor: int) -> str:
    """Return a path that leads to an open file itself, whatever its name is by now."""
    return f"/proc/self/fd/{descriptor}"


def mount_of(descriptor: int) -> int:
    """Return the number of the mount that an open file was reached through: a rename cannot leave it.

    It is 0 where the kernel does not tell.
    """
    text = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii")
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("mnt_id:")), 0)
