"""A cleanup that is killed at every step it takes, and finished by running it again with the same id."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import cleanup
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import (
    records as cleanup_records,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import (
    restore as cleanup_return,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import steps as cleanup_steps
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import open_files, safe_paths
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.quarantine import (
    archive,
    move_in,
    tombstone,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.quarantine import (
    place as quarantine_place,
)
from tests.validation.support import Estate

from .support import Cleaned, make_legacy, make_ready

# What a cleanup does to the outside world and to the ledger. It is killed before each of these calls, so between every
# two of its steps: an uncommitted statement is undone by the kill, and a committed one stands before the next call.
_STEPS: tuple[tuple[Any, str], ...] = (
    (cleanup_records, "write_file"),
    (cleanup_records, "forget_file"),
    (archive, "_write"),
    (archive, "_compress"),
    (archive, "_prove"),
    (ledger, "take_step"),
    (quarantine_place, "remove"),
    (tombstone, "make"),
    (tombstone, "guard"),
    (safe_paths, "exchange"),
    (safe_paths, "move"),
    (safe_paths, "set_immutable"),
    (move_in, "require_moved"),
    (os, "unlink"),
    (os, "rmdir"),
)
# Of all the files that are removed only these: the others are private copies.
_REMOVED = ("database", "database-wal", "symlink-1", tombstone.README)
_USERS = (cleanup, cleanup_return, cleanup_steps)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no process but these be looked into: nobody opens a file here, and to look at all of them takes time."""
    monkeypatch.setattr(open_files, "_process_ids", lambda: [os.getpid(), os.getppid()])


def killed_at(
    ready: Cleaned, login: Login, plan_id: str, step: int, work: Callable[[Cleaned, str], Any], only: str = ""
) -> bool:
    """Do the work in a process that is killed by SIGKILL before its n-th step; return whether it came to that.

    :param only: count the calls of this name alone.
    """
    pid = os.fork()
    if pid == 0:
        count = 0

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any, **named: Any) -> Any:
                nonlocal count
                count += call.__module__ != "posix" or arguments[0] in _REMOVED
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **named)

            return wrapped

        try:
            for module, name in _STEPS:
                if only not in ("", name):
                    continue
                original: Callable[..., Any] = getattr(module, name)
                for user in (module, *_USERS):
                    if vars(user).get(name) is original:
                        setattr(user, name, counted(original))
            # The parent's connection must not be used by two processes.
            ready.estate.connection = connect(login)
            work(ready, plan_id)
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "the run failed by itself"
    return os.WIFSIGNALED(status)


def carry_out(ready: Cleaned, plan_id: str) -> None:
    """Carry out a plan."""
    ready.confirm(plan_id)


def bring_back(ready: Cleaned, _plan_id: str) -> None:
    """Bring every file back."""
    ready.restore("zoo", "legacy")


def make(estate: Estate, tmp_path: Path) -> Cleaned:
    """Return an estate with a symlink and a legacy file, with rows in its ``-wal`` alone, that may be cleaned up."""
    (tmp_path / "alias.db").symlink_to(estate.source)
    make_legacy(tmp_path / "old.db")
    return make_ready(estate, [tmp_path / "old.db"], [tmp_path / "alias.db"])


def contents(directory: Path) -> dict[str, bytes]:
    """Return the content of every database of a directory, and of what SQLite keeps beside it."""
    return {path.name: path.read_bytes() for path in directory.glob("*.db*") if path.is_file()}


def require_every_file_once(tmp_path: Path, content: dict[str, bytes]) -> None:
    """Require that each file is whole, and in one place: where it was, or in quarantine."""
    hidden = [path.read_bytes() for path in tmp_path.glob("quarantine/*/database*") if path.is_file()]
    found = contents(tmp_path)
    for name in ("zoo.db", "old.db", "old.db-wal"):
        assert (found.get(name) == content[name]) != (content[name] in hidden), name
    # No name was ever free: an old program would have created an empty database there.
    for name in ("zoo.db", "old.db", "alias.db"):
        assert (tmp_path / name).exists(), name


