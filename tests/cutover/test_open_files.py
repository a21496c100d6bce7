"""Who has a file open, and from which ports a process speaks, looked up in real processes."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import open_files

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("CREATE TABLE IF NOT EXISTS t (a)")
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def running(code: str, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program that prints one line when it is ready, and end it."""
    process = subprocess.Popen(
        [sys.executable if not options else "/usr/bin/python3", "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "real.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a)")
    return path


@pytest.mark.promise("foreign-process-refused")
def test_a_process_is_found_under_every_name_of_the_file(database: Path) -> None:
    link = database.with_name("alias.db")
    link.symlink_to(database)
    with running(HOLD, str(link)) as process:
        for name in (database, link):
            holders = open_files.find_holders(name)
            assert {holder.pid for holder in holders} == {process.pid}
            assert {holder.path for holder in holders} == {
                str(database),
                f"{database}-wal",
                f"{database}-shm",
            }
        assert open_files.holds(process.pid, database)
    assert open_files.find_holders(database) == []


def test_a_process_is_found_that_began_before_whoever_looks(database: Path) -> None:
    ours = os.getpid()
    with database.open("rb"):
        pid = os.fork()
        if pid == 0:
            is_found = [holder.pid for holder in open_files.find_holders(database)] == [ours]
            os._exit(0 if is_found else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_write_ahead_log_alone_counts(database: Path) -> None:
    log = Path(f"{database}-wal")
    log.touch()
    with running(
        "import sys; f = open(sys.argv[1]); print('ready', flush=True); sys.stdin.read()", str(log)
    ) as process:
        assert [holder.pid for holder in open_files.find_holders(database)] == [process.pid]


def test_a_file_of_the_same_name_elsewhere_is_another_file(database: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with running(HOLD, str(tmp_path / "other" / "real.db")):
        assert open_files.find_holders(database) == []


def test_only_the_program_and_its_first_argument_are_shown(database: Path) -> None:
    with running(HOLD, str(database), "--password=hush") as process:
        (command,) = {holder.command for holder in open_files.find_holders(database)}
        assert command == f"{sys.executable} -c"
        assert process.pid > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_a_process_of_another_user_is_seen() -> None:
    code = "import sys; f = open(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
    # Not below pytest's own directory, which every pytest closes when it starts.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        path = Path(place) / "real.db"
        path.touch(mode=0o666)
        with running(code, str(path), user="nobody", group="nogroup", extra_groups=[]) as process:
            assert [holder.pid for holder in open_files.find_holders(path)] == [process.pid]


def test_descendants_belong_to_the_family() -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with running(code) as process:
        family = open_files.family_of([process.pid])
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert family == {process.pid, *map(int, children)}
        assert len(family) == 2
        for child in children:
            os.kill(int(child), 9)
    assert open_files.family_of([0]) == set()


def test_ports_and_environment_are_those_of_the_process() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        code = (
            f"import socket, sys; c = socket.create_connection(('127.0.0.1', {port})); "
            "print('ready', flush=True); sys.stdin.read()"
        )
        with running(code) as process:
            accepted, (_, client_port) = listener.accept()
            with accepted:
                assert open_files.local_ports(process.pid) == {client_port}
                assert client_port not in open_files.local_ports(os.getpid())
            assert open_files.environment_of(process.pid)["PATH"] == os.environ["PATH"]


def test_the_port_of_a_connection_is_held_until_its_process_is_gone() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        code = (
            f"import socket, sys; c = socket.create_connection(('127.0.0.1', {port})); "
            "print('ready', flush=True); sys.stdin.read()"
        )
        with running(code):
            accepted, (_, client_port) = listener.accept()
            assert client_port in open_files.held_ports()
        # The server's end still stands: it does not know yet.
        with accepted:
            assert client_port not in open_files.held_ports()


def test_a_process_that_is_gone_holds_nothing(database: Path) -> None:
    with running(HOLD, str(database)) as process:
        pass
    assert not open_files.holds(process.pid, database)
    assert open_files.local_ports(process.pid) == set()
    assert open_files.environment_of(process.pid) == {}
