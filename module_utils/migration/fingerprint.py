"""A cheap fingerprint of the target's tables: equal as long as nothing was written to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .connection import first_row
from .estate import Group
from .names import table_name

try:
    from psycopg2 import sql
except ImportError:  # reported by connection.connect()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_QUERY = """
SELECT count(*),
       coalesce(sum(('x' || left(h, 16))::bit(64)::bigint::numeric), 0),
       coalesce(sum(('x' || right(h, 16))::bit(64)::bigint::numeric), 0)
FROM (SELECT md5(t::text) AS h FROM {} AS t) AS hashed
"""


def fingerprint(connection: Connection, group: Group) -> dict[str, dict[str, Any]]:
    """Return rows and hash of each target table of a group; tables that do not exist are left out.

    The hash is the sum of the rows' 128-bit hashes in two halves, each modulo 2^64, so the order
    of the rows does not matter. It depends on the session settings that
    :func:`.connection.connect` makes.
    """
    result = {}
    with connection.cursor() as cursor:
        for mapping in group.tables:
            cursor.execute(
                "SELECT to_regclass(quote_ident(%s) || '.' || quote_ident(%s)) IS NOT NULL",
                (mapping.target_schema, mapping.target_table),
            )
            if not first_row(cursor)[0]:
                continue
            cursor.execute(sql.SQL(_QUERY).format(table_name(mapping.target)))
            rows, high, low = first_row(cursor)
            result[mapping.target] = {
                "rows": int(rows),
                "hash": f"{int(high) % 2**64:016x}{int(low) % 2**64:016x}",
            }
    return result
