"""Which processes have a file open, and which sockets a process holds, read from ``/proc``.

Root without the capability SYS_PTRACE, as in many containers, may not look into the processes of
other users; their owners may. So what is refused to us is read once more as the process's owner. What is
refused then too is an error if the process could write to the file: what cannot be seen proves nothing.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..core.errors import MigrationError, Problem
from ..core.rights import files_as
from . import safe_paths

_PROC = Path("/proc")
_SOCKET = re.compile(r"socket:\[(\d+)\]\Z")
# CAP_DAC_OVERRIDE, as a bit of the field CapEff.
_MAY_OVERRIDE_PERMISSIONS = 1 << 1
_Result = TypeVar("_Result")
# What SQLite keeps beside a database.
_COMPANIONS = ("", "-wal", "-shm", "-journal")
SQLITE_HEADER = b"SQLite format 3\x00"
# State of a socket in /proc/net/tcp that waits for connections.
_LISTENING = "0A"


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
    """Return every process but this one that has the SQLite file or its companions open.

    A file is known by its inode, so it does not matter under which name it was opened.

    :raises MigrationError: if a process that may write to the file does not let us see what it has open.
    """
    inodes = inodes_of(path)
    found = []
    for pid in _process_ids():
        if pid == os.getpid():
            continue
        try:
            found += _holds(pid, inodes)
        except MigrationError:
            if _may_write(pid, path):
                raise
    return sorted(found)


def find_loaders(directory: str | Path) -> list[Holder]:
    """Return every process that has mapped a file below a directory, as one that has loaded a native module from there.

    A process that nobody lets us look into is left out.
    """
    below = f"{os.path.realpath(directory)}/"
    found = []
    for pid in _process_ids():
        with suppress(MigrationError):
            maps = _look_into(pid, (_PROC / str(pid) / "maps").read_bytes, b"").decode("utf-8", "surrogateescape")
            paths = {line.split(maxsplit=5)[-1] for line in maps.splitlines() if below in line}
            found += [Holder(pid, _command_of(pid), path) for path in paths if path.startswith(below)]
    return sorted(found)


def holds(pid: int, path: str | Path) -> bool:
    """Return whether one process has the SQLite file or its companions open."""
    return bool(_holds(pid, inodes_of(path)))


def family_of(pids: Iterable[int]) -> set[int]:
    """Return the processes and all their descendants."""
    family: set[int] = set()
    waiting = [pid for pid in pids if pid > 0]
    children: dict[int, list[int]] = {}
    for pid in _process_ids() if waiting else ():
        children.setdefault(_parent_of(pid), []).append(pid)
    while waiting:
        pid = waiting.pop()
        if pid not in family:
            family.add(pid)
            waiting.extend(children.get(pid, []))
    return family


def find_databases() -> dict[int, dict[tuple[int, int], str]]:
    """Return process → device and inode → path of every SQLite file that a process has open or mapped.

    A database whose first page stands in its log alone counts too. The path is as the process sees it. A process that
    nobody lets us look into is left out.
    """
    found = {}
    for pid in _process_ids():
        if pid == os.getpid():
            continue
        with suppress(MigrationError):
            nothing: dict[tuple[int, int], str] = {}
            databases = _look_into(pid, lambda pid=pid: _databases_of(pid), nothing)  # type: ignore[misc]
            if databases:
                found[pid] = databases
    return found


def _databases_of(pid: int) -> dict[tuple[int, int], str]:
    """Return device and inode → path of every SQLite file that a process has open or mapped."""
    directory = f"{_PROC}/{pid}/fd"
    targets = {}
    for entry in os.listdir(directory):
        with suppress(FileNotFoundError):
            targets[f"{directory}/{entry}"] = os.readlink(f"{directory}/{entry}")
    for line in (_PROC / str(pid) / "maps").read_bytes().decode("utf-8", "surrogateescape").splitlines():
        addresses, rights, _, _, _, *path = line.split(maxsplit=5)
        # SQLite maps a database for all that have it open, and nothing else is mapped so but logs and memory.
        if path and rights.endswith("s"):
            targets[f"{_PROC}/{pid}/map_files/{addresses}"] = path[0]
    files: dict[str, tuple[tuple[int, int], bytes]] = {}
    for link, target in targets.items():
        # Anything else is a socket, a pipe, or the like. One that ended up without a way to it is no file any more.
        if target.startswith("/"):
            with suppress(FileNotFoundError, PermissionError), safe_paths.regular_file(link) as descriptor:
                info = os.fstat(descriptor)
                files[target] = (info.st_dev, info.st_ino), os.pread(descriptor, len(SQLITE_HEADER), 0)
    return {
        inode: path
        for path, (inode, beginning) in files.items()
        if beginning == SQLITE_HEADER or (not beginning and f"{path}-wal" in files)
    }


def program_of(pid: int) -> str:
    """Return a process's program and its first argument: more of a command line may hold a secret."""
    return _command_of(pid)


