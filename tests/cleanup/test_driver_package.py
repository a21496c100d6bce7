"""The driver in the services' packages: real npm, no registry, and nothing else of the package changed."""

from __future__ import annotations

import getpass
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import driver_package
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group, parse_group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import programs
from tests.validation.support import GROUP

needs_npm = pytest.mark.skipif(shutil.which("npm", path="/usr/local/bin:/usr/bin:/bin") is None, reason="needs npm")

LOCK = {
    "name": "service",
    "version": "1.0.0",
    "lockfileVersion": 3,
    "packages": {
        "": {"name": "service", "dependencies": {"better-sqlite3": "11.10.0", "pg": "8.0.0"}},
        "node_modules/better-sqlite3": {"version": "11.10.0"},
        "node_modules/pg": {"version": "8.0.0"},
    },
}


def make_package(directory: Path, indent: int = 4, **further: Any) -> Path:
    """Create a package with two dependencies that lie in its ``node_modules``."""
    versions = {"better-sqlite3": "11.10.0", "pg": "8.0.0"}
    for name, version in versions.items():
        (directory / "node_modules" / name).mkdir(parents=True)
        (directory / "node_modules" / name / "package.json").write_text(json.dumps({"name": name, "version": version}))
    path = directory / "package.json"
    text = json.dumps({"name": "service", "version": "1.0.0", "dependencies": versions, **further}, indent=indent)
    path.write_text(text + "\n")
    return path


def groups_of(*directories: Path) -> list[Group]:
    """Return one group with one service for each directory."""
    group = parse_group({**GROUP, "source": {"path": "/opt/zoo.db"}})
    return [
        replace(
            group,
            name=f"group-{number}",
            services=(replace(group.services[0], directory=str(directory), user=getpass.getuser()),),
        )
        for number, directory in enumerate(directories)
    ]


@pytest.mark.promise("driver-removed-last")
@needs_npm
@pytest.mark.parametrize("indent", [2, 4])
def test_npm_removes_it_without_a_registry_and_keeps_the_form(tmp_path: Path, indent: int) -> None:
    path = make_package(tmp_path, indent)
    (tmp_path / "node_modules" / "shared-library").mkdir()
    wanted = json.loads(path.read_text())
    del wanted["dependencies"]["better-sqlite3"]
    (package,) = driver_package.find(groups_of(tmp_path))
    assert package["driver"] == "11.10.0"
    assert driver_package.remove(package) is True
    assert path.read_text() == json.dumps(wanted, indent=indent) + "\n"
    assert not (tmp_path / "node_modules" / "better-sqlite3").exists()
    assert (tmp_path / "node_modules" / "pg").is_dir()
    # What was put there without a word in package.json stays.
    assert (tmp_path / "node_modules" / "shared-library").is_dir()
    assert not (tmp_path / "package-lock.json").exists()
    assert driver_package.remove(package) is False


@needs_npm
def test_a_lock_file_is_kept_up_to_date(tmp_path: Path) -> None:
    make_package(tmp_path)
    (tmp_path / "package-lock.json").write_text(json.dumps(LOCK))
    (package,) = driver_package.find(groups_of(tmp_path))
    driver_package.remove(package)
    assert "better-sqlite3" not in (tmp_path / "package-lock.json").read_text()
    assert not (tmp_path / "node_modules" / "better-sqlite3").exists()
    assert "node_modules/pg" in (tmp_path / "package-lock.json").read_text()


def test_services_that_share_a_package_have_it_together(tmp_path: Path) -> None:
    one, other, alone = (tmp_path / name for name in ("one", "other", "alone"))
    make_package(one)
    make_package(alone)
    other.mkdir()
    (other / "package.json").write_text((one / "package.json").read_text())
    (other / "node_modules").symlink_to(one / "node_modules")
    packages = driver_package.find(groups_of(one, other, alone))
    assert [package["groups"] for package in packages] == [
        ["group-0", "group-1"],
        ["group-1", "group-0"],
        ["group-2"],
    ]


