"""What PostgreSQL says of one foreign key: how it compares, whether it is validated, and which rows break it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.connection import first_row, sql
from ..core.sql import table_name
from .catalog import ForeignKey

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor
    from psycopg2.sql import Composable


def key_operators(cursor: Cursor, key: ForeignKey) -> list[Composable]:
    """Return for each column of a foreign key the operator that PostgreSQL itself compares it by: parent, then child.

    A bare ``=`` would be that of text for citext, where its schema is not in the search path.
    """
    cursor.execute(
        "SELECT n.nspname, o.oprname FROM pg_constraint k "
        "CROSS JOIN unnest(k.conpfeqop) WITH ORDINALITY AS e (operator, position) "
        "JOIN pg_operator o ON o.oid = e.operator JOIN pg_namespace n ON n.oid = o.oprnamespace "
        "WHERE k.conrelid = %s::regclass AND k.conname = %s ORDER BY e.position",
        (table_name(key.table).as_string(cursor), key.name),
    )
    return [
        sql.SQL("OPERATOR({}.{})").format(sql.Identifier(schema), sql.SQL(operator))
        for schema, operator in cursor.fetchall()
    ]


def is_validated(cursor: Cursor, key: ForeignKey) -> bool:
    """Return whether PostgreSQL holds a foreign key valid for every row."""
    cursor.execute(
        "SELECT convalidated FROM pg_constraint WHERE conrelid = %s::regclass AND conname = %s",
        (table_name(key.table).as_string(cursor), key.name),
    )
    return bool(first_row(cursor)[0])


def orphan_count(cursor: Cursor, key: ForeignKey) -> int:
    """Return how many rows refer to a row that is not there, as the key itself compares them."""
    pairs = [
        (sql.Identifier("c", child), sql.Identifier("p", parent))
        for child, parent in zip(key.columns, key.referenced_columns, strict=True)
    ]
    cursor.execute(
        sql.SQL("SELECT count(*) FROM {} AS c WHERE {} AND NOT EXISTS (SELECT FROM {} AS p WHERE {})").format(
            table_name(key.table),
            sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(child) for child, _ in pairs),
            table_name(key.referenced_table),
            sql.SQL(" AND ").join(
                sql.SQL("{} {} {}").format(parent, equals, child)
                for (child, parent), equals in zip(pairs, key_operators(cursor, key), strict=True)
            ),
        )
    )
    return int(first_row(cursor)[0])
