"""Says whether there is a backup that can be relied on: verified, young enough, whole, and copied off the host.

Looks at the disk alone, so that it also works, and complains, while the server is down.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ..core.commands import playbook
from ..core.connection import connected, explained, first_row
from ..core.errors import MigrationError, Problem
from ..core.ledger import require
from . import offsite, offsite_methods, preflight
from . import store as backup_store
from .content import read_groups
from .settings import Settings

# Clocks of a server and of this host may differ by so many hours.
_CLOCK_TOLERANCE_HOURS = 0.25


def check(settings: Settings, now: datetime | None = None) -> dict[str, Any]:
    """Return the newest verified backup and its age in hours.

    :param now: this host's time; only tests give another.
    :raises MigrationError: with everything that is wrong.
    """
    now = now or datetime.now(UTC)
    newest = backup_store.newest_verified(backup_store.read_all(settings.directory))
    where, fix = str(settings.directory), f"Run {playbook('backup')}, and look at journalctl -u 'postgres-backup*'"
    if newest is None:
        raise MigrationError(
            "There is no verified backup.", [Problem(where, "no backup was ever proven to restore", fix)]
        )
    problems = []
    limit = settings.maximum_age_hours
    age = _hours(now, backup_store.taken_at(newest))
    what = f"the newest verified backup, {newest['name']},"
    if age > limit:
        problems.append(Problem(where, f"{what} is {age:.1f} hours old, more than {limit:g}", fix))
    if age < -_CLOCK_TOLERANCE_HOURS:
        clock = f"Correct the clock of this host or of the server, then run {playbook('backup')}"
        problems.append(Problem(where, f"{what} was taken {-age:.1f} hours in the future", clock))
    files = backup_store.incomplete_files(settings.directory, newest)
    problems += [Problem(path, wrong, fix) for path, wrong in files]
    problems += _room_problems(settings, newest)
    if settings.copy is not None:
        problems += _copy_problems(settings, now)
    if problems:
        raise MigrationError("The backups cannot be relied on.", problems)
    return {"newest": newest["name"], "age_hours": round(age, 2)}


def _room_problems(settings: Settings, newest: backup_store.Manifest) -> list[Problem]:
    """Return that the next backup will not fit, if it is about as large as the newest verified one."""
    free, size = preflight.free_bytes(settings.directory), backup_store.bytes_on_disk(newest)
    if free >= size + settings.reserve_bytes:
        return []
    what = f"{free:,} bytes are free: too few for another {size:,} and the {settings.reserve_bytes:,} to stay free"
    return [Problem(str(settings.directory), what, preflight.FREE_SPACE)]


def _copy_problems(settings: Settings, now: datetime) -> list[Problem]:
    """Return what is wrong with the copies of the verified backups."""
    target = offsite_methods.shown(settings.copy.target) if settings.copy else ""
    limit = settings.maximum_age_hours
    fix = (
        "Look at journalctl -u postgres-backup.service, correct postgres_backup_copy or the target, and start the unit"
    )
    verified = [manifest for manifest in backup_store.read_all(settings.directory) if manifest["verified"]]
    taken = [backup_store.taken_at(manifest) for manifest in verified if offsite.copied_at(settings, manifest["name"])]
    if not taken:
        return [Problem(target, "no verified backup was ever copied there", fix)]
    age = _hours(now, max(taken))
    if age > limit:
        return [Problem(target, f"the newest backup there is {age:.1f} hours old, more than {limit:g}", fix)]
    return []


def _hours(now: datetime, then: datetime) -> float:
    """Return the hours between two times."""
    return (now - then).total_seconds() / 3600


def reason_to_take(settings: Settings) -> str | None:
    """Return why a backup has to be taken now, or None if a verified one is newer than the last cutover.

    :raises MigrationError: if the server cannot be asked.
    """
    with explained("reading the ledger"), connected(settings.login) as connection, connection.cursor() as cursor:
        require(connection)
        cursor.execute("SELECT coalesce(array_agg(name), '{}') FROM migration.backup WHERE verified_at IS NOT NULL")
        recorded = first_row(cursor)[0]
        groups = read_groups(cursor)
    verified = [
        manifest
        for manifest in backup_store.read_all(settings.directory)
        if manifest["name"] in recorded and backup_store.is_proven(settings.directory, manifest)
    ]
    newest = backup_store.newest_verified(verified)
    if newest is None:
        return "there is no verified backup"
    # What the ledger said in the backup's own snapshot decides, not a clock, which may have been wrong then.
    known = {name: group["cutover_at"] for name, group in newest.get("groups", {}).items()}
    if any(group["cutover_at"] not in (None, known.get(name)) for name, group in groups.items()):
        return f"the newest verified backup, {newest['name']}, is older than the last cutover"
    return None
