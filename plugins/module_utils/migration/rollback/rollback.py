"""Puts a group that lives on PostgreSQL back on SQLite, with every row that was written to PostgreSQL since.

The rows come back into the frozen file. If nothing was written, the file is taken as it is; rows are
left behind only for whom types their exact number.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from ..core import ledger, state
from ..core.connection import Login, ServerUnreachable, connected
from ..core.errors import MigrationError
from ..core.estate import Group
from ..host.service_health import SQLITE
from ..window import rollback_record
from ..window.back_on_sqlite import how_they_are, problems_of, to_sqlite
from ..window.checks import Checked, Settings, check_services
from ..window.host_lock import LOCK_SECONDS, locked_on_host
from ..window.rollback_record import Standing
from ..window.services import diff, watch
from ..window.signals import interruptible, server_errors, uninterruptible
from ..window.steps import FENCE, Steps
from .checks import Options, check
from .undo import bring_up_on_postgresql
from .window import Window, describe, finish

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


def roll_back(
    login: Login, group: Group, settings: Settings, check_mode: bool = False, options: Options | None = None
) -> dict[str, Any]:
    """Bring a group's services to SQLite, or keep them there.

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
            with (
                server_errors(group),
                interruptible(),
                locked_on_host(group.name, settings.work_directory, LOCK_SECONDS),
                ledger.locked(connection, f"group {group.name}", LOCK_SECONDS),
            ):
                return run.bring_to_sqlite()
    except ServerUnreachable:
        if not check_mode:
            raise
        return _never_moved(group)


