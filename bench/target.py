"""The target databases: made from a template, so that every run meets the same empty tables, and read afterwards."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql
from psycopg2.extras import execute_values

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from bench.datasets import BENCH_SCHEMA, Dataset, column_names

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

# Long enough that nobody has databases of these names: they are dropped without a question.
PREFIX = "sqlite_to_postgresql_benchmark"
DATABASE = f"{PREFIX}_run"
TEMPLATE = f"{PREFIX}_template"
SCHEMA_FILES = Path(__file__).resolve().parent.parent / "files" / "sql"


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server and a role that may create databases. libpq's PGPASSWORD holds its password.

    :param host: name, address, or directory of the Unix socket.
    """

    host: str
    port: int
    user: str
    maintenance_database: str = "postgres"

    @contextmanager
    def connected(self, database: str, autocommit: bool = False) -> Iterator[Connection]:
        """Open a connection in UTC, and close it at the end."""
        with closing(
            psycopg2.connect(host=self.host, port=self.port, user=self.user, dbname=database, options="-c timezone=UTC")
        ) as connection:
            connection.autocommit = autocommit
            yield connection

    def maintain(self, *statements: sql.Composable) -> None:
        """Run statements that no transaction may hold, outside the measured databases."""
        with self.connected(self.maintenance_database, autocommit=True) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


@dataclass(frozen=True)
class Content:
    """What a table holds: its rows, and a sum of their hashes, which is the same for the same rows in any order."""

    rows: int
    hash: str


def make_template(server: Server) -> None:
    """Create the template database: the ledger, the plan's schema, and the tables of the benchmark alone."""
    drop_databases(server)
    server.maintain(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
    with server.connected(TEMPLATE) as connection, connection.cursor() as cursor:
        cursor.execute(ledger.CREATE_LEDGER)
        for path in sorted(SCHEMA_FILES.glob("*.sql")):
            cursor.execute(path.read_text(encoding="utf-8"))
        cursor.execute(BENCH_SCHEMA)
        connection.commit()


def make_database(server: Server, search_path: str) -> None:
    """Create the database of the next run, and let the server write out what it still owes to the run before.

    :param search_path: schema in which a program finds the tables that it names without one.
    """
    database = sql.Identifier(DATABASE)
    server.maintain(
        sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database),
        sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(database, sql.Identifier(TEMPLATE)),
        sql.SQL("ALTER DATABASE {} SET search_path = {}").format(database, sql.Identifier(search_path)),
        sql.SQL("CHECKPOINT"),
    )


def drop_databases(server: Server) -> None:
    """Remove every database of ours."""
    for name in (DATABASE, TEMPLATE):
        server.maintain(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def read_content(server: Server, dataset: Dataset) -> Content:
    """Return what the dataset's large table holds in the target."""
    query = sql.SQL("SELECT count(*), coalesce(sum(hash_record_extended(t, 0)::numeric), 0)::text FROM {} AS t").format(
        _table(dataset)
    )
    with server.connected(DATABASE) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        rows, content_hash = cursor.fetchall()[0]
    return Content(int(rows), str(content_hash))


def count_target(server: Server, dataset: Dataset, condition: str) -> int:
    """Return how many rows of the dataset's large table meet an SQL condition in the target."""
    query = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(_table(dataset), sql.SQL(condition))
    with server.connected(DATABASE) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return int(cursor.fetchall()[0][0])


@dataclass(frozen=True)
class TableRules:
    """The indexes and constraints of a table, each by its name with the words that define it."""

    constraints: dict[str, str]
    indexes: dict[str, str]

    def meaning(self) -> list[str]:
        """Return what they demand, whatever their names: a tool may rename them when it rebuilds them."""
        indexes = (definition.partition(" USING ")[2] for definition in self.indexes.values())
        return sorted([*self.constraints.values(), *indexes])

    def statements_to_drop(self, table: str) -> list[str]:
        """Return the statements that drop them."""
        constraints = [f'ALTER TABLE {table} DROP CONSTRAINT "{name}";' for name in self.constraints]
        schema = table.partition(".")[0]
        return constraints + [f'DROP INDEX {schema}."{name}";' for name in self.indexes]

    def statements_to_rebuild(self, table: str) -> list[str]:
        """Return the statements that make them again, keys before the references to keys."""
        ordered = sorted(self.constraints.items(), key=lambda item: item[1].startswith("FOREIGN KEY"))
        constraints = [f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {words};' for name, words in ordered]
        return [f"{words};" for words in self.indexes.values()] + constraints


def read_rules(server: Server, dataset: Dataset) -> TableRules:
    """Return the indexes and constraints of the dataset's large table; an index of a constraint counts once."""
    with server.connected(DATABASE) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE conrelid = %s::regclass AND contype IN ('p', 'u', 'f')",
            (dataset.target,),
        )
        constraints = dict(cursor.fetchall())
        cursor.execute(
            "SELECT c.relname, pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "WHERE i.indrelid = %s::regclass AND NOT EXISTS "
            "(SELECT FROM pg_constraint WHERE conindid = i.indexrelid AND contype IN ('p', 'u'))",
            (dataset.target,),
        )
        indexes = dict(cursor.fetchall())
    return TableRules(constraints, indexes)


def load_parents(server: Server, dataset: Dataset) -> None:
    """Load the tables that the dataset's large table references. This is not measured."""
    with (
        server.connected(DATABASE) as connection,
        connection.cursor() as cursor,
        closing(sqlite3.connect(dataset.path)) as source,
    ):
        for table in dataset.parents:
            insert_values(cursor, source, table, column_names(dataset.path, table), f"{dataset.schema}.{table}")
        connection.commit()


def insert_values(
    cursor: Cursor, source: sqlite3.Connection, table: str, columns: list[str], target: str, page_size: int = 1000
) -> None:
    """Insert all rows of a source table with psycopg2's execute_values.

    :param target: ``schema.table``.
    :param page_size: rows in one statement.
    """
    schema, _, name = target.partition(".")
    statement = sql.SQL("INSERT INTO {} ({}) VALUES %s").format(
        sql.Identifier(schema, name), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    rows = source.execute(f'SELECT * FROM "{table}"')  # noqa: S608 (a constant)
    execute_values(cursor, statement, rows, page_size=page_size)


def read_versions(server: Server) -> dict[str, Any]:
    """Return the server's version, and its settings that somebody chose."""
    with server.connected(server.maintenance_database) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        version = str(cursor.fetchall()[0][0])
        cursor.execute(
            "SELECT name, current_setting(name) FROM pg_settings "
            "WHERE source IN ('configuration file', 'command line') "
            "AND category ~ 'Resource Usage|Write-Ahead Log|Query Tuning|Connections' "
            "AND name !~ 'directory|directories|file|address|port' ORDER BY name"
        )
        settings = dict(cursor.fetchall())
    return {"version": version, "settings": settings}


def _table(dataset: Dataset) -> sql.Identifier:
    """Return the dataset's target table for use in a statement."""
    schema, _, table = dataset.target.partition(".")
    return sql.Identifier(schema, table)
