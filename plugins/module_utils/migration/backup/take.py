"""Takes a backup: one snapshot, dumped by pg_dump and counted and hashed beside it."""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..core import ledger
from ..core.connection import connected, explained, first_row, sql
from ..core.files import sync_directory
from ..postgres.content import lock
from . import content as backup_content
from . import databases as backup_server
from . import preflight, programs
from . import store as backup_store
from .settings import Settings

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor


def take(settings: Settings) -> dict[str, Any]:
    """Take a backup and return its manifest, not verified yet. Removes nothing but what a killed run left behind.

    The caller holds the lock of the directory.

    :raises MigrationError: nothing of it is left behind then.
    """
    started = time.monotonic()
    with explained("taking a backup"), connected(settings.login) as connection:
        ledger.require(connection)
        major, version = backup_server.server_version(connection)
        client_version = programs.require_client(settings, major)
        preflight.require_readable(connection)
        backup_store.remove_partial(settings.directory)
        preflight.require_room_for_dump(settings)
        backup_store.reconcile(connection, settings.directory)
        number = backup_store.next_number(settings.directory)
        taken_at, name = _next_name(connection, settings)
        partial = settings.directory / (backup_store.PARTIAL_PREFIX + name)
        partial.mkdir(mode=0o700)
        with ExitStack() as undo:
            undo.callback(backup_store.remove, partial, (backup_store.DUMP, backup_store.ROLES))
            content = _dump(settings, connection, major, partial / backup_store.DUMP)
            programs.dump_roles(settings, major, partial / backup_store.ROLES)
            manifest = {
                # In format 1 the sum of a table with a column called t was that of this column alone.
                "format": 2,
                "number": number,
                "name": name,
                "host": socket.gethostname(),
                "directory": str(settings.directory),
                "database": settings.login.database,
                "taken_at": taken_at.isoformat(),
                "server_version": version,
                "client_version": client_version,
                "major": major,
                "files": {
                    file: backup_store.describe_file(partial / file) for file in (backup_store.DUMP, backup_store.ROLES)
                },
                **content,
                "seconds": round(time.monotonic() - started, 2),
                "verified": None,
            }
            backup_store.write_manifest(partial, manifest)
            os.rename(partial, settings.directory / name)
            undo.pop_all()
        sync_directory(settings.directory)
        with connection.cursor() as cursor:
            backup_store.record(cursor, manifest)
        connection.commit()
    return manifest


def _next_name(connection: Connection, settings: Settings) -> tuple[datetime, str]:
    """Return the server's time, which is before the snapshot to come, and a name that is free."""
    while True:
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            now: datetime = first_row(cursor)[0].astimezone(UTC)
        connection.rollback()
        name = backup_store.new_name(settings.login.database, now)
        if not (settings.directory / name).exists():
            return now, name
        time.sleep(0.2)


def _dump(settings: Settings, connection: Connection, major: int, path: Any) -> dict[str, Any]:
    """Write the dump, and return what the same snapshot holds."""
    with connection.cursor() as cursor:
        backup_content.prepare_session(cursor)
        connection.commit()
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        try:
            cursor.execute("SELECT pg_export_snapshot()")
            snapshot = str(first_row(cursor)[0])
            _lock_tables(cursor)
            before = backup_content.sequence_positions(cursor)
            with programs.dump(settings, major, snapshot, path):
                content = backup_content.read_content(cursor)
                content["properties"] = backup_server.read_properties(cursor)
                content |= preflight.read_needs(cursor)
                content["groups"] = backup_content.read_groups(cursor)
            after = backup_content.sequence_positions(cursor)
        finally:
            if not connection.closed:
                connection.rollback()
                connection.set_session(isolation_level="default", readonly="default")
    # A sequence stands outside transactions: the dump has it where it was at some moment in between.
    content["sequences"] = {name: sorted((position, after.get(name, position))) for name, position in before.items()}
    return content


def _lock_tables(cursor: Cursor) -> None:
    """Keep every table from being dropped, emptied or changed in shape until both readers are done."""
    for schema, table in backup_content.table_names(cursor):
        lock(cursor, sql.Identifier(schema, table))