def test_a_package_that_is_no_json_or_a_fifo_is_named(tmp_path: Path) -> None:
    one, other, none = (tmp_path / name for name in ("one", "other", "none"))
    for directory in (one, other, none):
        directory.mkdir()
    (one / "package.json").write_text("[")
    os.mkfifo(other / "package.json")
    notes = [package["note"] for package in driver_package.find(groups_of(one, other, none))]
    assert notes == ["cannot be read: JSONDecodeError", "cannot be read: OSError", "absent"]


def test_without_npm_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_package(tmp_path)
    (tmp_path / "rm").symlink_to(shutil.which("rm") or "/bin/rm")
    monkeypatch.setattr(programs, "PATH", str(tmp_path))
    (package,) = driver_package.find(groups_of(tmp_path))
    with pytest.raises(MigrationError, match="npm is not in"):
        driver_package.remove(package)


# ---------------------------------------------------------------- what npm must not do


def require_untouched(directory: Path, text: str) -> None:
    """Require that a package is what it was."""
    assert (directory / "package.json").read_text() == text
    assert (directory / "node_modules" / "better-sqlite3").is_dir()


@pytest.mark.parametrize(
    ("lock", "program"),
    [("pnpm-lock.yaml", "pnpm"), ("yarn.lock", "yarn"), ("bun.lock", "bun"), ("bun.lockb", "bun")],
)
@pytest.mark.parametrize("beside", [(), ("package-lock.json",)])
def test_the_package_of_another_package_manager_is_named_and_left_alone(
    tmp_path: Path, lock: str, program: str, beside: tuple[str, ...]
) -> None:
    text = make_package(tmp_path).read_text()
    for name in (lock, *beside):
        (tmp_path / name).write_text("{}")
    (package,) = driver_package.find(groups_of(tmp_path))
    assert f"{program} remove better-sqlite3" in package["by_hand"]
    with pytest.raises(MigrationError, match=f"{program} keeps it"):
        driver_package.remove(package)
    require_untouched(tmp_path, text)


def test_a_package_of_a_workspace_is_named_and_left_alone(tmp_path: Path) -> None:
    directory = tmp_path / "packages" / "service"
    directory.mkdir(parents=True)
    text = make_package(directory).read_text()
    (tmp_path / "package-lock.json").write_text("{}")
    (package,) = driver_package.find(groups_of(directory))
    assert f"the workspace {tmp_path}" in package["by_hand"]
    require_untouched(directory, text)
    # One with a lock file of its own is none.
    (directory / "package-lock.json").write_text("{}")
    assert driver_package.find(groups_of(directory))[0]["by_hand"] == ""


@pytest.mark.parametrize("name", ["session-store", "@zoo/session-store"])
def test_what_another_package_still_needs_is_named_and_left_alone(tmp_path: Path, name: str) -> None:
    text = make_package(tmp_path).read_text()
    (tmp_path / "node_modules" / name).mkdir(parents=True)
    needs = {"name": name, "dependencies": {"better-sqlite3": "*"}}
    (tmp_path / "node_modules" / name / "package.json").write_text(json.dumps(needs))
    (package,) = driver_package.find(groups_of(tmp_path))
    assert f"{name} in its node_modules still depends on better-sqlite3" in package["by_hand"]
    require_untouched(tmp_path, text)


def test_a_package_that_never_named_it_is_left_alone(tmp_path: Path) -> None:
    path = make_package(tmp_path)
    path.write_text('{"name": "service", "dependencies": {"pg": "8.0.0"}}')
    (package,) = driver_package.find(groups_of(tmp_path))
    assert (package["driver"], package["by_hand"]) == (None, "")
    assert "its node_modules stays" in package["note"]
    assert driver_package.remove(package) is False
    require_untouched(tmp_path, path.read_text())
    shutil.rmtree(tmp_path / "node_modules" / "better-sqlite3")
    assert driver_package.find(groups_of(tmp_path))[0]["note"] == ""


