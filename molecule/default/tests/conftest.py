"""What the tests of the finished host share: the host, SQL on it, and further runs of the playbook."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[3]
PREFIX = os.environ.get("TEST_HOST_PREFIX", "molecule-")
CONTAINER = f"{PREFIX}swarm-dev"


@dataclass(frozen=True)
class PlaybookRun:
    """The outcome of one run of ansible-playbook on the test host."""

    status: int
    output: str
    changed: int

    @property
    def changed_tasks(self) -> set[str]:
        """Return the names of the tasks that changed something."""
        names = set()
        task = ""
        for line in self.output.splitlines():
            if heading := re.match(r"TASK \[(.*)\]", line):
                task = heading[1]
            elif line.startswith("changed: "):
                names.add(task)
        return names

    @property
    def warnings(self) -> list[str]:
        """Return the lines in which Ansible warns or announces a deprecation."""
        return [line for line in self.output.splitlines() if re.match(r"\[(WARNING|DEPRECATION WARNING)\]", line)]


@pytest.fixture(scope="session")
def host() -> Host:
    """Return the test host."""
    return testinfra.get_host(f"docker://{CONTAINER}")


@pytest.fixture(scope="session")
def estate() -> list[dict[str, Any]]:
    """Return the cutover groups of the inventory."""
    document = yaml.safe_load((ROOT / "inventory/group_vars/all/estate.yml").read_text(encoding="utf-8"))
    groups: list[dict[str, Any]] = document["estate_cutover_groups"]
    return groups


@pytest.fixture(scope="session")
def services(estate: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the services of the estate in the order of the cutover."""
    return [service for group in estate for service in group["services"]]


@pytest.fixture(scope="session")
def query(host: Host) -> Callable[[str], list[Any]]:
    """Return a function that runs a SELECT as the superuser and returns its rows as dictionaries."""

    def run(select: str) -> list[Any]:
        wrapped = f"SELECT coalesce(json_agg(result), '[]') FROM ({select}) AS result"
        result = host.run(
            "cd / && sudo -u postgres psql --no-psqlrc --tuples-only --no-align --set ON_ERROR_STOP=1 "
            f"--dbname swarm --command {shlex.quote(wrapped)}"
        )
        assert result.rc == 0, result.stderr
        rows: list[Any] = json.loads(result.stdout)
        return rows

    return run


@pytest.fixture(scope="session")
def run_site() -> Callable[..., PlaybookRun]:
    """Return a function that runs site.yml on the test host, with further arguments."""

    def run(*arguments: str) -> PlaybookRun:
        command = [
            "ansible-playbook",
            "-i",
            "inventory",
            "-i",
            "molecule/inventory",
            "site.yml",
            "-l",
            "dev",
            *arguments,
        ]
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
            "TEST_HOST_PREFIX": PREFIX,
        }
        result = subprocess.run(
            command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        recaps = re.findall(r"^\S+ +: ok=\d+ +changed=(\d+) .*", result.stdout, re.MULTILINE)
        return PlaybookRun(result.returncode, result.stdout, sum(map(int, recaps)))

    return run
