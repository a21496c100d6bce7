"""Memory does not grow with the rows that are refused, or that a policy changes, and little with a large value."""

from __future__ import annotations

import os
import resource
import tracemalloc
from collections import deque
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.convert.server_text import (
    ServerForms,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.plan.planner import plan_group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.prepare import on_disk
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.prepare.prepare import prepare
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.proof.checksums import (
    odd_rows_of,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres.catalog import read_catalog
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.sqlite.tables import (
    open_snapshot,
    read_tables,
)

from .support import execute, make_group, make_source, make_target, query, rehearse
from .test_export import bring_back

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# As many rows as are held in memory here, and five times as many.
FEW, MANY = 500, 2_500
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
def test_memory_does_not_grow_with_orphans(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(on_disk, "_MOST_IN_MEMORY", FEW)
    make_target(
        connection,
        "CREATE TABLE parents (id text PRIMARY KEY);"
        "CREATE TABLE t (id integer PRIMARY KEY, parent text REFERENCES parents)",
    )
    few = peak_of(connection, tmp_path, FEW, answer)
    many = peak_of(connection, tmp_path, MANY, answer)
    assert many - few < A_ROW * (MANY - FEW)


SMALL, LARGE = 2 << 20, 14 << 20  # bytes
# SQLite, Python and the driver each hold a large value at least once, and each step makes something of it: measured are
# 3 times its size for a dry run, 4 to 6 for a load, and 11 for a rollback that brings such a value back.
MULTIPLE, MULTIPLE_OF_A_ROLLBACK = 8, 16


def memory_of(work: Callable[[], object]) -> int:
    """Do something in a process of its own, and return by how many bytes its memory has grown at most."""
    end, child_end = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            work()
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            os.write(child_end, str(grown * 1024).encode())
        finally:
            os._exit(0)
    os.close(child_end)
    with os.fdopen(end) as answer:
        grown_by = answer.read()
    os.waitpid(process, 0)
    assert grown_by, "the work has failed"
    return int(grown_by)


# How much more a process keeps than it needs is for the machine and its C library to say: not in `make test`.
@pytest.mark.long_search
@pytest.mark.parametrize("large", [LARGE, 300_000_000])
def test_a_large_value_takes_a_small_multiple_of_its_size(
    connection: Connection, login: Login, tmp_path: Path, large: int
) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text)")
    memory: list[list[int]] = []
    for size in (SMALL, large):
        source = make_source(
            tmp_path / f"{size}.db",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)",
            {"t": [(1, "x" * size), (2, "y")]},
        )
        source.chmod(0o600)
        group = make_group(source, {"source": "t"}, name=f"of {size}")

        def move(check_mode: bool, group: Group = group) -> None:
            with closing(connect(login)) as own:
                rehearse(own, group, tmp_path, check_mode)

        def go_back(group: Group = group) -> None:
            with closing(connect(login)) as own:
                bring_back(own, group)

        taken = [memory_of(partial(move, True)), memory_of(partial(move, False))]
        assert query(connection, "SELECT octet_length(v) FROM app.t WHERE id = 1") == [(size,)]
        execute(connection, "INSERT INTO app.t SELECT 3, v FROM app.t WHERE id = 1")
        memory.append([*taken, memory_of(go_back)])
        execute(connection, "TRUNCATE app.t")
    for small, more, multiple in zip(*memory, (MULTIPLE, MULTIPLE, MULTIPLE_OF_A_ROLLBACK), strict=True):
        assert more - small < multiple * (large - SMALL)
