"""Puts a group that lives on PostgreSQL back on SQLite, with every row that was written to PostgreSQL since.

The rows come back into the frozen file. If nothing was written, the file is taken as it is; rows are
left behind only for whom types their exact number.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from ..core import ledger, state
from ..core.connection import Login, ServerUnreachable, connected
from ..core.decide import Interrupted, Rollback, decide
from ..core.errors import MigrationError
from ..core.estate import Group
from ..host.service_health import SQLITE
from ..postgres import privileges
from ..window import rollback_record
from ..window.back_on_sqlite import how_they_are, problems_of, to_sqlite
from ..window.checks import EnvFile, Findings, Settings, check_services
from ..window.context import WindowContext
from ..window.host_lock import LOCK_SECONDS
from ..window.one_run import one_run
from ..window.services import diff, forget_stopped, watch
from ..window.signals import uninterruptible
from ..window.steps import Steps
from .checks import Options, check
from .undo import bring_up_on_postgresql

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


def roll_back(
    login: Login,
    group: Group,
    settings: Settings,
    check_mode: bool = False,
    options: Options | None = None,
    may_leave: bool = True,
) -> dict[str, Any]:
    """Bring a group's services to SQLite, or keep them there.

    :param may_leave: False to look only after a group that is on SQLite, and to leave one on PostgreSQL alone. The
        window of a cutover is then undone whatever the checks find.
    :returns: ``changed``, ``state``, ``msg``, ``diff`` and, if services were moved, ``report``.
    :raises MigrationError: before anything is stopped, if a row would be lost or the file is not the frozen one.
    """
    try:
        with connected(login) as connection:
            if check_mode and not ledger.exists(connection):
                return _never_moved(group)
            ledger.require(connection)
            connection.rollback()
            run = _Run(connection, login, group, settings, options or Options(), check_mode)
            if check_mode:
                return run.bring_to_sqlite()
            with one_run(connection, login, group, settings, LOCK_SECONDS):
                return run.bring_to_sqlite(may_leave)
    except ServerUnreachable:
        if not check_mode:
            raise
        return _never_moved(group)


def put_right(login: Login, group: Group, settings: Settings, check_mode: bool = False) -> str:
    """Bring an interrupted rollback to an end, before anything else is done with a group.

    :param check_mode: only say what would be done.
    :returns: what was done, for a person; empty if there was nothing to do.
    :raises MigrationError: if the services do not come up, or somebody has written to the frozen file.
    """
    try:
        with connected(login) as connection:
            return _put_right(connection, login, group, settings, check_mode)
    except ServerUnreachable:
        if not check_mode:
            raise
        return ""


def _put_right(connection: Connection, login: Login, group: Group, settings: Settings, check_mode: bool) -> str:
    """Do what :func:`put_right` says."""
    if not ledger.exists(connection):
        return ""
    connection.rollback()
    interrupted = decide(_read(connection, group)).interrupted
    if interrupted is Interrupted.NOTHING:
        return ""
    if check_mode:
        done = "undone" if interrupted is Interrupted.UNDO else "finished"
        return f"{group.name}: an interrupted rollback would be {done}."
    with one_run(connection, login, group, settings, LOCK_SECONDS):
        record = _read(connection, group)
        interrupted = decide(record).interrupted
        if interrupted is Interrupted.UNDO:
            findings = Findings()
            handles = check_services(group, settings, findings, may_be_missing=True)
            context = WindowContext(connection, login, group, settings, handles)
            left, unwell = bring_up_on_postgresql(context, lambda: rollback_record.undo(connection, group, record))
            if left or unwell:
                raise MigrationError(
                    f"An interrupted rollback of cutover group {group.name} could not be undone altogether; "
                    f"it stays on PostgreSQL, and its services were started again{how_they_are(unwell)}.",
                    [*findings.violations, *left, *unwell],
                )
            return f"{group.name}: an interrupted rollback was undone."
        if interrupted is Interrupted.FINISH:
            from .window import finish, warnings_of

            findings = Findings()
            handles = check_services(group, settings, findings, may_be_missing=True)
            findings.require_none(f"Cutover group {group.name} is on SQLite, but cannot be looked after.")
            report = finish(WindowContext(connection, login, group, settings, handles), Steps(), None)
            return " ".join([f"{group.name}: an interrupted rollback was finished.", *warnings_of(report)])
    return ""


class _Run:
    """One run over one group: does what the group's state asks for."""

    def __init__(
        self,
        connection: Connection,
        login: Login,
        group: Group,
        settings: Settings,
        options: Options,
        check_mode: bool,
    ) -> None:
        self.connection = connection
        self.login = login
        self.group = group
        self.settings = settings
        self.options = options
        self.check_mode = check_mode

    def bring_to_sqlite(self, may_leave: bool = True) -> dict[str, Any]:
        """Bring the group to SQLite, or keep it there."""
        group, name = self.group, self.group.name
        record = _read(self.connection, group)
        action = decide(record)
        if action.on_postgresql and not may_leave:
            return {"changed": False, "state": record.state, "msg": f"{name} is on PostgreSQL.", "diff": []}
        if action.rollback is Rollback.NOTHING:
            return _unchanged(group, record.state)
        if action.rollback is Rollback.REFUSE:
            # Raises, and says how its file comes back.
            state.next_state(name, record.state, "roll_back")
        findings = Findings()
        handles = check_services(group, self.settings, findings, may_be_missing=True)
        context = WindowContext(self.connection, self.login, group, self.settings, handles)
        if action.rollback is Rollback.LEAVE_POSTGRESQL:
            return self._leave_postgresql(context, record, findings, action.interrupted is Interrupted.UNDO)
        if action.rollback is Rollback.REVERT_CUTOVER:
            if may_leave:
                findings.require_none(f"Cutover group {name} is frozen and cannot be brought back to SQLite.")
            # Else the services are down and nobody is there to correct it: what can be started is.
            return self._revert_cutover(context, record)
        findings.require_none(f"Cutover group {name} is on SQLite, but cannot be looked after.")
        if action.rollback is Rollback.FINISH:
            return self._finish(context, record)
        return self._keep_on_sqlite(context)

    def _leave_postgresql(
        self, context: WindowContext, record: ledger.GroupRecord, findings: Findings, interrupted: bool
    ) -> dict[str, Any]:
        """Bring a group back that is live.

        :param interrupted: an earlier rollback was killed, and may have left the services stopped.
        """
        # Only where a group really goes back: every cutover imports this module, and the engine takes long to import.
        from .window import Window, describe, warnings_of

        group = self.group
        try:
            if interrupted and not self.check_mode:
                rollback_record.undo(self.connection, group, record)
            found = check(context, record, self.options, findings)
            findings.require_none(
                f"Cutover group {group.name} cannot be rolled back; "
                + ("it stays on PostgreSQL." if interrupted else "nothing was stopped.")
            )
            if not self.check_mode:
                # The commit that makes SQLite the store needs the lock, and nobody should wait for it then.
                privileges.require_free(self.connection, context.settings.stop_timeout)
                context.put_recovery_unit()
        except BaseException as error:
            if not interrupted or self.check_mode:
                raise
            # An earlier run has left the services stopped: they must not stay so.
            left, unwell = bring_up_on_postgresql(
                context,
                lambda: rollback_record.undo(self.connection, group, _read(self.connection, group)),
            )
            problems = problems_of(error, group)
            raise MigrationError(
                f"Cutover group {group.name} cannot be rolled back; it stays on PostgreSQL, and its services, which "
                f"an interrupted rollback had left stopped, were started again{how_they_are(unwell)}.",
                [*problems, *(problem for problem in [*left, *unwell] if problem not in problems)],
            ) from None
        changed = found.changed
        changed_settings = _diff(context)
        if self.check_mode:
            how = (
                "with every row written to PostgreSQL since its cutover" if changed else "on its file as it was frozen"
            )
            if self.options.lose_rows and changed:
                how = f"on its file as it was frozen, without {self.options.lose_rows:,} rows"
            return _moved(group, record.state, changed_settings, f"{group.name} would go back to SQLite, {how}.")
        report = Window(context, self.options, record, found).run()
        result = _moved(group, state.ROLLED_BACK, changed_settings, describe(report))
        return {**result, "report": report, "warnings": warnings_of(report)}

    def _finish(self, context: WindowContext, record: ledger.GroupRecord) -> dict[str, Any]:
        """Start the services after a rollback that was killed behind its commit."""
        from .window import describe, finish, warnings_of

        group, changed_settings = self.group, _diff(context)
        if self.check_mode:
            msg = f"{group.name}: an interrupted rollback would be finished; it runs on SQLite then."
            return _moved(group, record.state, changed_settings, msg)
        report = finish(context, Steps(), None)
        msg = f"{group.name}: an interrupted rollback was finished. {describe(report)}"
        return {**_moved(group, record.state, changed_settings, msg), "report": report, "warnings": warnings_of(report)}

    def _revert_cutover(self, context: WindowContext, record: ledger.GroupRecord) -> dict[str, Any]:
        """Bring back the services of an interrupted cutover."""
        group, changed_settings = self.group, _diff(context)
        if not self.check_mode:
            with uninterruptible():
                to_sqlite(context, record.detail.file_before)
                ledger.take_step(self.connection, group.name, "thaw", group.source_path)
                self.connection.commit()
        done = "would be" if self.check_mode else "was"
        msg = f"{group.name}: an interrupted cutover {done} undone; it runs on SQLite."
        return _moved(group, state.REHEARSED, changed_settings, msg)

    def _keep_on_sqlite(self, context: WindowContext) -> dict[str, Any]:
        """Start the services of a group that is back where one is not right; leave alone what is."""
        group, changed_settings = self.group, _diff(context)
        right = all(text == entry.render(text, self.settings, SQLITE) for entry, text in _texts(context))
        if right:
            with closing(watch(context)) as watcher:
                right = not any(health.shortcoming for health in watcher.look(group.services, SQLITE, 3.0))
        if right:
            result = _unchanged(group, state.ROLLED_BACK)
            if forget_stopped(context, self.check_mode):
                done = "would be" if self.check_mode else "was"
                msg = f"{group.name} is on SQLite; what had stopped along with its services {done} started again."
                result |= {"changed": True, "msg": msg}
            return result
        if not self.check_mode:
            with uninterruptible():
                # No window is open that would tell it what to do.
                context.keep_recovery_unit(keeps_on_sqlite=True)
                to_sqlite(context, {})
        done = "would be" if self.check_mode else "were"
        msg = f"{group.name} is on SQLite; its services {done} started again with the right settings."
        return _moved(group, state.ROLLED_BACK, changed_settings, msg)


def _read(connection: Connection, group: Group) -> ledger.GroupRecord:
    """Return the ledger's record of a group, leaving no transaction open."""
    record = ledger.read_group(connection, group.name, group.source_path)
    connection.rollback()
    return record


def _texts(context: WindowContext) -> list[tuple[EnvFile, str]]:
    """Return each dotenv file of the group with what stands in it."""
    return [(entry, entry.read()) for entry in context.handles.env_files]


def _diff(context: WindowContext) -> list[dict[str, str]]:
    """Return how the settings of the services would change; asked before they do."""
    return diff(context.handles.env_files, context.settings, to=SQLITE)


def _moved(group: Group, new_state: str, changed_settings: list[dict[str, str]], msg: str) -> dict[str, Any]:
    """Return the result of a change."""
    return {"changed": True, "state": new_state, "msg": msg, "diff": changed_settings}


def _unchanged(group: Group, group_state: str) -> dict[str, Any]:
    """Return the result for a group that is on SQLite."""
    return {"changed": False, "state": group_state, "msg": f"{group.name} is on SQLite.", "diff": []}


def _never_moved(group: Group) -> dict[str, Any]:
    """Return the result of a dry run on a host without a server or a ledger."""
    return _unchanged(group, state.PENDING)
