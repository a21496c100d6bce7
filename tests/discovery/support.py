"""Directories with real databases, and real processes that hold them open."""

from __future__ import annotations

import glob
import os
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.discovery import discover
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.discovery.discover import (
    Discovery,
    Legacy,
    Source,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.discovery.files import Limits
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import (
    compose_services,
    open_files,
)

SCRIPT = """CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, api_token TEXT);
INSERT INTO users VALUES (1, 'ada', 'tok-3141592653'), (2, 'bob', 'tok-2718281828');"""
SECRET = "tok-3141592653"
# Opens the databases that it is told, and perhaps answers HTTP on a port that it prints.
_SERVICE = """
import http.server, sqlite3, sys
kind, mode, *paths = sys.argv[1:]
held = [sqlite3.connect(path, isolation_level=None) for path in paths]
for connection in held:
    if mode == "wal":
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("INSERT INTO users VALUES (3, 'cy', NULL)")
    if mode == "mapped":
        connection.execute("PRAGMA mmap_size = 1048576")
    connection.execute("SELECT count(*) FROM users").fetchone()
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == kind else 302)
        self.send_header("Location", "/")
        self.end_headers()
    def log_message(self, *arguments):
        pass
if kind == "silent":
    print(0, flush=True)
    sys.stdin.read()
else:
    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""
NOBODY_UID = 65534
# Every user may run it, unlike that of the tests.
PYTHON = "/usr/bin/python3"


def make_database(path: Path, script: str = SCRIPT) -> Path:
    """Make a database, and the directories on its way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path


@contextmanager
def holding(
    *paths: Path,
    kind: str = "silent",
    mode: str = "plain",
    directory: Path | None = None,
    uid: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, int]]:
    """Run a process that has databases open, and give its id and the port that it listens on, or 0.

    :param kind: the path that it answers with status 200, or ``silent`` to listen on no port.
    :param mode: ``wal`` to write into the log, ``mapped`` to map the file.
    """
    process = subprocess.Popen(
        [PYTHON, "-c", _SERVICE, kind, mode, *map(str, paths)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=directory,
        user=uid,
        group=uid,
        extra_groups=[] if uid is not None else None,
        env={**os.environ, **(environment or {})},
    )
    with process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


def look_at(
    root: Path,
    *directories: Path,
    left_out: Sequence[str] = (),
    total_seconds: float = 60,
    unused_files: int = 200,
    login: Login | None = None,
    existing_schemas: tuple[str, ...] = (),
    tries: bool = False,
    check_mode: bool = False,
    moved_files: tuple[str, ...] = (),
    asks_docker: bool = False,
    **limits: int,
) -> Discovery:
    """Return what is found, but for what other processes of this machine have open elsewhere.

    :param asks_docker: for a test that has started a container itself.
    """
    # Patterns of every path that begins otherwise than the directory of this test does.
    inside = f"{root}/"
    other = [f"{glob.escape(inside[:length])}[!{inside[length]}]*" for length in range(len(inside))]
    work = root / "snapshots"
    work.mkdir(exist_ok=True)
    options = discover.Options(
        Limits(skipped=frozenset(["node_modules"]), left_out=(*other, *left_out), **limits),
        tuple(map(str, directories)),
        str(work),
        60,
        total_seconds,
        unused_files,
        login,
        existing_schemas,
        tries,
        check_mode,
        moved_files,
    )
    with pytest.MonkeyPatch.context() as patch:
        # Of a machine where much else runs, Docker and each process are asked by every test otherwise.
        if not asks_docker:
            patch.setattr(compose_services, "describe_all", lambda: [])
        patch.setattr(open_files, "_process_ids", _younger_processes)
        found = discover.discover(options)
    assert list(work.iterdir()) == []
    return found


def _younger_processes() -> list[int]:
    """Return the ids of the processes that have begun since this one, and of the first of all."""
    begun = _beginning_of(os.getpid())
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _beginning_of(int(entry)) >= begun] + [1]


def _beginning_of(pid: int) -> int:
    """Return when a process began, in ticks since the machine did; -1 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return -1
    return int(text.rpartition(b")")[2].split()[19])


def source_at(found: Discovery, path: Path) -> Source:
    """Return the source at a path."""
    return next(source for source in found.sources if source.database.path == str(path))


def legacy_at(found: Discovery, path: Path) -> Legacy:
    """Return the unused database at a path."""
    return next(entry for entry in found.legacy if entry.database.path == str(path))


def state_of(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Return mode, size and time of change of everything below a directory."""
    return {
        str(path.relative_to(directory)): (info.st_mode, info.st_size, info.st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        for info in [path.lstat()]
    }
