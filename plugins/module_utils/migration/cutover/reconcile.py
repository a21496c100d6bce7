"""Keeps the services of a group that lives on PostgreSQL there, and finishes a cutover that was killed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import ledger, state
from ..core.connection import Login
from ..core.errors import MigrationError, Problem
from ..core.estate import Group, Service
from ..engine.transfer import migrate
from ..host import dotenv_file, open_files, write_protection
from ..host.safe_paths import Opened, sha256_of
from ..host.service_health import POSTGRESQL, Health, Watcher
from ..window.back_on_sqlite import problems_of, put_back, written_since
from ..window.checks import EnvFile, Settings, boot_warnings, check_database, check_services
from ..window.services import diff, has_no_log, open_source, save, start, watch, write_env_files
from ..window.steps import PROVEN, STOPPED_AT, Steps, make_report, record_cutover

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# How long a service that should be healthy may take to show it.
_PATIENCE_SECONDS = 3.0


class Keeper:
    """Keeps a group's services on PostgreSQL: right settings, online, proven; touches only what is not so."""

    def __init__(
        self,
        connection: Connection,
        login: Login | None,
        group: Group,
        settings: Settings,
        record: ledger.GroupRecord,
    ) -> None:
        self.connection = connection
        self.login = login
        self.group = group
        self.settings = settings
        self.record = record
        self.checked = check_services(group, settings, may_be_missing=True)
        check_database(connection, group, settings, self.checked)
        self.checked.require(f"Cutover group {group.name} lives on PostgreSQL, but cannot be looked after.")

    def foretell(self) -> dict[str, Any]:
        """Return what :meth:`run` would do."""
        with closing(watch(self.group, self.checked, self.settings)) as watcher:
            restart, healths = self._look(watcher)
            unsaved = not restart and save(self.group, self.checked, self.settings, check_mode=True)
        return self._result(restart, healths, unsaved, self._lacks_fence())

    def run(self) -> dict[str, Any] | None:
        """Do it, and return the result; None if the group turned out to be on SQLite and has to be cut over anew.

        :raises MigrationError: if a service does not come up, or both stores were written to.
        """
        started_at = datetime.now(UTC)
        steps = Steps()
        with closing(watch(self.group, self.checked, self.settings)) as watcher:
            with steps.step("look"):
                restart, healths = self._look(watcher)
            if restart and self._is_back_on_sqlite(restart):
                return None
            proven = bool(self.record.detail.get(PROVEN))
            began = time.monotonic()
            unfenced = self._lacks_fence()
            if unfenced:
                with open_source(self.group) as source:
                    self._require_frozen_file(source)
                    write_protection.raise_fence(source.descriptor)
            try:
                if restart:
                    with steps.step("settings"):
                        write_env_files(self._env_files_of(restart), POSTGRESQL)
                    with steps.step("start"):
                        old = [entry.pid for service in restart for entry in self.checked.processes[service.name]]
                        start(restart, self.checked)
                        watcher.wait(restart, POSTGRESQL, self.settings.health_timeout, old)
                    with steps.step("watch"):
                        healths = watcher.wait(self.group.services, POSTGRESQL, _PATIENCE_SECONDS)
                        watcher.watch(healths, self.settings.stable_seconds)
                with steps.step("save"):
                    saved = save(self.group, self.checked, self.settings)
            except BaseException as error:
                if proven or self.login is None or self.record.state != state.LIVE:
                    raise _still_live(self.group, error) from None
                step = f"the step '{steps.name}' of an interrupted cutover"
                raise put_back(
                    self.connection, self.login, self.group, self.settings, error, step, may_have_written=True
                ) from None
        result = self._result(restart, healths, saved, unfenced)
        if not proven and self.record.state == state.LIVE:
            # The run that opened the window was killed before it could report.
            stopped_at = self.record.detail.get(STOPPED_AT)
            since = (datetime.now(UTC) - datetime.fromisoformat(stopped_at)).total_seconds() if stopped_at else 0.0
            downtime = max(since - self.settings.stable_seconds, time.monotonic() - began)
            migration = ledger.read_latest_run(self.connection, self.group.name, migrate.FINAL) or {}
            report = make_report(self.group, healths, downtime, steps, None, migration)
            record_cutover(self.connection, self.group, started_at, report)
            result = {**result, "changed": True, "report": report}
            result["msg"] = f"{self.group.name}: an interrupted cutover was finished; it lives on PostgreSQL."
        return result

    def _look(self, watcher: Watcher) -> tuple[list[Service], list[Health]]:
        """Return the services that have to be started again, and the health of all."""
        stale = {
            entry.service.name
            for entry in self.checked.env_files
            if entry.text != entry.on_postgresql
            or not dotenv_file.is_private(entry.service.env_path, entry.service.user)
        }
        patience = 0.0 if stale else _PATIENCE_SECONDS
        healths = watcher.look(self.group.services, POSTGRESQL, patience, just_listed=self.checked.processes)
        restart = [health.service for health in healths if health.shortcoming or health.service.name in stale]
        return restart, healths

    def _is_back_on_sqlite(self, restart: Sequence[Service]) -> bool:
        """Return whether a cutover was undone without the ledger's knowledge, and correct the ledger if so.

        That happens if the server could not be reached while a failed cutover was undone.

        :raises MigrationError: if the services have written to SQLite, and rows to PostgreSQL were written too.
        """
        if not self._lacks_fence():
            return False
        with open_source(self.group) as source:
            untouched = has_no_log(source.path) and sha256_of(source.descriptor) == self.record.frozen_sha256
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
                        "Find out who took its fence away, and compare the rows written to it by hand",
                    ),
                    *written,
                ],
            )
        ledger.take_step(self.connection, self.group.name, "abandon", self.group.source_path)
        self.connection.commit()
        return True

    def _lacks_fence(self) -> bool:
        """Return whether the frozen file is there without its fence: an old program could write rows to it."""
        if self.record.state != state.LIVE or not Path(self.group.source_path).is_file():
            return False
        with open_source(self.group) as source:
            return not write_protection.is_fenced(source.descriptor)

    def _require_frozen_file(self, source: Opened) -> None:
        """Refuse to call a file frozen that was written to after its fence was taken away.

        :raises MigrationError: if it is not the file that was frozen.
        """
        if has_no_log(source.path) and sha256_of(source.descriptor) == self.record.frozen_sha256:
            return
        raise MigrationError(
            f"Cutover group {self.group.name} lives on PostgreSQL, and its SQLite file was written to since.",
            [
                Problem(
                    str(source.path),
                    "its fence is gone, and it is no longer the file that was frozen at the cutover",
                    "Find out who wrote to it, and take these rows over by hand; then put the frozen file back",
                )
            ],
        )

    def _env_files_of(self, services: Iterable[Service]) -> list[EnvFile]:
        """Return the dotenv files of some services."""
        names = {service.name for service in services}
        return [entry for entry in self.checked.env_files if entry.service.name in names]

    def _result(
        self, restart: Sequence[Service], healths: Sequence[Health], saved: bool, fenced: bool
    ) -> dict[str, Any]:
        """Return the module's result."""
        names = ", ".join(service.name for service in restart)
        if restart:
            msg = f"{self.group.name} lives on PostgreSQL; started again with the right settings: {names}."
        elif fenced:
            msg = f"{self.group.name} lives on PostgreSQL; the fence of its frozen SQLite file was put up again."
        elif saved:
            msg = f"{self.group.name} lives on PostgreSQL; pm2's list for the next boot was brought up to date."
        else:
            msg = f"{self.group.name} lives on PostgreSQL since {self.record.cutover_at:%Y-%m-%d %H:%M:%S} UTC."
        return {
            "changed": bool(restart) or saved or fenced,
            "state": self.record.state,
            "msg": msg,
            "diff": diff(self._env_files_of(restart), to=POSTGRESQL),
            "warnings": boot_warnings(self.checked),
            "report": {
                "group": self.group.name,
                "downtime_seconds": 0.0,
                "steps": [],
                "services": [health.report(POSTGRESQL) for health in healths],
            },
        }


def _still_live(group: Group, error: BaseException) -> MigrationError:
    """Return the error for services that live on PostgreSQL and do not come up."""
    return MigrationError(
        f"Cutover group {group.name} lives on PostgreSQL, and its services could not be brought up with the "
        "settings they should have.",
        problems_of(error, group),
    )
