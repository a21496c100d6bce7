"""A cleanup that is killed at every step it takes, and finished by running it again with the same id."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.migration import archive, cleanup_records, ledger, quarantine, safe_paths
from ansible.module_utils.migration.connection import Login, connect

from tests.validation.support import Estate

from .support import Cleaned, make_ready

# What a cleanup does to the outside world, in both of its runs. It is killed before and after each of these calls.
_STEPS: tuple[tuple[Any, str], ...] = (
    (cleanup_records, "write_file"),
    (archive, "_write"),
    (archive, "_prove"),
    (ledger, "take_step"),
    (quarantine, "_make_tombstone"),
    (safe_paths, "exchange"),
    (safe_paths, "move"),
    (safe_paths, "set_immutable"),
    (quarantine, "_require_moved"),
    (quarantine, "_remove_directory"),
    (os, "unlink"),
)


def killed_at(ready: Cleaned, login: Login, plan_id: str, step: int, work: Callable[[Cleaned, str], Any]) -> bool:
    """Do the work in a process that is killed by SIGKILL at its n-th step; return whether it came to that."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def tick() -> None:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any, **named: Any) -> Any:
                tick()
                result = call(*arguments, **named)
                tick()
                return result

            return wrapped

        try:
            from ansible.module_utils.migration import cleanup

            for module, name in _STEPS:
                wrapped = counted(getattr(module, name))
                setattr(module, name, wrapped)
                if hasattr(cleanup, name):
                    setattr(cleanup, name, wrapped)
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
    """Return an estate with a symlink and a legacy file that may be cleaned up."""
    (tmp_path / "alias.db").symlink_to(estate.source)
    (tmp_path / "old.db").write_bytes(b"")
    return make_ready(estate, [tmp_path / "old.db"], [tmp_path / "alias.db"])


def require_one_whole_file(ready: Cleaned, tmp_path: Path, content: bytes) -> None:
    """Require that somewhere there is the whole file, or its archive."""
    places = [ready.estate.source, *tmp_path.glob("quarantine/*/database")]
    whole = any(path.is_file() and path.read_bytes() == content for path in places)
    assert whole or list(tmp_path.glob("archives/*zoo*/manifest.json"))


def require_in_quarantine(ready: Cleaned, tmp_path: Path, content: bytes) -> None:
    """Require that everything is where a finished run leaves it."""
    assert ready.state() == "archived"
    assert set(ready.steps().values()) == {"quarantined"}
    assert os.listdir(ready.estate.source) == os.listdir(tmp_path / "alias.db") == ["README"]
    assert (ready.quarantine_of(ready.estate.source) / "database").read_bytes() == content
    assert not list(tmp_path.glob("archives/*unfinished"))
    assert not list(Path(ready.estate.work).glob("run-*"))


def require_back(ready: Cleaned, tmp_path: Path, content: bytes) -> None:
    """Require that everything is where it was."""
    assert ready.estate.source.read_bytes() == content
    assert os.readlink(tmp_path / "alias.db") == str(ready.estate.source)
    assert (tmp_path / "old.db").read_bytes() == b""
    assert (ready.state(), ready.steps()) == ("live", {})


def test_a_killed_quarantine_is_finished_by_the_next_run(estate: Estate, login: Login, tmp_path: Path) -> None:
    content = estate.source.read_bytes()
    ready = make(estate, tmp_path)
    step = 1
    while True:
        plan_id = ready.explain()["plan_id"]
        killed = killed_at(ready, login, plan_id, step, carry_out)
        require_one_whole_file(ready, tmp_path, content)
        ready.confirm(plan_id)
        assert ready.confirm(plan_id)["changed"] is False
        require_in_quarantine(ready, tmp_path, content)
        ready.restore("zoo", "legacy")
        if not killed:
            break
        # Each time from the start, archives included.
        shutil.rmtree(tmp_path / "archives")
        ready.soak()
        step += 7
    assert step > 30


def test_a_killed_return_is_finished_by_the_next_run(estate: Estate, login: Login, tmp_path: Path) -> None:
    content = estate.source.read_bytes()
    ready = make(estate, tmp_path)
    step = 1
    while True:
        ready.confirm()
        killed = killed_at(ready, login, "", step, bring_back)
        require_one_whole_file(ready, tmp_path, content)
        ready.restore("zoo", "legacy")
        require_back(ready, tmp_path, content)
        if not killed:
            break
        ready.soak()
        step += 6
    assert step > 10


@pytest.mark.parametrize("step", [1, 3, 5, 8, 11, 15])
def test_a_killed_deletion_is_finished_by_the_next_run(estate: Estate, login: Login, tmp_path: Path, step: int) -> None:
    content = estate.source.read_bytes()
    ready = make(estate, tmp_path)
    ready.confirm()
    ready.wait_in_quarantine()
    plan_id = ready.explain()["plan_id"]
    assert killed_at(ready, login, plan_id, step, carry_out)
    require_one_whole_file(ready, tmp_path, content)
    ready.confirm(plan_id)
    assert ready.state() == "removed"
    assert set(ready.steps().values()) == {"deleted"}
    assert list(tmp_path.glob("archives/*zoo*/manifest.json"))
    assert not (tmp_path / "quarantine").exists()
    assert ready.confirm(plan_id)["changed"] is False
