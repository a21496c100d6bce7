"""What a sequence gives out next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.connection import first_row, sql

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor


def next_value(cursor: Cursor, name: str) -> int:
    """Return the number that a sequence gives out next.

    :param name: as the server returns it, with its schema, quoted where needed.
    """
    cursor.execute("SELECT seqincrement FROM pg_sequence WHERE seqrelid = %s::regclass", (name,))
    (increment,) = first_row(cursor)
    cursor.execute(
        sql.SQL("SELECT CASE WHEN is_called THEN last_value + {} ELSE last_value END FROM {}").format(
            sql.Literal(increment), sql.SQL(name)
        )
    )
    return int(first_row(cursor)[0])
