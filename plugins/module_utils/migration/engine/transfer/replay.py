"""Loads rejected rows that somebody has repaired into a group that already lives on PostgreSQL.

As long as a group lives on SQLite, a row is repaired there and the next run loads it. After the
cutover the frozen file may not be changed any more: here the repaired row takes the place of the
rejected one in a temporary table, and goes the same way as every other row: the same plan,
conversion and policies, and the same proof. PostgreSQL alone decides about its references and keys.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ...core import ledger, state
from ...core.commands import playbook
from ...core.connection import explained, sql
from ...core.decide import Rehearsal, decide
from ...core.errors import MigrationError, Problem
from ...core.estate import Group
from ...core.group_detail import changes
from ...core.sql import table_name
from ...postgres import code_in_tables
from ...postgres.catalog import read_catalog
from ...sqlite.snapshot import snapshot
from ...sqlite.tables import Value, open_snapshot, quote_name, read_rows, read_tables, row_key, to_json, to_json_text
from ..convert.recorded_ids import with_recorded_ids
from ..convert.server_text import ServerForms
from ..plan.planner import TablePlan, plan_group
from ..prepare.prepare import prepare
from ..prepare.server_refusals import REPAIRED
from ..prepare.table import PreparedTable
from ..proof.checksums import sum_source, sum_target
from ..proof.ledger_content import changed_record, read_sums
from .full_load import server_errors, write_ledger

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

REPLAY = "replay"
_INSERT_AS_SERVICE = "Insert the repaired rows through the service, as its role; migration.reject keeps what they were"
_LIST_ROWS = "SELECT source_table, row_key, reason FROM migration.reject lists the rows that can be replayed"


@dataclass(frozen=True)
class RepairedRow:
    """A rejected row, repaired.

    :param table: the source table.
    :param key: the row's key as in ``migration.reject``.
    :param values: source column → repaired value; all others stay as they are in the frozen file.
    """

    table: str
    key: str
    values: Mapping[str, Value]


def replay_rejects(
    connection: Connection,
    group: Group,
    rows: Sequence[RepairedRow],
    check_mode: bool = False,
    work_directory: str | None = None,
) -> dict[str, Any]:
    """Load repaired rows, and take them out of ``migration.reject``: all of them, or none.

    :param check_mode: do everything, then roll it back.
    :param work_directory: private directory for the snapshot of the frozen file.
    :returns: ``{"changed": bool, "rows": [{"table", "key"}…]}``.
    :raises MigrationError: if a row still cannot be loaded; nothing is changed then.
    """
    started_at = datetime.now(UTC)
    ledger.require(connection)
    with explained(f"replaying rows of cutover group {group.name}"), ledger.locked(connection, f"group {group.name}"):
        try:
            _require_live(connection, group)
            _require_ours(connection, group)
            reasons = _rejected(connection, group, rows)
            with (
                snapshot(group.source_path, work_directory, frozen=True, users=group.users) as copy,
                closing(open_snapshot(copy.path)) as source,
            ):
                targets = read_catalog(connection, [mapping.target for mapping in group.tables])
                concerned = {row.table for row in rows}
                plans = [
                    plan
                    for plan in with_recorded_ids(
                        connection, group.name, plan_group(group, source, read_tables(source), targets, asks=False)
                    )
                    if plan.source.name in concerned
                ]
                _require_recorded_ids(group, plans, rows)
                originals = [line for plan in plans for line in _put_in_place(source, group, plan, rows, reasons)]
                forms = ServerForms(connection)
                lenient = [
                    # What is on SQLite's side says nothing about references and keys any more.
                    replace(plan, foreign_keys=(), target=replace(plan.target, unique_keys=()))
                    for plan in plans
                ]
                only = {plan.source.name: "1" for plan in lenient}
                prepared = prepare(group, source, lenient, copy.directory, forms, only=only)
                _require_accepted(group, prepared.tables, rows)
                with connection.cursor() as cursor:
                    for table in prepared.tables:
                        _insert(cursor, table)
                    keys = {name: [row.key for row in rows if row.table == name] for name in concerned}
                    new_keys = {
                        table.plan.source.name: [*keys[table.plan.source.name], *table.changes]
                        for table in prepared.tables
                    }
                    outgoing = read_sums(connection, group.name, new_keys)
                    write_ledger(cursor, group.name, prepared, keys)
                    cursor.executemany(
                        "INSERT INTO migration.original_value VALUES (%s, %s, %s, %s, %s, %s) "
                        "ON CONFLICT (group_name, source_table, row_key, column_name) "
                        "DO UPDATE SET reason = excluded.reason, value = excluded.value",
                        originals,
                    )
                incoming = read_sums(connection, group.name, new_keys)
                _require_equal(connection, source, prepared.tables, forms)
            replayed = [{"table": row.table, "key": row.key} for row in rows]
            if rows and not check_mode:
                recorded = ledger.read_group(connection, group.name).detail.ledger_content
                if recorded is not None:
                    kept = changes(ledger_content=changed_record(recorded, outgoing, incoming))
                    ledger.merge_detail(connection, group.name, kept)
                ledger.record_run(connection, group.name, REPLAY, started_at, {"group": group.name, "rows": replayed})
                connection.commit()
        finally:
            if not connection.closed:
                connection.rollback()
    return {"changed": bool(rows), "rows": replayed}


def _require_live(connection: Connection, group: Group) -> None:
    """Refuse a group whose rows are not PostgreSQL's yet.

    :raises MigrationError: with what to do instead.
    """
    record = ledger.read_group(connection, group.name, group.source_path)
    action = decide(record)
    if action.frozen_file_in_place:
        return
    fix = f"Repair the row in the SQLite file and run {playbook('3_data_migration')}: it is loaded with the others"
    if action.rehearsal is not Rehearsal.LOAD:
        fix = state.advice(record.state, group.name)
    raise MigrationError(
        f"No row of cutover group {group.name} is replayed.",
        [Problem(f"cutover group {group.name}", f"its state is '{record.state}', and this needs 'live'", fix)],
    )


def _require_ours(connection: Connection, group: Group) -> None:
    """Refuse tables that a service owns: an insert runs its triggers, defaults and checks with our rights.

    :raises MigrationError: naming the tables, and who can insert the rows.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT n.nspname || '.' || c.relname, pg_get_userbyid(c.relowner)::text "
            "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname || '.' || c.relname = ANY (%s) AND pg_get_userbyid(c.relowner) <> current_user",
            ([mapping.target for mapping in group.tables],),
        )
        problems = [
            Problem(name, f"it belongs to role {role}, whose code would run with our rights", _INSERT_AS_SERVICE)
            for name, role in cursor.fetchall()
        ]
        if not problems:
            problems = code_in_tables.look(cursor, group, loaded=True)
            what = "a rule of it, or a trigger whose function another role owns, would run with our rights"
            problems += [
                Problem(mapping.target, what, _INSERT_AS_SERVICE)
                for mapping in group.tables
                if code_in_tables.acts(cursor, mapping.target)
            ]
    if problems:
        raise MigrationError(f"No row of cutover group {group.name} is replayed.", problems)


