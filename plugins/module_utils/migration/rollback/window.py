"""The window of a rollback: from the stop of a group's services to their health on SQLite.

Before the commit of the state ``rolled_back`` PostgreSQL is the store, and whatever fails is undone;
after it SQLite is. What a killed run leaves is told by :mod:`.core.decide`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import ledger, state
from ..core.commands import playbook
from ..core.connection import connect, connected, first_row
from ..core.errors import MigrationError, Problem
from ..core.estate import access_of
from ..core.group_detail import Phase, changes
from ..engine.export import export
from ..engine.proof.target_state import read_writers
from ..host.downtime import DowntimeClient
from ..host.service_health import SQLITE
from ..postgres import code_in_tables, privileges, write_lock
from ..window import frozen_file, rollback_record
from ..window.back_on_sqlite import how_they_are, problems_of, sessions_left, to_sqlite, written_since
from ..window.context import WindowContext
from ..window.services import limit_waits, require_at_rest, require_unchanged, stop
from ..window.signals import uninterruptible
from ..window.steps import MEASURED_BY_CLIENT, MEASURED_BY_STEPS, Steps
from .checks import Found, Options, number_of, require_number
from .dump import Dumped, GroupDump, prove_left, set_aside
from .undo import bring_up_on_postgresql

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

KIND = "rollback"
# How a group went back.
UNCHANGED, EXPORTED, GIVEN_UP = "unchanged", "exported", "rows given up"
# How long a server that went away while it was told to commit may take to answer.
_RECONNECT_SECONDS = 30.0


class Window:
    """One rollback of one group that is live.

    :param connection: holds the group's lock.
    """

    def __init__(
        self,
        context: WindowContext,
        options: Options,
        record: ledger.GroupRecord,
        found: Found,
    ) -> None:
        self.context = context
        self.connection = context.connection
        self.login = context.login
        self.group = context.group
        self.settings = context.settings
        self.options = options
        self.record = record
        self.found = found
        self.steps = Steps()
        self.entry: dict[str, Any] = {"phase": Phase.OPEN}
        self._committing = False
        self._dump: GroupDump | None = None

    def run(self) -> dict[str, Any]:
        """Go through the window and return its report.

        :raises MigrationError: saying what failed and on which store the group is now.
        """
        with closing(DowntimeClient(self.group.services)) as client, ExitStack() as to_the_end:
            client.wait_for_first_answers()
            self.entry["stopped_at"] = datetime.now(UTC).isoformat()
            rollback_record.note(self.connection, self.group, self.entry)
            began = time.monotonic()
            self._make_sqlite_the_store(to_the_end)
            return finish(self.context, self.steps, began, client, self._dump)

    def _make_sqlite_the_store(self, to_the_end: ExitStack) -> None:
        """Do all that comes before the commit, and commit; undo it if that fails.

        :param to_the_end: what has to hold until the services run.
        """
        with ExitStack() as stack:
            try:
                with self.steps.step("stop"):
                    stop(self.context)
                with self.steps.step("write lock"):
                    guard = connect(self.login)
                    stack.callback(guard.close)
                    self._lock_tables(guard)
                with self.steps.step("compare"):
                    changed = bool(written_since(self.connection, self.group, self.record, locked=True))
                self.entry["way"] = UNCHANGED
                loaded = self._bring_back(guard, stack) if changed else {}
                with self.steps.step("commit"):
                    # From here on there is only forward.
                    to_the_end.enter_context(uninterruptible())
                    self._commit(guard, loaded)
            except BaseException as error:
                stack.close()
                if not self._committing:
                    self._cancel_dump()
                failure = self._undo(error)
                if failure is not None:
                    raise failure from None
            if self._dump is not None:
                # It holds its snapshot until it is proven.
                to_the_end.callback(self._dump.close)

    def _lock_tables(self, guard: Connection) -> None:
        """Wait for what the services have sent, and let nobody write to the tables from here on."""
        left = sessions_left(self.context)
        if left:
            raise MigrationError("A service may still write to PostgreSQL.", left)
        write_lock.hold(guard, self.group, self.settings.stop_timeout)
        with guard.cursor() as cursor:
            # Nobody can change their shape any more, so nothing is put into them after this look.
            code = code_in_tables.look(cursor, self.group, loaded=True)
        if code:
            raise MigrationError("A service has put code into its tables since the checks.", code)
        # Whoever waits for our lock with a stronger one makes our own readers wait behind it.
        limit_waits(self.connection, self.settings.stop_timeout)

    def _bring_back(self, guard: Connection, stack: ExitStack) -> dict[str, Any]:
        """Dump the tables, and bring their changes into the file; return what then stands in them, for the ledger."""
        frozen_file.remove_old(self.group.source_path)
        with guard.cursor() as cursor:
            cursor.execute("SELECT pg_export_snapshot()")
            snapshot_id = str(first_row(cursor)[0])
        dump = GroupDump(
            self.login, self.connection, self.group, Path(self.options.directory), self.settings.stop_timeout
        )
        self._dump = dump
        dump.start(snapshot_id)
        place = stack.enter_context(frozen_file.work_place(self.settings.work_directory))
        if self.options.lose_rows is None:
            with self.steps.step("export"):
                frozen = frozen_file.copy_frozen(self.group, self.record.frozen_sha256, {}, place)
                copy = frozen_file.make_copy(frozen)
                report = export.export_changes(self.connection, self.group, frozen, copy, snapshot_id)
            hashes = {table.target: table.content_hash for table in report.tables}
            self.entry |= {"way": EXPORTED, **report.as_dict()}
        else:
            with self.steps.step("count"):
                hashes = self._count(self.options.lose_rows, snapshot_id, place)
        with self.steps.step("dump"):
            dump.wait()
        # It is read back once the services run again.
        self.entry["dump"] = {"path": str(dump.path)}
        if self.options.lose_rows is None:
            with self.steps.step("swap"):
                self._swap(copy)
        return {
            name: {"rows": sum(writers.values()), "hash": hashes[name], "writers": writers}
            for name, writers in read_writers(guard, list(hashes)).items()
        }

    def _count(self, typed: int, snapshot_id: str, place: Path) -> dict[str, str]:
        """Check the typed number once more; return the hash of each table."""
        frozen = frozen_file.copy_frozen(self.group, self.record.frozen_sha256, {}, place)
        counts = export.count_changes(self.connection, self.group, frozen, place, snapshot_id)
        require_number(self.group, typed, number_of(counts))
        self.entry |= {"way": GIVEN_UP, "lost_rows": typed}
        return export.hash_targets(self.connection, self.group, frozen, place, snapshot_id)

    def _swap(self, copy: Path) -> None:
        """Put the exported file in the place of the frozen one, if it is another."""
        path, described = self.group.source_path, self.record.detail.file_before
        exported = frozen_file.finish_copy(copy, self.group, described)
        self.entry |= {"frozen_sha256": self.record.frozen_sha256, "exported_sha256": exported}
        if exported == self.record.frozen_sha256:
            frozen_file.discard_copy(path)
            return
        source = Path(os.path.realpath(path))
        require_unchanged(source, self.found.identity)
        inode = self.found.identity[1]
        old_file = frozen_file.name_for_old(path)
        self.entry["old_file"] = str(old_file)
        # Committed first: whoever finds the exported file in the place knows then what it is.
        rollback_record.note(self.connection, self.group, self.entry)
        frozen_file.swap(self.group, old_file, described, inode)
        # Whoever opened the old file while it was unprotected would write to it, or has put a log beside the new one.
        require_at_rest(old_file)
        require_at_rest(source)

    def _commit(self, guard: Connection, loaded: dict[str, Any]) -> None:
        """Make SQLite the store, and shut the tables in PostgreSQL, in one commit."""
        if "old_file" not in self.entry:
            source = Path(os.path.realpath(self.group.source_path))
            require_unchanged(source, self.found.identity)
        # Or phase 1, which has seen the group live, would give back at once what is taken here.
        privileges.lock_rights(guard)
        # Our own readers would keep it from being given another owner.
        self.connection.rollback()
        privileges.take_schemas_back(guard, self.group.name, self.context.settings.access or access_of([self.group]))
        rights = write_lock.take_rights(guard, self.group)
        self.entry |= {"phase": Phase.COMMITTED, "rights": rights, "steps": self.steps.steps}
        detail = changes(rollback=self.entry, baseline={})
        if loaded:
            # So the next migration knows these rows for its own: the file holds them, or they were given up.
            detail |= changes(loaded=loaded)
        ledger.take_step(guard, self.group.name, "roll_back", self.group.source_path, detail=detail)
        self._committing = True
        guard.commit()

    # ------------------------------------------------------------ what fails

    def _undo(self, error: BaseException) -> MigrationError | None:
        """Start the services on PostgreSQL again, and return the error; None if SQLite is the store after all."""
        name = self.group.name
        problems = list(problems_of(error, self.group))
        with uninterruptible():
            committed = self._is_committed() if self._committing else False
            if committed:
                return None
            if committed is None:
                # What was dumped stays: the next run needs it if SQLite is the store.
                what = (
                    "the server went away while it was told that SQLite is the store, and nobody knows whether it did"
                )
                problems.append(Problem(f"cutover group {name}", what, "Let the server come back, then run again"))
                return MigrationError(
                    f"Only the server knows on which store cutover group {name} is; its services are stopped.",
                    problems,
                )
            self._cancel_dump()
            left, unwell = bring_up_on_postgresql(self.context, self._revert_file)
        return MigrationError(
            f"Cutover group {name} was not rolled back (the step '{self.steps.name}' failed): it stays on PostgreSQL, "
            f"and its services were started again{how_they_are(unwell)}.",
            [*problems, *left, *unwell],
        )

    def _cancel_dump(self) -> None:
        """Leave nothing of a dump of a rollback that did not come about."""
        if self._dump is not None:
            self._dump.cancel()

    def _revert_file(self) -> None:
        """Let the frozen file stand in its place again."""
        frozen_file.undo_swap(self.group, self.record.frozen_sha256, self.entry)

    def _is_committed(self) -> bool | None:
        """Return whether the ledger says that SQLite is the store; None if the server does not answer."""
        deadline = time.monotonic() + _RECONNECT_SECONDS
        while True:
            try:
                with connected(self.login) as connection, connection.cursor() as cursor:
                    # Waits for a commit that is still under way, but not for a session that the server takes for alive.
                    left = max(0.1, deadline - time.monotonic())
                    cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{int(left * 1000)}ms",))
                    cursor.execute(
                        "SELECT state FROM migration.cutover_group WHERE name = %s FOR UPDATE", (self.group.name,)
                    )
                    return not state.is_on_postgresql(str(first_row(cursor)[0]))
            except Exception:
                if time.monotonic() > deadline:
                    return None
                time.sleep(0.5)


def finish(
    context: WindowContext,
    steps: Steps,
    began: float | None,
    client: DowntimeClient | None = None,
    dump: GroupDump | None = None,
) -> dict[str, Any]:
    """Start the services on SQLite, whose file is in place, and write the rollback into the ledger.

    :param began: :func:`time.monotonic` when the services were stopped, None if another run did so.
    :param client: has asked the services since before their stop; None if nobody could.
    :param dump: still to be read back; None if there is none, or another run has made it.
    :returns: the report; :func:`warnings_of` says what of it a person has to know.
    :raises MigrationError: if a service does not come up; SQLite is the store all the same.
    """
    connection, group = context.connection, context.group
    connection.rollback()
    record = ledger.read_group(connection, group.name, group.source_path)
    connection.rollback()
    entry = dict(record.detail.rollback)
    stopped_at = datetime.fromisoformat(entry["stopped_at"])
    try:
        with steps.step("start"), uninterruptible():
            if client is not None:
                client.mark_start()
            healths = to_sqlite(context, record.detail.file_before)
    except Exception as error:
        again = playbook("rollback", service_env_rollback_groups=group.name)
        raise MigrationError(
            f"Cutover group {group.name} is rolled back, but its services are not all well on SQLite. "
            f"Correct this, then run {again} again: it starts them.",
            problems_of(error, group),
        ) from None
    healthy_at = max((health.healthy_at for health in healths), default=time.monotonic())
    stopped = began if began is not None else time.monotonic() - (datetime.now(UTC) - stopped_at).total_seconds()
    window = healthy_at - stopped
    seen = None if client is None else client.downtime()
    if "dump" in entry:
        with steps.step("read the dump back"):
            entry["dump"] = _proven(context, record, Path(entry["dump"]["path"]), dump)
    report = {
        "group": group.name,
        "downtime_seconds": round(window if seen is None else seen, 3),
        "measured_by": MEASURED_BY_STEPS if seen is None else MEASURED_BY_CLIENT,
        "window_seconds": round(window, 3),
        "steps": steps.steps if began is not None else [*entry.get("steps", ()), *steps.steps],
        "seconds": steps.seconds(),
        "services": [
            {**health.report(SQLITE), **({} if client is None else client.of(health.service.name))}
            for health in healths
        ],
        **{key: entry[key] for key in _REPORTED if key in entry},
    }
    ledger.record_run(connection, group.name, KIND, stopped_at, report)
    ledger.merge_detail(connection, group.name, changes(rollback={**entry, "phase": Phase.DONE}))
    connection.commit()
    frozen_file.remove_directory(group.source_path)
    return report


def _proven(context: WindowContext, record: ledger.GroupRecord, path: Path, dump: GroupDump | None) -> dict[str, Any]:
    """Read the dump back and return what the report says of it: whatever is wrong with it, SQLite is the store."""
    try:
        if dump is not None:
            return dump.prove().as_dict()
        if record.state != state.ROLLED_BACK:
            raise MigrationError(
                "The tables were loaded again before the dump was read back.",
                [Problem(str(path), "the run that made it was killed", "Keep it until you have looked at it")],
            )
        return prove_left(context.login, context.connection, context.group, path).as_dict()
    except Exception as error:
        reasons = "; ".join(f"{problem.where}: {problem.what}" for problem in problems_of(error, context.group))
        return {"path": str(set_aside(path)), "problem": reasons}


def warnings_of(report: Mapping[str, Any]) -> list[str]:
    """Return what of a rollback's report a person has to look after."""
    dumped = report.get("dump", {})
    if "problem" not in dumped:
        return []
    return [
        f"{report['group']} runs on SQLite, and the dump of its tables in PostgreSQL cannot be relied on: "
        f"{dumped['problem']}. It was kept as {dumped['path']}. Until the next rehearsal PostgreSQL still holds the "
        "tables: dump them yourself if you need them."
    ]


