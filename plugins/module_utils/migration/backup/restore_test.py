"""Proves that a backup restores: into a scratch database, where every count and hash must be equal."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

from ..core.connection import connected, explained, first_row
from ..core.errors import MigrationError, Problem
from . import content as backup_content
from . import databases as backup_server
from . import programs
from . import store as backup_store
from .settings import Settings

SUFFIX = "_restore_drill"
_SHOWN = 30


class BackupBroken(MigrationError):
    """The backup itself is at fault, not its surroundings: it does not count as verified any longer."""


def drill(settings: Settings, manifest: dict[str, Any]) -> dict[str, Any]:
    """Restore a backup into the scratch database, compare, mark it verified and return its new manifest.

    The scratch database is dropped in every case, also one that a killed drill left behind. The caller holds the
    lock of the directory.

    :raises BackupBroken: if a file or what was restored is not what the manifest says; the mark is taken away.
    :raises MigrationError: if it could not be tried.
    """
    started = time.monotonic()
    scratch = backup_server.name_with(settings.login.database, SUFFIX)
    try:
        require_files(settings, manifest)
        with backup_server.alone(settings):
            with backup_server.work_database(settings, scratch, manifest, "restore drill") as disk:
                restore_and_compare(settings, manifest, scratch, disk)
            backup_server.drop(settings, scratch)
    except BackupBroken:
        _take_mark_away(settings, manifest)
        raise
    return _mark(settings, manifest, round(time.monotonic() - started, 2))


def require_files(settings: Settings, manifest: dict[str, Any]) -> None:
    """Read the backup's files and compare their hashes.

    :raises BackupBroken: naming every file that is not the manifest's.
    """
    problems = backup_store.file_problems(settings.directory, manifest)
    if problems:
        fix = "Take a new backup; restore an older one, or this one from its copy on another host"
        raise BackupBroken(
            f"Backup {manifest['name']} is damaged.", [Problem(where, what, fix) for where, what in problems]
        )


def restore_and_compare(settings: Settings, manifest: dict[str, Any], database: str, disk: Path | None) -> None:
    """Restore a backup into an empty database and compare all that it then holds with the manifest.

    :param disk: where the database lies, if that is known.
    :raises BackupBroken: naming what differs.
    """
    with connected(replace(settings.login, database=database)) as connection:
        major, _ = backup_server.server_version(connection)
        programs.require_client(settings, major)
    dump = settings.directory / manifest["name"] / backup_store.DUMP
    programs.restore(settings, major, dump, database, disk)
    with (
        explained("reading back what was restored"),
        connected(replace(settings.login, database=database)) as connection,
    ):
        found = backup_content.read_all(connection, manifest)
    lines = backup_content.differences(manifest, found, definitions=major == manifest["major"])
    if lines:
        if len(lines) > _SHOWN:
            lines[_SHOWN:] = [f"and {len(lines) - _SHOWN} more"]
        fix = "Take a new backup; do not rely on this one"
        raise BackupBroken(
            f"Backup {manifest['name']} does not restore to what was saved.",
            [Problem(manifest["name"], line, fix) for line in lines],
        )


def _mark(settings: Settings, manifest: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Say on disk, then in the ledger, when the backup was verified; return the new manifest."""
    with explained("recording the drill"), connected(settings.login) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now = first_row(cursor)[0].astimezone(UTC)
        marked = {**manifest, "verified": {"at": now.isoformat(), "seconds": seconds}}
        backup_store.write_manifest(settings.directory / manifest["name"], marked)
        # Not this row alone: what an earlier run could not write is written now.
        backup_store.reconcile(connection, settings.directory)
    return marked


def _take_mark_away(settings: Settings, manifest: dict[str, Any]) -> None:
    """Say on disk, then in the ledger, that the backup is not verified; without a server the next run does."""
    backup_store.write_manifest(settings.directory / manifest["name"], {**manifest, "verified": None})
    with suppress(MigrationError), explained("recording the drill"), connected(settings.login) as connection:
        backup_store.reconcile(connection, settings.directory)
