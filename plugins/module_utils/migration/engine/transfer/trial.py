"""Asks PostgreSQL for every row that it would refuse, before a table is touched.

The converted rows are put into a copy of each table that has its constraints, indexes, domains and generated columns,
all in temporary tables that are rolled back. What is refused is set aside with its reason, and the rest goes on: blocks
of rows first, and smaller ones where one is refused.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...core.connection import first_row, sql
from ...core.sql import table_name
from ...postgres.catalog import ForeignKey
from ...postgres.foreign_keys import key_operators
from ..prepare.prepare import Prepared
from ..prepare.server_refusals import (
    CALLS,
    DEFAULTS,
    HALF_KEY,
    MARK,
    NO_PARTITION,
    TOO_LONG,
    TOO_WIDE,
    VIOLATES,
    ServerRefusal,
)
from ..prepare.table import PreparedTable
from .checks import may_read_referenced
from .trial_need import is_unsure, keys_to_try
from .trial_tables import ROW_NUMBER, copy_of_target, stage

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.sql import Composable

_ROWS_AT_ONCE = 1_000
_COPY_BUFFER = 1 << 20  # bytes
# What the server says of other kinds of indexes; if an entry is longer than a page, it names the page instead.
_MOST_OF_AN_INDEX = re.compile(r"exceeds (?:\w+ )?maximum (\d+)")
# In place of an error class, for what no row by itself can tell.
_ORPHAN, _HALF_KEY = "orphan", "half a key"
_MATCH_FULL = " MATCH FULL"
# Bytes, before which an entry has some of its own.
_LONGEST_BTREE_ENTRY, _OVERHEAD = 2_704, 16

# The columns of a table that have another collation than that of the database; its name is quoted for SQL.
_COLLATIONS = """
SELECT a.attname::text, quote_ident(n.nspname) || '.' || quote_ident(o.collname)
FROM pg_attribute a JOIN pg_collation o ON o.oid = a.attcollation JOIN pg_namespace n ON n.oid = o.collnamespace
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND o.oid <> 'pg_catalog."default"'::regcollation
"""

# The error classes at its beginning are not of this row: the server has no room, was told to stop, or met a lock.
# The statement stands in the function itself, so that it is planned once and not for each row.
_TRY_ROWS = """
#variable_conflict use_column
DECLARE
  middle bigint; code text; named text; said text; typed text; attribute text;
  wrong text[] := '{{}}'; defaults text[] := '{{}}';
BEGIN
  BEGIN
    {insert};
    RETURN;
  EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, named = CONSTRAINT_NAME, said = MESSAGE_TEXT,
      typed = PG_DATATYPE_NAME, attribute = COLUMN_NAME;
    IF left(code, 2) IN ('08', '53', '55', '57', '58', 'XX', '25', '40') THEN RAISE; END IF;
  END;
  IF first < last THEN
    middle := (first + last) / 2;
    PERFORM pg_temp.try_rows(first, middle);
    PERFORM pg_temp.try_rows(middle + 1, last);
    RETURN;
  END IF;
  DECLARE
    -- Each column with the statement that tries it alone.
    names text[] := {names}; statements text[] := {statements}; of_defaults boolean[] := {of_defaults};
  BEGIN
    -- A type or a domain names no column: each is tried by itself. A constraint of the table is no matter of a value.
    IF left(code, 2) <> '23' OR typed <> '' THEN
      FOR tried IN 1 .. cardinality(names) LOOP
        BEGIN
          EXECUTE statements[tried] USING first;
        EXCEPTION WHEN OTHERS THEN
          IF of_defaults[tried] THEN defaults := defaults || names[tried]; ELSE wrong := wrong || names[tried]; END IF;
        END;
      END LOOP;
    ELSIF attribute <> '' THEN
      defaults := ARRAY(SELECT name FROM unnest(names, of_defaults) AS t (name, is_default)
                        WHERE is_default AND name = attribute);
    END IF;
    INSERT INTO pg_temp.trial_refused VALUES (first, code, named, said, wrong, defaults);
  END;
