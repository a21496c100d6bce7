"""Brings a group back to SQLite after a cutover that failed, unless rows would be lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import ledger
from ..core.commands import playbook
from ..core.connection import Login, ServerUnreachable, connect, psycopg2
from ..core.decide import Rollback, decide
from ..core.errors import MigrationError, Problem
from ..core.estate import Group
from ..engine.proof.target_state import since
from ..host import write_protection
from ..host.service_health import POSTGRESQL, SQLITE, Health
from ..postgres import code_in_tables
from .checks import Findings, check_services
from .context import WindowContext
from .services import forget_stopped, open_source, require_healthy, save, start, stop, watch, write_env_files
from .signals import Interrupted, uninterruptible

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_RECONNECT_SECONDS = 10.0
# How long putting a group back waits for who changes the schema or has locked a table.
_RIGHTS_SECONDS = 2.0


class RowsWritten(MigrationError):
    """A cutover failed after its services had written to PostgreSQL, and the group is to be rolled back with its rows.

    :param causes: what failed; the problems are that, and who has written.
    """

    def __init__(self, summary: str, causes: list[Problem], written: list[Problem]) -> None:
        super().__init__(summary, [*causes, *written])
        self.causes = causes


class StaysOnPostgresql(MigrationError):
    """A cutover failed after its services had written to PostgreSQL; they run there, and a person decides what next."""


def revert(
    context: WindowContext,
    error: BaseException,
    step: str,
    may_have_written: bool,
    described: Mapping[str, Any] | None = None,
) -> MigrationError:
    """Bring a group back to SQLite after a failure, and return the error that tells both.

    :param context: its connection holds the group's lock, unless the server has gone away.
    :param error: what failed.
    :param step: where it failed, in words.
    :param may_have_written: whether a service was started on PostgreSQL: then only the server knows what it wrote.
    :param described: what is known of the file before its write protection, if the ledger cannot be asked.
    """
    group, settings = context.group, context.settings
    problems = problems_of(error, group)
    with uninterruptible(), ExitStack() as stack:
        usable = _usable_connection(context.connection, context.login, stack)
        if usable is None and may_have_written:
            fix = f"Bring the server back, then run {playbook('4_service_cutover')} again: it finishes or undoes it"
            what = "its services may have written rows that only the server knows, so they stay on PostgreSQL"
            return MigrationError(
                f"Cutover group {group.name} failed in {step}, and the server does not answer.",
                [*problems, Problem(f"cutover group {group.name}", what, fix), how_to_roll_back(context)],
            )
        record = None if usable is None else ledger.read_group(usable, group.name, group.source_path)
        if record is not None and decide(record).rollback not in (Rollback.REVERT_CUTOVER, Rollback.LEAVE_POSTGRESQL):
            # The services are stopped only after "frozen" is committed.
            return MigrationError(f"Cutover group {group.name} failed in {step}; nothing was stopped.", problems)
        # The managers that had the services, also if a daemon of pm2 does not run at this moment.
        managers = context.handles.managers or None
        handles = check_services(group, settings, Findings(), may_be_missing=True, managers=managers)
        context = replace(context, connection=usable or context.connection, handles=handles, removed=set())
        try:
            if usable is not None and record is not None and decide(record).on_postgresql:
                stop(context)
                usable.rollback()
                written = written_until_stopped(context, record)
                if written:
                    start(context, group.services)
                    began = (
                        f"Cutover group {group.name} failed in {step}. Its services have already written to PostgreSQL"
                    )
                    # Whoever asks a run to end does not ask for a rollback, which takes longer than the cutover.
                    if settings.roll_back_on_failure and not isinstance(error, Interrupted):
                        # Nobody waits for a service that is stopped again at once.
                        return RowsWritten(f"{began}.", list(problems), written)
                    unwell = attempted(lambda: require_healthy(context, POSTGRESQL), group)
                    beside = [] if unwell else attempted(lambda: forget_stopped(context), group)
                    return StaysOnPostgresql(
                        f"{began}, so it stays there; they were started again{how_they_are(unwell)}.",
                        [*problems, *written, *unwell, *beside, how_to_roll_back(context)],
                    )
                # In one commit, so that a kill leaves the group frozen: then the next run goes on here.
                ledger.take_step(usable, group.name, "abandon", group.source_path)
                ledger.take_step(usable, group.name, "freeze", group.source_path)
                problems = [*problems, *_stop_writing(context, usable)]
                usable.commit()
            to_sqlite(context, (described or {}) if record is None else record.detail.file_before)
            if usable is not None:
                usable.rollback()
                ledger.take_step(usable, group.name, "thaw", group.source_path)
                usable.commit()
                noted = ""
            else:
                noted = " The server does not answer, so the ledger does not know yet; the next run corrects it."
            return MigrationError(
                f"Cutover group {group.name} failed in {step} and was undone: its services run on SQLite again.{noted}",
                problems,
            )
        except Exception as second:
            return MigrationError(
                f"Cutover group {group.name} failed in {step}, and putting it back on SQLite failed too.",
                [
                    *problems,
                    *problems_of(second, group),
                    Problem(
                        f"cutover group {group.name}",
                        "its services may be stopped",
                        f"Correct the problems above and run {playbook('4_service_cutover')} again, or return to "
                        f"SQLite with every row: {playbook('rollback', service_env_rollback_groups=group.name)}",
                    ),
                ],
            )


def _stop_writing(context: WindowContext, connection: Connection) -> list[Problem]:
    """Take the services' right to write to the group's tables, in the open transaction, or say that this is left to do.

    The services are stopped: they wait for SQLite, and not for somebody who changes the schema at this moment.
    """
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT rights")
        try:
            context.settle_writing(connection, _RIGHTS_SECONDS)
        except (MigrationError, psycopg2.Error) as error:
            cursor.execute("ROLLBACK TO SAVEPOINT rights")
            what = f"the services may still write to its tables in PostgreSQL: {str(error).strip().splitlines()[0]}"
            fix = f"Run {playbook('1_infrastructure')}, which takes that right"
            return [Problem(f"cutover group {context.group.name}", what, fix)]
    return []


def to_sqlite(context: WindowContext, described: Mapping[str, Any]) -> list[Health]:
    """Take our lines out of the services' settings, lift the write protection, and start the services on SQLite.

    :param described: what was recorded of the file before its write protection.
    :raises MigrationError: if a service does not come up.
    """
    group, settings = context.group, context.settings
    context.keep_recovery_unit()
    stop(context)
    problems: list[Problem] = []
    unset: set[str] = set()
    for entry in context.handles.env_files:
        failed = attempted(partial(write_env_files, [entry], settings, SQLITE), group)
        problems += failed
        unset.update([entry.service.name] if failed else [])
    if Path(group.source_path).exists():
        problems += attempted(partial(_remove_protection, group, described), group)
    # Whoever has exchanged a file must not keep the services from running, but for one that would use PostgreSQL.
    start(context, [service for service in group.services if service.name not in unset])
    if problems:
        raise MigrationError(f"Cutover group {group.name} is not on SQLite as it was.", problems)
    healths = require_healthy(context, SQLITE, context.handles.pids)
    save(context)
    return healths


def _remove_protection(group: Group, described: Mapping[str, Any]) -> None:
    """Take the write protection of a group's file away."""
    with open_source(group) as source:
        write_protection.unprotect(source.descriptor, dict(described))


