"""The services of a cutover group and the file they share: stop, settings, start, and the file at rest."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..core.errors import MigrationError, Problem
from ..core.estate import Group, Service
from ..host import dotenv_file, open_files
from ..host.managers import each_with_services, key_of
from ..host.safe_paths import Opened, files_as_owner, open_owned, refused
from ..host.service_health import Health, Watcher
from ..sqlite.snapshot import require_usual_journals
from .checks import EnvFile, Settings
from .context import WindowContext

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# How long SQLite waits for who still reads the log; by then nobody should.
LOG_SECONDS = 10.0


def watch(context: WindowContext) -> Watcher:
    """Return a watcher of a group's services."""
    settings = context.settings
    return Watcher(context.group, context.handles.managers, settings.services_login, settings.role_passwords)


def stop(context: WindowContext) -> None:
    """Stop a group's services, so that nothing starts them again."""
    for manager, services in each_with_services(context.handles.managers, context.group.services):
        names = {service.name for service in services}
        # What was stopped before is not as it was listed any more: whether somebody has started it since is asked.
        listed = None if names & context.removed else context.handles.processes
        manager.stop_services(services, listed)
        context.removed.update(names)


def start(context: WindowContext, services: Iterable[Service]) -> None:
    """Start services anew, all at the same time, with the settings that they have now."""
    services = list(services)
    managers, removed = context.handles.managers, context.removed
    for manager, own in each_with_services(managers, services):
        manager.stop_services([service for service in own if service.name not in removed], None)
    removed.difference_update(service.name for service in services)
    with ThreadPoolExecutor(max_workers=max(len(services), 1)) as pool:
        for started in [pool.submit(managers[key_of(service)].start_service, service) for service in services]:
            started.result()


def require_healthy(context: WindowContext, store: str, old_pids: Iterable[int] = ()) -> list[Health]:
    """Wait until started services are healthy on a store, and watch them for a while.

    :param old_pids: processes that must be gone.
    :raises MigrationError: naming each service that is not healthy, or does not stay so.
    """
    with closing(watch(context)) as watcher:
        healths = watcher.wait(context.group.services, store, context.settings.health_timeout, old_pids)
        watcher.watch(healths, context.settings.stable_seconds)
    return healths


def save(context: WindowContext, check_mode: bool = False) -> bool:
    """Let the next boot start the services as they run now, and return whether something was changed for that."""
    changed = False
    for manager, services in each_with_services(context.handles.managers, context.group.services):
        secrets = [context.settings.role_passwords.get(service.database_role, "") for service in services]
        changed |= manager.save_services(services, secrets, check_mode)
    return changed


def forget_stopped(context: WindowContext, check_mode: bool = False) -> bool:
    """Forget what was stopped together with services that are well now, and return whether there was anything.

    A later window would start it again, also if a person has stopped it since.
    """
    changed = False
    for manager, services in each_with_services(context.handles.managers, context.group.services):
        changed |= manager.forget_stopped(services, check_mode)
    return changed


def write_env_files(env_files: Iterable[EnvFile], settings: Settings, store: str) -> None:
    """Write the dotenv files for a store, where they are not already so."""
    for entry in env_files:
        wanted = entry.render(entry.read(), settings, store)
        entry.write(wanted)


def diff(env_files: Iterable[EnvFile], settings: Settings, to: str) -> list[dict[str, str]]:
    """Return each dotenv file as it is and as it has to be, for ``--diff``, with every secret masked."""
    return [
        {
            "before_header": entry.service.env_path,
            "after_header": entry.service.env_path,
            "before": dotenv_file.masked(text),
            "after": dotenv_file.masked(entry.render(text, settings, to)),
        }
        for entry, text in [(entry, entry.read()) for entry in env_files]
    ]


def wait_until_closed(path: str, timeout: float) -> None:
    """Wait until no process has the file open any more.

    :raises MigrationError: naming the processes that still have it open after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        holders = open_files.find_holders(path)
        if not holders:
            return
        if time.monotonic() > deadline:
            raise MigrationError(
                f"{path} is still open {timeout:g} seconds after its services were stopped.",
                [
                    Problem(
                        holder.path,
                        f"process {holder.pid} ({holder.command}) has it open",
                        "End this process, or raise service_env_stop_timeout",
                    )
                    for holder in holders
                ],
            )
        time.sleep(0.1)


@contextmanager
def open_source(group: Group, inode: int | None = None, links: int | None = 1) -> Iterator[Opened]:
    """Open the SQLite file of a group, which its services' users may exchange for anything else at any moment.

    :param inode: refuse any other file.
    :param links: how many names it may have; None for any number, where it is only looked at.
    :raises MigrationError: if it is missing, no regular file, or somebody else's.
    """
    try:
        with open_owned(group.source_path, group.users, inode, links) as source:
            yield source
    except FileNotFoundError:
        what, fix = "the file does not exist", "Put the file back, then run again"
        raise refused(group.source_path, what, fix) from None


def checkpoint(path: Path, owner: os.stat_result | None = None) -> None:
    """Bring every row of the write-ahead log or a hot journal into the file, so that it is complete by itself.

    SQLite knows files by their names only. So it works with the rights of the file's owner.

    :param owner: status of the file from its open descriptor; None to work with our own rights.
    :raises MigrationError: if rows are left in the log, or something else than a journal has the name of one.
    """
    require_usual_journals(path)
    with (
        nullcontext() if owner is None else files_as_owner(owner),
        closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=LOG_SECONDS)) as connection,
    ):
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if not has_no_log(path):
        raise MigrationError(
            f"The write-ahead log of {path} cannot be emptied.",
            [Problem(f"{path}-wal", "rows are left in it", "Find out who has the file open (fuser), then run again")],
        )


def require_at_rest(path: Path) -> None:
    """Refuse a frozen file that somebody has open, or beside which rows have appeared since it was completed.

    :raises MigrationError: naming the processes, or the log that holds rows.
    """
    problems = [
        Problem(holder.path, f"process {holder.pid} ({holder.command}) has opened it since", "End it, then run again")
        for holder in open_files.find_holders(path)
    ]
    if not has_no_log(path):
        fix = "Find out who writes to it, and stop that too, then run again"
        problems.append(Problem(f"{path}-wal", "somebody has written rows to it since the file was completed", fix))
    if problems:
        raise MigrationError(f"{path} does not stay as it was frozen.", problems)


def limit_waits(connection: Connection, seconds: float) -> None:
    """Let no statement of a session wait longer for a lock: the services are stopped meanwhile."""
    connection.rollback()
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, false)", (f"{max(1, round(seconds * 1000))}ms",))
    connection.commit()


def identity_of(file: Path | int) -> tuple[int, ...]:
    """Return what changes if a file is written to or exchanged; only its hash would tell more, and takes its time.

    :param file: its path, or its open descriptor.
    """
    info = os.stat(file)
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def require_unchanged(path: Path, identity: tuple[int, ...]) -> None:
    """Refuse a frozen file that was written to or exchanged although it is write-protected.

    :param identity: from :func:`identity_of`, before it was read or hashed.
    :raises MigrationError: if it is another now.
    """
    if identity_of(path) != identity:
        fix = "Find out who writes to it, and stop that too, then run again"
        raise MigrationError(
            f"{path} does not stay as it was frozen.",
            [Problem(str(path), "somebody has written to it, or exchanged it, in spite of its write protection", fix)],
        )


def has_no_log(path: Path) -> bool:
    """Return whether no row is kept beside the file."""
    log = Path(f"{os.path.realpath(path)}-wal")
    return not log.exists() or log.stat().st_size == 0