def require_in_quarantine(ready: Cleaned, tmp_path: Path, content: dict[str, bytes]) -> None:
    """Require that everything is where a finished run leaves it."""
    assert ready.state() == "archived"
    assert set(ready.steps().values()) == {"quarantined"}
    for name in ("zoo.db", "alias.db", "old.db"):
        assert os.listdir(tmp_path / name) == ["README"]
    assert (ready.quarantine_of(ready.estate.source) / "database").read_bytes() == content["zoo.db"]
    hidden = ready.quarantine_of(tmp_path / "old.db")
    assert (hidden / "database-wal").read_bytes() == content["old.db-wal"]
    assert sorted(os.listdir(hidden)) == ["database", "database-wal"]
    assert not list(tmp_path.glob("archives/*unfinished"))
    assert not list(Path(ready.estate.work).glob("run-*"))


def require_back(ready: Cleaned, tmp_path: Path, content: dict[str, bytes]) -> None:
    """Require that everything is where it was."""
    assert contents(tmp_path) == content
    assert os.readlink(tmp_path / "alias.db") == str(ready.estate.source)
    assert (ready.state(), ready.steps()) == ("live", {})


@pytest.mark.promise("killed-cleanup-finished")
def test_a_killed_quarantine_is_finished_by_the_next_run(estate: Estate, login: Login, tmp_path: Path) -> None:
    ready = make(estate, tmp_path)
    content = contents(tmp_path)
    step = 1
    while True:
        plan_id = ready.explain()["plan_id"]
        killed = killed_at(ready, login, plan_id, step, carry_out)
        require_every_file_once(tmp_path, content)
        ready.confirm(plan_id)
        require_in_quarantine(ready, tmp_path, content)
        if not killed:
            break
        ready.restore("zoo", "legacy")
        # Each time from the start, archives included.
        shutil.rmtree(tmp_path / "archives")
        ready.soak()
        step += 1
    assert ready.confirm(plan_id)["changed"] is False
    assert step > 35


@pytest.mark.promise("killed-cleanup-finished")
def test_a_killed_return_is_finished_by_the_next_run(estate: Estate, login: Login, tmp_path: Path) -> None:
    ready = make(estate, tmp_path)
    content = contents(tmp_path)
    step = 1
    while True:
        ready.confirm()
        killed = killed_at(ready, login, "", step, bring_back)
        require_every_file_once(tmp_path, content)
        ready.restore("zoo", "legacy")
        require_back(ready, tmp_path, content)
        if not killed:
            break
        ready.soak()
        step += 1
    assert step > 20


@pytest.mark.promise("killed-cleanup-finished")
@pytest.mark.parametrize("step", range(1, 18))
def test_a_killed_deletion_is_finished_by_the_next_run(estate: Estate, login: Login, tmp_path: Path, step: int) -> None:
    content = estate.source.read_bytes()
    ready = make(estate, tmp_path)
    ready.confirm()
    ready.wait_in_quarantine()
    plan_id = ready.explain()["plan_id"]
    assert killed_at(ready, login, plan_id, step, carry_out)
    assert list(tmp_path.glob("archives/*zoo*/manifest.json"))
    hidden = list(tmp_path.glob("quarantine/*zoo*/database"))
    # Until the ledger has it that the deletion may begin, nothing is deleted.
    assert hidden or set(ready.steps().values()) & {"deleting", "deleted"}
    assert all(path.read_bytes() == content for path in hidden)
    ready.confirm(plan_id)
    assert ready.state() == "removed"
    assert set(ready.steps().values()) == {"deleted"}
    assert list(tmp_path.glob("archives/*zoo*/manifest.json"))
    assert not (tmp_path / "quarantine").exists()
    assert ready.confirm(plan_id)["changed"] is False
