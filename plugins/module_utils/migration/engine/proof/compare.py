"""The proof: every row of PostgreSQL is read back, its conversion undone, and compared with the source.

Both sides are brought to the same canonical fields (:mod:`.engine.proof.canonical`), each row is hashed over
them, and the hashes are added up: a changed value, a missing row and a doubled row all change the
sum. PostgreSQL builds, hashes and adds up its own rows, so that only the sum travels. Where the
sums differ, the very rows, columns and both values are named.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..convert.server_text import ServerForms
from ..prepare.table import PreparedTable
from .checksums import RowSum, sum_source, sum_target
from .row_differences import find_differences

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


@dataclass
class Comparison:
    """Both sides of one table.

    :param differences: the first rows that differ: key, column, and both values (masked if secret).
    """

    source_rows: int = 0
    target_rows: int = 0
    source_hash: str = ""
    target_hash: str = ""
    differences: list[dict[str, str]] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Return whether every row arrived and no other is there."""
        return self.source_rows == self.target_rows and self.source_hash == self.target_hash


def compare_tables(
    connection: Connection,
    snapshot: sqlite3.Connection,
    tables: Sequence[PreparedTable],
    plain_sums: Callable[[], Mapping[str, RowSum]] = dict,
    is_named: Callable[[str, Comparison], bool] | None = None,
) -> list[Comparison]:
    """Compare each table of the source with its target, and name the rows that differ.

    :param plain_sums: waits for the sums of the source's plain rows, by source table, if they are
        being added up elsewhere.
    :param is_named: tells by target table and sums whether to look for the rows that differ, which reads both sides
        again; in every unequal table if not given.
    """
    targets = [sum_target(connection, table.plan) for table in tables]
    known = plain_sums()
    forms = ServerForms(connection)
    result = []
    for table, target in zip(tables, targets, strict=True):
        source = sum_source(snapshot, table, forms, known.get(table.plan.source.name))
        comparison = Comparison(source.rows, target.rows, source.hexdigest(), target.hexdigest())
        if not comparison.equal and (is_named is None or is_named(table.plan.target.name, comparison)):
            comparison.differences = find_differences(connection, snapshot, table, forms)
        result.append(comparison)
    return result