def written_until_stopped(context: WindowContext, record: ledger.GroupRecord) -> list[Problem]:
    """Return what :func:`written_since` does for stopped services, once nothing of theirs can be committed any more.

    A session that does not end counts as written: nobody knows what it will commit.
    """
    return sessions_left(context) or written_since(context.connection, context.group, record)


def sessions_left(context: WindowContext) -> list[Problem]:
    """Wait until the server has ended the sessions of stopped services, and name those that are left."""
    with closing(watch(context)) as watcher:
        try:
            left = watcher.wait_for_sessions(context.settings.stop_timeout)
        except ServerUnreachable:
            raise
        except MigrationError:
            # A role cannot log in any more, so only its name tells its sessions, and those before that still work.
            watcher.close()
            left = _sessions_of_roles(context.connection, context.group, context.settings.stop_timeout)
    return left


def _sessions_of_roles(connection: Connection, group: Group, timeout: float) -> list[Problem]:
    """Wait until no session of the services' roles is left, whosever it is, and name those that are."""
    deadline = time.monotonic() + timeout
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pid, usename FROM pg_stat_activity WHERE usename = ANY (%s) AND datname = current_database()",
                ([service.database_role for service in group.services],),
            )
            left = cursor.fetchall()
        connection.rollback()
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return [
        Problem(
            f"session {pid} of role {role}",
            "it may belong to a service that was stopped, and may commit rows",
            "Wait until it has ended, then run again",
        )
        for pid, role in left
    ]


