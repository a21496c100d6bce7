"""The window of a cutover against a real server and a real file, without pm2: faults at every step, and its guards.

The services, pm2 and the playbooks are in test_faults.py and test_on_a_host.py.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pwd
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger, state
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import (
    Login,
    ServerUnreachable,
    connect,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import (
    MigrationError,
    Problem,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group, Service
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.files import sha256_of
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.group_detail import (
    Phase,
    changes,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover import (
    cutover,
    reconcile,
    rehearsal,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover.window import (
    Window as CutoverWindow,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import write_protection
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.recovery_unit import (
    RecoveryUnit,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.recovery.call import Call
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback import rollback
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback.checks import Options
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation.group_checks import (
    GroupChecks,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window import back_on_sqlite
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window import (
    checks as cutover_checks,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.checks import (
    EnvFile,
    Findings,
    Handles,
    Settings,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.host_lock import (
    locked_on_host,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.services import checkpoint
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.signals import (
    Interrupted,
    interruptible,
    uninterruptible,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.modules import (
    cutover_group,
    cutover_look,
    sqlite_migrate,
    sqlite_migrate_look,
)
from tests import estates
from tests.conftest import Server, fresh_database
from tests.engine.support import execute, make_group, make_source, make_target, query

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

pytestmark = pytest.mark.usefixtures("no_older_processes")

ENV = "PORT=4000\nNAME='a service'\n"
WRITE_TO_THE_FILE = (
    "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
    "c.execute(\"INSERT INTO notes VALUES ('late')\"); os._exit(0)"
)
HOLD_THE_FILE = "import sys; f = open(sys.argv[1], 'r+'); print('ready', flush=True); sys.stdin.read()"


class Estate(estates.Estate):
    """One rehearsed group, whose file got a row since.

    :param services_are_missing: a run that was killed in its window has taken them away from pm2.
    """

    services_are_missing = False

    @property
    def file(self) -> Path:
        return self.source

    @property
    def env_file(self) -> Path:
        return self.place / ".env"

    def described(self) -> Group:
        return make_group(self.source, {"source": "notes"})

    def cut_over(self) -> dict[str, Any]:
        result: dict[str, Any] = cutover.cut_over(self.login, self.group, self.settings)
        return result


def data_of(path: Path) -> Path:
    """Make the file of an estate."""
    return make_source(
        path, "PRAGMA journal_mode = WAL; CREATE TABLE notes (text TEXT PRIMARY KEY)", {"notes": [("a",)]}
    )


@pytest.fixture(scope="module")
def written_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """The file of an estate whose last row is in the log alone, as a service that was killed leaves it, and the log."""
    source = data_of(tmp_path_factory.mktemp("written") / "data.db")
    write = WRITE_TO_THE_FILE.replace("late", "since")
    subprocess.run([sys.executable, "-c", write, str(source)], check=True)
    return source, source.with_name("data.db-wal")


@pytest.fixture(scope="module")
def rehearsed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database with an estate that was rehearsed, to be copied."""

    def make(connection: Connection, login: Login) -> Estate:
        make_target(connection, "CREATE TABLE notes (text text PRIMARY KEY)")
        place = tmp_path_factory.mktemp("rehearsed")
        return Estate(connection, login, place, data_of(place / "data.db"))

    with estates.rehearsed_database(server, "empty_template", make) as name:
        yield name


