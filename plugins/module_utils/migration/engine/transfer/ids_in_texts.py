"""Old ids in texts and JSON, to which no foreign key leads: they stay as they are while the ids become UUIDs."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from ...sqlite.tables import quote_name
from ..plan.planner import ColumnPlan, TablePlan
from ..prepare.duplicates import is_any_uuid


def ids_in_texts(snapshot: sqlite3.Connection, plans: Sequence[TablePlan]) -> list[dict[str, Any]]:
    """Return each column of texts or JSON that holds ids which become others, with its rows and whose ids these are.

    Every text is read and every JSON text parsed: a dry run does so, and no run that moves rows.
    """
    found = []
    for owner, column in _text_ids(snapshot, plans):
        ids = f"SELECT {quote_name(column.source)} FROM {owner.source.relation} WHERE {_is_text_id(column)}"  # noqa: S608
        for plan in plans:
            referring = {name for key in plan.foreign_keys for name in key.columns}
            for other in plan.columns:
                if other.kind not in ("text", "char", "json") or other.source in referring:
                    continue
                name = quote_name(other.source)
                holds = f"{name} IN ({ids}) OR (CASE WHEN {name} GLOB '[[{{]*' THEN json_valid({name}) END AND EXISTS ("
                holds += f"SELECT 1 FROM json_tree({name}) AS j WHERE j.type = 'text' AND j.atom IN ({ids})))"  # noqa: S608 (quoted)
                query = f"SELECT count(*) FROM {plan.source.relation} WHERE typeof({name}) = 'text' AND ({holds})"  # noqa: S608
                rows = snapshot.execute(query).fetchone()[0]
                if rows:
                    place = f"{plan.source.name}.{other.source}"
                    found.append({"column": place, "rows": rows, "ids_of": f"{owner.source.name}.{column.source}"})
    return found


def _text_ids(snapshot: sqlite3.Connection, plans: Sequence[TablePlan]) -> list[tuple[TablePlan, ColumnPlan]]:
    """Return the keys whose ids become others, if they hold any such id."""
    keys = [
        (plan, column)
        for plan in plans
        for column in plan.columns
        if column.records_ids and column.text_ids and plan.target.key == (column.target,)
    ]
    return [
        (plan, column)
        for plan, column in keys
        if snapshot.execute(
            f"SELECT 1 FROM {plan.source.relation} WHERE {_is_text_id(column)} LIMIT 1"  # noqa: S608 (quoted)
        ).fetchone()
    ]


def _is_text_id(column: ColumnPlan) -> str:
    """Return the SQL that is true for an id that becomes another one."""
    name = quote_name(column.source)
    return f"typeof({name}) = 'text' AND NOT {is_any_uuid(name)}"
