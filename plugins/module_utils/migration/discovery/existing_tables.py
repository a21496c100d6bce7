"""Reads which tables applications have made in the target database themselves."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.connection import Login, connected, explained, first_row, sql
from ..core.errors import MigrationError, Problem
from ..core.sql import table_name
from ..draft.existing import Existing
from ..postgres.catalog import read_catalog

# The mapping writes schema.table with one dot.
_TABLES = """
SELECT n.nspname || '.' || c.relname, pg_get_userbyid(c.relowner)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY (%s) AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND strpos(c.relname, '.') = 0
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
"""


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
            cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(table_name(name)))
            rows[name] = int(first_row(cursor)[0])
        return Existing(tuple(schemas), dict(sorted(read_catalog(connection, owners).items())), rows, owners, role)
