"""Which roles are strangers: what they own may hold code that would run with the rights of whoever uses it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from ..core.connection import first_row
from ..core.errors import Problem
from ..core.sql import table_name

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor

# A member may become the role that it is a member of; a superuser may always.
_MAY_BECOME = """
pg_has_role({0}, {1}, CASE WHEN current_setting('server_version_num')::int < 160000
                           THEN 'MEMBER' ELSE 'USAGE, SET, MEMBER WITH ADMIN OPTION' END)
"""


def is_stranger(role: str) -> str:
    """Return the SQL that tells whether a role is neither the owner of the database nor may become it.

    :param role: SQL of the role's oid.
    """
    return f"""
(SELECT NOT {_MAY_BECOME.format(role, "d.datdba")}
        AND {role} <> (SELECT r.oid FROM pg_roles r WHERE r.rolname = 'pg_database_owner')
   FROM pg_database d WHERE d.datname = current_database())
"""  # noqa: S608 (SQL of ours)


def _is_stranger_to_us(role: str) -> str:
    """Return the same of a role that may not become the one that we act as either."""
    return f"({is_stranger(role)} AND NOT {_MAY_BECOME.format(role, 'current_user')})"


# The tables and those that their foreign keys refer to, with their partitions, what they are partitions of, and the
# types of their columns, down to the base of each domain and array. Of a table that we may not read only the server
# looks at rows, as its owner.
_PARTS = """
WITH RECURSIVE relations AS (
  SELECT named.name, r.oid
  FROM unnest(%(tables)s::text[]) AS named (name)
  CROSS JOIN LATERAL (SELECT to_regclass(named.name)::oid
                      UNION SELECT k.confrelid FROM pg_constraint k
                             WHERE k.conrelid = to_regclass(named.name) AND k.contype = 'f'
                               AND has_table_privilege(k.confrelid, 'SELECT')) AS read_by_us (oid)
  CROSS JOIN LATERAL (SELECT read_by_us.oid
                      UNION SELECT relid::oid FROM pg_partition_tree(read_by_us.oid)
                      -- A row that is written to a partition is checked against the keys of what it is a part of.
                      UNION SELECT relid::oid FROM pg_partition_ancestors(read_by_us.oid)) AS r (oid)
), types AS (
  SELECT r.name, a.atttypid AS oid
  FROM relations r
  CROSS JOIN LATERAL (SELECT a.atttypid FROM pg_attribute a
                      WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped OFFSET 0) AS a
  UNION
  SELECT t.name, base.oid
  FROM types t JOIN pg_type p ON p.oid = t.oid CROSS JOIN LATERAL (VALUES (p.typbasetype), (p.typelem)) AS base (oid)
  WHERE base.oid <> 0
)
"""

# What belongs to strangers among them, and the functions, operators and types of strangers that their defaults, checks,
# generated columns, indexes, statistics, partition keys and policies call. Triggers and rules are not among them: a
# load disables these, and reading does not start them. The server expects thousands of relations where there are a few,
# and would read whole catalogs to join them: OFFSET 0 lets it look up each in an index.
_CODE = (
    _PARTS  # noqa: S608 (SQL of ours)
    + f"""
