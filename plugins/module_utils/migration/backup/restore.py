"""Restores a named backup: into a new database first, which takes the old one's name only after it was proven."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC
from typing import TYPE_CHECKING, Any

from ..core import ledger, state
from ..core.commands import playbook
from ..core.connection import connected, explained, first_row
from ..core.errors import MigrationError, Problem
from . import content as backup_content
from . import databases as backup_server
from . import preflight, restore_test
from . import store as backup_store
from .settings import Settings

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

NEW_SUFFIX = "_restore_new"
# What this program and the progress display write themselves, whatever the services do.
_OWN_TABLES = ("migration.backup", "migration.progress")


def _read(settings: Settings, name: str, trusted: Collection[str]) -> dict[str, Any]:
    """Return a backup's manifest without the objects of those roles whose code may run in the restore."""
    manifest = backup_store.read_one(settings.directory, name)
    foreign = [pair for pair in manifest.get("foreign_objects", []) if pair[1] not in trusted]
    return {**manifest, "foreign_objects": foreign}


def plan(settings: Settings, name: str, trusted: Collection[str] = ()) -> dict[str, Any]:
    """Return what a restore of this backup would do: ``changed``, ``lines``, and the names of the databases.

    :param trusted: roles that are not the owner of the database, and whose objects may run their code in the restore.
    :raises MigrationError: if it cannot be done, with every reason.
    """
    manifest = _read(settings, name, trusted)
    restore_test.require_files(settings, manifest)
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
        _require_newest_stores(settings, manifest)
        lines.append(f"There is no database {database}: it would be made.")
    with backup_server.maintenance(settings) as connection, connection.cursor() as cursor:
        preflight.require_rights(cursor, manifest, database if exists else None)
        preflight.require_room_to_restore(settings, cursor, manifest)
    return result


def restore(settings: Settings, name: str, trusted: Collection[str] = ()) -> dict[str, Any]:
    """Restore a backup and swap it in; return what :func:`plan` does, as done. The caller holds the lock.

    :param trusted: roles whose code may run in it, as in :func:`plan`.
    :raises MigrationError: the old database is then as it was.
    """
    started = time.monotonic()
    result = plan(settings, name, trusted)
    if not result["changed"]:
        return result
    manifest = _read(settings, name, trusted)
    database = settings.login.database
    replaced = database if result["old"] else None
    new = backup_server.name_with(database, NEW_SUFFIX)
    with (
        backup_server.alone(settings),
        backup_server.work_database(settings, new, manifest, f"restore of {name}", replaced) as disk,
    ):
        restore_test.restore_and_compare(settings, manifest, new, disk)
        _analyze(settings, new)
        with backup_server.maintenance(settings) as connection, connection.cursor() as cursor:
            backup_server.apply_properties(connection, new, manifest["properties"])
            # Again: hours may have passed since the plan.
            preflight.require_rights(cursor, manifest, replaced)
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
        present = backup_content.read_groups(cursor)
    fix = "Restore a backup taken since its last cutover or rollback"
    rollback = f", or put the group back on SQLite first: {playbook('rollback')}"
    _compare_stores(manifest, present, "now", {True: fix + rollback, False: fix})


def _require_newest_stores(settings: Settings, manifest: dict[str, Any]) -> None:
    """Refuse the same when the database is lost: then the newest backup says where the groups live."""
    newest = backup_store.read_all(settings.directory)[-1]
    fix = f"Restore {newest['name']}; only if that one is lost too, remove its directory and run again"
    _compare_stores(manifest, newest["groups"], f"in the newest backup, {newest['name']},", {True: fix, False: fix})


def _compare_stores(manifest: dict[str, Any], present: Mapping[str, Any], when: str, fixes: Mapping[bool, str]) -> None:
    """Refuse a backup of another time of the migration.

    :param when: when ``present`` was so.
    :param fixes: what to do for a group that lives on PostgreSQL, and for one that does not.
    """
    unknown = {"state": state.PENDING, "cutover_at": None}
    problems = []
    for group in sorted(present.keys() | manifest["groups"].keys()):
        here, then = present.get(group, unknown), manifest["groups"].get(group, unknown)
        on_postgresql = state.is_on_postgresql(here["state"])
        if on_postgresql != state.is_on_postgresql(then["state"]):
            what = f"its state is {here['state']} {when} and in the backup {then['state']}"
            problems.append(Problem(f"cutover group {group}", what, fixes[on_postgresql]))
        elif on_postgresql and here["cutover_at"] != then["cutover_at"]:
            what = f"its cutover is at {here['cutover_at']} {when} and in the backup at {then['cutover_at']}"
            problems.append(Problem(f"cutover group {group}", what, fixes[on_postgresql]))
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
