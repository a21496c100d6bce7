"""The unit that ends a window whose run has died, against a real server and a real file: without systemd and pm2.

The unit under systemd, and a host that dies, are in test_on_a_host.py.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.action.engine_program import build
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import commands, ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import (
    Busy,
    MigrationError,
    Problem,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover import cutover
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import recovery_unit
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.recovery_unit import (
    RecoveryUnit,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.recovery import recover
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.recovery.call import Call
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback import dump, rollback
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback import (
    window as rollback_window,  # noqa: F401 (the module is looked up by its name, to be killed in it)
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback.checks import Options
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.checks import Findings
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.host_lock import (
    locked_on_host,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.modules import cutover_group
from tests.conftest import PROGRAMS, PROJECT, Server
from tests.engine.support import execute, query

from .test_window import (
    Estate,
    assert_as_before,
    assert_live,
    database,
    estate,
    hooked,
    killed,
    no_space,
    rehearsed,
    written_files,
)

__all__ = ["database", "estate", "rehearsed", "written_files"]

pytestmark = pytest.mark.usefixtures("no_older_processes")

CALLS = "systemctl-calls"


@pytest.fixture(scope="module")
def packed_engine() -> bytes:
    """The program that the unit runs."""
    return build(PROJECT / "plugins/module_utils/migration")


@pytest.fixture
def unit(estate: Estate, packed_engine: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecoveryUnit:
    """The unit of the group, whose runs put it; systemd is a program that notes how it was called."""
    program = tmp_path / "engine.pyz"
    program.write_bytes(packed_engine)
    programs = tmp_path / "bin"
    programs.mkdir()
    systemctl = programs / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / CALLS}\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv(commands.LIMIT_VARIABLE, "dev")
    (tmp_path / "units").mkdir()
    monkeypatch.setattr(recovery_unit, "UNITS", tmp_path / "units")
    monkeypatch.setattr(recovery_unit, "SYSTEMD", tmp_path)
    login, settings = estate.login, estate.settings
    arguments = {
        "group": {
            "name": "test",
            "source": {"path": str(estate.file)},
            "tables": [{"source": "notes", "target": "app.notes"}],
        },
        "services_login": asdict(settings.services_login),
        "role_passwords": dict(settings.role_passwords),
        "stop_timeout": 1,
        "health_timeout": 1,
        "stable_seconds": 0,
        "on_failure": "rollback",
        "estate_connections": {},
        "estate_access": None,
        "work_directory": settings.work_directory,
        "rollback_directory": str(tmp_path / "dumps"),
        "lose_rows": None,
        "recovery_program": str(program),
        "login_host": login.host,
        "login_port": login.port,
        "login_db": login.database,
        "login_user": login.user,
        "login_password": login.password,
        "session_role": login.session_role,
        "ssl_mode": login.ssl_mode,
        "ca_cert": login.ca_cert,
        "connect_timeout": login.connect_timeout,
    }
    estate.settings = Call.from_arguments(arguments).settings
    assert estate.settings.recovery_unit is not None
    return estate.settings.recovery_unit


def files_of(unit: RecoveryUnit) -> list[Path]:
    """Return the files of the unit that are there: its settings, the unit itself, and the link for the boot."""
    paths = [
        unit.settings,
        recovery_unit.UNITS / unit.name,
        recovery_unit.UNITS / "multi-user.target.wants" / unit.name,
    ]
    return [path for path in paths if os.path.lexists(path)]


def run_unit(unit: RecoveryUnit) -> int:
    """Run what the unit runs, in this process."""
    status: int = recover.main([str(unit.settings)])
    return status


@pytest.mark.promise("dead-window-ended")
@pytest.mark.parametrize(
    "function",
    ["cutover.window.stop", "cutover.window.write_protection.protect", "cutover.window.read_clock"],
)
def test_a_frozen_group_is_undone(
    estate: Estate, unit: RecoveryUnit, function: str, capsys: pytest.CaptureFixture[str]
) -> None:
    killed(estate, function, True)
    assert estate.record.state == "frozen"
    assert len(files_of(unit)) == 3
    assert run_unit(unit) == 0
    assert capsys.readouterr().out == "test: an interrupted cutover was undone; it runs on SQLite.\n"
    assert_as_before(estate)
    assert files_of(unit) == []
    # systemd may start it once more.
    assert run_unit(unit) == 0
    assert capsys.readouterr().out == ""
    estate.cut_over()
    assert_live(estate)


@pytest.mark.promise("dead-window-ended")
def test_a_group_that_is_live_is_finished_with_its_rows(
    estate: Estate, unit: RecoveryUnit, capsys: pytest.CaptureFixture[str]
) -> None:
    killed(estate, "cutover.window.start", True)
    execute(estate.connection, "INSERT INTO app.notes VALUES ('on postgresql')")
    assert run_unit(unit) == 0
    assert "an interrupted cutover was finished; it lives on PostgreSQL" in capsys.readouterr().out
    record = estate.record
    assert (record.state, record.detail.proven) == ("live", True)
    assert "on postgresql" in estate.moved()
    assert files_of(unit) == []


@pytest.mark.promise("dead-window-ended")
def test_an_interrupted_rollback_is_undone(
    estate: Estate, unit: RecoveryUnit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dump, "_PATH", f"{PROGRAMS}:{dump._PATH}")
    estate.cut_over()
    options = Options(str(unit.settings.parent / "dumps"))
    killed(
        estate,
        "rollback.window.stop",
        True,
        lambda: rollback.roll_back(estate.login, estate.group, estate.settings, options=options),
    )
    assert len(files_of(unit)) == 3
    assert run_unit(unit) == 0
    assert capsys.readouterr().out.startswith("test: an interrupted rollback was undone.")
    assert_live(estate)
    assert files_of(unit) == []


@pytest.mark.promise("dead-window-ended")
def test_the_unit_is_there_before_the_stop_and_gone_after_the_window(estate: Estate, unit: RecoveryUnit) -> None:
    seen: list[list[Path]] = []

    def look_and_fail() -> None:
        seen.append(files_of(unit))
        no_space()

    with hooked("cutover.window.stop", False, look_and_fail), pytest.raises(MigrationError, match="was undone"):
        estate.cut_over()
    assert files_of(unit) == []
    with hooked("cutover.window.stop", False, lambda: seen.append(files_of(unit))):
        estate.cut_over()
    assert [len(files) for files in seen] == [3, 3]
    assert files_of(unit) == []
    calls = Path(recovery_unit.SYSTEMD / CALLS).read_text().splitlines()
    forget = f"reset-failed {unit.name}"
    assert calls == ["daemon-reload", forget, f"restart --no-block {unit.name}", forget] * 2
    # A run that opens no window puts nothing there.
    assert not estate.cut_over()["changed"]
    assert len(Path(recovery_unit.SYSTEMD / CALLS).read_text().splitlines()) == len(calls)


@pytest.mark.promise("password-nowhere-else")
def test_its_passwords_stand_in_one_file_that_only_root_can_read(estate: Estate, unit: RecoveryUnit) -> None:
    killed(estate, "cutover.window.stop", True)
    settings, text, link = files_of(unit)
    for path, mode in ((settings, 0o600), (settings.parent, 0o700), (text, 0o644)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert link.resolve() == text
    assert '"swarm_registry": "secret"' in settings.read_text()
    for secret in ("secret", str(estate.login.password)):
        assert secret not in text.read_text().replace(str(settings), "")
    assert "secret" not in repr(unit)


def test_the_unit_waits_until_the_run_is_gone(estate: Estate, unit: RecoveryUnit) -> None:
    started: list[subprocess.Popen[str]] = []

    def start() -> None:
        command = [sys.executable, "-I", unit.program, "recovery.recover", str(unit.settings)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))

    # The program as it is installed, while the run is in the middle of its window.
    with hooked("cutover.window.migrate.migrate", False, start):
        estate.cut_over()
    output, _ = started[0].communicate(timeout=120)
    assert (started[0].returncode, output) == (0, "")
    assert_live(estate)


def test_a_server_that_does_not_answer_yet_is_waited_for(
    estate: Estate,
    unit: RecoveryUnit,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    killed(estate, "cutover.window.stop", True)
    allow = f"ALTER DATABASE {estate.login.database} ALLOW_CONNECTIONS"
    server.execute(f"{allow} false")
    waits: list[float] = []

    def let_it_answer(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            server.execute(f"{allow} true")

    monkeypatch.setattr(time, "sleep", let_it_answer)
    assert run_unit(unit) == 0
    said = capsys.readouterr().out
    assert said.count("Group test waits until PostgreSQL answers") == 1
    assert said.endswith("test: an interrupted cutover was undone; it runs on SQLite.\n")
    assert_as_before(estate)


def test_what_cannot_be_undone_is_said_and_tried_at_the_next_boot(
    estate: Estate, unit: RecoveryUnit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed(estate, "cutover.window.stop", True)
    monkeypatch.delenv(commands.LIMIT_VARIABLE)
    with hooked("rollback.rollback.to_sqlite", False, no_space):
        assert run_unit(unit) == 1
    said = capsys.readouterr().out
    assert "No space left on device" in said
    assert "Group test is tried again up to ten times, a minute apart, and at the next boot" in said
    assert "ansible-playbook playbooks/4_service_cutover.yml -l dev" in said
    assert len(files_of(unit)) == 3
    assert run_unit(unit) == 0
    assert_as_before(estate)
    assert files_of(unit) == []


def test_the_unit_keeps_its_settings_in_systemd_until_it_has_ended(estate: Estate, unit: RecoveryUnit) -> None:
    killed(estate, "cutover.window.stop", True)
    calls = recovery_unit.SYSTEMD / CALLS
    before = calls.read_text()
    assert run_unit(unit) == 0
    assert files_of(unit) == []
    # A unit without a file has another KillMode: what the unit has started would end with it.
    assert calls.read_text() == before


def test_a_run_that_puts_the_window_right_takes_the_unit_away(estate: Estate, unit: RecoveryUnit) -> None:
    killed(estate, "cutover.window.stop", True)
    estate.cut_over()
    assert_live(estate)
    assert files_of(unit) == []


def _without_program(unit: RecoveryUnit) -> None:
    Path(unit.program).unlink()


def _in_a_shared_directory(unit: RecoveryUnit) -> None:
    unit.settings.parent.chmod(0o770)


def _without_systemd_s_help(unit: RecoveryUnit) -> None:
    (recovery_unit.SYSTEMD / "bin/systemctl").write_text("#!/bin/sh\necho refused >&2; exit 1\n")


@pytest.mark.promise("checked-before-services-stop")
@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (_without_program, "engine.pyz: it is missing, so nothing would finish or undo the window"),
        (_in_a_shared_directory, "may be changed by somebody else"),
        (_without_systemd_s_help, "systemctl daemon-reload: refused"),
    ],
)
def test_without_the_unit_nothing_is_stopped(
    estate: Estate, unit: RecoveryUnit, break_it: Callable[[RecoveryUnit], None], said: str
) -> None:
    break_it(unit)
    with pytest.raises(MigrationError, match="nothing was stopped") as failed:
        estate.cut_over()
    assert said in str(failed.value)
    assert_as_before(estate)
    assert files_of(unit) == []


def test_a_host_without_systemd_gets_no_unit(
    estate: Estate, unit: RecoveryUnit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recovery_unit, "SYSTEMD", tmp_path / "none")
    seen: list[Path] = []
    with hooked("cutover.window.stop", False, lambda: seen.extend(files_of(unit))):
        estate.cut_over()
    assert seen == []
    assert_live(estate)


def test_the_unit_stays_while_the_services_of_a_live_group_are_not_up(
    estate: Estate, unit: RecoveryUnit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed(estate, "cutover.window.start", False)
    assert estate.record.state == "live"
    found = [Problem("pm2 of user app", "its daemon does not run", "Start it")]
    with monkeypatch.context() as patch:
        patch.setattr(cutover, "Findings", lambda: Findings(list(found)))
        # The unit, and a run by hand, whose checks find something.
        assert run_unit(unit) == 1
        with pytest.raises(MigrationError, match="cannot be looked after"):
            estate.cut_over()
    assert "its daemon does not run" in capsys.readouterr().out
    assert len(files_of(unit)) == 3
    assert run_unit(unit) == 0
    assert estate.record.detail.proven
    assert files_of(unit) == []


def test_what_only_a_person_can_decide_is_left_to_the_person(estate: Estate, unit: RecoveryUnit) -> None:
    settings = replace(estate.settings, roll_back_on_failure=False)

    def write_and_fail() -> None:
        execute(estate.connection, "INSERT INTO app.notes VALUES ('on postgresql')")
        no_space()

    with hooked("cutover.window.start", True, write_and_fail), pytest.raises(MigrationError, match="so it stays there"):
        cutover.cut_over(estate.login, estate.group, settings)
    assert (estate.record.state, estate.record.detail.proven) == ("live", False)
    assert files_of(unit) == []


def test_nobody_comes_between_a_failed_cutover_and_its_rollback(
    estate: Estate, unit: RecoveryUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump, "_PATH", f"{PROGRAMS}:{dump._PATH}")
    seen: list[str] = []

    def try_to_come_between(*arguments: Any, **options: Any) -> dict[str, Any]:
        with pytest.raises(Busy), locked_on_host(estate.group.name, estate.settings.work_directory, 0.0):
            pass
        seen.append(f"{len(files_of(unit))} files")
        return rollback.roll_back(*arguments, **options)

    def write_and_fail() -> None:
        execute(estate.connection, "INSERT INTO app.notes VALUES ('on postgresql')")
        no_space()

    monkeypatch.setattr(cutover_group, "roll_back", try_to_come_between)
    options = Options(str(unit.settings.parent / "dumps"))
    with (
        hooked("cutover.window.start", True, write_and_fail),
        pytest.raises(MigrationError, match="so it was rolled back with these rows"),
    ):
        cutover_group.move(estate.login, estate.group, estate.settings, False, options)
    assert seen == ["3 files"]
    assert estate.record.state == "rolled_back"
    assert "on postgresql" in estate.notes()
    assert files_of(unit) == []


def test_after_a_rollback_that_was_refused_the_unit_starts_nothing_once_more(
    estate: Estate, unit: RecoveryUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump, "_PATH", f"{PROGRAMS}:{dump._PATH}")

    def write_and_fail() -> None:
        execute(estate.connection, "ALTER TABLE app.notes ADD COLUMN more text DEFAULT ''")
        execute(estate.connection, "INSERT INTO app.notes (text, more) VALUES ('on postgresql', 'x')")
        no_space()

    options = Options(str(unit.settings.parent / "dumps"))
    with (
        hooked("cutover.window.start", True, write_and_fail),
        pytest.raises(MigrationError, match="the rollback did not succeed") as failed,
    ):
        cutover_group.move(estate.login, estate.group, estate.settings, False, options)
    assert "app.notes.more: holds data, and the file has no such column" in str(failed.value)
    assert (estate.record.state, estate.record.detail.proven) == ("live", False)
    assert files_of(unit) == []


@pytest.mark.promise("dead-window-ended")
def test_services_that_a_dead_run_was_starting_on_sqlite_are_started_there(
    estate: Estate, unit: RecoveryUnit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The group is back, so no window is open; somebody has put the settings of PostgreSQL back."""
    monkeypatch.setattr(dump, "_PATH", f"{PROGRAMS}:{dump._PATH}")
    on_sqlite = estate.env_file.read_text()
    estate.cut_over()
    on_postgresql = estate.env_file.read_text()
    assert on_postgresql != on_sqlite

    def roll_back() -> None:
        options = Options(str(unit.settings.parent / "dumps"))
        rollback.roll_back(estate.login, estate.group, estate.settings, options=options)

    roll_back()
    assert (estate.record.state, estate.env_file.read_text()) == ("rolled_back", on_sqlite)
    estate.env_file.write_text(on_postgresql)
    killed(estate, "window.back_on_sqlite.stop", True, roll_back)
    assert (len(files_of(unit)), estate.env_file.read_text()) == (3, on_postgresql)
    assert run_unit(unit) == 0
    assert "test is on SQLite; its services were started again" in capsys.readouterr().out
    assert estate.env_file.read_text() == on_sqlite
    assert files_of(unit) == []


