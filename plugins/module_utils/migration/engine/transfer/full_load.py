"""Writes a prepared group into the target, all tables in the caller's one transaction.

The tables are emptied and filled again by COPY. The caller has made sure that every row in them
came from a run of ours (see :mod:`.engine.transfer.migrate`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.connection import CONNECTION_LOST, as_server_error, first_row, psycopg2, sql
from ...core.errors import TABLE_SQL, MigrationError, Problem, RowsRefused
from ...core.sql import table_name
from ..plan.planner import TablePlan
from ..prepare.fast_path import copy_blocks
from ..prepare.prepare import Prepared
from ..prepare.table import PreparedTable
from .copy_stream import plain_lines
from .index_rebuild import FROM_ROWS, rebuilt
from .progress import CountedLines
from .triggers import without_triggers

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

Progress = Callable[[str, int], None]

_COPY_BUFFER = 1 << 20  # bytes

_SERVER_FIXES = {
    None: CONNECTION_LOST,
    "57P01": CONNECTION_LOST,
    "53100": "Free disk on the database host, then run again",
    "53200": "Give the database host more memory, then run again",
    "55P03": "Another session holds a lock on the table; end it, then run again",
    "23503": "Repair the row in the source, or set 'orphan' for the column in the inventory",
    "23505": "Repair the rows in the source: the target allows each key once",
    "23514": f"Repair the row in the source, or correct the check constraint in {TABLE_SQL}",
}


def load(
    connection: Connection,
    group_name: str,
    snapshot_path: Path,
    prepared: Prepared,
    progress: Progress,
    lock_timeout_seconds: float = 10.0,
) -> None:
    """Empty the target tables and fill them from the snapshot and the prepared files. The caller commits.

    :param progress: called with the table and the number of rows sent since the last call.
    :raises RowsRefused: if PostgreSQL refuses a row.
    :raises MigrationError: if it runs out of a resource. The caller's transaction is then lost as a whole.
    """
    plans = [table.plan for table in prepared.tables]
    names = [plan.target.name for plan in plans]
    large = [table.plan.target.name for table in prepared.tables if table.rows >= FROM_ROWS]
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{int(lock_timeout_seconds * 1000)}ms",))
        with server_errors("enabling triggers", plans), without_triggers(cursor, plans):
            with server_errors("emptying the target tables", plans):
                freezable = _empty(cursor, plans)
            with (
                server_errors("making indexes and constraints", plans),
                rebuilt(cursor, names, large, _keys_against_the_order(plans)),
            ):
                for table in prepared.tables:
                    _copy(cursor, snapshot_path, table, table.plan.target.name in freezable, progress)
        with server_errors("checking deferred constraints", plans):
            # Else the commit would find what they refuse, after the proof and without a name for it.
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        # A run for another group may hold the id map until its commit: wait for it.
        cursor.execute("SELECT set_config('lock_timeout', '0', true)")
        write_ledger(cursor, group_name, prepared)


def analyze(connection: Connection, prepared: Prepared) -> None:
    """Collect PostgreSQL's statistics of the loaded tables, which the proof and the services need next."""
    plans = [table.plan for table in prepared.tables]
    with connection.cursor() as cursor, server_errors("collecting statistics", plans):
        for plan in plans:
            cursor.execute(sql.SQL("ANALYZE {}").format(table_name(plan.target.name)))


