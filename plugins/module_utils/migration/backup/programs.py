"""PostgreSQL's own programs, of the server's major version: pg_dump, pg_dumpall and pg_restore."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.commands import playbook
from ..core.connection import Login, connected, first_row, make_dsn
from ..core.errors import MigrationError, Problem
from ..postgres.client_programs import NoVersion, version_of
from . import preflight
from .settings import Settings

_LOCK_WAIT_MILLISECONDS = 60_000
_LAST_LINES = 3
# How the lines begin in which a server says what it was at work on: the row that it refuses, and the COPY around it.
_DETAILS = ("DETAIL:", "CONTEXT:", "STATEMENT:", "Command was:")
_WATCH_SECONDS = 0.2


class ProgramFailed(MigrationError):
    """One of PostgreSQL's programs ended with an error."""


def require_client(settings: Settings, major: int) -> str:
    """Return the version of the client programs.

    :raises MigrationError: if they are missing or not of the server's major version.
    """
    program = settings.programs_for(major) / "pg_dump"
    fix = f"Install postgresql-client-{major}: {playbook('1_infrastructure')} does"
    try:
        found, version = version_of(str(program))
    except NoVersion as error:
        raise MigrationError("There is no usable pg_dump.", [Problem(str(program), str(error), fix)]) from None
    if found != major:
        raise MigrationError(
            "The client programs are of another version than the server.",
            [Problem(str(program), f"its version is {version}, the server's {major}", fix)],
        )
    return version


# A row that is refused, and the COPY around it, hold values of secret columns. The program itself says what is wrong.
_NO_ROW_IN_THE_LOG = " ".join(
    f"-c {setting}"
    for setting in (
        "log_min_messages=fatal",
        "log_error_verbosity=terse",
        "log_min_error_statement=panic",
        "log_statement=none",
        "log_min_duration_statement=-1",
        "log_min_duration_sample=-1",
        "log_transaction_sample_rate=0",
    )
)


def _environment(login: Login | None) -> dict[str, str]:
    """Return a child's environment. Only its own user can read it, so the password may stand in it."""
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    if login is not None:
        environment |= {
            "PGHOST": login.host,
            "PGPORT": str(login.port),
            "PGUSER": login.user,
            "PGSSLMODE": login.ssl_mode,
            "PGCONNECT_TIMEOUT": str(login.connect_timeout),
            "PGAPPNAME": "sqlite_to_postgresql backup",
            # Nothing of the account's own decides.
            "PGPASSFILE": "/dev/null",
            "PGSERVICEFILE": "/dev/null",
        }
        if login.password is not None:
            environment["PGPASSWORD"] = login.password
        if login.ca_cert is not None:
            environment["PGSSLROOTCERT"] = login.ca_cert
    return environment


@contextmanager
def running(
    settings: Settings,
    major: int,
    program: str,
    arguments: Sequence[str],
    disk: Path | None = None,
    session_options: str = "",
) -> Iterator[None]:
    """Run one of PostgreSQL's programs while the block does its own work; wait for it at the end.

    :param session_options: settings of its sessions, as libpq takes them in ``PGOPTIONS``.
    :param disk: where it writes, if that is known: the program is ended before it eats up the reserve there.
    :raises ProgramFailed: with its last words, if it fails. It is ended if the block fails.
    """
    path = settings.programs_for(major) / program
    command = [str(path), "--no-password", *arguments]
    if settings.login.session_role and program != "pg_dumpall":
        command += ["--role", settings.login.session_role]
    with subprocess.Popen(
        command,
        env=_environment(settings.login) | {"PGOPTIONS": session_options},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        umask=0o077,
    ) as process:
        lines: list[str] = []
        low: list[int] = []
        ended = threading.Event()
        threads = [threading.Thread(target=_keep_last, args=(process, lines), daemon=True)]
        if disk is not None:
            watching = (process, disk, settings.reserve_bytes, ended, low)
            threads.append(threading.Thread(target=_watch_disk, args=watching, daemon=True))
        for thread in threads:
            thread.start()
        try:
            yield
        except BaseException:
            process.kill()
            raise
        finally:
            status = process.wait()
            ended.set()
            for thread in threads:
                thread.join()
    if status != 0 and low:
        what = f"only {low[0]:,} bytes were left free, and {settings.reserve_bytes:,} are to stay free"
        raise ProgramFailed(
            f"{program} was ended before it filled the disk.", [Problem(str(disk), what, preflight.FREE_SPACE)]
        )
    if status != 0:
        fix = "Correct what it says, then run again"
        if any("No space left on device" in line for line in lines):
            fix = "Free space there, then run again"
        raise ProgramFailed(f"{program} failed.", [Problem(program, " / ".join(lines) or f"exit code {status}", fix)])


def run_program(settings: Settings, major: int, program: str, arguments: Sequence[str]) -> None:
    """Run one of PostgreSQL's programs to its end; see :func:`running`."""
    with running(settings, major, program, arguments):
        pass


def _keep_last(process: subprocess.Popen[str], lines: list[str]) -> None:
    """Read a child's errors, and keep the last lines without what may hold values of a row."""
    holds_a_row = False
    for line in process.stderr or ():
        # The details of an error go on until the program itself speaks again.
        holds_a_row = line.startswith(_DETAILS) or (holds_a_row and not line.startswith("pg_"))
        if not holds_a_row:
            lines.append(line.strip())
            del lines[:-_LAST_LINES]


def _watch_disk(
    process: subprocess.Popen[str], disk: Path, reserve: int, ended: threading.Event, low: list[int]
) -> None:
    """End a child as soon as fewer bytes than the reserve are free; say in ``low`` how many."""
    while not ended.wait(_WATCH_SECONDS):
        free = preflight.free_bytes(disk)
        if free < reserve:
            low.append(free)
            process.kill()
            return


def dump(settings: Settings, major: int, snapshot: str, path: Path) -> Any:
    """Return the context in which pg_dump writes the database, as an exported snapshot shows it, into a file."""
    arguments = ["--format=custom", f"--snapshot={snapshot}", f"--lock-wait-timeout={_LOCK_WAIT_MILLISECONDS}"]
    dsn = make_dsn(dbname=settings.login.database)
    return running(settings, major, "pg_dump", [*arguments, f"--file={path}", f"--dbname={dsn}"], path.parent)


def dump_roles(settings: Settings, major: int, path: Path) -> None:
    """Write every role and its memberships, without passwords, as SQL into a file."""
    dsn = make_dsn(dbname=settings.maintenance_database)
    run_program(
        settings, major, "pg_dumpall", ["--roles-only", "--no-role-passwords", f"--file={path}", f"--dbname={dsn}"]
    )


def restore(settings: Settings, major: int, path: Path, database: str, disk: Path | None) -> None:
    """Restore a dump into an empty database, which lies on this disk if it is known, to the first error.

    No row of it is written into the server's log. A superuser says so for the session; the migrator's role has such
    settings of its own where the server is ours.
    """
    dsn = make_dsn(dbname=database)
    login = replace(settings.login, database=database, session_role=None)
    with connected(login, read_only=True) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('is_superuser')")
        options = _NO_ROW_IN_THE_LOG if first_row(cursor) == ("on",) else ""
    arguments = ["--exit-on-error", f"--dbname={dsn}", str(path)]
    with running(settings, major, "pg_restore", arguments, disk, options):
        pass