def user_of(pid: int) -> int | None:
    """Return the id of the user whose rights a process has; None if it is gone."""
    try:
        return int(_status_of(pid)["Uid"][1])
    except (OSError, KeyError):
        return None


def user_name(uid: int) -> str:
    """Return the name of a user of this host, or its id if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def control_group_of(pid: int) -> str:
    """Return the path of the control group in which systemd or a container's engine keeps a process; empty if gone."""
    try:
        lines = _text_of(pid, "cgroup").splitlines()
    except OSError:
        return ""
    paths = {names: path for _, names, path in (line.split(":", 2) for line in lines)}
    return paths.get("name=systemd") or paths.get("", "")


def members_of(control_groups: Collection[str]) -> set[int]:
    """Return every process in some control groups, or in a control group below one of them."""
    below = tuple(f"{group}/" for group in control_groups)
    paths = {pid: control_group_of(pid) for pid in _process_ids()}
    return {pid for pid, path in paths.items() if path in control_groups or path.startswith(below)}


def listening_ports(pid: int) -> set[int]:
    """Return the TCP ports that a process listens on, as its own network namespace shows them."""
    return _ports_of(pid, _LISTENING)


def local_ports(pid: int) -> set[int]:
    """Return the local TCP ports of a process's sockets, as its own network namespace shows them."""
    return _ports_of(pid)


def _ports_of(pid: int, state: str = "") -> set[int]:
    """Return the local TCP ports of a process's sockets that are in a state; in any if none is named."""
    matches = map(_SOCKET.match, _descriptors(pid).values())
    sockets = {match.group(1) for match in matches if match}
    ports = set()
    for table in ("tcp", "tcp6"):
        # The system writes a table by walking through all places that connections may have.
        if not sockets:
            break
        with suppress(OSError):
            for line in (_PROC / str(pid) / "net" / table).read_text(encoding="ascii").splitlines()[1:]:
                columns = line.split()
                if columns[9] in sockets:
                    sockets.remove(columns[9])
                    if columns[3].startswith(state):
                        ports.add(int(columns[1].rpartition(":")[2], 16))
    return ports


def held_ports(pid: int | None = None) -> set[int]:
    """Return the local TCP ports of all connections that a living process still holds, in one network namespace.

    :param pid: a process in that namespace; None for ours.
    What is left of a connection after its process has ended belongs to no socket any more.
    """
    ports = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / str(pid or "self") / "net" / table).read_text(encoding="ascii").splitlines()[1:]:
                columns = line.split()
                if columns[9] != "0":
                    ports.add(int(columns[1].rpartition(":")[2], 16))
    return ports


