"""Moves one cutover group to PostgreSQL in one window, or leaves it on SQLite, running.

Everything between the stop of the services and the proof of their health happens in this one
process, so that the window is short and whoever opened it also undoes it. The ledger's state says
what a later run has to do if this process is killed:

- ``frozen`` is committed before the services stop: whatever has happened since, PostgreSQL holds
  nothing that the file does not hold, so the window is simply gone through again, or undone.
- ``live`` is committed before the services start on PostgreSQL: from here on it may hold rows that
  exist nowhere else, so the services are brought to PostgreSQL, and never again the other way
  unless the fingerprint of the tables proves that nothing was written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core import ledger, state
from ..core.connection import Login, ServerUnreachable, connected
from ..core.errors import MigrationError
from ..core.estate import Group
from ..host.service_health import POSTGRESQL
from ..window.back_on_sqlite import put_back, to_sqlite, written_since, written_until_stopped
from ..window.checks import (
    Checked,
    Settings,
    boot_warnings,
    check_database,
    check_health,
    check_services,
    check_services_login,
    check_source,
)
from ..window.host_lock import LOCK_SECONDS, locked_on_host
from ..window.services import checkpoint, diff, start, stop, wait_until_closed, watch, write_env_files
from ..window.signals import Interrupted, interruptible, server_errors, uninterruptible
from ..window.steps import FENCE, FINGERPRINT, Steps
from .reconcile import Keeper
from .window import Window

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

__all__ = [
    "FENCE",
    "FINGERPRINT",
    "Interrupted",
    "Steps",
    "checkpoint",
    "cut_over",
    "diff",
    "interruptible",
    "server_errors",
    "start",
    "stop",
    "to_sqlite",
    "uninterruptible",
    "wait_until_closed",
    "watch",
    "write_env_files",
    "written_since",
    "written_until_stopped",
]

_SUMMARY = "Cutover group {} cannot be cut over; nothing was stopped."


def cut_over(login: Login, group: Group, settings: Settings, check_mode: bool = False) -> dict[str, Any]:
    """Bring a group's services to PostgreSQL, or keep them there.

    :returns: ``changed``, ``state``, ``msg``, ``diff`` and, with services on PostgreSQL, ``report``.
    :raises MigrationError: with every problem found, and the group's services running.
    """
    try:
        with connected(login) as connection:
            if check_mode and not ledger.exists(connection):
                return _announce(group, settings, state.PENDING, check_services(group, settings))
            ledger.require(connection)
            connection.rollback()
            if check_mode:
                return _foretell(connection, group, settings)
            with (
                server_errors(group),
                interruptible(),
                locked_on_host(group.name, settings.work_directory, LOCK_SECONDS),
                ledger.locked(connection, f"group {group.name}", LOCK_SECONDS),
            ):
                return _bring_to_postgresql(connection, login, group, settings)
    except ServerUnreachable:
        if not check_mode:
            raise
        return _announce(group, settings, state.PENDING, check_services(group, settings))


def _bring_to_postgresql(connection: Connection, login: Login, group: Group, settings: Settings) -> dict[str, Any]:
    """Do what the group's state asks for."""
    record = ledger.read_group(connection, group.name, group.source_path)
    connection.rollback()
    if state.is_on_postgresql(record.state):
        result = Keeper(connection, login, group, settings, record).run()
        if result is not None:
            return result
        record = ledger.read_group(connection, group.name, group.source_path)
        connection.rollback()
    # Refuses a group that has not been rehearsed.
    state.next_state(group.name, record.state, "freeze")
    interrupted = record.state == state.FROZEN
    checked = check_services(group, settings, may_be_missing=interrupted)
    try:
        if not interrupted:
            check_health(group, checked)
        check_source(group, checked)
        check_database(connection, group, settings, checked)
        check_services_login(group, settings, checked)
        checked.require(_SUMMARY.format(group.name))
    except MigrationError as error:
        if interrupted:
            # An earlier window has left the services stopped: they must not stay so.
            step = "the checks of an interrupted cutover"
            raise put_back(connection, login, group, settings, error, step, may_have_written=False) from None
        raise
    return Window(connection, login, group, settings, checked, record).run()


def _foretell(connection: Connection, group: Group, settings: Settings) -> dict[str, Any]:
    """Return what a run would do, after the same checks, and write nothing."""
    record = ledger.read_group(connection, group.name, group.source_path)
    connection.rollback()
    if state.is_on_postgresql(record.state):
        return Keeper(connection, None, group, settings, record).foretell()
    interrupted = record.state == state.FROZEN
    checked = check_services(group, settings, may_be_missing=interrupted)
    if record.state in (state.REHEARSED, state.FROZEN):
        check_database(connection, group, settings, checked)
        check_services_login(group, settings, checked)
    return _announce(group, settings, record.state, checked)


def _announce(group: Group, settings: Settings, group_state: str, checked: Checked) -> dict[str, Any]:
    """Return what a dry run says of a group that would be cut over."""
    if group_state != state.FROZEN:
        check_health(group, checked)
    check_source(group, checked)
    checked.require(_SUMMARY.format(group.name))
    when = {
        state.REHEARSED: "would be cut over",
        state.FROZEN: "is frozen by an interrupted cutover, which would be finished",
    }.get(group_state, "would be cut over after its rehearsal")
    return {
        "changed": True,
        "state": group_state,
        "msg": f"{group.name} {when}: {', '.join(service.name for service in group.services)}.",
        "diff": diff(checked.env_files, to=POSTGRESQL),
        "warnings": boot_warnings(checked),
    }
