"""A clone of the project in which runs on a protected host can be tried: the host is a program in place of ssh.

It carries out nothing but what the gate asks a host, below a directory of its own, and the module that looks whether
the host is as it was planned. So a gate that is open by mistake changes nothing on this machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultSecret

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.promotion import evidence, gate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.promotion.tree import read_tree
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils.promotion import names_of_secrets
from scripts.loaded_ansible import LoadedAnsible, loaded_ansible
from tests.conftest import PROJECT

CONTENT = (
    *(".gitignore", "ansible.cfg", "files", "galaxy.yml", "inventory", "keys", "meta", "playbooks", "plugins"),
    *("pyproject.toml", "requirements.yml", "roles", "scripts/sign_evidence.py", "site.yml"),
)
HOSTS = """
all:
  vars:
    ansible_connection: ssh
    ansible_become: false
    ansible_ssh_executable: {program}
    ansible_python_interpreter: {python}
  children:
    dev: {{hosts: {{swarm-dev: {{ansible_host: 192.0.2.1}}}}}}
    prod: {{hosts: {{swarm-prod: {{ansible_host: 192.0.2.2}}}}}}
    database_hosts: {{hosts: {{swarm-dev: , swarm-prod: }}}}
    service_hosts: {{hosts: {{swarm-dev: , swarm-prod: }}}}
"""
HOST = """#!/bin/sh
# The last argument is the command, as ssh takes it.
for last; do :; done
echo "$last" >> "{directory}/asked"
case "$last" in
  *'cat /etc/machine-id'*|*'mkdir -p /etc/sqlite-to-postgresql'*)
    exec sh -c "$(printf '%s' "$last" | sed 's,/etc/,{directory}/etc/,g')" ;;
  *{python}*)
    # A module comes through the connection itself.
    module=$(mktemp -p "{directory}")
    cat > "$module"
    if grep -q 'sqlite_to_postgresql.plugins.modules.promotion_plan' "$module"; then
      sh -c "$last" < "$module"; status=$?
      rm "$module"
      exit $status
    fi
    rm "$module" ;;
esac
exit 255
"""
# What differs between environments is outside the tree: one small source on this machine, and no server.
ESTATE = """
postgres_port: 1
sqlite_migrate_work_directory: {directory}/work
estate_cutover_groups:
  - name: registry
    source: {{path: {directory}/registry.db}}
    tables: [{{source: agents, target: registry.agents}}]
    services:
      - name: swarm-registry
        user: swarm
        directory: /opt/swarm-registry
        database_role: swarm_registry
        schemas: [registry]
        health_url: http://127.0.0.1:4001/health
