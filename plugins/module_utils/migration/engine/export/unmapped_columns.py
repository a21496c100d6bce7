"""What PostgreSQL holds in columns for which the file has no place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...core.connection import sql
from .inputs import Sides
from .values import shown_row
from .violations import SHOWN_ROWS, ExportViolations

if TYPE_CHECKING:
    from psycopg2.sql import Composable


@dataclass(frozen=True)
class OtherColumns:
    """The columns of a target that its source lacks.

    :param conditions: column → SQL that is true for a row in which something else than its default stands.
    :param not_told: columns whose default is not one value (``now()``, for example): nobody can tell there.
    """

    sides: Sides
    conditions: dict[str, Composable]
    not_told: tuple[str, ...]

    def note(self, violations: ExportViolations) -> None:
        """Note the rows with data in such columns."""
        sides, plan = self.sides, self.sides.plan
        for column, condition in self.conditions.items():
            with sides.connection.cursor() as cursor:
                cursor.execute(
                    sql.SQL("SELECT count(*) OVER (), {} FROM {} WHERE {} LIMIT {}").format(
                        sql.SQL(", ").join(sides.values), sides.relation, condition, sql.Literal(SHOWN_ROWS)
                    )
                )
                rows = cursor.fetchall()
            if rows:
                violations.add(
                    f"{plan.source.name} ← {plan.target.name}.{column}",
                    "holds data, and the file has no such column",
                    *(shown_row(sides, list(row[1:])) for row in rows),
                    count=int(rows[0][0]),
                )

    def places(self) -> Iterator[str]:
        """Yield the place of each row with data in such columns."""
        if not self.conditions:
            return
        any_of_them = sql.SQL(" OR ").join(self.conditions.values())
        with self.sides.connection.cursor(name="rows_with_more") as cursor:
            cursor.execute(
                sql.SQL("SELECT {} FROM {} WHERE {}").format(self.sides.place, self.sides.relation, any_of_them)
            )
            for (place,) in cursor:
                yield place


def other_columns(sides: Sides) -> OtherColumns:
    """Return the columns of the target that the source lacks."""
    plan = sides.plan
    taken = {column.target for column in plan.compared}
    not_told = []
    conditions: dict[str, Composable] = {}
    for column in plan.target.columns.values():
        if column.name in taken or column.generated:
            continue
        default, constant = _default(sides, column.name)
        if not constant or column.sequence is not None or column.identity:
            not_told.append(column.name)
            continue
        # The server wrote the default itself.
        conditions[column.name] = sql.SQL("t.{}::text IS DISTINCT FROM ({})::{}::text").format(
            sql.Identifier(column.name), sql.SQL(default), sql.SQL(column.display_type)
        )
    return OtherColumns(sides, conditions, tuple(not_told))


def _default(sides: Sides, column: str) -> tuple[str, bool]:
    """Return the SQL of a target column's default, and whether it is the same value every time."""
    schema, _, table = sides.plan.target.name.partition(".")
    with sides.connection.cursor() as cursor:
        cursor.execute(
            r"""
            SELECT pg_get_expr(d.adbin, d.adrelid),
                   d.adbin::text NOT LIKE '%%SQLVALUEFUNCTION%%' AND d.adbin::text NOT LIKE '%%NEXTVALUEEXPR%%'
                   AND NOT EXISTS (SELECT FROM regexp_matches(d.adbin::text, ':(?:func|opfunc)id (\d+)', 'g') AS f
                                   JOIN pg_proc p ON p.oid = f[1]::oid WHERE p.provolatile <> 'i')
            FROM pg_attrdef d
            JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
            JOIN pg_class c ON c.oid = d.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = %s AND c.relname = %s AND a.attname = %s
            """,
            (schema, table, column),
        )
        row = cursor.fetchone()
    return ("NULL", True) if row is None else (str(row[0]), bool(row[1]))
