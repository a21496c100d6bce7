"""What the role makes of the program's answers where a playbook refuses or only shows something, with the real program.

What playbooks do is seen on the host of the backup scenario.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.backup.conftest import Program
from tests.backup.test_faults import RUNNER
from tests.conftest import PROJECT, environment_of_ansible


def starter(path: Path, settings: Path) -> str:
    """Write a program that stands where the archive of the engine does on a host; return its path."""
    command = shlex.join([sys.executable, "-c", RUNNER, str(PROJECT / "plugins/module_utils")])
    path.write_text(f'#!/bin/sh\nexec {command} "$@" --settings {settings}\n')
    path.chmod(0o755)
    return str(path)


def kept_message(name: str, tasks_from: str, program: str, **variables: str) -> dict[str, Any]:
    """Return the tasks that call the role and keep why it has refused; it is empty if the role has not.

    :param name: the variable that keeps it.
    """
    role = {"name": "postgres_backup", "tasks_from": tasks_from, "rolespec_validate": False}
    # Nothing is installed on this machine.
    given = {"__postgres_backup_program": [program], "engine_program_installed": ["{{ engine_program_path }}"]}
    return {
        "block": [
            {"ansible.builtin.include_role": role, "vars": {**given, **variables}},
            {"ansible.builtin.set_fact": {name: ""}},
        ],
        "rescue": [{"ansible.builtin.set_fact": {name: "{{ ansible_failed_result.msg }}"}}],
    }


def played(path: Path, tasks: list[dict[str, Any]], *options: str) -> subprocess.CompletedProcess[str]:
    """Play tasks on this machine, from a playbook that is written for them, and see that it succeeds."""
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    path.write_text(json.dumps([play]))
    run = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", str(path), *options],
        cwd=PROJECT,
        env=environment_of_ansible(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run


def test_playbooks_run_the_program_as_the_user_of_the_backups(tmp_path: Path) -> None:
    file = str(PROJECT / "roles/postgres_backup/vars/main.yml")
    words = "{{ of_the_role.__postgres_backup_program[:3] | join(' ') }}"
    tasks = [
        {"ansible.builtin.include_vars": {"file": file, "name": "of_the_role"}},
        {"ansible.builtin.debug": {"msg": words}, "vars": {"postgres_backup_user": "somebody"}},
    ]
    assert "runuser -u somebody" in played(tmp_path / "play.yml", tasks).stdout


@pytest.mark.promise("restore-swaps-whole-databases")
def test_a_playbook_says_what_it_refuses_and_shows_a_restore_that_nobody_has_confirmed(
    program: Program, tmp_path: Path
) -> None:
    """Of a backup that somebody has confirmed a dry run shows the same, and restores nothing either."""
    name = program.run("take")["name"]
    program.query("DELETE FROM odd.parts WHERE id = 1")
    there = starter(tmp_path / "program", program.path)
    nowhere = starter(tmp_path / "lost", tmp_path / "no_such_settings")
    kept = ("nameless", "shown", "failed")
    tasks = [
        kept_message("nameless", "restore", there),
        kept_message("shown", "restore", there, postgres_backup_restore_name=name),
        kept_message("failed", "run", nowhere),
        {
            "ansible.builtin.copy": {"dest": str(tmp_path / "kept"), "content": "{{ kept | to_json }}"},
            "vars": {"kept": {variable: f"{{{{ {variable} }}}}" for variable in kept}},
        },
    ]
    run = played(tmp_path / "play.yml", tasks)
    messages = json.loads((tmp_path / "kept").read_text())
    assert "Name a backup, and to restore it the same name again" in messages["nameless"]
    assert f"\n- {name}: " in messages["nameless"]
    assert messages["shown"] == ""
    assert "odd.part_1: 49 rows, not 50" in run.stdout
    assert f"-e postgres_backup_restore_name={name} -e postgres_backup_restore_confirm={name}" in run.stdout
    assert str(tmp_path / "no_such_settings") in messages["failed"]
    # Nothing was restored, nor called a change.
    assert program.query("SELECT count(*) FROM odd.parts") == [(49,)]
    assert run.stdout.count("changed: [localhost]") == 1
    both = {f"postgres_backup_restore_{answer}": name for answer in ("name", "confirm")}
    dry = played(tmp_path / "play.yml", [kept_message("confirmed", "restore", there, **both)], "--check")
    assert "odd.part_1: 49 rows, not 50" in dry.stdout
    assert program.query("SELECT count(*) FROM odd.parts") == [(49,)]
