"""The ids that a load has rewritten inside texts and JSON, as the ledger keeps them with the rows.

``migration.rewritten_id`` holds the ids, and the group's detail says which columns held which, with a hash of all:
an edited inventory, another group's ids or a changed ledger cannot make other rows of those that were loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...core import ledger
from ...core.commands import playbook
from ...core.connection import first_row
from ...core.errors import MigrationError, Problem
from ..plan.ids_in_texts import IdsInTexts
from ..plan.planner import TablePlan

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

_PLACE = "migration.rewritten_id"


def require_place(connection: Connection) -> None:
    """Refuse to rewrite ids where an older ledger has no place for them.

    :raises MigrationError: telling to run ``schema_apply``.
    """
    with connection.cursor() as cursor:
        if not _has_place(cursor):
            raise MigrationError(
                "The ledger cannot hold the ids that 'rewrite_ids_of' names.",
                [Problem(_PLACE, "it does not exist yet", f"Run {playbook('1_infrastructure')}")],
            )


def record_ids(connection: Connection, group_name: str, plans: Sequence[TablePlan]) -> dict[str, Any]:
    """Write the ids by which the rows of a group were loaded, and return what the group's detail keeps of them.

    The caller commits them with the rows.

    :raises MigrationError: if the id map says of one of them that it became another UUID.
    """
    columns: dict[str, dict[str, str]] = {}
    # Columns that name the same ids share them.
    sets: dict[str, tuple[IdsInTexts, tuple[str, ...]]] = {}
    for plan in plans:
        for column in plan.columns:
            if column.ids is not None:
                columns.setdefault(plan.source.name, {})[column.source] = column.ids.digest
                sets[column.ids.digest] = (column.ids, column.options.rewrite_ids_of)
    known = ledger.read_group(connection, group_name).detail.rewritten_ids
    if known == columns and not find_changed_ids(connection, group_name):
        return columns
    with connection.cursor() as cursor:
        if known and _has_place(cursor):
            cursor.execute("DELETE FROM migration.rewritten_id WHERE group_name = %s", (group_name,))
        for digest, (ids, names) in sets.items():
            cursor.execute(
                "INSERT INTO migration.rewritten_id (group_name, ids_hash, old_id, new_id) "
                "SELECT %s, %s, * FROM unnest(%s::text[], %s::uuid[])",
                (group_name, digest, [old for old, _ in ids.pairs], [new for _, new in ids.pairs]),
            )
            _require_those_of_the_rows(cursor, ids, names)
    return columns


def _require_those_of_the_rows(cursor: Cursor, ids: IdsInTexts, names: Sequence[str]) -> None:
    """Refuse ids that became another UUID in a text than in the row that they name.

    The id map holds what the proof of the rows' own ids has found equal, and ids of rows that are gone since.

    :raises MigrationError: with their number.
    """
    cursor.execute(
        "SELECT count(*) FROM (SELECT FROM unnest(%s::text[], %s::uuid[]) AS r (old_id, new_id) "
        "JOIN migration.id_map AS m ON m.old_id = r.old_id WHERE m.namespace = ANY (%s) "
        "GROUP BY r.old_id, r.new_id HAVING NOT bool_or(m.new_id = r.new_id)) AS wrong",
        (list(ids.new_ids), list(ids.new_ids.values()), list(names)),
    )
    (count,) = first_row(cursor)
    if count:
        what = f"{count:,} ids became another UUID in texts than migration.id_map has for them"
        raise MigrationError("The ids in texts are not those of the rows.", [Problem(_PLACE, what, "Please report it")])


def with_recorded_ids(connection: Connection, group_name: str, plans: Sequence[TablePlan]) -> list[TablePlan]:
    """Return the plans in which each column knows the ids by which the rows in PostgreSQL were loaded.

    :raises MigrationError: if the ledger does not hold them any more as they were written.
    """
    columns = ledger.read_group(connection, group_name).detail.rewritten_ids
    if not columns:
        return list(plans)
    sets = {digest: _read(connection, group_name, digest) for named in columns.values() for digest in named.values()}
    return [
        replace(
            plan,
            columns=tuple(
                replace(column, ids=sets.get(columns.get(plan.source.name, {}).get(column.source, "")))
                for column in plan.columns
            ),
        )
        for plan in plans
    ]


def find_changed_ids(connection: Connection, group_name: str) -> list[Problem]:
    """Return a finding if the ledger does not hold the ids any more as the last run wrote them."""
    try:
        with_recorded_ids(connection, group_name, ())
    except MigrationError as error:
        return error.problems
    return []


def _has_place(cursor: Cursor) -> bool:
    """Return whether the ledger has a table for the ids."""
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (_PLACE,))
    return bool(first_row(cursor)[0])


def _read(connection: Connection, group_name: str, digest: str) -> IdsInTexts:
    """Return one set of ids.

    :raises MigrationError: if it is not the one that was written.
    """
    found = IdsInTexts(())
    with connection.cursor() as cursor:
        if _has_place(cursor):
            cursor.execute(
                "SELECT old_id, new_id::text FROM migration.rewritten_id WHERE group_name = %s AND ids_hash = %s",
                (group_name, digest),
            )
            found = IdsInTexts(cursor.fetchall())
    if found.digest != digest:
        raise MigrationError(
            f"The ledger does not hold the ids any more that were rewritten in texts of cutover group {group_name}.",
            [
                Problem(
                    _PLACE,
                    f"what it keeps of group {group_name} is not what the last run wrote there",
                    "Put its rows back from a backup of the database; before the cutover run "
                    f"{playbook('3_data_migration')} instead, which writes them anew",
                )
            ],
        )
    return found
