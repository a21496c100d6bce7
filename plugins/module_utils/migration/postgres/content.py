"""What a table holds, as one sum of hashes: the same on every server that holds the same rows."""

from __future__ import annotations

from hashlib import md5
from typing import TYPE_CHECKING, Any

from ..core.connection import first_row, sql
from .strangers import is_stranger

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

# Whoever owns a table, or the schema that it is in, may put another table in its place. The names are those of this
# moment, whatever the snapshot shows: what is not in it is a stranger's until another run.
_IS_STRANGERS = f"""
SELECT coalesce((SELECT {is_stranger("c.relowner")} OR {is_stranger("n.nspowner")}
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE c.oid = to_regclass(%s)::oid), true)
"""  # noqa: S608 (SQL of ours)


def lock(cursor: Cursor, table: Composable) -> None:
    """Keep a table from being dropped, emptied or changed in shape, until the transaction ends."""
    cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(table))


def is_strangers(cursor: Cursor, table: Composable) -> bool:
    """Return whether a table, which is locked, belongs to a stranger or lies in a stranger's schema."""
    cursor.execute(_IS_STRANGERS, (table.as_string(cursor),))
    return bool(first_row(cursor)[0])


def table_sums(cursor: Cursor, table: Composable) -> dict[str, Any]:
    """Return rows and hash of one table, or of a query in parentheses, as a 128-bit sum.

    The hash is the sum of the rows' 128-bit hashes in two halves, each modulo 2^64, so the order of the rows does
    not matter. It depends on the session settings that :func:`.core.connection.connect` makes.
    """
    cursor.execute(sql.SQL(_HASH).format(table))
    rows, high, low = first_row(cursor)
    return {"rows": int(rows), "hash": f"{int(high) % 2**64:016x}{int(low) % 2**64:016x}"}


def copied_sums(cursor: Cursor, table: Composable) -> dict[str, Any]:
    """Return the same of a table whose owner is a stranger, without a plan, and so without the owner's code.

    Whoever plans a query of a table evaluates what is constant in its indexes, its statistics and its checks, with the
    rights of the session. COPY reads the rows of a table as they are stored: it plans nothing and leaves out what is
    generated. The hash is that of COPY's lines, another one than that of :func:`table_sums`.
    """
    lines = _Lines()
    cursor.copy_expert(sql.SQL("COPY {} TO STDOUT").format(table), lines)
    return {"rows": lines.rows, "hash": f"{lines.high % 2**64:016x}{lines.low % 2**64:016x}", "copied": True}


class _Lines:
    """Takes what COPY sends, and sums the hashes of its lines."""

    def __init__(self) -> None:
        self.rows = self.high = self.low = 0
        self._begun = b""

    def write(self, data: bytes) -> int:
        """Take a piece: an end of a line in a value is sent as an escape."""
        *whole, self._begun = (self._begun + data).split(b"\n")
        for line in whole:
            digest = md5(line, usedforsecurity=False).digest()
            self.rows += 1
            self.high += int.from_bytes(digest[:8], "big")
            self.low += int.from_bytes(digest[8:], "big")
        return len(data)