def _copy(cursor: Any, snapshot_path: Path, table: PreparedTable, freeze: bool, progress: Progress) -> None:
    """Fill one table: its plain rows straight from the snapshot, all others from their file."""
    name = table.plan.target.name
    columns = sql.SQL(", ").join(sql.Identifier(column.target) for column in table.plan.columns)
    statement = sql.SQL("COPY {} ({}) FROM STDIN{}").format(
        table_name(name), columns, sql.SQL(" WITH (FREEZE)") if freeze else sql.SQL("")
    )
    with server_errors(f"loading {name}", [table.plan]):
        if table.plain is not None:
            blocks = partial(copy_blocks, rows=table.plain, all_plain=table.odd_rows == 0)
            with plain_lines(snapshot_path, blocks, partial(progress, name)) as lines:
                try:
                    cursor.copy_expert(statement, lines)
                except psycopg2.Error:
                    if lines.error is None:
                        raise
                    what = f"SQLite could not build its rows: {lines.error}"
                    raise RowsRefused(f"Nothing was loaded into {name}.", [Problem(name, what, "Run again")]) from None
        if table.spool is None:
            raise ValueError("load() needs a group that was prepared with its files")
        if table.plain is None or table.odd_rows:
            with table.spool.open("rb") as file:
                cursor.copy_expert(statement, CountedLines(file, partial(progress, name)), _COPY_BUFFER)


def _empty(cursor: Any, plans: Sequence[TablePlan]) -> set[str]:
    """Empty the target tables, and keep everybody else out of them until the commit.

    :returns: the tables whose rows may be loaded as visible to all, since nobody can have seen them otherwise.
    """
    names = [plan.target.name for plan in plans]
    quoted = [table_name(name).as_string(cursor) for name in names]
    cursor.execute(
        "SELECT c.relkind FROM unnest(%s::regclass[]) WITH ORDINALITY AS n (oid, position) "
        "JOIN pg_class c ON c.oid = n.oid ORDER BY n.position",
        (quoted,),
    )
    partitioned = {name for name, (kind,) in zip(names, cursor.fetchall(), strict=True) if kind == "p"}
    # What inherits from an ordinary table is not its own; what is a part of a partitioned one is.
    tables = sql.SQL(", ").join(
        table_name(name) if name in partitioned else sql.SQL("ONLY {}").format(table_name(name)) for name in names
    )
    cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(tables))
    if are_truncated(cursor, quoted):
        cursor.execute(sql.SQL("TRUNCATE TABLE {}").format(tables))
        return set(names) - partitioned
    # A table outside the group refers to one of these, which TRUNCATE refuses even if no row does.
    for name in reversed(names):
        cursor.execute(sql.SQL("DELETE FROM {}").format(table_name(name)))
    return set()


def are_truncated(cursor: Any, quoted: Sequence[str]) -> bool:
    """Return whether target tables are emptied by TRUNCATE: no table outside the group refers to one of them.

    :param quoted: their names for SQL.
    """
    cursor.execute(
        "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND confrelid = ANY (%(names)s::regclass[]) "
        "AND NOT conrelid = ANY (%(names)s::regclass[]) AND conparentid = 0",
        {"names": quoted},
    )
    return not first_row(cursor)[0]


def _keys_against_the_order(plans: Sequence[TablePlan]) -> list[str]:
    """Return the foreign keys whose referenced table is loaded later, those of a cycle, as ``schema.table name``."""
    order = {plan.target.name: position for position, plan in enumerate(plans)}
    return [
        f"{key.table} {key.name}"
        for plan in plans
        for key in plan.target.foreign_keys
        if order.get(key.referenced_table, -1) > order[plan.target.name]
    ]


