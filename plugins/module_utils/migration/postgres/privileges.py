"""What each service's role may do: its own schemas' tables and sequences, less what its rights say, and nothing else.

Desired state: what is missing is granted, what is too much is taken away.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core import ledger
from ..core.commands import playbook
from ..core.connection import explained, first_row, psycopg2, sql
from ..core.errors import TABLE_SQL, MigrationError, Problem
from ..core.estate import RIGHTS, Access, meant
from ..core.group_detail import changes
from ..core.state import PENDING, is_on_postgresql
from . import own_schemas
from .schema import LOCK_ATTEMPTS, limit_waiting
from .write_lock import WRITING, reached, rights_taken

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor
    from psycopg2.sql import Composable

TABLE_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")
SEQUENCE_PRIVILEGES = ("USAGE", "SELECT")
# For each word of the estate what it allows on a whole table, and on the sequence that fills its key.
_ON_TABLES = {"write": TABLE_PRIVILEGES, "read": ("SELECT",), "none": ()}
_ON_SEQUENCES = {"write": SEQUENCE_PRIVILEGES, "read": ("SELECT",), "none": ()}

_TABLES = """
SELECT n.nspname, c.relname, array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attname IS NOT NULL),
       (SELECT rn.nspname || '.' || r.relname FROM pg_class r JOIN pg_namespace rn ON rn.oid = r.relnamespace
         WHERE c.relispartition AND r.oid = pg_partition_root(c.oid))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_get_userbyid(c.relowner) = current_user
