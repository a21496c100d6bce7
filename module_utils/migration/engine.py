"""Makes the target tables of one cutover group equal to its source, and says what it had to do.

Snapshot → plan → prepare → load → verify → report; each step is a file of its own. The rows, the
ledger's entries and the new state commit in one transaction, and only after the verification has
read every row back. This module alone decides whether a group may be loaded.

A load is tried the fast way first, with plain rows that SQLite itself builds. If PostgreSQL
refuses one, or does not give it back as it was, everything is rolled back and done the exact way.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from . import ledger, state
from .catalog import read_catalog
from .connection import explained, first_row
from .errors import MigrationError, Problem, RowsRefused
from .estate import Group
from .load import load, read_sequences, set_sequences
from .names import table_name
from .plan import TablePlan, plan_group
from .prepare import Prepared, PreparedTable, prepare
from .present import Present, read_present
from .server_forms import ServerForms
from .snapshot import Snapshot, snapshot
from .source import count_rows, open_snapshot, read_left_out, read_tables
from .source_sums import PlainSums, summing
from .verify import Comparison, compare_tables

try:
    from psycopg2 import sql
except ImportError:  # reported by connection.connect()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

REHEARSAL = "rehearsal"
FINAL = "final"
# In the ledger's detail of a group: what our last run left in the target, by target table.
LOADED = "loaded"


class _Clock:
    """Measures the steps of a run, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time spent inside to one step."""
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
    :raises MigrationError: with every offender, and with nothing written.
    """
    started_at = datetime.now(UTC)
    clock = _Clock()
    ledger.require(connection)
    with explained(f"moving cutover group {group.name}"), ledger.locked(connection, f"group {group.name}"):
        record = ledger.read_group(connection, group.name, group.source_path)
        if state.is_on_postgresql(record.state):
            raise MigrationError(
                f"Cutover group {group.name} lives in PostgreSQL; its tables are not loaded again.",
                [
                    Problem(
                        f"cutover group {group.name}",
                        f"its state is '{record.state}' since {record.cutover_at}",
                        "Nothing needs to be done; to go back to SQLite use playbooks/rollback.yml",
                    )
                ],
            )
        with ExitStack() as stack:
            with clock.step("snapshot"):
                frozen = record.state == state.FROZEN
                copy = stack.enter_context(snapshot(group.source_path, work_directory, frozen=frozen))
            changed, report = _synchronise(
                connection, group, kind, check_mode, clock, copy, record.detail.get(LOADED), started_at
            )
    report["seconds"] = clock.total()
    return {"changed": changed, "report": report}


def compare(connection: Connection, group: Group, work_directory: str | None = None) -> dict[str, Any]:
    """Compare source and target without writing anything, and without refusing a difference.

    :returns: the report's ``tables``, ``sequences`` and ``foreign_keys``.
    :raises MigrationError: if source or target cannot be read as the inventory describes them.
    """
    record = ledger.read_group(connection, group.name, group.source_path)
    frozen = record.state == state.FROZEN or state.is_on_postgresql(record.state)
    with (
        snapshot(group.source_path, work_directory, frozen=frozen) as copy,
        closing(open_snapshot(copy.path)) as source,
    ):
        plans = _plan(connection, group, source)
        forms = ServerForms(connection)
        prepared = prepare(group, source, plans, copy.directory, forms, spool=False)
        comparisons = compare_tables(connection, source, prepared.tables)
        if not all(comparison.equal for comparison in comparisons):
            # What the fast way takes for plain may be what differs.
            prepared = prepare(group, source, plans, copy.directory, forms, spool=False, exact=True)
            comparisons = compare_tables(connection, source, prepared.tables)
        result = {
            "tables": [
                _table_report(table, comparison, False)
                for table, comparison in zip(prepared.tables, comparisons, strict=True)
            ],
            "sequences": read_sequences(connection, source, plans),
            "foreign_keys": check_foreign_keys(connection, plans),
        }
    connection.rollback()
    return result


def profile(group: Group, work_directory: str | None = None) -> dict[str, Any]:
    """Return what can be said of a source alone, for a dry run before there is a server.

    :returns: a report with the rows of each table; nothing is compared.
    :raises MigrationError: if the source cannot be read, or lacks a table that the inventory names.
    """
    with snapshot(group.source_path, work_directory) as copy, closing(open_snapshot(copy.path)) as source:
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
            "source": _source_report(copy),
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
    loaded: dict[str, Any] | None,
    started_at: datetime,
) -> tuple[bool, dict[str, Any]]:
    """Compare, and load what differs; commit, or roll everything back."""
    with closing(open_snapshot(copy.path)) as source:
        run = _Run(connection, group, kind, check_mode, clock, copy, source, loaded or {}, started_at)
        try:
            try:
                # A dry run lists every offender, also those that only PostgreSQL would find.
                return run.attempt(exact=check_mode)
            except RowsRefused:
                connection.rollback()
                return run.attempt(exact=True)
        finally:
            if not connection.closed:
                connection.rollback()


