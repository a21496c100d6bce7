"""ansible-lint hears of a syntax check by a loaded Ansible what the command would say."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest

from scripts import lint_ansible
from scripts.loaded_ansible import LoadedAnsible
from tests.conftest import environment_of_ansible


def test_a_fault_is_told_as_the_command_tells_it(
    ansible: LoadedAnsible, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lint_ansible, "loaded_ansible", lambda *_, **__: nullcontext(ansible))
    monkeypatch.chdir(tmp_path)
    Path("wrong.yml").write_text("- hosts: localhost\n  tasks:\n    - ansible.builtin.imprt_role:\n")
    Path("right.yml").write_text("- hosts: localhost\n  tasks:\n    - ansible.builtin.ping:\n")
    command = ["ansible-playbook", "--syntax-check", "-vv", "wrong.yml"]
    environment = environment_of_ansible()
    real = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, text=True, check=False, env=environment)
    with ExitStack() as processes:
        run = lint_ansible.SyntaxChecks(processes).run
        told = run(command, stdin=subprocess.PIPE, capture_output=True, text=True, check=False, env=environment)
        assert (told.returncode, told.stdout, told.stderr) == (real.returncode, real.stdout, real.stderr)
        assert "couldn't resolve module/action 'ansible.builtin.imprt_role'" in told.stderr
        assert run([*command[:-1], "right.yml"], env=environment).returncode == 0
        other = run([sys.executable, "-c", "print('as it is')"], capture_output=True, text=True)
    assert other.stdout == "as it is\n"
