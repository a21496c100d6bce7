"""Where pm2 is found, and that what is asked of a busy one is asked again, a bounded number of times.

Nobody can make the real pm2 fail at the right moment: a program in its place does.
"""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import (
    Service,
    parse_group,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import login_test, pm2, programs
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.service_health import (
    ServicesLogin,
)

# Notes each call; fails as often as the file `failures` has lines, each time with the first line's words.
PROGRAM = """#!/bin/sh
here={here}
echo "$*" >>"$here/calls"
echo "$PM2_HOME" >"$here/home"
if [ -s "$here/failures" ]; then
  head -n 1 "$here/failures" >&2
  sed -i 1d "$here/failures"
  exit 1
fi
case "$*" in
  *jlist) cat "$here/list" ;;
  delete*) echo '[]' >"$here/list" ;;
esac
"""
LISTED = '[{"name": "a", "pid": 1, "pm2_env": {"status": "online"}}]'


class Place:
    """A directory with a pm2 that can be told to fail."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        program = directory / "pm2"
        program.write_text(PROGRAM.format(here=directory))
        program.chmod(0o755)
        (directory / "list").write_text(LISTED)

    def fail(self, *said: str) -> None:
        """Let so many calls fail with these words."""
        (self._directory / "failures").write_text("".join(f"{words}\n" for words in said))

    @property
    def calls(self) -> list[str]:
        """Return the commands that were called."""
        return [line.split()[-1] for line in (self._directory / "calls").read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(programs, "PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(pm2, "_SECONDS_BETWEEN_TRIES", 0.0)
    return Place(tmp_path)


@pytest.fixture
def daemon() -> pm2.Pm2:
    return pm2.Pm2(getpass.getuser())


def test_a_list_is_asked_for_again(place: Place, daemon: pm2.Pm2) -> None:
    place.fail("", "")
    assert [process.name for process in daemon.processes()] == ["a"]
    assert place.calls == ["jlist"] * 3


@pytest.mark.parametrize("known", [(), ("a",)])
def test_a_service_is_deleted_again_and_not_if_it_is_gone_meanwhile(
    place: Place, daemon: pm2.Pm2, known: tuple[str, ...]
) -> None:
    if known:
        place.fail("")
    daemon.delete(["a"], known)
    assert place.calls == (["a", "jlist", "a"] if known else ["jlist", "a"])
    daemon.delete(["a"])
    assert place.calls[-1] == "jlist"


def test_what_pm2_says_last_is_told_in_the_end(place: Place, daemon: pm2.Pm2) -> None:
    place.fail(*(f"[PM2][ERROR] try {number}" for number in range(1, 20)))
    with pytest.raises(MigrationError, match="try 4"):
        daemon.processes()
    assert place.calls == ["jlist"] * 4


def test_a_start_is_not_tried_twice(place: Place, daemon: pm2.Pm2, tmp_path: Path) -> None:
    place.fail("[PM2][ERROR] no")
    with pytest.raises(MigrationError, match="no"):
        daemon.start(str(tmp_path / "ecosystem.config.js"), "a")
    assert place.calls == ["a"]


def test_no_name_means_no_call(place: Place, daemon: pm2.Pm2, tmp_path: Path) -> None:
    daemon.delete([])
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize("answer", ["right", "fails", "no list", "hangs"])
def test_the_daemon_is_asked_without_pm2_s_own_program_and_that_if_no_list_comes(
    elsewhere: Path, place: Place, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    if answer == "hangs":
        monkeypatch.setattr(pm2, "_SECONDS_OF_THE_DAEMON", 0.5)
    installed = elsewhere / "installed"
    (installed / "modules" / "pm2-axon-rpc").mkdir(parents=True)
    (installed / "bin").mkdir()
    shutil.move(elsewhere / "pm2", installed / "bin" / "pm2")
    (elsewhere / "pm2").symlink_to(installed / "bin" / "pm2")
    node = elsewhere / "node"
    said = {"right": f"echo '{LISTED}'", "fails": "exit 1", "no list": "echo nothing", "hangs": "exec sleep 600"}[
        answer
    ]
    node.write_text(f'#!/bin/sh\necho "$3 $4" >>{elsewhere}/asked\n{said}\n')
    node.chmod(0o755)
    with daemon_of(elsewhere / "own", elsewhere):
        found = only(service_of(str(elsewhere / "own"), str(elsewhere)))
        assert [process.name for process in found.processes()] == ["a"]
        (elsewhere / "own" / "rpc.sock").unlink()
        # Who is not there is not asked.
        assert [process.name for process in found.processes()] == ["a"]
    assert (elsewhere / "asked").read_text() == f"{installed}/modules {elsewhere}/own/rpc.sock\n"
    assert place.calls == (["jlist"] if answer == "right" else ["jlist", "jlist"])


# ---------------------------------------------------------------- where it is found


@contextmanager
def daemon_of(home: Path, *path: Path) -> Iterator[None]:
    """Run a process that calls itself as pm2's daemon does, with this PM2_HOME and these directories in its PATH."""
    home.mkdir()
    title = f"PM2 v7.0.4: God Daemon ({home})"
    found = ":".join(map(str, [*path, "/usr/bin"]))
    # What it stands for is node in the place where nvm has put it.
    command = ["bash", "-c", f"exec -a '{title}' sleep 600"]
    with subprocess.Popen(command, env={"PATH": found}) as process, socket.socket(socket.AF_UNIX) as listener:
        (home / "pm2.pid").write_text(f"{process.pid}\n")
        listener.bind(str(home / "rpc.sock"))
        try:
            # The shell has the title among its words before it becomes the daemon.
            while not Path(f"/proc/{process.pid}/cmdline").read_text().startswith(title):
                pass
            yield
        finally:
            process.kill()


def service_of(home: str = "", path: str = "", name: str = "a") -> Service:
    """Return a service of ours."""
    user = getpass.getuser()
    return Service(name, user, "/opt", "role", ("app",), "http://127.0.0.1:9/", pm2_home=home, pm2_path=path)


def only(*services: Service) -> pm2.Pm2:
    """Return the one pm2 of these services."""
    (found,) = pm2.by_user(services).values()
    return found


@pytest.fixture
def elsewhere(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the pm2, which is in no common PATH; its user has no ~/.pm2."""
    monkeypatch.setattr(programs, "PATH", "/usr/bin:/bin")
    account = pwd.getpwuid(os.geteuid())
    empty = pwd.struct_passwd((*account[:5], str(tmp_path / "user"), account[6]))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: empty)
    return tmp_path


def test_a_pm2_in_a_home_directory_is_found_by_its_daemon(elsewhere: Path) -> None:
    with daemon_of(elsewhere / "own-home", elsewhere):
        found = only(service_of(), service_of(name="b"))
        assert found.problem() is None
        assert [process.name for process in found.processes()] == ["a"]
        assert (elsewhere / "home").read_text() == f"{elsewhere}/own-home\n"


def test_the_inventory_says_where_it_is(elsewhere: Path) -> None:
    with daemon_of(elsewhere / "one"), daemon_of(elsewhere / "two"):
        undecided = only(service_of()).problem()
        assert undecided is not None
        assert f"it has several daemons: {elsewhere}/one, {elsewhere}/two" in str(undecided)
        assert "pm2_home" in undecided.fix
        nowhere = only(service_of(home=str(elsewhere / "two"))).problem()
        assert nowhere is not None
        assert "'pm2_path'" in nowhere.fix
        found = only(service_of(str(elsewhere / "two"), str(elsewhere)))
        assert found.problem() is None
        assert [process.name for process in found.processes()] == ["a"]
        assert (elsewhere / "home").read_text() == f"{elsewhere}/two\n"
    stopped = only(service_of(str(elsewhere / "two"), str(elsewhere))).problem()
    assert f"its daemon does not run with PM2_HOME={elsewhere}/two" in str(stopped)


def test_a_second_daemon_in_the_common_directory_is_not_taken_for_the_services_own(elsewhere: Path) -> None:
    """A single `pm2 list` without PM2_HOME starts one there, which knows no service."""
    common = elsewhere / "user" / ".pm2"
    common.parent.mkdir()
    with daemon_of(common, elsewhere):
        found = only(service_of())
        assert (found.problem(), found.home, found.command) == (None, common, "pm2")
        with daemon_of(elsewhere / "own", elsewhere):
            undecided = only(service_of()).problem()
            assert f"it has several daemons: {elsewhere}/own, {common}" in str(undecided)


def test_a_printed_command_holds_no_text_that_a_shell_would_obey(elsewhere: Path) -> None:
    home = elsewhere / "a; reboot"
    with daemon_of(home, elsewhere):
        found = only(service_of())
        assert found.command == f"PM2_HOME='{home}' pm2"
        assert pm2.startup_command("someone", found) == f"PM2_HOME='{home}' pm2 startup systemd -u someone"


def test_groups_that_are_looked_at_together_share_the_pm2_that_they_name_alike() -> None:
    known: dict[tuple[str, ...], pm2.Pm2] = {}
    (first,) = pm2.by_user([service_of("/srv/one")], known).values()
    (second,) = pm2.by_user([service_of("/srv/one", name="b")], known).values()
    assert second is first
    for home, path in (("/srv/two", ""), ("/srv/one", "/usr/local/node")):
        (other,) = pm2.by_user([service_of(home, path)], known).values()
        assert other is not first
    assert only(service_of("/srv/one")) is not first


def test_the_services_of_one_user_name_one_pm2() -> None:
    with pytest.raises(MigrationError, match="name different 'pm2_home'"):
        pm2.by_user([service_of("/srv/one"), service_of("/srv/two", name="b")])


def test_the_inventory_names_it_by_absolute_paths() -> None:
    service = {"name": "a", "user": "a", "directory": "/a", "database_role": "a", "schemas": ["a"]}
    service |= {"health_url": "http://127.0.0.1:9/", "pm2_home": "here", "pm2_path": "/usr/bin:bin"}
    with pytest.raises(MigrationError) as refused:
        parse_group({"name": "a", "source": {"path": "/a.db"}, "services": [service]})
    assert ["pm2_home" in str(refused.value), "pm2_path" in str(refused.value)] == [True, True]
    service |= {"pm2_home": "/srv/pm2", "pm2_path": "/opt/node/bin:/opt/pm2/bin"}
    (parsed,) = parse_group({"name": "a", "source": {"path": "/a.db"}, "services": [service]}).services
    assert (parsed.pm2_home, parsed.pm2_path) == ("/srv/pm2", "/opt/node/bin:/opt/pm2/bin")


def test_what_stands_in_the_place_of_its_files_leads_nobody_astray(elsewhere: Path) -> None:
    home = elsewhere / "one"
    found = only(service_of(str(home), str(elsewhere)))
    with daemon_of(home, elsewhere):
        assert found.problem() is None
        (home / "dump.pm2").write_text('[{"name": "a", "pm2_env": {"secret": "word"}}]')
        with pytest.raises(MigrationError, match="has written a database password"):
            found.save(["b"], ["word"], check_mode=True)
        # The file of somebody else, reached by a link, is not read.
        (home / "dump.pm2").rename(elsewhere / "other")
        (home / "dump.pm2").symlink_to(elsewhere / "other")
        assert not found.save(["b"], ["word"], check_mode=True)
        (home / "pm2.pid").unlink()
        os.mkfifo(home / "pm2.pid")
        assert "its daemon does not run" in str(found.problem())


def test_a_service_tries_its_login_with_the_node_that_it_runs_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "PATH", "/nowhere")
    (tmp_path / "node_modules" / login_test.LIBRARY).mkdir(parents=True)
    (tmp_path / "node").write_text("#!/bin/sh\necho '\"the node of the service\"'\n")
    (tmp_path / "node").chmod(0o755)
    # What runs from the same directory, as the service does.
    shutil.copy("/bin/sleep", tmp_path / "service")
    far = ServicesLogin("192.0.2.1", 5432, "shop")
    service = replace(service_of(), directory=str(tmp_path))
    with subprocess.Popen([tmp_path / "service", "60"]) as process:
        (by_process,) = login_test.problems(far, {service: {}}, {"a": [process.pid]})
        process.kill()
    (by_inventory,) = login_test.problems(far, {replace(service, pm2_path=str(tmp_path)): {}}, {})
    (nowhere,) = login_test.problems(far, {service: {}}, {})
    found = ["the node of the service" in str(problem) for problem in (by_process, by_inventory, nowhere)]
    assert found == [True, True, False]
