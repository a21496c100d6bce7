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

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import ledger, state
from ..core.connection import Login, ServerUnreachable, connected, psycopg2
from ..core.decide import Cutover, decide
from ..core.errors import MigrationError, Problem
from ..core.estate import Group, access_of
from ..core.files import WORK_DIRECTORY
from ..engine.proof.target_state import since
from ..host.service_health import POSTGRESQL
from ..postgres.code_in_tables import look
from ..postgres.own_schemas import find_unfit
from ..sqlite.snapshot import require_room
from ..window.back_on_sqlite import revert
from ..window.checks import (
    Findings,
    Handles,
    Settings,
    boot_warnings,
    check_database,
    check_health,
    check_recovery_unit,
    check_services,
    check_services_login,
    check_source,
    password_warnings,
    stop_warnings,
)
from ..window.context import WindowContext
from ..window.host_lock import LOCK_SECONDS
from ..window.one_run import one_run
from ..window.services import diff, limit_waits
from .reconcile import Keeper

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# How long the look at the target tables waits for who has locked one.
_LOCK_TIMEOUT = "1s"


def cut_over(
    login: Login, group: Group, settings: Settings, check_mode: bool = False, may_move: bool = True
) -> dict[str, Any]:
    """Bring a group's services to PostgreSQL, or keep them there.

    :param may_move: False to look only after a group that is on PostgreSQL already.
    :returns: ``changed``, ``state``, ``msg``, ``diff`` and, with services on PostgreSQL, ``report``.
    :raises MigrationError: with every problem found, and the group's services running.
    """
    try:
        with connected(login) as connection:
            if check_mode and not ledger.exists(connection):
                return _act(None, login, group, settings, check_mode)
            ledger.require(connection)
            connection.rollback()
            if check_mode:
                return _act(connection, login, group, settings, check_mode)
            with one_run(connection, login, group, settings, LOCK_SECONDS):
                return _act(connection, login, group, settings, check_mode, may_move)
    except ServerUnreachable:
        if not check_mode:
            raise
        return _act(None, login, group, settings, check_mode)


def _act(
    connection: Connection | None,
    login: Login,
    group: Group,
    settings: Settings,
    check_mode: bool,
    may_move: bool = True,
) -> dict[str, Any]:
    """Do what :func:`.core.decide.decide` says, or with ``check_mode`` make the same checks and say what that is.

    :param connection: None on a host without a server or a ledger, in check mode.
    """
    record = ledger.unknown_group(group.name, group.source_path)
    if connection is not None:
        record = ledger.read_group(connection, group.name, group.source_path)
        connection.rollback()
        if decide(record).on_postgresql:
            findings = Findings()
            handles = check_services(group, settings, findings, may_be_missing=True)
            check_database(connection, group, settings, findings)
            findings.require_none(f"Cutover group {group.name} lives on PostgreSQL, but cannot be looked after.")
            keeper = Keeper(WindowContext(connection, login, group, settings, handles), record)
            result = keeper.dry_run() if check_mode else keeper.run()
            if result is not None:
                return result
            # It turned out to be on SQLite, and a run has told the ledger so.
            record = replace(record, state=state.next_state(group.name, record.state, "abandon"))
    if not may_move:
        return {"changed": False, "state": record.state, "msg": f"{group.name} is on SQLite.", "diff": []}
    action = decide(record).cutover
    if action is Cutover.NEEDS_REHEARSAL and not check_mode:
        # Raises, and says how to rehearse it. A dry run of all phases comes here before the rehearsal.
        state.next_state(group.name, record.state, "freeze")
    interrupted = action is Cutover.MOVE_AGAIN
    findings = Findings()
    handles = check_services(group, settings, findings, may_be_missing=interrupted)
    try:
        if not interrupted:
            check_health(group, handles, findings)
            check_recovery_unit(settings, findings)
        check_source(group, handles, findings)
        with findings.collecting():
            require_room(group.source_path, Path(settings.work_directory or WORK_DIRECTORY))
        # Before the rehearsal nothing says that the server and its roles are there yet.
        if connection is not None and action is not Cutover.NEEDS_REHEARSAL:
            check_database(connection, group, settings, findings)
            check_services_login(group, settings, handles, findings)
            if not interrupted:
                _check_target(connection, group, record, settings, findings)
        findings.require_none(f"Cutover group {group.name} cannot be cut over; nothing was stopped.")
    except MigrationError as error:
        if interrupted and not check_mode and connection is not None:
            # An earlier window has left the services stopped: they must not stay so.
            step = "the checks of an interrupted cutover"
            context = WindowContext(connection, login, group, settings, handles)
            raise revert(context, error, step, False, record.detail.file_before) from None
        raise
    if check_mode or connection is None:
        return _would_be(group, settings, record.state, action, handles)
    # Only here: a group that lives on PostgreSQL needs nothing of the engine, and importing that takes long.
    from .window import Window

    return Window(WindowContext(connection, login, group, settings, handles), record).run()


def _check_target(
    connection: Connection, group: Group, record: ledger.GroupRecord, settings: Settings, findings: Findings
) -> None:
    """Check that the final sync will find the target as the rehearsal left it, or as it may be all the same.

    Transactions tell within a moment that nobody has written to it. Only where they do not, as after a restore from a
    dump, the final sync is tried, writing nothing. A table that somebody has locked is left to the final sync, which
    waits for it.
    """
    left = {name: {key: then[key] for key in ("rows", "writers")} for name, then in record.detail.loaded.items()}
    try:
        with connection.cursor() as cursor:
            access = settings.access or access_of([group])
            roles = access.roles.get(group.name, ())
            own = {role: names for role, names in access.owners.items() if role in roles}
            unfit = [*find_unfit(cursor, own), *look(cursor, group)]
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
        if unfit:
            findings.violations.extend(unfit)
            return
        now = since(connection, group, left)
    except psycopg2.errors.LockNotAvailable:
        return
    except psycopg2.Error as error:
        fix = "Correct it, then run again"
        what = f"it cannot be read: {str(error).strip()}"
        findings.violations.append(Problem(f"target of cutover group {group.name}", what, fix))
        return
    finally:
        # One that was lost has nothing to roll back, and says so with an error of its own.
        if not connection.closed:
            connection.rollback()
    if set(left) <= set(now) and not any(table.written for table in now.values()):
        return
    from ..engine.transfer import migrate

    limit_waits(connection, settings.stop_timeout)
    with findings.collecting():
        migrate.migrate(connection, group, migrate.FINAL, check_mode=True, work_directory=settings.work_directory)
    connection.rollback()


_WHEN = {
    Cutover.MOVE: "would be cut over",
    Cutover.MOVE_AGAIN: "is frozen by an interrupted cutover, which would be finished",
    Cutover.NEEDS_REHEARSAL: "would be cut over after its rehearsal",
}


def _would_be(group: Group, settings: Settings, group_state: str, action: Cutover, handles: Handles) -> dict[str, Any]:
    """Return what a dry run says of a group that would be cut over."""
    names = ", ".join(service.name for service in group.services) or "no services"
    return {
        "changed": True,
        "state": group_state,
        "msg": f"{group.name} {_WHEN[action]}: {names}.",
        "diff": diff(handles.env_files, settings, to=POSTGRESQL),
        "warnings": [
            *boot_warnings(handles),
            *stop_warnings(group, handles),
            *password_warnings(group, settings.role_passwords),
        ],
    }
