"""Files opened with the rights of another user.

The kernel then refuses what this user may not do, wherever a name leads.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
from collections.abc import Collection, Iterator
from contextlib import contextmanager

# Of a user without a name, whose groups nobody can tell.
_NO_GROUP = 65534


@contextmanager
def rights_of(uid: int) -> Iterator[None]:
    """Open files with the rights of a user for a moment; with our own if we are that user.

    :raises PermissionError: if we are neither that user nor root.
    """
    if uid == os.geteuid():
        yield
        return
    group, groups = groups_of(uid)
    with files_as(uid, group, groups):
        yield


def groups_of(uid: int) -> tuple[int, list[int]]:
    """Return the group of a user and all its groups; those of nobody if the user has no name."""
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return _NO_GROUP, []
    return account.pw_gid, os.getgrouplist(account.pw_name, account.pw_gid)


@contextmanager
def files_as(uid: int, gid: int, groups: Collection[int] | None = None) -> Iterator[None]:
    """Open files with the rights of another user for a moment, which only root can.

    The kernel then refuses what this user may not do, wherever a name leads. Only the identity for file
    access changes, and of this thread alone; the capabilities but those for file access stay.

    :param groups: the user's further groups, set for the whole process meanwhile; None to leave ours.
    :raises PermissionError: if the kernel does not let us.
    """
    if os.geteuid() != 0:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    library = ctypes.CDLL(None, use_errno=True)
    own_groups = os.getgroups()
    try:
        if groups is not None:
            os.setgroups(list(groups))
        library.setfsgid(gid)
        library.setfsuid(uid)
        # These calls report no failure; called with a wrong id they tell the one in force.
        if (library.setfsuid(-1), library.setfsgid(-1)) != (uid, gid):
            raise PermissionError(errno.EPERM, f"the kernel does not let root act as user id {uid}")
        yield
    finally:
        library.setfsuid(0)
        library.setfsgid(os.getegid())
        if groups is not None:
            os.setgroups(own_groups)