def write_ledger(
    cursor: Any, group_name: str, prepared: Prepared, only: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Write the id map, the rejected rows and the original values of the group.

    :param only: by source table, keys of the rows whose entries are replaced; all of the group's if not given.
    """
    with server_errors("writing migration.id_map"):
        _write_id_map(cursor, prepared.id_map)
    write_kept(cursor, group_name, prepared, only)


def write_kept(
    cursor: Any, group_name: str, prepared: Prepared, only: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Write the rejected rows and the original values of the group, as :func:`write_ledger` does."""
    for table, path in (("reject", prepared.rejects), ("original_value", prepared.originals)):
        with server_errors(f"writing migration.{table}"), path.open("rb") as file:
            name = sql.Identifier("migration", table)
            if only is None:
                cursor.execute(sql.SQL("DELETE FROM {} WHERE group_name = %s").format(name), (group_name,))
            for source, keys in (only or {}).items():
                cursor.execute(
                    sql.SQL("DELETE FROM {} WHERE group_name = %s AND source_table = %s AND row_key = ANY (%s)").format(
                        name
                    ),
                    (group_name, source, list(keys)),
                )
            cursor.copy_expert(sql.SQL("COPY {} FROM STDIN").format(name), file, _COPY_BUFFER)


def _write_id_map(cursor: Any, path: Path) -> None:
    """Add the new ids of a file to the id map."""
    cursor.execute("CREATE TEMP TABLE new_id_map (LIKE migration.id_map) ON COMMIT DROP")
    with path.open("rb") as file:
        cursor.copy_expert("COPY new_id_map FROM STDIN", file, _COPY_BUFFER)
    cursor.execute("SELECT (SELECT count(*) FROM new_id_map), (SELECT count(*) FROM migration.id_map)")
    new, known = cursor.fetchone()
    if new < max(FROM_ROWS, known) or not _has_to_itself(cursor, "migration.id_map"):
        cursor.execute(
            "INSERT INTO migration.id_map SELECT DISTINCT namespace, old_id, new_id FROM new_id_map "
            "ON CONFLICT (namespace, old_id) DO NOTHING"
        )
        return
    with rebuilt(cursor, ["migration.id_map"], ["migration.id_map"], []):
        cursor.execute(
            "INSERT INTO migration.id_map SELECT DISTINCT namespace, old_id, new_id FROM new_id_map AS n "
            "WHERE NOT EXISTS "
            "(SELECT FROM migration.id_map AS k WHERE k.namespace = n.namespace AND k.old_id = n.old_id)"
        )


def _has_to_itself(cursor: Any, table: str) -> bool:
    """Lock a table, and return whether that was possible at once."""
    cursor.execute("SAVEPOINT before_lock")
    try:
        cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE NOWAIT").format(table_name(table)))
    except psycopg2.errors.LockNotAvailable:
        cursor.execute("ROLLBACK TO SAVEPOINT before_lock")
        return False
    finally:
        cursor.execute("RELEASE SAVEPOINT before_lock")
    return True


@contextmanager
def server_errors(doing: str, plans: Sequence[TablePlan] = ()) -> Iterator[None]:
    """Turn an error of the server into one for the operator, without a secret value in it.

    :param plans: the tables whose values the server's message may quote.
    """
    try:
        yield
    except (psycopg2.Error, SystemError) as raised:
        error = as_server_error(raised)
        diagnosis = error.diag
        named = f"{diagnosis.schema_name}.{diagnosis.table_name}"
        concerned = [plan for plan in plans if plan.target.name == named] or list(plans)
        where = concerned[0].target.name if len(concerned) == 1 else (diagnosis.table_name or "PostgreSQL")
        if any(plan.has_secrets for plan in concerned):
            # The server quotes values in its messages; say only what cannot hold one.
            what = f"{diagnosis.constraint_name or diagnosis.column_name or 'a value'} was refused"
        else:
            first_line = str(error).strip().partition("\n")[0]
            details = (diagnosis.message_primary or first_line, diagnosis.message_detail, diagnosis.context)
            what = "; ".join(detail.replace("\n", " ") for detail in details if detail)
        what += f" (SQLSTATE {error.pgcode})" if error.pgcode else ""
        # Classes 22, 23 and 54: a value that its type, a constraint or a limit of an index refuses.
        refused = RowsRefused if (error.pgcode or "")[:2] in ("22", "23", "54") else MigrationError
        raise refused(
            f"PostgreSQL refused while {doing}; nothing was changed.",
            [Problem(where, what, _SERVER_FIXES.get(error.pgcode, "Mend what the message names, then run again"))],
        ) from None
