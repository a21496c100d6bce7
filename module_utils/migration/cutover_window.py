"""One window: from the stop of a group's services to their proven health on PostgreSQL, or everything undone."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import engine, fence, ledger, state, way_back
from .connection import Login
from .cutover_checks import Checked, Settings
from .cutover_report import FENCE, FINGERPRINT, PROVEN, STOPPED_AT, Steps, make_report, record_cutover
from .cutover_undo import put_back
from .estate import Group
from .fingerprint import fingerprint
from .group_services import checkpoint, diff, save, start, stop, wait_until_closed, watch, write_env_files
from .service_health import POSTGRESQL
from .snapshot import sha256_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


class Window:
    """One window, from the stop of the services to their proven health on PostgreSQL."""

    def __init__(
        self,
        connection: Connection,
        login: Login,
        group: Group,
        settings: Settings,
        checked: Checked,
        record: ledger.GroupRecord,
    ) -> None:
        self.connection = connection
        self.login = login
        self.group = group
        self.settings = settings
        self.checked = checked
        self.record = record
        self.steps = Steps()

    def run(self) -> dict[str, Any]:
        """Go through the window; on any failure put the group back.

        :raises MigrationError: saying what failed and where the group is now.
        """
        started_at = datetime.now(UTC)
        watcher = watch(self.group, self.checked, self.settings)
        with ExitStack() as stack:
            stack.callback(watcher.close)
            try:
                began = time.monotonic()
                with self.steps.step("freeze"):
                    self._freeze(started_at)
                with self.steps.step("final sync"):
                    migration = engine.migrate(
                        self.connection, self.group, engine.FINAL, work_directory=self.settings.work_directory
                    )
                with self.steps.step("settings"):
                    write_env_files(self.checked.env_files, POSTGRESQL)
                with self.steps.step("go live"):
                    self._go_live()
                with self.steps.step("start"):
                    start(self.group.services, self.checked)
                    healths = watcher.wait(
                        self.group.services, POSTGRESQL, self.settings.health_timeout, self.checked.pids
                    )
                with self.steps.step("watch"):
                    watcher.watch(healths, self.settings.stable_seconds)
                downtime = max(health.healthy_at for health in healths) - began
                with self.steps.step("save"):
                    save(self.group, self.checked, self.settings)
            except BaseException as error:
                # Its sessions are of the services' roles too, and must not be taken for theirs.
                watcher.close()
                raise put_back(
                    self.connection, self.login, self.group, self.settings, error, f"the step '{self.steps.name}'"
                ) from None
        report = make_report(self.group, healths, downtime, self.steps, migration["report"])
        for entry, health in zip(report["services"], healths, strict=True):
            entry["downtime_seconds"] = round(health.healthy_at - began, 3)
        record_cutover(self.connection, self.group, started_at, report)
        return {
            "changed": True,
            "state": state.LIVE,
            "msg": f"{self.group.name} lives on PostgreSQL; its services were down for {downtime:.1f} seconds.",
            "diff": diff(self.checked.env_files, to=POSTGRESQL),
            "report": report,
        }

    def _freeze(self, started_at: datetime) -> None:
        """Stop the services, prove that nobody has the file open, complete it, and fence it."""
        path = Path(os.path.realpath(self.group.source_path))
        # A fence that is there already was put up by an earlier run, which recorded what was before it.
        known = self.record.detail.get(FENCE)
        described = known if known and fence.is_fenced(path) else fence.describe(path)
        since = self.record.detail.get(STOPPED_AT) if self.record.state == state.FROZEN else None
        detail = {FENCE: described, STOPPED_AT: since or started_at.isoformat(), PROVEN: False}
        self._step("freeze", detail=detail)
        stop(self.group.services, self.checked)
        wait_until_closed(self.group.source_path, self.settings.stop_timeout)
        fence.remove_fence(path, described)
        checkpoint(path)
        fence.raise_fence(path)
        self._step("freeze", frozen_sha256=sha256_of(path))

    def _go_live(self) -> None:
        """Commit that PostgreSQL is the store, before the first service can write to it."""
        way_back.end(self.connection, self.group, self.record)
        self._step("go_live", detail={FINGERPRINT: fingerprint(self.connection, self.group)})

    def _step(self, step: str, frozen_sha256: str | None = None, detail: dict[str, Any] | None = None) -> None:
        """Take a step in the ledger and commit it."""
        ledger.take_step(
            self.connection, self.group.name, step, self.group.source_path, frozen_sha256=frozen_sha256, detail=detail
        )
        self.connection.commit()