def put_right(login: Login, group: Group, settings: Settings) -> str:
    """Bring an interrupted way back to an end, before anything else is done with a group.

    :returns: what was done, for a person; empty if there was nothing to do.
    :raises MigrationError: if the services do not come up, or somebody has written to the frozen file.
    """
    with connected(login) as connection:
        if not ledger.exists(connection):
            return ""
        connection.rollback()
        if rollback_record.standing(_read(connection, group)) is Standing.NOTHING:
            return ""
        with (
            server_errors(group),
            interruptible(),
            locked_on_host(group.name, settings.work_directory, LOCK_SECONDS),
            ledger.locked(connection, f"group {group.name}", LOCK_SECONDS),
        ):
            record = _read(connection, group)
            standing = rollback_record.standing(record)
            if standing is Standing.UNDO:
                checked = check_services(group, settings, may_be_missing=True)
                left, unwell = bring_up_on_postgresql(
                    login, group, settings, checked, lambda: rollback_record.undo(connection, group, record)
                )
                if left or unwell:
                    raise MigrationError(
                        f"An interrupted way back of cutover group {group.name} could not be undone altogether; "
                        f"it stays on PostgreSQL, and its services were started again{how_they_are(unwell)}.",
                        [*checked.problems, *left, *unwell],
                    )
                return f"{group.name}: an interrupted way back was undone."
            if standing is Standing.FINISH:
                checked = check_services(group, settings, may_be_missing=True)
                checked.require(f"Cutover group {group.name} is on SQLite, but cannot be looked after.")
                finish(connection, group, settings, checked, Steps(), None)
                return f"{group.name}: an interrupted way back was finished."
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

    def bring_to_sqlite(self) -> dict[str, Any]:
        """Bring the group to SQLite, or keep it there."""
        group, name = self.group, self.group.name
        record = _read(self.connection, group)
        standing = rollback_record.standing(record)
        if standing is not Standing.FINISH and record.state in (state.PENDING, state.REHEARSED):
            return _unchanged(group, record.state)
        checked = check_services(group, self.settings, may_be_missing=True)
        if standing is Standing.FINISH:
            checked.require(f"Cutover group {name} is on SQLite, but cannot be looked after.")
            return self._finish(checked, record)
        if record.state == state.ROLLED_BACK:
            checked.require(f"Cutover group {name} is on SQLite, but cannot be looked after.")
            return self._keep_on_sqlite(checked)
        if record.state == state.FROZEN:
            checked.require(f"Cutover group {name} is frozen and cannot be brought back to SQLite.")
            return self._thaw(checked, record)
        # Refuses a group whose file is archived or gone.
        state.next_state(name, record.state, "roll_back")
        return self._leave_postgresql(checked, record, interrupted=standing is Standing.UNDO)

    def _leave_postgresql(self, checked: Checked, record: ledger.GroupRecord, interrupted: bool) -> dict[str, Any]:
        """Bring a group back that is live.

        :param interrupted: an earlier way back was killed, and may have left the services stopped.
        """
        group = self.group
        try:
            if interrupted and not self.check_mode:
                rollback_record.undo(self.connection, group, record)
            found = check(self.connection, group, record, self.options, checked, self.settings.work_directory)
            checked.require(
                f"Cutover group {group.name} cannot be rolled back; "
                + ("it stays on PostgreSQL." if interrupted else "nothing was stopped.")
            )
        except BaseException as error:
            if not interrupted or self.check_mode:
                raise
            # An earlier run has left the services stopped: they must not stay so.
            left, unwell = bring_up_on_postgresql(
                self.login,
                group,
                self.settings,
                checked,
                lambda: rollback_record.undo(self.connection, group, _read(self.connection, group)),
            )
            problems = problems_of(error, group)
            raise MigrationError(
                f"Cutover group {group.name} cannot be rolled back; it stays on PostgreSQL, and its services, which "
                f"an interrupted way back had left stopped, were started again{how_they_are(unwell)}.",
                [*problems, *(problem for problem in [*left, *unwell] if problem not in problems)],
            ) from None
        changed = found.changed
        if self.check_mode:
            how = (
                "with every row written to PostgreSQL since its cutover" if changed else "on its file as it was frozen"
            )
            if self.options.lose_rows and changed:
                how = f"on its file as it was frozen, without {self.options.lose_rows:,} rows"
            return _moved(group, record.state, checked, f"{group.name} would be put back on SQLite, {how}.")
        report = Window(self.connection, self.login, group, self.settings, self.options, checked, record, found).run()
        return {**_moved(group, state.ROLLED_BACK, checked, describe(report)), "report": report}

    def _finish(self, checked: Checked, record: ledger.GroupRecord) -> dict[str, Any]:
        """Start the services after a way back that was killed behind its commit."""
        group = self.group
        if self.check_mode:
            msg = f"{group.name}: an interrupted way back would be finished; it runs on SQLite then."
            return _moved(group, record.state, checked, msg)
        report = finish(self.connection, group, self.settings, checked, Steps(), None)
        msg = f"{group.name}: an interrupted way back was finished. {describe(report)}"
        return {**_moved(group, record.state, checked, msg), "report": report}

    def _thaw(self, checked: Checked, record: ledger.GroupRecord) -> dict[str, Any]:
        """Bring back the services of an interrupted cutover."""
        group = self.group
        if not self.check_mode:
            with uninterruptible():
                to_sqlite(group, checked, self.settings, record.detail.get(FENCE, {}))
                ledger.take_step(self.connection, group.name, "thaw", group.source_path)
                self.connection.commit()
        done = "would be" if self.check_mode else "was"
        msg = f"{group.name}: an interrupted cutover {done} undone; it runs on SQLite."
        return _moved(group, state.REHEARSED, checked, msg)

    def _keep_on_sqlite(self, checked: Checked) -> dict[str, Any]:
        """Start the services of a group that is back where one is not right; leave alone what is."""
        group = self.group
        right = all(entry.text == entry.on_sqlite for entry in checked.env_files)
        if right:
            with closing(watch(group, checked, self.settings)) as watcher:
                right = not any(health.shortcoming for health in watcher.look(group.services, SQLITE, 3.0))
        if right:
            return _unchanged(group, state.ROLLED_BACK)
        if not self.check_mode:
            with uninterruptible():
                to_sqlite(group, checked, self.settings, {})
        done = "would be" if self.check_mode else "were"
        msg = f"{group.name} is on SQLite; its services {done} started again with the right settings."
        return _moved(group, state.ROLLED_BACK, checked, msg)


def _read(connection: Connection, group: Group) -> ledger.GroupRecord:
    """Return the ledger's record of a group, leaving no transaction open."""
    record = ledger.read_group(connection, group.name, group.source_path)
    connection.rollback()
    return record


def _moved(group: Group, new_state: str, checked: Checked, msg: str) -> dict[str, Any]:
    """Return the result of a change."""
    return {"changed": True, "state": new_state, "msg": msg, "diff": diff(checked.env_files, to=SQLITE)}


def _unchanged(group: Group, group_state: str) -> dict[str, Any]:
    """Return the result for a group that is on SQLite."""
    return {"changed": False, "state": group_state, "msg": f"{group.name} is on SQLite.", "diff": []}


def _never_moved(group: Group) -> dict[str, Any]:
    """Return the result of a dry run on a host without a server or a ledger."""
    return _unchanged(group, state.PENDING)
