"""One run at a time over a group on its host, whatever becomes of the server.

The ledger's lock ends with its session: a server that ends it, or goes away, lets the next run in while the
first one still puts the services back. This lock is the process's own, and ends with it however it ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..core.errors import Busy, Problem
from ..core.files import WORK_DIRECTORY

# A run whose controller was killed may still be in its window, and then goes on to its end.
LOCK_SECONDS = 60.0
_POLL_SECONDS = 0.2


@contextmanager
def locked_on_host(group_name: str, work_directory: str | None, wait_seconds: float) -> Iterator[None]:
    """Hold the lock of a group on this host.

    :param work_directory: private directory in which the lock's file stays.
    :param wait_seconds: how long to wait for another process.
    :raises Busy: naming the process that holds the lock.
    """
    directory = Path(work_directory or WORK_DIRECTORY)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A group may have any name.
    path = directory / f"lock-{hashlib.sha256(group_name.encode()).hexdigest()[:16]}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise _busy(group_name, descriptor) from None
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _busy(group_name: str, descriptor: int) -> Busy:
    """Return the error for a lock that another process holds."""
    inode = f":{os.fstat(descriptor).st_ino}"
    who = "another process"
    with suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            # Such as: 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
            words = line.split()
            if words[1] == "FLOCK" and words[5].endswith(inode):
                who = f"process {words[4]}"
    fix = "Wait until it has ended, then run again"
    return Busy(
        f"Another run is at work on group {group_name}.",
        [Problem(f"group {group_name}", f"{who} holds its lock on this host", fix)],
    )
