"""Rows that PostgreSQL alone knows to be wrong: by a constraint, an index, a domain, or a limit of its own.

The exact way of a load asks it for all of them (:mod:`.engine.transfer.trial`). What a policy answered then stands in
the ledger, where the other parts of the engine read it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...core.errors import TABLE_SQL

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

MARK = "PostgreSQL refuses it: "
# What follows it, before the name of the constraint or of the index.
VIOLATES, TOO_LONG = "it violates the check constraint ", "it is too long for the index "
# What follows a check constraint, before the functions of a person's own that it calls.
CALLS = ", which calls "
HALF_KEY = "only a part is NULL of its foreign key "
NO_PARTITION = "the table has no partition for it"
TOO_WIDE = "with all that can be stored elsewhere it does not fit into a page of 8 kB"
# What follows a refusal, before the columns of the target whose default is the reason.
DEFAULTS = " because of the default of "
# Before the reason for which a row was rejected, once it has been repaired by hand.
REPAIRED = "repaired by hand; the row was rejected: "
# In place of a policy: what was answered in an earlier run.
REJECTED, EMPTIED = "rejected before", "emptied before"


@dataclass(frozen=True)
class ServerRefusal:
    """Why PostgreSQL refuses one row.

    :param columns: the source columns that it is about; empty if that is not known.
    :param policy: the policy that may answer, '' if none can; :data:`REJECTED` or :data:`EMPTIED`.
    :param what: what is wrong, without a value.
    """

    columns: tuple[str, ...]
    policy: str
    what: str


def cures(what: str, target: str | None) -> list[str]:
    """Return what would let PostgreSQL take the rows that it refuses: no other type of the column would.

    :param what: of a :class:`ServerRefusal`.
    :param target: name of the target column, None if it is about several or none.
    """
    refused, of_default, columns = what.partition(DEFAULTS)
    if of_default:
        return [f"name values for {columns} by 'computed' in the inventory, or correct the default in {TABLE_SQL}"]
    if refused.endswith(NO_PARTITION):
        return [f"add a partition for them in {TABLE_SQL}"]
    if refused.endswith(TOO_WIDE):
        return [f"divide the table in {TABLE_SQL}, or keep columns in the ledger by 'without_target: keep'"]
    _, violates, constraint = refused.partition(VIOLATES)
    constraint, calls, functions = constraint.partition(CALLS)
    if violates:
        allow = f"let the check constraint {constraint} allow them in {TABLE_SQL}, if they are right"
        if not calls:
            return [allow]
        return [
            f"if {functions} reads other tables, make a trigger of the check constraint {constraint} in {TABLE_SQL}: a "
            "check is made for one row alone, and those tables may be empty here, and where a dump is restored",
            allow,
        ]
    _, too_long, index = refused.partition(TOO_LONG)
    if too_long:
        name = index.partition(":")[0]
        if target is None:
            return [f"let the index {name} be of fewer columns in {TABLE_SQL}, or of their md5"]
        return [f"let the index {name} be one of md5({target}) in {TABLE_SQL}, which is short for every value"]
    return []


# Source table → key of a row → why it is refused.
Refusals = Mapping[str, Mapping[str, Sequence[ServerRefusal]]]


def recorded_refusals(connection: Connection, group_name: str) -> Refusals:
    """Return the rows of a group that PostgreSQL refused when they were loaded, and what became of them."""
    found: dict[str, dict[str, list[ServerRefusal]]] = {}
    with connection.cursor() as cursor:
        for statement, policy in (
            ("SELECT source_table, row_key, '', reason FROM migration.reject", REJECTED),
            ("SELECT source_table, row_key, column_name, reason FROM migration.original_value", EMPTIED),
        ):
            cursor.execute(f"{statement} WHERE group_name = %s AND reason LIKE %s", (group_name, f"%{MARK}%"))
            for table, key, column, reason in cursor.fetchall():
                # A row that was repaired and replayed since was rejected all the same.
                became = REJECTED if reason.startswith(REPAIRED) else policy
                refusal = ServerRefusal((column,) if column else (), became, reason)
                found.setdefault(table, {}).setdefault(key, []).append(refusal)
    return found