GROUP BY n.nspname, c.relname, c.relispartition, c.oid
"""
# With the tables that take their numbers from a sequence: the one whose column it belongs to, and those whose defaults
# name it. A sequence that neither knows is called by name.
_SEQUENCES = """
SELECT n.nspname, c.relname, ARRAY(
  SELECT DISTINCT tn.nspname || '.' || t.relname
  FROM pg_depend d LEFT JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
  JOIN pg_class t ON t.oid = coalesce(a.adrelid, d.refobjid) JOIN pg_namespace tn ON tn.oid = t.relnamespace
  WHERE d.refclassid = 'pg_class'::regclass
    AND (a.oid IS NOT NULL AND d.refobjid = c.oid
         OR d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND pg_get_userbyid(c.relowner) = current_user
"""

# The schemas that are ours to give, or that we have given: public belongs to whoever owns the database.
_OWNED = f"""
(pg_get_userbyid(n.nspowner) = current_user OR n.nspname = 'public' AND pg_has_role(n.nspowner, 'USAGE')
 OR {own_schemas.IS_OWNED_BY_SERVICE})
"""


class Privilege(NamedTuple):
    """One privilege of one role.

    :param kind: ``SCHEMA``, ``TABLE``, ``SEQUENCE``, or for objects still to come ``TABLES`` and ``SEQUENCES``.
    :param name: name of the object without its schema; empty for a schema and for objects to come.
    :param column: the one column of a table that it is for; empty if it is for the whole table.
    """

    role: str
    kind: str
    schema: str
    name: str
    privilege: str
    column: str = ""

    def __str__(self) -> str:
        """Return the privilege as a person reads it."""
        what = {"SCHEMA": f"schema {self.schema}", "TABLES": f"new tables in {self.schema}"}
        what["SEQUENCES"] = f"new sequences in {self.schema}"
        name = f"column {self.schema}.{self.name}.{self.column}" if self.column else f"{self.schema}.{self.name}"
        return f"{self.role}: {self.privilege} on {what.get(self.kind, name)}"


def synchronise(
    connection: Connection,
    schemas_by_role: Mapping[str, Iterable[str]],
    check_mode: bool,
    rights_by_role: Mapping[str, Mapping[str, str]] | None = None,
    tables_by_group: Mapping[str, Iterable[str]] | None = None,
    roles_by_group: Mapping[str, Iterable[str]] | None = None,
    lock_timeout_seconds: float = 5.0,
    owners: Mapping[str, Iterable[str]] | None = None,
) -> dict[str, Any]:
    """Give each role exactly the privileges on its schemas. Acts as the owner of the schemas.

    :param schemas_by_role: role → names of the schemas whose tables it reads and writes.
    :param rights_by_role: role → ``schema``, ``schema.table`` or ``schema.table.column`` → ``write``, ``read`` or
        ``none``: what holds for these instead.
    :param tables_by_group: cutover group → its tables, which no role writes to while SQLite is the group's store; the
        cutover gives this right, in :func:`settle_writing`. A role of a group that lives on PostgreSQL keeps what it
        has: its services may need it at this moment, and only a person knows.
    :param roles_by_group: cutover group → the roles of its services. As long as the ledger knows a group on PostgreSQL
        that is not among them, as one that was renamed, each role may be one of that group's.
    :param lock_timeout_seconds: how long a statement waits for a lock, before all of it is tried again.
    :param owners: role → the schemas that it owns while its services live on PostgreSQL.
    :returns: ``changed``, ``granted`` and ``revoked`` (one line for each privilege), and ``warnings``.
    :raises MigrationError: naming the roles, schemas, tables and columns that do not exist, or if somebody keeps a
        table or a view locked.
    """
    access = Access(
        {role: list(names) for role, names in schemas_by_role.items()},
        rights_by_role or {},
        {group: list(names) for group, names in (tables_by_group or {}).items()},
        {group: list(names) for group, names in (roles_by_group or {}).items()},
        {role: list(names) for role, names in (owners or {}).items()},
    )
    with explained("setting the services' privileges"), ledger.locked(connection, "schema"):
        for attempt in range(1, LOCK_ATTEMPTS + 1):
            try:
                return _synchronise(connection, access, check_mode, lock_timeout_seconds)
            except (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected):
                if attempt == LOCK_ATTEMPTS:
                    raise
                connection.rollback()
                time.sleep(0.5 * attempt)
    raise AssertionError("the last attempt returns or raises")


def _synchronise(
    connection: Connection, access: Access, check_mode: bool, lock_timeout_seconds: float
) -> dict[str, Any]:
    """Do what :func:`synchronise` says, once."""
    rights_by_role, roles_by_group = access.rights, access.roles
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        # An owner has every right already: what is revoked from it here, it would lose.
        owner = first_row(cursor)[0]
        schemas_by_role = {role: names for role, names in access.schemas.items() if role != owner}
        # Whoever changes a view at this moment may take long.
        limit_waiting(cursor, lock_timeout_seconds)
        _require(cursor, schemas_by_role, rights_by_role, _read_tables(cursor))
        # Where SQLite is the store, nobody writes until the cutover opens the tables.
        states = _states(connection)
        settled = _settle_owners(connection, access, states, schemas_by_role, check_mode)
        tables = _read_tables(cursor)
        shut = _shut(connection, states, access.tables)
        taken = {(right["role"], right["schema"], right["table"]) for right in rights_taken(connection)}
        owned = own_schemas.owned_schemas(cursor)
        allowed = {
            privilege
            for privilege in _wanted(cursor, schemas_by_role, rights_by_role, tables)
            if owned.get(privilege.schema) != privilege.role
        }
        withheld = {
            privilege
            for privilege in allowed
            if _writes(privilege)
            and ((privilege.schema, privilege.name) in shut or (privilege.role, *privilege[2:4]) in taken)
        }
        # What a role owns it may do anything with.
        present = {
            privilege
            for privilege in _present(cursor, list(schemas_by_role))
            if owned.get(privilege.schema) != privilege.role
        }
        unknown = sorted(
            group for group, state in states.items() if is_on_postgresql(state) and group not in roles_by_group
        )
        live = _live_roles(states, roles_by_group)
        kept = {privilege for privilege in withheld & present if unknown or privilege.role in live}
        wanted = allowed - withheld | kept
        missing = sorted(wanted - present)
        # Every role may use public: postgres_install lets it, as the extensions are there.
        surplus = sorted(
            privilege for privilege in present - wanted if privilege[1:] != ("SCHEMA", "public", "", "USAGE", "")
        )
        if not check_mode:
            for privilege in surplus:
                cursor.execute(_statement("REVOKE", privilege))
            # With a right on a table the server takes the same right on its columns too.
            for privilege in sorted(wanted - set(_present(cursor, list(schemas_by_role)))):
                cursor.execute(_statement("GRANT", privilege))
        connection.commit()
    return {
        "changed": bool(missing or surplus or settled.given or settled.taken),
        "granted": [*settled.given, *(str(privilege) for privilege in missing)],
        "revoked": [*settled.taken, *(str(privilege) for privilege in surplus)],
        "warnings": _warnings(sorted(kept), unknown),
    }


def _settle_owners(
    connection: Connection,
    access: Access,
    states: Mapping[str, str],
    roles: Collection[str],
    check_mode: bool = False,
) -> own_schemas.Settled:
    """Let the services that migrate themselves own their schemas, or no more, by the states in the ledger.

    :param roles: those that are looked at.
    :raises MigrationError: naming what of a schema no service may own.
    """
    live = _live_roles(states, access.roles)
    mapped = [name for tables in access.tables.values() for name in tables]
    owners = {role: schemas for role, schemas in access.owners.items() if role in roles}
    with connection.cursor() as cursor:
        waiting = {role: schemas for role, schemas in owners.items() if role not in live}
        problems = own_schemas.find_unfit(cursor, waiting, check_mode)
        if problems:
            raise MigrationError("A service that migrates itself could not own its schema.", problems)
        settled = own_schemas.settle(cursor, owners, live, roles, mapped, check_mode)
    if settled.given and not check_mode:
        for group, own in access.roles.items():
            names = {name for role in own if role in live for name in owners.get(role, ())}
            if names:
                known = ledger.read_group(connection, group).detail.own_schemas
                ledger.merge_detail(connection, group, changes(own_schemas=tuple(sorted({*known, *names}))))
    return settled


def _live_roles(states: Mapping[str, str], roles_by_group: Mapping[str, Iterable[str]]) -> set[str]:
    """Return the roles of the services of groups on PostgreSQL, by the states in the ledger."""
    return {
        role
        for group, roles in roles_by_group.items()
        if is_on_postgresql(states.get(group, PENDING))
        for role in roles
    }


def _warnings(kept: Sequence[Privilege], unknown: Sequence[str]) -> list[str]:
    """Return what a person has to know of the rights that roles keep although SQLite is the tables' store.

    :param unknown: groups that the ledger knows on PostgreSQL, and the inventory does not name.
    """
    if not kept:
        return []
    whose = "The roles are of groups that live on PostgreSQL."
    if unknown:
        whose = (
            f"The ledger knows {', '.join(unknown)} on PostgreSQL, which the inventory does not name: if it was "
            "renamed, give it its name back; until then each role counts as one of its services."
        )
    return [
        f"{', '.join(map(str, kept))}: left as it is, though SQLite is the store of the tables it leads to. {whose} "
        "If no service needs it, say so in the service's 'rights' (read), and run this again."
    ]


def lock_rights(connection: Connection, wait_seconds: float = 10.0) -> None:
    """Let nobody else change the services' rights until the transaction ends; before it changes any itself.

    :param wait_seconds: how long to wait, for this and for each later lock of the transaction.
    :raises Busy: naming who holds the lock. The transaction can go on.
    """
    ledger.lock_until_commit(connection, "schema", wait_seconds)


def require_free(connection: Connection, wait_seconds: float) -> None:
    """Refuse to go on while a run of schema_apply, or of the shared library, is at work; before services are stopped.

    :param wait_seconds: how long to wait for its end.
    :raises Busy: naming who holds the lock.
    """
    with ledger.locked(connection, "schema", wait_seconds):
        pass


def settle_writing(connection: Connection, group: str, access: Access, wait_seconds: float = 10.0) -> None:
    """Let those write to a group's tables who may, as the states in the ledger say now; the caller commits.

    It is called in the commit that changes the group's state, so that at no moment a service may write to a table
    whose rows are in SQLite, or may not where PostgreSQL is the store. A role of another group that lives on
    PostgreSQL keeps what it has, as in :func:`synchronise`.

    :param access: of the whole estate, because services of other groups may use the tables too.
    :param wait_seconds: how long to wait for another run.
    :raises Busy: if another run changes the rights.
    """
    lock_rights(connection, wait_seconds)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT rolname FROM pg_roles WHERE rolname <> current_user AND rolname = ANY (%s)", (list(access.schemas),)
        )
        schemas_by_role = {role: access.schemas[role] for (role,) in cursor.fetchall()}
        states = _states(connection)
        _settle_owners(connection, access, states, set(schemas_by_role) & set(access.roles.get(group, ())))
        tables = _read_tables(cursor)
        shut = _shut(connection, states, access.tables)
        others = _live_roles(states, {name: roles for name, roles in access.roles.items() if name != group})
        own = set(reached(connection, access.tables.get(group, ())))

        def belongs(privilege: Privilege) -> bool:
            return _writes(privilege) and (privilege.schema, privilege.name) in own

        allowed = set(filter(belongs, _wanted(cursor, schemas_by_role, access.rights, tables)))
        wanted = {privilege for privilege in allowed if (privilege.schema, privilege.name) not in shut}
        kept = {privilege for privilege in allowed if privilege.role in others}
        for privilege in sorted(set(filter(belongs, _present(cursor, list(schemas_by_role)))) - wanted - kept):
            cursor.execute(_statement("REVOKE", privilege))
        for privilege in sorted(wanted - set(_present(cursor, list(schemas_by_role)))):
            cursor.execute(_statement("GRANT", privilege))


def take_schemas_back(connection: Connection, group: str, access: Access) -> None:
    """Own again what the roles of a group own, before its write lock is set; the caller commits, and holds the lock.

    :raises MigrationError: naming code that a service has put into its tables.
    """
    mapped = [name for tables in access.tables.values() for name in tables]
    with connection.cursor() as cursor:
        own_schemas.settle(cursor, {}, (), access.roles.get(group, ()), mapped)


def _writes(privilege: Privilege) -> bool:
    """Return whether a privilege lets a role change the rows of a table that is there."""
    return privilege.kind == "TABLE" and privilege.privilege in WRITING


def _states(connection: Connection) -> dict[str, str]:
    """Return the state of each cutover group that the ledger knows."""
    if not ledger.exists(connection):
        return {}
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, state FROM migration.cutover_group")
        return dict(cursor.fetchall())


def _shut(
    connection: Connection, states: Mapping[str, str], tables_by_group: Mapping[str, Iterable[str]]
) -> set[tuple[str, str]]:
    """Return (schema, name) of all that leads to a table whose rows are in SQLite, by the states in the ledger."""
    names = [
        name
        for group, tables in tables_by_group.items()
        if not is_on_postgresql(states.get(group, PENDING))
        for name in tables
    ]
    return set(reached(connection, names))


class _Table(NamedTuple):
    """What is known of a table.

    :param root: the partitioned table, with its schema, that it is a part of; empty if it is none.
    """

    columns: list[str]
    root: str


def _read_tables(cursor: Cursor) -> dict[tuple[str, str], _Table]:
    """Return (schema, table) → what is known of all that the current role owns, views among them."""
    cursor.execute(_TABLES)
    return {(schema, table): _Table(list(columns or ()), root or "") for schema, table, columns, root in cursor}


def _require(
    cursor: Cursor,
    schemas_by_role: Mapping[str, Iterable[str]],
    rights_by_role: Mapping[str, Mapping[str, str]],
    tables: Mapping[tuple[str, str], _Table],
) -> None:
    """Raise if a role, schema, table or column does not exist."""
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
                f"Correct 'schemas' of the service, or add the schema to {TABLE_SQL}",
            )
            for name in names
            if name not in schemas
        )
    for role, rights in rights_by_role.items():
        for name in rights if role in schemas_by_role else ():
            schema, table, column = (*name.split("."), "", "")[:3]
            known = tables[schema, table].columns if (schema, table) in tables else []
            fix = f"Correct 'rights' of the service, or add it to {TABLE_SQL}"
            if schema in schemas and table and (schema, table) not in tables:
                near = meant(table, [other for owner, other in tables if owner == schema])
                problems.append(Problem(f"right of role {role} on {name}", "there is no such table", near + fix))
            elif column and known and column not in known:
                fix = meant(column, known) + fix
                problems.append(Problem(f"right of role {role} on {name}", "the table has no such column", fix))
    if problems:
        raise MigrationError("The services' privileges cannot be set.", problems)


def _wanted(
    cursor: Cursor,
    schemas_by_role: Mapping[str, Iterable[str]],
    rights_by_role: Mapping[str, Mapping[str, str]],
    tables: Mapping[tuple[str, str], _Table],
) -> Iterator[Privilege]:
    """Yield every privilege that the roles should have."""
    cursor.execute(_SEQUENCES)
    sequences = cursor.fetchall()
    for role, schemas in schemas_by_role.items():
        rights = rights_by_role.get(role, {})
        for schema in schemas:
            default = rights.get(schema, "write")
            yield Privilege(role, "SCHEMA", schema, "", "USAGE")
            for privilege in _ON_TABLES[default]:
                yield Privilege(role, "TABLES", schema, "", privilege)
            for privilege in _ON_SEQUENCES[default]:
                yield Privilege(role, "SEQUENCES", schema, "", privilege)
            for (table_schema, table), described in tables.items():
                if table_schema == schema:
                    yield from _wanted_on_table(role, schema, table, described, rights)
        for schema, sequence, users in sequences:
            used_by = [(name, tables[key].root if (key := (*name.split(".", 1),)) in tables else "") for name in users]
            word = _word_on_sequence(schema, used_by, set(schemas), rights)
            for privilege in _ON_SEQUENCES[word]:
                yield Privilege(role, "SEQUENCE", schema, sequence, privilege)


def _word_on_sequence(
    schema: str, users: Sequence[tuple[str, str]], schemas: Collection[str], rights: Mapping[str, str]
) -> str:
    """Return what a role should have on a sequence: the widest word of the tables that take their numbers from it.

    Of one that no table is known to use, the widest word in its schema, since the service calls it by name.

    :param users: the tables as ``schema.table``, those of other schemas too, each with the partitioned table that it is
        a part of.
    :param schemas: those that the role may use.
    """
    words = [
        rights.get(table, rights.get(root, rights.get(table.partition(".")[0], "write")))
        for table, root in users
        if table.partition(".")[0] in schemas
    ]
    if not words and schema in schemas:
        words = [rights.get(schema, "write")]
        if not users:
            # A column that may be written to takes no number: rows are inserted only where the whole table may be.
            words += [word for name, word in rights.items() if name.startswith(f"{schema}.") and name.count(".") == 1]
    return min(words, key=RIGHTS.index, default="none")


def _wanted_on_table(
    role: str, schema: str, table: str, described: _Table, rights: Mapping[str, str]
) -> Iterator[Privilege]:
    """Yield what a role should have on one table: on all of it where its columns do not differ, else on columns.

    Rows come and go only where the whole table may be written to. A column that may be written to in a table that may
    only be read can be changed in the rows that are there. What is said of a partitioned table holds for its parts,
    which hold its rows.
    """
    own, root = f"{schema}.{table}", described.root or f"{schema}.{table}"
    whole = rights.get(own, rights.get(root, rights.get(schema, "write")))
    words = {
        column: rights.get(f"{own}.{column}", rights.get(f"{root}.{column}", whole)) for column in described.columns
    }
    may = {
        "SELECT": [column for column, word in words.items() if word != "none"],
        "UPDATE": [column for column, word in words.items() if word == "write"],
    }
    may["INSERT"] = may["UPDATE"] if whole == "write" else []
    if whole == "write":
        yield Privilege(role, "TABLE", schema, table, "DELETE")
    for privilege, allowed in may.items():
        if len(allowed) == len(words) and privilege in _ON_TABLES[whole]:
            yield Privilege(role, "TABLE", schema, table, privilege)
        else:
            for column in allowed:
                yield Privilege(role, "TABLE", schema, table, privilege, column)


def _present(cursor: Cursor, roles: list[str]) -> Iterable[Privilege]:
    """Yield every privilege that the roles have on what the current role owns."""
    cursor.execute(
        f"""
        SELECT r.rolname, 'SCHEMA', n.nspname, '', a.privilege_type, ''
        FROM pg_namespace n CROSS JOIN aclexplode(n.nspacl) a JOIN pg_roles r ON r.oid = a.grantee
        WHERE r.rolname = ANY (%(roles)s) AND {_OWNED}
        UNION ALL
        SELECT r.rolname, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, c.relname,
               a.privilege_type, ''
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
        WHERE r.rolname = ANY (%(roles)s) AND pg_get_userbyid(c.relowner) = current_user
        UNION ALL
        SELECT r.rolname, 'TABLE', n.nspname, c.relname, a.privilege_type, t.attname
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute t ON t.attrelid = c.oid AND NOT t.attisdropped
        CROSS JOIN aclexplode(t.attacl) a JOIN pg_roles r ON r.oid = a.grantee
        WHERE r.rolname = ANY (%(roles)s) AND pg_get_userbyid(c.relowner) = current_user
        UNION ALL
        SELECT r.rolname, CASE d.defaclobjtype WHEN 'S' THEN 'SEQUENCES' ELSE 'TABLES' END, n.nspname, '',
               a.privilege_type, ''
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
    column = sql.SQL(" ({})").format(sql.Identifier(privilege.column)) if privilege.column else sql.SQL("")
    what = sql.SQL(f"{verb} {privilege.privilege}{{}} ON ").format(column)
    if privilege.kind in ("TABLES", "SEQUENCES"):
        return sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {} {}{} {} {}").format(
            schema, what, sql.SQL(privilege.kind), preposition, role
        )
    target = schema if privilege.kind == "SCHEMA" else sql.Identifier(privilege.schema, privilege.name)
    return sql.SQL("{}{} {} {} {}").format(what, sql.SQL(privilege.kind), target, preposition, role)
