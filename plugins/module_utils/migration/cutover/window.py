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
from ..core.clock import read_clock
from ..core.decide import Cutover, decide
from ..core.estate import Group
from ..core.files import sha256_of_open
from ..core.group_detail import changes
from ..engine.proof.target_state import LaterFingerprint
from ..engine.transfer import migrate
from ..host import write_protection
from ..host.downtime import DowntimeClient
from ..host.service_health import POSTGRESQL
from ..postgres import privileges
from ..postgres.code_in_tables import own_tables
from ..window import rollback_record
from ..window.back_on_sqlite import revert
from ..window.checks import boot_warnings
from ..window.context import WindowContext
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
from ..window.steps import Steps, downtime_sentence, make_report, record_cutover

if TYPE_CHECKING:
    pass


class Window:
    """One window, from the stop of the services to their proven health on PostgreSQL."""

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
        self.steps = Steps()
        # An earlier run was killed in its window.
        self._is_again = decide(record).cutover is Cutover.MOVE_AGAIN
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
        env_files = self.context.handles.env_files
        changed_settings = diff(env_files, self.settings, to=POSTGRESQL)
        watcher = watch(self.context)
        with ExitStack() as stack:
            stack.callback(watcher.close)
            client = DowntimeClient(self.group.services)
            stack.callback(client.close)
            content = LaterFingerprint(self.context.login, self.group)
            stack.callback(content.close)
            other_thread = stack.enter_context(ThreadPoolExecutor(max_workers=1))
            try:
                # The commit that makes PostgreSQL the store needs the lock, and nobody should wait for it then.
                privileges.require_free(self.connection, self.settings.stop_timeout)
                self.context.put_recovery_unit()
                if not self._is_again:
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
                    # Tables that their service may change from now on are not read while it runs.
                    if not own_tables(self.group):
                        content.hold()
                    self._go_live(digest)
                # Not before: whatever starts a service until then, as the next boot does, finds a protected file.
                with self.steps.step("settings"):
                    write_env_files(env_files, self.settings, POSTGRESQL)
                with self.steps.step("start"):
                    self._may_have_written = True
                    client.mark_start()
                    start(self.context, self.group.services)
                    healths = watcher.wait(
                        self.group.services, POSTGRESQL, self.settings.health_timeout, self.context.handles.pids
                    )
                healthy_at = max((health.healthy_at for health in healths), default=time.monotonic())
                client.wait_for_answers()
                client.close()
                content.begin()
                with self.steps.step("watch"):
                    watcher.watch(healths, self.settings.stable_seconds)
                    silent = watcher.silent_addresses(healths)
                with self.steps.step("save"):
                    save(self.context)
            except BaseException as error:
                # Its sessions are of the services' roles too, and must not be taken for theirs.
                watcher.close()
                client.close()
                raise revert(
                    self.context,
                    error,
                    f"the step '{self.steps.name}'",
                    self._may_have_written,
                    self._described,
                ) from None
            self._add_content(content.result())
        window = healthy_at - began + earlier
        report = make_report(self.group, healths, window, self.steps, client, migration["report"])
        record_cutover(self.connection, self.group, started_at, report, changes(fingerprint=self._fingerprint))
        return {
            "changed": True,
            "state": state.LIVE,
            "msg": f"{self.group.name} lives on PostgreSQL; {downtime_sentence(report)}",
            "diff": changed_settings,
            "warnings": [*boot_warnings(self.context.handles), *silent, *_left_to_a_person(self.group)],
            "report": report,
        }

    def _stop(self, started_at: datetime) -> None:
        """Commit that the window is open, and stop the services."""
        # A write protection that is there already was set by an earlier run, which recorded what was before it.
        known = self.record.detail.file_before
        with open_source(self.group) as source:
            self._inode = source.status.st_ino
            described = write_protection.describe(source.descriptor)
            # A run that was killed may have changed the mode and not come to the attribute.
            is_ours = self._is_again or write_protection.is_protected(source.descriptor)
            self._described = dict(known) if known and is_ours else described
        stopped_at = self._stopped_by_an_earlier_run() or started_at
        detail = changes(file_before=self._described, stopped_at=stopped_at, proven=False, checked=False)
        self._step("freeze", detail=detail)
        stop(self.context)

    def _stopped_before(self) -> float:
        """Return for how many seconds an earlier run that was killed has already left the services stopped."""
        since = self._stopped_by_an_earlier_run()
        return (datetime.now(UTC) - since).total_seconds() if since else 0.0

    def _stopped_by_an_earlier_run(self) -> datetime | None:
        """Return when an earlier run that was killed has stopped the services, None if there was none."""
        return self.record.detail.stopped_at if self._is_again else None

    def _freeze(self) -> Path:
        """Prove that nobody has the file open, complete it, write-protect it, and return its real path."""
        wait_until_closed(self.group.source_path, self.settings.stop_timeout)
        with open_source(self.group, self._inode) as source:
            write_protection.unprotect(source.descriptor, self._described)
            checkpoint(source.path, source.status)
            write_protection.protect(source.descriptor)
            self._identity = identity_of(source.descriptor)
            # A process that has opened it since can go on writing, beside it too.
            require_at_rest(source.path)
            source.require_same()
            return source.path

    def _hash(self) -> str:
        """Return the SHA-256 of the frozen file."""
        with open_source(self.group, self._inode) as source:
            return sha256_of_open(source.descriptor)

    def _go_live(self, frozen_sha256: str) -> None:
        """Commit that PostgreSQL is the store, before the first service can write to it."""
        path = Path(os.path.realpath(self.group.source_path))
        require_at_rest(path)
        # Root can write to a file whose protection is the weaker one; who may write to the directory can exchange it.
        require_unchanged(path, self._identity)
        record = ledger.read_group(self.connection, self.group.name, self.group.source_path)
        self._fingerprint = {
            name: {"rows": left["rows"], "writers": left["writers"]} for name, left in record.detail.loaded.items()
        }
        privileges.lock_rights(self.connection)
        rollback_record.end(self.connection, self.group, self.record)
        detail = changes(fingerprint=self._fingerprint, clock=read_clock(self.connection), restored_at=None)
        self._step("go_live", frozen_sha256=frozen_sha256, detail=detail, rights=True)

    def _add_content(self, content: Mapping[str, Mapping[str, Any]]) -> None:
        """Complete the fingerprint by the hashes of the content, where they could be read."""
        for name, found in content.items():
            if name in self._fingerprint and found["rows"] == self._fingerprint[name]["rows"]:
                self._fingerprint[name]["hash"] = found["hash"]

    def _step(
        self,
        step: str,
        frozen_sha256: str | None = None,
        detail: dict[str, Any] | None = None,
        rights: bool = False,
    ) -> None:
        """Take a step in the ledger and commit it, with ``rights`` together with who may write to the tables now."""
        ledger.take_step(
            self.connection, self.group.name, step, self.group.source_path, frozen_sha256=frozen_sha256, detail=detail
        )
        if rights:
            self.context.settle_writing(self.connection)
        self.connection.commit()


def _left_to_a_person(group: Group) -> list[str]:
    """Return what a person has to do for a group that has no services, and whose file nobody could open any more."""
    if group.services:
        return []
    return [
        f"{group.name} has no services in estate_cutover_groups: let the programs that used {group.source_path} use "
        "PostgreSQL before you start them again. The file is write-protected, so they cannot write to it."
    ]
