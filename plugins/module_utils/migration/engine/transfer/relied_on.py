"""What an application relies on and no engine moves: named before the cutover, for a person to look at."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ...core.connection import first_row, psycopg2, sql
from ...core.estate import Group
from ...core.sql import table_name
from ...sqlite.tables import quote_name, read_left_out
from ..convert.refusals import Refused
from ..convert.values import converter
from ..plan.planner import TablePlan

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# What SQLite and PostgreSQL evaluate to the same value on any day: numbers, texts and words, maybe cast.
_CONSTANT = re.compile(r"\(*\s*([+-]?[0-9.]+|'(?:[^']|'')*'|true|false)\s*\)*(::[\w\s.\"\[\]()]+)?\Z", re.IGNORECASE)
# A schema of a search path: in quotes, or bare.
_SCHEMA = re.compile(r'"((?:[^"]|"")*)"|([^\s,"]+)')
# The search path that is set for a role: for it in this database, for it, for this database, or for all.
_PATH_OF_ROLE = """
SELECT split_part(setting, '=', 2)
FROM pg_roles r JOIN pg_db_role_setting s ON s.setrole IN (r.oid, 0)
LEFT JOIN pg_database d ON d.oid = s.setdatabase CROSS JOIN LATERAL unnest(s.setconfig) AS setting
WHERE r.rolname = %(role)s AND (s.setdatabase = 0 OR d.datname = current_database()) AND setting LIKE 'search_path=%%'
ORDER BY s.setrole <> 0 DESC, s.setdatabase <> 0 DESC LIMIT 1
"""


def row_level_security(connection: Connection, plans: Sequence[TablePlan]) -> list[str]:
    """Return the target tables of which a service sees only the rows that a policy allows."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relrowsecurity AND n.nspname || '.' || c.relname = ANY (%s) ORDER BY 1",
            ([plan.target.name for plan in plans],),
        )
        return [str(name) for (name,) in cursor.fetchall()]


def missing_views(connection: Connection, snapshot: sqlite3.Connection, plans: Sequence[TablePlan]) -> list[str]:
    """Return the views of the source whose name nothing has in the schemas of the group."""
    views = [found["name"] for found in read_left_out(snapshot) if found["kind"] == "view"]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT lower(c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = ANY (%s) AND c.relkind IN ('v', 'm', 'r', 'p', 'f')",
            ([plan.mapping.target_schema for plan in plans],),
        )
        known = {name for (name,) in cursor.fetchall()}
    return [name for name in views if name.lower() not in known]


def search_paths(connection: Connection, group: Group, plans: Sequence[TablePlan]) -> list[str]:
    """Return the tables that a service's role does not find by their bare name, which is all that SQLite knows.

    A role whose search path nobody has set is expected to write full names, unless it would find something else.
    """
    found = []
    for role in sorted({service.database_role for service in group.services}):
        with connection.cursor() as cursor:
            cursor.execute(_PATH_OF_ROLE, {"role": role})
            row = cursor.fetchone()
        is_set, schemas = (False, ["$user", "public"]) if row is None else (True, _schemas_of(row[0]))
        wanted = {schema for service in group.services if service.database_role == role for schema in service.schemas}
        for plan in plans:
            if plan.mapping.target_schema not in wanted:
                continue
            meant = _found_by_name(connection, plan.target.name.partition(".")[2], role, schemas)
            if meant == plan.target.name or (meant is None and not is_set):
                continue
            found.append(f"{plan.target.name} ({role} finds {meant or 'nothing'} by that name)")
    return found


def _schemas_of(path: str) -> list[str]:
    """Return the schemas of a search path as it is set."""
    return [quoted.replace('""', '"') or bare.lower() for quoted, bare in _SCHEMA.findall(path)]


def _found_by_name(connection: Connection, name: str, role: str, schemas: Sequence[str]) -> str | None:
    """Return what a role means by the bare name of a table; None if that is nothing, or there is no such role."""
    path = [role if schema == "$user" else schema for schema in schemas]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT n.nspname || '.' || c.relname FROM unnest(%(path)s) WITH ORDINALITY AS p (schema, position) "
            "JOIN pg_namespace n ON n.nspname = p.schema JOIN pg_class c ON c.relnamespace = n.oid "
            "JOIN pg_roles r ON r.rolname = %(role)s "
            "WHERE c.relname = %(name)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f') "
            "AND has_schema_privilege(r.oid, n.oid, 'USAGE') ORDER BY p.position LIMIT 1",
            {"path": path if "pg_catalog" in path else ["pg_catalog", *path], "name": name, "role": role},
        )
        row = cursor.fetchone()
    return None if row is None else str(row[0])


def other_defaults(connection: Connection, snapshot: sqlite3.Connection, plans: Sequence[TablePlan]) -> list[str]:
    """Return the columns in which SQLite puts another value than PostgreSQL if a new row names none.

    Compared are defaults that are constants; any other of SQLite's only needs some default in PostgreSQL.
    """
    return [found for plan in plans for found in _other_defaults(connection, snapshot, plan)]


def _other_defaults(connection: Connection, snapshot: sqlite3.Connection, plan: TablePlan) -> Iterator[str]:
    """Yield those of one table, with both defaults."""
    described = snapshot.execute(f"PRAGMA table_xinfo({quote_name(plan.source.name)})").fetchall()
    in_sqlite = {row[1]: row[4] for row in described if row[4] is not None and row[4].upper() != "NULL"}
    in_postgresql = _target_defaults(connection, plan)
    for column in plan.columns:
        if column.source not in in_sqlite or plan.target.columns[column.target].sequence is not None:
            continue
        here, there = in_sqlite[column.source], in_postgresql.get(column.target)
        place = f"{plan.target.name}.{column.target}"
        if there is None:
            yield f"{place} ({here} in SQLite, none in PostgreSQL)"
        elif _CONSTANT.match(here) and _CONSTANT.match(there):
            value = snapshot.execute(f"SELECT {here}").fetchone()[0]
            try:
                moved = converter(column, lambda _: None)(value)
            except Refused:
                moved = None  # it is no value of the target's type, so the target cannot have it for a default
            if not _is_same(connection, column.display_type, moved, there):
                yield f"{place} ({here} in SQLite, {there} in PostgreSQL)"


def _target_defaults(connection: Connection, plan: TablePlan) -> dict[str, str]:
    """Return the default of each column of the target that has one, as SQL; that of a domain too."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT a.attname, coalesce(pg_get_expr(d.adbin, d.adrelid), t.typdefault) "
            "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
            "LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum) "
            "WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped",
            (table_name(plan.target.name).as_string(cursor),),
        )
        return {name: default for name, default in cursor.fetchall() if default is not None}


def _is_same(connection: Connection, display_type: str, value: str | None, default: str) -> bool:
    """Return whether a value is the constant that PostgreSQL has for a default."""
    kind = sql.SQL(display_type)
    query = sql.SQL("SELECT {}::{}::text IS NOT DISTINCT FROM ({})::{}::text").format(
        sql.Literal(value), kind, sql.SQL(default), kind
    )
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT other_defaults")
        try:
            cursor.execute(query)
            same = bool(first_row(cursor)[0])
        except psycopg2.DatabaseError:
            # The type, or its domain, has no such value.
            cursor.execute("ROLLBACK TO SAVEPOINT other_defaults")
            same = False
        cursor.execute("RELEASE SAVEPOINT other_defaults")
    return same
