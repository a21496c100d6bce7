"""A service that a person stops and starts: a whole window with its commands, a real server and real processes."""

from __future__ import annotations

import getpass
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import estate as inventory
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group, Service
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover import cutover
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover import (
    window as cutover_window,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import (
    open_files,
    own_commands,
    service_health,
    write_protection,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.managers import (
    log_command,
    managers_of,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.service_health import (
    look_once,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback import rollback
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.signals import uninterruptible
from scripts.throwaway_postgres import free_port
from tests import estates
from tests.conftest import PASSWORD, Server, fresh_database
from tests.engine.support import execute, make_group
from tests.estates import let_find_programs, make_file_of_notes

from .small_pm2 import SERVICE

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Stops, starts and names the service as a person's script does. What it is told stands in the file "heard".
pytestmark = pytest.mark.usefixtures("no_older_processes")

CONTROL = """#!/bin/sh
echo "$1 $(id -un) $PWD $(env | cut -d= -f1 | sort | xargs)" >> heard
case "$1" in
    run) exec {command} ;;
    up) {command} & echo $! > pid ;;
    refuse) echo "no license" >&2; exit 3 ;;
    hang) exec sleep 600 ;;
    down) kill "$(cat pid)" ;;
    end) pkill -f "{marker}" ;;
    ids) pgrep -f "{marker}" ;;
    many) printf '%05000d\n' 7 ;;
    linger) sleep 600 & echo $! $(ps -o sid= $$) > lingering; sleep 600 ;;
    init) echo 1 ;;
    words) echo "it runs" ;;
esac
"""
ENV = "PORT=1\n"
_QUIET: dict[str, Any] = {"check": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


class Estate(estates.Estate):
    """One rehearsed group with one service, which runs on SQLite and which no manager runs."""

    def __init__(self, connection: Connection, login: Login, place: Path) -> None:
        self.user = getpass.getuser()
        source = make_file_of_notes(place / "data.db")
        self.port = free_port()
        (place / "serve.py").write_text(SERVICE)
        (place / "behaviour").write_text("")
        (place / ".env").write_text(ENV)
        (place / ".env").chmod(0o600)
        command = f"{sys.executable} {place}/serve.py {place} {source} {self.port}"
        (place / "control").write_text(CONTROL.format(command=command, marker=f"{place}/[s]erve.py"))
        (place / "control").chmod(0o755)
        super().__init__(connection, login, place, source, health_timeout=30.0)
        self.begin_rehearsed()

    def described(self, start: str = "up", stop: str = "down", **more: Any) -> Group:
        """Return the group, its service with these words of the script as its commands."""
        control = str(self.place / "control")
        service = {
            "name": "service",
            "manager": "none",
            "user": self.user,
            "directory": str(self.place),
            "database_role": "swarm_registry",
            "schemas": ["app"],
            "health_url": f"http://127.0.0.1:{self.port}/health",
            "start_command": [control, start],
            "stop_command": [control, stop],
            **{key: [control, value] if key == "status_command" else value for key, value in more.items()},
        }
        return make_group(self.source, {"source": "notes"}, services=[service])

    @property
    def service(self) -> Service:
        """Return the one service."""
        return self.group.services[0]

    def call(self, word: str) -> None:
        """Call the script as its user does."""
        subprocess.run([str(self.place / "control"), word], cwd=self.place, **_QUIET)

    def start(self) -> None:
        """Start the service, and wait until it listens."""
        self.call("up")
        deadline = time.monotonic() + 30
        while service_health.ask(f"http://127.0.0.1:{self.port}/ping"):
            assert time.monotonic() < deadline, "it does not come up"
            time.sleep(0.05)

    def heard(self) -> list[list[str]]:
        """Return what the script was told, the oldest first."""
        return [line.split() for line in (self.place / "heard").read_text().splitlines()]

    def pids(self) -> list[int]:
        """Return the processes of the service."""
        (manager,) = managers_of([self.service]).values()
        return [process.pid for process in manager.processes()]

    def stores(self) -> set[str]:
        """Return which store each process of the service has open."""
        holds = {open_files.holds(pid, self.source) for pid in self.pids()}
        return {"sqlite" if held else "postgresql" for held in holds}


@pytest.fixture
def database(server: Server, rehearsed_notes: str) -> Iterator[str]:
    """The name of a copy of a database whose group was rehearsed."""
    with fresh_database(server, rehearsed_notes) as name:
        yield name


@pytest.fixture
def estate(connection: Connection, login: Login, monkeypatch: pytest.MonkeyPatch) -> Iterator[Estate]:
    let_find_programs(monkeypatch)
    # Root runs programs from directories that are its own from / on alone.
    place = Path(tempfile.mkdtemp(prefix="own-commands-"))
    place.chmod(0o755)
    made = Estate(connection, login, place)
    made.start()
    yield made
    made.call("end")
    subprocess.run(["pkill", "-KILL", "-f", f"{place}/[s]erve.py"], **_QUIET)
    with suppress(FileNotFoundError):
        write_protection.unprotect(made.source, {"mode": "0644"})
    shutil.rmtree(place)


# ---------------------------------------------------------------- there and back


@pytest.mark.promise("own-commands-move")
@pytest.mark.parametrize(
    "commands",
    [{}, {"start": "run", "stop": "end", "status_command": "ids"}],
    ids=["in the background", "in the foreground, with a status command"],
)
def test_a_service_moves_stays_and_goes_back(estate: Estate, server: Server, commands: dict[str, str]) -> None:
    estate.group = estate.described(**commands)
    before = estate.pids()
    dry = cutover.cut_over(estate.login, estate.group, estate.settings, check_mode=True)
    assert (dry["changed"], estate.pids(), (estate.place / ".env").read_text()) == (True, before, ENV)
    assert "+PGPASSWORD" not in str(dry)
    assert PASSWORD not in str(dry)

    moved = estate.move()
    assert (estate.state(), estate.stores(), len(moved["report"]["services"])) == ("live", {"postgresql"}, 1)
    assert set(estate.pids()).isdisjoint(before)
    # The first is the test's own call.
    told = estate.heard()[1:]
    names = {word for _, _, _, *variables in told for word in variables}
    assert names <= {"HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "PWD", "OLDPWD", "_", "SHLVL"}
    assert {(user, place) for _, user, place, *_ in told} == {(estate.user, str(estate.place))}
    with closing(connect(replace(server.superuser, database=estate.login.database))) as administrator:
        assert look_once(administrator, estate.group)["service"].shortcoming == ""

    running = estate.pids()
    kept = estate.move()
    assert (kept["changed"], estate.pids()) == (False, running)
    assert "Whether anything starts service at boot is not known" in str(kept["warnings"])

    execute(estate.connection, "INSERT INTO app.notes VALUES ('on postgresql')")
    estate.roll_back()
    assert (estate.state(), estate.stores()) == ("rolled_back", {"sqlite"})
    assert (estate.place / ".env").read_text() == ENV
    with closing(sqlite3.connect(estate.source)) as opened:
        assert opened.execute("SELECT count(*) FROM notes").fetchone() == (2,)


@pytest.mark.promise("own-settings-written")
def test_a_program_that_reads_keys_of_its_own_moves_and_goes_back(estate: Estate) -> None:
    keys = {"PGHOST": "DB_HOST", "PGPORT": "DB_PORT", "PGDATABASE": "DB_NAME", "PGUSER": "DB_USER"}
    program = SERVICE.replace('"PGHOST" in values', 'values.get("DB_TYPE") == "postgres"')
    for key, own in {**keys, "PGPASSWORD": "DB_PASSWORD"}.items():
        program = program.replace(f'values["{key}"]', f'values["{own}"]')
    assert "PG" not in program
    (estate.place / "serve.py").write_text(program)
    before = "DB_TYPE=sqlite\nPORT=1\n"
    (estate.place / ".env").write_text(before)
    settings = {"DB_TYPE": "postgres", "DB_PASSWORD": "{password}"}
    settings |= {"DB_HOST": "{host}", "DB_PORT": "{port}", "DB_NAME": "{database}", "DB_USER": "{user}"}
    estate.group = estate.described(settings=settings)
    estate.move()
    assert (estate.state(), estate.stores()) == ("live", {"postgresql"})
    kept = estate.move()
    assert not kept["changed"]
    estate.roll_back()
    assert (estate.state(), estate.stores()) == ("rolled_back", {"sqlite"})
    assert (estate.place / ".env").read_text() == before


@pytest.mark.promise("own-commands-move")
@pytest.mark.parametrize(
    ("commands", "behaviour", "said"),
    [
        ({"start": "refuse"}, "", "it ended with status 3"),
        ({"start": "up"}, "crash", "listens on port"),
    ],
)
def test_a_command_that_fails_leaves_the_group_on_sqlite(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, commands: dict[str, str], behaviour: str, said: str
) -> None:
    def start_on_sqlite(self: own_commands.OwnCommands, service: Service) -> None:
        # The way back has to get through, whatever the way there met.
        works = not any("PGHOST" in line for line in (estate.place / ".env").read_text().splitlines())
        real(self, estate.described().services[0] if works else service)

    real = own_commands.OwnCommands.start_service
    monkeypatch.setattr(own_commands.OwnCommands, "start_service", start_on_sqlite)
    estate.group = estate.described(**commands)
    (estate.place / "behaviour").write_text(behaviour)
    with pytest.raises(MigrationError) as failed:
        estate.move(health_timeout=4.0)
    assert said in str(failed.value)
    assert PASSWORD not in str(failed.value)
    assert (estate.state(), estate.stores()) == ("rehearsed", {"sqlite"})
    assert (estate.place / ".env").read_text() == ENV


def test_a_service_that_cannot_be_stopped_goes_on_and_moves_later(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_commands, "_REFUSED_SECONDS", 0.5)
    right, estate.group = estate.group, estate.described(stop="refuse")
    before = estate.pids()
    with pytest.raises(MigrationError) as failed:
        estate.move()
    assert "it ended with status 3 (no license), and these processes are left" in str(failed.value)
    assert (estate.pids(), estate.stores(), (estate.place / ".env").read_text()) == (before, {"sqlite"}, ENV)
    estate.group = right
    estate.move()
    assert (estate.state(), estate.stores()) == ("live", {"postgresql"})


@pytest.mark.promise("own-commands-move")
@pytest.mark.parametrize(
    ("step", "state", "at_last", "store"),
    [("start", "live", "live", "postgresql"), ("checkpoint", "frozen", "rehearsed", "sqlite")],
)
def test_the_recovery_unit_ends_the_window_of_a_run_that_has_died(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, step: str, state: str, at_last: str, store: str
) -> None:
    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(cutover_window, step, lambda *_: os._exit(9))
        with suppress(BaseException):
            estate.move()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert (estate.state(), estate.pids()) == (state, [])
    # As the unit calls them, see recovery/recover.py.
    if state == "live":
        cutover.cut_over(estate.login, estate.group, estate.settings, may_move=False)
    else:
        rollback.roll_back(estate.login, estate.group, estate.settings, may_leave=False)
    assert (estate.state(), estate.stores()) == (at_last, {store})


def test_a_service_that_starts_and_never_listens_is_stopped_again(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_commands, "_START_SECONDS", 0.5)
    estate.call("down")
    service = estate.described(start="hang", stop="ids").services[0]
    (manager,) = managers_of([service]).values()
    manager.start_service(service)
    (begun,) = own_commands._CHILDREN[-1:]
    assert (begun.poll(), manager.processes()) == (None, [])
    monkeypatch.setattr(own_commands, "_STOP_SECONDS", 1.0)
    with pytest.raises(MigrationError, match=f"these processes are left: {begun.pid}"):
        manager.stop_services([service], None)
    begun.kill()
    begun.wait()


@pytest.mark.promise("own-commands-move")
def test_a_service_that_an_undone_window_has_started_can_be_stopped(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_commands, "_STOP_SECONDS", 3.0)
    service = estate.described(start="run", stop="end").services[0]
    (manager,) = managers_of([service]).values()
    manager.stop_services([service], None)
    # What is ignored by us would be by all that we start, and "kill" would do nothing.
    with uninterruptible():
        manager.start_service(service)
    assert len(estate.pids()) == 1
    manager.stop_services([service], None)
    assert estate.pids() == []


def test_a_process_that_ends_while_it_is_looked_at_is_nobody_elses(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    (manager,) = managers_of([estate.described(status_command="ids").services[0]]).values()
    assert len(manager.processes()) == 1
    # It is there when it is looked at first, and gone with the next look.
    monkeypatch.setattr(open_files, "is_alive", lambda _: True)
    monkeypatch.setattr(open_files, "user_of", lambda _: None)
    assert manager.processes() == []


def test_a_command_that_does_not_end_leaves_nothing_and_holds_no_terminal(estate: Estate) -> None:
    service = estate.described(status_command="linger").services[0]
    with pytest.raises(MigrationError, match="did not end within 1 seconds"):
        own_commands.OwnCommands([service])._call(service, "status_command", service.status_command, 1.0)
    pid, session = (estate.place / "lingering").read_text().split()
    # A process that was killed takes a moment to go.
    until = time.monotonic() + 10
    while open_files.is_alive(int(pid)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not open_files.is_alive(int(pid))
    # Whoever shares our session may write into the terminal of the person who runs the playbook.
    assert int(session) != os.getsid(0)


# ---------------------------------------------------------------- before anything stops


@pytest.mark.promise("checked-before-services-stop")
@pytest.mark.parametrize(
    ("commands", "said"),
    [
        ({"start_command": ["/nowhere/start"]}, "cannot run /nowhere/start"),
        ({"stop_command": ["/etc/passwd"]}, "cannot run /etc/passwd"),
        ({"user": "no-such-user"}, "there is no such user on this host"),
        ({"health_url": "http://127.0.0.1:9/health"}, "listens on port 9, which its 'health_url' names"),
        ({"status_command": "init"}, "it names process 1, which is none of user"),
        ({"status_command": "words"}, "it prints something else than the ids of processes"),
        ({"status_command": "many"}, "it prints something else than the ids of processes"),
        ({"status_command": "refuse"}, "its status_command names no running process"),
    ],
)
def test_a_wrong_description_is_refused_before_anything_stops(
    estate: Estate, commands: dict[str, Any], said: str
) -> None:
    before = estate.pids()
    right, estate.group = estate.group, estate.described(**commands)
    with pytest.raises(MigrationError, match="nothing was stopped") as refused:
        estate.move()
    assert said in str(refused.value)
    estate.group = right
    assert (estate.state(), estate.pids()) == ("rehearsed", before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run something as another user")
@pytest.mark.promise("own-commands-move")
def test_commands_are_run_as_the_user_of_the_service(estate: Estate) -> None:
    (estate.place / "control").write_text(
        "#!/bin/sh\nid -un >> heard; pwd >> heard; id -Gn >> heard; echo $$ >> heard\n"
    )
    (estate.place / "heard").write_text("")
    (estate.place / "heard").chmod(0o666)
    service = estate.described(user="nobody", status_command="ids").services[0]
    (manager,) = managers_of([service]).values()
    manager.start_service(service)
    heard = (estate.place / "heard").read_text().splitlines()[:3]
    assert heard == ["nobody", str(estate.place), "nogroup"]
    # The directory is entered with the rights of the user, too.
    (estate.place / "inner").mkdir(mode=0o700)
    (estate.place / "inner").chmod(0o700)
    inner = replace(service, directory=str(estate.place / "inner"))
    (problem, *_) = manager.check_service(inner, usable=True, again=False).problems
    assert "user nobody cannot run" in problem.what


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could be led to run what somebody else has written")
@pytest.mark.promise("checked-before-services-stop")
def test_root_runs_no_program_that_somebody_else_may_change(estate: Estate) -> None:
    for path in (estate.place, estate.place / "control"):
        os.chown(path, 65534, -1)
    service = estate.described(user="root").services[0]
    (manager,) = managers_of([service]).values()
    said = [problem.what for problem in manager.check_service(service, usable=True, again=False).problems]
    assert any("root would run" in what and "which somebody else may change" in what for what in said)
    assert any("may be changed by somebody else" in what for what in said)
    own = replace(service, directory="/", start_command=("/bin/true",), stop_command=("/bin/true",))
    assert manager.check_service(own, usable=True, again=False).problems == []
    # An interpreter runs what it is told of, by whatever name.
    for script in (str(estate.place / "control"), f"{estate.place}/control".removeprefix("/")):
        told = replace(own, start_command=("/bin/sh", script, "up"))
        said = [problem.what for problem in manager.check_service(told, usable=True, again=False).problems]
        assert any(f"root would run {estate.place}/control, which" in what for what in said), script


# ---------------------------------------------------------------- the description

DESCRIBED = {
    "name": "shop",
    "manager": "none",
    "user": "shop",
    "directory": "/opt/shop",
    "database_role": "shop_web",
    "schemas": ["shop"],
    "health_url": "http://127.0.0.1:3000/health",
    "start_command": ["/opt/shop/control", "up"],
    "stop_command": ["/opt/shop/control", "down"],
}


def parsed(**changes: Any) -> Service:
    """Return the service of an inventory, keys with the value ... left out."""
    entry = {key: value for key, value in {**DESCRIBED, **changes}.items() if value is not ...}
    return inventory.parse_group({"name": "g", "source": {"path": "/g.db"}, "services": [entry]}).services[0]


def test_a_command_is_told_to_a_person_as_it_is_run() -> None:
    service = parsed(start_command=["/opt/shop/control", "two words"], env_file="etc/settings")
    assert service.env_path == "/opt/shop/etc/settings"
    assert log_command(service) == "runuser -u shop -- env --chdir=/opt/shop /opt/shop/control 'two words'"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"manager": "nome"}, "Did you mean 'none'? Choose one of"),
        ({"manager": None}, "write the word none"),
        ({"start_command": ...}, "'start_command' is missing"),
        ({"stop_command": ...}, "'stop_command' is missing"),
        ({"start_comand": ["/x"]}, "Did you mean 'start_command'?"),
        ({"start_command": "/opt/shop/control up"}, "is one text, and no shell divides it into words"),
        ({"start_command": ["control", "up"]}, "does not begin with the absolute path of a program"),
        ({"start_command": []}, "is no list of words"),
        ({"stop_command": ["/bin/kill", 5]}, "write a number in quotes"),
        ({"start_command": ["/x", "--password=hunter2"]}, "seems to hold a secret"),
        ({"start_command": ["/x", "postgresql://shop:hunter2@db/shop"]}, "seems to hold a secret"),
        ({"status_command": ["/x", "PGPASSWORD=hunter2"]}, "seems to hold a secret"),
        ({"settings": {"DB_HOST": "{hots}"}}, "names {hots}. Did you mean 'host'? Known: {host}, {port}"),
        ({"settings": {"PGHOST": "db"}}, "'settings: PGHOST' is written by the role itself"),
        ({"settings": {"DB-HOST": "db"}}, "is no name of a variable"),
        ({"settings": {"DB_PORT": 5432}}, "'settings: DB_PORT' is no text"),
        ({"manager": "systemd"}, "'start_command' is for services with 'manager: none', and its manager is systemd"),
        ({"manager": "pm2"}, "'stop_command' is for services with 'manager: none', and its manager is pm2"),
        ({"pm2_home": "/opt/pm2"}, "'pm2_home' is for services under pm2, and its manager is none"),
    ],
)
def test_a_wrong_description_is_refused_on_the_controller(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(MigrationError) as refused:
        parsed(**changes)
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)