, parts (name, classid, objid) AS (
  SELECT r.name, p.classid, p.objid
  FROM relations r
  CROSS JOIN LATERAL (SELECT 'pg_class'::regclass::oid, r.oid
                      UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k WHERE k.conrelid = r.oid
                      UNION ALL SELECT 'pg_attrdef'::regclass, d.oid FROM pg_attrdef d WHERE d.adrelid = r.oid
                      UNION ALL SELECT 'pg_class'::regclass, i.indexrelid FROM pg_index i WHERE i.indrelid = r.oid
                      UNION ALL
                      SELECT 'pg_statistic_ext'::regclass, s.oid FROM pg_statistic_ext s WHERE s.stxrelid = r.oid
                      UNION ALL SELECT 'pg_policy'::regclass, p.oid FROM pg_policy p WHERE p.polrelid = r.oid
                     ) AS p (classid, objid)
  UNION SELECT t.name, 'pg_type'::regclass, t.oid FROM types t
  UNION
  SELECT t.name, 'pg_constraint'::regclass, k.oid
  FROM types t CROSS JOIN LATERAL (SELECT k.oid FROM pg_constraint k WHERE k.contypid = t.oid OFFSET 0) AS k
), used (name, classid, objid, owner) AS (
  SELECT p.name, p.classid, p.objid, c.relowner
  FROM parts p CROSS JOIN LATERAL (SELECT * FROM pg_class c WHERE c.oid = p.objid OFFSET 0) AS c
  WHERE p.classid = 'pg_class'::regclass AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  UNION
  SELECT p.name, p.classid, p.objid, t.typowner
  FROM parts p CROSS JOIN LATERAL (SELECT * FROM pg_type t WHERE t.oid = p.objid OFFSET 0) AS t
  WHERE p.classid = 'pg_type'::regclass AND t.typtype IN ('c', 'd', 'e', 'r', 'm') AND t.typelem = 0
  UNION
  SELECT p.name, d.refclassid, o.oid, o.owner
  FROM parts p
  CROSS JOIN LATERAL (SELECT * FROM pg_depend d WHERE d.classid = p.classid AND d.objid = p.objid OFFSET 0) AS d
  CROSS JOIN LATERAL (
    -- A cast to a domain evaluates its checks, in whatever expression it stands, and in an array or a row of it.
    SELECT coalesce(nullif(t.typelem, 0), t.oid), t.typowner FROM pg_type t
    WHERE d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
    UNION ALL
    SELECT f.oid, f.proowner FROM pg_proc f WHERE d.refclassid = 'pg_proc'::regclass AND f.oid = d.refobjid
    UNION ALL
    SELECT o.oid, o.oprowner FROM pg_operator o WHERE d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
  ) AS o (oid, owner)
)
SELECT used.name, i.type, i.identity, r.rolname::text
FROM used JOIN pg_roles r ON r.oid = used.owner
CROSS JOIN LATERAL pg_identify_object(used.classid, used.objid, 0) AS i
WHERE {_is_stranger_to_us("used.owner")}
  -- The code of an extension comes from the server's files.
  AND NOT EXISTS (SELECT FROM pg_depend e
                  WHERE e.classid = used.classid AND e.objid = used.objid AND e.objsubid = 0 AND e.deptype = 'e')
ORDER BY 1, 2, 3
"""  # noqa: S608
)

# Whether a stranger owns anything of the kinds that the statement above looks for: without that it finds nothing, and
# its plan expects so many rows that the server makes room for them. OFFSET 0 lets it ask of each owner once.
_IS_ANY = f"""
SELECT EXISTS (
  SELECT FROM (
    SELECT relowner FROM pg_class UNION SELECT typowner FROM pg_type
    UNION SELECT proowner FROM pg_proc UNION SELECT oprowner FROM pg_operator
    OFFSET 0
  ) AS known (owner)
  WHERE {_is_stranger_to_us("known.owner")}
)
"""  # noqa: S608 (SQL of ours)


def find_strangers_code(cursor: Cursor, tables: Iterable[str], table_owners: Collection[str] = ()) -> list[Problem]:
    """Return what strangers own, or could let do something else, where rows of some tables are read or loaded.

    :param tables: their names as ``schema.table``; what is not there is left out.
    :param table_owners: roles that may own the tables themselves, since the caller looks at what these hold.
    """
    cursor.execute("SELECT current_user::text, quote_ident(current_user)")
    role, quoted = first_row(cursor)
    cursor.execute(_IS_ANY)
    if not first_row(cursor)[0]:
        return []
    names = {table_name(name).as_string(cursor): name for name in tables}
    cursor.execute(_CODE, {"tables": list(names)})
    return [
        Problem(
            names[table],
            f"{kind} {identity} belongs to role {owner}, and its code would run with the rights of {role}",
            f"Read it; if you trust it: ALTER {kind.upper()} {identity} OWNER TO {quoted}; else drop it",
        )
        for table, kind, identity, owner in cursor.fetchall()
        if not (kind == "table" and owner in table_owners)
    ]
