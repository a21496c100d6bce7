"""A snapshot of a source in any state: crashed, locked, on a read-only disk, or with a service's own functions."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.sqlite import snapshot as snapshots
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.sqlite.snapshot import (
    Snapshot,
    snapshot,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.sqlite.tables import (
    open_snapshot,
    read_left_out,
    unknown_collations,
)

from .support import make_source

# Fills a table, begins to change every row, and dies when the changes have reached the file.
CRASHING_WRITER = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = " + sys.argv[2])
connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT)")
connection.executemany("INSERT INTO rows VALUES (?, ?)", [(n, "committed" * 50) for n in range(500)])
connection.execute("PRAGMA cache_size = 2")
connection.execute("BEGIN")
connection.execute("UPDATE rows SET text = 'half done' || id")
os.kill(os.getpid(), signal.SIGKILL)
"""

# Locks the whole file until it is told to end.
HOLDING_WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("BEGIN EXCLUSIVE")
print(flush=True)
input()
"""


@pytest.fixture
def take(tmp_path: Path) -> Iterator[Callable[..., Snapshot]]:
    """Take snapshots into the test's directory."""
    contexts = []

    def taken(source: Path, **options: Any) -> Snapshot:
        context = snapshot(str(source), str(tmp_path / "work"), **options)
        contexts.append(context)
        return context.__enter__()

    yield taken
    for context in contexts:
        context.__exit__(None, None, None)
    assert not (tmp_path / "work").exists()


