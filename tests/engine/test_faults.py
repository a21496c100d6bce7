"""Whatever breaks while a group is loaded: nothing half done is left, and the next run finishes."""

from __future__ import annotations

import inspect
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import (
    MigrationError,
    RowsRefused,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.prepare import fast_path
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import (
    full_load,
    index_rebuild,
    migrate,
)
from tests.conftest import MIGRATOR, OWNER, PROGRAMS, running_server

from .support import execute, make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

ROWS = 3_000


@pytest.fixture
def group(connection: Connection, tmp_path: Path) -> Any:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text)")
    path = make_source(
        tmp_path / "t.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)",
        {"t": [(number, f"value {number} " + "x" * 1_000) for number in range(ROWS)]},
    )
    return make_group(path, {"source": "t"})


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold up a load after its first block of lines until this is set, so that something can happen meanwhile."""
    original, may_go_on = fast_path.copy_blocks, threading.Event()

    def held_up(*arguments: Any, **more: Any) -> Iterator[tuple[int, bytes]]:
        for number, block in enumerate(original(*arguments, **more)):
            if number > 0:
                may_go_on.wait(120)
            yield block

    monkeypatch.setattr(full_load, "copy_blocks", held_up)
    yield may_go_on
    may_go_on.set()


def test_rows_that_sqlite_fails_to_build_are_converted_one_by_one(
    connection: Connection, group: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: list[str] = []

    class Noted(RowsRefused):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            reasons.append(str(self))

    def torn(*_: Any, **__: Any) -> Iterator[tuple[int, bytes]]:
        yield 1, b"0\tvalue\n"
        raise sqlite3.DatabaseError("string or blob too big")

    monkeypatch.setattr(full_load, "copy_blocks", torn)
    monkeypatch.setattr(full_load, "RowsRefused", Noted)
    rehearse(connection, group, tmp_path)
    (reason,) = reasons
    assert "SQLite could not build its rows: string or blob too big" in reason
    assert query(connection, "SELECT count(*), min(v) FROM app.t") == [(ROWS, "value 0 " + "x" * 1_000)]


def as_superuser(login: Login) -> Login:
    return replace(login, user="postgres", session_role=None)


def copying(connection: Connection) -> list[int]:
    return [pid for (pid,) in query(connection, "SELECT pid FROM pg_stat_progress_copy WHERE tuples_processed > 0")]


def meanwhile(login: Login, statement: str, go_on: threading.Event) -> threading.Thread:
    """Wait until rows are being copied, run a statement with the pid of that session, and let the load go on."""

    def run() -> None:
        with closing(connect(as_superuser(login))) as other:
            deadline = time.monotonic() + 100
            while not (pids := copying(other)) and time.monotonic() < deadline:
                time.sleep(0.02)
            execute(other, statement, pids[0])
        go_on.set()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.promise("load-all-or-nothing")
@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("SELECT pg_terminate_backend(%s)", "PostgreSQL refused while loading app.t"),
        ("SELECT pg_cancel_backend(%s)", "PostgreSQL refused while loading app.t"),
    ],
)
def test_a_session_that_is_ended_while_copying_leaves_nothing(
    connection: Connection,
    login: Login,
    group: Any,
    tmp_path: Path,
    go_on: threading.Event,
    statement: str,
    message: str,
) -> None:
    thread = meanwhile(login, statement, go_on)
    with pytest.raises(MigrationError, match=message):
        rehearse(connection, group, tmp_path)
    thread.join()
    with closing(connect(login)) as again:
        assert query(again, "SELECT count(*) FROM app.t") == [(0,)]
        assert query(again, "SELECT count(*) FROM migration.cutover_group") == [(0,)]
        assert list(tmp_path.glob("work/run-*")) == []
        assert rehearse(again, group, tmp_path)["report"]["tables"][0]["equal"]


@pytest.mark.promise("crash-is-finished", "load-all-or-nothing")
def test_a_server_that_crashes_while_copying_has_nothing_when_it_is_back(
    connection: Connection, login: Login, group: Any, tmp_path: Path, server: Any, go_on: threading.Event
) -> None:
    def crash() -> None:
        with closing(connect(as_superuser(login))) as other:
            while not copying(other):
                time.sleep(0.02)
        server.crash()
        go_on.set()

    thread = threading.Thread(target=crash)
    thread.start()
    with pytest.raises(MigrationError, match="Look at the server's log for why it ended the connection, then run"):
        rehearse(connection, group, tmp_path)
    thread.join()
    with closing(connect(login)) as again:
        assert query(again, "SELECT count(*) FROM app.t") == [(0,)]
        assert query(again, "SELECT count(*) FROM migration.cutover_group") == [(0,)]
        assert rehearse(again, group, tmp_path)["report"]["tables"][0]["equal"]


def test_a_lock_of_somebody_else_is_named(
    connection: Connection, login: Login, group: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_load.load, "__defaults__", (0.3,))
    with closing(connect(login)) as other:
        with other.cursor() as cursor:
            cursor.execute("LOCK TABLE app.t IN SHARE MODE")
        with pytest.raises(MigrationError, match=r"lock timeout \(SQLSTATE 55P03\)\. Another session holds a lock"):
            rehearse(connection, group, tmp_path)
        other.rollback()
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]


@pytest.mark.promise("one-run-at-a-time")
def test_a_second_run_waits_or_names_the_first(
    connection: Connection,
    login: Login,
    group: Any,
    tmp_path: Path,
    go_on: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = threading.Thread(target=rehearse, args=(connection, group, tmp_path))
    first.start()
    with closing(connect(login)) as other, closing(connect(as_superuser(login))) as watcher:
        while not copying(watcher):
            time.sleep(0.02)
        with monkeypatch.context() as impatient:
            impatient.setattr(inspect.unwrap(ledger.locked), "__defaults__", (0.2,))
            with pytest.raises(
                MigrationError, match=r"Another run is at work on group test[\s\S]*session \d+ of swarm_migrator"
            ):
                rehearse(other, group, tmp_path)
        go_on.set()
        # With time to wait it goes on when the first has ended, and finds nothing to do.
        assert not rehearse(other, group, tmp_path)["changed"]
    first.join()


@pytest.fixture
def small_tablespace(connection: Connection, server: Any, tmp_path: Path) -> Iterator[None]:
    """A tablespace of 1 MB, on a disk of its own."""
    directory = server.data.parent / f"small-{os.getpid()}"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0777", "tmpfs", str(directory)], check=True)
    database = connection.info.dbname
    try:
        place = directory / "space"
        place.mkdir(mode=0o700)
        os.chown(place, server.data.stat().st_uid, server.data.stat().st_gid)
        server.execute(f"CREATE TABLESPACE small LOCATION '{place}'", "GRANT CREATE ON TABLESPACE small TO PUBLIC")
        yield
        server.execute("ALTER TABLE app.t SET TABLESPACE pg_default", database=database)
        server.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.fixture
def server_to_fill() -> Iterator[Any]:
    """A server of its own, whose data directory has a file system of its own."""
    with running_server(PROGRAMS) as started:
        if not os.path.ismount(started.data.parent):
            pytest.skip("a file system can only be mounted by root")
        yield started


@pytest.mark.promise("full-disk-named", "load-all-or-nothing")
@pytest.mark.parametrize(
    ("room", "rows", "said"),
    [
        pytest.param(1 << 20, ROWS, "Free disk on the database host, then run again", id="no room for rows"),
        # Less than a segment of the log: as a rule the server gives up before the rows need that much.
        pytest.param(15 << 20, 14 * ROWS, "Look at the server's log|Free disk", id="no room for the log"),
    ],
)
def test_a_data_directory_that_is_full_leaves_nothing_half_done(
    server_to_fill: Any, tmp_path: Path, room: int, rows: int, said: str
) -> None:
    home, superuser = server_to_fill.data.parent, server_to_fill.superuser
    server_to_fill.execute(f"CREATE DATABASE small_room TEMPLATE empty_template OWNER {OWNER}")
    login = replace(superuser, database="small_room", user=MIGRATOR, session_role=OWNER)
    path = make_source(
        tmp_path / "t.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)",
        {"t": [(number, f"{number} " + "x" * 1_000) for number in range(rows)]},
    )
    group = make_group(path, {"source": "t"})
    with closing(connect(login)) as connection:
        make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text)")
        found = os.statvfs(home)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        subprocess.run(["mount", "-o", f"remount,size={used + room}", str(home)], check=True)
        with pytest.raises(MigrationError, match=said):
            rehearse(connection, group, tmp_path)
    # Somebody makes room, and starts the server again if it has given up.
    subprocess.run(["mount", "-o", "remount,size=1g", str(home)], check=True)
    server_to_fill.crash()
    with closing(connect(login)) as connection:
        assert query(connection, "SELECT count(*) FROM app.t") == [(0,)]
        assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]


@pytest.mark.promise("full-disk-named")
@pytest.mark.usefixtures("small_tablespace")
def test_a_full_disk_of_the_server_is_named(connection: Connection, group: Any, tmp_path: Path, server: Any) -> None:
    execute(connection, "ALTER TABLE app.t SET TABLESPACE small")
    with pytest.raises(MigrationError, match="Free disk on the database host, then run again"):
        rehearse(connection, group, tmp_path)
    assert query(connection, "SELECT count(*) FROM app.t") == [(0,)]
    execute(connection, "ALTER TABLE app.t SET TABLESPACE pg_default")
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]


def test_a_lost_process_for_the_sums_only_costs_time(
    connection: Connection, group: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.proof.parallel_checksums.FROM_BYTES",
        0,
    )
    monkeypatch.setattr(
        "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.proof.parallel_checksums.FROM_ROWS",
        0,
    )
    monkeypatch.setattr(
        "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.proof.parallel_checksums._sum_all",
        lambda *_: os._exit(9),
    )
    report = rehearse(connection, group, tmp_path)["report"]
    assert report["way"] == migrate.PLAIN_ROWS
    assert report["tables"][0]["equal"]


@pytest.mark.parametrize("is_held", [False, True])
def test_many_new_ids_reach_the_id_map_whether_or_not_somebody_holds_it(
    connection: Connection, login: Login, tmp_path: Path, is_held: bool
) -> None:
    make_target(connection, "CREATE TABLE t (id uuid PRIMARY KEY)")
    rows = [(f"text-{number}",) for number in range(index_rebuild.FROM_ROWS)]
    path = make_source(tmp_path / "t.db", "CREATE TABLE t (id TEXT PRIMARY KEY)", {"t": rows})
    with closing(connect(login)) as other:
        if is_held:
            query(other, "SELECT count(*) FROM migration.id_map")  # until the end of its transaction
            with other.cursor() as cursor:
                cursor.execute("LOCK TABLE migration.id_map IN ACCESS SHARE MODE")
        report = rehearse(connection, make_group(path, {"source": "t"}), tmp_path)["report"]
        other.rollback()
    assert report["tables"][0]["equal"]
    assert query(connection, "SELECT count(*), count(DISTINCT old_id) FROM migration.id_map") == [
        (len(rows), len(rows))
    ]
    indexes = "SELECT indexname FROM pg_indexes WHERE schemaname = 'migration' AND tablename = 'id_map' ORDER BY 1"
    assert query(connection, indexes) == [("id_map_namespace_new_id_key",), ("id_map_pkey",)]
