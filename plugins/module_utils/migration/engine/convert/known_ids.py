"""Which ids the texts and JSON of a column may hold, and the UUIDs that they become."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ...core.errors import MigrationError, Problem
from ...core.estate import Group
from ...sqlite.tables import quote_name
from ..plan.ids_in_texts import IdsInTexts
from ..plan.planner import ColumnPlan, TablePlan
from .refusals import Refused
from .values import converter

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_Namespaces = Mapping[str, Mapping[str, str]]


def with_ids_in_texts(
    connection: Connection, group: Group, snapshot: sqlite3.Connection, plans: Sequence[TablePlan]
) -> list[TablePlan]:
    """Return the plans in which each column with ``rewrite_ids_of`` knows these ids and their UUIDs.

    Those of the group's own tables are read from its file, those of other groups from the ledger.

    :raises MigrationError: if ids are named that are nowhere, or if one id would become two.
    """
    wanted = {name for plan in plans for column in plan.columns for name in column.options.rewrite_ids_of}
    if not wanted:
        return list(plans)
    ids = _ids_of_group(snapshot, plans, wanted)
    ids |= _ids_of_others(connection, wanted - ids.keys())
    problems: list[Problem] = []
    result = [
        replace(
            plan,
            columns=tuple(
                _with_ids(f"{group.source_path}: {plan.source.name}.{column.source}", column, ids, problems)
                for column in plan.columns
            ),
        )
        for plan in plans
    ]
    if problems:
        raise MigrationError(f"Cutover group {group.name} cannot be planned.", problems)
    return result


def _with_ids(where: str, column: ColumnPlan, ids: _Namespaces, problems: list[Problem]) -> ColumnPlan:
    """Return a column with the ids that it may hold, noting what is wrong with them."""
    names = column.options.rewrite_ids_of
    if not names:
        return column
    for name in names:
        if name not in ids:
            what = f"'rewrite_ids_of' names {name}, and neither this group nor the ledger has ids of that name"
            problems.append(
                Problem(
                    where,
                    what,
                    "Correct it (schema.table of the key, or what 'references' calls its ids); those of another group "
                    "are known once it was rehearsed",
                )
            )
    new_ids: dict[str, str] = {}
    for name in names:
        for old, new in ids.get(name, {}).items():
            if new_ids.setdefault(old, new) != new:
                what = f"an id stands in more than one of {', '.join(names)}, so nobody can tell which UUID it becomes"
                problems.append(Problem(where, what, "Name in 'rewrite_ids_of' only those whose ids the column holds"))
                return column
    return replace(column, ids=IdsInTexts(new_ids))


def _ids_of_group(
    snapshot: sqlite3.Connection, plans: Sequence[TablePlan], wanted: set[str]
) -> dict[str, dict[str, str]]:
    """Return by namespace the texts in the file that become UUIDs of another spelling, with these."""
    found: dict[str, dict[str, str]] = {}
    for plan in plans:
        for column in plan.columns:
            if not column.records_ids or column.namespace not in wanted:
                continue
            convert = converter(column, lambda _: None)
            name = quote_name(column.source)
            query = f"SELECT DISTINCT {name} FROM {plan.source.relation} WHERE typeof({name}) = 'text'"  # noqa: S608 (quoted)
            ids = found.setdefault(column.namespace, {})
            for (old,) in snapshot.execute(query):
                with suppress(Refused):
                    new = convert(old)
                    if new is not None and new != old:
                        ids[old] = new
    return found


def _ids_of_others(connection: Connection, namespaces: set[str]) -> dict[str, dict[str, str]]:
    """Return the same from the ledger, without what may be a number in the file: any number would be taken for it."""
    found: dict[str, dict[str, str]] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT namespace, old_id, new_id::text FROM migration.id_map "
            "WHERE namespace = ANY (%s) AND old_id ~ '[^0-9]'",
            (sorted(namespaces),),
        )
        for namespace, old, new in cursor:
            found.setdefault(namespace, {})[old] = new
    return found
