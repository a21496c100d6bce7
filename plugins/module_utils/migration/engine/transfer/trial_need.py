"""Tells which tables hold rows that PostgreSQL may refuse for a reason that we cannot see.

Only those are worth a trial in a dry run (:mod:`.engine.transfer.trial`): it takes longer than all the rest. What is
said here of a table must err on the side of a trial, else a dry run is green where the run is not.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection
from typing import Any

from ...core.connection import first_row
from ...core.estate import REFUSE
from ...core.sql import table_name
from ...postgres.catalog import ForeignKey
from ...sqlite.tables import quote_name
from ..plan.planner import TablePlan

# Kinds of which we know when PostgreSQL takes two values for the same key.
_KNOWN_EQUALITY = frozenset(("integer", "uuid", "text", "boolean", "bytes"))
# Bytes of a row's entry that fit into every index, whatever they are: those of a B-tree are the shortest, a range of
# BRIN holds two, and a text may take half as much again in UTF-8 as it does in SQLite.
_SURELY_INDEXED = 1_700
# How many bytes a byte of text may become in a type that we know, and in one that only the server knows: each element
# of a name[] takes 64.
_GROWTH = {"json": 8, "other": 32}
# Rows that a sequence of the smallest type can number.
_SURELY_NUMBERED = 32_767
# Defaults that no row can make fail.
_HARMLESS_DEFAULT = re.compile(
    r"\(*\s*([+-]?[0-9.]+|'(?:[^']|'')*'|true|false|NULL|now\(\)|CURRENT_\w+|gen_random_uuid\(\)|(\w+\.)?uuid_\w+\(\))"
    r"\s*\)*(::[\w\s.\"\[\]]+)?\Z",
    re.IGNORECASE,
)
# Whether a table has rules that only the server can apply. A row must fit into a page when all that can be stored
# elsewhere is: a reference to such a value takes 18 bytes and its alignment, a shorter value as many as that.
_RULES_OF_ITS_OWN = """
WITH columns AS (SELECT * FROM pg_attribute WHERE attrelid = %(table)s::regclass AND attnum > 0 AND NOT attisdropped)
SELECT c.relkind = 'p'
    OR EXISTS (SELECT FROM pg_constraint WHERE conrelid = c.oid
               AND (contype IN ('c', 'x') OR contype = 'f' AND confmatchtype = 'f' AND cardinality(conkey) > 1))
    OR EXISTS (SELECT FROM columns a JOIN pg_type t ON t.oid = a.atttypid
               WHERE t.typtype = 'd' OR a.attgenerated <> '' OR a.attstorage = 'p' AND a.attlen = -1)
    OR (SELECT sum(CASE WHEN attlen > 0 THEN (attlen + 7) / 8 * 8 ELSE 28 END) FROM columns) > 8000
    OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid
               AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
                    OR pg_get_indexdef(i.indexrelid) LIKE '%%NULLS NOT DISTINCT%%'))
    OR EXISTS (SELECT FROM pg_statistic_ext s WHERE s.stxrelid = c.oid AND s.stxexprs IS NOT NULL)
FROM pg_class c WHERE c.oid = %(table)s::regclass
"""
# The columns without a fixed size that stand in each index.
_INDEXES = """
SELECT array_agg(a.attname::text) FROM pg_index i JOIN pg_attribute a
ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[]) AND a.attlen = -1
WHERE i.indrelid = %(table)s::regclass GROUP BY i.indexrelid
"""
_DEFAULTS = """
SELECT a.attname::text, pg_get_expr(d.adbin, d.adrelid), t.typname::text
FROM pg_attribute a JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = %(table)s::regclass AND a.attgenerated = ''
"""


def is_unsure(cursor: Any, snapshot: sqlite3.Connection, plan: TablePlan, rows: int) -> bool:
    """Return whether PostgreSQL may refuse a row of a table for a reason that we cannot see.

    :param rows: rows that the table gets.
    """
    if any(column.ids is not None for column in plan.columns):
        return True  # what is looked at below is the text before its ids are rewritten
    table = {"table": table_name(plan.target.name).as_string(cursor)}
    cursor.execute(_RULES_OF_ITS_OWN, table)
    if first_row(cursor)[0]:
        return True
    return (
        _has_unsure_keys(plan)
        or bool(keys_to_try(plan))
        or _has_unsure_defaults(cursor, plan, rows, table)
        or _has_long_entries(cursor, snapshot, plan, table)
    )


def keys_to_try(plan: TablePlan) -> list[str]:
    """Return the names of the foreign keys that we do not look after ourselves, and that a row may violate."""
    planned = {key.foreign_key.name for key in plan.foreign_keys}
    return [
        key.name
        for key in plan.target.foreign_keys
        if key.name not in planned and all(_has_value(plan, name) for name in key.columns)
    ]


def answered_by_server(plan: TablePlan) -> list[ForeignKey]:
    """Return the foreign keys for whose orphans a policy answers, but only the server knows which rows are such."""
    tried = keys_to_try(plan)
    answering = {column.target for column in plan.columns if column.options.policy("orphan") != REFUSE}
    return [key for key in plan.target.foreign_keys if key.name in tried and answering.intersection(key.columns)]


def _has_value(plan: TablePlan, name: str) -> bool:
    """Return whether a column of the target may get another value than NULL."""
    column = plan.target.columns[name]
    return column.has_default or column.generated or any(mapped.target == name for mapped in plan.columns)


def _has_unsure_keys(plan: TablePlan) -> bool:
    """Return whether a unique key has a column of which only the server knows what is equal, or what it gets."""
    columns = {column.target: column for column in plan.columns}
    for name in {name for names in plan.target.unique_keys for name in names}:
        column = plan.target.columns[name]
        if name in columns:
            if columns[name].kind not in _KNOWN_EQUALITY or not column.deterministic:
                return True
        elif _has_value(plan, name) and column.sequence is None:
            return True
    return False


def _has_unsure_defaults(cursor: Any, plan: TablePlan, rows: int, table: dict[str, str]) -> bool:
    """Return whether the default of a column that nothing is moved into may fail."""
    mapped = {column.target for column in plan.columns}
    cursor.execute(_DEFAULTS, table)
    for name, default, type_name in cursor.fetchall():
        if name in mapped:
            continue
        if plan.target.columns[name].sequence is not None:
            if type_name == "int2" and rows > _SURELY_NUMBERED:
                return True
        elif not _HARMLESS_DEFAULT.match(default):
            return True
    return False


def _has_long_entries(cursor: Any, snapshot: sqlite3.Connection, plan: TablePlan, table: dict[str, str]) -> bool:
    """Return whether a row's entry may be too long for an index."""
    columns = {column.target: column for column in plan.columns}
    cursor.execute(_INDEXES, table)
    indexes: list[Collection[str]] = [[name for name in names if name in columns] for (names,) in cursor.fetchall()]
    names = sorted({name for index in indexes for name in index})
    if not names:
        return False
    lengths = ", ".join(f"max(length(CAST({quote_name(columns[name].source)} AS BLOB)))" for name in names)
    found = snapshot.execute(f"SELECT {lengths} FROM {plan.source.relation}").fetchone()  # noqa: S608 (quoted)
    longest = {
        name: (length or 0) * _GROWTH.get(columns[name].kind, 1) for name, length in zip(names, found, strict=True)
    }
    return any(sum(longest[name] for name in index) > _SURELY_INDEXED for index in indexes)
