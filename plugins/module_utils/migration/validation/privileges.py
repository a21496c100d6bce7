"""Who may do what: each service's role exactly its own, PUBLIC nothing, and nobody a way around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.commands import playbook
from ..core.connection import first_row
from ..core.errors import MigrationError, Problem
from ..core.estate import access_of
from ..postgres import privileges

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

    from ..core.estate import Group

_RUN_VALIDATION = f"then run {playbook('5_validation')} again"
_TOO_POWERFUL = ("rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls")
_PUBLIC = "every role"

# Every grant on what is ours, apart from the owners' own: what, whom it was granted to (NULL is everybody), what for.
# Everybody may use schema public, and our own ledger is no service's affair.
_GRANTS = """
WITH ours AS (
  SELECT oid, nspname, nspowner, nspacl FROM pg_namespace WHERE pg_get_userbyid(nspowner) = current_user
), relations AS (
  SELECT c.oid, n.nspname || '.' || c.relname AS name, c.relowner, c.relacl
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.oid IN (SELECT oid FROM ours) OR n.nspname = 'public' AND pg_get_userbyid(c.relowner) = current_user
), objects (kind, name, owner, acl) AS (
  SELECT 'schema', nspname, nspowner, nspacl FROM ours
  UNION ALL
  SELECT 'schema', nspname, nspowner, nspacl FROM pg_namespace WHERE nspname = 'public'
  UNION ALL
  SELECT 'relation', name, relowner, relacl FROM relations
  UNION ALL
  SELECT 'column', r.name || '.' || a.attname, r.relowner, a.attacl
  FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  SELECT 'new objects', coalesce('in schema ' || n.nspname, 'everywhere'), d.defaclrole, d.defaclacl
  FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
  WHERE pg_get_userbyid(d.defaclrole) = current_user AND d.defaclobjtype IN ('r', 'S', 'n')
  UNION ALL
  SELECT 'database', datname, datdba, coalesce(datacl, acldefault('d', datdba))
  FROM pg_database WHERE datname = current_database()
)
SELECT o.kind, o.name, CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END,
       string_agg(DISTINCT a.privilege_type, ', ' ORDER BY a.privilege_type)
FROM objects o CROSS JOIN aclexplode(o.acl) a
WHERE a.grantee <> o.owner AND NOT (o.kind = 'schema' AND o.name = 'public' AND a.privilege_type = 'USAGE')
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 NULLS FIRST
"""


def read_privileges(
    connection: Connection, groups: Sequence[Group], findings: list[Problem], information: list[str]
) -> dict[str, Any]:
    """Return which roles were looked at; each must have exactly the privileges of its service."""
    access = access_of(groups)
    by_role, rights = access.schemas, access.rights
    fix = f"Run {playbook('1_infrastructure')}: schema_apply sets them, {_RUN_VALIDATION}"
    try:
        found = privileges.synchronise(
            connection, by_role, True, rights, access.tables, access.roles, owners=access.owners
        )
    except MigrationError as error:
        findings.extend(error.problems)
    else:
        findings.extend(Problem("privileges", f"missing: {line}", fix) for line in found["granted"])
        findings.extend(Problem("privileges", f"too much: {line}", fix) for line in found["revoked"])
        information.extend(found["warnings"])
    with connection.cursor() as cursor:
        findings.extend(_powers(cursor, by_role))
        findings.extend(_memberships(cursor, by_role))
        _look_at_grants(cursor, by_role, findings, information)
    return {"roles": by_role, "rights": {role: own for role, own in sorted(rights.items()) if own}}


def _powers(cursor: Cursor, roles: Iterable[str]) -> list[Problem]:
    """Return which roles may do more than use tables, and which can soon log in no more."""
    cursor.execute(
        "SELECT r.rolname, (SELECT string_agg(name, ', ' ORDER BY name) "
        "FROM jsonb_each(to_jsonb(r)) AS o (name, value) WHERE name = ANY (%s) AND value = 'true'), "
        "rolvaliduntil <= now(), NOT rolcanlogin FROM pg_roles r WHERE rolname = ANY (%s) ORDER BY 1",
        (list(_TOO_POWERFUL), list(roles)),
    )
    findings = []
    for role, powers, expired, shut_out in cursor.fetchall():
        fix = f"ALTER ROLE, {_RUN_VALIDATION}"
        if powers:
            findings.append(Problem(f"role {role}", f"it has more power than a service needs: {powers}", fix))
        if expired:
            findings.append(Problem(f"role {role}", "its password has expired: its service cannot connect again", fix))
        if shut_out:
            findings.append(Problem(f"role {role}", "it may not log in: its service cannot connect again", fix))
    return findings


def _memberships(cursor: Cursor, roles: Iterable[str]) -> list[Problem]:
    """Return the roles that services' roles belong to: with them they have the rights of others."""
    cursor.execute(
        "SELECT m.rolname, g.rolname FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member "
        "JOIN pg_roles g ON g.oid = a.roleid WHERE m.rolname = ANY (%s) AND m.rolname <> current_user ORDER BY 1, 2",
        (list(roles),),
    )
    return [
        Problem(
            f"role {member}",
            f"it is a member of {group}, and so may do all that this role may",
            f"REVOKE {group} FROM {member}, {_RUN_VALIDATION}",
        )
        for member, group in cursor.fetchall()
    ]


def _look_at_grants(
    cursor: Cursor, roles: Mapping[str, Sequence[str]], findings: list[Problem], information: list[str]
) -> None:
    """Note what everybody may do, what a service's role may do beyond its tables, and who else may do anything."""
    cursor.execute("SELECT current_user, session_user")
    ours = set(first_row(cursor))
    cursor.execute(_GRANTS)
    others: dict[str, list[str]] = {}
    for kind, name, grantee, rights in cursor.fetchall():
        what = name if kind == "relation" else f"{kind} {name}"
        beyond = set(rights.split(", ")) - ({"CONNECT"} if kind == "database" else set())
        if grantee is None:
            fix = f"REVOKE … FROM PUBLIC, {_RUN_VALIDATION}"
            findings.append(Problem(what, f"{_PUBLIC} has {rights} on it", fix))
        elif grantee in roles:
            # The rights on schemas, tables, columns and sequences are compared one by one in synchronise().
            if kind == "database" and beyond:
                rest = ", ".join(sorted(beyond))
                findings.append(
                    Problem("privileges", f"too much: {grantee}: {rest} on {what}", f"REVOKE …, {_RUN_VALIDATION}")
                )
        elif grantee not in ours and beyond:
            others.setdefault(grantee, []).append(what)
    for grantee, objects in others.items():
        shown = ", ".join(objects[:3]) + (f" and {len(objects) - 3} more" if len(objects) > 3 else "")
        information.append(f"Role {grantee} is no service of the estate and has rights of its own: {shown}")
