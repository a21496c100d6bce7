"""Asks PostgreSQL for every row that it would refuse, before a table is touched.

The converted rows are put into a copy of each table that has its constraints, indexes, domains and generated columns,
all in temporary tables that are rolled back. What is refused is set aside with its reason, and the rest goes on: blocks
of rows first, and smaller ones where one is refused.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.connection import first_row, sql
from ...core.sql import table_name
from ...postgres.catalog import ForeignKey
from ...sqlite.tables import quote_name
from ..plan.planner import TablePlan
from ..prepare.prepare import Prepared
from ..prepare.server_refusals import MARK, TOO_LONG, VIOLATES, ServerRefusal
from ..prepare.table import PreparedTable

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.sql import Composable

_ROWS_AT_ONCE = 1_000
_COPY_BUFFER = 1 << 20  # bytes
# Kinds of which we know when PostgreSQL takes two values for the same key.
_KNOWN_EQUALITY = frozenset(("integer", "uuid", "text", "boolean", "bytes"))
# Characters that fit into every index, whatever they are.
_SURELY_INDEXED = 600
# Whether a table has rules that only the server can apply, and the columns that stand in any index.
_RULES_OF_ITS_OWN = """
SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = c.oid AND contype IN ('c', 'x'))
    OR EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
               WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                 AND (t.typtype = 'd' OR a.attgenerated <> ''))
    OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid
               AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL AND i.indisunique
                    OR pg_get_indexdef(i.indexrelid) LIKE '%%NULLS NOT DISTINCT%%')),
       array(SELECT DISTINCT a.attname::text FROM pg_index i JOIN pg_attribute a
             ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[]) WHERE i.indrelid = c.oid)
FROM pg_class c WHERE c.oid = %(table)s::regclass
"""
# What the server says of other kinds of indexes; if an entry is longer than a page, it names the page instead.
_MOST_OF_AN_INDEX = re.compile(r"exceeds (?:\w+ )?maximum (\d+)")
# Bytes, before which an entry has some of its own.
_LONGEST_BTREE_ENTRY, _OVERHEAD = 2_704, 16

# The error classes at its beginning are not of this row: the server has no room, was told to stop, or met a lock.
# The statement stands in the function itself, so that it is planned once and not for each row.
_TRY_ROWS = """
CREATE FUNCTION pg_temp.try_rows(first bigint, last bigint) RETURNS void LANGUAGE plpgsql AS $body$
#variable_conflict use_column
DECLARE
  middle bigint; code text; named text; said text; typed text; tried text[]; wrong text[] := '{{}}';
BEGIN
  BEGIN
    {insert};
    RETURN;
  EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, named = CONSTRAINT_NAME, said = MESSAGE_TEXT,
      typed = PG_DATATYPE_NAME;
    IF left(code, 2) IN ('08', '53', '55', '57', '58', 'XX', '25', '40') THEN RAISE; END IF;
  END;
  IF first < last THEN
    middle := (first + last) / 2;
    PERFORM pg_temp.try_rows(first, middle);
    PERFORM pg_temp.try_rows(middle + 1, last);
    RETURN;
  END IF;
  -- A type or a domain names no column: each is tried by itself. A constraint of the table is no matter of a value.
  IF left(code, 2) <> '23' OR typed <> '' THEN
    FOR tried IN SELECT ARRAY[name, statement] FROM pg_temp.trial_column LOOP
      BEGIN
        EXECUTE tried[2] USING first;
      EXCEPTION WHEN OTHERS THEN
        wrong := wrong || tried[1];
      END;
    END LOOP;
  END IF;
  INSERT INTO pg_temp.trial_refused VALUES (first, code, named, said, wrong);
