"""The write lock on a group's tables in PostgreSQL: nobody else writes to them once SQLite is the store again.

Two parts, each undone by itself where it has to be:

- While a rollback is under way, the transaction that will commit it holds a lock on the tables
  (``SHARE ROW EXCLUSIVE``: everybody may read, nobody may write, or change what belongs to a table). It
  waits for whoever has written and not yet committed, and it ends with its session, also if this process
  is killed.
- In the commit that makes SQLite the store, everybody but the owner loses the right to write to
  the tables. So the write lock stands exactly if the group is back; the next cutover, in the commit that
  makes PostgreSQL the store, gives the same rights back.

Only the group's own tables are locked. A role that services of other groups share keeps its login,
its sessions and its rights on their tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..core import ledger
from ..core.connection import psycopg2, sql
from ..core.errors import MigrationError, Problem
from ..core.estate import Group
from ..core.group_detail import KEYS, Phase
from ..core.sql import table_name

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.sql import Composable

WRITING = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")

# What a table is written to through: its partitions, the tables that it is a part of, which send rows into it, and the
# views over these, which write with their owner's rights. Of a table that it is a part of the other parts are not its
# own. A view that no statement can write through only reads; a trigger of a view writes with the rights of whoever
# uses the view, who has none.
_REACHED = """
WITH RECURSIVE edges (base, oid, down, up) AS (
  SELECT inhparent, inhrelid, true, false FROM pg_inherits
  UNION ALL
  SELECT inhrelid, inhparent, false, true FROM pg_inherits
  UNION ALL
  SELECT d.refobjid, v.oid, false, false
  FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid JOIN pg_class v ON v.oid = w.ev_class
  WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND v.relkind = 'v'
), reached (oid, whole) AS (
  SELECT to_regclass(name)::oid, true FROM unnest(%(tables)s::text[]) AS name
  UNION
  SELECT edges.oid, reached.whole AND NOT edges.up
  FROM edges JOIN reached ON reached.oid = edges.base
  WHERE CASE WHEN edges.down THEN reached.whole
             -- 8, 4 and 16 stand for INSERT, UPDATE and DELETE.
             ELSE edges.up OR pg_relation_is_updatable(edges.oid, false) & 28 <> 0
                  OR EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = edges.oid AND r.ev_type <> '1') END
)
SELECT DISTINCT n.nspname, c.relname
FROM reached JOIN pg_class c ON c.oid = reached.oid JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY 1, 2
"""

_GRANTS = """
SELECT n.nspname, c.relname, '', a.privilege_type, a.is_grantable,
       CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN aclexplode(c.relacl) a
WHERE c.oid = ANY (%(tables)s::regclass[]) AND a.grantee <> c.relowner AND a.privilege_type = ANY (%(writing)s)
UNION ALL
SELECT n.nspname, c.relname, t.attname, a.privilege_type, a.is_grantable,
       CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute t ON t.attrelid = c.oid AND NOT t.attisdropped CROSS JOIN aclexplode(t.attacl) a
