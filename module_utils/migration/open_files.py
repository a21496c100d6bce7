"""Which processes have a file open, and which sockets a process holds, read from ``/proc``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_SOCKET = re.compile(r"socket:\[(\d+)\]\Z")
# What SQLite keeps beside a database.
_COMPANIONS = ("", "-wal", "-shm", "-journal")


@dataclass(frozen=True, order=True)
class Holder:
    """A process that has one of the files open.

    :param command: its command line, or its name if that is hidden.
    """

    pid: int
    command: str
    path: str


def inodes_of(path: str | Path) -> set[tuple[int, int]]:
    """Return device and inode of a SQLite file and of what SQLite keeps beside it, symlinks resolved."""
    resolved = os.path.realpath(path)
    found = set()
    for suffix in _COMPANIONS:
        with suppress(FileNotFoundError):
            info = os.stat(resolved + suffix)
            found.add((info.st_dev, info.st_ino))
    return found


def find_holders(path: str | Path) -> list[Holder]:
    """Return every process but this one that has the SQLite file or its companions.

    A file is known by its inode, so it does not matter under which name it was opened.
    """
    inodes = inodes_of(path)
    return sorted(holder for pid in _process_ids() if pid != os.getpid() for holder in _holds(pid, inodes))


def holds(pid: int, path: str | Path) -> bool:
    """Return whether one process has the SQLite file or its companions open."""
    return bool(_holds(pid, inodes_of(path)))


def family_of(pids: Iterable[int]) -> set[int]:
    """Return the processes and all their descendants."""
    children: dict[int, list[int]] = {}
    for pid in _process_ids():
        children.setdefault(_parent_of(pid), []).append(pid)
    family: set[int] = set()
    waiting = [pid for pid in pids if pid > 0]
    while waiting:
        pid = waiting.pop()
        if pid not in family:
            family.add(pid)
            waiting.extend(children.get(pid, []))
    return family


def local_ports(pid: int) -> set[int]:
    """Return the local TCP ports of a process's sockets, as its own network namespace shows them."""
    sockets = set()
    for target in _descriptors(pid).values():
        match = _SOCKET.match(target)
        if match:
            sockets.add(match.group(1))
    ports = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / str(pid) / "net" / table).read_text(encoding="ascii").splitlines()[1:]:
                columns = line.split()
                if columns[9] in sockets:
                    ports.add(int(columns[1].rpartition(":")[2], 16))
    return ports


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; empty if the process is gone."""
    try:
        raw = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.decode("utf-8", "surrogateescape").partition("=") for entry in raw.split(b"\0") if b"=" in entry)
    return {name: value for name, _, value in pairs}


def _process_ids() -> list[int]:
    """Return the ids of all processes that can be seen."""
    return [int(entry) for entry in os.listdir(_PROC) if entry.isdigit()]


def _descriptors(pid: int) -> dict[str, str]:
    """Return where each file descriptor of a process leads; a process may end while we look."""
    directory = _PROC / str(pid) / "fd"
    found = {}
    with suppress(OSError):
        for entry in os.listdir(directory):
            with suppress(OSError):
                found[entry] = os.readlink(directory / entry)
    return found


def _holds(pid: int, inodes: set[tuple[int, int]]) -> list[Holder]:
    """Return one holder for each of the inodes' paths that a process has."""
    paths = set()
    for entry, target in _descriptors(pid).items():
        if not target.startswith("/"):
            continue
        with suppress(OSError):
            info = os.stat(_PROC / str(pid) / "fd" / entry)
            if (info.st_dev, info.st_ino) in inodes:
                paths.add(target)
    return [Holder(pid, _command_of(pid), path) for path in paths]


def _parent_of(pid: int) -> int:
    """Return the id of a process's parent, 0 if it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    # The command stands in parentheses and may hold anything, also a space or a parenthesis.
    return int(text.rpartition(")")[2].split()[1])


def _command_of(pid: int) -> str:
    """Return a process's program and its first argument: more of a command line may hold a secret."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        text = b" ".join(words[:2]).decode("utf-8", "replace").strip()
        return text or (_PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "a process that has just ended"
