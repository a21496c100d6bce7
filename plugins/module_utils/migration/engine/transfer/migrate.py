"""Makes the target tables of one cutover group equal to its source, and says what it had to do.

Snapshot → plan → prepare → load → verify → report; each step is a file of its own. The rows, the
ledger's entries and the new state commit in one transaction, and only after the verification has
read every row back. This module alone decides whether a group may be loaded.

Three ways are tried, each after the one before was rolled back: to move only the rows that changed
since the last run; to load all rows, the plain ones built by SQLite itself; and to convert and
check every single row, which also finds all violations there are.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core import ledger, state
from ...core.commands import playbook
from ...core.connection import explained
from ...core.decide import Rehearsal, decide
from ...core.errors import MigrationError, Problem, RowsRefused
from ...core.estate import Group
from ...core.files import WORK_DIRECTORY
from ...core.group_detail import GroupDetail, changes
from ...postgres.catalog import read_catalog
from ...sqlite.snapshot import Snapshot, snapshot
from ...sqlite.tables import count_rows, open_snapshot, read_left_out, read_tables
from ..convert.known_ids import with_ids_of_now
from ..convert.recorded_ids import find_changed_ids, record_ids, with_recorded_ids
from ..convert.server_text import ServerForms
from ..plan.inverse import one_way_columns
from ..plan.planner import PlanRefused, TablePlan, plan_group
from ..prepare.prepare import Prepared, prepare
from ..prepare.server_refusals import recorded_refusals
from ..proof.compare import Comparison, compare_tables
from ..proof.ledger_content import as_record, read_sums
from ..proof.parallel_checksums import PlainSums, summing
from ..proof.target_state import read_target_state
from . import baseline
from .checks import check_foreign_keys, require_access, require_equal, require_only_these_changes, require_ours
from .full_load import analyze, load, write_kept
from .ids_in_texts import ids_in_texts
from .ids_of_other_groups import names_that_are_missing
from .incremental import Sync
from .progress import ProgressLog
from .readings import number_readings, text_readings
from .relied_on import missing_views, other_defaults, row_level_security, search_paths
from .report import source_report, synced_report, table_report
from .sequences import read_sequences, require_room, set_sequences, unset_sequences
from .snapshot_diff import difference
from .trial import try_rows
from .triggers import active_triggers

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

REHEARSAL = "rehearsal"
FINAL = "final"
# The step that only a rehearsal has.
READINGS = "readings"
# The ways a run can take, as the report names them: see the top of this file.
CHANGED_ROWS = "changed rows"
PLAIN_ROWS = "all rows"
EVERY_ROW = "every row checked"


class _Clock:
    """Measures the steps of a run, in seconds, and says in the progress which one has begun."""

    def __init__(self, log: ProgressLog) -> None:
        self.log = log
        self.seconds: dict[str, float] = {}
        self._start = time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time spent inside to one step."""
        self.log.step(name)
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 4)

    def total(self) -> dict[str, float]:
        """Return all steps and their total."""
        return {**self.seconds, "total": round(time.monotonic() - self._start, 4)}


def migrate(
    connection: Connection,
    group: Group,
    kind: str,
    check_mode: bool = False,
    work_directory: str | None = None,
) -> dict[str, Any]:
    """Make the target tables equal to the source, and prove it.

    :param kind: ``rehearsal`` while the services still run, which also moves the group to state
        ``rehearsed``; ``final`` inside a cutover, where the group is frozen.
    :param check_mode: profile, plan, convert and compare, but write nothing.
    :param work_directory: private directory for snapshots.
    :returns: ``{"changed": bool, "report": {...}}``; the report is described in
        ``roles/sqlite_migrate/README.md``.
    :raises MigrationError: with every violation, and with nothing written.
    """
    started_at = datetime.now(UTC)
    clock = _Clock(ProgressLog(connection, group.name, work_directory, silent=check_mode))
    ledger.require(connection)
    with explained(f"moving cutover group {group.name}"), ledger.locked(connection, f"group {group.name}"):
        record = ledger.read_group(connection, group.name, group.source_path)
        if decide(record).rehearsal is Rehearsal.LEAVE_ALONE:
            back = playbook("rollback", service_env_rollback_groups=group.name)
            raise MigrationError(
                f"Cutover group {group.name} lives in PostgreSQL; its tables are not loaded again.",
                [
                    Problem(
                        f"cutover group {group.name}",
                        f"its state is '{record.state}' since {record.cutover_at}",
                        f"Nothing needs to be done; to go back to SQLite use: {back}",
                    )
                ],
            )
        with ExitStack() as stack:
            stack.enter_context(clock.log)
            with clock.step("snapshot"):
                frozen = decide(record).rehearsal is Rehearsal.LEAVE_TO_CUTOVER
                work = Path(work_directory or WORK_DIRECTORY)
                checked = baseline.find(work, group.name, record.detail.baseline.get("token"))
                copy = stack.enter_context(
                    snapshot(group.source_path, str(work), frozen, checked, wait=False, users=group.users)
                )
            changed, report = _synchronise(connection, group, kind, check_mode, clock, copy, record.detail, started_at)
    report["seconds"] = clock.total()
    return {"changed": changed, "report": report}


