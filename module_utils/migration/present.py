"""What the target tables hold now, and whether that is what our last run left there.

Every row carries the transaction that wrote it. As long as a table has the same number of rows of
the same transactions, nothing in it was inserted, updated or deleted: that takes a tenth of a
second for a million rows. Only after a restore from a dump do the transactions differ without
the content; then the content itself decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .names import table_name
from .plan import TablePlan
from .row_sums import sum_target

try:
    from psycopg2 import sql
except ImportError:  # reported by connection.connect()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


@dataclass(frozen=True)
class Present:
    """What one target table holds.

    :param writers: transaction id → number of rows that it wrote.
    :param ours: whether this is what our last run left.
    """

    rows: int
    writers: Mapping[str, int]
    ours: bool

    def as_record(self, content_hash: str) -> dict[str, Any]:
        """Return it for the ledger."""
        return {"rows": self.rows, "hash": content_hash, "writers": dict(self.writers)}


def read_writers(connection: Connection, names: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return by table how many of its rows each transaction wrote."""
    result = {}
    for name in names:
        with connection.cursor() as cursor:
            cursor.execute(
                sql.SQL("SELECT t.xmin::text, count(*) FROM {} AS t GROUP BY t.xmin::text").format(table_name(name))
            )
            result[name] = {str(writer): int(rows) for writer, rows in cursor.fetchall()}
    return result


def read_present(
    connection: Connection, plans: Sequence[TablePlan], loaded: Mapping[str, Mapping[str, Any]]
) -> dict[str, Present]:
    """Return what each target table of a group holds.

    :param loaded: what our last run left, as in the ledger.
    """
    result = {}
    present = read_writers(connection, [plan.target.name for plan in plans])
    for plan in plans:
        name = plan.target.name
        writers = present[name]
        rows = sum(writers.values())
        known = loaded.get(name)
        ours = known is not None and known["rows"] == rows
        if ours and known is not None and known["writers"] != writers:
            ours = sum_target(connection, plan).hexdigest() == known["hash"]
        result[name] = Present(rows, writers, ours)
    return result
