"""How every manager's program is called: as whom, with what, and what becomes of one that gives no answer."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import open_files, programs

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "WORD": "said"}


def shell(script: str, **more: Any) -> programs.Answer:
    answer: programs.Answer = programs.call(["sh", "-c", script], ENVIRONMENT, **more)
    return answer


def test_a_program_has_only_what_it_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRET_OF_THE_OPERATOR", "hunter2")
    answer = shell("env; pwd; umask; cat; echo wrong >&2; exit 3", directory=str(tmp_path), umask=0o077)
    assert (answer.status, answer.errors) == (3, "wrong\n")
    assert answer.output.splitlines()[-2:] == [str(tmp_path), "0077"]
    assert "WORD=said" in answer.output
    assert "hunter2" not in answer.output


def test_what_is_no_text_is_read_all_the_same() -> None:
    assert shell(r"printf 'a\377b'").output == "a�b"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
def test_a_program_runs_as_its_user_with_the_groups_of_that_user(monkeypatch: pytest.MonkeyPatch) -> None:
    account = pwd.getpwnam("nobody")
    monkeypatch.setattr(os, "getgrouplist", lambda *_: [account.pw_gid, 4321])
    assert shell("id -u; id -g; id -G", uid=account.pw_uid).output.split() == [
        str(account.pw_uid), str(account.pw_gid), str(account.pw_gid), "4321",
    ]  # fmt: skip
    assert programs.identity_of(os.geteuid()) == programs.identity_of(None) == {}
    # A user without a name has the rights of nobody's group.
    assert shell("id -u; id -G", uid=65000).output.split() == ["65000", "65534"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exec sleep 600", "it did not end within 0.5 seconds"),
        # It has closed what it prints to, and goes on.
        ("exec >&- 2>&-; exec sleep 600", "it did not end within 0.5 seconds"),
        # Has an end, so that a fault here does not take the machine's whole memory.
        ("exec head -c 64M /dev/zero", "it printed more than 16,777,216 bytes"),
    ],
)
def test_a_program_without_an_end_is_killed(tmp_path: Path, script: str, said: str) -> None:
    seconds = 60.0 if "zero" in script else 0.5
    with pytest.raises(programs.NoAnswer) as failed:
        shell(f"echo $$ > {tmp_path}/pid; {script}", seconds=seconds)
    assert str(failed.value) == said
    assert not open_files.is_alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("program", ["no-such-program", os.sep, f"{os.path.dirname(sys.executable)}/none"])
def test_a_program_that_cannot_be_started_is_told(program: str) -> None:
    with pytest.raises(programs.NoAnswer, match=r"it cannot be run: (No such file|Permission denied)"):
        programs.call([program], ENVIRONMENT)
