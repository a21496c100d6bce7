"""Reads which tables applications have made in the target database themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core.connection import Login, connected, explained, first_row, sql
from ..core.errors import MigrationError, Problem
from ..core.sql import table_name
from ..draft.existing import Existing
from ..postgres.catalog import read_catalog
from ..postgres.content import copied_sums, is_strangers, lock

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor
    from psycopg2.sql import Composable

# The mapping writes schema.table with one dot.
_TABLES = """
SELECT n.nspname || '.' || c.relname, pg_get_userbyid(c.relowner)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY (%s) AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND strpos(c.relname, '.') = 0
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
"""

# A table that is in no tree of partitions is none of its parts either.
_HOLDERS = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r'
  AND c.oid IN (SELECT %(table)s::regclass UNION SELECT relid FROM pg_partition_tree(%(table)s::regclass))
"""


def _holders(cursor: Cursor, name: str) -> list[Composable]:
    """Return the tables that hold the rows of one: itself, or its partitions."""
    cursor.execute(_HOLDERS, {"table": table_name(name).as_string(cursor)})
    return [sql.Identifier(schema, table) for schema, table in cursor.fetchall()]


def _count(cursor: Cursor, table: Composable) -> int:
    """Return the rows of one table, without code of a stranger whose table it is."""
    lock(cursor, table)
    if is_strangers(cursor, table):
        return int(copied_sums(cursor, table)["rows"])
    cursor.execute(sql.SQL("SELECT count(*) FROM ONLY {}").format(table))
    return int(first_row(cursor)[0])


def read(login: Login | None, schemas: Sequence[str]) -> Existing:
    """Return the tables of some schemas. Nothing is changed.

    :raises MigrationError: if the server cannot be asked, or one of the schemas holds no table.
    """
    if login is None:
        fix = "Name how to log in as discovery_login"
        raise MigrationError("Nothing was discovered.", [Problem("discovery_login", "it is not given", fix)])
    with (
        connected(login, read_only=True) as connection,
        explained("looking at the tables that are there"),
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT current_user")
        role = str(first_row(cursor)[0])
        cursor.execute(_TABLES, (list(schemas),))
        owners = dict(cursor.fetchall())
        problems = [
            Problem(
                f"discovery_existing_schemas: {schema}",
                f"database {login.database} has no table in a schema of that name",
                "Correct the name, name the database as discovery_existing_database, or let the application make its "
                "tables first",
            )
            for schema in schemas
            if not any(name.startswith(f"{schema}.") for name in owners)
        ]
        if problems:
            raise MigrationError("Nothing was discovered.", problems)
        rows = {}
        for name in owners:
            rows[name] = sum(_count(cursor, table) for table in _holders(cursor, name))
        return Existing(tuple(schemas), dict(sorted(read_catalog(connection, owners).items())), rows, owners, role)