def compare(
    connection: Connection,
    group: Group,
    work_directory: str | None = None,
    is_named: Callable[[str, Comparison], bool] | None = None,
) -> dict[str, Any]:
    """Compare source and target without writing anything, and without refusing a difference.

    :param is_named: tells for which tables to name the rows that differ, as in
        :func:`.engine.proof.compare.compare_tables`.
    :returns: the report's ``tables``; sequences and foreign keys are not looked at.
    :raises MigrationError: if source or target cannot be read as the inventory describes them.
    """
    record = ledger.read_group(connection, group.name, group.source_path)
    frozen = decide(record).rehearsal is not Rehearsal.LOAD
    with (
        snapshot(group.source_path, work_directory, frozen=frozen, users=group.users) as copy,
        closing(open_snapshot(copy.path)) as source,
    ):
        plans = _plan(connection, group, source, copy.directory, asks=False)
        plans = with_recorded_ids(connection, group.name, plans)
        forms = ServerForms(connection)
        refusals = recorded_refusals(connection, group.name)
        prepared = prepare(group, source, plans, copy.directory, forms, spool=False, refusals=refusals)
        comparisons = compare_tables(connection, source, prepared.tables, is_named=lambda *_: False)
        if not all(comparison.equal for comparison in comparisons):
            # What the fast way takes for plain may be what differs.
            prepared = prepare(group, source, plans, copy.directory, forms, spool=False, exact=True, refusals=refusals)
            comparisons = compare_tables(connection, source, prepared.tables, is_named=is_named)
        result = {
            "tables": [
                table_report(table, comparison, False)
                for table, comparison in zip(prepared.tables, comparisons, strict=True)
            ]
        }
    connection.rollback()
    return result


def profile(group: Group, work_directory: str | None = None) -> dict[str, Any]:
    """Return what can be said of a source alone, for a dry run before there is a server.

    :returns: a report with the rows of each table; nothing is compared.
    :raises MigrationError: if the source cannot be read, or lacks a table that the inventory names.
    """
    with (
        snapshot(group.source_path, work_directory, users=group.users) as copy,
        closing(open_snapshot(copy.path)) as source,
    ):
        tables = read_tables(source)
        problems = [
            Problem(
                f"{group.source_path}: table {mapping.source}",
                f"it is named in the inventory, but the source holds {', '.join(tables) or 'no table at all'}",
                "Correct 'source' under tables in estate_cutover_groups",
            )
            for mapping in group.tables
            if mapping.source not in tables
        ]
        if problems:
            raise MigrationError(f"Cutover group {group.name} cannot be planned.", problems)
        return {
            "group": group.name,
            "kind": "profile",
            "source": source_report(copy),
            "tables": [
                {
                    "source": mapping.source,
                    "target": mapping.target,
                    "source_rows": count_rows(source, mapping.source),
                    "changed": True,
                }
                for mapping in group.tables
            ],
        }


def _synchronise(
    connection: Connection,
    group: Group,
    kind: str,
    check_mode: bool,
    clock: _Clock,
    copy: Snapshot,
    detail: GroupDetail,
    started_at: datetime,
) -> tuple[bool, dict[str, Any]]:
    """Compare, and load what differs; commit, or roll everything back."""
    with closing(open_snapshot(copy.path)) as source:
        run = _Run(connection, group, kind, check_mode, clock, copy, source, detail, started_at)
        try:
            for way in (run.sync_changed_rows, run.load_all_rows):
                try:
                    done = way()
                except RowsRefused:
                    connection.rollback()
                else:
                    if done is not None:
                        return done
            return run.load_all_rows(exact=True)
        finally:
            if not connection.closed:
                connection.rollback()


