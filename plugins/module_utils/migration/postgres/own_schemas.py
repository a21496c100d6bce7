"""The schemas of services that migrate themselves: who owns them.

From its cutover on such a service's role owns its schema, with the tables and sequences in it; views, functions and
types of our SQL files stay ours. The rollback takes the ownership back, once nothing in the tables could run code of
the role with our rights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..core.commands import playbook
from ..core.connection import first_row, sql
from ..core.errors import MigrationError, Problem
from .code_in_tables import acts, find_code, find_reacting

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor

# The role that we act as is made a member of each role that owns a schema of its own, and of no others.
IS_OWNED_BY_SERVICE = """
EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles us ON us.oid = m.member
         WHERE m.roleid = n.nspowner AND us.rolname = current_user)
"""

# What belongs to a column, or to another table's row type, goes with that.
_OBJECTS = """
SELECT n.nspname, c.relname, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND pg_get_userbyid(c.relowner) = %(role)s AND c.relkind IN ('r', 'p', 'S')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                  AND (d.deptype = 'e' OR c.relkind = 'S' AND d.deptype IN ('a', 'i')))
ORDER BY 1, 2
"""

_SEQUENCES = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND pg_get_userbyid(c.relowner) = %(role)s AND c.relkind = 'S' ORDER BY 1, 2
"""

# Rights that its owner has given to others, by which these could put code into what is ours again.
_PLANTERS = """
SELECT DISTINCT 'SCHEMA', n.nspname, '', a.grantee::regrole::text
FROM pg_namespace n CROSS JOIN aclexplode(n.nspacl) a
WHERE n.nspname = %(schema)s AND a.grantee NOT IN (0, n.nspowner) AND a.privilege_type = 'CREATE'
UNION
SELECT 'TABLE', n.nspname, c.relname, a.grantee::regrole::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_attribute t ON t.attrelid = c.oid
CROSS JOIN LATERAL (SELECT * FROM aclexplode(c.relacl) UNION ALL SELECT * FROM aclexplode(t.attacl)) a
WHERE n.nspname = %(schema)s AND pg_get_userbyid(c.relowner) = %(role)s AND c.relkind IN ('r', 'p')
  AND a.grantee NOT IN (0, c.relowner) AND a.privilege_type IN ('TRIGGER', 'REFERENCES')
ORDER BY 1, 2, 3, 4
"""


class Settled(NamedTuple):
    """What was given and taken, or would be: one line for each schema."""

    given: list[str]
    taken: list[str]


def owned_schemas(cursor: Cursor) -> dict[str, str]:
    """Return schema → role of the schemas that services own at this moment."""
    cursor.execute(
        f"SELECT n.nspname, pg_get_userbyid(n.nspowner)::text FROM pg_namespace n WHERE {IS_OWNED_BY_SERVICE}"  # noqa: S608
    )
    return dict(cursor.fetchall())


def settle(
    cursor: Cursor,
    owners: Mapping[str, Iterable[str]],
    live: Collection[str],
    roles: Collection[str],
    mapped: Collection[str],
    check_mode: bool = False,
) -> Settled:
    """Let each role own its schemas from its cutover on, and no others; the caller commits.

    :param owners: role → the schemas that it is to own while PostgreSQL is its store.
    :param live: the roles whose services are to live on PostgreSQL.
    :param roles: the roles that are looked at.
    :param mapped: the target tables of all groups, which no code of a role may be left in.
    :raises MigrationError: naming the code, or the membership that is missing.
    """
    present = owned_schemas(cursor)
    settled = Settled([], [])
    cursor.execute("SELECT current_user::text")
    us = str(first_row(cursor)[0])
    for role in sorted(set(roles) - {us}):
        wanted = set(owners.get(role, ())) if role in live else set()
        for schema in sorted(wanted):
            if not check_mode:
                _require_member(cursor, us, role)
            if _give(cursor, us, role, schema, present.get(schema) == role, check_mode):
                settled.given.append(f"{role}: schema {schema} and its tables are its own")
        for schema in sorted(name for name, owner in present.items() if owner == role and name not in wanted):
            _take_back(cursor, us, role, schema, [name for name in mapped if name.startswith(f"{schema}.")], check_mode)
            settled.taken.append(f"{role}: schema {schema} and its tables are its own")
    return settled


def find_unfit(cursor: Cursor, owners: Mapping[str, Iterable[str]], check_mode: bool = False) -> list[Problem]:
    """Return what keeps schemas from being given to their services at the cutover.

    :param check_mode: the memberships may only have been announced.
    """
    cursor.execute("SELECT current_user::text")
    us = str(first_row(cursor)[0])
    problems = []
    for role, schemas in sorted(owners.items()):
        if role == us:
            continue
        cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,))
        if cursor.fetchone() is None:
            continue
        try:
            if not check_mode:
                _require_member(cursor, us, role)
        except MigrationError as error:
            problems += error.problems
        for schema in schemas:
            cursor.execute(_OBJECTS, {"schema": schema, "role": us})
            tables = [f"{own}.{name}" for own, name, kind in cursor.fetchall() if kind == "TABLE"]
            problems += [
                Problem(
                    problem.where,
                    problem.what.replace(", and would run with our rights", ", so no service may own it"),
                    "Write it with functions that are the server's own, or take 'migrates_itself' out of the service",
                )
                for problem in find_code(cursor, tables, whosever=True)
            ]
    return problems


