"""What in a database belongs to strangers and may hold code: a restore would run it with the rights of its session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.connection import connected, explained, first_row
from .harmless import is_harmless
from .strangers import is_stranger

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor

    from ..core.connection import Login

SHOWN = 20

# Left out is what holds no code (schemas, sequences, large objects, default privileges, user mappings, and tables and
# types whose expressions are the server's own), a type that comes with another object, what is a session's own and
# never in a dump, and what CREATE EXTENSION brings: a dump names the extension alone, and its code comes from the
# server's files.
# What belongs to a superuser of initdb's is in pg_shdepend as little as what belongs to the roles pg_…, to which a
# member of one may give what it makes.
_FOREIGN_OBJECTS = f"""
WITH owned AS (
  SELECT s.classid, s.objid, s.refobjid AS owner
  FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid
  WHERE d.datname = current_database() AND s.refclassid = 'pg_authid'::regclass AND s.deptype = 'o'
  UNION ALL
  SELECT c.tableoid, c.oid, c.relowner FROM pg_class c
  WHERE c.relowner::regrole::text ~ '^pg_' AND c.relkind NOT IN ('i', 'I', 't')
  UNION ALL
  SELECT p.tableoid, p.oid, p.proowner FROM pg_proc p WHERE p.proowner::regrole::text ~ '^pg_'
  UNION ALL
  SELECT t.tableoid, t.oid, t.typowner FROM pg_type t WHERE t.typowner::regrole::text ~ '^pg_' AND t.typtype = 'd'
), foreign_owned AS MATERIALIZED (
  SELECT o.classid, o.objid, r.rolname FROM owned o JOIN pg_roles r ON r.oid = o.owner WHERE {is_stranger("r.oid")}
)
SELECT pg_describe_object(o.classid, o.objid, 0), o.rolname::text
FROM foreign_owned o
CROSS JOIN LATERAL pg_identify_object(o.classid, o.objid, 0) AS i
WHERE NOT {is_harmless("o.classid", "o.objid")}
  AND o.classid NOT IN ('pg_largeobject'::regclass, 'pg_default_acl'::regclass, 'pg_namespace'::regclass,
                        'pg_extension'::regclass, 'pg_user_mapping'::regclass)
  AND NOT EXISTS (SELECT FROM pg_depend e
                  WHERE e.classid = o.classid AND e.objid = o.objid AND e.objsubid = 0
                    AND (e.deptype = 'e' OR (e.deptype = 'i' AND o.classid = 'pg_type'::regclass)))
  AND i.type <> 'sequence'
  AND coalesce(i.schema, '') !~ '^pg_(toast_)?temp'
ORDER BY 1
"""  # noqa: S608 (constants)


def read_foreign_objects(cursor: Cursor) -> list[list[str]]:
    """Return pairs of an object and its owner.

    These are what may hold code and belongs to nobody who is, or may become, the owner of the database.
    """
    cursor.execute(_FOREIGN_OBJECTS)
    return [list(row) for row in cursor.fetchall()]


def warnings(login: Login) -> list[str]:
    """Return a sentence for each object of a stranger that is shown, and one for the others.

    A restore test refuses them, so that no backup would be proven after the cutover.

    :raises MigrationError: if the server cannot be reached or asked.
    """
    with explained("looking for what belongs to strangers"), connected(login, read_only=True) as connection:
        with connection.cursor() as cursor:
            # Every name with its schema.
            cursor.execute("SET search_path TO ''")
            found = read_foreign_objects(cursor)
            cursor.execute("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()")
            owner = first_row(cursor)[0]
        connection.rollback()
    lines = [
        f"{name} belongs to {whose}, so no backup can be proven: a restore would run its code with our rights. Read it;"
        f" if you trust it, give it to {owner} with ALTER … OWNER TO, else drop it"
        for name, whose in found[:SHOWN]
    ]
    if len(found) > SHOWN:
        lines.append(f"{len(found) - SHOWN} more objects in the database are like these")
    return lines
