"""What a table holds, as one sum of hashes: the same on every server that holds the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.connection import first_row, sql

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor
    from psycopg2.sql import Composable

# The row's text is that of the types alone: the owner of a table may make a cast of its rows to text, and `t::text`
# would run it with the rights of this session. `t.*` is the row also where a column is called t.
_HASH = """
SELECT count(*),
       coalesce(sum(('x' || left(h, 16))::bit(64)::bigint::numeric), 0),
       coalesce(sum(('x' || right(h, 16))::bit(64)::bigint::numeric), 0)
FROM (SELECT md5(pg_catalog.textin(pg_catalog.record_out(t.*))) AS h FROM {} AS t) AS hashed
"""


def table_sums(cursor: Cursor, table: Composable) -> dict[str, Any]:
    """Return rows and hash of one table, or of a query in parentheses, as a 128-bit sum.

    The hash is the sum of the rows' 128-bit hashes in two halves, each modulo 2^64, so the order of the rows does
    not matter. It depends on the session settings that :func:`.core.connection.connect` makes.
    """
    cursor.execute(sql.SQL(_HASH).format(table))
    rows, high, low = first_row(cursor)
    return {"rows": int(rows), "hash": f"{int(high) % 2**64:016x}{int(low) % 2**64:016x}"}
