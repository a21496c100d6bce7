"""Keys that the target allows once and the source holds more than once.

Two values are the same key if they become the same value in the target: ``5`` and ``'5'`` in a
column of integers, or one UUID with and without hyphens.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ...core.estate import REFUSE
from ...sqlite.tables import Value, quote_name, row_key
from ..plan.planner import ColumnPlan, TablePlan

Row = tuple[Value, ...]

# Source table → key of a rejected row → the reason.
Rejected = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class UniqueKey:
    """A unique key of the target, all of whose columns are filled from the source.

    :param answer: the inventory's answer of the policy ``duplicate``.
    """

    columns: tuple[ColumnPlan, ...]
    answer: str


@dataclass(frozen=True)
class Spellings:
    """One UUID that the ids of one namespace spell in two ways.

    :param columns: (plan, column) where it stands.
    """

    columns: tuple[tuple[TablePlan, ColumnPlan], ...]
    first: str
    second: str


def unique_keys(plan: TablePlan) -> list[UniqueKey]:
    """Return the unique keys of a table that its own rows may violate."""
    by_target = {column.target: column for column in plan.columns}
    keys = []
    for names in plan.target.unique_keys:
        if all(name in by_target for name in names):
            columns = tuple(by_target[name] for name in names)
            answers = {column.options.policy("duplicate") for column in columns} - {REFUSE}
            keys.append(UniqueKey(columns, answers.pop() if answers else REFUSE))
    return keys


def rejects_duplicates(plan: TablePlan) -> bool:
    """Return whether the inventory says of any key of a table to reject all rows but the first."""
    return any(key.answer != REFUSE for key in unique_keys(plan))


def rejected_duplicates(snapshot: sqlite3.Connection, plan: TablePlan) -> dict[str, str]:
    """Return key → reason of each row that a policy rejects because an earlier row has the same key.

    Rows come in the order of the table's key, or of their row ids; the first of each key stays.
    """
    doubled = [
        key
        for key in unique_keys(plan)
        if key.answer != REFUSE and next(doubled_keys(snapshot, plan, key, {}), None) is not None
    ]
    if not doubled:
        return {}
    own = [quote_name(name) for name in plan.source.key]
    aliases = [f"key_{position}" for position in range(len(own))]
    named = ", ".join(f"{name} AS {alias}" for name, alias in zip(own, aliases, strict=True))
    parts = []
    for number, key in enumerate(doubled):
        same = ", ".join(_same(plan, column) for column in key.columns)
        parts.append(
            f"SELECT {number} AS number, dense_rank() OVER (ORDER BY {same}) AS value, "  # noqa: S608 (quoted)
            f"count(*) OVER (PARTITION BY {same}) AS holders, {named} "
            f"FROM {plan.source.relation} WHERE {_not_null(key)}"
        )
    rows = snapshot.execute(
        f"SELECT number, value, {', '.join(aliases)} FROM ({' UNION ALL '.join(parts)}) "  # noqa: S608 (quoted)
        f"WHERE holders > 1 ORDER BY {', '.join(aliases)}"
    )
    taken: set[tuple[int, int]] = set()
    rejected = {}
    for values, entries in groupby(rows, key=lambda row: row[2:]):
        held = [(row[0], row[1]) for row in entries]
        clash = next((number for number, value in held if (number, value) in taken), None)
        if clash is None:
            taken.update(held)
            continue
        names = "+".join(column.source for column in doubled[clash].columns)
        rejected[row_key(plan.source, values)] = f"{names} holds the same key as an earlier row"
    return rejected


def doubled_keys(
    snapshot: sqlite3.Connection, plan: TablePlan, key: UniqueKey, rejected: Rejected
) -> Iterator[tuple[Row, int]]:
    """Yield each value of a key that more than one row holds, with their number."""
    names = ", ".join(quote_name(column.source) for column in key.columns)
    same = ", ".join(_same(plan, column) for column in key.columns)
    found = snapshot.execute(
        f"SELECT {names}, count(*) FROM {plan.source.relation} "  # noqa: S608 (quoted)
        f"WHERE {_not_null(key)}{_left(snapshot, plan, rejected)} GROUP BY {same} HAVING count(*) > 1"
    )
    for *values, count in found:
        yield tuple(values), count


def doubled_spellings(
    snapshot: sqlite3.Connection, plans: Sequence[TablePlan], rejected: Rejected
) -> Iterator[Spellings]:
    """Yield each UUID that the ids of one namespace spell in more than one way.

    The id map has one old id for each new one. Those within a key of one column are left to :func:`doubled_keys`.
    """
    namespaces: dict[str, list[tuple[TablePlan, ColumnPlan]]] = {}
    for plan in plans:
        for column in plan.columns:
            if column.records_ids and column.namespace is not None:
                namespaces.setdefault(column.namespace, []).append((plan, column))
    for columns in namespaces.values():
        if not any(_holds_other_spelling(snapshot, plan, column) for plan, column in columns):
            continue
        parts = [
            f"SELECT {position} AS position, {_same(plan, column)} AS value, "  # noqa: S608 (quoted)
            f"{quote_name(column.source)} COLLATE BINARY AS spelling "
            f"FROM {plan.source.relation} WHERE {is_any_uuid(quote_name(column.source))}"
            f"{_left(snapshot, plan, rejected)}"
            for position, (plan, column) in enumerate(columns)
        ]
        found = snapshot.execute(
            "SELECT group_concat(DISTINCT position), min(spelling), max(spelling) "  # noqa: S608 (quoted)
            f"FROM ({' UNION ALL '.join(parts)}) GROUP BY value HAVING min(spelling) <> max(spelling)"
        )
        for positions, first, second in found:
            holders = tuple(columns[int(position)] for position in positions.split(","))
            if len(holders) > 1 or not _is_key(*holders[0]):
                yield Spellings(holders, first, second)


def row_of(snapshot: sqlite3.Connection, found: Spellings, spelling: str) -> tuple[TablePlan, ColumnPlan, Row] | None:
    """Return where a UUID stands in one of its spellings: plan, column and the key of the first such row."""
    for plan, column in found.columns:
        keys = ", ".join(map(quote_name, plan.source.key))
        row = snapshot.execute(
            f"SELECT {keys} FROM {plan.source.relation} "  # noqa: S608 (quoted)
            f"WHERE {quote_name(column.source)} COLLATE BINARY = ? LIMIT 1",
            (spelling,),
        ).fetchone()
        if row is not None:
            return plan, column, tuple(row)
    return None


def is_any_uuid(name: str) -> str:
    """Return the SQL that is true for a UUID in any of its spellings: with hyphens or without, in any case."""
    digit = "[0-9a-fA-F]"
    hyphens = "-".join(digit * count for count in (8, 4, 4, 4, 12))
    return f"({name} GLOB '{hyphens}' OR {is_uuid_without_hyphens(name)})"


def is_uuid_without_hyphens(name: str) -> str:
    """Return the SQL that is true for 32 hexadecimal digits."""
    return f"(length({name}) = 32 AND {name} NOT GLOB '*[^0-9a-fA-F]*')"


def _holds_other_spelling(snapshot: sqlite3.Connection, plan: TablePlan, column: ColumnPlan) -> bool:
    """Return whether a column holds a UUID in another spelling than PostgreSQL's."""
    name = quote_name(column.source)
    condition = f"{is_any_uuid(name)} AND ({name} <> lower({name}) OR length({name}) = 32)"
    query = f"SELECT 1 FROM {plan.source.scan} WHERE {condition} LIMIT 1"  # noqa: S608 (quoted)
    return snapshot.execute(query).fetchone() is not None


