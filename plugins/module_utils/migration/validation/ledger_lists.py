"""What the ledger keeps of a group: rejected rows, and the originals of values that a policy changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ..core.estate import Group

_LONGEST_LIST = 200


def read_kept(connection: Connection, group: Group, result: dict[str, Any]) -> None:
    """Read the rejected rows and the original values, without any value of a secret column."""
    secret = {
        (table.source, column.name) for table in group.tables for column in table.columns.values() if column.secret
    }
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT source_table, row_key, reason, count(*) OVER () FROM migration.reject "
            "WHERE group_name = %s ORDER BY source_table, row_key LIMIT %s",
            (group.name, _LONGEST_LIST),
        )
        rows = cursor.fetchall()
        result["rejects"] = {
            "total": rows[0][3] if rows else 0,
            "rows": [
                {"table": table, "key": _shown_key(table, key, secret), "reason": reason}
                for table, key, reason, _ in rows
            ],
        }
        cursor.execute(
            "SELECT source_table, row_key, column_name, reason, value, count(*) OVER () FROM migration.original_value "
            "WHERE group_name = %s ORDER BY source_table, column_name, row_key LIMIT %s",
            (group.name, _LONGEST_LIST),
        )
        rows = cursor.fetchall()
        result["original_values"] = {
            "total": rows[0][5] if rows else 0,
            "rows": [
                {
                    "table": table,
                    "key": _shown_key(table, key, secret),
                    "column": column,
                    "reason": reason,
                    "value": "(secret)" if (table, column) in secret else _shown(value),
                }
                for table, key, column, reason, value, _ in rows
            ],
        }


def _shown_key(table: str, key: str, secret: Collection[tuple[str, str]]) -> str:
    """Return a row's key as the ledger keeps it, ``id='echo'``, unless a secret column may be part of it."""
    return "(secret)" if any(f"{column}=" in key for name, column in secret if name == table) else key


def _shown(value: Any) -> str:
    """Return an original value, which the ledger keeps with its storage class, for a person."""
    if isinstance(value, Mapping) and len(value) == 1:
        (value,) = value.values()
    text = str(value)
    return text if len(text) <= _LONGEST_LIST else f"{text[:_LONGEST_LIST]}…"
