"""Restores a named backup: into a new database first, which takes the old one's name only after it was proven."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC
from typing import TYPE_CHECKING, Any

from . import backup_content, backup_drill, backup_server, backup_store, backup_take, ledger, state
from .backup_settings import Settings
from .connection import connected, explained, first_row
from .errors import MigrationError, Problem

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

NEW_SUFFIX = "_restore_new"
# What this program and the progress display write themselves, whatever the services do.
_OWN_TABLES = ("migration.backup", "migration.progress")


def plan(settings: Settings, name: str) -> dict[str, Any]:
    """Return what a restore of this backup would do: ``changed``, ``lines``, and the names of the databases.

    :raises MigrationError: if it cannot be done, with every reason.
    """
    manifest = backup_store.read_one(settings.directory, name)
    backup_drill.require_files(settings, manifest)
    database = settings.login.database
    with backup_server.maintenance(settings) as connection:
        exists = backup_server.comment_of(connection, database) is not None
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT clock_timestamp(), array(SELECT DISTINCT usename::text FROM pg_stat_activity "
                "WHERE datname = %s AND usename IS NOT NULL ORDER BY 1)",
                (database,),
            )
            now, users = first_row(cursor)
        # A name that nobody has to quote in SQL.
        stamp = f"{now.astimezone(UTC):%Y%m%d_%H%M%S}"
        old = _free_name(connection, backup_server.name_with(database, f"_before_restore_{stamp}"))
    lines = [
        f"Backup {name}: taken {manifest['taken_at']}, {backup_store.rows(manifest):,} rows in "
        f"{len(manifest['tables'])} tables, "
        + (f"verified {manifest['verified']['at']}" if manifest["verified"] else "never verified by a drill"),
    ]
    result = {"name": name, "database": database, "old": old if exists else None, "changed": True, "lines": lines}
    if exists:
        differences = _compare_with_present(settings, manifest)
        if not differences:
            lines.append(f"Database {database} holds exactly this: nothing to do.")
            return {**result, "changed": False}
        lines.append(f"What would change in database {database}, from now to what it should be:")
        lines += [f"  {line}" for line in differences[:30]]
        if len(differences) > 30:
            lines.append(f"  and {len(differences) - 30} more")
        lines.append(f"Rows written since the backup stay in the old database alone, which is kept as {old}.")
        lines.append(f"Sessions that would be ended: those of {', '.join(users) or 'nobody'}.")
    else:
        lines.append(f"There is no database {database}: it would be made.")
    return result


def restore(settings: Settings, name: str) -> dict[str, Any]:
    """Restore a backup and swap it in; return what :func:`plan` does, as done. The caller holds the lock.

    :raises MigrationError: the old database is then as it was.
    """
    started = time.monotonic()
    result = plan(settings, name)
    if not result["changed"]:
        return result
    manifest = backup_store.read_one(settings.directory, name)
    database = settings.login.database
    new = backup_server.name_with(database, NEW_SUFFIX)
    with backup_server.maintenance(settings) as connection:
        backup_server.drop_work(settings, connection, new)
        try:
            backup_server.create(connection, new, manifest["properties"], f"restore of {name}")
            backup_drill.restore_and_compare(settings, manifest, new)
            _analyze(settings, new)
            backup_server.apply_properties(connection, new, manifest["properties"])
        except BaseException:
            with suppress(MigrationError):
                backup_server.drop_work(settings, connection, new)
            raise
    backup_server.swap(settings, database, new, result["old"] or "", f"Restored from backup {name}")
    with explained("recording the restore"), connected(settings.login) as connection:
        backup_store.reconcile(connection, settings.directory)
    lines = [f"Database {database} holds backup {name} now, every count and hash equal."]
    if result["old"]:
        lines.append(f'The old one is kept: when nobody needs it any longer, run DROP DATABASE "{result["old"]}";')
    return {**result, "lines": lines, "seconds": round(time.monotonic() - started, 2)}


def _compare_with_present(settings: Settings, manifest: dict[str, Any]) -> list[str]:
    """Return how the database differs from the backup.

    :raises MigrationError: if the backup is from before a cutover, or from after one that was taken back since.
    """
    with explained("looking at the present database"), connected(settings.login) as connection:
        _require_same_stores(connection, manifest)
        found = backup_content.read_all(connection)
    expected = dict(manifest)
    for side in (expected, found):
        side["tables"] = {table: sums for table, sums in side["tables"].items() if table not in _OWN_TABLES}
    return backup_content.differences(expected, found)


def _require_same_stores(connection: Connection, manifest: dict[str, Any]) -> None:
    """Refuse a backup whose ledger says of a group that it lives in another store than it does.

    With such a ledger the next run would load SQLite's old rows over those of PostgreSQL, or leave the services on
    an empty database.
    """
    if not ledger.exists(connection):
        return
    with connection.cursor() as cursor:
        present = backup_take.ledger_groups(cursor)
    unknown = {"state": state.PENDING, "cutover_at": None}
    problems = []
    for group in sorted(present.keys() | manifest["groups"].keys()):
        now, then = present.get(group, unknown), manifest["groups"].get(group, unknown)
        on_postgresql = state.is_on_postgresql(now["state"])
        fix = "Restore a backup taken since its last cutover or rollback"
        if on_postgresql:
            fix += ", or put the group back on SQLite first: playbooks/rollback.yml"
        if on_postgresql != state.is_on_postgresql(then["state"]):
            what = f"its state is {now['state']}, and in the backup {then['state']}"
            problems.append(Problem(f"cutover group {group}", what, fix))
        elif on_postgresql and now["cutover_at"] != then["cutover_at"]:
            what = f"its cutover was at {now['cutover_at']}, and in the backup at {then['cutover_at']}"
            problems.append(Problem(f"cutover group {group}", what, fix))
    if problems:
        raise MigrationError(f"Backup {manifest['name']} is from another time of the migration.", problems)


def _free_name(connection: Connection, name: str) -> str:
    """Return the name of a database that does not exist yet: this one, or with a number behind it."""
    free, number = name, 1
    while backup_server.comment_of(connection, free) is not None:
        number += 1
        free = backup_server.name_with(name, f"_{number}")
    return free


def _analyze(settings: Settings, database: str) -> None:
    """Give the planner its statistics, before the services come."""
    with connected(replace(settings.login, database=database)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