def _is_key(plan: TablePlan, column: ColumnPlan) -> bool:
    """Return whether a column is a unique key by itself."""
    return any(key.columns == (column,) for key in unique_keys(plan))


def _not_null(key: UniqueKey) -> str:
    """Return the SQL that leaves out the rows with NULL in a key, which never clash."""
    return " AND ".join(f"{quote_name(column.source)} IS NOT NULL" for column in key.columns)


def _left(snapshot: sqlite3.Connection, plan: TablePlan, rejected: Rejected) -> str:
    """Return the SQL that leaves out rejected rows, to follow another condition."""
    keys = rejected.get(plan.source.name)
    if not keys:
        return ""
    function = f"is rejected {plan.source.name}"
    snapshot.create_function(function, -1, lambda *values: row_key(plan.source, values) in keys)
    return f" AND NOT {quote_name(function)}({', '.join(map(quote_name, plan.source.key))})"


def _same(plan: TablePlan, column: ColumnPlan) -> str:
    """Return the SQL of what is equal for two values if they become the same value in the target."""
    name = quote_name(column.source)
    affinity = plan.source.affinity(column.source)
    if column.kind == "uuid":
        uuid = f"lower(replace({name}, '-', ''))"
        return f"CASE WHEN {is_any_uuid(name)} THEN {uuid} ELSE CAST({name} AS TEXT) END COLLATE BINARY"
    if column.kind in ("text", "char") and affinity != "TEXT":
        return f"CASE typeof({name}) WHEN 'integer' THEN CAST({name} AS TEXT) ELSE {name} END COLLATE BINARY"
    if column.kind == "integer" and affinity not in ("INTEGER", "NUMERIC", "REAL"):
        return f"CASE typeof({name}) WHEN 'text' THEN CAST({name} AS NUMERIC) ELSE {name} END COLLATE BINARY"
    return f"{name} COLLATE BINARY"
