"""Moves only the rows that changed since the last run, and proves the whole by what changed.

The last run proved source and target equal; the hashes of rows add up. So the sum over all rows
is the sum then, less the rows that changed as they were, plus those rows as they are: on the
source's side from both snapshots, on the target's side read back from PostgreSQL. That nobody
touched the other rows there is shown by the transactions that wrote them (:mod:`.engine.proof.target_state`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.connection import first_row, sql
from ...core.errors import RowsRefused
from ...core.estate import REFUSE, Group
from ...core.sql import table_name
from ...sqlite.tables import open_snapshot, read_rows, row_key
from ..convert.server_text import ServerForms
from ..plan.planner import TablePlan
from ..prepare.prepare import Prepared, missing_values, prepare, respelled_values
from ..prepare.table import PreparedTable
from ..proof.checksums import RowSum, sum_source, sum_target
from ..proof.compare import Comparison
from ..proof.ledger_content import Sums, changed_record, read_sums
from ..proof.row_differences import SHOWN_DIFFERENCES, differences_of_rows
from .full_load import server_errors, write_ledger
from .snapshot_diff import TableDifference, choose
from .trial_need import answered_by_server
from .triggers import without_triggers

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.sql import Composable


class NeedsFullLoad(RowsRefused):
    """What changed cannot be told from the changed rows alone; everything is loaded again."""


@dataclass
class Synced:
    """What became of one table.

    :param prepared: its changed rows as they are now; ``rows`` and ``source_rows`` count the whole table.
    :param before: its changed rows as they were.
    """

    plan: TablePlan
    prepared: PreparedTable
    before: PreparedTable
    comparison: Comparison


@dataclass(frozen=True)
class Sync:
    """One sync of a group; the fields are what its steps need."""

    connection: Connection
    group: Group
    snapshot: sqlite3.Connection
    old_snapshot: Path
    directory: Path
    differences: Sequence[TableDifference]
    loaded: Mapping[str, Mapping[str, Any]]
    _ledger: list[tuple[Sums, Sums]] = field(default_factory=list)

    def ledger_content(self, recorded: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return what the ledger keeps of the group after :meth:`run`, None if that is not known."""
        if recorded is None or not self._ledger:
            return None
        return changed_record(recorded, *self._ledger[0])

    def can_be_done(self) -> bool:
        """Return whether each row that changed can be moved by itself."""
        for found in self.differences:
            plan = found.plan
            if not found:
                continue
            by_target = {column.target: column.source for column in plan.columns}
            key = tuple(by_target.get(name) for name in plan.target.key)
            if not key or set(key) != set(plan.source.key) or plan.kept:
                return False
        return True

    def _holds_rejected_rows(self) -> bool:
        """Return whether an earlier run rejected rows of the group."""
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT EXISTS (SELECT FROM migration.reject WHERE group_name = %s)", (self.group.name,))
            return bool(first_row(cursor)[0])

    def _require_the_same_orphans(self, old: sqlite3.Connection) -> None:
        """Refuse if a row may have become an orphan, or ceased to be one, without having changed itself.

        :raises NeedsFullLoad: if other references lead nowhere now than before.
        """
        changed = {found.plan.source.name for found in self.differences if found}
        changed_targets = {found.plan.target.name for found in self.differences if found}
        for found in self.differences:
            for server_key in answered_by_server(found.plan):
                if {server_key.table, server_key.referenced_table} & changed_targets:
                    raise NeedsFullLoad("Only the server knows which references lead nowhere now.")
            for key in found.plan.foreign_keys:
                if key.answer == REFUSE or not {key.source, key.referenced_source} & changed:
                    continue
                now, before = (missing_values(file, key, {}, False) for file in (self.snapshot, old))
                if not now.is_same(before) or respelled_values(self.snapshot, key) != respelled_values(old, key):
                    raise NeedsFullLoad("Other references lead nowhere now.")

    def run(self, write: bool) -> list[Synced]:
        """Move the changed rows and prove the result; the caller commits.

        :param write: if False, what is written is taken back, and nothing is compared.
        :raises RowsRefused: if a row is refused, or the result is not equal.
        """
        if self._holds_rejected_rows():
            # A row that refers to a rejected one is changed by what becomes of that.
            raise NeedsFullLoad("Rows were rejected before.")
        forms = ServerForms(self.connection)
        changed = [found for found in self.differences if found]
        plans = [found.plan for found in changed]
        with closing(open_snapshot(self.old_snapshot)) as old:
            self._require_the_same_orphans(old)
            # What PostgreSQL's constraints would find in a real run, a dry run has to find itself.
            after = self._prepare(self.snapshot, plans, [found.new for found in changed], "after", forms, not write)
            before = self._prepare(old, plans, [found.old for found in changed], "before", forms, False)
            if any(table.rejected for table in (*after.tables, *before.tables)):
                raise NeedsFullLoad("Rows were rejected.")
            sums = [
                (
                    sum_source(old, table_before, forms),
                    sum_source(self.snapshot, table_after, forms),
                )
                for table_before, table_after in zip(before.tables, after.tables, strict=True)
            ]
            shown = {found.plan.source.name: [] if write else self._shown(old, found, forms) for found in changed}
            old_keys = {
                table.plan.source.name: [
                    row_key(table.plan.source, row) for row in read_rows(old, table.plan.source, (), table.only)
                ]
                for table in before.tables
                if table.changes
            }
        result = []
        pairs = {
            table_after.plan.source.name: (table_before, table_after, *both)
            for table_before, table_after, both in zip(before.tables, after.tables, sums, strict=True)
        }
        target = self._write(before, after, old_keys) if write else self._tried(before, after, old_keys)
        for found in self.differences:
            loaded = _as_sum(self.loaded[found.plan.target.name])
            if found.plan.source.name not in pairs:
                unchanged = PreparedTable(found.plan, source_rows=loaded.rows, rows=loaded.rows)
                result.append(Synced(found.plan, unchanged, PreparedTable(found.plan), _comparison(loaded, loaded)))
                continue
            table_before, table_after, was, now = pairs[found.plan.source.name]
            source = loaded.plus(was, -1).plus(now)
            there = target.get(found.plan.target.name)
            both = loaded if there is None else loaded.plus(there[0], -1).plus(there[1])
            counted = replace(table_after, source_rows=source.rows, rows=source.rows)
            comparison = _comparison(source, both)
            comparison.differences = shown[found.plan.source.name]
            result.append(Synced(found.plan, counted, table_before, comparison))
        return result

    def _shown(self, old: sqlite3.Connection, found: TableDifference, forms: ServerForms) -> list[dict[str, str]]:
        """Return the first rows that differ, for a person."""
        new_rows = found.new[:SHOWN_DIFFERENCES]
        new, old_ones = set(found.new), set(found.old)
        old_rows = [row for row in new_rows if row in old_ones]
        old_rows += [row for row in found.old if row not in new][:SHOWN_DIFFERENCES]
        number = len(self.differences)
        after = PreparedTable(found.plan, only=choose(self.snapshot, number, found.locator, new_rows))
        before = PreparedTable(found.plan, only=choose(old, number, found.locator, old_rows))
        return differences_of_rows(self.snapshot, after, old, before, forms)

    def _prepare(
        self,
        snapshot: sqlite3.Connection,
        plans: Sequence[TablePlan],
        rows: Sequence[Sequence[Any]],
        name: str,
        forms: ServerForms,
        exact: bool,
    ) -> Prepared:
        """Convert the changed rows of one snapshot."""
        directory = self.directory / name
        directory.mkdir(mode=0o700, exist_ok=True)
        locators = {found.plan.source.name: found.locator for found in self.differences}
        only = {
            plan.source.name: choose(snapshot, number, locators[plan.source.name], chosen)
            for number, (plan, chosen) in enumerate(zip(plans, rows, strict=True))
        }
        return prepare(self.group, snapshot, plans, directory, forms, exact=exact, only=only)

    def _tried(self, before: Prepared, after: Prepared, old_keys: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Write what changed and take it back, so that PostgreSQL says in a dry run too what it would refuse."""
        with self.connection.cursor() as cursor:
            cursor.execute("SAVEPOINT tried")
            self._write(before, after, old_keys)
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute("ROLLBACK TO SAVEPOINT tried")
        self._ledger.clear()
        return {}

    def _write(
        self, before: Prepared, after: Prepared, old_keys: Mapping[str, Sequence[str]]
    ) -> dict[str, tuple[RowSum, RowSum]]:
        """Bring the changed rows into the target and return their sums there, before and after."""
        result = {}
        plans = [table.plan for table in after.tables]
        with self.connection.cursor() as cursor, server_errors("moving the changed rows", plans):
            cursor.execute("SELECT set_config('lock_timeout', '10s', true)")
            for number, (was, now) in enumerate(zip(before.tables, after.tables, strict=True)):
                for name, table in (("outgoing", was), ("incoming", now)):
                    _stage(cursor, f"{name}_{number}", table)
            outgoing = read_sums(self.connection, self.group.name, old_keys)
            write_ledger(cursor, self.group.name, after, old_keys)
            new_keys = {table.plan.source.name: list(table.changes) for table in after.tables if table.changes}
            self._ledger.append((outgoing, read_sums(self.connection, self.group.name, new_keys)))
            sums = [
                sum_target(self.connection, plan, _joined(f"outgoing_{number}", plan))
                for number, plan in enumerate(plans)
            ]
            with without_triggers(cursor, plans):
                for number, plan in reversed(list(enumerate(plans))):
                    cursor.execute(_delete(plan, f"outgoing_{number}", f"incoming_{number}"))
                for number, plan in enumerate(plans):
                    if len(plan.columns) > len(plan.target.key):
                        cursor.execute(_update(plan, f"incoming_{number}"))
                    cursor.execute(_insert(plan, f"incoming_{number}"))
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            for number, plan in enumerate(plans):
                now_there = sum_target(self.connection, plan, _joined(f"incoming_{number}", plan))
                result[plan.target.name] = (sums[number], now_there)
        return result


def _as_sum(loaded: Mapping[str, Any]) -> RowSum:
    """Return the sum that the last run proved for a table."""
    digits = loaded["hash"]
    return RowSum(loaded["rows"], int(digits[:16], 16), int(digits[16:], 16))


def _comparison(source: RowSum, target: RowSum) -> Comparison:
    return Comparison(source.rows, target.rows, source.hexdigest(), target.hexdigest())


def _stage(cursor: Any, name: str, table: PreparedTable) -> None:
    """Put the converted rows of one table into a temporary table of the same columns."""
    if table.spool is None:
        raise ValueError("a sync needs its rows in files")
    columns = sql.SQL(", ").join(sql.Identifier(column.target) for column in table.plan.columns)
    cursor.execute(
        sql.SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA").format(
            sql.Identifier(name), columns, table_name(table.plan.target.name)
        )
    )
    with table.spool.open("rb") as file:
        cursor.copy_expert(sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(name), columns), file)
    cursor.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(name)))


def _match(plan: TablePlan, left: str, right: str) -> Composable:
    """Return the SQL that matches rows by the target's key."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, name), sql.Identifier(right, name)) for name in plan.target.key
    )


