"""Keeps the services of a group that lives on PostgreSQL there, and finishes a cutover that was killed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core import ledger, state
from ..core.decide import Cutover, Interrupted, decide
from ..core.errors import MigrationError, Problem
from ..core.estate import Service
from ..core.files import sha256_of_open
from ..host import open_files, write_protection
from ..host.safe_paths import Opened
from ..host.service_health import POSTGRESQL, Health, Watcher
from ..window.back_on_sqlite import how_to_roll_back, problems_of, revert, written_since
from ..window.checks import EnvFile, Settings, boot_warnings
from ..window.context import WindowContext
from ..window.services import diff, has_no_log, open_source, save, start, watch, write_env_files
from ..window.steps import Steps, make_report, record_cutover

# How long a service that should be healthy may take to show it.
_PATIENCE_SECONDS = 3.0


class Keeper:
    """Keeps a group's services on PostgreSQL: right settings, online, proven; touches only what is not so."""

    def __init__(
        self,
        context: WindowContext,
        record: ledger.GroupRecord,
    ) -> None:
        self.context = context
        self.connection = context.connection
        self.group = context.group
        self.settings = context.settings
        self.record = record
        self.action = decide(record)
        # Services that are well as far as anybody can see, and have no session on the server.
        self._without_session: list[Health] = []

    def dry_run(self) -> dict[str, Any] | None:
        """Return what :meth:`run` would do, after the same checks; None if it would cut the group over anew.

        :raises MigrationError: as :meth:`run` does before it changes anything.
        """
        with closing(watch(self.context)) as watcher:
            restart, healths = self._look(watcher)
            if restart and self._is_back_on_sqlite(restart):
                return None
            unprotected = self._lacks_protection()
            if unprotected and self.action.interrupted is Interrupted.NOTHING:
                with open_source(self.group) as source:
                    self._require_frozen_file(source)
            unsaved = not restart and save(self.context, check_mode=True)
        result = self._result(restart, healths, unsaved, unprotected, self._diff(restart))
        if self.action.cutover is Cutover.FINISH:
            msg = f"{self.group.name}: an interrupted cutover would be finished; it lives on PostgreSQL."
            result |= {"changed": True, "msg": msg}
        return result

    def run(self) -> dict[str, Any] | None:
        """Do it, and return the result; None if the group turned out to be on SQLite and has to be cut over anew.

        :raises MigrationError: if a service does not come up, or both stores were written to.
        """
        started_at = datetime.now(UTC)
        steps = Steps()
        with closing(watch(self.context)) as watcher:
            with steps.step("look"):
                restart, healths = self._look(watcher)
            if restart and self._is_back_on_sqlite(restart):
                ledger.take_step(self.connection, self.group.name, "abandon", self.group.source_path)
                self.context.settle_writing(self.connection)
                self.connection.commit()
                return None
            changed_settings = self._diff(restart)
            began = time.monotonic()
            unprotected = self._lacks_protection()
            if unprotected:
                with open_source(self.group) as source:
                    self._require_frozen_file(source)
                    write_protection.protect(source.descriptor)
            try:
                if restart:
                    if self.action.window_is_open:
                        self.context.keep_recovery_unit()
                    with steps.step("settings"):
                        write_env_files(self._env_files_of(restart), self.settings, POSTGRESQL)
                    with steps.step("start"):
                        old = [
                            entry.pid for service in restart for entry in self.context.handles.processes[service.name]
                        ]
                        start(self.context, restart)
                        watcher.wait(restart, POSTGRESQL, self.settings.health_timeout, old)
                    with steps.step("watch"):
                        left_alone = [health.service for health in self._without_session]
                        proven = [service for service in self.group.services if service not in left_alone]
                        healths = watcher.wait(proven, POSTGRESQL, _PATIENCE_SECONDS)
                        watcher.watch(healths, self.settings.stable_seconds)
                        healths = healths + self._without_session
                with steps.step("save"):
                    saved = save(self.context)
            except BaseException as error:
                if self.action.cutover is not Cutover.FINISH:
                    raise _still_live(self.context, self.record.state, error) from None
                step = f"the step '{steps.name}' of an interrupted cutover"
                # Its services may have lived on PostgreSQL for days: only a person takes their rows back from there.
                context = replace(self.context, settings=replace(self.settings, roll_back_on_failure=False))
                raise revert(context, error, step, may_have_written=True) from None
        result = self._result(restart, healths, saved, unprotected, changed_settings)
        if self.action.cutover is Cutover.FINISH:
            # The run that opened the window was killed before it could report.
            from ..engine.transfer import migrate

            stopped_at = self.record.detail.stopped_at
            since = (datetime.now(UTC) - stopped_at).total_seconds() if stopped_at else 0.0
            downtime = max(since - self.settings.stable_seconds, time.monotonic() - began)
            migration = ledger.read_latest_run(self.connection, self.group.name, migrate.FINAL) or {}
            report = make_report(self.group, healths, downtime, steps, None, migration)
            record_cutover(self.connection, self.group, started_at, report)
            result = {**result, "changed": True, "report": report}
            result["msg"] = f"{self.group.name}: an interrupted cutover was finished; it lives on PostgreSQL."
        return result

    def _look(self, watcher: Watcher) -> tuple[list[Service], list[Health]]:
        """Return the services that have to be started again, and the health of all.

        One that was proven to be on PostgreSQL, and is well but for a session, is left alone: its pool may have closed
        the last one, because nobody has asked it for anything.
        """
        stale = {
            entry.service.name
            for entry in self.context.handles.env_files
            if _is_stale(entry, self.settings) or not entry.is_private()
        }
        patience = 0.0 if stale else _PATIENCE_SECONDS
        healths = watcher.look(self.group.services, POSTGRESQL, patience, just_listed=self.context.handles.processes)
        if self.action.cutover is Cutover.KEEP:
            self._without_session = [
                health for health in healths if health.lacks_session and health.service.name not in stale
            ]
        wrong = [health for health in healths if health.shortcoming and health not in self._without_session]
        restart = [health.service for health in healths if health in wrong or health.service.name in stale]
        return restart, healths

    def _is_back_on_sqlite(self, restart: Sequence[Service]) -> bool:
        """Return whether a cutover was undone without the ledger's knowledge.

        That happens if the server could not be reached while a failed cutover was undone.

        :raises MigrationError: if the services have written to SQLite, and rows to PostgreSQL were written too.
        """
        if self.action.interrupted is not Interrupted.NOTHING:
            # A rollback has left the file so, and is undone first.
            return False
        if not self._lacks_protection():
            return False
        with open_source(self.group) as source:
            untouched = has_no_log(source.path) and sha256_of_open(source.descriptor) == self.record.frozen_sha256
        if untouched and not open_files.find_holders(self.group.source_path):
            return False
        written = written_since(self.connection, self.group, self.record)
        if written:
            raise MigrationError(
                f"Cutover group {self.group.name} was written to in both stores.",
                [
                    Problem(
                        self.group.source_path,
                        "it is no longer the file that was frozen at the cutover, and "
                        f"{', '.join(service.name for service in restart)} may use it",
                        "Find out who took its write protection away, and compare the rows written to it by hand",
                    ),
                    *written,
                ],
            )
        return True

    def _lacks_protection(self) -> bool:
        """Return whether the frozen file is there unprotected: an old program could write rows to it."""
        if not self.action.frozen_file_in_place or not Path(self.group.source_path).is_file():
            return False
        # Only looked at: an interrupted rollback has left it with a further name.
        with open_source(self.group, links=None) as source:
            return not write_protection.is_protected(source.descriptor)

    def _require_frozen_file(self, source: Opened) -> None:
        """Refuse to call a file frozen that was written to after its write protection was taken away.

        :raises MigrationError: if it is not the file that was frozen.
        """
        if has_no_log(source.path) and sha256_of_open(source.descriptor) == self.record.frozen_sha256:
            return
        raise MigrationError(
            f"Cutover group {self.group.name} lives on PostgreSQL, and its SQLite file was written to since.",
            [
                Problem(
                    str(source.path),
                    "its write protection is gone, and it is no longer the file that was frozen at the cutover",
                    "Find out who wrote to it, and take these rows over by hand; then put the frozen file back",
                )
            ],
        )

    def _env_files_of(self, services: Iterable[Service]) -> list[EnvFile]:
        """Return the dotenv files of some services."""
        names = {service.name for service in services}
        return [entry for entry in self.context.handles.env_files if entry.service.name in names]

    def _diff(self, restart: Sequence[Service]) -> list[dict[str, str]]:
        """Return how the settings of services that are started again would change."""
        return diff(self._env_files_of(restart), self.settings, to=POSTGRESQL)

    def _result(
        self,
        restart: Sequence[Service],
        healths: Sequence[Health],
        saved: bool,
        protected: bool,
        changed_settings: list[dict[str, str]],
    ) -> dict[str, Any]:
        """Return the module's result."""
        names = ", ".join(service.name for service in restart)
        if restart:
            msg = f"{self.group.name} lives on PostgreSQL; started again with the right settings: {names}."
        elif protected:
            msg = f"{self.group.name} lives on PostgreSQL; its frozen SQLite file is write-protected again."
        elif saved:
            done = sorted({manager.saving for manager in self.context.handles.managers.values() if manager.saving})
            msg = f"{self.group.name} lives on PostgreSQL; {', or '.join(done)}."
        else:
            msg = f"{self.group.name} lives on PostgreSQL since {self.record.cutover_at:%Y-%m-%d %H:%M:%S} UTC."
        return {
            "changed": bool(restart) or saved or protected,
            "state": self.record.state,
            "msg": msg,
            "diff": changed_settings,
            "warnings": [*boot_warnings(self.context.handles), *map(_left_running, self._without_session)],
            "report": {
                "group": self.group.name,
                "downtime_seconds": 0.0,
                "steps": [],
                "services": [health.report(POSTGRESQL) for health in healths],
            },
        }


def _is_stale(entry: EnvFile, settings: Settings) -> bool:
    """Return whether a service's settings are not those of PostgreSQL."""
    text = entry.read()
    return text != entry.render(text, settings, POSTGRESQL)


def _left_running(health: Health) -> str:
    """Return what is said of a service that has no session on the server."""
    address = "query_url" if health.service.query_url else "health_url"
    return (
        f"service {health.service.name}: {health.shortcoming}. It was left running, because its settings are right, "
        f"its address answers and it does not have the SQLite file open. Its '{address}' seems not to ask the "
        "database: name an address that does as 'query_url' of the service in estate_cutover_groups."
    )


def _still_live(context: WindowContext, group_state: str, error: BaseException) -> MigrationError:
    """Return the error for services that live on PostgreSQL and do not come up."""
    # Behind its archive a group cannot be rolled back any more.
    advice = [how_to_roll_back(context)] if group_state == state.LIVE else []
    return MigrationError(
        f"Cutover group {context.group.name} lives on PostgreSQL, and its services could not be brought up with the "
        "settings they should have.",
        [*problems_of(error, context.group), *advice],
    )
