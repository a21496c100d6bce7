"""Which manager each service has.

A host loads anew what it is sent with each call, and may have to compile it. So the code of a manager is imported where
a service has it. That of pm2 also tells what is wrong with a service's files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence

from ..core.errors import Problem
from ..core.estate import COMPOSE, NONE, PM2, SYSTEMD, Service
from . import pm2
from .manager import Manager, problems_of_directory


def key_of(service: Service) -> str:
    """Return what tells the manager of a service from others on its host, in words."""
    return f"pm2 of user {service.user}" if service.manager == PM2 else service.manager


def managers_of(
    services: Iterable[Service], known: MutableMapping[tuple[str, ...], pm2.Pm2] | None = None
) -> dict[str, Manager]:
    """Return each manager of these services once, by its key.

    :param known: what several groups that are looked at together share of pm2, as :func:`.pm2.by_user` keeps it.
    :raises MigrationError: naming the users that do not exist, or of whom several pm2 are named.
    """
    services = list(services)
    daemons = pm2.by_user((service for service in services if service.manager == PM2), known)
    made: dict[str, Manager] = {}
    for service in services:
        if service.manager != PM2 and service.manager not in made:
            made[service.manager] = _make(service.manager, [own for own in services if own.manager == service.manager])
    return {
        key_of(service): daemons[service.user] if service.manager == PM2 else made[service.manager]
        for service in services
    }


def _make(kind: str, services: Sequence[Service]) -> Manager:
    """Return the manager of services that are not under pm2."""
    if kind == SYSTEMD:
        from . import systemd

        return systemd.Systemd(services)
    if kind == COMPOSE:
        from . import compose

        return compose.Compose(services)
    from . import own_commands

    return own_commands.OwnCommands(services)


def problems_of_files(service: Service) -> list[Problem]:
    """Return which of a service's own files are missing, also if its manager cannot be told."""
    return pm2.problems_of_files(service) if service.manager == PM2 else problems_of_directory(service)


def log_command(service: Service) -> str:
    """Return a command that shows what a service says."""
    if service.manager == COMPOSE:
        from . import compose

        return compose.log_command(service)
    if service.manager == NONE:
        from . import own_commands

        return own_commands.command_of(service, service.start_command)
    return f"pm2 logs {service.name}" if service.manager == PM2 else f"journalctl --unit {service.unit}"


def each_with_services(
    managers: Mapping[str, Manager], services: Sequence[Service]
) -> Iterator[tuple[Manager, list[Service]]]:
    """Yield each manager with those of some services that it runs."""
    for key, manager in managers.items():
        yield manager, [service for service in services if key_of(service) == key]