def test_services_in_one_directory_have_one_package(tmp_path: Path) -> None:
    make_package(tmp_path)
    groups = groups_of(tmp_path, tmp_path)
    groups[0] = replace(groups[0], services=(replace(groups[0].services[0], user="somebody"),))
    (package,) = driver_package.find(groups)
    assert package["groups"] == ["group-0", "group-1"]
    assert package["users"] == ["somebody", getpass.getuser()]
    # It acts as the one that the package belongs to.
    assert driver_package._account_of(package).pw_name == getpass.getuser()


LOAD = """
import mmap, sys, time
file = open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
file.close()
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.promise("driver-removed-last")
def test_a_process_that_has_loaded_the_driver_keeps_it(tmp_path: Path) -> None:
    text = make_package(tmp_path).read_text()
    native = tmp_path / "node_modules" / "better-sqlite3" / "better_sqlite3.node"
    native.write_bytes(b"machine code")
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD, str(native)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    (package,) = driver_package.find(groups_of(tmp_path))
    assert package["loaded"].startswith(f"process {process.pid} ")
    with pytest.raises(MigrationError, match="has loaded it"):
        driver_package.remove(package)
    require_untouched(tmp_path, text)
    process.communicate("\n", timeout=120)
    assert driver_package.find(groups_of(tmp_path))[0]["loaded"] == ""


# ---------------------------------------------------------------- as whom


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Return a directory that other users can reach: pytest's own are root's alone."""
    directory = Path(tempfile.mkdtemp(prefix="driver-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as others")


def give(directory: Path, user: int) -> None:
    """Give a directory and what is in it to a user."""
    for path in (directory, *directory.rglob("*")):
        os.chown(path, user, user)


def of_nobody(directory: Path) -> list[Group]:
    """Return a group whose service runs as nobody."""
    (group,) = groups_of(directory)
    return [replace(group, services=(replace(group.services[0], user="nobody"),))]


@needs_npm
@as_root
def test_it_is_done_as_the_user_of_the_service(open_directory: Path) -> None:
    path = make_package(open_directory)
    (open_directory / "package-lock.json").write_text(json.dumps(LOCK))
    give(open_directory, 65534)
    (package,) = driver_package.find(of_nobody(open_directory))
    driver_package.remove(package)
    assert {entry.stat().st_uid for entry in open_directory.iterdir()} == {65534}
    assert "better-sqlite3" not in path.read_text()


@needs_npm
@as_root
def test_a_package_of_roots_own_is_changed_by_root(open_directory: Path) -> None:
    path = make_package(open_directory)
    (package,) = driver_package.find(of_nobody(open_directory))
    assert package["by_hand"] == ""
    driver_package.remove(package)
    assert "better-sqlite3" not in path.read_text()
    assert path.stat().st_uid == 0


@as_root
@pytest.mark.parametrize("writable", ["", "node_modules"])
def test_root_runs_no_npm_where_others_may_write(open_directory: Path, writable: str) -> None:
    text = make_package(open_directory).read_text()
    os.chown(open_directory / writable, 65534, 65534)
    (package,) = driver_package.find(of_nobody(open_directory))
    assert "may be changed by somebody else" in package["by_hand"]
    with pytest.raises(MigrationError, match="may be changed by somebody else"):
        driver_package.remove(package)
    require_untouched(open_directory, text)


@as_root
def test_a_symlink_leads_root_to_no_other_package(open_directory: Path) -> None:
    other, service = open_directory / "other", open_directory / "service"
    other.mkdir()
    service.mkdir()
    text = make_package(other).read_text()
    (service / "package.json").symlink_to(other / "package.json")
    os.chown(service, 65534, 65534)
    (package,) = driver_package.find(of_nobody(service))
    assert (package["path"], package["driver"]) == (str(other / "package.json"), "11.10.0")
    assert "may be changed by somebody else" in package["by_hand"]
    require_untouched(other, text)


@as_root
@pytest.mark.parametrize("kind", ["symlink", "hard link"])
def test_a_package_of_root_alone_is_not_read_for_a_user(open_directory: Path, kind: str) -> None:
    other, service = open_directory / "other", open_directory / "service"
    other.mkdir(mode=0o755)
    service.mkdir()
    secret = make_package(other)
    secret.chmod(0o600)
    if kind == "symlink":
        (service / "package.json").symlink_to(secret)
    else:
        os.link(secret, service / "package.json")
    (package,) = driver_package.find(of_nobody(service))
    assert (package["driver"], package["note"]) == (None, "cannot be read: PermissionError")


def test_a_huge_or_endless_package_fills_no_memory(tmp_path: Path) -> None:
    huge, endless = tmp_path / "huge", tmp_path / "endless"
    for directory in (huge, endless):
        directory.mkdir()
    make_package(huge)
    os.truncate(huge / "package.json", 1 << 40)
    (endless / "package.json").symlink_to("/dev/zero")
    notes = [package["note"] for package in driver_package.find(groups_of(huge, endless))]
    assert notes == ["cannot be read: JSONDecodeError", "cannot be read: OSError"]


@pytest.mark.parametrize("version", ["\\u0000", "\\ud800", "\\u001b[31m"])
def test_a_version_that_no_output_can_hold_is_shown_without_it(tmp_path: Path, version: str) -> None:
    (tmp_path / "package.json").write_text('{"dependencies": {"better-sqlite3": "1' + version + '"}}')
    (package,) = driver_package.find(groups_of(tmp_path))
    assert package["driver"].startswith("1?")


@as_root
def test_a_package_of_a_stranger_is_left_alone(open_directory: Path) -> None:
    text = make_package(open_directory).read_text()
    give(open_directory, 12345)
    (package,) = driver_package.find(of_nobody(open_directory))
    assert "belongs to the user with the id 12345" in package["by_hand"]
    require_untouched(open_directory, text)


# ---------------------------------------------------------------- programs that do not behave


def run_script(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Run a script in the place of a program."""
    program = directory / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(programs, "PATH", f"{directory}:/usr/bin:/bin")
    account = pwd.getpwuid(os.geteuid())
    driver_package._run(["program"], directory, account)


def test_a_program_that_talks_without_end_fills_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_package, "_SECONDS", 1)
    with pytest.raises(MigrationError, match="did not end within 1 seconds"):
        run_script(tmp_path, monkeypatch, "exec yes >&2")


def test_a_child_that_keeps_the_pipe_does_not_hold_it_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_script(tmp_path, monkeypatch, f"setsid sleep 600 & echo $! > {tmp_path}/child; exit 0")
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)  # It still runs.


def test_what_a_program_says_last_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MigrationError, match="program says: too bad"):
        run_script(tmp_path, monkeypatch, "echo too bad >&2; exit 3")


def test_a_program_cannot_reach_the_terminal_of_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_script(tmp_path, monkeypatch, "cut -d ' ' -f 6,7 /proc/$$/stat > session")
    session, terminal = map(int, (tmp_path / "session").read_text().split())
    assert session != os.getsid(0)
    assert terminal == 0


# ---------------------------------------------------------------- a crash


@needs_npm
@pytest.mark.parametrize("step", [1, 2])
def test_a_killed_removal_is_finished_by_the_next(tmp_path: Path, step: int) -> None:
    path = make_package(tmp_path)
    (tmp_path / "package-lock.json").write_text(json.dumps(LOCK))
    (package,) = driver_package.find(groups_of(tmp_path))
    pid = os.fork()
    if pid == 0:
        run: Callable[..., None] = driver_package._run
        calls = 0

        def counted(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            run(*arguments)

        setattr(driver_package, "_run", counted)  # noqa: B010 (mypy: its arguments are not those of the function)
        driver_package.remove(package)
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    assert "better-sqlite3" in path.read_text()
    assert driver_package.remove(package) is True
    for name in ("package.json", "package-lock.json"):
        assert "better-sqlite3" not in (tmp_path / name).read_text()
    assert not (tmp_path / "node_modules" / "better-sqlite3").exists()
    assert subprocess.run(["ls", tmp_path / "node_modules"], capture_output=True, check=True).stdout == b"pg\n"
