"""The write protection of a frozen SQLite file: nobody writes to it, not even root, where the file system can do that.

The attribute "immutable" (``chattr +i``) stops everybody. Where the file system has no such attribute, or this process
may not set it, the file becomes read-only for its owner (mode 0400). Either way nobody but its owner may read it,
because it still holds every secret. With the attribute the owner's bits stay, so that its loss can be seen.

A file is given as a descriptor that was opened and checked (see :mod:`.host.safe_paths`), since its owner could
let the name lead to another file. A path is only for a directory that nobody else may change, and never
follows a symlink at its end.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# From linux/fs.h: read and write the attributes of a file, and the attribute that chattr calls "i".
_GET_FLAGS = 0x80086601
_SET_FLAGS = 0x40086602
_IMMUTABLE = 0x00000010
_NOT_POSSIBLE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM, errno.EINVAL, errno.ENOSYS)

IMMUTABLE = "immutable"
READ_ONLY = "read_only"
_OWNER = 0o700
_READ_ONLY_MODE = 0o400
# Files that an earlier version has protected.
_READ_ONLY_MODES = (_READ_ONLY_MODE, 0o444)
# What a protected file gets whose former mode nobody knows: it opens to nobody who could not read it.
_MODES_WITHOUT_RECORD = {_READ_ONLY_MODE: 0o600, 0o444: 0o644}


File = int | str | Path


def describe(file: File) -> dict[str, Any]:
    """Return what has to be known to take the write protection away again: to be recorded before it is set."""
    with _open(file) as descriptor:
        return {"mode": f"{stat.S_IMODE(os.fstat(descriptor).st_mode):04o}"}


def protect(file: File) -> str:
    """Set the write protection and return its kind: ``immutable`` or ``read_only``."""
    with _open(file) as descriptor:
        if is_immutable(descriptor):
            return IMMUTABLE
        # The mode of an immutable file cannot be changed. What is right is left alone: its times tell of a touch.
        found = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if found not in (*_READ_ONLY_MODES, found & _OWNER):
            os.fchmod(descriptor, found & _OWNER)
        if set_immutable(descriptor, True):
            return IMMUTABLE
        if found not in _READ_ONLY_MODES:
            os.fchmod(descriptor, _READ_ONLY_MODE)
        return READ_ONLY


def unprotect(file: File, described: dict[str, Any]) -> None:
    """Take the write protection away, whichever kind it is; without one nothing happens.

    :param described: what :func:`describe` returned before it was set. Without it only a mode that the protection gives
        is changed: any other may be the file's own.
    """
    with _open(file) as descriptor:
        set_immutable(descriptor, False)
        found = stat.S_IMODE(os.fstat(descriptor).st_mode)
        ours: tuple[int, ...] = _READ_ONLY_MODES
        mode = _MODES_WITHOUT_RECORD.get(found, found)
        if "mode" in described:
            mode = int(described["mode"], 8)
            ours += (mode & _OWNER,)
        if found in ours and found != mode:
            os.fchmod(descriptor, mode)


def is_protected(file: File) -> bool:
    """Return whether the file is write-protected in either way."""
    with _open(file) as descriptor:
        return is_immutable(descriptor) or stat.S_IMODE(os.fstat(descriptor).st_mode) in _READ_ONLY_MODES


def is_immutable(file: File) -> bool:
    """Return whether the file has the attribute; False where there is none."""
    with _open(file) as descriptor:
        try:
            return bool(_read_flags(descriptor) & _IMMUTABLE)
        except OSError as error:
            if error.errno not in _NOT_POSSIBLE:
                raise
            return False


def set_immutable(file: File, wanted: bool) -> bool:
    """Set or clear the attribute and return whether that was possible."""
    with _open(file) as descriptor:
        try:
            flags = _read_flags(descriptor)
            new = flags | _IMMUTABLE if wanted else flags & ~_IMMUTABLE
            if new != flags:
                fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("l", new))
            return True
        except OSError as error:
            if error.errno not in _NOT_POSSIBLE:
                raise
            return False


@contextmanager
def _open(file: File) -> Iterator[int]:
    """Give the descriptor of a file, which is closed at the end if it was opened here."""
    if isinstance(file, int):
        yield file
        return
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read_flags(descriptor: int) -> int:
    """Return the attributes of an open file."""
    raw = fcntl.ioctl(descriptor, _GET_FLAGS, struct.pack("l", 0))
    return int(struct.unpack("l", raw)[0])
