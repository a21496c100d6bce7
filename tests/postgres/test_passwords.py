"""Generated passwords, written by the role's own tasks on this machine."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scripts.loaded_ansible import LoadedAnsible
from tests.conftest import environment_of_ansible

PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: postgres_install, tasks_from: passwords}
"""


class Outcome(NamedTuple):
    """How a run ended."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path, ansible: LoadedAnsible) -> Run:
    """Run the role's tasks; the passwords lie below ``secrets/dev`` of the test's directory."""

    def run(*options: str, **more: Any) -> Outcome:
        variables = {
            "ansible_connection": "local",
            "postgres_install_secrets_directory": str(tmp_path / "secrets" / "dev"),
            "postgres_install_migrator_role": "migrator",
            "postgres_install_service_roles": [{"name": "till"}],
            **more,
        }
        (tmp_path / "play.yml").write_text(PLAY)
        command = ["ansible-playbook", "-i", "localhost,", "-e", json.dumps(variables), "-vvvv", "--diff", *options]
        return Outcome(*ansible.run([*command, "play.yml"], environment_of_ansible(), tmp_path))

    return run


@pytest.mark.promise("passwords-generated-once")
def test_passwords_are_generated_once_and_kept_private(tmp_path: Path, run: Run) -> None:
    secrets = tmp_path / "secrets" / "dev"

    def changed(*options: str) -> int:
        result = run(*options)
        assert result.returncode == 0, result.stdout + result.stderr
        assert not any(path.read_text().strip() in result.stdout for path in secrets.glob("*"))
        return int(result.stdout.rpartition("changed=")[2].split()[0])

    assert changed("--check") == 2
    assert not secrets.parent.exists()
    assert changed() == 2
    written = {path.name: path.read_text() for path in secrets.iterdir()}
    assert set(written) == {"migrator", "till"}
    assert len({len(password.strip()) for password in written.values()} | {32}) == 1
    assert len(set(written.values())) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (secrets, secrets.parent)} == {0o700}
    # Only the one that is missing is made anew, and nothing else changes.
    (secrets / "till").unlink()
    assert changed() == 1
    assert (secrets / "migrator").read_text() == written["migrator"]
    assert (secrets / "till").read_text() != written["till"]


@pytest.mark.promise("known-passwords-only")
def test_a_password_that_only_the_server_has_is_not_replaced(tmp_path: Path, run: Run) -> None:
    secrets = tmp_path / "secrets" / "dev"
    # What the server answers, as the role asks it.
    server = {"query_result": [{"roles": {"migrator": {"verifier": "SCRAM-SHA-256$canary"}, "till": {"verifier": ""}}}]}
    result = run(__postgres_install_found=server)
    assert result.returncode != 0
    assert "The server has a password for migrator, and" in result.stdout
    assert "postgres_install_replace_unknown_passwords=true" in result.stdout
    assert not secrets.exists()
    # Somebody brings the file; only then the others are generated.
    secrets.mkdir(parents=True)
    (secrets / "migrator").write_text("brought\n")
    assert run(__postgres_install_found=server).returncode == 0
    assert {path.name for path in secrets.iterdir()} == {"migrator", "till"}
    assert (secrets / "migrator").read_text() == "brought\n"
    # Or nobody has it any more.
    (secrets / "migrator").unlink()
    replaced = run(__postgres_install_found=server, postgres_install_replace_unknown_passwords="yes")
    assert replaced.returncode == 0, replaced.stdout
    assert (secrets / "migrator").exists()