@pytest.fixture
def database(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a copy of that database, or of an empty one for a test without ``estate``."""
    has_estate = "estate" in request.fixturenames
    with fresh_database(server, request.getfixturevalue("rehearsed") if has_estate else "empty_template") as name:
        yield name


@pytest.fixture
def estate(
    connection: Connection,
    login: Login,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    written_files: tuple[Path, ...],
) -> Iterator[Estate]:
    for path in written_files:
        shutil.copy(path, tmp_path)
    source = tmp_path / "data.db"
    source.chmod(0o640)
    (tmp_path / ".env").write_text(ENV)
    (tmp_path / ".env").chmod(0o600)
    user = pwd.getpwuid(os.geteuid()).pw_name
    service = Service("service", user, str(tmp_path), "swarm_registry", ("app",), "http://127.0.0.1:9/")

    def check_services(_: Group, __: Settings, findings: Findings, may_be_missing: bool = False, **___: Any) -> Handles:
        if made.services_are_missing and not may_be_missing:
            findings.violations.append(Problem(service.name, "is not known to pm2", "Start it"))
        return Handles(env_files=[EnvFile(service, 1)])

    for module in (cutover, back_on_sqlite, rollback):
        monkeypatch.setattr(module, "check_services", check_services)
    settings: dict[str, Any] = {
        "role_passwords": {"swarm_registry": "secret"},
        "stop_timeout": 1.0,
        "health_timeout": 1.0,
    }
    made = Estate(connection, login, tmp_path, source, **settings, stable_seconds=0.0)
    made.begin_rehearsed()
    yield made
    write_protection.unprotect(source, {"mode": "0640"})


def assert_as_before(estate: Estate, *more: str) -> None:
    """See that the group is on SQLite as if nothing had been tried, with every row."""
    assert estate.record.state == "rehearsed"
    assert estate.env_file.read_text() == ENV
    assert not write_protection.is_protected(estate.file)
    assert stat.S_IMODE(estate.file.stat().st_mode) == 0o640
    assert estate.notes() == sorted(["a", "since", *more])


def assert_live(estate: Estate, *more: str) -> None:
    """See that the group is on PostgreSQL with every row, and its file frozen, complete, hashed and write-protected."""
    record = estate.record
    assert record.state == "live"
    assert record.frozen_sha256 == sha256_of(estate.file)
    assert write_protection.is_protected(estate.file)
    assert not Path(f"{estate.file}-wal").exists()
    assert "PGPASSWORD=secret" in estate.env_file.read_text()
    assert estate.notes() == estate.moved() == sorted(["a", "since", *more])


@pytest.mark.promise("dry-run-changes-nothing")
def test_a_dry_run_foretells_that_an_interrupted_cutover_is_finished(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate.cut_over()
    assert not cutover.cut_over(estate.login, estate.group, estate.settings, check_mode=True)["changed"]
    ledger.merge_detail(estate.connection, "test", changes(proven=False))
    estate.connection.commit()
    dry = cutover.cut_over(estate.login, estate.group, estate.settings, check_mode=True)
    assert (dry["changed"], estate.record.detail.proven) == (True, False)
    assert "an interrupted cutover would be finished" in dry["msg"]
    real = estate.cut_over()
    assert (real["changed"], estate.record.detail.proven) == (True, True)
    assert "an interrupted cutover was finished" in real["msg"]


def test_a_dry_run_refuses_what_the_run_refuses(estate: Estate) -> None:
    estate.cut_over()
    write_to_the_frozen_file(estate)
    for check_mode in (True, False):
        with pytest.raises(MigrationError, match="its SQLite file was written to since"):
            cutover.cut_over(estate.login, estate.group, estate.settings, check_mode=check_mode)


@pytest.mark.promise("frozen-file-write-protected")
def test_the_group_moves_with_what_stood_in_the_log_alone(estate: Estate) -> None:
    assert estate.cut_over()["changed"]
    assert_live(estate)
    assert not estate.cut_over()["changed"]


@pytest.mark.promise("functional-checks-between-groups")
def test_a_functional_check_that_fails_behind_the_window_leaves_the_group_on_postgresql(estate: Estate) -> None:
    """Whatever is done with a group that fails: its services have accepted rows, and nobody knows what is wrong."""
    asked = [{"name": "Notes are listed", "steps": [{"name": "Ask", "url": "http://127.0.0.1:9/notes"}]}]
    checks = GroupChecks.from_inventory(asked, {}, {"test": ["http://127.0.0.1:9/health"]})
    settings = replace(estate.settings, roll_back_on_failure=True)
    call = Call(estate.login, estate.group, settings, Options(str(estate.file.parent / "dumps"), None))
    # It passed them when it was there before, and came back.
    ledger.merge_detail(estate.connection, "test", changes(checked=True))
    estate.connection.commit()
    dry = cutover_group.move_and_check(call, checks, check_mode=True)
    assert dry["msg"].endswith("Then these functional checks would be run: 'Notes are listed'.")
    result = cutover_group.move_and_check(call, checks, check_mode=False)
    assert_live(estate)
    assert (result["failed"], result["changed"], result["report"]["group"]) == (True, True, "test")
    assert result["msg"].startswith("test lives on PostgreSQL; its file was frozen and proven within")
    (problem,) = result["problems"]
    assert (problem["where"], "got no answer" in problem["what"]) == (
        "functional check 'Notes are listed' of cutover group test",
        True,
    )
    # The next run keeps the group, and asks nothing: phase 5 does, and so does whoever moves another group.
    assert not cutover_group.move_and_check(call, checks, check_mode=False)["changed"]


def test_a_server_that_is_lost_before_the_functional_checks_does_not_hide_that_the_group_has_moved(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [{"name": "Notes are listed", "steps": [{"name": "Ask", "url": "http://127.0.0.1:9/notes"}]}]
    checks = GroupChecks.from_inventory(asked, {}, {"test": []})
    login = replace(estate.login)
    call = Call(login, estate.group, estate.settings, Options(str(estate.file.parent / "dumps"), None))
    move = cutover_group.move

    def move_and_lose_the_server(*arguments: Any) -> dict[str, Any]:
        result: dict[str, Any] = move(*arguments)
        object.__setattr__(login, "port", 1)
        return result

    monkeypatch.setattr(cutover_group, "move", move_and_lose_the_server)
    result = cutover_group.move_and_check(call, checks, check_mode=False)
    assert (result["failed"], result["changed"]) == (True, True)
    assert result["msg"].startswith("test lives on PostgreSQL; its file was frozen and proven within")
    assert "Its functional checks were not all run." in result["msg"]


@pytest.mark.promise("functional-checks-between-groups")
def test_a_group_does_not_move_while_a_functional_check_of_an_earlier_one_fails(estate: Estate) -> None:
    for step in ("rehearse", "freeze", "go_live"):
        detail = changes(proven=True)
        ledger.take_step(estate.connection, "earlier", step, "/earlier.db", frozen_sha256="0" * 64, detail=detail)
    estate.connection.commit()
    asked = [{"name": "Users log in", "steps": [{"name": "Ask", "url": "http://127.0.0.1:9/login"}]}]
    checks = GroupChecks.from_inventory(asked, {}, {"earlier": ["http://127.0.0.1:9/health"], "test": []})
    call = Call(estate.login, estate.group, estate.settings, Options(str(estate.file.parent / "dumps"), None))
    with pytest.raises(MigrationError) as failed:
        cutover_group.move_and_check(call, checks, check_mode=False)
    assert "functional check 'Users log in' of cutover group earlier" in str(failed.value)
    assert_as_before(estate)


# ---------------------------------------------------------------- a fault at every step

# Where the run ends: the function, whether it has done its work by then, and the step that says so.
STEPS = [
    ("cutover.window.stop", False, "stop"),
    ("cutover.window.stop", True, "stop"),
    ("cutover.window.wait_until_closed", True, "freeze"),
    ("cutover.window.checkpoint", False, "freeze"),
    ("cutover.window.checkpoint", True, "freeze"),
    ("cutover.window.write_protection.protect", False, "freeze"),
    ("cutover.window.write_protection.protect", True, "freeze"),
    ("cutover.window.sha256_of_open", False, "hash"),
    ("cutover.window.migrate.migrate", True, "final sync"),
    ("cutover.window.require_unchanged", False, "go live"),
    ("cutover.window.read_clock", True, "go live"),
]
# Where a request to end comes in every run, not in long searches alone.
REQUESTS_TO_END = (("cutover.window.checkpoint", True), ("cutover.window.sha256_of_open", False))
PACKAGE = "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration"


@contextmanager
def hooked(function: str, after: bool, act: Callable[[], None]) -> Iterator[None]:
    """Let something happen once, before or after a function does its work."""
    package, module, *path, name = function.split(".")
    owner = sys.modules[f"{PACKAGE}.{package}.{module}"]
    for part in path:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    done = threading.Event()

    def acting(*arguments: Any, **options: Any) -> Any:
        first = not done.is_set()
        done.set()
        if first and not after:
            act()
        result = original(*arguments, **options)
        if first and after:
            act()
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, acting)
        yield
    assert done.is_set()


def no_space() -> None:
    raise OSError(28, "No space left on device")


def ask_to_end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.promise("failed-cutover-back-on-sqlite")
@pytest.mark.parametrize(("function", "after", "step"), STEPS)
def test_an_error_at_any_step_is_undone(estate: Estate, function: str, after: bool, step: str) -> None:
    with hooked(function, after, no_space), pytest.raises(MigrationError) as failed:
        estate.cut_over()
    assert f"failed in the step '{step}' and was undone: its services run on SQLite again" in str(failed.value)
    assert "No space left on device" in str(failed.value)
    assert_as_before(estate)
    estate.cut_over()
    assert_live(estate)


# It is undone as an error at the same step is; one in the main thread and one in that of the hash are in every run.
@pytest.mark.promise("failed-cutover-back-on-sqlite")
@pytest.mark.parametrize(
    ("function", "after", "step"),
    [pytest.param(*step, marks=[] if step[:2] in REQUESTS_TO_END else [pytest.mark.long_search]) for step in STEPS],
)
def test_a_request_to_end_at_any_step_is_undone(estate: Estate, function: str, after: bool, step: str) -> None:
    with hooked(function, after, ask_to_end), pytest.raises(MigrationError) as failed:
        estate.cut_over()
    # The hash is computed in a thread of its own.
    where = "the step '" if step == "hash" else f"the step '{step}'"
    assert f"failed in {where}" in str(failed.value)
    assert "this run: it received SIGTERM" in str(failed.value)
    assert_as_before(estate)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def killed(estate: Estate, function: str, after: bool, run: Callable[[], object] | None = None) -> None:
    """Kill a run at one place, that of a cutover if it is not given."""

    def run_and_end() -> None:
        with hooked(function, after, lambda: os.kill(os.getpid(), signal.SIGKILL)):
            (run or estate.cut_over)()

    process = multiprocessing.get_context("fork").Process(target=run_and_end)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@contextmanager
def schema_lock(login: Login) -> Iterator[None]:
    """Hold the lock that a run of schema_apply holds while it makes an index."""
    with closing(connect(login)) as other, ledger.locked(other, "schema"):
        yield


def test_a_run_of_schema_apply_is_waited_for_before_anything_stops(estate: Estate) -> None:
    with schema_lock(estate.login), pytest.raises(MigrationError) as failed:
        estate.cut_over()
    assert "nothing was stopped" in str(failed.value)
    assert "session" in str(failed.value) and "holds its lock" in str(failed.value)
    assert_as_before(estate)


@pytest.mark.promise("failed-cutover-back-on-sqlite")
def test_a_run_of_schema_apply_does_not_keep_a_failed_cutover_from_being_undone(
    estate: Estate,
) -> None:
    """The group is live by then, and its services are stopped: they start on SQLite, whoever holds the rights up."""
    with ExitStack() as stack:

        def fail() -> None:
            stack.enter_context(schema_lock(estate.login))
            no_space()

        with hooked("cutover.window.start", False, fail), pytest.raises(MigrationError) as failed:
            estate.cut_over()
    assert "failed in the step 'start' and was undone: its services run on SQLite again" in str(failed.value)
    assert "may still write to its tables in PostgreSQL: Another run is at work on schema" in str(failed.value)
    assert_as_before(estate)
    estate.cut_over()
    assert_live(estate)


@pytest.mark.promise("crash-is-finished", "killed-cutover-healed")
@pytest.mark.parametrize(("function", "after"), [step[:2] for step in STEPS])
def test_a_kill_at_any_step_is_healed_by_the_next_run(estate: Estate, function: str, after: bool) -> None:
    killed(estate, function, after)
    assert estate.record.state == "frozen"
    estate.services_are_missing = True
    if after:
        assert (
            "an interrupted cutover was undone"
            in rollback.roll_back(estate.login, estate.group, estate.settings)["msg"]
        )
        assert_as_before(estate)
        estate.services_are_missing = False
    estate.cut_over()
    assert_live(estate)


# ---------------------------------------------------------------- its guards


@contextmanager
def holder(path: Path) -> Iterator[int]:
    """A process that has the file open for writing, and writes nothing."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_FILE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.stdin.close()


def write_late(estate: Estate) -> None:
    """Let another process write a row to the file and end without closing it."""
    subprocess.run([sys.executable, "-c", WRITE_TO_THE_FILE, str(estate.file)], check=True)


@pytest.mark.promise("foreign-process-refused")
def test_who_has_the_file_open_is_named_before_anything_stops(estate: Estate) -> None:
    with (
        holder(estate.file) as pid,
        pytest.raises(MigrationError, match=rf"nothing was stopped[\s\S]*process {pid} .* no service of the group"),
    ):
        estate.cut_over()
    assert estate.record.state == "rehearsed"


@pytest.mark.promise("foreign-process-refused")
@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("cutover.window.stop", "has it open"),
        ("cutover.window.checkpoint", "has opened it since"),
    ],
)
def test_who_opens_the_file_in_the_window_is_named(estate: Estate, function: str, said: str) -> None:
    opened = []

    def open_it() -> None:
        context = holder(estate.file)
        opened.append((context, context.__enter__()))

    try:
        with hooked(function, True, open_it), pytest.raises(MigrationError) as failed:
            estate.cut_over()
    finally:
        opened[0][0].__exit__(None, None, None)
    assert f"process {opened[0][1]} " in str(failed.value)
    assert said in str(failed.value)
    assert_as_before(estate)