END $body$
"""


def try_rows(
    connection: Connection, snapshot: sqlite3.Connection, prepared: Prepared, every_table: bool
) -> dict[str, dict[str, ServerRefusal]]:
    """Return the rows that PostgreSQL would refuse: source table → key → why.

    Nothing is left of it in the database. What was done in the transaction before stays.

    :param every_table: also try tables of which we know all that the server could refuse.
    """
    found = {}
    moved = {table.plan.target.name for table in prepared.tables}
    with connection.cursor() as cursor:
        for table in prepared.tables:
            if table.spool is None or table.keys is None or not table.rows:
                continue
            if not every_table and not _is_unsure(cursor, snapshot, table.plan, moved):
                continue
            cursor.execute("SAVEPOINT trial")
            try:
                refused = _Trial(connection, cursor, table, moved).run()
            finally:
                if not connection.closed:
                    cursor.execute("ROLLBACK TO SAVEPOINT trial")
            if refused:
                found[table.plan.source.name] = refused
    return found


def _is_unsure(cursor: Any, snapshot: sqlite3.Connection, plan: TablePlan, moved: Collection[str]) -> bool:
    """Return whether PostgreSQL may refuse a row for a reason that we cannot see."""
    if any(column.ids is not None for column in plan.columns):
        return True  # what is looked at below is the text before its ids are rewritten
    cursor.execute(_RULES_OF_ITS_OWN, {"table": table_name(plan.target.name).as_string(cursor)})
    own_rules, indexed = first_row(cursor)
    columns = {column.target: column for column in plan.columns}
    unsure_keys = any(
        columns[name].kind not in _KNOWN_EQUALITY or not plan.target.columns[name].deterministic
        for names in plan.target.unique_keys
        for name in names
        if name in columns
    )
    planned = {key.foreign_key.name for key in plan.foreign_keys}
    foreign = any(key.name not in planned and key.referenced_table not in moved for key in plan.target.foreign_keys)
    if own_rules or unsure_keys or foreign:
        return True
    lengths = [
        f"max(length({quote_name(columns[name].source)}))"
        for name in indexed
        if name in columns and columns[name].kind in ("text", "char", "bytes", "json", "other")
    ]
    if not lengths:
        return False
    found = snapshot.execute(f"SELECT {', '.join(lengths)} FROM {plan.source.relation}").fetchone()  # noqa: S608 (quoted)
    return any((length or 0) > _SURELY_INDEXED for length in found)


@dataclass(frozen=True)
class _Object:
    """A constraint or an index of the target, and the source columns that it looks at."""

    name: str
    is_index: bool
    is_btree: bool
    columns: tuple[str, ...]


class _Trial:
    """The trial of one table.

    :param moved: the target tables that are filled together.
    """

    def __init__(self, connection: Connection, cursor: Any, table: PreparedTable, moved: Collection[str]) -> None:
        self._moved = moved
        self._connection = connection
        self._cursor = cursor
        self._table = table
        self._plan = table.plan
        self._staged = [sql.Identifier(f"c{number}") for number in range(len(self._plan.columns))]

    def run(self) -> dict[str, ServerRefusal]:
        """Put the rows into a copy of the table, and return what was refused."""
        cursor = self._cursor
        self._stage()
        self._make_copy()
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SELECT count(*) FROM pg_temp.staged")
        rows = int(first_row(cursor)[0])
        for first in range(1, rows + 1, _ROWS_AT_ONCE):
            cursor.execute("SELECT pg_temp.try_rows(%s, %s)", (first, min(first + _ROWS_AT_ONCE - 1, rows)))
        self._note_orphans()
        objects = self._objects()
        long = sql.SQL(", ").join(
            sql.SQL("CASE WHEN octet_length(s.{}) > {} THEN {} END").format(
                name, sql.Literal(_LONGEST_BTREE_ENTRY - _OVERHEAD), sql.Literal(column.source)
            )
            for name, column in zip(self._staged, self._plan.columns, strict=True)
        )
        cursor.execute(
            sql.SQL(
                "SELECT s.row_key, r.code, r.named, r.said, r.columns, array_remove(ARRAY[{}]::text[], NULL) "
                "FROM pg_temp.trial_refused r JOIN pg_temp.staged s ON s.n = r.n ORDER BY r.n"
            ).format(long)
        )
        return {row[0]: self._refusal(objects, *row[1:]) for row in cursor.fetchall()}

    def _stage(self) -> None:
        """Load the rows as texts, each with its key."""
        columns = sql.SQL(", ").join(sql.SQL("{} text").format(name) for name in self._staged)
        self._cursor.execute(
            sql.SQL(
                "CREATE TEMP TABLE staged (n bigint GENERATED ALWAYS AS IDENTITY, row_key text, {});"
                "CREATE TEMP TABLE trial_refused (n bigint, code text, named text, said text, columns text[]);"
                "CREATE TEMP TABLE trial_column (name text, statement text)"
            ).format(columns)
        )
        named = sql.SQL(", ").join([sql.Identifier("row_key"), *self._staged])
        if self._table.spool is None or self._table.keys is None:
            raise ValueError("a trial needs its rows in files")
        with _WithKeys(self._table.keys, self._table.spool) as lines:
            self._cursor.copy_expert(sql.SQL("COPY pg_temp.staged ({}) FROM STDIN").format(named), lines, _COPY_BUFFER)
        self._cursor.execute("CREATE UNIQUE INDEX ON pg_temp.staged (n); ANALYZE pg_temp.staged")

    def _make_copy(self) -> None:
        """Make an empty table with all that the target enforces by itself, and the function that fills it."""
        cursor, plan = self._cursor, self._plan
        cursor.execute(
            sql.SQL(
                "CREATE TEMP TABLE trial (LIKE {} INCLUDING ALL EXCLUDING IDENTITY EXCLUDING COMMENTS "
                "EXCLUDING STATISTICS)"
            ).format(table_name(plan.target.name))
        )
        names = [sql.Identifier(column.target) for column in plan.columns]
        values = [self._value(number) for number in range(len(plan.columns))]
        mapped = {column.target for column in plan.columns}
        for column in plan.target.columns.values():
            if column.name not in mapped and (column.sequence is not None or column.identity):
                # A trial takes no number from a sequence.
                names.append(sql.Identifier(column.name))
                values.append(sql.SQL("n"))
        insert = sql.SQL(
            "INSERT INTO pg_temp.trial ({}) SELECT {} FROM pg_temp.staged WHERE n BETWEEN $1 AND $2 ORDER BY n"
        )
        statement = insert.format(sql.SQL(", ").join(names), sql.SQL(", ").join(values))
        for number, planned in enumerate(plan.columns):
            tried = sql.SQL("SELECT {} FROM pg_temp.staged WHERE n = $1").format(self._value(number))
            cursor.execute(
                "INSERT INTO pg_temp.trial_column VALUES (%s, %s)", (planned.source, tried.as_string(cursor))
            )
        cursor.execute(sql.SQL(_TRY_ROWS).format(insert=statement))

    def _value(self, number: int) -> Composable:
        """Return the SQL of a staged text as its column's type reads it. The server wrote the type."""
        type_name = self._plan.columns[number].display_type
        return sql.SQL("{}::{}").format(self._staged[number], sql.SQL(type_name))

    def _note_orphans(self) -> None:
        """Note the rows that refer to a row of a table that is not moved with them, and is not there."""
        positions = {column.target: number for number, column in enumerate(self._plan.columns)}
        planned = {key.foreign_key.name for key in self._plan.foreign_keys}
        for key in self._plan.target.foreign_keys:
            if key.name in planned or key.referenced_table in self._moved or not set(key.columns) <= set(positions):
                continue
            pairs = [
                (self._value(positions[child]), sql.Identifier("p", parent), self._staged[positions[child]])
                for child, parent in zip(key.columns, key.referenced_columns, strict=True)
            ]
            self._cursor.execute(
                sql.SQL(
                    "INSERT INTO pg_temp.trial_refused SELECT n, 'orphan', {}, '', '{{}}' FROM pg_temp.staged AS s "
                    "WHERE {} AND NOT EXISTS (SELECT FROM pg_temp.trial_refused r WHERE r.n = s.n) "
                    "AND NOT EXISTS (SELECT FROM {} AS p WHERE {})"
                ).format(
                    sql.Literal(key.name),
                    sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(text) for _, _, text in pairs),
                    table_name(key.referenced_table),
                    sql.SQL(" AND ").join(sql.SQL("{} = {}").format(parent, child) for child, parent, _ in pairs),
                )
            )

    def _objects(self) -> dict[str, _Object]:
        """Return by name in the copy the constraints and indexes as they are in the target."""
        self._cursor.execute(
            """
            WITH found AS (
              SELECT t.oid AS relation, k.conname::text AS name, k.contype::text AS kind, k.oid AS constraint_id,
                     k.conindid AS index_id, pg_get_constraintdef(k.oid) AS definition
              FROM pg_class t JOIN pg_constraint k ON k.conrelid = t.oid
              WHERE t.oid IN ('pg_temp.trial'::regclass, %(table)s::regclass)
              UNION ALL
              SELECT i.indrelid, ic.relname::text, 'i', 0, ic.oid,
                     regexp_replace(pg_get_indexdef(ic.oid), '^.*? USING ', '')
              FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
              WHERE i.indrelid IN ('pg_temp.trial'::regclass, %(table)s::regclass)
                AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = ic.oid AND k.conrelid = i.indrelid)
            )
            SELECT f.name, coalesce(min(o.name), f.name), f.kind, array(
              SELECT DISTINCT a.attname::text FROM pg_depend d JOIN pg_attribute a
              ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              WHERE d.refobjid = f.relation AND d.refobjsubid > 0
                AND (d.classid = 'pg_constraint'::regclass AND d.objid = f.constraint_id
                     OR d.classid = 'pg_class'::regclass AND d.objid = f.index_id)),
              f.kind IN ('u', 'p') OR f.definition LIKE 'btree%%'
            FROM found f LEFT JOIN found o
            ON o.relation = %(table)s::regclass AND o.kind = f.kind AND o.definition = f.definition
            WHERE f.relation = 'pg_temp.trial'::regclass
            GROUP BY f.name, f.kind, f.relation, f.constraint_id, f.index_id, f.definition
            """,
            {"table": table_name(self._plan.target.name).as_string(self._connection)},
        )
        sources = {column.target: column.source for column in self._plan.columns}
        return {
            name: _Object(
                own_name,
                kind in ("i", "u", "p", "x"),
                is_btree,
                tuple(sorted(sources[column] for column in columns if column in sources)),
            )
            for name, own_name, kind, columns, is_btree in self._cursor.fetchall()
        }

    def _refusal(
        self,
        objects: dict[str, _Object],
        code: str,
        named: str,
        said: str,
        wrong: Sequence[str],
        long: Sequence[str],
    ) -> ServerRefusal:
        """Return why one row was refused.

        :param wrong: columns whose type or domain refuses their value.
        :param long: columns whose value fits into no index.
        """
        if code == "orphan":
            key = next(key for key in self._plan.target.foreign_keys if key.name == named)
            return self._orphan(key)
        known = objects.get(named)
        name = named if known is None else known.name
        columns = (() if known is None else known.columns) or tuple(wrong)
        if code == "23505":
            return ServerRefusal(columns, "duplicate", f"{MARK}an earlier row has the same key in {name}")
        if code == "23P01":
            return ServerRefusal(columns, "duplicate", f"{MARK}an earlier row excludes it by {name}")
        if code == "23514":
            return ServerRefusal(columns, "unconvertible", f"{MARK}{VIOLATES}{name}")
        if code == "23502":
            return ServerRefusal(columns, "null_value", f"{MARK}a column that is NOT NULL would be NULL")
        if code == "54000" and said.startswith("index row"):
            # The server does not always say which index that is.
            likely = [each for each in objects.values() if each.is_index and set(each.columns) & set(columns or long)]
            entries = [each.name for each in likely if each.name == name] or [each.name for each in likely]
            what = f"{TOO_LONG}{' or '.join(entries)}"
            most = _MOST_OF_AN_INDEX.search(said)
            if all(each.is_btree for each in likely):
                what += f": an entry of a B-tree has at most {_LONGEST_BTREE_ENTRY:,} bytes"
            elif most is not None:
                what += f": an entry has at most {int(most[1]):,} bytes"
            concerned = columns or tuple(column for column in long if any(column in each.columns for each in likely))
            return ServerRefusal(concerned, "unconvertible", f"{MARK}{what}")
        # The server quotes values in its messages.
        text = "" if self._plan.has_secrets else f"{said.partition(':')[0]} "
        return ServerRefusal(columns, "unconvertible", f"{MARK}{text}(SQLSTATE {code})")

    def _orphan(self, key: ForeignKey) -> ServerRefusal:
        """Return the refusal of a row that refers to nothing."""
        sources = {column.target: column.source for column in self._plan.columns}
        columns = tuple(sources[name] for name in key.columns)
        what = (
            f"{MARK}it refers to a row of {key.referenced_table}, which this group does not fill, that does not exist"
        )
        return ServerRefusal(columns, "orphan", what)


class _WithKeys:
    """What COPY reads: each line of one file, behind the line of another."""

    def __init__(self, keys: Path, lines: Path) -> None:
        self._keys = keys.open("rb")
        self._lines = lines.open("rb")
        self._parts = self._joined()

    def __enter__(self) -> _WithKeys:
        return self

    def __exit__(self, *_: object) -> None:
        self._keys.close()
        self._lines.close()

    def read(self, size: int = -1) -> bytes:
        """Return the next line, of whatever size; none at the end."""
        return next(self._parts, b"")

    def _joined(self) -> Iterator[bytes]:
        # That both have as many lines is not for a trial to find out: the verification does.
        for key, line in zip(self._keys, self._lines, strict=False):
            yield key.rstrip(b"\n") + b"\t" + line
