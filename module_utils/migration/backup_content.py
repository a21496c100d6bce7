"""What a database holds, in a form that two databases can be compared by: rows, hashes, sequences, definitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .connection import first_row
from .fingerprint import table_sums

try:
    from psycopg2 import sql
except ImportError:  # reported by connection.connect()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

# What the text of a row depends on, beyond what connection.connect() sets; and nothing that ends a long dump early.
_SESSION = """
SET search_path TO '';
SET bytea_output TO hex;
SET xmloption TO content;
SET row_security TO off;
SET statement_timeout TO 0;
SET idle_in_transaction_session_timeout TO 0;
SET lock_timeout TO '60s'
"""

# Everything of a user's: not the system's, and not what an extension brings itself.
_RELATIONS = """
WITH relations AS (
  SELECT c.oid, n.nspname, c.relname, n.nspname || '.' || c.relname AS name, c.relkind, c.relowner, c.relacl
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
    AND c.relpersistence <> 't'
    AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
)
"""

_TABLES = _RELATIONS + "SELECT nspname, relname FROM relations WHERE relkind = %s ORDER BY 1, 2"  # noqa: S608 (constants)

_DEFINITIONS = (
    _RELATIONS
    + """
SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
UNION ALL
SELECT 'extension ' || extname || ' ' || extversion FROM pg_extension
UNION ALL
SELECT CASE relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' WHEN 'S' THEN 'sequence '
                    WHEN 'f' THEN 'foreign table ' ELSE 'table ' END
       || name || ' of ' || pg_get_userbyid(relowner)
       || CASE WHEN relkind IN ('v', 'm') THEN ' ' || pg_get_viewdef(oid) ELSE '' END
FROM relations WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
UNION ALL
SELECT 'privilege ' || r.name || ' ' || a.privilege_type
       || CASE WHEN a.is_grantable THEN ' with grant option' ELSE '' END || ' to '
        || CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END
FROM relations r
CROSS JOIN LATERAL aclexplode(
  coalesce(r.relacl, acldefault(CASE r.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", r.relowner))) a
WHERE r.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
UNION ALL
SELECT 'column ' || r.name || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
       || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
       || CASE a.attidentity WHEN '' THEN '' ELSE ' identity' END
       || CASE WHEN d.oid IS NULL THEN '' WHEN a.attgenerated = '' THEN ' default ' ELSE ' generated ' END
       || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
WHERE r.relkind IN ('r', 'p', 'f')
UNION ALL
SELECT 'constraint ' || r.name || '.' || k.conname || ' ' || pg_get_constraintdef(k.oid)
FROM relations r JOIN pg_constraint k ON k.conrelid = r.oid
UNION ALL
SELECT 'index ' || pg_get_indexdef(i.indexrelid)
FROM relations r JOIN pg_index i ON i.indrelid = r.oid WHERE i.indisvalid
UNION ALL
SELECT 'trigger ' || pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text
FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal
UNION ALL
SELECT 'policy ' || p.polname || ' of ' || r.name FROM relations r JOIN pg_policy p ON p.polrelid = r.oid
UNION ALL
SELECT 'function ' || pg_get_functiondef(p.oid)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND p.prokind <> 'a'
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
"""
)

# As in fingerprint.py, over the large objects.
_LARGE_OBJECTS = "(SELECT oid, md5(lo_get(oid)) FROM pg_largeobject_metadata)"


def prepare_session(cursor: Cursor) -> None:
    """Make the session's settings those that every comparison needs."""
    cursor.execute(_SESSION)


def table_names(cursor: Cursor) -> list[tuple[str, str]]:
    """Return schema and name of every table that holds rows itself (partitions, not what they are parts of)."""
    cursor.execute(_TABLES, ("r",))
    return [(schema, name) for schema, name in cursor.fetchall()]


def sequence_positions(cursor: Cursor) -> dict[str, int]:
    """Return the next value of every sequence, by ``schema.name``."""
    cursor.execute(_TABLES, ("S",))
    positions = {}
    for schema, name in cursor.fetchall():
        cursor.execute(
            sql.SQL(
                "SELECT last_value + CASE WHEN is_called THEN seqincrement ELSE 0 END "
                "FROM {} CROSS JOIN pg_sequence WHERE seqrelid = {}::regclass"
            ).format(sql.Identifier(schema, name), sql.Literal(sql.Identifier(schema, name).as_string(cursor)))
        )
        positions[f"{schema}.{name}"] = int(first_row(cursor)[0])
    return positions


def read_content(cursor: Cursor) -> dict[str, Any]:
    """Return ``tables`` (rows and hash of each), ``large_objects`` and ``definitions`` in the cursor's transaction."""
    tables = {
        f"{schema}.{name}": table_sums(cursor, sql.Identifier(schema, name)) for schema, name in table_names(cursor)
    }
    large_objects = table_sums(cursor, sql.SQL(_LARGE_OBJECTS))
    cursor.execute(_DEFINITIONS)
    return {
        "tables": tables,
        "large_objects": large_objects,
        "definitions": sorted(row[0] for row in cursor.fetchall()),
    }


def differences(expected: dict[str, Any], found: dict[str, Any], definitions: bool = True) -> list[str]:
    """Return how what was found differs from what a manifest expects, a line for each difference.

    :param expected: with ``tables``, ``large_objects``, ``definitions`` and ``sequences``, the last with the
        positions before and after the dump: a sequence stands outside transactions.
    :param found: the same, with one position for each sequence.
    :param definitions: compare the definitions too, which two major versions may write differently.
    """
    lines = []
    for name in sorted(expected["tables"].keys() | found["tables"].keys()):
        lines += _compare_table(f"table {name}", expected["tables"].get(name), found["tables"].get(name))
    lines += _compare_table("large objects", expected["large_objects"], found["large_objects"])
    for name in sorted(expected["sequences"].keys() | found["sequences"].keys()):
        limits, position = expected["sequences"].get(name), found["sequences"].get(name)
        if limits is None or position is None:
            lines.append(f"sequence {name}: {'missing' if position is None else 'not in the manifest'}")
        elif not limits[0] <= position <= limits[1]:
            lines.append(f"sequence {name}: stands at {position}, not {' to '.join(map(str, sorted(set(limits))))}")
    if definitions:
        before, after = set(expected["definitions"]), set(found["definitions"])
        lines += [f"missing: {line}" for line in sorted(before - after)]
        lines += [f"not in the manifest: {line}" for line in sorted(after - before)]
    return lines


def read_all(connection: Connection) -> dict[str, Any]:
    """Return everything that :func:`differences` compares, of the database of this connection."""
    with connection.cursor() as cursor:
        prepare_session(cursor)
        content = read_content(cursor)
        content["sequences"] = sequence_positions(cursor)
    connection.rollback()
    return content


def _compare_table(what: str, expected: dict[str, Any] | None, found: dict[str, Any] | None) -> list[str]:
    """Return the difference of one table, if there is any."""
    if expected == found:
        return []
    if expected is None:
        return [f"{what}: not in the manifest"]
    if found is None:
        return [f"{what}: missing"]
    if expected["rows"] != found["rows"]:
        return [f"{what}: {found['rows']} rows, not {expected['rows']}"]
    return [f"{what}: {found['rows']} rows, and their hash differs"]
