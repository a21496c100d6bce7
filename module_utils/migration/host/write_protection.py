"""The fence around a frozen SQLite file: nobody writes to it, not even root, where the file system can do that.

The attribute "immutable" (``chattr +i``) stops everybody. Where the file system has no such
attribute, or this process may not set it, the file becomes read-only for its owner (mode 0444).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from pathlib import Path
from typing import Any

# From linux/fs.h: read and write the attributes of a file, and the attribute that chattr calls "i".
_GET_FLAGS = 0x80086601
_SET_FLAGS = 0x40086602
_IMMUTABLE = 0x00000010
_NOT_POSSIBLE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM, errno.EINVAL, errno.ENOSYS)

IMMUTABLE = "immutable"
READ_ONLY = "read_only"
_READ_ONLY_MODE = 0o444


def describe(path: str | Path) -> dict[str, Any]:
    """Return what has to be known to take the fence away again: to be recorded before it is put up."""
    return {"mode": f"{stat.S_IMODE(os.stat(path).st_mode):04o}"}


def raise_fence(path: str | Path) -> str:
    """Put up the fence and return its kind: ``immutable`` or ``read_only``."""
    if set_immutable(path, True):
        return IMMUTABLE
    os.chmod(os.path.realpath(path), _READ_ONLY_MODE)
    return READ_ONLY


def remove_fence(path: str | Path, described: dict[str, Any]) -> None:
    """Take the fence away, whichever kind it is; without a fence nothing happens.

    :param described: what :func:`describe` returned before the fence was put up.
    """
    set_immutable(path, False)
    mode = int(described.get("mode", "0644"), 8)
    if stat.S_IMODE(os.stat(path).st_mode) == _READ_ONLY_MODE and mode != _READ_ONLY_MODE:
        os.chmod(os.path.realpath(path), mode)


def is_fenced(path: str | Path) -> bool:
    """Return whether the file has a fence of either kind."""
    return is_immutable(path) or stat.S_IMODE(os.stat(path).st_mode) == _READ_ONLY_MODE


def is_immutable(path: str | Path) -> bool:
    """Return whether the file has the attribute; False where there is none."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return bool(_read_flags(descriptor) & _IMMUTABLE)
    except OSError as error:
        if error.errno not in _NOT_POSSIBLE:
            raise
        return False
    finally:
        os.close(descriptor)


def set_immutable(path: str | Path, wanted: bool) -> bool:
    """Set or clear the attribute and return whether that was possible."""
    descriptor = os.open(path, os.O_RDONLY)
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
    finally:
        os.close(descriptor)


def _read_flags(descriptor: int) -> int:
    """Return the attributes of an open file."""
    raw = fcntl.ioctl(descriptor, _GET_FLAGS, struct.pack("l", 0))
    return int(struct.unpack("l", raw)[0])