@dataclass(frozen=True)
class _Run:
    """One run over one group; :meth:`attempt` may be made twice.

    :param loaded: what our last run left in the target, by target table.
    """

    connection: Connection
    group: Group
    kind: str
    check_mode: bool
    clock: _Clock
    copy: Snapshot
    source: sqlite3.Connection
    loaded: Mapping[str, Any]
    started_at: datetime

    def attempt(self, exact: bool) -> tuple[bool, dict[str, Any]]:
        """Bring the target to the source's state.

        :param exact: take no row for plain.
        :raises RowsRefused: if a row that was taken for plain is none.
        """
        with self.clock.step("profile"):
            plans = _plan(self.connection, self.group, self.source)
        if exact or self.check_mode:
            return self._attempt(plans, exact, None)
        with summing(self.copy, plans) as plain_sums:
            return self._attempt(plans, exact, plain_sums)

    def _attempt(
        self, plans: Sequence[TablePlan], exact: bool, plain_sums: PlainSums | None
    ) -> tuple[bool, dict[str, Any]]:
        """Prepare, compare, load what differs, verify and commit."""
        connection, clock = self.connection, self.clock
        with clock.step("profile"):
            forms = ServerForms(connection)
            prepared = prepare(self.group, self.source, plans, self.copy.directory, forms, exact=exact)
            if plain_sums is not None:
                plain_sums.settle(prepared.tables)
        known = plain_sums.result if plain_sums is not None else dict
        with clock.step("compare"):
            present = read_present(connection, plans, self.loaded)
            holds_rows = any(table.rows for table in present.values())
            comparisons = compare_tables(connection, self.source, prepared.tables, known) if holds_rows else []
            sequences = read_sequences(connection, self.source, plans)
        equal = bool(comparisons) and all(comparison.equal for comparison in comparisons)
        equal = equal and all(sequence["correct"] for sequence in sequences)
        changed = not equal or not self.loaded
        before = comparisons
        if not equal:
            _require_ours(self.group, present, self.loaded)
        if changed and not self.check_mode:
            with clock.step("load"):
                load(connection, self.group.name, self.copy.path, prepared, _no_progress)
                sequences = set_sequences(connection, sequences)
            with clock.step("verify"):
                comparisons = compare_tables(connection, self.source, prepared.tables, known)
                _require_equal(self.group, prepared, comparisons)
        report = _report(self, prepared, before, comparisons, sequences, changed)
        if not self.check_mode:
            self._commit(plans, comparisons, changed, report)
        return changed, report

    def _commit(
        self, plans: Sequence[TablePlan], comparisons: Sequence[Comparison], changed: bool, report: dict[str, Any]
    ) -> None:
        """Write the run and the state into the ledger and commit them with the rows."""
        connection, group = self.connection, self.group
        record = ledger.read_group(connection, group.name, group.source_path)
        rehearse = self.kind == REHEARSAL and record.state != state.REHEARSED
        if not changed and not rehearse and self.kind != FINAL:
            return
        with self.clock.step("commit"):
            report["seconds"] = self.clock.total()
            ledger.record_run(connection, group.name, self.kind, self.started_at, report)
            hashes = {
                plan.target.name: comparison.target_hash for plan, comparison in zip(plans, comparisons, strict=True)
            }
            left = {
                name: present.as_record(hashes[name]) for name, present in read_present(connection, plans, {}).items()
            }
            detail = {LOADED: left}
            if self.kind == REHEARSAL:
                ledger.take_step(connection, group.name, "rehearse", group.source_path, detail=detail)
            else:
                ledger.merge_detail(connection, group.name, detail)
            connection.commit()


def _no_progress(_table: str, _rows: int) -> None:
    """Say nothing."""


def _plan(connection: Connection, group: Group, source: sqlite3.Connection) -> list[TablePlan]:
    """Read both sides' tables and plan each of them."""
    targets = read_catalog(connection, [mapping.target for mapping in group.tables])
    return plan_group(group, source, read_tables(source), targets)


def _require_ours(group: Group, present: Mapping[str, Present], loaded: Mapping[str, Any]) -> None:
    """Refuse to replace rows that no run of ours has written.

    :raises MigrationError: naming each table that holds such rows.
    """
    if not any(table.rows for table in present.values()):
        return
    problems = []
    for name, table in present.items():
        ours = loaded.get(name)
        if table.rows and not table.ours:
            then = "no run has loaded it yet" if ours is None else f"our last run left {ours['rows']:,} rows"
            problems.append(
                Problem(
                    name,
                    f"it holds {table.rows:,} rows, and {then}: somebody else wrote to it",
                    "Find out who wrote there. If those rows are not needed, delete them by hand, then run again",
                )
            )
        elif ours is not None and not table.ours:
            problems.append(
                Problem(
                    name,
                    f"it is empty, and our last run left {ours['rows']:,} rows: somebody else emptied it",
                    "Find out who did. To load it again, empty the group's other target tables too, then run again",
                )
            )
    if problems:
        raise MigrationError(f"The target tables of cutover group {group.name} hold rows that are not ours.", problems)


