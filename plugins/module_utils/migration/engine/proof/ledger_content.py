"""What the ledger keeps of a group, as sums of hashes: the rejected rows and the original values.

They are PostgreSQL's only copy of what no target table holds, so that nobody may change them unseen. The run that
writes them records the sums; validation compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...core.commands import playbook
from ...core.connection import sql
from ...core.errors import Problem
from .checksums import RowSum

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

TABLES = ("original_value", "reject")

Sums = dict[str, dict[str, RowSum]]

_SUM = """
SELECT source_table, count(*), sum(('x' || left(h, 16))::bit(64)::bigint::numeric),
       sum(('x' || right(h, 16))::bit(64)::bigint::numeric)
FROM (SELECT source_table, md5(t::text) AS h FROM {} AS t
      WHERE group_name = %(group)s AND (%(all)s OR source_table = %(table)s AND row_key = ANY (%(keys)s))) AS hashed
GROUP BY source_table
"""


def read_sums(connection: Connection, group_name: str, keys: Mapping[str, Sequence[str]] | None = None) -> Sums:
    """Return the sums of what the ledger keeps of a group.

    :param keys: by source table, keys of the rows that are looked at; all if not given.
    """
    result: Sums = {table: {} for table in TABLES}
    chosen: Sequence[tuple[str, Sequence[str]]] = [("", [])] if keys is None else list(keys.items())
    with connection.cursor() as cursor:
        for table in TABLES:
            statement = sql.SQL(_SUM).format(sql.Identifier("migration", table))
            for source, row_keys in chosen:
                arguments = {"group": group_name, "all": keys is None, "table": source, "keys": list(row_keys)}
                cursor.execute(statement, arguments)
                for name, rows, high, low in cursor.fetchall():
                    result[table][name] = RowSum(int(rows), int(high) % 2**64, int(low) % 2**64)
    return result


def as_record(sums: Sums) -> dict[str, Any]:
    """Return sums for ``ledger_content`` of the group's detail: table of the ledger → source table → rows and hash.

    What is empty is left out.
    """
    return {
        table: {name: {"rows": found.rows, "hash": found.hexdigest()} for name, found in by_name.items() if found.rows}
        for table, by_name in sums.items()
    }


def changed_record(recorded: Mapping[str, Any], outgoing: Sums, incoming: Sums) -> dict[str, Any]:
    """Return a record after some rows were replaced by others."""
    sums: Sums = {}
    for table in TABLES:
        known = recorded.get(table, {})
        sums[table] = {
            name: _sum_of(known.get(name))
            .plus(outgoing[table].get(name, RowSum()), -1)
            .plus(incoming[table].get(name, RowSum()))
            for name in {*known, *outgoing[table], *incoming[table]}
        }
    return as_record(sums)


def find_changes(connection: Connection, group_name: str, recorded: Mapping[str, Any]) -> list[Problem]:
    """Return a finding for each source table of which the ledger keeps something else than was recorded."""
    now = as_record(read_sums(connection, group_name))
    problems = []
    for table in TABLES:
        before, after = recorded.get(table, {}), now[table]
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                rows = [side.get(name, {"rows": 0})["rows"] for side in (before, after)]
                problems.append(
                    Problem(
                        f"migration.{table}",
                        f"what it keeps of {name} is not what the last run wrote there ({rows[0]:,} rows then, "
                        f"{rows[1]:,} now)",
                        "It is PostgreSQL's only copy: take these rows from a backup of the database; before the "
                        f"cutover empty the target tables and run {playbook('3_data_migration')} instead",
                    )
                )
    return problems


def _sum_of(recorded: Mapping[str, Any] | None) -> RowSum:
    """Return the sum that a record holds."""
    if recorded is None:
        return RowSum()
    digits = recorded["hash"]
    return RowSum(recorded["rows"], int(digits[:16], 16), int(digits[16:], 16))
