"""Writes a prepared group into the target, all tables in the caller's one transaction.

The tables are emptied and filled again by COPY. The caller has made sure that every row in them
came from a run of ours (see :mod:`.engine`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .catalog import ForeignKey
from .connection import as_server_error, first_row
from .errors import MigrationError, Problem
from .plan import TablePlan
from .prepare import Prepared
from .source import quote_name, read_sequence

try:
    import psycopg2
    from psycopg2 import sql
except ImportError:  # reported by connection.connect()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.sql import Identifier

_COPY_BUFFER = 1 << 20  # bytes

_CONNECTION_LOST = "Look at the server's log for why it ended the connection, then run again"
_SERVER_FIXES = {
    None: _CONNECTION_LOST,
    "57P01": _CONNECTION_LOST,
    "53100": "Free disk on the database host, then run again",
    "53200": "Give the database host more memory, then run again",
    "55P03": "Another session holds a lock on the table; end it, then run again",
    "23503": "Repair the row in the source, or set 'orphan' for the column in the inventory",
    "23505": "Repair the rows in the source: the target allows each key once",
    "23514": "Repair the row in the source, or correct the check constraint in files/sql",
}


def table_name(name: str) -> Identifier:
    """Return ``schema.table`` as an identifier for SQL."""
    schema, _, table = name.partition(".")
    return sql.Identifier(schema, table)


def load(connection: Connection, group_name: str, prepared: Prepared, lock_timeout_seconds: float = 10.0) -> None:
    """Empty the target tables and fill them from the prepared files. The caller commits.

    :raises MigrationError: if PostgreSQL refuses a row or runs out of a resource; the caller's
        transaction is then lost as a whole.
    """
    plans = [table.plan for table in prepared.tables]
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{int(lock_timeout_seconds * 1000)}ms",))
        with _server_errors("emptying the target tables", None):
            _empty(cursor, plans)
        cyclic = _keys_against_the_order(plans)
        for key in cyclic:
            cursor.execute(
                sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(table_name(key.table), sql.Identifier(key.name))
            )
        for table in prepared.tables:
            if table.spool is None:
                raise ValueError("load() needs a group that was prepared with its files")
            columns = sql.SQL(", ").join(sql.Identifier(column.target) for column in table.plan.columns)
            statement = sql.SQL("COPY {} ({}) FROM STDIN").format(table_name(table.plan.target.name), columns)
            with _server_errors(f"loading {table.plan.target.name}", table.plan), table.spool.open("rb") as file:
                cursor.copy_expert(statement, file, _COPY_BUFFER)
        for key in cyclic:
            with _server_errors(f"checking {key.table}: {key.name}", None):
                cursor.execute(
                    sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
                        table_name(key.table), sql.Identifier(key.name), sql.SQL(key.definition)
                    )
                )
        _write_ledger(cursor, group_name, prepared)
        with _server_errors("collecting statistics", None):
            for plan in plans:
                cursor.execute(sql.SQL("ANALYZE {}").format(table_name(plan.target.name)))


def _empty(cursor: Any, plans: Sequence[TablePlan]) -> None:
    """Empty the target tables, and keep everybody else out of them until the commit."""
    names = [plan.target.name for plan in plans]
    cursor.execute(
        sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(sql.SQL(", ").join(map(table_name, names)))
    )
    quoted = [table_name(name).as_string(cursor) for name in names]
    cursor.execute(
        "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND confrelid = ANY (%(names)s::regclass[]) "
        "AND NOT conrelid = ANY (%(names)s::regclass[])",
        {"names": quoted},
    )
    if not first_row(cursor)[0]:
        cursor.execute(sql.SQL("TRUNCATE TABLE ONLY {}").format(sql.SQL(", ").join(map(table_name, names))))
        return
    # A table outside the group refers to one of these, which TRUNCATE refuses even if no row does.
    for name in reversed(names):
        cursor.execute(sql.SQL("DELETE FROM {}").format(table_name(name)))


def _keys_against_the_order(plans: Sequence[TablePlan]) -> list[ForeignKey]:
    """Return the foreign keys whose referenced table is loaded later: those of a cycle."""
    order = {plan.target.name: position for position, plan in enumerate(plans)}
    return [
        key
        for plan in plans
        for key in plan.target.foreign_keys
        if order.get(key.referenced_table, -1) > order[plan.target.name]
    ]


def _write_ledger(cursor: Any, group_name: str, prepared: Prepared) -> None:
    """Write the id map, the rejected rows and the original values of the group."""
    with _server_errors("writing migration.id_map", None):
        cursor.execute("CREATE TEMP TABLE new_id_map (LIKE migration.id_map) ON COMMIT DROP")
        with prepared.id_map.open("rb") as file:
            cursor.copy_expert("COPY new_id_map FROM STDIN", file, _COPY_BUFFER)
        cursor.execute(
            "INSERT INTO migration.id_map SELECT DISTINCT namespace, old_id, new_id FROM new_id_map "
            "ON CONFLICT (namespace, old_id) DO NOTHING"
        )
    for table, path in (("reject", prepared.rejects), ("original_value", prepared.originals)):
        with _server_errors(f"writing migration.{table}", None), path.open("rb") as file:
            name = sql.Identifier("migration", table)
            cursor.execute(sql.SQL("DELETE FROM {} WHERE group_name = %s").format(name), (group_name,))
            cursor.copy_expert(sql.SQL("COPY {} FROM STDIN").format(name), file, _COPY_BUFFER)


def read_sequences(
    connection: Connection, snapshot: sqlite3.Connection, plans: Sequence[TablePlan]
) -> list[dict[str, Any]]:
    """Return each sequence of the group: what it gives out next, and the least that it must.

    A deleted maximum counts too: AUTOINCREMENT never gives an id out again, nor may the sequence.
    """
    sequences = []
    with connection.cursor() as cursor:
        for plan in plans:
            for column in plan.columns:
                name = plan.target.columns[column.target].sequence
                if name is None:
                    continue
                largest = snapshot.execute(
                    f"SELECT max(CAST({quote_name(column.source)} AS INTEGER)) "  # noqa: S608 (quoted)
                    f"FROM {quote_name(plan.source.name)}"
                ).fetchone()[0]
                required = max(largest or 0, read_sequence(snapshot, plan.source.name)) + 1
                # pg_get_serial_sequence() returned the name, already quoted where needed.
                cursor.execute(
                    sql.SQL("SELECT CASE WHEN is_called THEN last_value + 1 ELSE last_value END FROM {}").format(
                        sql.SQL(name)
                    )
                )
                next_value = int(first_row(cursor)[0])
                sequences.append(
                    {"name": name, "next_value": next_value, "required": required, "correct": next_value >= required}
                )
    return sequences


def set_sequences(connection: Connection, sequences: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Move the sequences that are behind and return how all of them stand then."""
    with connection.cursor() as cursor:
        for sequence in sequences:
            if not sequence["correct"]:
                cursor.execute("SELECT setval(%s::regclass, %s, false)", (sequence["name"], sequence["required"]))
    return [
        sequence if sequence["correct"] else {**sequence, "next_value": sequence["required"], "correct": True}
        for sequence in sequences
    ]


@contextmanager
def _server_errors(doing: str, plan: TablePlan | None) -> Iterator[None]:
    """Turn an error of the server into one for the operator, without a secret value in it."""
    try:
        yield
    except (psycopg2.Error, SystemError) as raised:
        error = as_server_error(raised)
        diagnosis = error.diag
        where = plan.target.name if plan is not None else (diagnosis.table_name or "PostgreSQL")
        if plan is not None and plan.has_secrets:
            # The server quotes values in its messages; say only what cannot hold one.
            named = diagnosis.constraint_name or diagnosis.column_name or "a value"
            what = f"{named} was refused (SQLSTATE {error.pgcode})"
        else:
            first_line = str(error).strip().partition("\n")[0]
            details = (diagnosis.message_primary or first_line, diagnosis.message_detail, diagnosis.context)
            what = "; ".join(detail.replace("\n", " ") for detail in details if detail)
            what += f" (SQLSTATE {error.pgcode})" if error.pgcode else ""
        raise MigrationError(
            f"PostgreSQL refused while {doing}; nothing was changed.",
            [Problem(where, what, _SERVER_FIXES.get(error.pgcode, "Mend what the message names, then run again"))],
        ) from None
