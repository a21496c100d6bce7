"""The frozen file: complete by itself, write-protected, and as it was once the protection is gone."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.files import sha256_of
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import write_protection
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.services import (
    checkpoint,
    wait_until_closed,
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "real.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a)")
    path.chmod(0o640)
    yield path
    write_protection.unprotect(path, {"mode": "0640"})


def rows_of(path: Path) -> int:
    """Return the rows that the file holds by itself."""
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])


@pytest.mark.promise("frozen-file-write-protected")
def test_a_protection_stops_writers_and_leaves_no_trace(database: Path) -> None:
    described = write_protection.describe(database)
    kind = write_protection.protect(database)
    assert write_protection.is_protected(database)
    if kind == write_protection.IMMUTABLE:
        assert "i" in subprocess.check_output(["lsattr", str(database)], text=True).split()[0]
        with pytest.raises(PermissionError):
            database.open("ab")
        with pytest.raises(PermissionError):
            database.unlink()
    else:
        assert kind == write_protection.READ_ONLY
    # It still holds every secret: nobody but its owner reads it.
    assert stat.S_IMODE(database.stat().st_mode) == (0o600 if kind == write_protection.IMMUTABLE else 0o400)
    assert write_protection.protect(database) == kind
    if kind == write_protection.IMMUTABLE:
        # Somebody takes the attribute away.
        write_protection.set_immutable(database, False)
        assert not write_protection.is_protected(database)
        assert write_protection.protect(database) == kind
    write_protection.unprotect(database, described)
    write_protection.unprotect(database, described)
    assert not write_protection.is_protected(database)
    assert stat.S_IMODE(database.stat().st_mode) == 0o640
    with database.open("ab"):
        pass


def test_a_file_that_is_not_protected_keeps_a_mode_of_its_own(database: Path) -> None:
    """A group that is on SQLite again is looked after without a record of a former mode."""
    database.chmod(0o600)
    write_protection.unprotect(database, {})
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    database.chmod(0o400)
    write_protection.unprotect(database, {})
    assert stat.S_IMODE(database.stat().st_mode) == 0o600


@pytest.mark.promise("frozen-file-write-protected")
def test_without_the_attribute_the_file_becomes_read_only(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a file system without attributes answers.
    monkeypatch.setattr(write_protection, "_SET_FLAGS", 0)
    described = write_protection.describe(database)
    assert write_protection.protect(database) == write_protection.READ_ONLY
    assert stat.S_IMODE(database.stat().st_mode) == 0o400
    assert write_protection.is_protected(database)
    write_protection.unprotect(database, described)
    assert stat.S_IMODE(database.stat().st_mode) == 0o640


@pytest.mark.promise("frozen-file-write-protected")
def test_rows_of_the_log_are_brought_into_the_file(database: Path, tmp_path: Path) -> None:
    # A process that was killed leaves its rows in the log.
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
        "c.execute('INSERT INTO t VALUES (1)'); c.commit(); os._exit(1)"
    )
    subprocess.run(["python3", "-c", code, str(database)], check=False)
    assert rows_of(database) == 0
    before = sha256_of(database)
    checkpoint(database)
    assert rows_of(database) == 1
    assert sha256_of(database) != before
    assert not os.path.exists(f"{database}-wal")


def test_a_hot_journal_is_rolled_back(tmp_path: Path) -> None:
    path = tmp_path / "rollback.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
    # The pages reach the file before the commit, and then the process dies.
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA cache_size = 1'); "
        "c.execute('BEGIN'); c.executemany('INSERT INTO t VALUES (?)', [('x' * 2000,)] * 200); os._exit(1)"
    )
    subprocess.run(["python3", "-c", code, str(path)], check=False)
    assert Path(f"{path}-journal").stat().st_size > 0
    checkpoint(path)
    assert rows_of(path) == 1


def test_a_process_that_stays_is_named(database: Path) -> None:
    code = "import sys; f = open(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        ["python3", "-c", code, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        with pytest.raises(MigrationError, match=f"process {process.pid} "):
            wait_until_closed(str(database), 0.3)
    finally:
        process.communicate()
    wait_until_closed(str(database), 0.3)