"""
PASSWORDS = "vault_postgres_role_passwords: {{{}}}\n".format(
    ", ".join(f"swarm_{name}: for-tests" for name in ("migrator", "registry", "deploy", "tickets", "platform"))
)
VAULT = ("default", VaultSecret(b"for tests"))
PASSED = {name: {"passed": True, "told": "as it should be"} for name in gate._DEFAULT_CHECKS}


class Clone:
    """A clone with a commit, an inventory of hosts of its own, a key that may sign, and one that may not.

    :param directory: where the clone and the keys are.
    :param loaded: Ansible, loaded with the configuration of this clone.
    """

    def __init__(self, directory: Path, loaded: LoadedAnsible) -> None:
        self.loaded = loaded
        self.root = directory / "project"
        self.host = directory / "host"
        self.key, self.other_key = directory / "key", directory / "other_key"
        (self.host / "etc" / "sqlite-to-postgresql").mkdir(parents=True)
        (self.host / "etc" / "machine-id").write_text("11111111111111111111111111111111\n")
        program = self.host / "ssh"
        program.write_text(HOST.format(directory=self.host, python=sys.executable))
        program.chmod(0o755)
        # Hosts and secrets are outside the tree that the evidence is about.
        self.edit("inventory/hosts.yml", HOSTS.format(program=program, python=sys.executable))
        (self.root / "inventory" / "group_vars" / "prod" / "vault.yml").write_text(PASSWORDS)
        for environment in ("dev", "prod"):
            self.edit(f"inventory/group_vars/{environment}/estate.yml", ESTATE.format(directory=self.host))
        self.change_source("CREATE TABLE agents (id TEXT PRIMARY KEY, name TEXT)")

    @property
    def asked(self) -> str:
        """What the host was asked, one command a line."""
        path = self.host / "asked"
        return path.read_text() if path.exists() else ""

    @property
    def host_file(self) -> Path:
        """The file by which the host says what it is."""
        return self.host / "etc" / "sqlite-to-postgresql" / "environment"

    @property
    def record(self) -> Path:
        """The record of dev for the tree as it is."""
        return self.record_of(read_tree(self.root).digest)

    def record_of(self, digest: str) -> Path:
        """Return the record of dev for a tree with this digest."""
        return evidence.path_of(self.root / "evidence", "dev", digest)

    def edit(self, name: str, text: str) -> None:
        """Put text at the end of a file, or into a new one; the hosts are replaced."""
        path = self.root / name
        before = path.read_text() if path.exists() and name != "inventory/hosts.yml" else ""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(before + text)

    def commit(self) -> None:
        """Commit what was edited of the files that Git knows."""
        git(self.root, "commit", "-qam", "A change")

    def add(self, name: str) -> None:
        """Commit a new file."""
        git(self.root, "add", name)
        self.commit()

    def collect(self, key: Path | None = None, namespace: str = evidence.NAMESPACE, **changes: Any) -> Path:
        """Write a record of a passed run on dev, with changes, sign it with a key, and return its path."""
        digest = read_tree(self.root).digest
        path = self.record_of(digest)
        content: dict[str, Any] = {
            "format": evidence.FORMAT,
            "environment": "dev",
            "tree": digest,
            "collected_at": datetime.now(UTC).isoformat(),
            "checks": PASSED,
            **changes,
        }
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        if key is not None:
            evidence.signature_of(path).unlink(missing_ok=True)
            run("ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", namespace, str(path))
        return path

    def be_named(self, environment: str = "prod", machine_id: str = "1" * 32) -> None:
        """Let the host say what it is."""
        self.host_file.write_text(gate.host_text(environment, machine_id))

    def change_source(self, statement: str) -> None:
        """Run a statement in the host's source."""
        with closing(sqlite3.connect(self.host / "registry.db")) as connection:
            connection.execute(statement)
            connection.commit()

    def plan(self, environment: str = "prod") -> tuple[str, str]:
        """Show the plan of a run, and return the option that names it.

        What the plan says to do next is what the gate asks for: a host that is not marked yet is marked first.
        """
        status, output = self.run("ansible-playbook", "playbooks/plan.yml", "-l", environment)
        found = re.search(rf"Plan ([0-9a-f]{{12}}) of {environment}", output)
        assert (status, found is None) == (0, False), output
        is_unmarked = environment == "prod" and not self.host_file.exists()
        assert ("Next: ansible-playbook site.yml -l" in output) == (not is_unmarked), output
        return "-e", f"plan={found[1]}" if found else ""

    def problems(self, **differently: Any) -> str:
        """Return what the gate says to this tree and to a call that differs so from a right one, one problem a line."""
        protection = gate.find_protection({"prod": {"evidence_from": "dev"}}, ["prod"])
        assert protection is not None
        loader = DataLoader()
        loader.set_vault_secrets([VAULT])
        call = gate.Call(
            extra_variables={},
            allowed_variables=(),
            options=(),
            configuration=self.root / "ansible.cfg",
            playbook_directory=self.root / "playbooks",
            playbooks=[str(self.root / "playbooks" / "1_infrastructure.yml")],
            roles_path=[str(self.root / "roles")],
            inventories=[str(self.root / "inventory")],
            secrets=names_of_secrets(loader, self.root),
        )
        return "\n".join(map(str, gate.find_problems(self.root, protection, replace(call, **differently))))

    def run(self, program: str, *arguments: str, **variables: str) -> tuple[int, str]:
        """Run a program of Ansible's in the clone, and return its exit status and its output as one line."""
        environment = {**environment_of(self.root), **variables}
        if not self.loaded.suits(environment):
            done = subprocess.run(
                [program, *arguments], cwd=self.root, env=environment, capture_output=True, text=True, check=False
            )
            status, output = done.returncode, done.stdout + done.stderr
        else:
            status, *streams = self.loaded.run([program, *arguments], environment)
            output = "".join(streams)
        assert "Traceback" not in output, output
        return status, " ".join(output.split())

    def refuses(self, playbook: str, *options: str) -> str:
        """Run a playbook on prod that is refused before the host is asked, and return its output."""
        status, output = self.run("ansible-playbook", f"playbooks/{playbook}.yml", "-l", "prod", *options)
        assert status != 0, output
        assert self.asked == "", output
        return output

    def passes(self, playbook: str, *options: str, then: str = "") -> str:
        """Run nothing but the checks of a playbook on prod, which let it pass, and return its output.

        :param then: another playbook, in the same run.
        """
        playbooks = [f"playbooks/{name}.yml" for name in (playbook, then) if name]
        status, output = self.run("ansible-playbook", *playbooks, "-l", "prod", "--tags", "no_such_tag", *options)
        assert status == 0, output
        return output


