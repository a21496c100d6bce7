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
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import MigrationError, Problem
from . import write_protection

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a fifo in the place of a file must not hold us up.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# From linux/fs.h.
_NO_REPLACE, _EXCHANGE = 1, 2
_CHUNK_BYTES = 1 << 20
_CANNOT_SYNCHRONISE = (errno.EINVAL, errno.EOPNOTSUPP, errno.EROFS)


class Changed(MigrationError):
    """A file or directory is not the one that the plan named."""


def changed(path: str | Path, what: str) -> Changed:
    """Return the error for a path at which something else stands than the plan names."""
    return Changed(
        f"{path} is not what the plan names.",
        [Problem(str(path), what, "Find out who changed it; then make a new plan: playbooks/6_cleanup.yml")],
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
    descriptor = os.open("/", _DIRECTORY)
    try:
        for component in components:
            try:
                inner = os.open(component, _DIRECTORY, dir_fd=descriptor)
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
    descriptor = os.open("/", _DIRECTORY)
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
    descriptor = os.open("/", _DIRECTORY)
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
        inner = os.open(component, _DIRECTORY, dir_fd=outer)
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


def sha256_of(descriptor: int) -> str:
    """Return the SHA-256 of an open file in hexadecimal."""
    digest = hashlib.sha256()
    offset = 0
    while chunk := os.pread(descriptor, _CHUNK_BYTES, offset):
        digest.update(chunk)
        offset += len(chunk)
    return digest.hexdigest()


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
    return write_protection.is_immutable(through(descriptor))


def is_fenced(descriptor: int) -> bool:
    """Return whether an open file has a fence of either kind."""
    return write_protection.is_fenced(through(descriptor))


def set_immutable(descriptor: int, wanted: bool) -> bool:
    """Set or clear the attribute "immutable" and return whether that was possible."""
    return write_protection.set_immutable(through(descriptor), wanted)


def through(descriptor: int) -> str:
    """Return a path that leads to an open file itself, whatever its name is by now."""
    return f"/proc/self/fd/{descriptor}"


def mount_of(descriptor: int) -> int:
    """Return the number of the mount that an open file was reached through: a rename cannot leave it.

    It is 0 where the kernel does not tell.
    """
    text = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii")
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("mnt_id:")), 0)


def synchronise(descriptor: int) -> None:
    """Bring an open file or directory to the disk; some file systems cannot do so for a directory.

    :raises OSError: if the disk fails.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNCHRONISE:
            raise
