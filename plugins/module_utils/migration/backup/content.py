"""What a database holds, in a form that two databases can be compared by: rows, hashes, sequences, definitions."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC
from typing import TYPE_CHECKING, Any

from ..core.connection import first_row, sql
from ..postgres.catalog import DESCRIBE_COLUMNS
from ..postgres.content import copied_sums, is_strangers, lock, table_sums
from ..postgres.strangers import is_stranger

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
SET idle_session_timeout TO 0;
SET lock_timeout TO '60s'
"""

# Whoever owns a table may put a view in its place after we have looked: the view's functions would run with our rights.
# Servers know this setting from 15.8, 16.4 and 17 on; pg_dump sets it for itself from the same versions on.
_NO_VIEWS = """
SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind'
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

# One entry of an access list, behind the text that says what it is for.
_PRIVILEGES = """ || a.privilege_type || CASE WHEN a.is_grantable THEN ' with grant option' ELSE '' END || ' to '
        || CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END
"""

_NOT_OF_AN_EXTENSION = """
NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = {0}::regclass AND d.objid = {1}.oid AND d.deptype = 'e')
"""

_USERS_SCHEMA = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"

_DEFINITIONS = (
    _RELATIONS  # noqa: S608 (constants)
    + f"""
SELECT 'schema ' || n.nspname || ' of ' || pg_get_userbyid(n.nspowner) FROM pg_namespace n WHERE {_USERS_SCHEMA}
UNION ALL
SELECT 'privilege schema ' || n.nspname || ' ' {_PRIVILEGES}
FROM pg_namespace n CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
WHERE {_USERS_SCHEMA}
UNION ALL
SELECT 'default privilege of ' || pg_get_userbyid(x.defaclrole) || ' in '
       || coalesce((SELECT n.nspname FROM pg_namespace n WHERE n.oid = x.defaclnamespace), 'every schema')
       || ' on ' || x.defaclobjtype::text || ' ' {_PRIVILEGES}
FROM pg_default_acl x CROSS JOIN LATERAL aclexplode(x.defaclacl) a
UNION ALL
SELECT 'extension ' || extname || ' ' || extversion FROM pg_extension
UNION ALL
SELECT CASE r.relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' WHEN 'S' THEN 'sequence '
                      WHEN 'f' THEN 'foreign table ' ELSE 'table ' END
       || r.name || ' of ' || pg_get_userbyid(r.relowner)
       || CASE WHEN r.relkind IN ('v', 'm') THEN ' ' || pg_get_viewdef(r.oid) ELSE '' END
       || CASE WHEN c.relrowsecurity THEN ' with row security' ELSE '' END
       || CASE WHEN c.relforcerowsecurity THEN ' for its owner too' ELSE '' END
       || coalesce(' with ' || c.reloptions::text, '')