def environment_of(root: Path) -> dict[str, str]:
    """Return the environment of a run of Ansible's in a clone."""
    return {
        **os.environ,
        "ANSIBLE_CONFIG": str(root / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SQLITE_TO_POSTGRESQL_RUN_RECORD": "true",
    }


def run(*command: str) -> None:
    """Run a command that succeeds."""
    subprocess.run(command, check=True, capture_output=True)


def git(directory: Path, *arguments: str) -> None:
    """Run Git there, as somebody."""
    run("git", "-C", str(directory), "-c", "user.name=Test", "-c", "user.email=test@example.org", *arguments)


def days_ago(days: float) -> str:
    """Return a time in the past as a record holds it."""
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with the project as it is on the disk, in one commit."""
    root = tmp_path_factory.mktemp("template")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *CONTENT]
    listed = subprocess.run(listing, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (PROJECT / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, root / name)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "The project")
    return root


@pytest.fixture(scope="session")
def place(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the clone, with the keys: one for all tests, so that Ansible is loaded with it once."""
    directory = tmp_path_factory.mktemp("clone")
    root = directory / "project"
    git(directory, "clone", "-q", "--no-hardlinks", "--template=", str(template), str(root))
    for name in ("key", "other_key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(directory / name))
    public = (directory / "key.pub").read_text().strip()
    with (root / "keys" / "allowed_signers").open("a") as signers:
        signers.write(f'anna@example.org namespaces="{evidence.NAMESPACE}" {public}\n')
    git(root, "commit", "-qam", "A key that may sign")
    git(root, "gc", "-q")
    (root / ".git" / "info").mkdir(exist_ok=True)
    shutil.copytree(root / ".git", directory / "git")
    link = root / ".collections" / "ansible_collections" / "swarm" / "sqlite_to_postgresql"
    link.parent.mkdir(parents=True)
    link.symlink_to(root)
    for installed in (PROJECT / ".collections" / "ansible_collections").iterdir():
        if installed.name != "swarm":
            (link.parent.parent / installed.name).symlink_to(installed)
    return directory


def restore(directory: Path) -> None:
    """Make the clone there what it was at first; making it anew would take ten times as long."""
    root = directory / "project"
    shutil.rmtree(directory / "host", ignore_errors=True)
    shutil.rmtree(root / ".git", ignore_errors=True)
    shutil.copytree(directory / "git", root / ".git")
    git(root, "reset", "-q", "--hard")
    git(root, "clean", "-qffdx", "--exclude=/.collections/")


@pytest.fixture(scope="session")
def loaded(place: Path) -> Iterator[LoadedAnsible]:
    """Ansible, loaded with the configuration of the clone."""
    root = place / "project"
    with loaded_ansible(root, environment_of(root), collections_are_final=True) as process:
        # Its answer comes when it has read the configuration.
        assert process.run(["ansible", "--version"], environment_of(root))[0] == 0
        yield process


@pytest.fixture
def clone(place: Path, loaded: LoadedAnsible) -> Clone:
    """Return a clone of the project as it was first made."""
    restore(place)
    return Clone(place, loaded)
