"""The copy of an estate, with which many tests begin, is what a cutover leaves."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connect
from tests.conftest import fresh_database, migrator_of

from .support import Estate, make_estate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Server

# Facts of the ledger that are others in each run.
OF_ONE_RUN = {"inode", "token", "writers"}


def facts(estate: Estate) -> dict[str, Any]:
    """Return what the ledger and the tables hold, without moments, lengths of time and what is of one run alone."""
    tables = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace::regnamespace::text = %s"
    found = {}
    with estate.connection.cursor() as cursor:
        for schema in ("migration", "app"):
            cursor.execute(tables, (schema,))
            for (table,) in cursor.fetchall():
                cursor.execute(f"SELECT to_jsonb(t) FROM {table} t ORDER BY 1")
                found[table] = [lasting(row, str(estate.source.parent)) for (row,) in cursor.fetchall()]
    estate.connection.rollback()
    return found


def lasting(value: Any, directory: str) -> Any:
    """Return a value of the ledger without what is of one run alone."""
    if isinstance(value, dict):
        return {
            key: lasting(held, directory)
            for key, held in value.items()
            if key not in OF_ONE_RUN and not key.endswith(("_at", "seconds"))
        }
    if isinstance(value, list):
        return [lasting(held, directory) for held in value]
    return value.replace(directory, "") if isinstance(value, str) else value


def test_it_holds_what_a_cutover_leaves_and_names_its_own_file(
    live_estate: Estate, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "fresh").mkdir()
    with fresh_database(server) as name, closing(connect(migrator_of(server, name))) as connection:
        fresh = make_estate(connection, tmp_path / "fresh")
        fresh.cut_over()
        assert facts(live_estate) == facts(fresh)
        assert fresh.source.read_bytes() == live_estate.source.read_bytes()
    with closing(sqlite3.connect(live_estate.source)) as source:
        assert source.execute("SELECT count(*) FROM pets").fetchone() == (2,)
    with live_estate.connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT report #>> '{source,path}', report #>> '{source,inode}' FROM migration.run")
        named = {row for row in cursor.fetchall() if row[0] is not None}
    assert named == {(str(live_estate.source), str(live_estate.source.stat().st_ino))}