def listeners_on(port: int, uid: int) -> set[int]:
    """Return the processes of a user that listen on a TCP port in our network namespace.

    A process that nobody lets us look into is left out.
    """
    sockets = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "self" / "net" / table).read_text(encoding="ascii").splitlines()[1:]:
                columns = line.split()
                if columns[3] == _LISTENING and int(columns[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{columns[9]}]")
    if not sockets:
        return set()
    found: set[int] = set()
    for pid in _process_ids():
        if user_of(pid) == uid and is_alive(pid):
            with suppress(MigrationError):
                found.update({pid} if not sockets.isdisjoint(_descriptors(pid).values()) else ())
    return found


def without_children(pids: Collection[int]) -> list[int]:
    """Return those of some processes whose parent is none of them."""
    return sorted(pid for pid in pids if _parent_of(pid) not in pids)


def members_of_session(leader: int) -> set[int]:
    """Return the processes that run in the session of a process, whether that runs itself still or not."""
    return {pid for pid in _process_ids() if _state_of(pid)[3:4] == [str(leader)] and is_alive(pid)}


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody has waited for yet does not."""
    words = _state_of(pid)
    return bool(words) and words[0] not in ("Z", "X")


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; empty if the process is gone."""
    raw = _look_into(pid, (_PROC / str(pid) / "environ").read_bytes, b"")
    pairs = (entry.decode("utf-8", "surrogateescape").partition("=") for entry in raw.split(b"\0") if b"=" in entry)
    return {name: value for name, _, value in pairs}


def _process_ids() -> list[int]:
    """Return the ids of all processes that can be seen."""
    return [int(entry) for entry in os.listdir(_PROC) if entry.isdigit()]


def _descriptors(pid: int) -> dict[str, str]:
    """Return where each file descriptor of a process leads."""
    directory = _PROC / str(pid) / "fd"

    def read() -> dict[str, str]:
        found = {}
        for entry in os.listdir(directory):
            with suppress(FileNotFoundError):
                found[entry] = os.readlink(directory / entry)
        return found

    return _look_into(pid, read, {})


def _holds(pid: int, inodes: set[tuple[int, int]]) -> list[Holder]:
    """Return one holder for each path under which a process has one of the inodes open."""
    # Plain text: there are thousands of them, and a path object costs as much as the call.
    directory = f"{_PROC}/{pid}/fd"

    def read() -> set[str]:
        paths: set[str] = set()
        for entry in os.listdir(directory):
            with suppress(FileNotFoundError):
                # Not its name, which costs the system more, and which is told of a file that is found alone.
                info = os.stat(f"{directory}/{entry}")
                if (info.st_dev, info.st_ino) in inodes:
                    paths.add(os.readlink(f"{directory}/{entry}"))
        return paths

    nothing: set[str] = set()
    return [Holder(pid, _command_of(pid), path) for path in _look_into(pid, read, nothing)]


def _look_into(pid: int, read: Callable[[], _Result], gone: _Result) -> _Result:
    """Return what ``read`` finds in a process, or ``gone`` if the process has ended.

    :raises MigrationError: if neither we nor the process's owner may look.
    """
    try:
        try:
            return read()
        except PermissionError:
            with _as_owner_of(pid):
                return read()
    except (FileNotFoundError, ProcessLookupError):
        return gone
    except OSError as error:
        raise MigrationError(
            f"What process {pid} has open cannot be seen.",
            [
                Problem(
                    f"process {pid} ({_command_of(pid)})",
                    f"reading /proc/{pid} is refused: {error.strerror}",
                    "Run as root; in a container give it the capability SYS_PTRACE",
                )
            ],
        ) from None


@contextmanager
def _as_owner_of(pid: int) -> Iterator[None]:
    """Open files as the user and group of a process for a moment, which only root can.

    The kernel wants us to have every capability that the process has, so those but for file access must stay.
    """
    status = _status_of(pid)
    with files_as(int(status["Uid"][1]), int(status["Gid"][1])):
        yield


def _may_write(pid: int, path: str | Path) -> bool:
    """Return whether a process that we may not look into has the permission to write to a file.

    One with more capabilities than root has here supervises this machine or container from outside.
    """
    try:
        status = _status_of(pid)
        ours = int(_status_of(os.getpid())["CapPrm"][0], 16)
        info = os.stat(path)
    except OSError:
        return False
    if os.geteuid() == 0 and int(status["CapPrm"][0], 16) & ~ours:
        return False
    if int(status["CapEff"][0], 16) & _MAY_OVERRIDE_PERMISSIONS:
        return True
    if int(status["Uid"][1]) == info.st_uid:
        return bool(info.st_mode & stat.S_IWUSR)
    if info.st_gid in {int(group) for group in (status["Gid"][1], *status["Groups"])}:
        return bool(info.st_mode & stat.S_IWGRP)
    return bool(info.st_mode & stat.S_IWOTH)


def _status_of(pid: int) -> dict[str, list[str]]:
    """Return the fields of a process's status, each split into its words."""
    fields = (line.partition(":") for line in _text_of(pid, "status").splitlines())
    return {name: value.split() for name, _, value in fields}


def _parent_of(pid: int) -> int:
    """Return the id of a process's parent, 0 if it is gone."""
    words = _state_of(pid)
    return int(words[1]) if words else 0


def _state_of(pid: int) -> list[str]:
    """Return what the system tells of a process: state, parent, process group, session and more; nothing if it is gone.

    The command before them stands in parentheses and may hold anything, also a space or a parenthesis.
    """
    try:
        text = _text_of(pid, "stat")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _text_of(pid: int, name: str) -> str:
    """Return what the system tells of a process in one of its files.

    Every process is asked, many times in a window: a path object and a file that decodes take most of the time.

    :raises OSError: if the process is gone.
    """
    with open(f"{_PROC}/{pid}/{name}", "rb", buffering=0) as file:
        return file.read().decode("utf-8", "replace")


def _command_of(pid: int) -> str:
    """Return a process's program and its first argument: more of a command line may hold a secret."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        text = b" ".join(words[:2]).decode("utf-8", "replace").strip()
        return text or _text_of(pid, "comm").strip()
    except OSError:
        return "a process that has just ended"