def written_since(
    connection: Connection, group: Group, record: ledger.GroupRecord, locked: bool = False
) -> list[Problem]:
    """Return one problem for each table that was written to since the cutover.

    Where a service has put code into its tables they are not read, and count as written to.

    :param locked: the caller has looked for such code, and keeps the tables as they are.
    """
    then = record.detail.fingerprint
    if not locked:
        with connection.cursor() as cursor:
            code = code_in_tables.look(cursor, group, _RIGHTS_SECONDS)
        if code:
            connection.rollback()
            return code
    problems = []
    for table, now in since(connection, group, then).items():
        if now.written is not False:
            rows = f"{then[table]['rows']:,}" if table in then else "an unknown number of"
            problems.append(
                Problem(
                    f"{group.name}: {table}",
                    f"it was written to since the cutover: {rows} rows then, {now.rows:,} rows now",
                    "These rows are in PostgreSQL alone",
                )
            )
    connection.rollback()
    return problems


def how_to_roll_back(context: WindowContext) -> Problem:
    """Return what a person is told of a group that is on PostgreSQL and not well there."""
    return Problem(
        f"cutover group {context.group.name}",
        "it is on PostgreSQL, and its services are not proven well there",
        "Repair them there, or return to SQLite with every row: "
        f"{playbook('rollback', service_env_rollback_groups=context.group.name)}",
    )


def problems_of(error: BaseException, group: Group) -> list[Problem]:
    """Return what went wrong as problems, whatever kind of error it was."""
    if isinstance(error, Interrupted):
        return [error.problem]
    if isinstance(error, MigrationError):
        return error.problems or [Problem(f"cutover group {group.name}", error.summary, "Run again")]
    lines = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {lines[0] if lines else 'no more is known'}"
    return [Problem(f"cutover group {group.name}", what, "Correct this, then run again")]


def attempted(action: Callable[[], object], group: Group) -> list[Problem]:
    """Do one thing of putting a group right, and return what fails."""
    try:
        action()
    except Exception as error:
        return problems_of(error, group)
    return []


def how_they_are(unwell: list[Problem]) -> str:
    """Return the end of a sentence about services that were started again."""
    return ", and not all of them are proven well" if unwell else " and are well"


def _usable_connection(connection: Connection, login: Login, stack: ExitStack) -> Connection | None:
    """Return the connection, or a new one if the server has closed it; None if it does not answer for a while."""
    deadline = time.monotonic() + _RECONNECT_SECONDS
    candidate: Connection | None = connection
    while True:
        try:
            if candidate is None:
                candidate = connect(login)
                stack.callback(candidate.close)
            candidate.rollback()
            with candidate.cursor() as cursor:
                cursor.execute("SELECT 1")
            candidate.rollback()
            return candidate
        except Exception:
            candidate = None
            if time.monotonic() > deadline:
                return None
            time.sleep(0.5)
