"""Builds small sources and targets for the engine's tests."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group, parse_group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


def examples(few: int, many: int) -> int:
    """Return how many examples a search tries: few in `make test`, many in `make test-all`."""
    return many if os.environ.get("LONG_SEARCHES") else few


def make_source(path: Path, script: str, rows: Mapping[str, Iterable[Sequence[Any]]] | None = None) -> Path:
    """Create an SQLite file from a script, then insert rows by table."""
    with closing(sqlite3.connect(path)) as connection:
        # Nobody cuts the power: each statement of the script would be a commit that waits for the disk.
        connection.executescript("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY")
        connection.executescript(script)
        for table, values in (rows or {}).items():
            for row in values:
                marks = ", ".join("?" * len(row))
                connection.execute(f'INSERT INTO "{table}" VALUES ({marks})', tuple(row))
        connection.commit()
    return path


def make_target(connection: Connection, ddl: str) -> None:
    """Create the ledger, unless the database was made with it, and a schema ``app`` with the given tables."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regnamespace('migration') IS NULL")
        if cursor.fetchone() == (True,):
            cursor.execute(ledger.CREATE_LEDGER)
        cursor.execute("CREATE SCHEMA app; SET LOCAL search_path = app;" + ddl)
    connection.commit()


def empty_again(connection: Connection) -> None:
    """Take away what the last example of a search has made: the schema ``app``, and all that the ledger knows."""
    in_ledger = "relkind = 'r' AND relnamespace = to_regnamespace('migration')"
    tables = query(connection, f"SELECT oid::regclass::text FROM pg_class WHERE {in_ledger}")
    emptied = "".join(f"; DELETE FROM {name}" for (name,) in tables)
    execute(connection, f"DROP SCHEMA IF EXISTS app CASCADE{emptied}")


def make_tables(
    connection: Connection, path: Path, tables: Mapping[str, tuple[str, str, Iterable[Sequence[Any]]]], ddl: str = ""
) -> Path:
    """Create many tables in a source and in a target, so that one run tries what else would need a run for each.

    :param tables: by the name of each table, its columns in the target, those in the source, and its rows.
    :param ddl: what the target needs besides.
    """
    make_target(connection, ddl + ";".join(f"CREATE TABLE {name} ({table[0]})" for name, table in tables.items()))
    script = ";".join(f"CREATE TABLE {name} ({table[1]})" for name, table in tables.items())
    return make_source(path, script, {name: table[2] for name, table in tables.items()})


def make_group(path: Path, *tables: dict[str, Any], **more: Any) -> Group:
    """Return a group over one source; a table without a target goes to schema ``app``."""
    entries = [{"target": f"app.{table['source']}", **table} for table in tables]
    return parse_group({"name": "test", "source": {"path": str(path)}, "tables": entries, **more})


def problems_by_table(error: MigrationError) -> dict[str, str]:
    """Return the one problem of each table of a source, as it is shown."""
    found = {re.findall(r": (\w+)(?:\.\w+)?$", problem.where)[0]: str(problem) for problem in error.problems}
    assert len(found) == len(error.problems), error
    return found


def rehearse(connection: Connection, group: Group, tmp_path: Path, check_mode: bool = False) -> dict[str, Any]:
    """Run the engine once."""
    result: dict[str, Any] = migrate.migrate(connection, group, migrate.REHEARSAL, check_mode, str(tmp_path / "work"))
    return result


def query(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    """Return all rows of a statement, leaving no transaction open."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    connection.rollback()
    return rows


def execute(connection: Connection, statement: str, *arguments: Any) -> None:
    """Execute a statement and commit."""
    with connection.cursor() as cursor:
        cursor.execute(statement, arguments or None)
    connection.commit()
