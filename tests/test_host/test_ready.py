"""The program that makes the states of a test host: one run makes them all, and none of them is half made."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from scripts.playbooks import ROOT

STATES = ["installed", "infrastructure", "rehearsed", "live", "finished"]
# As site.yml imports them, with several plays of each.
PLAYS = [
    *("1_infrastructure.yml", "1_infrastructure.yml", "2_shared_library.yml", "3_data_migration.yml"),
    *("3_data_migration.yml", "4_service_cutover.yml", "backup.yml", "5_validation.yml", "6_cleanup.yml"),
]


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, with files of its own; molecule/ is no package."""
    specification = importlib.util.spec_from_file_location("ready", ROOT / "molecule/test_host/ready.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(module, "LOG", tmp_path / "ready.log")
    monkeypatch.setattr(module, "tag_of", lambda state, bare: f"{state}-of-{bare}")
    monkeypatch.setattr(module, "remove_superseded", lambda state, tag: None)
    return module


class Machine:
    """What stands in for Docker and Ansible: the images that there are, and what was done, in its order."""

    def __init__(self, ready: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images: set[str] = set()
        self.done: list[str] = []
        self.plays = PLAYS
        self.fails_at = ""
        self._ready = ready
        monkeypatch.setattr(ready, "run", self._run)
        monkeypatch.setattr(ready, "play", self._play)
        monkeypatch.setattr(ready, "exists", lambda image: image in self.images)

    def _run(self, command: Sequence[str], **_: str) -> str:
        if command[-1].endswith("build.py"):
            return "bare\n"
        if command[1].endswith("host.py"):
            self.done.append(" ".join([command[2], *(part[8:] for part in command if part.startswith("--state="))]))
        elif self._ready._STOP in command:
            self.done.append("stop")
        elif self._ready._START in command:
            self.done.append("start")
        elif command[:2] == ["docker", "commit"]:
            assert self.done[-1] == "stop"
            self.done[-1] = f"keep {command[-1]}"
            if self.fails_at in self.done[-1].split():
                raise self._ready.StateError("no space is left")
            self.images.add(command[-1])
        return ""

    def _play(self, playbooks: Sequence[str], _: dict[str, str], before: Callable[[str], None]) -> None:
        self.done.append(f"play {' '.join(playbooks)}")
        for playbook in self.plays if "site.yml" in playbooks else ["install.yml"]:
            before(playbook)


@pytest.fixture
def machine(ready: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(ready, monkeypatch)


def kept(*states: str) -> list[str]:
    """Return what is done where these states are made on the way."""
    return [done for state in states for done in (f"keep {state}-of-bare", "start", f"wait {state}")]


def test_one_run_makes_every_state_after_the_estate(ready: ModuleType, machine: Machine) -> None:
    assert ready.image_of("rehearsed") == "rehearsed-of-bare"
    assert machine.done == [
        *("remove", "create bare", "play molecule/prepare.yml site.yml"),
        *kept("installed", "infrastructure", "rehearsed", "live"),
        *("keep finished-of-bare", "remove"),
    ]
    machine.done.clear()
    for state in STATES:
        assert ready.image_of(state) == f"{state}-of-bare"
    assert machine.done == []


def test_the_estate_alone_needs_no_move(ready: ModuleType, machine: Machine) -> None:
    ready.image_of("installed")
    playing = "play molecule/prepare.yml"
    assert machine.done == ["remove", "create bare", playing, "keep installed-of-bare", "remove"]
    machine.done.clear()
    ready.image_of("live")
    assert machine.done[:3] == ["remove", "create installed", "play site.yml"]
    assert machine.images == {f"{state}-of-bare" for state in STATES}


def test_what_was_kept_before_a_run_failed_stays_and_the_rest_is_made(ready: ModuleType, machine: Machine) -> None:
    machine.fails_at = "rehearsed-of-bare"
    with pytest.raises(ready.StateError, match="no space is left"):
        ready.image_of("live")
    assert machine.done[-1] == "remove"
    assert machine.images == {"installed-of-bare", "infrastructure-of-bare"}
    machine.fails_at = ""
    machine.done.clear()
    assert ready.image_of("live") == "live-of-bare"
    assert machine.done == [
        *("remove", "create installed", "play site.yml"),
        *kept("rehearsed", "live"),
        *("keep finished-of-bare", "remove"),
    ]


def test_a_state_that_a_run_did_not_come_through_is_named(ready: ModuleType, machine: Machine) -> None:
    machine.plays = [name for name in PLAYS if name != "backup.yml"]
    with pytest.raises(ready.StateError, match="kept as live"):
        ready.image_of("infrastructure")


def test_site_yml_imports_the_playbooks_before_which_a_host_is_kept(ready: ModuleType) -> None:
    site = (ROOT / "site.yml").read_text(encoding="utf-8")
    places = [site.index(f"playbooks/{playbook}") for playbook in ready.STATE_BEFORE]
    assert places == sorted(places)
    assert [*ready.STATE_BEFORE.values(), ready.FINISHED] == STATES
    assert "site.yml" in ready._INPUTS


def test_a_run_ends_before_the_next_play_if_whoever_began_it_has_ended(ready: ModuleType, tmp_path: Path) -> None:
    """By Ansible itself: while its first play is at work."""
    began = tmp_path / "began"
    for name, task in (
        ("first", f"ansible.builtin.shell: touch {began}; sleep 1"),
        ("second", "ansible.builtin.ping:"),
    ):
        (tmp_path / f"{name}.yml").write_text(
            f"- hosts: dev\n  gather_facts: false\n  connection: local\n  tasks:\n    - {task}\n"
        )
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            ["ansible-playbook", "-i", "inventory", "--limit", "dev", *map(str, sorted(tmp_path.glob("*.yml")))],
            cwd=ROOT,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "TEST_HOST_PLAYS": str(theirs.fileno()),
                **ready.ENVIRONMENT_OF_PLAYS,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=[theirs.fileno()],
        )
    with ours:
        ours.sendall(b"\n")
        while process.poll() is None and not began.exists():
            time.sleep(0.05)
    output, _ = process.communicate()
    assert process.returncode != 0
    assert "Nobody says that" in output
    assert "second.yml may begin" in output


def test_a_play_begins_when_it_may(ready: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ansible itself: it waits before each play, and ends if it gets no answer."""
    for name in ("first", "second", "third"):
        (tmp_path / f"{name}.yml").write_text(
            "- hosts: dev\n  gather_facts: false\n  connection: local\n  tasks:\n"
            f"    - ansible.builtin.debug: {{msg: it is the {name}}}\n"
        )
    environment = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": "default",
        # So that the log holds at once what was printed.
        "PYTHONUNBUFFERED": "1",
        **ready.ENVIRONMENT_OF_PLAYS,
    }
    log, seen = tmp_path / "ready.log", []

    def before(playbook: str) -> None:
        seen.append((playbook, log.read_text().count("it is the")))
        if playbook == "third.yml":
            raise ready.StateError("no space is left")

    playbooks = [str(tmp_path / f"{name}.yml") for name in ("first", "second", "third")]
    with pytest.raises(ready.StateError, match="no space is left"):
        ready.play(playbooks, environment, before)
    assert seen == [("first.yml", 0), ("second.yml", 1), ("third.yml", 2)]
    assert "it is the third" not in log.read_text()