@dataclass(frozen=True)
class _Run:
    """One run over one group: one way after the other is tried.

    :param detail: the ledger's detail of the group, which says what our last run left.
    """

    connection: Connection
    group: Group
    kind: str
    check_mode: bool
    clock: _Clock
    copy: Snapshot
    source: sqlite3.Connection
    detail: GroupDetail
    started_at: datetime

    @property
    def loaded(self) -> Mapping[str, Any]:
        """Return what our last run left in the target, by target table."""
        return self.detail.loaded

    def _planned(self) -> list[TablePlan]:
        """Return the plan of every table; refuse what cannot be loaded before anything is converted."""
        asks = self.kind == REHEARSAL
        plans = _plan(self.connection, self.group, self.source, self.copy.directory, asks)
        plans = with_ids_of_now(self.connection, self.group, self.source, plans)
        active_triggers(self.connection, plans)
        require_access(self.connection, plans)
        return plans

    def sync_changed_rows(self) -> tuple[bool, dict[str, Any]] | None:
        """Move only what changed since the snapshot that the last run kept.

        :returns: None if there is none, or if what changed cannot be moved by itself.
        :raises RowsRefused: if PostgreSQL refuses a row or the result is not equal.
        """
        connection, clock, was_kept = self.connection, self.clock, self.detail.baseline
        old_snapshot = baseline.find(self.copy.directory.parent, self.group.name, was_kept.get("token"))
        if old_snapshot is None:
            return None
        with clock.step("profile"):
            plans = self._planned()
        if baseline.digest(plans) != was_kept["digest"]:
            return None
        with clock.step("compare"):
            present = read_target_state(connection, plans, self.loaded)
            if not all(table.ours for table in present.values()):
                return None
            differences = difference(self.source, self.copy.path, old_snapshot, plans)
            if differences is None:
                return None
            sequences = read_sequences(connection, self.source, plans)
            require_room(connection, sequences)
        directory = self.copy.directory
        sync = Sync(connection, self.group, self.source, old_snapshot, directory, differences, self.loaded)
        if not sync.can_be_done():
            return None
        changed = any(differences) or not all(sequence["correct"] for sequence in sequences)
        with clock.step("load"):
            synced = sync.run(write=not self.check_mode)
            kept = sync.ledger_content(self.detail.ledger_content)
            if changed and not self.check_mode:
                sequences = set_sequences(connection, sequences)
        comparisons = [table.comparison for table in synced]
        with clock.step("verify"):
            # It runs beside all this. Nothing is committed before it has found every page sound.
            self.copy.check.require()
            if not self.check_mode:
                require_equal(self.group, [table.plan for table in synced], comparisons)
                require_only_these_changes(connection, plans, present, synced)
        earlier = ledger.read_latest_run(connection, self.group.name, REHEARSAL, FINAL) or {}
        report = {
            **self._report(CHANGED_ROWS, plans, sequences),
            "tables": [synced_report(table, found, earlier) for table, found in zip(synced, differences, strict=True)],
            "foreign_keys": check_foreign_keys(connection, plans, count_orphans=False),
            "rejects": [],
        }
        if not self.check_mode:
            self._commit(plans, comparisons, changed, report, kept)
        return changed, report

    def load_all_rows(self, exact: bool = False) -> tuple[bool, dict[str, Any]]:
        """Compare every row, and load all of them if any differs.

        :param exact: take no row for plain. A dry run does so, to list also what only PostgreSQL would find.
        :raises RowsRefused: if a row that was taken for plain is none.
        """
        with self.clock.step("profile"):
            plans = self._planned()
        if exact or self.check_mode:
            return self._load_all_rows(plans, True, None)
        with summing(self.copy, plans) as plain_sums:
            return self._load_all_rows(plans, False, plain_sums)

    def _load_all_rows(
        self, plans: Sequence[TablePlan], exact: bool, plain_sums: PlainSums | None
    ) -> tuple[bool, dict[str, Any]]:
        """Prepare, compare, load what differs, verify and commit."""
        connection, clock = self.connection, self.clock
        with clock.step("profile"):
            forms = ServerForms(connection)
            ask = partial(try_rows, connection, self.source, every_table=not self.check_mode) if exact else None
            prepared = prepare(self.group, self.source, plans, self.copy.directory, forms, exact=exact, ask_server=ask)
            if plain_sums is not None:
                plain_sums.settle(prepared.tables)
            self.copy.check.require()
        known = plain_sums.result if plain_sums is not None else dict
        with clock.step("compare"):
            present = read_target_state(connection, plans, self.loaded)
            holds_rows = any(table.rows for table in present.values())
            comparisons = compare_tables(connection, self.source, prepared.tables, known) if holds_rows else []
            sequences = read_sequences(connection, self.source, plans)
            require_room(connection, sequences)
        equal = bool(comparisons) and all(comparison.equal for comparison in comparisons)
        equal = equal and all(sequence["correct"] for sequence in sequences)
        changed = not equal or not self.loaded
        before = comparisons
        kept = None
        if not equal:
            require_ours(self.group, present, self.loaded)
        if changed and not self.check_mode:
            with clock.step("load"):
                clock.log.expect({table.plan.target.name: table.rows for table in prepared.tables})
                load(connection, self.group.name, self.copy.path, prepared, clock.log.advance)
                kept = as_record(read_sums(connection, self.group.name))
                sequences = set_sequences(connection, sequences)
            with clock.step("statistics"):
                analyze(connection, prepared)
            with clock.step("verify"):
                comparisons = compare_tables(connection, self.source, prepared.tables, known)
                require_equal(self.group, [table.plan for table in prepared.tables], comparisons)
        loaded = changed
        if not loaded:
            kept = self._keep_what_no_table_holds(prepared)
            changed = kept is not None
        differed = [not comparison.equal for comparison in before] or [True for _ in prepared.tables]
        shown = comparisons or [Comparison(source_rows=table.rows) for table in prepared.tables]
        report = {
            **self._report(EVERY_ROW if plain_sums is None else PLAIN_ROWS, plans, sequences),
            "tables": [
                table_report(table, comparison, loaded and differs)
                for table, comparison, differs in zip(prepared.tables, shown, differed, strict=True)
            ],
            # Those that were just made again were checked by PostgreSQL itself.
            "foreign_keys": check_foreign_keys(connection, plans, count_orphans=not loaded or self.check_mode),
            "rejects": [
                {"table": table.plan.source.name, "key": key, "reason": reason}
                for table in prepared.tables
                for key, reason in table.rejects
            ],
        }
        if not self.check_mode:
            self._commit(plans, comparisons, changed, report, kept)
        return changed, report

    def _keep_what_no_table_holds(self, prepared: Prepared) -> dict[str, Any] | None:
        """Bring the rejected rows and the original values up to date where all loaded rows are equal already.

        What the last run has recorded counts, so that damage since then stays a finding.

        :returns: the sums of what the ledger keeps now, None if they are those of the last run.
        """
        connection, name = self.connection, self.group.name
        before = self.detail.ledger_content
        if before is None:
            before = as_record(read_sums(connection, name))
        with self.clock.step("load"), connection.cursor() as cursor:
            cursor.execute("SAVEPOINT before_kept")
            write_kept(cursor, name, prepared)
            now = as_record(read_sums(connection, name))
            if now == before or self.check_mode:
                cursor.execute("ROLLBACK TO SAVEPOINT before_kept")
        return None if now == before else now

    def _report(self, way: str, plans: Sequence[TablePlan], sequences: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the parts of the report that are the same whichever way was taken."""
        return {
            "group": self.group.name,
            "kind": self.kind,
            "way": way,
            "source": source_report(self.copy),
            "started_at": self.started_at.isoformat(),
            "sequences": sequences,
            "unset_sequences": unset_sequences(self.connection, plans),
            "ids_in_texts": ids_in_texts(self.connection, self.source, plans) if self.check_mode else [],
            **self._readings(plans),
            "one_way_columns": [
                name
                for plan in plans
                for name in one_way_columns(
                    plan.mapping, plan.source, self.source, [option.name for option in plan.kept]
                )
            ],
            "triggers": [str(trigger) for trigger in active_triggers(self.connection, plans)],
            **self._relied_on(plans),
            "ignored_tables": list(self.group.ignored_tables),
            "left_out": read_left_out(self.source),
        }

    def _relied_on(self, plans: Sequence[TablePlan]) -> dict[str, list[str]]:
        """Return what the application relies on and nothing moves; nothing while the services wait."""
        if self.kind != REHEARSAL:
            return {"row_level_security": [], "missing_views": [], "other_defaults": [], "search_paths": []}
        return {
            "row_level_security": row_level_security(self.connection, plans),
            "missing_views": missing_views(self.connection, self.source, plans),
            "other_defaults": other_defaults(self.connection, self.source, plans),
            "search_paths": search_paths(self.connection, self.group, plans),
        }

    def _readings(self, plans: Sequence[TablePlan]) -> dict[str, list[dict[str, Any]]]:
        """Return how numbers and texts are read as times; nothing while the services wait."""
        if self.kind != REHEARSAL:
            return {"number_readings": [], "text_readings": []}
        with self.clock.step(READINGS):
            return {
                "number_readings": number_readings(self.source, plans),
                "text_readings": text_readings(self.source, plans),
            }

    def _commit(
        self,
        plans: Sequence[TablePlan],
        comparisons: Sequence[Comparison],
        changed: bool,
        report: dict[str, Any],
        kept: dict[str, Any] | None,
    ) -> None:
        """Write the run and the state into the ledger and commit them with the rows.

        :param kept: what the ledger keeps of the group now, None if the run has not changed that.
        """
        connection, group = self.connection, self.group
        record = ledger.read_group(connection, group.name, group.source_path)
        rehearse = self.kind == REHEARSAL and record.state != state.REHEARSED
        is_run = changed or rehearse or self.kind == FINAL
        # What other code has left is renewed, else the window would load every row.
        is_known = self.detail.baseline.get("digest") == baseline.digest(plans)
        if not is_run and is_known and not find_changed_ids(connection, group.name):
            return
        work_directory = self.copy.directory.parent
        with self.clock.step("commit"):
            report["seconds"] = self.clock.total()
            if is_run:
                ledger.record_run(connection, group.name, self.kind, self.started_at, report)
            hashes = {
                plan.target.name: comparison.target_hash for plan, comparison in zip(plans, comparisons, strict=True)
            }
            left = {
                name: present.as_record(hashes[name])
                for name, present in read_target_state(connection, plans, {}).items()
            }
            content = {} if kept is None else {"ledger_content": kept}
            content["rewritten_ids"] = record_ids(connection, group.name, plans)
            if self.kind == REHEARSAL:
                token = baseline.keep(self.copy, group.name)
                detail = changes(loaded=left, baseline={"token": token, "digest": baseline.digest(plans)}, **content)
                if is_run:
                    ledger.take_step(connection, group.name, "rehearse", group.source_path, detail=detail)
                else:
                    ledger.merge_detail(connection, group.name, detail)
            else:
                # The frozen file itself is what the rollback starts from.
                token = None
                ledger.merge_detail(connection, group.name, changes(loaded=left, baseline={}, **content))
            connection.commit()
        baseline.forget_others(work_directory, group.name, token)


def _plan(
    connection: Connection, group: Group, source: sqlite3.Connection, directory: Path, asks: bool
) -> list[TablePlan]:
    """Read both sides' tables and plan each of them.

    :param directory: a private directory for files.
    :param asks: as that of :func:`.plan_group`.
    :raises MigrationError: with every problem of the mapping, and all values that would be refused if it were right.
    """
    targets = read_catalog(connection, [mapping.target for mapping in group.tables])
    try:
        plans = plan_group(group, source, read_tables(source), targets, asks)
        problems = names_that_are_missing(connection, source, group.source_path, plans) if asks else []
        if problems:
            raise PlanRefused(f"Cutover group {group.name} cannot be planned.", problems, plans)
    except PlanRefused as error:
        error.problems += _wrong_values(connection, group, source, error, directory)
        raise
    return plans


def _wrong_values(
    connection: Connection, group: Group, source: sqlite3.Connection, refused: PlanRefused, directory: Path
) -> list[Problem]:
    """Return the problems of the values in what could be planned, so that one round tells both kinds."""
    try:
        ask = partial(try_rows, connection, source, every_table=False)
        prepare(group, source, refused.plans, directory, ServerForms(connection), exact=True, ask_server=ask)
    except MigrationError as found:
        places = {problem.where for problem in refused.problems}
        return [problem for problem in found.problems if problem.where not in places]
    return []