def rows_of(copy: Snapshot, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a statement on a snapshot."""
    with closing(open_snapshot(copy.path)) as connection:
        rows: list[tuple[Any, ...]] = connection.execute(statement).fetchall()
    return rows


def bytes_beside(source: Path) -> dict[str, bytes]:
    """Return the bytes of a source and its journals."""
    return {path.name: path.read_bytes() for path in source.parent.glob(f"{source.name}*") if "shm" not in path.name}


def crash(source: Path, journal_mode: str) -> None:
    """Leave a source as a writer leaves it that is killed within a transaction."""
    process = subprocess.run([sys.executable, "-c", CRASHING_WRITER, str(source), journal_mode], check=False)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("journal_mode", ["DELETE", "PERSIST", "TRUNCATE"])
def test_what_a_crashed_writer_left_half_done_is_rolled_back_in_the_copy(
    tmp_path: Path, take: Callable[..., Snapshot], journal_mode: str, frozen: bool
) -> None:
    source = tmp_path / "crashed.db"
    crash(source, journal_mode)
    before = bytes_beside(source)
    assert b"half done" in before["crashed.db"], "the test must leave changes in the file"
    copy = take(source, frozen=frozen)
    assert rows_of(copy, "SELECT count(*), count(DISTINCT text), max(text) FROM rows") == [(500, 1, "committed" * 50)]
    assert bytes_beside(source) == before, "the source's bytes must stay as they are"
    assert [path.name for path in copy.directory.iterdir()] == ["snapshot.db"]
    assert copy.path.stat().st_mode & 0o777 == 0o600


def test_a_crashed_writer_in_wal_mode_leaves_only_what_it_committed(
    tmp_path: Path, take: Callable[..., Snapshot]
) -> None:
    source = tmp_path / "crashed.db"
    crash(source, "WAL")
    before = bytes_beside(source)
    assert rows_of(take(source), "SELECT count(*), count(DISTINCT text) FROM rows") == [(500, 1)]
    assert bytes_beside(source) == before


def test_a_journal_that_its_writer_has_ended_is_no_crash(tmp_path: Path, take: Callable[..., Snapshot]) -> None:
    source = make_source(
        tmp_path / "ended.db", "PRAGMA journal_mode = PERSIST; CREATE TABLE t (x); INSERT INTO t VALUES (1);"
    )
    assert Path(f"{source}-journal").stat().st_size > 0
    assert rows_of(take(source, frozen=True), "SELECT x FROM t") == [(1,)]


def wal_without_index(directory: Path) -> Path:
    """Return a source whose only row lives in its -wal, without the -shm, as a copied directory has it."""
    original = directory / "original.db"
    with closing(sqlite3.connect(original)) as writer:
        writer.executescript("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (x);")
        writer.execute("INSERT INTO t VALUES ('only in the wal')")
        writer.commit()
        source = directory / "copied" / "source.db"
        source.parent.mkdir()
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{original}{suffix}", f"{source}{suffix}")
    assert b"only in the wal" not in source.read_bytes()
    return source


@pytest.mark.promise("rows-in-the-log-arrive")
def test_a_wal_without_its_index_is_read(tmp_path: Path, take: Callable[..., Snapshot]) -> None:
    source = wal_without_index(tmp_path)
    before = bytes_beside(source)
    assert rows_of(take(source), "SELECT x FROM t") == [("only in the wal",)]
    assert bytes_beside(source) == before


@pytest.mark.parametrize("with_wal", [True, False])
def test_a_source_on_a_read_only_disk_is_read(tmp_path: Path, take: Callable[..., Snapshot], with_wal: bool) -> None:
    source = wal_without_index(tmp_path)
    if not with_wal:
        with closing(sqlite3.connect(source)) as writer:
            writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert not Path(f"{source}-wal").exists()
    mount = subprocess.run(["mount", "--bind", source.parent, source.parent], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip(f"cannot mount here: {mount.stderr.decode().strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", source.parent], check=True)
        assert rows_of(take(source), "SELECT x FROM t") == [("only in the wal",)]
        assert len(list(source.parent.iterdir())) == 1 + with_wal
    finally:
        subprocess.run(["umount", source.parent], check=True)


def test_a_source_that_changes_all_the_time_is_refused(
    tmp_path: Path, take: Callable[..., Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "crashed.db"
    crash(source, "DELETE")
    write = snapshots._write_private

    def write_while_it_changes(file: Any, path: Path) -> None:
        write(file, path)
        os.utime(source)

    monkeypatch.setattr(snapshots, "_write_private", write_while_it_changes)
    with pytest.raises(MigrationError, match="it changes all the time"):
        take(source)


@pytest.mark.promise("source-only-read")
@pytest.mark.parametrize("journal_mode", ["WAL", "DELETE"])
def test_a_live_writer_is_not_disturbed(tmp_path: Path, take: Callable[..., Snapshot], journal_mode: str) -> None:
    source = make_source(tmp_path / "live.db", f"PRAGMA journal_mode = {journal_mode}; CREATE TABLE t (x);")
    with closing(sqlite3.connect(source, timeout=0)) as writer:
        writer.execute("INSERT INTO t VALUES ('not yet')")
        assert rows_of(take(source), "SELECT count(*) FROM t") == [(0,)]
        writer.commit()
        assert writer.execute("SELECT count(*) FROM t").fetchone() == (1,)


@pytest.mark.parametrize("crashed", [False, True])
def test_a_writer_that_never_ends_is_named(
    tmp_path: Path, take: Callable[..., Snapshot], monkeypatch: pytest.MonkeyPatch, crashed: bool
) -> None:
    monkeypatch.setattr(snapshots, "LOCK_TIMEOUT_SECONDS", 0.2)
    source = make_source(tmp_path / "locked.db", "CREATE TABLE t (x);")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING_WRITER, str(source)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    if crashed:
        monkeypatch.setattr(snapshots, "_back_up", _as_if_crashed)
    try:
        with pytest.raises(MigrationError, match=r"another process has held its write lock.*stop the service"):
            take(source)
    finally:
        process.communicate(b"\n")
    monkeypatch.undo()
    assert rows_of(take(source), "SELECT count(*) FROM t") == [(0,)]


def _as_if_crashed(*_: Any) -> None:
    error = sqlite3.OperationalError("attempt to write a readonly database")
    error.sqlite_errorcode = sqlite3.SQLITE_READONLY_ROLLBACK
    raise error


@pytest.mark.promise("corrupt-source-refused")
def test_a_corrupt_page_is_named(tmp_path: Path, take: Callable[..., Snapshot]) -> None:
    source = make_source(
        tmp_path / "corrupt.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x); CREATE INDEX i ON t (x);",
        {"t": [(number, "x" * 100) for number in range(200)]},
    )
    data = bytearray(source.read_bytes())
    data[4096 * 3 : 4096 * 3 + 200] = b"\xff" * 200
    source.write_bytes(data)
    with pytest.raises(MigrationError, match=r"(corrupt|cannot read it).*"):
        take(source)


@pytest.mark.promise("corrupt-source-refused")
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_truncated_source_is_refused_by_its_name(tmp_path: Path, take: Callable[..., Snapshot], kept: float) -> None:
    """As a copy that was cut off leaves it, or a disk that was full."""
    source = make_source(
        tmp_path / "cut_off.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x)",
        {"t": [(number, "x" * 100) for number in range(2000)]},
    )
    os.truncate(source, int(source.stat().st_size * kept))
    with pytest.raises(MigrationError, match=r"cut_off\.db"):
        take(source)


# ---------------------------------------------------------------- what only the service knows


def without_case(left: str, right: str) -> int:
    """Order texts as no collation of SQLite does: from the end, without case."""
    return (left.lower()[::-1] > right.lower()[::-1]) - (left.lower()[::-1] < right.lower()[::-1])


def make_with_service_functions(path: Path, script: str) -> Path:
    """Create a source by a connection that has a function and collations of its own."""
    with closing(sqlite3.connect(path)) as connection:
        connection.create_collation("PRENOM", without_case)
        connection.create_collation("my order", without_case)
        connection.create_function("slug", 1, lambda text: text.lower(), deterministic=True)
        connection.executescript(script)
    return path


COLLATED = """
CREATE TABLE names (name TEXT COLLATE prenom PRIMARY KEY, city TEXT, note TEXT DEFAULT 'COLLATE german');
CREATE INDEX by_city ON names (city COLLATE "my order") -- COLLATE english
;
INSERT INTO names VALUES ('Zoë', 'ab', NULL), ('anna', 'ba', NULL), ('Bert', 'AA', NULL), ('bertA', 'zz', NULL);
"""


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
def test_a_byte_wise_order_stands_in_for_an_unknown_collation(
    tmp_path: Path, take: Callable[..., Snapshot], encoding: str
) -> None:
    source = make_with_service_functions(tmp_path / "names.db", f"PRAGMA encoding = '{encoding}';" + COLLATED)
    copy = take(source)
    with closing(open_snapshot(copy.path)) as connection:
        assert unknown_collations(connection) == ("my order", "prenom")
        assert {"kind": "collation", "name": "prenom"} in read_left_out(connection)
        # Looked up through the rebuilt index: the service's own order would miss rows.
        for name in ("Zoë", "anna", "Bert", "bertA"):
            plan = connection.execute("EXPLAIN QUERY PLAN SELECT 1 FROM names WHERE name = ?", (name,)).fetchall()
            assert "USING" in plan[0][3]
            assert connection.execute("SELECT count(*) FROM names WHERE name = ?", (name,)).fetchone() == (1,)
        assert connection.execute("SELECT name FROM names ORDER BY name").fetchall() == [
            ("Bert",), ("Zoë",), ("anna",), ("bertA",),
        ]  # fmt: skip


def test_a_known_collation_is_not_reported(tmp_path: Path, take: Callable[..., Snapshot]) -> None:
    source = make_source(
        tmp_path / "known.db", 'CREATE TABLE t (a TEXT COLLATE nocase, b TEXT COLLATE "BINARY", c COLLATE [rtrim])'
    )
    with closing(open_snapshot(take(source).path)) as connection:
        assert read_left_out(connection) == []


@pytest.mark.parametrize(
    ("script", "user"),
    [
        ("CREATE TABLE t (a TEXT); CREATE INDEX by_slug ON t (slug(a));", "index by_slug"),
        ("CREATE TABLE t (a TEXT); CREATE INDEX partial ON t (a) WHERE slug(a) > 'm';", "index partial"),
        ("CREATE TABLE t (a TEXT, b TEXT AS (slug(a)));", "table t"),
    ],
)
def test_a_function_that_only_the_service_has_is_named(
    tmp_path: Path, take: Callable[..., Snapshot], script: str, user: str
) -> None:
    source = make_with_service_functions(tmp_path / "slugs.db", script + "INSERT INTO t (a) VALUES ('A');")
    with pytest.raises(MigrationError, match=rf"{user} needs the function slug\(\), which SQLite itself does not"):
        take(source)


def test_a_check_constraint_of_the_source_stops_nothing(tmp_path: Path, take: Callable[..., Snapshot]) -> None:
    source = make_with_service_functions(
        tmp_path / "checked.db",
        "CREATE TABLE t (a TEXT CHECK (slug(a) = a), b INTEGER CHECK (b > 0)); PRAGMA ignore_check_constraints = ON;"
        "INSERT INTO t VALUES ('a', -1);",
    )
    assert rows_of(take(source), "SELECT a, b FROM t") == [("a", -1)]
