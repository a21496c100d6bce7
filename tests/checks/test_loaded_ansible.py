"""A run of Ansible that is a copy of a loaded process does and prints what the command does."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from scripts.loaded_ansible import LoadedAnsible
from tests.conftest import PROJECT, environment_of_ansible

# What a run has of its own: arguments, environment, working directory, input, warnings, errors and its exit status.
_PLAY = [
    {
        "name": "Look around",
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [
            {
                "name": "Say what was given",
                "ansible.builtin.debug": {
                    "msg": "{{ lookup('ansible.builtin.env', 'ONLY_THIS_RUN') }} {{ given }} "
                    "{{ lookup('ansible.builtin.pipe', 'pwd; cat; umask') }} "
                    "{{ lookup('swarm.sqlite_to_postgresql.run_limit') }}"
                },
            },
            {"name": "Change something", "ansible.builtin.command": "false", "ignore_errors": True},
            {"name": "Fail", "ansible.builtin.fail": {"msg": "{{ 'on purpose' | upper }}"}},
        ],
    }
]


def test_a_copy_does_and_prints_what_the_command_does(ansible: LoadedAnsible, tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text(json.dumps(_PLAY))
    # A file, which our commands name if Ansible's own temporary directory is where it should be.
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(json.dumps({"all": {"hosts": {"localhost": {}}}}))
    for options in (["-e", "given=first", "play.yml"], ["--no-such-option"], ["absent.yml", "-vv"]):
        command = ["ansible-playbook", "-i", str(inventory), "-c", "local", *options]
        environment = {**environment_of_ansible(), "ONLY_THIS_RUN": options[0]}
        real = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        status, output, errors = ansible.run(command, environment, tmp_path, merges_errors=True)
        assert (status, without_times(output), errors) == (real.returncode, without_times(real.stdout), "")
        assert real.returncode != 0
        if "play.yml" in options:
            assert f"{options[0]} first {tmp_path}" in output
            assert f" -i {inventory}" in output
            assert "ON PURPOSE" in output


def without_times(output: str) -> str:
    """Return what was printed without the times at which a command began and ended."""
    return re.sub(r"(start|end|delta): .*", r"\1", output)


def test_nothing_of_a_run_is_known_to_the_next(ansible: LoadedAnsible, tmp_path: Path) -> None:
    command = ["ansible", "-i", "localhost,", "-c", "local", "localhost", "-m", "ansible.builtin.debug", "-a"]
    asked = [*command, "msg={{ lookup('ansible.builtin.env', 'ONLY_THIS_RUN', default='nothing') }}"]
    environment = environment_of_ansible()
    first = ansible.run(asked, {**environment, "ONLY_THIS_RUN": "something"}, tmp_path)
    second = ansible.run(asked, environment)
    assert "something" in first[1]
    assert "msg: nothing\n" in second[1], second
    assert ansible.run(["ansible-playbook", "-i", "localhost,", "absent.yml"], environment, PROJECT)[0] == 1