@pytest.mark.promise("late-row-never-left-behind")
def test_a_row_that_comes_before_the_protection_is_not_left_behind(estate: Estate) -> None:
    with (
        hooked("cutover.window.checkpoint", True, lambda: write_late(estate)),
        pytest.raises(MigrationError, match="somebody has written rows to it since the file was completed"),
    ):
        estate.cut_over()
    assert_as_before(estate, "late")
    estate.cut_over()
    assert_live(estate, "late")


@pytest.mark.promise("late-row-never-left-behind")
@pytest.mark.parametrize(
    ("in_the_file", "said"),
    [
        (True, "written to it, or exchanged it, in spite of its write protection"),
        (False, "somebody has written rows to it since the file was completed"),
    ],
)
def test_a_row_that_comes_under_a_weak_protection_is_not_left_behind(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, in_the_file: bool, said: str
) -> None:
    # What a file system without attributes answers: root can write to the file all the same.
    monkeypatch.setattr(write_protection, "_SET_FLAGS", 0)

    def write() -> None:
        write_late(estate)
        if in_the_file:
            with closing(sqlite3.connect(estate.file)) as opened:
                opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    with (
        hooked("cutover.window.migrate.migrate", True, write),
        pytest.raises(MigrationError, match=said),
    ):
        estate.cut_over()
    assert_as_before(estate, "late")
    estate.cut_over()
    assert_live(estate, "late")


