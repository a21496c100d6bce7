"""Progress is counted for nothing, shown to everybody, and never in the way of the run."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import (
    Login,
    connected,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.files import progress_file
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import progress
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer.progress import (
    CountedLines,
    ProgressLog,
    Reading,
    State,
    describe,
    duration,
    estimate,
)

from .support import execute, query

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from tests.conftest import Server

SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%progress' AND datname = current_database()"
)
ROW = "SELECT group_name, step, table_name, rows_done, rows_total FROM migration.progress"


@pytest.fixture
def target(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> Connection:
    """A connection to a database with a ledger; progress is written twenty times a second."""
    execute(connection, ledger.CREATE_LEDGER)
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.05)
    return connection


def eventually(holds: Callable[[], Any]) -> Any:
    """Wait up to two minutes for something to hold, and return it."""
    for _ in range(2400):
        if found := holds():
            return found
        time.sleep(0.05)
    raise AssertionError("it never held")


# ---------------------------------------------------------------- what is shown


@pytest.mark.parametrize(
    ("readings", "total", "expected"),
    [
        ([], 100, (None, None)),
        ([Reading(5, 10)], 100, (None, None)),
        ([Reading(5, 10), Reading(5, 20)], 100, (None, None)),
        ([Reading(0, 0), Reading(1, 5), Reading(2, 20)], 100, (10, 8)),
        ([Reading(0, 0), Reading(2, 20)], None, (10, None)),
        ([Reading(0, 20), Reading(2, 20)], 100, (0, None)),
        ([Reading(0, 0), Reading(2, 200)], 100, (100, 0)),
    ],
)
def test_rate_and_time_left_follow_from_the_last_readings(
    readings: list[Reading], total: int | None, expected: tuple[float | None, float | None]
) -> None:
    assert estimate(readings, total) == expected


@pytest.mark.promise("progress-shown")
def test_a_line_says_table_rows_rate_and_time_left() -> None:
    state = State("registry", "load", 5, "registry.step_executions", 430_000, 1_000_000)
    assert describe(state, [Reading(0, 25_000), Reading(5, 430_000)]) == (
        "registry.step_executions: 430,000 of 1,000,000 rows, 81,000 rows/s, 7 s left"
    )
    assert describe(state, []) == "registry.step_executions: 430,000 of 1,000,000 rows"
    assert describe(State("registry", "load", 5, "a.b", 430), []) == "a.b: 430 rows"
    assert describe(State("registry", "verify", 75), []) == "registry: reading every row back, 1 min 15 s so far"
    assert describe(State("registry", "unheard of", 5), []) == "registry: unheard of, 5 s so far"


def test_durations_are_said_as_a_person_would() -> None:
    assert [duration(seconds) for seconds in (0.2, 59.4, 200, 4321)] == ["0 s", "59 s", "3 min 20 s", "1 h 12 min"]


# ---------------------------------------------------------------- where it is written


@pytest.mark.promise("progress-shown")
def test_a_run_is_shown_in_the_ledger_and_in_a_private_file_and_leaves_neither(
    target: Connection, login: Login, tmp_path: Path
) -> None:
    file = progress_file("test", str(tmp_path))
    with connected(login) as other, ProgressLog(target, "test", str(tmp_path)) as log:
        log.step("profile")
        eventually(lambda: query(other, ROW) == [("test", "profile", None, None, None)])
        log.step("load")
        log.expect({"app.items": 1000, "app.more": 10})
        log.advance("app.items", 300)
        log.advance("app.items", 100)
        eventually(lambda: query(other, ROW) == [("test", "load", "app.items", 400, 1000)])
        recent = "SELECT clock_timestamp() - updated_at < '2s', started_at < updated_at FROM migration.progress"
        eventually(lambda: query(other, recent) == [(True, True)])
        assert eventually(lambda: file.read_text() if "app.items" in file.read_text() else "").startswith(
            "app.items: 400 of 1,000 rows, "
        )
        assert file.stat().st_mode & 0o777 == 0o600
        log.advance("app.items", 600)
        log.advance("app.more", 10)
        eventually(lambda: query(other, ROW) == [("test", "index", None, None, None)])
        log.step("verify")
        eventually(lambda: query(other, ROW) == [("test", "verify", None, None, None)])
        assert query(other, SESSIONS) == [(1,)]
        assert query(other, ROW) != []
    assert query(target, ROW) == []
    eventually(lambda: query(target, SESSIONS) == [(0,)])
    assert list(tmp_path.iterdir()) == []


def test_a_load_that_is_tried_again_counts_anew(target: Connection) -> None:
    with ProgressLog(target, "test", silent=True) as log:
        for _ in range(2):
            log.step("load")
            log.advance("app.items", 300)
        assert log._counts.read()[0].done == 300


def test_a_short_run_opens_no_connection(target: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 60.0)
    opened: list[None] = []
    monkeypatch.setattr(progress._Ledger, "_connect", lambda self: opened.append(None))
    with ProgressLog(target, "test", str(tmp_path)) as log:
        log.advance("app.items", 1)
    assert (opened, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.promise("dry-run-changes-nothing")
def test_check_mode_writes_nothing(target: Connection, login: Login, tmp_path: Path) -> None:
    execute(target, "INSERT INTO migration.progress VALUES ('test', 'load', NULL, NULL, NULL, now(), now())")
    with connected(login) as other, ProgressLog(target, "test", str(tmp_path), silent=True) as log:
        log.advance("app.items", 1)
        time.sleep(0.3)
        assert query(other, SESSIONS) == [(0,)]
        assert list(tmp_path.iterdir()) == []
    assert [row[0] for row in query(target, ROW)] == ["test"]


def test_a_new_run_removes_what_a_killed_one_has_left(
    target: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 60.0)
    values = "'load', NULL, NULL, NULL, now(), now()"
    execute(target, f"INSERT INTO migration.progress VALUES ('test', {values}), ('another', {values})")
    file = progress_file("test", str(tmp_path))
    file.write_text("old\n")
    with ProgressLog(target, "test", str(tmp_path)):
        assert not file.exists()
        assert [row[0] for row in query(target, ROW)] == ["another"]


def test_a_directory_that_was_not_there_is_gone_again(target: Connection, tmp_path: Path) -> None:
    work = tmp_path / "work"
    with ProgressLog(target, "test", str(work)) as log:
        work.mkdir()
        log.advance("app.items", 1)
        eventually(lambda: list(work.iterdir()))
    assert not work.exists()


# ---------------------------------------------------------------- never in the way


def test_without_a_table_in_the_ledger_only_the_file_is_written(target: Connection, tmp_path: Path) -> None:
    execute(target, "DROP TABLE migration.progress")
    with ProgressLog(target, "test", str(tmp_path)) as log:
        log.advance("app.items", 1)
        eventually(progress_file("test", str(tmp_path)).exists)
        assert query(target, SESSIONS) == [(0,)]


def test_without_a_second_connection_the_run_goes_on(
    target: Connection, login: Login, server: Server, tmp_path: Path
) -> None:
    server.execute(f"ALTER DATABASE {login.database} CONNECTION LIMIT 1")
    with ProgressLog(target, "test", str(tmp_path)) as log:
        log.advance("app.items", 1)
        eventually(progress_file("test", str(tmp_path)).exists)
        eventually(lambda: log._ledger is None)
        assert query(target, "SELECT 1") == [(1,)]


def test_a_session_that_is_ended_is_not_missed(
    target: Connection, server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with ProgressLog(target, "test", str(tmp_path)) as log:
        log.advance("app.items", 1)
        eventually(lambda: query(target, ROW))
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%progress'")
        eventually(lambda: log._ledger is None)
        assert query(target, "SELECT 1") == [(1,)]
    assert capfd.readouterr().err == ""


def test_a_server_that_does_not_answer_does_not_hold_up_the_run(
    target: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, let_go = threading.Event(), threading.Event()

    def write(*_: Any) -> bool:
        asked.set()
        return let_go.wait(60)

    monkeypatch.setattr(progress._Ledger, "write", write)
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(progress, "_PATIENCE_SECONDS", 0.1)
    with ProgressLog(target, "test", str(tmp_path)) as log:
        assert asked.wait(30)
        for _ in range(1000):
            log.advance("app.items", 1)
    # It still waits, and the run is through.
    assert log._thread.is_alive()
    let_go.set()


def test_a_process_is_not_forked_while_the_thread_talks_to_the_server() -> None:
    let_go = threading.Event()

    def talk() -> None:
        with progress._TALKING:
            let_go.wait(120)

    thread = threading.Thread(target=talk)
    thread.start()
    eventually(progress._TALKING.locked)
    threading.Timer(0.3, let_go.set).start()
    child = os.fork()
    if child == 0:
        os._exit(0 if progress._TALKING.acquire(timeout=1) else 1)
    assert let_go.is_set(), "it did not wait"
    assert os.waitpid(child, 0)[1] == 0
    thread.join()
    assert not progress._TALKING.locked()


def test_no_row_is_lost_among_threads(target: Connection) -> None:
    with ProgressLog(target, "test", silent=True) as log:
        log.step("load")

        def advance_often() -> None:
            for _ in range(20_000):
                log.advance("app.items", 1)

        threads = [threading.Thread(target=advance_often) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert log._counts.read()[0].done == 80_000


def test_counting_rows_costs_next_to_nothing(target: Connection, tmp_path: Path) -> None:
    # Counted in calls of functions, in Python and in C: what they take depends on the machine.
    calls: list[str] = []
    with ProgressLog(target, "test", str(tmp_path)) as log:
        log.step("load")
        log.advance("app.items", 1)
        sys.setprofile(lambda _frame, event, _argument: calls.append(event) if "call" in event else None)
        try:
            for _ in range(1000):
                log.advance("app.items", 1)
        finally:
            sys.setprofile(None)
    assert 1000 <= len(calls) <= 10_000


def test_rows_in_a_file_are_counted_as_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    counts: list[int] = []
    path.write_bytes(b"1\tone\n2\ttwo\\nlines\n3\tthree\n")
    with path.open("rb") as file:
        lines = CountedLines(file, counts.append)
        assert b"".join(iter(lambda: lines.read(8), b"")) == path.read_bytes()
    assert sum(counts) == 3
