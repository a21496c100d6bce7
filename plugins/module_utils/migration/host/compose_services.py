"""Every service of docker compose on this host, as Docker and the files of its project tell of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..core.errors import MigrationError
from ..core.estate import COMPOSE, Service
from . import dotenv_file, open_files
from .compose import LABEL, Project, containers_of, labels_of, networks_of

_NETWORK_OF_HOST = "host"
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Described:
    """What is known of one service.

    :param uid: whose rights the processes of its containers have.
    :param directory: that of its project.
    :param containers: how many of its containers run.
    :param pids: the processes in them.
    :param inside: working directory of its program, in the container.
    :param mounts: place in the container → place on this host, of what is mounted from here.
    :param ports: TCP ports of this host that lead to it.
    :param settings_files: what its compose files name as ``env_file``, absolute.
    :param fixed_keys: keys of the connection to a database that do not come from these files.
    :param networks: names of what Docker has put it in: ``host`` is that of this host itself; none if it has another
        container's.
    :param gateway: address of this host in the first of them that tells one; empty if none does.
    :param network: that network; empty likewise.
    """

    project: str
    name: str
    uid: int
    directory: str
    containers: int
    pids: frozenset[int]
    inside: str
    mounts: tuple[tuple[str, str], ...]
    ports: tuple[int, ...]
    settings_files: tuple[str, ...]
    fixed_keys: tuple[str, ...]
    networks: tuple[str, ...]
    gateway: str
    network: str

    @property
    def reaches_this_host(self) -> bool:
        """Return whether it is known at which address its containers reach this host."""
        return bool(self.gateway) or self.networks == (_NETWORK_OF_HOST,)

    def on_this_host(self, path: str) -> str:
        """Return what a path in the container leads to on this host, empty if it is not mounted from here."""
        for inside, outside in sorted(self.mounts, key=lambda mount: -len(mount[0])):
            if path == inside:
                return outside
            if path.startswith(f"{inside.rstrip('/')}/"):
                return os.path.join(outside, os.path.relpath(path, inside))
        return ""


def describe_all() -> list[Described]:
    """Return every service of docker compose that runs; none where Docker does not answer."""
    try:
        containers = [container for container in containers_of() if container["State"]["Pid"]]
    except MigrationError:
        return []
    services: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for container in containers:
        labels = labels_of(container)
        place = labels.get(f"{LABEL}.project", ""), labels.get(f"{LABEL}.service", "")
        services.setdefault(place, []).append(container)
    processes = _processes() if services else {}
    found: list[Described] = []
    for (project, name), own in sorted(services.items()):
        with suppress(MigrationError):
            found += _describe(project, name, own, processes)
    return found


def _describe(
    project: str, name: str, containers: Sequence[Mapping[str, Any]], processes: Mapping[str, set[int]]
) -> Iterator[Described]:
    """Yield what is known of one service; nothing if it has just ended.

    :param processes: id of a container → its processes.
    """
    first = containers[0]
    uid = open_files.user_of(int(first["State"]["Pid"]))
    if uid is None:
        return
    networks = [(gateway, subnet) for _, gateway, subnet in networks_of(containers) if gateway and ":" not in subnet]
    gateway, network = (networks or [("", "")])[0]
    directory = labels_of(first).get(f"{LABEL}.project.working_dir", "")
    user = open_files.user_name(uid)
    settings_files = _settings_files(project, name, user, directory, first)
    yield Described(
        project,
        name,
        uid,
        directory,
        len(containers),
        frozenset(pid for container in containers for pid in processes.get(str(container["Id"]), ())),
        str(first["Config"].get("WorkingDir") or "/"),
        tuple((str(mount["Destination"]), str(mount["Source"])) for mount in first["Mounts"] if mount.get("Source")),
        tuple(sorted({port for container in containers for port in _ports_of(container)})),
        settings_files,
        tuple(sorted(_fixed_keys(first, settings_files, user))),
        tuple(sorted({name for container in containers for name in container["NetworkSettings"]["Networks"]})),
        gateway,
        network,
    )


def _settings_files(
    project: str, name: str, user: str, directory: str, container: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return what the compose files name as ``env_file`` of a service; nothing if they cannot be read."""
    service = Service(name, user, directory or "/", "", (), "", manager=COMPOSE, compose_project=project)
    with suppress(MigrationError, ValueError, KeyError):
        return tuple(Project(service, container).settings_files())
    return ()


def _fixed_keys(container: Mapping[str, Any], settings_files: Sequence[str], user: str) -> Iterator[str]:
    """Yield the keys of a connection that the container has from elsewhere than from its files of settings."""
    given: dict[str, str] = {}
    for path in settings_files:
        with suppress(MigrationError, OSError, ValueError):
            given |= dotenv_file.read_values(dotenv_file.read(path, user, or_root=True))
    for entry in container["Config"]["Env"] or []:
        key = entry.partition("=")[0]
        if key in dotenv_file.MANAGED_KEYS and key not in given:
            yield key


def _ports_of(container: Mapping[str, Any]) -> Iterator[int]:
    """Yield the TCP ports of this host that lead to a container."""
    for inside, places in (container["NetworkSettings"].get("Ports") or {}).items():
        if inside.endswith("/tcp"):
            yield from (int(place["HostPort"]) for place in places or ())


def _processes() -> dict[str, set[int]]:
    """Return id of a container → its processes."""
    found: dict[str, set[int]] = {}
    for entry in os.listdir("/proc"):
        # This host may be a container itself: then its id stands before that of each container in it.
        if entry.isdigit() and (ids := _CONTAINER_ID.findall(open_files.control_group_of(int(entry)))):
            found.setdefault(ids[-1], set()).add(int(entry))
    return found
