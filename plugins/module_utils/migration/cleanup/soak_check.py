"""The daily check of each group that lives on PostgreSQL, as a program that a timer starts.

A group passes if its services are well on PostgreSQL, and its frozen file lies where it was, unchanged,
write-protected, and open nowhere; once the file is in quarantine, if it lies there unchanged and its
tombstone stands. What was found goes into ``migration.soak_check``, and a failed check lets the time of
waiting begin anew: :mod:`.cleanup.soak` decides.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import ledger
from ..core.clock import read_clock
from ..core.connection import Login, connected
from ..core.decide import Cleanup, decide
from ..core.errors import MigrationError
from ..core.estate import Group, parse_group
from ..core.files import sha256_of_open
from ..host import open_files, safe_paths
from ..host.service_health import Listings, look_once
from ..quarantine import move_in
from . import soak
from .records import LEGACY, QUARANTINED, FileRecord, read_files

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


def services_failures(connection: Connection, group: Group, listings: Listings | None = None) -> list[str]:
    """Return what is wrong with a group's services, one sentence each: pm2, the health address, the store.

    :param listings: shared by the groups that are looked at together.
    """
    try:
        answers = look_once(connection, group, listings)
    except MigrationError as error:
        return _sentences(error)
    return [f"service {name}: {health.shortcoming}" for name, health in answers.items() if health.shortcoming]


def frozen_file_failures(group: Group, record: ledger.GroupRecord, before: Any) -> tuple[list[str], dict[str, Any]]:
    """Return what is wrong with a group's frozen file, and its stamp.

    Its directory may be the service's, so it is opened like everything of somebody else's: a fifo or a symlink
    that was put there must neither hold the check up nor lead it elsewhere.

    :param before: the stamp of the check before this one; its times must be the same, too.
    """
    path = Path(os.path.realpath(group.source_path))
    try:
        with (
            safe_paths.open_directory(path.parent) as directory,
            safe_paths.open_file(directory, path.name, path) as file,
        ):
            status = os.fstat(file)
            stamp = {
                "inode": status.st_ino,
                "size": status.st_size,
                "modified_ns": status.st_mtime_ns,
                "changed_ns": status.st_ctime_ns,
            }
            failures = []
            if isinstance(before, dict) and before != stamp:
                failures.append(f"{path} was written to, replaced, or lost its write protection since the last check")
            # Anybody can make a huge file of holes; one of the size that it had is read.
            same_size = not isinstance(before, dict) or before.get("size") == stamp["size"]
            if not same_size or sha256_of_open(file) != record.frozen_sha256:
                failures.append(f"{path} is no longer the file that was frozen at the cutover")
            if not safe_paths.is_protected(file):
                failures.append(f"{path} is not write-protected any more")
            for suffix in ("-wal", "-journal"):
                companion = safe_paths.identify(directory, f"{path.name}{suffix}")
                if companion is not None and (companion.kind != "file" or companion.size):
                    failures.append(f"{path}{suffix} holds bytes that were written since the cutover")
        for holder in open_files.find_holders(path):
            failures.append(f"{path} is open in process {holder.pid} ({holder.command})")
    except OSError as error:
        return [f"{path} cannot be looked at: {error.strerror}"], {}
    except MigrationError as error:
        return _sentences(error), {}
    return failures, stamp


def run(connection: Connection, groups: Sequence[Group]) -> list[str]:
    """Check every group that lives on PostgreSQL and write down what was found; return every failure.

    Each group's lock is waited for, so that a cutover or a rollback in this moment is no failure.
    """
    found = []
    for group in groups:
        with ledger.locked(connection, f"group {group.name}", 600.0):
            record = ledger.read_group(connection, group.name, group.source_path)
            if decide(record).cleanup in (Cleanup.ARCHIVE, Cleanup.REMOVE):
                file = read_files(connection).get(group.source_path)
                connection.rollback()
                found += [f"{group.name}: {failure}" for failure in _check(connection, group, record, file)]
    with ledger.locked(connection, "cleanup", 600.0):
        found += _check_legacy(connection)
    return found


def _check(connection: Connection, group: Group, record: ledger.GroupRecord, file: FileRecord | None) -> list[str]:
    """Check one group and write down what was found."""
    failures = services_failures(connection, group)
    extra: dict[str, Any] = {}
    action = decide(record).cleanup
    if action is Cleanup.REMOVE and file is not None and file.step == QUARANTINED:
        period = soak.quarantine_period(file.quarantined_by)
        failures += move_in.inspect(file.moves, file.quarantine)
    elif action is Cleanup.ARCHIVE and record.cutover_at is not None:
        period = soak.cutover_period(record.cutover_at, record.detail.restored_at)
        wrong, stamp = frozen_file_failures(group, record, soak.read_last_stamp(connection, group.name, period))
        failures += wrong
        extra = {"file": stamp} if stamp else {}
    else:
        # A cleanup was killed between two steps; the next one finishes it.
        return failures
    soak.record_check(connection, group.name, period, read_clock(connection), failures, extra)
    connection.commit()
    return failures


def _check_legacy(connection: Connection) -> list[str]:
    """Check the legacy files in quarantine, those of one plan together."""
    plans: dict[str, list[FileRecord]] = {}
    for file in read_files(connection).values():
        if file.kind == LEGACY and file.step == QUARANTINED:
            plans.setdefault(file.quarantined_by, []).append(file)
    connection.rollback()
    found = []
    for plan_id, files in plans.items():
        failures = [failure for file in files for failure in move_in.inspect(file.moves, file.quarantine)]
        period = soak.quarantine_period(plan_id)
        soak.record_check(connection, soak.LEGACY, period, read_clock(connection), failures)
        connection.commit()
        found += failures
    return found


def _sentences(error: MigrationError) -> list[str]:
    """Return an error as sentences."""
    return [f"{problem.where}: {problem.what}" for problem in error.problems] or [error.summary]


def main(arguments: Iterable[str] | None = None) -> int:
    """Run the check as the settings file says, and return the exit code: 1 if a group has failed.

    The one argument is a JSON file with ``groups`` and ``login``; the password comes from ``PGPASSFILE``.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) != 1:
        print("usage: sqlite-soak-check SETTINGS.json", file=sys.stderr)
        return 2
    try:
        settings = json.loads(Path(words[0]).read_text(encoding="utf-8"))
        groups = [parse_group(entry) for entry in settings["groups"]]
        login = Login.from_arguments({"login_password": None, **settings["login"]})
        with connected(login) as connection:
            ledger.require(connection)
            failures = run(connection, groups)
    except MigrationError as error:
        print(error, file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError) as error:
        print(f"{words[0]} cannot be used: {error}", file=sys.stderr)
        return 2
    for failure in failures:
        print(f"The soak time begins anew: {failure}", file=sys.stderr)
    if not failures:
        print("Every group has passed.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