FROM relations r JOIN pg_class c USING (oid) WHERE r.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
UNION ALL
SELECT 'privilege ' || r.name || ' ' {_PRIVILEGES}
FROM relations r
CROSS JOIN LATERAL aclexplode(
  coalesce(r.relacl, acldefault(CASE r.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", r.relowner))) a
WHERE r.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
UNION ALL
SELECT 'privilege ' || r.name || '.' || t.attname || ' ' {_PRIVILEGES}
FROM relations r JOIN pg_attribute t ON t.attrelid = r.oid AND NOT t.attisdropped
CROSS JOIN LATERAL aclexplode(t.attacl) a
UNION ALL
{DESCRIBE_COLUMNS}
WHERE r.relkind IN ('r', 'p', 'f', 'c')
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
SELECT 'rule ' || pg_get_ruledef(u.oid) || ' ' || u.ev_enabled::text
FROM relations r JOIN pg_rewrite u ON u.ev_class = r.oid WHERE u.rulename <> '_RETURN'
UNION ALL
SELECT 'policy ' || p.polname || ' of ' || r.name || ' for ' || p.polcmd::text
       || CASE WHEN p.polpermissive THEN '' ELSE ' restrictive' END || ' to '
       || (SELECT string_agg(CASE role WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(role) END, ', ' ORDER BY 1)
             FROM unnest(p.polroles) AS role)
       || coalesce(' using ' || pg_get_expr(p.polqual, p.polrelid), '')
       || coalesce(' with check ' || pg_get_expr(p.polwithcheck, p.polrelid), '')
FROM relations r JOIN pg_policy p ON p.polrelid = r.oid
UNION ALL
SELECT 'function ' || pg_get_functiondef(p.oid) || ' of ' || pg_get_userbyid(p.proowner)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE {_USERS_SCHEMA} AND p.prokind <> 'a' AND {_NOT_OF_AN_EXTENSION.format("'pg_proc'", "p")}
UNION ALL
SELECT 'privilege function ' || p.oid::regprocedure::text || ' ' {_PRIVILEGES}
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
WHERE {_USERS_SCHEMA} AND {_NOT_OF_AN_EXTENSION.format("'pg_proc'", "p")}
UNION ALL
SELECT 'type ' || n.nspname || '.' || t.typname || ' of ' || pg_get_userbyid(t.typowner)
       || CASE t.typtype WHEN 'd' THEN ' ' || format_type(t.typbasetype, t.typtypmod)
                                       || CASE WHEN t.typnotnull THEN ' not null' ELSE '' END
                                       || coalesce(' default ' || t.typdefault, '') ELSE '' END
       || coalesce((SELECT ' ' || string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
                      FROM pg_enum e WHERE e.enumtypid = t.oid), '')
       || coalesce((SELECT ' ' || string_agg(k.conname || ' ' || pg_get_constraintdef(k.oid), ', ' ORDER BY k.conname)
                      FROM pg_constraint k WHERE k.contypid = t.oid), '')
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE {_USERS_SCHEMA} AND t.typtype IN ('d', 'e', 'r') AND {_NOT_OF_AN_EXTENSION.format("'pg_type'", "t")}
UNION ALL
SELECT 'comment on ' || r.name || coalesce('.' || a.attname, '') || ' ' || c.description
FROM relations r JOIN pg_description c ON c.classoid = 'pg_class'::regclass AND c.objoid = r.oid
LEFT JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = c.objsubid AND c.objsubid > 0
"""  # noqa: S608
)

# What the present role cannot dump, and why: name, reason, role.
UNREADABLE = (
    _RELATIONS
    + """
SELECT name, CASE WHEN NOT has_schema_privilege(nspname, 'USAGE') THEN 'its schema may not be used'
                  WHEN relkind = 'S' AND NOT has_sequence_privilege(oid, 'SELECT') THEN 'may not be read'
                  WHEN relkind <> 'S' AND NOT has_table_privilege(oid, 'SELECT') THEN 'may not be read'
                  ELSE 'its policies hide rows' END, current_user::text
FROM relations
WHERE relkind IN ('r', 'p', 'S')
  AND (NOT has_schema_privilege(nspname, 'USAGE')
       OR CASE relkind WHEN 'S' THEN NOT has_sequence_privilege(oid, 'SELECT')
                       ELSE NOT has_table_privilege(oid, 'SELECT') OR row_security_active(oid) END)
ORDER BY 1
"""
)

# A sequence cannot be locked, and a stranger could put a table in its place: those of strangers are read without their
# names. Of one that no number was taken from only its first number is known then.
_POSITIONS_OF_STRANGERS = f"""
SELECT n.nspname, c.relname, coalesce(pg_sequence_last_value(c.oid) + s.seqincrement, s.seqstart)
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relpersistence <> 't' AND ({is_stranger("c.relowner")} OR {is_stranger("n.nspowner")})
"""  # noqa: S608 (constants)

# A list of texts in a definition, and one of them.
_VARCHAR = re.compile(r"'(?:[^']|'')*'::character varying")
_VARCHARS = re.compile(rf"\(ARRAY\[({_VARCHAR.pattern}(?:, {_VARCHAR.pattern})*)\]\)::text\[\]")

# As in fingerprint.py, over the large objects.
_LARGE_OBJECTS = "(SELECT oid, md5(lo_get(oid)) FROM pg_largeobject_metadata)"


def prepare_session(cursor: Cursor) -> None:
    """Make the session's settings those that every comparison needs, and let it read no view of anybody's."""
    cursor.execute(_SESSION)
    cursor.execute(_NO_VIEWS)


def table_names(cursor: Cursor) -> list[tuple[str, str]]:
    """Return schema and name of every table that holds rows itself (partitions, not what they are parts of)."""
    cursor.execute(_TABLES, ("r",))
    return [(schema, name) for schema, name in cursor.fetchall()]


def sequence_positions(cursor: Cursor) -> dict[str, int]:
    """Return the next value of every sequence, by ``schema.name``."""
    cursor.execute(_POSITIONS_OF_STRANGERS)
    positions = {f"{schema}.{name}": int(position) for schema, name, position in cursor.fetchall()}
    cursor.execute(_TABLES, ("S",))
    for schema, name in cursor.fetchall():
        if f"{schema}.{name}" in positions:
            continue
        cursor.execute(
            sql.SQL(
                "SELECT last_value + CASE WHEN is_called THEN seqincrement ELSE 0 END "
                "FROM {} CROSS JOIN pg_sequence WHERE seqrelid = {}::regclass"
            ).format(sql.Identifier(schema, name), sql.Literal(sql.Identifier(schema, name).as_string(cursor)))
        )
        positions[f"{schema}.{name}"] = int(first_row(cursor)[0])
    return positions


def read_content(cursor: Cursor, copied: Collection[str] | None = None) -> dict[str, Any]:
    """Return ``tables`` (rows and hash of each), ``large_objects`` and ``definitions`` in the cursor's transaction.

    :param copied: the tables whose rows are read by COPY; None for all that strangers may exchange or own.
    """
    tables = {}
    for schema, name in table_names(cursor):
        table = sql.Identifier(schema, name)
        lock(cursor, table)
        is_copied = is_strangers(cursor, table) if copied is None else f"{schema}.{name}" in copied
        tables[f"{schema}.{name}"] = copied_sums(cursor, table) if is_copied else table_sums(cursor, table)
    large_objects = table_sums(cursor, sql.SQL(_LARGE_OBJECTS))
    cursor.execute(_DEFINITIONS)
    return {
        "tables": tables,
        "large_objects": large_objects,
        "definitions": sorted(row[0] for row in cursor.fetchall()),
    }


def read_groups(cursor: Cursor) -> dict[str, dict[str, Any]]:
    """Return state and time of the cutover of every group that the ledger knows."""
    cursor.execute("SELECT name, state, cutover_at FROM migration.cutover_group ORDER BY name")
    return {
        name: {"state": state, "cutover_at": None if cutover_at is None else cutover_at.astimezone(UTC).isoformat()}
        for name, state, cutover_at in cursor.fetchall()
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
        before, after = expected["tables"].get(name), found["tables"].get(name)
        if before and after and _is_summed_in_part(expected, name):
            before, after = {"rows": before["rows"]}, {"rows": after["rows"]}
        lines += _compare_table(f"table {name}", before, after)
    lines += _compare_table("large objects", expected["large_objects"], found["large_objects"])
    for name in sorted(expected["sequences"].keys() | found["sequences"].keys()):
        limits, position = expected["sequences"].get(name), found["sequences"].get(name)
        if limits is None or position is None:
            lines.append(f"sequence {name}: {'missing' if position is None else 'not in the manifest'}")
        elif not limits[0] <= position <= limits[1]:
            lines.append(f"sequence {name}: stands at {position}, not {' to '.join(map(str, sorted(set(limits))))}")
    if definitions:
        expected_lines, found_lines = (set(map(_as_restored, side["definitions"])) for side in (expected, found))
        lines += [f"missing: {line}" for line in sorted(expected_lines - found_lines)]
        lines += [f"not in the manifest: {line}" for line in sorted(found_lines - expected_lines)]
    return lines


def _as_restored(definition: str) -> str:
    """Return a definition as it reads after a restore.

    The server reads what it has written of ``kind IN ('a', 'b')``, for a varchar, and then writes it in another way.
    """

    def each_by_itself(match: re.Match[str]) -> str:
        return "ARRAY[" + _VARCHAR.sub(lambda value: f"({value[0]})::text", match[1]) + "]"

    return _VARCHARS.sub(each_by_itself, definition)


def _is_summed_in_part(manifest: dict[str, Any], table: str) -> bool:
    """Return whether a manifest of an older release has the sum of one column for a table: of the one called ``t``."""
    column = f"column {table}.t "
    return manifest.get("format") == 1 and any(line.startswith(column) for line in manifest["definitions"])


def read_all(connection: Connection, manifest: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return everything that :func:`differences` compares, of the database of this connection.

    :param manifest: of the backup that was restored into it, which no stranger can enter: its tables are read as the
        backup has read them.
    """
    with connection.cursor() as cursor:
        prepare_session(cursor)
        copied = None
        if manifest is not None:
            copied = {name for name, sums in manifest["tables"].items() if sums.get("copied")}
        content = read_content(cursor, copied)
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
