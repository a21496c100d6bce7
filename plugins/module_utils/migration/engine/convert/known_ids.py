"""Which ids are rewritten inside the texts and JSON of a column, and the UUIDs that they become.

Only a load asks which ids there are. It records its answer with the rows; whoever reads these rows later, for a
proof, a replay or a rollback, takes it from the record (:mod:`.recorded_ids`). So nothing that is rehearsed, added or
deleted meanwhile can change how a group's rows are read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ...core.errors import MigrationError, Problem
from ...core.estate import Group
from ...sqlite.tables import quote_name, show
from ..plan.ids_in_texts import IdsInTexts
from ..plan.planner import ColumnPlan, TablePlan
from .recorded_ids import require_place
from .refusals import Refused
from .values import converter

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_SHOWN_IDS = 3

_Namespaces = Mapping[str, Mapping[str, str]]


def with_ids_of_now(
    connection: Connection, group: Group, snapshot: sqlite3.Connection, plans: Sequence[TablePlan]
) -> list[TablePlan]:
    """Return the plans of a load in which each column with ``rewrite_ids_of`` knows these ids and their UUIDs.

    Those of the group's own tables are read from its file, those of other groups from the id map.

    :raises MigrationError: if ids are named that are nowhere, or if it is not certain which UUID is meant.
    """
    wanted = {name for plan in plans for column in plan.columns for name in column.options.rewrite_ids_of}
    if not wanted:
        return list(plans)
    require_place(connection)
    namespaces, secret = _ids_of_group(snapshot, plans, wanted)
    # A group that merely refers to such ids holds some of them.
    others = wanted - {column.namespace for plan in plans for column in plan.columns if _is_key(plan, column)}
    for name, ids in _ids_of_others(connection, others).items():
        namespaces[name] = ids | namespaces.get(name, {})
    # Nobody knows whether another group holds its ids secret.
    secret |= others
    made: dict[tuple[str, ...], IdsInTexts] = {}
    problems: list[Problem] = []
    for plan in plans:
        for column in plan.columns:
            names = column.options.rewrite_ids_of
            if not names:
                continue
            where = f"{group.source_path}: {plan.source.name}.{column.source}"
            found = _problems_of(where, names, namespaces, secret)
            problems += found
            if not found and names not in made:
                made[names] = IdsInTexts({old: new for name in names for old, new in namespaces[name].items()})
    if problems:
        raise MigrationError(f"Cutover group {group.name} cannot be planned.", problems)
    return [
        replace(
            plan, columns=tuple(replace(column, ids=made.get(column.options.rewrite_ids_of)) for column in plan.columns)
        )
        for plan in plans
    ]


def _problems_of(where: str, names: Sequence[str], namespaces: _Namespaces, secret: set[str]) -> list[Problem]:
    """Return what is wrong with the ids that one column names."""
    problems = [
        Problem(
            where,
            f"'rewrite_ids_of' names {name}, and neither this group nor the ledger has ids of that name",
            "Correct it (schema.table of the key, or what 'references' calls its ids); those of another group are "
            "known once it was rehearsed",
        )
        for name in names
        if name not in namespaces
    ]
    if problems:
        return problems
    # Old id → UUID, and the other way round: both must be certain.
    forward: dict[str, tuple[str, str]] = {}
    back: dict[str, tuple[str, str]] = {}
    unclear: dict[tuple[str, str], list[str]] = {}
    for name in names:
        for old, new in namespaces[name].items():
            other, other_new = forward.setdefault(old, (name, new))
            if other_new != new:
                unclear.setdefault((other, name), []).append(old)
                continue
            other, other_old = back.setdefault(new, (name, old))
            if other_old != old:
                unclear.setdefault((other, name), []).append(old)
    for (one, other), ids in unclear.items():
        count = "1 id stands" if len(ids) == 1 else f"{len(ids):,} ids stand"
        shown = "" if {one, other} & secret else f": {', '.join(show(each) for each in sorted(ids)[:_SHOWN_IDS])}"
        more = " and more" if shown and len(ids) > _SHOWN_IDS else ""
        problems.append(
            Problem(
                where,
                f"{count} in {one} and in {other}, so nobody can tell which of both a text means{shown}{more}",
                "Name in 'rewrite_ids_of' only those whose ids the column holds",
            )
        )
    return problems


def _is_key(plan: TablePlan, column: ColumnPlan) -> bool:
    """Return whether a column is the key whose ids its namespace holds, all of which stand in the file."""
    return column.records_ids and plan.target.key == (column.target,)


def _ids_of_group(
    snapshot: sqlite3.Connection, plans: Sequence[TablePlan], wanted: set[str]
) -> tuple[dict[str, dict[str, str]], set[str]]:
    """Return by namespace the ids in the file that become UUIDs of another spelling, with these; and which are secret.

    A number counts with its digits, as it does in the id map.
    """
    found: dict[str, dict[str, str]] = {}
    secret = set()
    for plan in plans:
        for column in plan.columns:
            if not column.records_ids or column.namespace not in wanted:
                continue
            if column.options.secret:
                secret.add(column.namespace)
            convert = converter(column, lambda _: None)
            name = quote_name(column.source)
            ids = found.setdefault(column.namespace, {})
            for (old,) in snapshot.execute(
                f"SELECT DISTINCT {name} FROM {plan.source.relation} WHERE typeof({name}) IN ('text', 'integer')"  # noqa: S608 (quoted)
            ):
                with suppress(Refused):
                    new = convert(old)
                    if new is not None and new != old:
                        ids[str(old)] = new
    return found, secret


def _ids_of_others(connection: Connection, namespaces: set[str]) -> dict[str, dict[str, str]]:
    """Return the same from the id map."""
    found: dict[str, dict[str, str]] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT namespace, old_id, new_id::text FROM migration.id_map WHERE namespace = ANY (%s)",
            (sorted(namespaces),),
        )
        for namespace, old, new in cursor:
            found.setdefault(namespace, {})[old] = new
    return found
