"""What each service's role may do: its own schemas' tables and sequences, and nothing else.

Desired state: what is missing is granted, what is too much is taken away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core import ledger
from ..core.commands import playbook
from ..core.connection import explained, first_row, sql
from ..core.errors import MigrationError, Problem
from .write_lock import rights_taken

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor
    from psycopg2.sql import Composable

TABLE_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")
SEQUENCE_PRIVILEGES = ("USAGE", "SELECT")

# The schemas that are ours to give: public belongs to whoever owns the database.
_OWNED = "(pg_get_userbyid(n.nspowner) = current_user OR n.nspname = 'public' AND pg_has_role(n.nspowner, 'USAGE'))"


class Privilege(NamedTuple):
    """One privilege of one role.

    :param kind: ``SCHEMA``, ``TABLE``, ``SEQUENCE``, or for objects still to come ``TABLES`` and ``SEQUENCES``.
    :param name: name of the object without its schema; empty for a schema and for objects to come.
    """

    role: str
    kind: str
    schema: str
    name: str
    privilege: str

    def __str__(self) -> str:
        """Return the privilege as a person reads it."""
        what = {"SCHEMA": f"schema {self.schema}", "TABLES": f"new tables in {self.schema}"}
        what["SEQUENCES"] = f"new sequences in {self.schema}"
        return f"{self.role}: {self.privilege} on {what.get(self.kind, f'{self.schema}.{self.name}')}"


def synchronise(
    connection: Connection, schemas_by_role: Mapping[str, Iterable[str]], check_mode: bool
) -> dict[str, Any]:
    """Give each role exactly the privileges on its schemas. Acts as the owner of the schemas.

    :param schemas_by_role: role → names of the schemas whose tables it reads and writes.
    :returns: ``changed``, ``granted`` and ``revoked`` (one line for each privilege).
    :raises MigrationError: naming the roles and schemas that do not exist.
    """
    with (
        explained("setting the services' privileges"),
        ledger.locked(connection, "schema"),
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT current_user")
        # An owner has every right already: what is revoked from it here, it would lose.
        owner = first_row(cursor)[0]
        schemas_by_role = {role: names for role, names in schemas_by_role.items() if role != owner}
        _require(cursor, schemas_by_role)
        # Where SQLite is the store again, nobody writes until the next cutover opens the tables.
        shut = {
            Privilege(right["role"], "TABLE", right["schema"], right["table"], right["privilege"])
            for right in rights_taken(connection)
        }
        wanted = set(_wanted(cursor, schemas_by_role)) - shut
        present = set(_present(cursor, list(schemas_by_role)))
        missing = sorted(wanted - present)
        # Every role may use public: postgres_install lets it, as the extensions are there.
        surplus = sorted(
            privilege for privilege in present - wanted if privilege[1:] != ("SCHEMA", "public", "", "USAGE")
        )
        if not check_mode:
            for privilege in surplus:
                cursor.execute(_statement("REVOKE", privilege))
            for privilege in missing:
                cursor.execute(_statement("GRANT", privilege))
        connection.commit()
    return {
        "changed": bool(missing or surplus),
        "granted": [str(privilege) for privilege in missing],
        "revoked": [str(privilege) for privilege in surplus],
    }


def _require(cursor: Cursor, schemas_by_role: Mapping[str, Iterable[str]]) -> None:
    """Raise if a role or a schema does not exist."""
    cursor.execute("SELECT rolname FROM pg_roles")
    roles = {row[0] for row in cursor.fetchall()}
    cursor.execute(f"SELECT nspname FROM pg_namespace n WHERE {_OWNED}")  # noqa: S608 (a constant)
    schemas = {row[0] for row in cursor.fetchall()}
    problems = [
        Problem(
            f"role {role}", "it does not exist in PostgreSQL", f"Run {playbook('1_infrastructure')}, which creates it"
        )
        for role in schemas_by_role
        if role not in roles
    ]
    for role, names in schemas_by_role.items():
        problems.extend(
            Problem(
                f"estate_cutover_groups: schema {name} of role {role}",
                "it does not exist, or is not ours",
                "Correct 'schemas' of the service, or add the schema to files/sql",
            )
            for name in names
            if name not in schemas
        )
    if problems:
        raise MigrationError("The services' privileges cannot be set.", problems)


def _wanted(cursor: Cursor, schemas_by_role: Mapping[str, Iterable[str]]) -> Iterable[Privilege]:
    """Yield every privilege that the roles should have."""
    cursor.execute(
        "SELECT n.nspname, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND pg_get_userbyid(c.relowner) = current_user"
    )
    relations = cursor.fetchall()
    for role, schemas in schemas_by_role.items():
        for schema in schemas:
            yield Privilege(role, "SCHEMA", schema, "", "USAGE")
            for privilege in TABLE_PRIVILEGES:
                yield Privilege(role, "TABLES", schema, "", privilege)
            for privilege in SEQUENCE_PRIVILEGES:
                yield Privilege(role, "SEQUENCES", schema, "", privilege)
            for relation_schema, name, relation_kind in relations:
                if relation_schema != schema:
                    continue
                sequence = relation_kind == "S"
                for privilege in SEQUENCE_PRIVILEGES if sequence else TABLE_PRIVILEGES:
                    yield Privilege(role, "SEQUENCE" if sequence else "TABLE", schema, name, privilege)


def _present(cursor: Cursor, roles: list[str]) -> Iterable[Privilege]:
    """Yield every privilege that the roles have on what the current role owns."""
    cursor.execute(
        f"""
        SELECT r.rolname, 'SCHEMA', n.nspname, '', a.privilege_type
        FROM pg_namespace n CROSS JOIN aclexplode(n.nspacl) a JOIN pg_roles r ON r.oid = a.grantee
        WHERE r.rolname = ANY (%(roles)s) AND {_OWNED}
        UNION ALL
        SELECT r.rolname, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, c.relname,
               a.privilege_type
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
        WHERE r.rolname = ANY (%(roles)s) AND pg_get_userbyid(c.relowner) = current_user
        UNION ALL
        SELECT r.rolname, CASE d.defaclobjtype WHEN 'S' THEN 'SEQUENCES' ELSE 'TABLES' END, n.nspname, '',
               a.privilege_type
        FROM pg_default_acl d JOIN pg_namespace n ON n.oid = d.defaclnamespace
        CROSS JOIN aclexplode(d.defaclacl) a JOIN pg_roles r ON r.oid = a.grantee
        WHERE r.rolname = ANY (%(roles)s) AND pg_get_userbyid(d.defaclrole) = current_user
          AND d.defaclobjtype IN ('r', 'S')
        """,  # noqa: S608 (a constant)
        {"roles": roles},
    )
    return [Privilege(*row) for row in cursor.fetchall()]


def _statement(verb: str, privilege: Privilege) -> Composable:
    """Return the GRANT or REVOKE for one privilege."""
    schema, role = sql.Identifier(privilege.schema), sql.Identifier(privilege.role)
    preposition = sql.SQL("TO" if verb == "GRANT" else "FROM")
    what = sql.SQL(f"{verb} {privilege.privilege} ON ")
    if privilege.kind in ("TABLES", "SEQUENCES"):
        return sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {} {}{} {} {}").format(
            schema, what, sql.SQL(privilege.kind), preposition, role
        )
    target = schema if privilege.kind == "SCHEMA" else sql.Identifier(privilege.schema, privilege.name)
    return sql.SQL("{}{} {} {} {}").format(what, sql.SQL(privilege.kind), target, preposition, role)
