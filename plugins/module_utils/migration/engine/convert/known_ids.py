"""Which ids are rewritten inside the texts and JSON of a column, and the UUIDs that they become.

Only a load asks which ids there are. It records its answer with the rows; whoever reads these rows later, for a
proof, a replay or a rollback, takes it from the record (:mod:`.recorded_ids`). So nothing that is rehearsed, added or
deleted meanwhile can change how a group's rows are read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ...core.errors import MigrationError, Problem
from ...core.estate import Group
from ...sqlite.tables import Value, quote_name
from ..plan.ids_in_texts import IdsInTexts
from ..plan.planner import ColumnPlan, TablePlan
from .recorded_ids import require_place
from .refusals import Refused
from .rewritable import why_not
from .values import converter

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


def owners_of_ids(plans: Sequence[TablePlan]) -> set[str]:
    """Return the target tables whose ids can be rewritten in texts of their group."""
    return {plan.target.name for plan in plans for column in plan.columns if _owns_ids(plan, column)}


def _owns_ids(plan: TablePlan, column: ColumnPlan) -> bool:
    """Return whether a column is the key whose ids are those of its table: another may hold ids without a row."""
    return column.records_ids and plan.target.key == (column.target,) and column.namespace == plan.target.name


def with_ids_of_now(
    connection: Connection, group: Group, snapshot: sqlite3.Connection, plans: Sequence[TablePlan]
) -> list[TablePlan]:
    """Return the plans of a load in which each column with ``rewrite_ids_of`` knows these ids and their UUIDs.

    They are those of the group's own tables, read from the same state of its file as the texts.

    :raises MigrationError: for ids of other tables, and for columns in which rewriting ids would not be safe.
    """
    if not any(column.options.rewrite_ids_of for plan in plans for column in plan.columns):
        return list(plans)
    require_place(connection)
    owners = owners_of_ids(plans)
    problems = [
        problem
        for plan in plans
        for column in plan.columns
        if column.options.rewrite_ids_of
        for problem in _problems_of(connection, group, snapshot, plan, column, owners)
    ]
    if problems:
        raise MigrationError(f"Cutover group {group.name} cannot be planned.", problems)
    # Columns that name the same tables share their ids.
    made: dict[tuple[str, ...], IdsInTexts | None] = {(): None}
    for plan in plans:
        for column in plan.columns:
            names = column.options.rewrite_ids_of
            if names not in made:
                made[names] = ids_of(snapshot, plans, names)
    return [
        replace(
            plan, columns=tuple(replace(column, ids=made[column.options.rewrite_ids_of]) for column in plan.columns)
        )
        for plan in plans
    ]


def _problems_of(
    connection: Connection,
    group: Group,
    snapshot: sqlite3.Connection,
    plan: TablePlan,
    column: ColumnPlan,
    owners: set[str],
) -> Iterator[Problem]:
    """Yield what is wrong with the ids that one column names, or with the column."""
    where = f"{group.source_path}: {plan.source.name}.{column.source}"
    for name in column.options.rewrite_ids_of:
        if name not in owners:
            yield Problem(
                where,
                f"'rewrite_ids_of' names {name}, and group {group.name} moves no table of that name whose primary key "
                "is one column of UUIDs with ids of its own",
                "Name a target table of this group, or move both in one group: ids of another group change by "
                "themselves, so that nobody could keep them equal. Else rewrite them by 'computed', or let the "
                "application look them up in migration.id_map",
            )
    reason = why_not(connection, snapshot, plan, column)
    if reason:
        yield Problem(
            where,
            f"'rewrite_ids_of' cannot be safe in this column: {reason}",
            "Leave 'rewrite_ids_of' out: rewrite the ids by 'computed', or let the application look them up in "
            "migration.id_map",
        )


def ids_of(snapshot: sqlite3.Connection, plans: Sequence[TablePlan], names: Sequence[str]) -> IdsInTexts:
    """Return the ids of some tables in the file that become UUIDs of another spelling, with these.

    A number counts with its digits, as it does in the id map. An id that is a UUID already counts only where another
    id becomes the same one, so that both are known as unclear.
    """
    columns = [
        (plan, column)
        for plan in plans
        for column in plan.columns
        if _owns_ids(plan, column) and column.namespace in names
    ]
    pairs = set()
    for plan, column in columns:
        convert = converter(column, lambda _: None)
        for old in _values(snapshot, plan, column):
            with suppress(Refused):
                new = convert(old)
                if new is not None and new != old:
                    pairs.add((str(old), new))
    uuids = {new for _, new in pairs}
    for plan, column in columns:
        pairs.update((old, old) for old in _values(snapshot, plan, column) if isinstance(old, str) and old in uuids)
    return IdsInTexts(pairs)


def _values(snapshot: sqlite3.Connection, plan: TablePlan, column: ColumnPlan) -> Iterator[Value]:
    """Yield the ids in a column of the file."""
    name = quote_name(column.source)
    query = f"SELECT DISTINCT {name} FROM {plan.source.relation} WHERE typeof({name}) IN ('text', 'integer')"  # noqa: S608
    for (old,) in snapshot.execute(query):
        yield old
