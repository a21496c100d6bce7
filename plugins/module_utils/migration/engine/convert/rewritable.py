"""Says of which columns no ids are rewritten, because something else looks at their values or changes them too."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...core.estate import REFUSE
from ...core.sql import table_name
from ...sqlite.tables import quote_name
from ..plan.planner import ColumnPlan, TablePlan

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# The answers of policies that move each value as it is, or not at all.
_LEAVE_VALUES = (REFUSE, "reject", "set_null")
# What looks at the values of a column in PostgreSQL, in a table and its parts; an index that only orders them is fine.
_WATCHED = """
WITH part AS (
    SELECT %(table)s::regclass::oid AS oid UNION SELECT relid::oid FROM pg_partition_tree(%(table)s::regclass)
)
SELECT a.attname, 'the index ' || x.indexrelid::regclass || ' in PostgreSQL'
FROM part JOIN pg_index x ON x.indrelid = part.oid JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum > 0
WHERE (x.indisunique OR x.indisexclusion OR x.indexprs IS NOT NULL OR x.indpred IS NOT NULL)
  AND (a.attnum = ANY (x.indkey::int2[])
       OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid
                  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = x.indrelid AND d.refobjsubid = a.attnum))
UNION ALL
SELECT a.attname, 'the foreign key ' || c.conname || ' in PostgreSQL'
FROM part JOIN pg_constraint c ON part.oid IN (c.conrelid, c.confrelid) AND c.contype = 'f'
JOIN pg_attribute a ON a.attrelid = part.oid
    AND (c.conrelid = part.oid AND a.attnum = ANY (c.conkey) OR c.confrelid = part.oid AND a.attnum = ANY (c.confkey))
UNION ALL
SELECT a.attname, 'the generated column ' || g.attname || ' in PostgreSQL'
FROM part JOIN pg_attribute g ON g.attrelid = part.oid AND g.attgenerated <> ''
JOIN pg_attrdef f ON f.adrelid = g.attrelid AND f.adnum = g.attnum
JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = part.oid
    AND (d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
         OR d.classid = 'pg_class'::regclass AND d.objid = part.oid AND d.objsubid = g.attnum)
JOIN pg_attribute a ON a.attrelid = part.oid AND a.attnum = d.refobjsubid AND a.attnum <> g.attnum
"""


def why_not(connection: Connection, snapshot: sqlite3.Connection, plan: TablePlan, column: ColumnPlan) -> str:
    """Return what forbids to rewrite ids in a column, empty if nothing does."""
    if column.kind not in ("text", "char", "json"):
        return f"its target is {column.display_type}, no text and no JSON"
    for policy, answer in column.options.policies.items():
        if answer not in _LEAVE_VALUES and policy != "without_target":
            return f"'{policy}: {answer}' may change the same value"
    with connection.cursor() as cursor:
        cursor.execute(_WATCHED, {"table": table_name(plan.target.name).as_string(connection)})
        watched = next((what for name, what in cursor.fetchall() if name == column.target), "")
    watched = watched or next(_watched_in_file(snapshot, plan, column), "")
    return f"{watched} looks at its values" if watched else ""


def _watched_in_file(snapshot: sqlite3.Connection, plan: TablePlan, column: ColumnPlan) -> Iterator[str]:
    """Yield what looks at the values of a column in the file, where they stand with their old ids again."""
    table = quote_name(plan.source.name)
    name = column.source.lower()
    described = snapshot.execute(f"PRAGMA table_xinfo({table})").fetchall()
    if name in (key.lower() for key in plan.source.key) or any(row[5] and row[1].lower() == name for row in described):
        yield "the primary key in the file"
    # SQLite does not say which columns an expression reads.
    if any(row[6] in (2, 3) for row in described):
        yield "a generated column in the file perhaps"
    for _, index, unique, _, partial in snapshot.execute(f"PRAGMA index_list({table})").fetchall():
        names = [row[2] for row in snapshot.execute(f"PRAGMA index_xinfo({quote_name(index)})") if row[5]]
        if unique and (partial or None in names or name in (str(each).lower() for each in names)):
            yield f"the unique index {index} in the file"
    for row in snapshot.execute(f"PRAGMA foreign_key_list({table})").fetchall():
        if row[3].lower() == name:
            yield f"the foreign key to {row[2]} in the file"
    for (other,) in snapshot.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
        for row in snapshot.execute(f"PRAGMA foreign_key_list({quote_name(other)})").fetchall():
            if row[2].lower() == plan.source.name.lower() and str(row[4]).lower() == name:
                yield f"the foreign key of {other} in the file"