WHERE c.oid = ANY (%(tables)s::regclass[]) AND a.grantee <> c.relowner AND a.privilege_type = ANY (%(writing)s)
ORDER BY 1, 2, 3, 6, 4
"""


def hold(connection: Connection, group: Group, timeout: float) -> None:
    """Let nobody else write to the group's tables until this transaction ends; it is the caller's.

    :param timeout: seconds to wait for those who have written and not yet committed.
    :raises MigrationError: naming each session that still may.
    """
    tables = sorted({mapping.target for mapping in group.tables})
    names = sql.SQL(", ").join(table_name(name) for name in tables)
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{int(timeout * 1000)}ms",))
        try:
            cursor.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(names))
        except (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected):
            connection.rollback()
            raise MigrationError(
                f"The tables of cutover group {group.name} are still written to.",
                _writers(connection, tables, timeout),
            ) from None
        cursor.execute("SELECT set_config('lock_timeout', '0', true)")


def _writers(connection: Connection, tables: Iterable[str], timeout: float) -> list[Problem]:
    """Return a problem for each session that may write to one of the tables."""
    names = [table_name(name).as_string(connection) for name in tables]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT l.pid, a.usename, min(l.relation::regclass::text) "
            "FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid) "
            "WHERE l.relation = ANY (%s::regclass[]) AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() "
            "AND l.mode NOT IN ('AccessShareLock', 'RowShareLock') GROUP BY 1, 2 ORDER BY 1",
            (names,),
        )
        found = cursor.fetchall()
    connection.rollback()
    return [
        Problem(
            f"session {pid} of role {role}" if role else f"a prepared transaction on {table}",
            f"it has written to {table} and not yet committed, {timeout:g} seconds after the services were stopped",
            f"Wait until it has ended, or end it with SELECT pg_terminate_backend({pid}), then run again"
            if role
            else "Commit it or roll it back (pg_prepared_xacts), then run again",
        )
        for pid, role, table in found
    ] or [Problem("PostgreSQL", "a lock on the tables could not be had", "Run again")]


def reached(connection: Connection, tables: Iterable[str]) -> list[tuple[str, str]]:
    """Return (schema, name) of each table that is there, and of what it can be written to through.

    :param tables: their names as ``schema.table``.
    """
    names = [table_name(name).as_string(connection) for name in tables]
    with connection.cursor() as cursor:
        cursor.execute(_REACHED, {"tables": names})
        return cursor.fetchall()


def take_rights(connection: Connection, group: Group) -> list[dict[str, Any]]:
    """Take the right to write to the group's tables from everybody but their owner; the caller commits.

    :returns: what :func:`give_rights` needs to give the same back, as plain data.
    """
    found = reached(connection, (mapping.target for mapping in group.tables))
    names = [sql.Identifier(schema, name).as_string(connection) for schema, name in found]
    with connection.cursor() as cursor:
        cursor.execute(_GRANTS, {"tables": names, "writing": list(WRITING)})
        grants = [
            dict(zip(("schema", "table", "column", "privilege", "grantable", "role"), row, strict=True))
            for row in cursor.fetchall()
        ]
        for grant in grants:
            cursor.execute(sql.SQL("REVOKE {} FROM {} CASCADE").format(_privilege(grant), _grantee(grant)))
    return grants


def give_rights(connection: Connection, grants: Iterable[Mapping[str, Any]]) -> None:
    """Give back the rights that :func:`take_rights` took; the caller commits. Whoever is gone gets nothing."""
    with connection.cursor() as cursor:
        for grant in grants:
            cursor.execute(
                "SELECT to_regclass(quote_ident(%(schema)s) || '.' || quote_ident(%(table)s)) IS NOT NULL "
                "AND (%(role)s IS NULL OR EXISTS (SELECT FROM pg_roles WHERE rolname = %(role)s))",
                grant,
            )
            if cursor.fetchone() == (True,):
                option = sql.SQL(" WITH GRANT OPTION" if grant["grantable"] else "")
                cursor.execute(sql.SQL("GRANT {} TO {}{}").format(_privilege(grant), _grantee(grant), option))


def _privilege(grant: Mapping[str, Any]) -> Composable:
    """Return the SQL of one privilege with its table."""
    column = sql.SQL(" ({})").format(sql.Identifier(grant["column"])) if grant["column"] else sql.SQL("")
    table = sql.Identifier(grant["schema"], grant["table"])
    return sql.SQL("{}{} ON TABLE {}").format(sql.SQL(grant["privilege"]), column, table)


def _grantee(grant: Mapping[str, Any]) -> Composable:
    """Return the SQL of a role, or of everybody."""
    return sql.SQL("PUBLIC") if grant["role"] is None else sql.Identifier(grant["role"])


def rights_taken(connection: Connection) -> list[dict[str, Any]]:
    """Return the rights that rollbacks have taken and no cutover has given back."""
    if not ledger.exists(connection):
        return []
    key, phases = KEYS["rollback"], [Phase.COMMITTED.value, Phase.DONE.value]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT detail -> %s -> 'rights' FROM migration.cutover_group WHERE detail -> %s ->> 'phase' = ANY (%s)",
            (key, key, phases),
        )
        return [right for (rights,) in cursor.fetchall() for right in rights or ()]
