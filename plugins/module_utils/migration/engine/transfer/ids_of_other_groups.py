"""Ids of another group that stand in the id map under a name of its own, which no catalog tells."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...core.connection import sql
from ...core.errors import Problem
from ...core.sql import table_name
from ...sqlite.tables import quote_name
from ..plan.planner import ColumnPlan, TablePlan
from ..prepare.duplicates import is_any_uuid, is_uuid_without_hyphens

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# So many ids of a column are looked up: one would do, if each were there.
_LOOKED_UP = 100


def names_that_are_missing(
    connection: Connection, snapshot: sqlite3.Connection, file_name: str, plans: Sequence[TablePlan]
) -> list[Problem]:
    """Return a problem for each foreign key whose ids the other group keeps under a name of its own.

    Without that name nobody could tell how the file spells those ids: neither the proof nor a rollback.
    """
    problems = []
    own_tables = {plan.target.name for plan in plans}
    for plan in plans:
        for column in plan.columns:
            key = next((key for key in plan.target.foreign_keys if column.target in key.columns), None)
            if column.kind != "uuid" or column.options.references or key is None or key.referenced_table in own_tables:
                continue
            referenced = key.referenced_columns[key.columns.index(column.target)]
            name = _name_of_ids(
                connection, _other_spellings(snapshot, plan, column), column, key.referenced_table, referenced
            )
            if name is not None:
                problems.append(
                    Problem(
                        f"{file_name}: {plan.source.name}.{column.source}",
                        f"it holds ids of {key.referenced_table}.{referenced}, whose group names them {name}",
                        f"Write 'references: {name}' for the column in the inventory, as that group does",
                    )
                )
    return problems


def _other_spellings(snapshot: sqlite3.Connection, plan: TablePlan, column: ColumnPlan) -> list[str]:
    """Return some ids of a column that are not spelled as PostgreSQL writes a UUID."""
    name = quote_name(column.source)
    rows = snapshot.execute(
        f"SELECT DISTINCT {name} FROM {plan.source.scan} WHERE typeof({name}) = 'text' AND {is_any_uuid(name)} "  # noqa: S608 (quoted)
        f"AND ({is_uuid_without_hyphens(name)} OR {name} GLOB '*[A-F]*') LIMIT {_LOOKED_UP}"
    )
    return [str(text) for (text,) in rows]


def _name_of_ids(
    connection: Connection, old_ids: Sequence[str], column: ColumnPlan, table: str, referenced: str
) -> str | None:
    """Return the name under which the id map knows ids of a referenced column, None if it is the column's or none."""
    if not old_ids:
        return None
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL(
                "SELECT m.namespace FROM migration.id_map AS m JOIN {} AS t ON t.{} = m.new_id "
                "WHERE m.old_id = ANY (%(ids)s) AND NOT EXISTS "
                "(SELECT FROM migration.id_map AS k WHERE k.namespace = %(own)s AND k.old_id = m.old_id) "
                "GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1"
            ).format(table_name(table), sql.Identifier(referenced)),
            {"ids": list(old_ids), "own": column.namespace},
        )
        row = cursor.fetchone()
    return None if row is None else str(row[0])
