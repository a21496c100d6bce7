"""Which manager each service has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence

from ..core.errors import Problem
from ..core.estate import COMPOSE, NONE, PM2, SYSTEMD, Service
from . import compose, own_commands, pm2, systemd
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
    made: dict[str, Manager] = {
        SYSTEMD: systemd.Systemd(service for service in services if service.manager == SYSTEMD),
        COMPOSE: compose.Compose(service for service in services if service.manager == COMPOSE),
        NONE: own_commands.OwnCommands(service for service in services if service.manager == NONE),
    }
    return {
        key_of(service): daemons[service.user] if service.manager == PM2 else made[service.manager]
        for service in services
    }


def problems_of_files(service: Service) -> list[Problem]:
    """Return which of a service's own files are missing, also if its manager cannot be told."""
    return pm2.problems_of_files(service) if service.manager == PM2 else problems_of_directory(service)


def log_command(service: Service) -> str:
    """Return a command that shows what a service says."""
    if service.manager == COMPOSE:
        return compose.log_command(service)
    if service.manager == NONE:
        return own_commands.command_of(service, service.start_command)
    return f"pm2 logs {service.name}" if service.manager == PM2 else f"journalctl --unit {service.unit}"


def each_with_services(
    managers: Mapping[str, Manager], services: Sequence[Service]
) -> Iterator[tuple[Manager, list[Service]]]:
    """Yield each manager with those of some services that it runs."""
    for key, manager in managers.items():
        yield manager, [service for service in services if key_of(service) == key]
