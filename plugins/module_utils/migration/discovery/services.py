"""The services of a host, as pm2, systemd and Docker tell of them, and the processes that nobody tells of.

pm2 is asked as its own user. Nothing that belongs to a service's user is run as root.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ..core.errors import MigrationError, Problem
from ..core.rights import rights_of
from ..host import compose_services, open_files, programs, safe_paths
from ..host.compose_services import Described
from ..host.pm2 import Pm2, find_daemons
from .files import is_text

PM2, SYSTEMD, CONTAINER, NOBODY = "pm2", "systemd", "container", "nobody"

_CONTAINER = re.compile(r"(?:docker|libpod|cri-containerd|crio)[-/]([0-9a-f]{12})[0-9a-f]{52}")
_UNIT = re.compile(r"/([^/]+\.service)(?:/|\Z)")
_ECOSYSTEM_FILES = ("ecosystem.config.js", "ecosystem.config.cjs", "ecosystem.config.json", "ecosystem.json")
_PROPERTIES = "Id,MainPID,WorkingDirectory,EnvironmentFiles,FragmentPath"


@dataclass(frozen=True)
class Service:
    """One service.

    :param manager: who starts it: pm2, systemd, a container's engine, or nobody that we know.
    :param name: its name there.
    :param user: whose rights it has.
    :param directory: its working directory; empty if nobody tells.
    :param pids: its processes and all their descendants.
    :param instances: processes that the manager has started.
    :param settings_files: files with settings that are there, absolute.
    :param ecosystem_file: pm2's file for it, as a path below the directory; empty if none was found.
    :param manager_home: ``PM2_HOME``, where the user runs several.
    :param manager_pid: the manager's own process, which listens for what runs in pm2's cluster mode; 0 if it is none.
    :param compose: what Docker tells of it if docker compose has made its containers.
    """

    manager: str
    name: str
    user: str
    uid: int
    directory: str
    pids: frozenset[int]
    instances: int = 1
    settings_files: tuple[str, ...] = ()
    ecosystem_file: str = ""
    manager_home: str = ""
    manager_pid: int = 0
    compose: Described | None = None


@dataclass
class Services:
    """All services, and what could not be told.

    :param problems: managers that do not answer.
    """

    found: list[Service] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def find_services(holders: Iterable[int]) -> Services:
    """Return every service of pm2 and of systemd, and for each other process that has a database open an entry.

    :param holders: processes that have a database open.
    """
    result = Services()
    daemons = find_daemons()
    holders = list(holders)
    in_containers = {pid: name for pid in holders if (name := container_of(pid))}
    _add_pm2(result, [entry for entry in daemons if not container_of(entry[0])])
    of_pm2 = open_files.family_of(pid for pid, _, _ in daemons)
    _add_systemd(result, of_pm2)
    _add_compose(result)
    known = {pid for service in result.found for pid in service.pids}
    others: dict[tuple[str, str], set[int]] = {}
    for pid in holders:
        if pid in known:
            continue
        place = (CONTAINER, in_containers[pid]) if pid in in_containers else (NOBODY, open_files.program_of(pid))
        others.setdefault(place, set()).add(pid)
    for (manager, name), pids in sorted(others.items()):
        uid = open_files.user_of(min(pids))
        if uid is not None:
            directory = "" if manager == CONTAINER else _directory_of(min(pids))
            user = open_files.user_name(uid)
            result.found.append(Service(manager, name, user, uid, directory, frozenset(pids), len(pids)))
    return result


def _add_compose(result: Services) -> None:
    """Add each service that docker compose has started."""
    for said in compose_services.describe_all():
        if all(map(is_text, (said.project, said.name, said.directory, *said.settings_files))):
            user, files = open_files.user_name(said.uid), said.settings_files
            result.found.append(
                Service(
                    CONTAINER,
                    said.name,
                    user,
                    said.uid,
                    said.directory,
                    said.pids,
                    said.containers,
                    files,
                    compose=said,
                )
            )


def container_of(pid: int) -> str:
    """Return the short id of the container that a process runs in, empty if it runs in none of this host."""
    *_, match = [None, *_CONTAINER.finditer(open_files.control_group_of(pid))]
    # Where this process itself runs in a container, so does everything that it sees.
    if match is None or match[0] in open_files.control_group_of(os.getpid()):
        return ""
    return match[1]


def _directory_of(pid: int) -> str:
    """Return the working directory of a process, empty if it cannot be told."""
    try:
        directory = os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""
    return directory if is_text(directory) else ""


def _existing(paths: Iterable[str], uid: int) -> Iterator[str]:
    """Yield those of some paths at which a user has a file."""
    for path in paths:
        with suppress(OSError, ValueError), rights_of(uid), safe_paths.regular_file(path):
            yield path


# --- pm2 ----------------------------------------------------------------------------------------


def _add_pm2(result: Services, daemons: Sequence[tuple[int, str, int]]) -> None:
    """Add what each pm2 has started."""
    for pid, home, uid in daemons:
        several = len({other for _, other, owner in daemons if owner == uid}) > 1
        try:
            user = pwd.getpwuid(uid).pw_name
        except KeyError:
            fix = "Give that id a name, or describe its services by hand"
            result.problems.append(Problem(f"pm2 of user id {uid}", "there is no user of this id on this host", fix))
            continue
        try:
            pm2 = Pm2(user, home)
            problem = pm2.problem()
            processes = pm2.processes() if problem is None else []
        except MigrationError as error:
            problem, processes = error.problems[0], []
        if not all(is_text(process.name) and is_text(process.directory) for process in processes):
            what = "it lists a service or a directory whose name is no UTF-8 text, so that it can stand in no inventory"
            problem = Problem(f"pm2 of user {user}", what, "Give it another name; what else is listed was looked at")
            processes = [entry for entry in processes if is_text(entry.name) and is_text(entry.directory)]
        if problem is not None:
            result.problems.append(problem)
        for name in sorted({process.name for process in processes}):
            own = [process for process in processes if process.name == name]
            directory = own[0].directory
            ecosystem = next(_existing((os.path.join(directory, entry) for entry in _ECOSYSTEM_FILES), uid), "")
            service = Service(
                PM2,
                name,
                user,
                uid,
                directory,
                frozenset(_family(uid, (process.pid for process in own))),
                len(own),
                tuple(_existing([os.path.join(directory, ".env")], uid)),
                os.path.basename(ecosystem),
                home if several else "",
                pid,
            )
            result.found.append(service)


def _family(uid: int, pids: Iterable[int]) -> set[int]:
    """Return those of some processes, and of their descendants, that can be a user's.

    What pm2 lists is what the user's own program says: it may name a process of somebody else, or the first of all.
    """

    def can_be(pid: int) -> bool:
        # Root may start a service as another user.
        return uid == 0 or open_files.user_of(pid) == uid

    family = open_files.family_of(pid for pid in pids if pid > 1 and can_be(pid))
    return {pid for pid in family if can_be(pid)}


# --- systemd ------------------------------------------------------------------------------------


def _add_systemd(result: Services, of_others: set[int]) -> None:
    """Add each running unit, but for those that only run another manager.

    :param of_others: processes that another manager has started, and that manager.
    """
    members = _members()
    for unit in _units():
        main = int(unit.get("MainPID") or 0)
        pids = members.get(unit.get("Id", ""), set()) | ({main} if main else set())
        if not pids or pids & of_others:
            continue
        uid = open_files.user_of(main or min(pids))
        if uid is None:
            continue
        # systemd writes "!" before a directory that may be missing, and "/" for none.
        directory = unit.get("WorkingDirectory", "").lstrip("!-")
        named = [line.rsplit(" (ignore_errors=", 1)[0] for line in unit.get("EnvironmentFiles", "").split("\n")]
        own = [os.path.join(directory, ".env")] if directory not in ("", "/") else []
        settings = dict.fromkeys([*filter(None, named), *_existing(own, uid)])
        name = unit["Id"].removesuffix(".service")
        result.found.append(
            Service(SYSTEMD, name, open_files.user_name(uid), uid, directory, frozenset(pids), 1, tuple(settings))
        )


def _units() -> list[Mapping[str, str]]:
    """Return the properties of each service that systemd has loaded; none where there is no systemd."""
    command = ["systemctl", "show", "--no-pager", f"--property={_PROPERTIES}", "*.service"]
    try:
        answer = programs.call(command, os.environ)
    except programs.NoAnswer:
        return []
    units: list[Mapping[str, str]] = []
    for block in answer.output.split("\n\n"):
        properties: dict[str, str] = {}
        for line in block.splitlines():
            key, _, value = line.partition("=")
            # A unit may name several files.
            properties[key] = f"{properties[key]}\n{value}" if key in properties else value
        if "Id" in properties:
            units.append(properties)
    return units


def _members() -> dict[str, set[int]]:
    """Return the processes of each unit."""
    members: dict[str, set[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            path = open_files.control_group_of(int(entry))
            match = None if _CONTAINER.search(path) and container_of(int(entry)) else _UNIT.search(path)
            if match is not None:
                members.setdefault(match[1], set()).add(int(entry))
    return members