def _require_member(cursor: Cursor, us: str, role: str) -> None:
    """Refuse to give away what could not be taken back.

    :raises MigrationError: with the statement that is missing.
    """
    cursor.execute(
        "SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles u ON u.oid = m.member "
        "WHERE g.rolname = %s AND u.rolname = %s",
        (role, us),
    )
    if cursor.fetchone() is None:
        what = f"it is no member of {role}, whose service migrates itself: what that role owns could not be taken back"
        statement = sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(us)).as_string(cursor)
        fix = f"Run {playbook('1_infrastructure')}; on a managed server its administrator runs: {statement};"
        raise MigrationError("A schema cannot be given to its service.", [Problem(f"role {us}", what, fix)])


def _give(cursor: Cursor, us: str, role: str, schema: str, is_owner: bool, check_mode: bool) -> bool:
    """Let a role own a schema, and what of ours lies in it; return whether anything changes."""
    cursor.execute("SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = %s", (schema,))
    found = cursor.fetchone()
    if found is None or (not is_owner and found[0] != us):
        return False
    cursor.execute(_OBJECTS, {"schema": schema, "role": us})
    objects = cursor.fetchall()
    problems = find_code(cursor, [f"{own}.{name}" for own, name, kind in objects if kind == "TABLE"], whosever=True)
    if problems:
        raise MigrationError(f"Schema {schema} cannot be given to role {role}.", problems)
    if not check_mode:
        if not is_owner:
            _change_owner(cursor, sql.SQL("SCHEMA {}").format(sql.Identifier(schema)), role)
        for own, name, kind in objects:
            _change_owner(cursor, sql.SQL(f"{kind} {{}}").format(sql.Identifier(own, name)), role)
    return bool(objects) or not is_owner


def _take_back(cursor: Cursor, us: str, role: str, schema: str, mapped: Sequence[str], check_mode: bool) -> None:
    """Own a role's schema again, and the tables and sequences in it that run no code; leave it the rights of a user.

    Views and functions stay the role's: as ours they would act with our rights. So do tables that the service has made
    and that call a function or have a trigger, which a key that cascades would start; nobody of us reads them.
    """
    cursor.execute(_OBJECTS, {"schema": schema, "role": role})
    objects = cursor.fetchall()
    if not check_mode:
        # Before the look, so that nothing is put into them after it.
        for own, name, kind in objects:
            if kind == "TABLE":
                cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(own, name)))
    problems = find_code(cursor, mapped, loaded=True) + find_reacting(cursor, mapped)
    if problems:
        raise MigrationError(f"Schema {schema} cannot be taken back from role {role}.", problems)
    if check_mode:
        return
    _change_owner(cursor, sql.SQL("SCHEMA {}").format(sql.Identifier(schema)), us)
    cursor.execute(sql.SQL("REVOKE ALL ON SCHEMA {} FROM PUBLIC").format(sql.Identifier(schema)))
    cursor.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), sql.Identifier(role)))
    for own, name, kind in objects:
        table = f"{own}.{name}"
        # The triggers of a mapped table are disabled while it is loaded.
        if kind == "TABLE" and (
            find_code(cursor, [table], loaded=True) or (table not in mapped and acts(cursor, table))
        ):
            continue
        what = sql.SQL(f"{kind} {{}}").format(sql.Identifier(own, name))
        _change_owner(cursor, what, us)
        if kind == "TABLE":
            cursor.execute(sql.SQL("REVOKE ALL ON {} FROM PUBLIC").format(what))
            rights = sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {}")
            cursor.execute(rights.format(what, sql.Identifier(role)))
    cursor.execute(_PLANTERS, {"schema": schema, "role": us})
    for kind, own, name, planter in cursor.fetchall():
        planting = "CREATE" if kind == "SCHEMA" else "TRIGGER, REFERENCES"
        whole = sql.Identifier(own, name) if name else sql.Identifier(own)
        revoke = sql.SQL(f"REVOKE {planting} ON {kind} {{}} FROM {{}} CASCADE")
        cursor.execute(revoke.format(whole, sql.SQL(planter)))
    # With those that have come along with their tables.
    cursor.execute(_SEQUENCES, {"schema": schema, "role": us})
    for own, name in cursor.fetchall():
        what = sql.SQL("SEQUENCE {}").format(sql.Identifier(own, name))
        cursor.execute(sql.SQL("REVOKE ALL ON {} FROM PUBLIC").format(what))
        cursor.execute(sql.SQL("GRANT USAGE, SELECT ON {} TO {}").format(what, sql.Identifier(role)))


def _change_owner(cursor: Cursor, what: sql.Composable, role: str) -> None:
    """Give one object to a role."""
    cursor.execute(sql.SQL("ALTER {} OWNER TO {}").format(what, sql.Identifier(role)))
