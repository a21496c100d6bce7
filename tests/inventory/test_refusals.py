"""Runs of the real playbooks on inventories that are not right: each is refused before a host is asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.loaded_ansible import LoadedAnsible
from tests.conftest import PROJECT, environment_of_ansible

# Whoever asks a host is told of here: the connection program of these runs writes a file.
HOSTS = """
all:
  vars:
    ansible_connection: ssh
    ansible_ssh_executable: {program}
  children:
    dev: {{hosts: {{swarm-dev: {{ansible_host: 192.0.2.1}}}}}}
    prod: {{hosts: {{swarm-prod: {{ansible_host: 192.0.2.2}}}}}}
    database_hosts: {{hosts: {{swarm-dev: , swarm-prod: }}}}
    service_hosts: {{hosts: {{swarm-dev: , swarm-prod: }}}}
"""


class Refused:
    """Runs playbooks that must be refused before any host is asked."""

    def __init__(self, directory: Path, ansible: LoadedAnsible) -> None:
        self.ansible = ansible
        self.asked = directory / "asked"
        program = directory / "ssh"
        program.write_text(f"#!/bin/sh\ntouch {self.asked}\nexit 255\n")
        program.chmod(0o755)
        self.inventory = directory / "hosts.yml"
        self.inventory.write_text(HOSTS.format(program=program))
        (directory / "group_vars").symlink_to(PROJECT / "inventory" / "group_vars")

    def __call__(self, playbook: str, *options: str) -> str:
        """Run a playbook that fails, and return its output."""
        status, output = self.run(playbook, *options)
        assert status != 0, output
        assert not self.asked.exists(), output
        return output

    def run(self, playbook: str, *options: str) -> tuple[int, str]:
        """Run a playbook, and return its exit code and its output."""
        command = ["ansible-playbook", "-i", str(self.inventory), playbook, *options]
        status, *streams = self.ansible.run(command, environment_of_ansible())
        output = "".join(streams)
        assert "Traceback" not in output
        return status, output


@pytest.fixture
def refused(tmp_path: Path, ansible: LoadedAnsible) -> Refused:
    """Run playbooks on hosts that nobody may ask."""
    return Refused(tmp_path, ansible)


@pytest.mark.promise("one-environment-a-run")
@pytest.mark.parametrize("playbook", ["site.yml", "playbooks/rollback.yml", "playbooks/restore.yml"])
def test_a_run_without_a_limit_is_refused(refused: Refused, playbook: str) -> None:
    output = refused(playbook)
    assert "it names hosts of more than one environment: dev (swarm-dev), prod (swarm-prod)" in output
    assert "-l dev" in output


def test_a_run_of_several_playbooks_looks_at_the_inventory_once(refused: Refused) -> None:
    """With a tag that no task has, the run holds nothing but the checks of the inventory, and the gate."""
    passwords = ("-e", "postgres_generate_passwords=true")
    status, output = refused.run("site.yml", "--limit", "dev", "--tags", "no_such_tag", *passwords)
    assert status == 0, output
    looked = re.findall(r"TASK \[inventory_check : Refuse .*\] \*+\n(ok|skipping): \[swarm-dev\]", output)
    assert looked == ["ok", *["skipping"] * (len(looked) - 1)], output
    assert len(looked) > 3


@pytest.mark.promise("inventory-checked-first")
def test_every_mistake_of_an_inventory_is_told_at_once(refused: Refused, tmp_path: Path) -> None:
    mistakes = tmp_path / "mistakes.yml"
    mistakes.write_text(
        """
        estate_cutover_grops: []
        postgres_port: fifty
        postgres_generate_passwords: "false"
        vault_postgres_role_passwords: {swarm_migrator: canary-password}
        estate_cutover_groups:
          - name: registry
            source: {path: registry.db}
            tabels: []
            services:
              - {name: web, user: web, directory: /opt/web, database_rol: web, database_role: web, schemas: [web],
                 health_url: "http://127.0.0.1/"}
          - name: counts
            source: {path: /opt/counts.db}
            services:
              - {name: counts, user: web, directory: /opt/web, database_role: web, schemas: [registry],
                 rights: {registry.secret: read}, health_url: "http://127.0.0.1/"}
        """
    )
    output = refused("site.yml", "-l", "dev", "-e", f"@{mistakes}")
    for told in (
        "variable estate_cutover_grops: nothing reads it. Did you mean estate_cutover_groups?",
        "has an unknown key 'tabels'. Did you mean 'tables'?",
        "has an unknown key 'database_rol'. Did you mean 'database_role'?",
        "'path' is missing or not valid",
        "'rights: registry.secret' names a table that no SQL file makes. Did you mean 'registry.secrets'?",
        "roles that log in have no password: web",
        "postgres_config_port",
    ):
        assert told in output, output
    assert "canary-password" not in output


@pytest.mark.promise("inventory-checked-first")
def test_a_new_prod_is_told_which_passwords_are_missing(refused: Refused) -> None:
    output = refused("site.yml", "-l", "prod")
    roles = "swarm_migrator, swarm_registry, swarm_deploy, swarm_tickets, swarm_platform"
    assert f"5 roles that log in have no password: {roles}" in output, output
    assert "vault_postgres_role_passwords" in output