END
"""
_MAKE_FUNCTION = "CREATE FUNCTION pg_temp.try_rows(first bigint, last bigint) RETURNS void LANGUAGE plpgsql AS {body}"


def try_rows(
    connection: Connection, snapshot: sqlite3.Connection, prepared: Prepared, every_table: bool
) -> dict[str, dict[str, ServerRefusal]]:
    """Return the rows that PostgreSQL would refuse: source table → key → why.

    Nothing is left of it in the database. What was done in the transaction before stays.

    :param every_table: also try tables of which we know all that the server could refuse.
    """
    found = {}
    moved = {table.plan.target.name: table for table in prepared.tables}
    with connection.cursor() as cursor:
        for table in prepared.tables:
            if table.spool is None or table.keys is None or not table.rows:
                continue
            if not every_table and not is_unsure(cursor, snapshot, table.plan, table.rows):
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


@dataclass(frozen=True)
class _Object:
    """A constraint or an index of the target.

    :param columns: the source columns that it looks at.
    :param functions: the functions of a person's own that a check calls, which may read other tables.
    :param defaults: columns of the target that it looks at and that nothing is moved into.
    """

    name: str
    is_index: bool
    is_btree: bool
    functions: str
    columns: tuple[str, ...]
    defaults: tuple[str, ...]


class _Trial:
    """The trial of one table.

    :param moved: the tables that are filled together, by target table.
    """

    def __init__(
        self, connection: Connection, cursor: Any, table: PreparedTable, moved: Mapping[str, PreparedTable]
    ) -> None:
        self._moved = moved
        self._connection = connection
        self._cursor = cursor
        self._table = table
        self._plan = table.plan
        self._staged = [sql.Identifier(f"c{number}") for number in range(len(self._plan.columns))]

    def run(self) -> dict[str, ServerRefusal]:
        """Put the rows into a copy of the table, and return what was refused."""
        cursor = self._cursor
        stage(cursor, "staged", self._table)
        keys = [key for key in self._plan.target.foreign_keys if key.name in keys_to_try(self._plan)]
        full_keys = [key for key in self._plan.target.foreign_keys if _MATCH_FULL in key.definition]
        copies = copy_of_target(cursor, self._plan, "trial", numbered=bool(keys or full_keys))
        self._make_function(numbered=bool(keys or full_keys))
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SELECT count(*) FROM pg_temp.staged")
        rows = int(first_row(cursor)[0])
        for first in range(1, rows + 1, _ROWS_AT_ONCE):
            cursor.execute("SELECT pg_temp.try_rows(%s, %s)", (first, min(first + _ROWS_AT_ONCE - 1, rows)))
        for key in full_keys:
            self._note_half_keys(key)
        for key in keys:
            self._note_orphans(key)
        long = sql.SQL(", ").join(
            sql.SQL("CASE WHEN octet_length(s.{}) > {} THEN {} END").format(
                name, sql.Literal(_LONGEST_BTREE_ENTRY - _OVERHEAD), sql.Literal(column.source)
            )
            for name, column in zip(self._staged, self._plan.columns, strict=True)
        )
        cursor.execute(
            sql.SQL(
                "SELECT s.row_key, r.code, r.named, r.said, r.columns, r.defaults, "
                "array_remove(ARRAY[{}]::text[], NULL) "
                "FROM pg_temp.trial_refused r JOIN pg_temp.staged s ON s.n = r.n ORDER BY r.n"
            ).format(long)
        )
        refused = cursor.fetchall()
        # To tell what the names in the copy stand for takes the server as long as the trial of a few rows.
        objects = self._objects(copies) if refused else {}
        return {row[0]: self._refusal(objects, *row[1:]) for row in refused}

    def _make_function(self, numbered: bool) -> None:
        """Make the function that fills the copy, and what it notes there."""
        cursor, plan = self._cursor, self._plan
        cursor.execute(
            "CREATE TEMP TABLE trial_refused (n bigint, code text, named text, said text, columns text[],"
            " defaults text[])"
        )
        names = [sql.Identifier(column.target) for column in plan.columns]
        values = [self._value(number) for number in range(len(plan.columns))]
        tried = [(column.source, value, False) for column, value in zip(plan.columns, values, strict=True)]
        for name, value, is_given in self._defaults():
            tried.append((name, value, True))
            if is_given:
                names.append(sql.Identifier(name))
                values.append(value)
        if numbered:
            names.append(sql.Identifier(ROW_NUMBER))
            values.append(sql.SQL("n"))
        insert = sql.SQL(
            "INSERT INTO pg_temp.trial ({}) SELECT {} FROM pg_temp.staged WHERE n BETWEEN $1 AND $2 ORDER BY n"
        )
        statement = insert.format(sql.SQL(", ").join(names), sql.SQL(", ").join(values))
        one = sql.SQL("SELECT {} FROM pg_temp.staged WHERE n = $1")
        body = sql.SQL(_TRY_ROWS).format(
            insert=statement,
            names=sql.Literal([name for name, _, _ in tried]),
            statements=sql.Literal([one.format(value).as_string(cursor) for _, value, _ in tried]),
            of_defaults=sql.Literal([is_default for *_, is_default in tried]),
        )
        # As a text, because whatever would mark its end may stand in a name or in a default.
        cursor.execute(sql.SQL(_MAKE_FUNCTION).format(body=sql.Literal(body.as_string(cursor))))

    def _defaults(self) -> list[tuple[str, Composable, bool]]:
        """Return each column that nothing is moved into, with the SQL of what it gets.

        The third entry says whether the trial has to give it that, for the copy cannot: a number of a sequence.
        """
        mapped = {column.target for column in self._plan.columns}
        self._cursor.execute(
            """
            SELECT a.attname::text, format_type(a.atttypid, a.atttypmod),
                   coalesce(pg_get_expr(d.adbin, d.adrelid), pg_get_expr(t.typdefaultbin, 0), 'NULL')
            FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
            LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
            WHERE a.attrelid = 'pg_temp.trial'::regclass AND a.attnum > 0 AND a.attgenerated = '' ORDER BY a.attnum
            """
        )
        found: list[tuple[str, Composable, bool]] = []
        for name, type_name, default in self._cursor.fetchall():
            column = self._plan.target.columns.get(name)
            if column is None or name in mapped:
                continue
            is_number = column.sequence is not None or bool(column.identity)
            # The server wrote the default and the type.
            value = self._number(column.sequence) if is_number else sql.SQL(default)
            found.append((name, sql.SQL("({})::{}").format(value, sql.SQL(type_name)), is_number))
        return found

    def _number(self, sequence: str | None) -> Composable:
        """Return the SQL of the number that a sequence gives to a row: a trial takes none of it."""
        if sequence is None:
            return sql.SQL("n")
        self._cursor.execute(
            "SELECT seqstart, seqincrement FROM pg_sequence WHERE seqrelid = %s::regclass", (sequence,)
        )
        start, increment = first_row(self._cursor)
        return sql.SQL("{} + (n - 1) * {}").format(sql.Literal(start), sql.Literal(increment))

    def _value(self, number: int) -> Composable:
        """Return the SQL of a staged text as its column's type reads it. The server wrote the type."""
        type_name = self._plan.columns[number].display_type
        return sql.SQL("{}::{}").format(self._staged[number], sql.SQL(type_name))

    def _note_orphans(self, key: ForeignKey) -> None:
        """Note the rows that refer to nothing by a key that only the server looks after.

        The rows of a table that is moved too are not there yet, so they are looked for among those that will be.
        """
        parents: dict[str, Composable] = {name: sql.Identifier("p", name) for name in key.referenced_columns}
        table = table_name(key.referenced_table)
        parent = self._moved.get(key.referenced_table)
        if parent is None and not may_read_referenced(self._cursor, key):
            return  # only the server sees these rows, when the table is loaded
        if parent is not None:
            positions = {column.target: number for number, column in enumerate(parent.plan.columns)}
            if parent.plain is not None or parent.spool is None or not parents.keys() <= positions.keys():
                return  # what stands in these columns is known when the table is loaded
            staged = f"parents of {key.name}"
            stage(self._cursor, staged, parent, with_keys=False)
            table = sql.Identifier("pg_temp", staged)
            parents = {
                name: sql.SQL("{}::{}").format(
                    sql.Identifier("p", f"c{positions[name]}"),
                    sql.SQL(parent.plan.columns[positions[name]].display_type),
                )
                for name in parents
            }
        # A foreign key compares by the collation of what it refers to.
        self._cursor.execute(_COLLATIONS, (table_name(key.referenced_table).as_string(self._cursor),))
        for name, collation in self._cursor.fetchall():
            if name in parents:
                parents[name] = sql.SQL("{} COLLATE {}").format(parents[name], sql.SQL(collation))
        pairs = [
            (sql.Identifier("t", child), parents[name])
            for child, name in zip(key.columns, key.referenced_columns, strict=True)
        ]
        self._refuse(
            _ORPHAN,
            key,
            sql.SQL("{} AND NOT EXISTS (SELECT FROM {} AS p WHERE {})").format(
                sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(child) for child, _ in pairs),
                table,
                sql.SQL(" AND ").join(
                    sql.SQL("{} {} {}").format(name, equals, child)
                    for (child, name), equals in zip(pairs, key_operators(self._cursor, key), strict=True)
                ),
            ),
        )

    def _note_half_keys(self, key: ForeignKey) -> None:
        """Note the rows in which a part of a key is NULL that has to be so as a whole or not at all."""
        columns = [sql.Identifier("t", name) for name in key.columns]
        some, others = (
            sql.SQL(" OR ").join(sql.SQL(f"{{}} IS {what}").format(column) for column in columns)
            for what in ("NULL", "NOT NULL")
        )
        self._refuse(_HALF_KEY, key, sql.SQL("({}) AND ({})").format(some, others))

    def _refuse(self, code: str, key: ForeignKey, condition: Composable) -> None:
        """Note the rows of the copy for which a condition is true, as refused by a foreign key."""
        self._cursor.execute(
            sql.SQL(
                "INSERT INTO pg_temp.trial_refused SELECT {}, {}, {}, '', '{{}}' FROM pg_temp.trial AS t WHERE {}"
            ).format(sql.Identifier("t", ROW_NUMBER), sql.Literal(code), sql.Literal(key.name), condition)
        )

    def _objects(self, copies: Mapping[str, str]) -> dict[str, _Object]:
        """Return by name in the copy the constraints and indexes as they are in the target.

        :param copies: each copy with the table that it is a copy of.
        """
        self._cursor.execute(
            """
            WITH pairs AS (
              SELECT copy::regclass, own::regclass FROM unnest(%(copies)s, %(own)s) AS n (copy, own)
            ), found AS (
              SELECT k.conrelid AS relation, k.conname::text AS name, k.contype::text AS kind, k.oid AS constraint_id,
                     k.conindid AS index_id, pg_get_constraintdef(k.oid) AS definition
              FROM pg_constraint k WHERE k.conrelid IN (SELECT copy FROM pairs UNION SELECT own FROM pairs)
              UNION ALL
              SELECT i.indrelid, ic.relname::text, 'i', 0, ic.oid,
                     regexp_replace(pg_get_indexdef(ic.oid), '^.*? USING ', '')
              FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
              WHERE i.indrelid IN (SELECT copy FROM pairs UNION SELECT own FROM pairs)
                AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = ic.oid AND k.conrelid = i.indrelid)
            )
            SELECT f.name, coalesce(min(o.name), f.name), f.kind, array(
              SELECT DISTINCT a.attname::text FROM pg_depend d JOIN pg_attribute a
              ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              WHERE d.refobjid = f.relation AND d.refobjsubid > 0
                AND (d.classid = 'pg_constraint'::regclass AND d.objid = f.constraint_id
                     OR d.classid = 'pg_class'::regclass AND d.objid = f.index_id)),
              f.kind IN ('u', 'p') OR f.definition LIKE 'btree%%', (
              SELECT coalesce(string_agg(DISTINCT n.nspname || '.' || p.proname, ' and '), '')
              FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid JOIN pg_namespace n ON n.oid = p.pronamespace
              JOIN pg_language l ON l.oid = p.prolang
              WHERE f.kind = 'c' AND d.classid = 'pg_constraint'::regclass AND d.objid = f.constraint_id
                AND d.refclassid = 'pg_proc'::regclass AND l.lanname NOT IN ('internal', 'c'))
            FROM pairs JOIN found f ON f.relation = pairs.copy LEFT JOIN found o
            ON o.relation = pairs.own AND o.kind = f.kind AND o.definition = f.definition
            GROUP BY f.name, f.kind, f.relation, f.constraint_id, f.index_id, f.definition
            """,
            {"copies": list(copies), "own": list(copies.values())},
        )
        return {
            name: _Object(own_name, kind in ("i", "u", "p", "x"), is_btree, functions, *self._looked_at(columns))
            for name, own_name, kind, columns, is_btree, functions in self._cursor.fetchall()
        }

    def _looked_at(self, columns: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the source columns of some of the target's, and those of the target that get their default."""
        sources = {column.target: column.source for column in self._plan.columns}
        target = self._plan.target.columns
        return (
            tuple(sorted(sources[name] for name in columns if name in sources)),
            tuple(sorted(name for name in columns if name not in sources and not target[name].generated)),
        )

    def _refusal(
        self,
        objects: dict[str, _Object],
        code: str,
        named: str,
        said: str,
        wrong: Sequence[str],
        failing: Sequence[str],
        long: Sequence[str],
    ) -> ServerRefusal:
        """Return why one row was refused.

        :param wrong: columns whose type or domain refuses their value.
        :param failing: columns of the target that nothing is moved into, and whose default the server refuses.
        :param long: columns whose value fits into no index.
        """
        if code in (_ORPHAN, _HALF_KEY):
            return self._of_foreign_key(code, next(key for key in self._plan.target.foreign_keys if key.name == named))
        known = objects.get(named)
        name = named if known is None else known.name
        columns = (() if known is None else known.columns) or tuple(wrong)
        defaults = "" if columns else _of_defaults(failing if known is None else known.defaults)
        if code == "23505":
            return ServerRefusal(columns, "duplicate", f"{MARK}an earlier row has the same key in {name}" + defaults)
        if code == "23P01":
            return ServerRefusal(columns, "duplicate", f"{MARK}an earlier row excludes it by {name}" + defaults)
        if code == "23514" and not named:
            return ServerRefusal(self._partition_columns(), "unconvertible", f"{MARK}{NO_PARTITION}")
        if code == "23514":
            if known is not None and known.functions:
                what = f"{MARK}{VIOLATES}{name}{CALLS}{known.functions}"
                return ServerRefusal(columns, "unconvertible", what + defaults)
            return ServerRefusal(columns, "unconvertible", f"{MARK}{VIOLATES}{name}" + defaults)
        if code == "23502":
            return ServerRefusal(columns, "null_value", f"{MARK}a column that is NOT NULL would be NULL" + defaults)
        if code == "54000" and said.startswith("index row"):
            # The server does not always say which index that is; if so, in its text alone.
            known = known or next((objects[part] for part in said.split('"') if part in objects), None)
            columns = columns or (() if known is None else known.columns)
            likely = [each for each in objects.values() if each.is_index and set(each.columns) & set(columns or long)]
            entries = [known.name] if known is not None else [each.name for each in likely]
            what = f"{TOO_LONG}{' or '.join(entries)}"
            most = _MOST_OF_AN_INDEX.search(said)
            if all(each.is_btree for each in ([known] if known is not None else likely)):
                what += f": an entry of a B-tree has at most {_LONGEST_BTREE_ENTRY:,} bytes"
            elif most is not None:
                what += f": an entry has at most {int(most[1]):,} bytes"
            concerned = columns or tuple(column for column in long if any(column in each.columns for each in likely))
            return ServerRefusal(concerned, "unconvertible", f"{MARK}{what}")
        if code == "54000" and said.startswith("row is too big"):
            return ServerRefusal(columns, "unconvertible", f"{MARK}{TOO_WIDE}")
        # The server quotes values in its messages.
        text = "" if self._plan.has_secrets else f"{said.partition(':')[0]} "
        return ServerRefusal(columns, "unconvertible", f"{MARK}{text}(SQLSTATE {code})" + defaults)

    def _of_foreign_key(self, code: str, key: ForeignKey) -> ServerRefusal:
        """Return the refusal of a row that refers to nothing, or by a part of a key."""
        columns, defaults = self._looked_at(key.columns)
        if code == _HALF_KEY:
            what = f"{MARK}{HALF_KEY}{key.name}, which MATCH FULL forbids"
        elif key.referenced_table in self._moved:
            what = f"{MARK}it refers to a row of {key.referenced_table} that does not exist"
        else:
            what = (
                f"{MARK}it refers to a row of {key.referenced_table}, which this group does not fill, that does not "
                "exist"
            )
        # A generated column is as little a matter of the source's columns as a default.
        policy = "orphan" if len(columns) == len(key.columns) else ""
        return ServerRefusal(columns if policy else (), policy, what + _of_defaults(defaults))

    def _partition_columns(self) -> tuple[str, ...]:
        """Return the source columns that tell into which partition a row goes; those of expressions not among them."""
        self._cursor.execute(
            "SELECT array(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = p.partrelid "
            "AND a.attnum = ANY (p.partattrs::int2[])) FROM pg_partitioned_table p "
            "WHERE p.partrelid = 'pg_temp.trial'::regclass"
        )
        return self._looked_at(first_row(self._cursor)[0])[0]


def _of_defaults(names: Sequence[str]) -> str:
    """Return what is said behind a refusal that is about columns that nothing is moved into."""
    return f"{DEFAULTS}{' and '.join(names)}" if names else ""