def test_the_unit_goes_on_after_a_server_that_has_ended_its_session(
    estate: Estate, unit: RecoveryUnit, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    killed(estate, "cutover.window.stop", True)

    def end_sessions() -> None:
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sqlite_to_postgresql' "
            f"AND datname = '{estate.login.database}' AND pid <> {estate.connection.info.backend_pid}"
        )

    assert "\nRestart=on-failure\n" in (recovery_unit.UNITS / unit.name).read_text()
    with hooked("core.ledger.read_group", False, end_sessions):
        # As systemd starts it again after a failure.
        statuses = [run_unit(unit), run_unit(unit)]
    assert statuses == [1, 0]
    assert "The server failed while cutover group test was looked after" in capsys.readouterr().out
    assert_as_before(estate)


def test_a_frozen_group_is_undone_whatever_the_checks_find(
    estate: Estate, unit: RecoveryUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(estate, "cutover.window.stop", True)
    found = [Problem("pm2 of user app", "its daemon does not run", "Start it")]
    monkeypatch.setattr(rollback, "Findings", lambda: Findings(list(found)))
    # The person who runs the playbook can correct it first.
    with pytest.raises(MigrationError, match="cannot be brought back to SQLite"):
        rollback.roll_back(estate.login, estate.group, estate.settings)
    assert run_unit(unit) == 0
    assert_as_before(estate)


def test_a_unit_that_is_left_over_touches_nothing(
    estate: Estate, unit: RecoveryUnit, capsys: pytest.CaptureFixture[str]
) -> None:
    estate.cut_over()
    unit.put(after=[])
    # As after a move to another server, where the ledger of the old one still answers.
    estate.env_file.write_text("PGHOST=of-another-server\n")
    assert run_unit(unit) == 0
    assert capsys.readouterr().out == "test: no window is open; nothing was touched.\n"
    assert estate.env_file.read_text() == "PGHOST=of-another-server\n"
    assert files_of(unit) == []


def test_a_run_without_a_unit_takes_the_one_of_an_earlier_run_away(estate: Estate, unit: RecoveryUnit) -> None:
    killed(estate, "cutover.window.stop", True)
    assert len(files_of(unit)) == 3
    estate.settings = Call.from_arguments({**unit.content["arguments"], "recovery_program": None}).settings
    estate.cut_over()
    assert_live(estate)
    assert files_of(unit) == []


@pytest.mark.promise("dead-window-ended")
def test_a_cutover_that_an_earlier_run_has_left_open_gets_a_unit(estate: Estate, unit: RecoveryUnit) -> None:
    with_unit = estate.settings
    estate.settings = replace(with_unit, recovery_unit=None)
    killed(estate, "cutover.window.stop", True)
    seen: list[int] = []
    with hooked("window.back_on_sqlite.stop", False, lambda: seen.append(len(files_of(unit)))):
        rollback.roll_back(estate.login, estate.group, with_unit)
    assert (seen, files_of(unit)) == ([3], [])


@pytest.mark.promise("dead-window-ended")
def test_a_rollback_that_an_earlier_run_has_left_open_gets_a_unit(estate: Estate, unit: RecoveryUnit) -> None:
    with_unit = estate.settings
    estate.settings = replace(with_unit, recovery_unit=None)
    estate.cut_over()
    killed(
        estate, "rollback.window.stop", True, lambda: rollback.roll_back(estate.login, estate.group, estate.settings)
    )
    seen: list[int] = []
    with hooked("rollback.undo.start", False, lambda: seen.append(len(files_of(unit)))):
        assert "undone" in rollback.put_right(estate.login, estate.group, with_unit)
    assert (seen, files_of(unit)) == ([3], [])


def test_services_are_brought_back_where_the_unit_cannot_be_written(estate: Estate, unit: RecoveryUnit) -> None:
    killed(estate, "cutover.window.stop", True)
    unit.remove()
    _without_systemd_s_help(unit)
    rollback.roll_back(estate.login, estate.group, estate.settings)
    assert_as_before(estate)


def test_the_server_ends_the_session_of_a_host_that_has_died(estate: Estate) -> None:
    found = query(estate.connection, "SELECT name, reset_val FROM pg_settings WHERE name ~ '^tcp_' ORDER BY name")
    assert dict(found) == {
        "tcp_keepalives_count": "3",
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_user_timeout": "60000",
    }


def test_who_is_waited_for_is_said_once(
    estate: Estate, unit: RecoveryUnit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed(estate, "cutover.window.stop", True)
    monkeypatch.setattr(rollback, "LOCK_SECONDS", 0.2)
    tries: list[Call] = []
    bring_to_an_end = recover._bring_to_an_end

    with ExitStack() as lock:
        # The session of a host that has died, which the server ends after a while.
        lock.enter_context(ledger.locked(estate.connection, "group test"))

        def end_it_meanwhile(call: Call, keeps_on_sqlite: bool) -> str:
            tries.append(call)
            if len(tries) == 3:
                lock.close()
            done: str = bring_to_an_end(call, keeps_on_sqlite)
            return done

        monkeypatch.setattr(recover, "_bring_to_an_end", end_it_meanwhile)
        assert run_unit(unit) == 0
    said = capsys.readouterr().out
    assert said.count("Group test waits for it.") == 1
    assert "session" in said
    assert said.endswith("test: an interrupted cutover was undone; it runs on SQLite.\n")
    assert_as_before(estate)


@pytest.mark.promise("checked-before-services-stop")
@pytest.mark.parametrize("on_postgresql", [False, True])
def test_a_host_that_cannot_have_the_unit_is_refused_by_the_dry_run_too(
    estate: Estate, unit: RecoveryUnit, monkeypatch: pytest.MonkeyPatch, on_postgresql: bool
) -> None:
    if on_postgresql:
        estate.cut_over()
    run = rollback.roll_back if on_postgresql else cutover.cut_over
    with monkeypatch.context() as patch:
        # As good as one that is mounted read-only.
        patch.setattr(recovery_unit, "UNITS", Path("/proc/self/no-units"))
        with pytest.raises(MigrationError, match="nothing can be written there"):
            run(estate.login, estate.group, estate.settings, check_mode=True)
    unit.settings.parent.chmod(0o770)
    with pytest.raises(MigrationError, match="may be changed by somebody else"):
        run(estate.login, estate.group, estate.settings, check_mode=True)


def test_the_unit_runs_the_interpreter_of_the_run(estate: Estate, unit: RecoveryUnit) -> None:
    unit.put(after=[])
    assert f'\nExecStart="{sys.executable}" "-I" ' in (recovery_unit.UNITS / unit.name).read_text()


@pytest.mark.promise("password-nowhere-else")
@pytest.mark.parametrize("takes_it_away", ["the next window", "a run without a window"])
def test_passwords_of_an_earlier_run_do_not_stay(estate: Estate, unit: RecoveryUnit, takes_it_away: str) -> None:
    elsewhere = unit.settings.parent.with_name("work 100%")
    earlier = replace(unit, work_directory=str(elsewhere))
    earlier.put(after=[])
    # One that was killed while it wrote them, too.
    for settings in (earlier.settings, unit.settings):
        settings.parent.mkdir(mode=0o700, exist_ok=True)
        settings.with_name(f".{settings.name}.new").write_text("secret")
    assert [path for path in elsewhere.iterdir() if "secret" in path.read_text()]
    if takes_it_away == "the next window":
        unit.put(after=[])
        assert len(files_of(unit)) == 3
    else:
        unit.remove()
    left = [path for path in (*elsewhere.iterdir(), *unit.settings.parent.iterdir()) if "recovery" in path.name]
    assert left == ([unit.settings] if takes_it_away == "the next window" else [])


def test_groups_of_one_name_in_two_estates_have_units_of_their_own(unit: RecoveryUnit) -> None:
    other = replace(unit, source_path="/srv/other/data.db")
    other.put(after=[])
    unit.put(after=[])
    unit.remove()
    assert len(files_of(other)) == 3


def test_the_program_needs_nothing_of_its_file_once_it_runs(unit: RecoveryUnit) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import migration.recovery.recover\n"
        "open(sys.argv[1], 'w').close()\n"
        "from migration.engine.transfer import migrate; from migration.rollback import window"
    )
    subprocess.run([sys.executable, "-I", "-c", code, unit.program], check=True)


def test_a_release_that_needs_more_than_the_unit_was_told_is_named(
    estate: Estate, unit: RecoveryUnit, capsys: pytest.CaptureFixture[str]
) -> None:
    killed(estate, "cutover.window.stop", True)
    content = json.loads(unit.settings.read_text())
    del content["arguments"]["stable_seconds"]
    unit.settings.write_text(json.dumps(content))
    assert run_unit(unit) == 1
    said = capsys.readouterr().out
    assert "reads its settings otherwise ('stable_seconds')" in said
    assert "ansible-playbook playbooks/4_service_cutover.yml -l dev" in said


def test_services_are_back_on_sqlite_although_somebody_changes_the_schema(
    estate: Estate, unit: RecoveryUnit, login: Login
) -> None:
    with closing(connect(login)) as colleague, ExitStack() as phase_1:

        def begin_phase_1_and_fail() -> None:
            phase_1.enter_context(ledger.locked(colleague, "schema"))
            no_space()

        with (
            hooked("cutover.window.start", True, begin_phase_1_and_fail),
            pytest.raises(MigrationError, match="its services run on SQLite again") as failed,
        ):
            estate.cut_over()
    assert "the services may still write to its tables in PostgreSQL" in str(failed.value)
    assert "1_infrastructure.yml" in str(failed.value)
    assert_as_before(estate)
    assert files_of(unit) == []