def _require_equal(group: Group, prepared: Prepared, comparisons: Sequence[Comparison]) -> None:
    """Refuse to commit what does not read back as it was.

    :raises MigrationError: naming rows, columns and both values.
    """
    problems = []
    for table, comparison in zip(prepared.tables, comparisons, strict=True):
        if comparison.equal:
            continue
        where = f"{group.source_path}: {table.plan.source.name} → {table.plan.target.name}"
        fix = "Nothing was committed. Please report this with the row named here"
        for difference in comparison.differences or [
            {"key": "?", "column": "?", "source": str(comparison.source_rows), "target": str(comparison.target_rows)}
        ]:
            what = (
                f"{difference['key']}: {difference['column']} is {difference['source']} in SQLite "
                f"and {difference['target']} in PostgreSQL"
            )
            problems.append(Problem(where, what, fix))
    if problems:
        raise RowsRefused(f"Verification of cutover group {group.name} failed.", problems)


def check_foreign_keys(connection: Connection, plans: Sequence[TablePlan]) -> list[dict[str, Any]]:
    """Return each foreign key of the group: whether PostgreSQL holds it valid, and its orphans counted."""
    result = []
    with connection.cursor() as cursor:
        for plan in plans:
            for key in plan.target.foreign_keys:
                cursor.execute(
                    "SELECT convalidated FROM pg_constraint WHERE conrelid = %s::regclass AND conname = %s",
                    (table_name(key.table).as_string(connection), key.name),
                )
                valid = bool(first_row(cursor)[0])
                pairs = [
                    (sql.Identifier("c", child), sql.Identifier("p", parent))
                    for child, parent in zip(key.columns, key.referenced_columns, strict=True)
                ]
                cursor.execute(
                    sql.SQL(
                        "SELECT count(*) FROM {} AS c WHERE {} AND NOT EXISTS (SELECT 1 FROM {} AS p WHERE {})"
                    ).format(
                        table_name(key.table),
                        sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(child) for child, _ in pairs),
                        table_name(key.referenced_table),
                        sql.SQL(" AND ").join(sql.SQL("{} = {}").format(parent, child) for child, parent in pairs),
                    )
                )
                orphans = int(first_row(cursor)[0])
                result.append({"name": f"{key.table}: {key.name}", "valid": valid, "orphans": orphans})
    return result


# ---------------------------------------------------------------- the report


def _source_report(copy: Snapshot) -> dict[str, Any]:
    """Return what the report says of the source file."""
    return {"path": str(copy.source_path), "inode": copy.inode, "size_bytes": copy.size_bytes}


def _report(
    run: _Run,
    prepared: Prepared,
    before: Sequence[Comparison],
    comparisons: Sequence[Comparison],
    sequences: list[dict[str, Any]],
    changed: bool,
) -> dict[str, Any]:
    """Return the report of a run. In check mode ``comparisons`` are those of the present target."""
    differed = {
        table.plan.source.name: not comparison.equal
        for table, comparison in zip(prepared.tables, before, strict=bool(before))
    }
    shown = comparisons or [Comparison(source_rows=table.rows) for table in prepared.tables]
    return {
        "group": run.group.name,
        "kind": run.kind,
        "source": _source_report(run.copy),
        "started_at": run.started_at.isoformat(),
        "tables": [
            _table_report(table, comparison, changed and differed.get(table.plan.source.name, True))
            for table, comparison in zip(prepared.tables, shown, strict=True)
        ],
        "sequences": sequences,
        "foreign_keys": check_foreign_keys(run.connection, [table.plan for table in prepared.tables]),
        "rejects": [
            {"table": table.plan.source.name, "key": key, "reason": reason}
            for table in prepared.tables
            for key, reason in table.rejects
        ],
        "ignored_tables": list(run.group.ignored_tables),
        "left_out": read_left_out(run.source),
    }


def _table_report(table: PreparedTable, comparison: Comparison, changed: bool) -> dict[str, Any]:
    """Return what the report says of one table."""
    return {
        "source": table.plan.source.name,
        "target": table.plan.target.name,
        "source_rows": table.source_rows,
        "target_rows": comparison.target_rows,
        "rejected_rows": len(table.rejected),
        "filtered_rows": table.plan.filtered_rows,
        "source_hash": comparison.source_hash,
        "target_hash": comparison.target_hash,
        "equal": comparison.equal,
        "changed": changed,
        "differences": comparison.differences,
        "conversions": [
            {"column": column, "conversion": conversion, "rows": rows}
            for (column, conversion), rows in sorted(table.conversions.items())
        ],
        "kept": [
            {
                "column": column,
                "rows": sum(values.values()),
                "values": {value or "(secret)": rows for value, rows in values.items()},
            }
            for column, values in table.kept.items()
        ],
    }
