"""Memory does not grow with the rows that are refused, or that a policy changes."""

from __future__ import annotations

import tracemalloc
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.convert.server_text import (
    ServerForms,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.plan.planner import plan_group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.prepare.prepare import prepare
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.proof.checksums import (
    odd_rows_of,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres.catalog import read_catalog
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.sqlite.tables import (
    open_snapshot,
    read_tables,
)

from .support import make_group, make_source, make_target

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

FEW, MANY = 3_000, 12_000
# Bytes that may come with each further orphan: a tuple in a set takes 150, and what a policy did to a row 400.
A_ROW = 40
SCHEMA = "CREATE TABLE parents (id TEXT PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, parent TEXT)"


def peak_of(connection: Connection, tmp_path: Path, orphans: int, answer: str) -> int:
    """Convert so many orphans and read them for the proof; return the most memory that Python held, in bytes."""
    rows = [(number, f"nobody-{number:08d}") for number in range(orphans)]
    source = make_source(tmp_path / f"{orphans}.db", SCHEMA, {"t": rows})
    columns = {"parent": {"orphan": answer}}
    group = make_group(source, {"source": "parents"}, {"source": "t", "columns": columns})
    with closing(open_snapshot(source)) as snapshot:
        targets = read_catalog(connection, ["app.parents", "app.t"])
        plans = plan_group(group, snapshot, read_tables(snapshot), targets)
        forms = ServerForms(connection)
        del rows
        tracemalloc.start()
        try:
            prepared = prepare(group, snapshot, plans, tmp_path, forms, exact=True)
            (table,) = (table for table in prepared.tables if table.plan.source.name == "t")
            assert len(table.changes) == orphans
            deque(odd_rows_of(snapshot, table, forms), maxlen=0)
        except MigrationError as error:
            assert answer == "refuse"
            assert f"does not exist ({orphans:,} rows" in str(error)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    return peak


@pytest.mark.parametrize("answer", ["refuse", "set_null"])
def test_memory_does_not_grow_with_orphans(connection: Connection, tmp_path: Path, answer: str) -> None:
    make_target(
        connection,
        "CREATE TABLE parents (id text PRIMARY KEY);"
        "CREATE TABLE t (id integer PRIMARY KEY, parent text REFERENCES parents)",
    )
    few = peak_of(connection, tmp_path, FEW, answer)
    many = peak_of(connection, tmp_path, MANY, answer)
    assert many - few < A_ROW * (MANY - FEW)