_REPORTED = (
    "way", "tables", "sequences", "lost_rows", "dump", "frozen_sha256", "exported_sha256", "old_file",
)  # fmt: skip


def describe(report: dict[str, Any]) -> str:
    """Return what a rollback has done, for a person."""
    parts: list[str] = []
    tables = report.get("tables", [])
    totals = [sum(table[kind] for table in tables) for kind in ("inserted", "updated", "deleted")]
    if report["way"] == EXPORTED:
        changed = ", ".join(
            f"{table['source']} +{table['inserted']} ~{table['updated']} -{table['deleted']}"
            for table in tables
            if table["inserted"] or table["updated"] or table["deleted"]
        )
        parts.append(
            f"with every row written to PostgreSQL since its cutover: {totals[0]:,} inserted, {totals[1]:,} updated, "
            f"{totals[2]:,} deleted{f' ({changed})' if changed else ''}"
        )
        not_told = [f"{table['target']}.{column}" for table in tables for column in table["not_told"]]
        if not_told:
            parts.append(f"the file has no place for {', '.join(not_told)}, whose values stand in the dump alone")
        ids = [
            f"{count:,} of {table['source']}.{column}"
            for table in tables
            for column, count in table.get("ids_as_written", {}).items()
        ]
        if ids:
            parts.append(
                f"of the values that services have written, {', '.join(ids)} hold ids that are not as the file has "
                "them: UUIDs that its rows may not have, or ids that the next move makes UUIDs of (look at them)"
            )
    elif report["way"] == GIVEN_UP:
        parts.append(f"on its file as it was frozen; {report['lost_rows']:,} rows were given up, as asked for")
    else:
        parts.append("on its file as it was frozen: nothing was written to PostgreSQL since")
    if report["services"]:
        parts.append(f"its services were down for {report['downtime_seconds']:.1f} seconds")
    if "sha256" in report.get("dump", {}):
        dumped = Dumped(**report["dump"])
        parts.append(f"PostgreSQL's tables are kept in {dumped.path} (SHA-256 {dumped.sha256})")
    return f"{report['group']} runs on SQLite again, {'; '.join(parts)}."