@pytest.mark.promise("frozen-file-write-protected")
def test_a_log_that_cannot_be_emptied_is_no_frozen_file(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.services.LOG_SECONDS", 0.1
    )
    with closing(sqlite3.connect(estate.file, isolation_level=None)) as reader:
        # It still reads what stands in the file, so the log cannot be put over it.
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM notes").fetchone()
        write_late(estate)
        with pytest.raises(MigrationError, match="rows are left in it"):
            checkpoint(estate.file)


def test_a_final_sync_that_does_not_arrive_as_it_is_moves_nobody(estate: Estate) -> None:
    execute(
        estate.connection,
        "CREATE FUNCTION app.spoil(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN IF $1 = 'since' THEN "
        "INSERT INTO app.notes VALUES ('spoilt'); END IF; RETURN true; END $$;"
        "ALTER TABLE app.notes ADD CHECK (app.spoil(text))",
    )
    with pytest.raises(MigrationError, match="failed in the step 'final sync' and was undone"):
        estate.cut_over()
    assert_as_before(estate)
    assert estate.moved() == ["a"]


def test_the_ledger_says_live_before_a_service_could_be_started_on_postgresql(estate: Estate) -> None:
    killed(estate, "cutover.window.write_env_files", False)
    assert estate.record.state == "live"
    assert estate.env_file.read_text() == ENV
    assert estate.record.frozen_sha256 == sha256_of(estate.file)
    assert write_protection.is_protected(estate.file)