def _rejected(connection: Connection, group: Group, rows: Sequence[RepairedRow]) -> dict[tuple[str, str], str]:
    """Return (table, key) → reason of the rejected rows.

    :raises MigrationError: naming the rows that are not among them, or twice among the repaired ones.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT source_table, row_key, reason FROM migration.reject WHERE group_name = %s FOR UPDATE", (group.name,)
        )
        found = {(table, key): reason for table, key, reason in cursor.fetchall()}
    named = [(row.table, row.key) for row in rows]
    problems = [
        Problem(f"{group.source_path}: {table}", f"no row with the key {key} was rejected", _LIST_ROWS)
        for table, key in named
        if (table, key) not in found
    ]
    problems += [
        Problem(f"{group.source_path}: {table}", f"the row {key} is named twice", "Name it once")
        for table, key in sorted(set(named))
        if named.count((table, key)) > 1
    ]
    if problems:
        raise MigrationError(f"Rows of cutover group {group.name} cannot be replayed.", problems)
    return found


def _require_recorded_ids(group: Group, plans: Sequence[TablePlan], rows: Sequence[RepairedRow]) -> None:
    """Refuse a new id for a row whose id may stand in texts: what the load has rewritten there does not know it.

    :raises MigrationError: naming each such row.
    """
    named = {
        name for mapping in group.tables for options in mapping.columns.values() for name in options.rewrite_ids_of
    }
    ids = {
        plan.source.name: {column.source for column in plan.columns if column.target in plan.target.key}
        for plan in plans
        if plan.target.name in named
    }
    problems = [
        Problem(
            f"{group.source_path}: {row.table}",
            f"the row {row.key} would get another id, and 'rewrite_ids_of' names this table: the record of the ids in "
            "texts does not have it, so a rollback could not bring such texts back",
            "Leave its id as it is, or let the application insert the row",
        )
        for row in rows
        if ids.get(row.table, set()) & set(row.values)
    ]
    if problems:
        raise MigrationError(f"Rows of cutover group {group.name} cannot be replayed.", problems)


def _put_in_place(
    source: sqlite3.Connection,
    group: Group,
    plan: TablePlan,
    rows: Sequence[RepairedRow],
    reasons: Mapping[tuple[str, str], str],
) -> list[tuple[str, ...]]:
    """Let a temporary table with the repaired rows hide a table, and return what they held before.

    :returns: lines for ``migration.original_value``.
    :raises MigrationError: if a row is not in the file, or SQLite itself refuses a value.
    """
    table = plan.source
    repaired = {row.key: row for row in rows if row.table == table.name}
    where = f"{group.source_path}: {table.name}"
    own = [column.name for column in table.columns if not column.generated]
    unknown = sorted({name for row in repaired.values() for name in row.values} - set(own))
    if unknown:
        what = f"it has no column {', '.join(unknown)} that could be repaired"
        raise MigrationError("A repaired row does not fit its table.", [Problem(where, what, f"Its columns are {own}")])
    keys = {}
    for values in read_rows(source, replace(table, row_filter=None, computed=()), ()):
        key = row_key(table, values)
        if key in repaired:
            keys[key] = values
    missing = [
        Problem(where, f"the row {key} is not in the file", "Has it been changed?")
        for key in repaired
        if key not in keys
    ]
    if missing:
        raise MigrationError("A rejected row is gone.", missing)
    name, columns = quote_name(table.name), ", ".join(map(quote_name, own))
    row_id = ", ".join(quote_name(key) for key in table.key if key not in table.column_names)
    inserted = f"{row_id}, {columns}" if row_id else columns
    match = " AND ".join(f"{quote_name(key)} = ?" for key in table.key)
    originals: list[tuple[str, ...]] = []
    try:
        source.execute("PRAGMA ignore_check_constraints = ON")
        source.execute("PRAGMA temp_store = MEMORY")
        source.execute(_temporary(source, plan))
        for key, row in repaired.items():
            source.execute(
                f"INSERT INTO temp.{name} ({inserted}) "  # noqa: S608 (quoted)
                f"SELECT {inserted} FROM main.{name} WHERE {match}",
                keys[key],
            )
            for column in row.values:
                before = source.execute(
                    f"SELECT {quote_name(column)} FROM temp.{name} WHERE {match}",  # noqa: S608 (quoted)
                    keys[key],
                ).fetchone()[0]
                reason = f"{REPAIRED}{reasons[(table.name, key)]}"
                originals.append((group.name, table.name, key, column, reason, to_json_text(to_json(before))))
            # All at once, since one of them may be part of the key.
            changes = ", ".join(f"{quote_name(column)} = ?" for column in row.values)
            if changes:
                source.execute(
                    f"UPDATE temp.{name} SET {changes} WHERE {match}",  # noqa: S608 (quoted)
                    (*row.values.values(), *keys[key]),
                )
    except (sqlite3.Error, UnicodeError) as error:
        # The message of a constraint names columns, not values.
        raise MigrationError(
            "SQLite refuses a repaired row.", [Problem(where, str(error), "Repair it otherwise")]
        ) from None
    return originals


def _temporary(source: sqlite3.Connection, plan: TablePlan) -> str:
    """Return the statement that makes a temporary table just like the one that it will hide."""
    (statement,) = source.execute(
        "SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?", (plan.source.name,)
    ).fetchone()
    if statement.startswith("CREATE TABLE "):
        return f"CREATE TEMP TABLE {statement.removeprefix('CREATE TABLE ')}"
    columns = ", ".join(f"{quote_name(column.name)} {column.declared_type}" for column in plan.source.columns)
    return f"CREATE TEMP TABLE {quote_name(plan.source.name)} ({columns})"


def _require_accepted(group: Group, tables: Sequence[PreparedTable], rows: Sequence[RepairedRow]) -> None:
    """Refuse rows that the policies would reject again, or that the inventory leaves out.

    :raises MigrationError: with their reasons.
    """
    problems = [
        Problem(f"{group.source_path}: {table.plan.source.name}", f"{key}: {reason}", "Repair this value too")
        for table in tables
        for key, reason in table.rejects
    ]
    problems += [
        Problem(
            f"{group.source_path}: {table.plan.source.name}",
            "the inventory's row_filter leaves a repaired row out",
            "Repair what it looks at too",
        )
        for table in tables
        if table.source_rows < len([row for row in rows if row.table == table.plan.source.name])
    ]
    if problems:
        raise MigrationError(f"Repaired rows of cutover group {group.name} would be rejected again.", problems)


def _insert(cursor: Any, table: PreparedTable) -> None:
    """Send the converted rows of one table."""
    if table.spool is None:
        raise ValueError("a replay needs its rows in files")
    name = table.plan.target.name
    columns = sql.SQL(", ").join(sql.Identifier(column.target) for column in table.plan.columns)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(table_name(name), columns)
    with server_errors(f"loading {name}", [table.plan]), table.spool.open("rb") as file:
        cursor.copy_expert(statement, file)


def _require_equal(
    connection: Connection, source: sqlite3.Connection, tables: Sequence[PreparedTable], forms: ServerForms
) -> None:
    """Refuse to commit rows that PostgreSQL does not give back as they were.

    :raises MigrationError: naming their table.
    """
    ours = sql.SQL(" JOIN (SELECT pg_current_xact_id()::xid AS id) AS own ON t.xmin = own.id")
    problems = [
        Problem(
            f"{table.plan.source.name} → {table.plan.target.name}",
            "the rows read back from PostgreSQL are not those that were sent",
            "Does a trigger change them? Nothing was committed",
        )
        for table in tables
        if sum_source(source, table, forms) != sum_target(connection, table.plan, ours)
    ]
    if problems:
        raise MigrationError("Verification of the replayed rows failed.", problems)