def _joined(staged: str, plan: TablePlan) -> Composable:
    """Return the join that leaves of the target only the rows that are staged."""
    return sql.SQL(" JOIN {} AS s ON {}").format(sql.Identifier(staged), _match(plan, "s", "t"))


def _delete(plan: TablePlan, outgoing: str, incoming: str) -> Composable:
    """Return the statement that deletes the rows that are no more."""
    return sql.SQL("DELETE FROM {} AS t USING {} AS o WHERE {} AND NOT EXISTS (SELECT FROM {} AS i WHERE {})").format(
        table_name(plan.target.name),
        sql.Identifier(outgoing),
        _match(plan, "o", "t"),
        sql.Identifier(incoming),
        _match(plan, "i", "t"),
    )


def _update(plan: TablePlan, incoming: str) -> Composable:
    """Return the statement that changes the rows that are there."""
    columns = [column.target for column in plan.columns if column.target not in plan.target.key]
    return sql.SQL("UPDATE {} AS t SET ({}) = ROW({}) FROM {} AS i WHERE {}").format(
        table_name(plan.target.name),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(sql.Identifier("i", name) for name in columns),
        sql.Identifier(incoming),
        _match(plan, "i", "t"),
    )


def _insert(plan: TablePlan, incoming: str) -> Composable:
    """Return the statement that adds the rows that are new."""
    columns = [column.target for column in plan.columns]
    overriding = any(plan.target.columns[name].identity == "a" for name in columns)
    return sql.SQL(
        "INSERT INTO {} ({}){} SELECT {} FROM {} AS i WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})"
    ).format(
        table_name(plan.target.name),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(" OVERRIDING SYSTEM VALUE" if overriding else ""),
        sql.SQL(", ").join(sql.Identifier("i", name) for name in columns),
        sql.Identifier(incoming),
        table_name(plan.target.name),
        _match(plan, "i", "t"),
    )