@pytest.mark.promise("written-group-stays")
def test_rows_written_to_postgresql_keep_the_group_there(estate: Estate) -> None:
    def write_and_fail() -> None:
        execute(estate.connection, "INSERT INTO app.notes VALUES ('on postgresql')")
        no_space()

    with hooked("cutover.window.start", True, write_and_fail), pytest.raises(MigrationError) as failed:
        estate.cut_over()
    assert "Its services have already written to PostgreSQL, so it stays there; they were started again" in str(
        failed.value
    )
    assert "app.notes: it was written to since the cutover: 2 rows then, 3 rows now" in str(failed.value)
    assert estate.record.state == "live"
    assert write_protection.is_protected(estate.file)
    assert "PGPASSWORD" in estate.env_file.read_text()


def test_a_session_that_may_still_commit_keeps_the_group_on_postgresql(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = Problem("session 1 of role swarm_registry", "it may commit rows", "Wait")
    monkeypatch.setattr(back_on_sqlite, "sessions_left", lambda *_: [left])
    with hooked("cutover.window.start", True, no_space), pytest.raises(MigrationError) as failed:
        estate.cut_over()
    assert "so it stays there" in str(failed.value)
    assert str(left) in str(failed.value)
    assert estate.record.state == "live"


# ---------------------------------------------------------------- a frozen file that lost its write protection


def write_to_the_frozen_file(estate: Estate) -> None:
    """Write a row to the file without its write protection, as an old program does."""
    write_protection.unprotect(estate.file, {"mode": "0640"})
    write_late(estate)


@pytest.mark.promise("moved-group-kept-so")
def test_a_protection_that_is_gone_is_put_up_again(estate: Estate) -> None:
    estate.cut_over()
    write_protection.unprotect(estate.file, {"mode": "0640"})
    assert estate.cut_over()["changed"]
    assert_live(estate)


@pytest.mark.promise("frozen-file-unchanged")
def test_a_frozen_file_that_was_written_to_is_told(estate: Estate) -> None:
    estate.cut_over()
    write_to_the_frozen_file(estate)
    with pytest.raises(MigrationError, match="its SQLite file was written to since"):
        estate.cut_over()
    assert estate.record.state == "live"
    assert estate.notes() == ["a", "late", "since"]


def test_a_cutover_that_was_undone_without_the_ledger_is_made_again(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate.cut_over()
    write_to_the_frozen_file(estate)
    estate.env_file.write_text(ENV)
    service = Service("service", "nobody", "/", "swarm_registry", ("app",), "http://127.0.0.1:9/")
    look = reconcile.Keeper._look
    monkeypatch.setattr(reconcile.Keeper, "_look", lambda *_: ([service], []))
    with hooked("cutover.window.migrate.migrate", True, lambda: monkeypatch.setattr(reconcile.Keeper, "_look", look)):
        estate.cut_over()
    assert_live(estate, "late")


@pytest.mark.promise("frozen-file-unchanged")
def test_a_group_that_was_written_to_in_both_stores_is_for_a_person(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate.cut_over()
    write_to_the_frozen_file(estate)
    execute(estate.connection, "INSERT INTO app.notes VALUES ('on postgresql')")
    service = Service("service", "nobody", "/", "swarm_registry", ("app",), "http://127.0.0.1:9/")
    monkeypatch.setattr(reconcile.Keeper, "_look", lambda *_: ([service], []))
    with pytest.raises(MigrationError, match="was written to in both stores"):
        estate.cut_over()
    assert (estate.notes(), estate.moved()) == (["a", "late", "since"], ["a", "on postgresql", "since"])
    assert estate.record.state == "live"


# ---------------------------------------------------------------- what else goes wrong


def test_a_table_that_somebody_holds_does_not_keep_the_services_stopped_for_ever(estate: Estate) -> None:
    with closing(connect(estate.login)) as other:
        with other.cursor() as cursor:
            cursor.execute("LOCK TABLE app.notes")
        with pytest.raises(MigrationError, match=r"the step 'final sync' and was undone[\s\S]*lock timeout"):
            estate.cut_over()
    assert_as_before(estate)


@pytest.mark.parametrize("is_well", [False, True])
def test_services_that_stay_on_postgresql_and_are_not_well_are_named(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, is_well: bool
) -> None:
    forgotten: list[Any] = []

    def unwell(*_: Any) -> None:
        raise MigrationError("Not every service is healthy.", [Problem("service deaf", "it does not answer", "Look")])

    def write_and_fail() -> None:
        execute(estate.connection, "INSERT INTO app.notes VALUES ('on postgresql')")
        no_space()

    monkeypatch.setattr(back_on_sqlite, "require_healthy", (lambda *_: None) if is_well else unwell)
    monkeypatch.setattr(back_on_sqlite, "forget_stopped", forgotten.append)
    with hooked("cutover.window.start", True, write_and_fail), pytest.raises(MigrationError) as failed:
        estate.cut_over()
    end = " and are well" if is_well else ", and not all of them are proven well"
    assert f"they were started again{end}" in str(failed.value)
    assert ("service deaf: it does not answer" in str(failed.value)) is not is_well
    # What was stopped along with them is noted until they are well.
    assert bool(forgotten) is is_well


@pytest.mark.promise("written-group-stays")
def test_nothing_goes_back_while_only_the_server_knows_what_was_written(
    estate: Estate, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(back_on_sqlite, "_RECONNECT_SECONDS", 0.1)

    def no_server(_: Login) -> Connection:
        raise ServerUnreachable("No server.")

    def lose_the_server() -> None:
        execute(estate.connection, "INSERT INTO app.notes VALUES ('on postgresql')")
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'swarm_migrator'")
        monkeypatch.setattr(back_on_sqlite, "connect", no_server)
        no_space()

    with hooked("cutover.window.start", True, lose_the_server), pytest.raises(MigrationError) as failed:
        estate.cut_over()
    assert "so they stay on PostgreSQL" in str(failed.value)
    assert write_protection.is_protected(estate.file)
    assert "PGPASSWORD" in estate.env_file.read_text()


def test_a_file_with_the_weak_protection_gets_its_mode_back_without_the_ledger(
    estate: Estate, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_protection, "_SET_FLAGS", 0)
    monkeypatch.setattr(back_on_sqlite, "_usable_connection", lambda *_: None)
    with (
        hooked("cutover.window.migrate.migrate", True, no_space),
        pytest.raises(MigrationError, match="so the ledger does not know yet"),
    ):
        estate.cut_over()
    assert stat.S_IMODE(estate.file.stat().st_mode) == 0o640
    assert estate.env_file.read_text() == ENV


@pytest.mark.promise("failed-cutover-back-on-sqlite")
def test_a_server_that_goes_away_in_the_window_leaves_the_services_on_sqlite(
    estate: Estate, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_server(_: Login) -> Connection:
        raise ServerUnreachable("No server.")

    def lose_the_server() -> None:
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'swarm_migrator'")
        monkeypatch.setattr(back_on_sqlite, "connect", no_server)

    with (
        monkeypatch.context() as patch,
        hooked("cutover.window.migrate.migrate", False, lose_the_server),
        pytest.raises(MigrationError, match="The server does not answer, so the ledger does not know yet"),
    ):
        patch.setattr(back_on_sqlite, "_RECONNECT_SECONDS", 0.1)
        estate.cut_over()
    monkeypatch.setattr(back_on_sqlite, "connect", connect)
    assert estate.env_file.read_text() == ENV
    assert not write_protection.is_protected(estate.file)
    with closing(ledger_of(estate)) as connection:
        estate.connection = connection
        assert estate.record.state == "frozen"
        assert "was undone" in rollback.roll_back(estate.login, estate.group, estate.settings)["msg"]
        assert_as_before(estate)


@pytest.mark.promise("checked-before-services-stop")
@pytest.mark.parametrize("spare", [-1, 0])
def test_the_pools_of_the_estate_have_to_fit_the_server(estate: Estate, spare: int) -> None:
    free = (
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int "
        "- (SELECT count(*)::int FROM pg_stat_activity WHERE datid IS NOT NULL AND usename IS NOT NULL)"
    )
    usable = -1
    # Sessions of earlier tests end a moment after their clients.
    while usable != (now := query(estate.connection, free)[0][0]):
        usable = now
        pools = {"one": 5, "two": usable - 5 - spare}
        findings = Findings()
        settings = replace(estate.settings, estate_connections=pools)
        cutover_checks.check_database(estate.connection, estate.group, settings, findings)
    assert [problem.where for problem in findings.violations] == ["max_connections"] * (spare < 0)


# ---------------------------------------------------------------- two runs at once


@pytest.mark.promise("one-run-at-a-time")
def test_a_second_run_waits_for_the_lock_in_the_ledger(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutover, "LOCK_SECONDS", 0.2)
    with (
        ledger.locked(estate.connection, "group test"),
        pytest.raises(MigrationError, match="Another run is at work on group test"),
    ):
        estate.cut_over()
    assert_as_before(estate)


@pytest.mark.promise("one-run-at-a-time")
def test_a_second_run_does_not_get_in_when_the_server_ends_the_session_of_the_first(
    estate: Estate, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []

    def end_the_session_and_run_again() -> None:
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'swarm_migrator'")
        monkeypatch.setattr(cutover, "LOCK_SECONDS", 0.2)
        monkeypatch.setattr(rollback, "LOCK_SECONDS", 0.2)
        for run in (
            estate.cut_over,
            lambda: rollback.roll_back(estate.login, estate.group, estate.settings),
            lambda: rollback.put_right(estate.login, estate.group, estate.settings),
        ):
            try:
                run()
            except MigrationError as error:
                refused.append(str(error))

    with (
        hooked("cutover.window.migrate.migrate", False, end_the_session_and_run_again),
        pytest.raises(MigrationError, match="was undone"),
    ):
        estate.cut_over()
    # Nothing of a rollback has to be put right, so the last one has nothing to wait for.
    assert [f"process {os.getpid()} holds its lock on this host" in text for text in refused] == [True, True]
    with closing(ledger_of(estate)) as connection:
        assert ledger.read_group(connection, "test").state == "rehearsed"


def ledger_of(estate: Estate) -> Connection:
    """Return a new connection: the test's own may have been ended."""
    found: Connection = connect(estate.login)
    return found


def test_the_lock_on_the_host_ends_with_its_process(tmp_path: Path) -> None:
    def hold() -> None:
        context = locked_on_host("group", str(tmp_path), 0.0)
        context.__enter__()
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=hold)
    process.start()
    process.join(10)
    with locked_on_host("group", str(tmp_path), 0.0):
        assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [0o600]
    with locked_on_host("group", str(tmp_path), 0.0), locked_on_host("group-2", str(tmp_path), 0.0):
        pass


# ---------------------------------------------------------------- requests to end


def test_only_the_first_request_to_end_counts() -> None:
    undone = []
    with pytest.raises(MigrationError, match="it received SIGHUP"), interruptible():
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        except Interrupted:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            undone.append(True)
            raise
    assert undone == [True]
    with interruptible(), uninterruptible():
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_request_to_end_is_nothing_that_a_part_may_go_on_after() -> None:
    with pytest.raises(MigrationError, match="it received SIGINT"), interruptible():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except Exception:
            pytest.fail("it went on")


# ---------------------------------------------------------------- the dry run and the run


class Done(Exception):
    """Ends a run where it would begin to change something."""


def outcome_of(estate: Estate, check_mode: bool, which: Callable[..., Any]) -> str:
    """Return who is asked to act, or why nobody is."""
    try:
        result: dict[str, Any] = which(estate.login, estate.group, estate.settings, check_mode)
        return f"it says: {result['changed']}"
    except Done as done:
        return f"{done}"
    except MigrationError as error:
        return f"{error.summary}"


def test_the_dry_run_goes_where_the_run_goes(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """From every state that a ledger can hold: both ask the same actor, or both refuse."""

    def act(name: str) -> Callable[..., Any]:
        def acting(*_: Any, **__: Any) -> Any:
            raise Done(name)

        return acting

    for owner, name, actor in (
        (reconcile.Keeper, "run", "keep"), (reconcile.Keeper, "dry_run", "keep"), (CutoverWindow, "run", "move"),
        (cutover, "_would_be", "move"), (rollback._Run, "_leave_postgresql", "leave"),
        (rollback._Run, "_finish", "finish"), (rollback._Run, "_revert_cutover", "revert"),
        (rollback._Run, "_keep_on_sqlite", "keep on SQLite"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, act(actor))
    monkeypatch.setattr(cutover, "check_database", lambda *_: None)
    monkeypatch.setattr(cutover, "check_services_login", lambda *_: None)
    monkeypatch.setattr(back_on_sqlite, "require_healthy", lambda *_: [])
    told = set()
    wrong = {}
    phases = (Phase.NONE, Phase.OPEN, Phase.COMMITTED, Phase.DONE)
    ((rehearsed_detail,),) = query(estate.connection, "SELECT detail::text FROM migration.cutover_group")
    for case in itertools.product(state.STATES, phases, (False, True)):
        group_state, phase, proven = case
        detail = changes(proven=proven, rollback={"phase": phase} if phase else {})
        put_into(estate, group_state, rehearsed_detail, detail)
        dry, real = (outcome_of(estate, check_mode, cutover.cut_over) for check_mode in (True, False))
        # A dry run of every phase comes here before the rehearsal, so it says what would follow one.
        before = group_state in ("pending", "rolled_back")
        expected = ("move", "Refused to freeze cutover group test.") if before else (dry, dry)
        back_dry, back = (outcome_of(estate, check_mode, rollback.roll_back) for check_mode in (True, False))
        if (dry, real) != expected or back_dry != back:
            wrong[case] = dry, real, back_dry, back
        told |= {dry, real, back_dry, back}
    assert wrong == {}
    assert told >= {"keep", "move", "leave", "finish", "revert"}


def put_into(estate: Estate, group_state: str, before: str, detail: dict[str, Any]) -> None:
    """Let the ledger say that the group is in a state, with this detail besides what it said before."""
    with estate.connection.cursor() as cursor:
        cursor.execute("UPDATE migration.cutover_group SET state = %s, detail = %s", (group_state, before))
    ledger.merge_detail(estate.connection, "test", detail)
    estate.connection.commit()


def settled(estate: Estate) -> list[dict[str, Any]]:
    """Return what the look before the loop over all groups says of this one: nothing if it has to be called."""
    arguments = {
        "services_login": {**vars(estate.settings.services_login)},
        "role_passwords": {**estate.settings.role_passwords, "another": "secret"},
        "estate_connections": {},
        "work_directory": estate.settings.work_directory,
    }
    return list(cutover_look.settled([estate.group], estate.login, arguments))


@pytest.mark.promise("moved-group-kept-so")
def test_a_group_that_needs_nothing_is_told_by_the_look_as_by_the_run(estate: Estate) -> None:
    assert settled(estate) == []
    estate.cut_over()
    (looked,) = settled(estate)
    run = estate.cut_over()
    assert not run["changed"]
    assert looked["item"] == "test"
    assert {name: looked[name] for name in ("changed", "state", "msg", "warnings")} == {
        name: run[name] for name in ("changed", "state", "msg", "warnings")
    }


def _leave_a_recovery_unit(estate: Estate) -> None:
    unit = RecoveryUnit("test", estate.group.source_path, "", {}, estate.settings.work_directory)
    unit.settings.write_text("{}")


def _note(estate: Estate, **detail: Any) -> None:
    ledger.merge_detail(estate.connection, "test", changes(**detail))
    estate.connection.commit()


def _hide_the_ledger(estate: Estate) -> None:
    """Let the server itself refuse to read it, as it does for a role without rights."""
    execute(estate.connection, "ALTER TABLE migration.cutover_group RENAME COLUMN detail TO another")


@pytest.mark.promise("moved-group-kept-so")
@pytest.mark.parametrize(
    "disturb",
    [
        lambda estate: write_protection.unprotect(estate.file, {"mode": "0640"}),
        lambda estate: write_to_the_frozen_file(estate),
        lambda estate: _note(estate, proven=False),
        lambda estate: _note(estate, rollback={"phase": Phase.OPEN}),
        _leave_a_recovery_unit,
        _hide_the_ledger,
    ],
)
def test_the_look_leaves_every_group_that_needs_anything_to_the_run(
    estate: Estate, disturb: Callable[[Estate], object]
) -> None:
    estate.cut_over()
    disturb(estate)
    assert settled(estate) == []


@pytest.mark.promise("services-rows-never-overwritten")
def test_the_look_before_a_rehearsal_leaves_a_ledger_that_cannot_be_read_to_the_rehearsal(estate: Estate) -> None:
    estate.cut_over()
    _hide_the_ledger(estate)
    assert list(sqlite_migrate_look.settled([estate.group], estate.login)) == []


@pytest.mark.promise("services-rows-never-overwritten")
def test_the_look_before_a_rehearsal_says_what_the_rehearsal_says(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From every state: a group is left out of the loop if and only if its call would do nothing."""
    loaded = {"changed": True, "report": {"tables": []}}
    monkeypatch.setattr(rehearsal, "rehearse", lambda *_: loaded)
    for group_state in state.STATES:
        with estate.connection.cursor() as cursor:
            cursor.execute("UPDATE migration.cutover_group SET state = %s", (group_state,))
        estate.connection.commit()
        result = sqlite_migrate.synchronise(estate.group, estate.login, str(estate.settings.work_directory), False)
        expected = [] if result["changed"] else [{"item": "test", **result}]
        assert list(sqlite_migrate_look.settled([estate.group], estate.login)) == expected
        assert bool(expected) == (group_state not in ("pending", "rehearsed", "rolled_back"))
