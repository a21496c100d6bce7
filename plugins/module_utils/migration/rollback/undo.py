"""Brings the services of a group up on PostgreSQL again after a rollback that did not come about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from ..core.connection import Login, connected
from ..core.errors import MigrationError, Problem
from ..core.estate import Group, Service
from ..host.service_health import POSTGRESQL
from ..window import rollback_record
from ..window.back_on_sqlite import attempted
from ..window.context import WindowContext
from ..window.services import forget_stopped, require_healthy, start, watch, write_env_files
from ..window.signals import uninterruptible


def bring_up_on_postgresql(
    context: WindowContext, put_file_back: Callable[[], None]
) -> tuple[list[Problem], list[Problem]]:
    """Let the frozen file stand in its place again, start the services on PostgreSQL, and see that they are well.

    Whatever of it fails, the rest is done: PostgreSQL is the store, and without its services it is of no use.

    :param put_file_back: may raise; the ledger then knows that this is still to be done.
    :returns: what could not be done, and which services are not well.
    """
    group = context.group
    context.keep_recovery_unit()
    with uninterruptible():
        left = [
            *attempted(put_file_back, group),
            *attempted(lambda: write_env_files(context.handles.env_files, context.settings, POSTGRESQL), group),
            *attempted(lambda: start(context, _not_running(context)), group),
        ]
        # As long as something is left to be done, the next run must know of it.
        left += [] if left else attempted(lambda: _close(context.login, group), group)
        unwell = attempted(lambda: require_healthy(context, POSTGRESQL), group)
        left += [] if unwell else attempted(lambda: forget_stopped(context), group)
        return left, unwell


def _not_running(context: WindowContext) -> Sequence[Service]:
    """Return the services that have to be started: a stop may have failed, or never have been tried."""
    group = context.group
    if all(service.name in context.removed for service in group.services):
        return group.services
    try:
        with closing(watch(context)) as watcher:
            healths = watcher.look(group.services, POSTGRESQL, 0.0)
    except MigrationError:
        return group.services
    return [health.service for health in healths if health.shortcoming and not health.lacks_session]


def _close(login: Login, group: Group) -> None:
    """Let the ledger know that this rollback is none, over a connection of its own: another may be broken."""
    with connected(login) as connection:
        rollback_record.close(connection, group)
