"""One window: from the stop of a group's services to their proven health on PostgreSQL, or everything undone."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import ledger, state
from ..core.clock import stamp
from ..core.connection import Login
from ..core.estate import Group
from ..engine.proof.target_state import LaterFingerprint
from ..engine.transfer import migrate
from ..host import write_protection
from ..host.downtime import DowntimeClient
from ..host.safe_paths import sha256_of
from ..host.service_health import POSTGRESQL
from ..window import rollback_record
from ..window.back_on_sqlite import put_back
from ..window.checks import Checked, Settings, boot_warnings
from ..window.services import (
    checkpoint,
    diff,
    identity_of,
    limit_waits,
    open_source,
    require_at_rest,
    require_unchanged,
    save,
    start,
    stop,
    wait_until_closed,
    watch,
    write_env_files,
)
from ..window.steps import FENCE, FINGERPRINT, PROVEN, STOPPED_AT, Steps, downtime_sentence, make_report, record_cutover

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
        self._described: dict[str, Any] = {}
        self._fingerprint: dict[str, dict[str, Any]] = {}
        self._inode: int | None = None
        self._identity: tuple[int, ...] = ()
        self._may_have_written = False

    def run(self) -> dict[str, Any]:
        """Go through the window; on any failure put the group back.

        :raises MigrationError: saying what failed and where the group is now.
        """
        started_at = datetime.now(UTC)
        watcher = watch(self.group, self.checked, self.settings)
        with ExitStack() as stack:
            stack.callback(watcher.close)
            client = DowntimeClient(self.group.services)
            stack.callback(client.close)
            content = LaterFingerprint(self.login, self.group)
            stack.callback(content.close)
            other_thread = stack.enter_context(ThreadPoolExecutor(max_workers=1))
            try:
                if self.record.state != state.FROZEN:
                    client.wait_for_first_answers()
                began, earlier = time.monotonic(), self._stopped_before()
                with self.steps.step("stop"):
                    self._stop(started_at)
                with self.steps.step("freeze"):
                    self._freeze()
                # Another processor is free while the rows move.
                frozen_sha256 = other_thread.submit(self._hash)
                with self.steps.step("final sync"):
                    limit_waits(self.connection, self.settings.stop_timeout)
                    migration = migrate.migrate(
                        self.connection, self.group, migrate.FINAL, work_directory=self.settings.work_directory
                    )
                with self.steps.step("hash"):
                    digest = frozen_sha256.result()
                with self.steps.step("go live"):
                    content.hold()
                    self._go_live(digest)
                # Not before: whatever starts a service until then, as the next boot does, finds the fenced file only.
                with self.steps.step("settings"):
                    write_env_files(self.checked.env_files, POSTGRESQL)
                with self.steps.step("start"):
                    self._may_have_written = True
                    client.mark_start()
                    start(self.group.services, self.checked)
                    healths = watcher.wait(
                        self.group.services, POSTGRESQL, self.settings.health_timeout, self.checked.pids
                    )
                healthy_at = max((health.healthy_at for health in healths), default=time.monotonic())
                client.wait_for_answers()
                client.close()
                content.begin()
                with self.steps.step("watch"):
                    watcher.watch(healths, self.settings.stable_seconds)
                with self.steps.step("save"):
                    save(self.group, self.checked, self.settings)
            except BaseException as error:
                # Its sessions are of the services' roles too, and must not be taken for theirs.
                watcher.close()
                client.close()
                raise put_back(
                    self.connection,
                    self.login,
                    self.group,
                    self.settings,
                    error,
                    f"the step '{self.steps.name}'",
                    self._may_have_written,
                    self._described,
                ) from None
            self._add_content(content.result())
        window = healthy_at - began + earlier
        report = make_report(self.group, healths, window, self.steps, client, migration["report"])
        record_cutover(self.connection, self.group, started_at, report, {FINGERPRINT: self._fingerprint})
        return {
            "changed": True,
            "state": state.LIVE,
            "msg": f"{self.group.name} lives on PostgreSQL; {downtime_sentence(report)}",
            "diff": diff(self.checked.env_files, to=POSTGRESQL),
            "warnings": boot_warnings(self.checked),
            "report": report,
        }

    def _stop(self, started_at: datetime) -> None:
        """Commit that the window is open, and stop the services."""
        # A fence that is there already was put up by an earlier run, which recorded what was before it.
        known = self.record.detail.get(FENCE)
        with open_source(self.group) as source:
            self._inode = source.status.st_ino
            described = write_protection.describe(source.descriptor)
            self._described = known if known and write_protection.is_fenced(source.descriptor) else described
        since = self.record.detail.get(STOPPED_AT) if self.record.state == state.FROZEN else None
        detail = {FENCE: self._described, STOPPED_AT: since or started_at.isoformat(), PROVEN: False}
        self._step("freeze", detail=detail)
        stop(self.group.services, self.checked)

    def _stopped_before(self) -> float:
        """Return for how many seconds an earlier run that was killed has already left the services stopped."""
        since = self.record.detail.get(STOPPED_AT) if self.record.state == state.FROZEN else None
        return (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds() if since else 0.0

    def _freeze(self) -> Path:
        """Prove that nobody has the file open, complete it, fence it, and return its real path."""
        wait_until_closed(self.group.source_path, self.settings.stop_timeout)
        with open_source(self.group, self._inode) as source:
            write_protection.remove_fence(source.descriptor, self._described)
            checkpoint(source.path, source.status)
            write_protection.raise_fence(source.descriptor)
            self._identity = identity_of(source.descriptor)
            # Who has opened it since can go on writing, beside it too.
            require_at_rest(source.path)
            source.require_same()
            return source.path

    def _hash(self) -> str:
        """Return the SHA-256 of the frozen file."""
        with open_source(self.group, self._inode) as source:
            return sha256_of(source.descriptor)

    def _go_live(self, frozen_sha256: str) -> None:
        """Commit that PostgreSQL is the store, before the first service can write to it."""
        path = Path(os.path.realpath(self.group.source_path))
        require_at_rest(path)
        # Root can write to a file with a fence of the weaker kind, and whoever may write to the directory exchange it.
        require_unchanged(path, self._identity)
        record = ledger.read_group(self.connection, self.group.name, self.group.source_path)
        self._fingerprint = {
            name: {"rows": left["rows"], "writers": left["writers"]}
            for name, left in record.detail[migrate.LOADED].items()
        }
        rollback_record.end(self.connection, self.group, self.record)
        detail = {FINGERPRINT: self._fingerprint, **stamp(self.connection)}
        self._step("go_live", frozen_sha256=frozen_sha256, detail=detail)

    def _add_content(self, content: Mapping[str, Mapping[str, Any]]) -> None:
        """Complete the fingerprint by the hashes of the content, where they could be read."""
        for name, found in content.items():
            if name in self._fingerprint and found["rows"] == self._fingerprint[name]["rows"]:
                self._fingerprint[name]["hash"] = found["hash"]

    def _step(self, step: str, frozen_sha256: str | None = None, detail: dict[str, Any] | None = None) -> None:
        """Take a step in the ledger and commit it."""
        ledger.take_step(
            self.connection, self.group.name, step, self.group.source_path, frozen_sha256=frozen_sha256, detail=detail
        )
        self.connection.commit()
