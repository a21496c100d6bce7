"""dev and prod may differ in hosts, sizes, providers and secrets, never in tasks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import PROJECT

ENVIRONMENTS = ("dev", "prod")
# Of a host, what could tell one environment from another. What they may differ in is said in the inventory.
_NAMED = re.compile(r"\b(?:swarm-)?(?:dev|prod)\b(?!/)|(?<!/)\bgroup_names\b")


def listed(environment: str) -> str:
    """Return every play, task and tag of a run on an environment, as Ansible lists them. No host is asked."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "PATH": path}
    command = ["ansible-playbook", "site.yml", "-l", environment, "--list-tasks"]
    return subprocess.run(command, cwd=PROJECT, env=variables, capture_output=True, text=True, check=True).stdout


def texts(value: Any) -> Iterator[str]:
    """Give every text in what a YAML file holds; comments are none."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


@pytest.mark.promise("same-tasks-everywhere")
def test_a_run_on_prod_has_the_tasks_of_one_on_dev() -> None:
    dev, prod = map(listed, ENVIRONMENTS)
    assert dev == prod
    assert "service_env : Cut over | Move the services of each cutover group to PostgreSQL" in dev


@pytest.mark.promise("same-tasks-everywhere")
def test_no_playbook_and_no_role_names_an_environment() -> None:
    """The lists of both runs would be equal, and a condition could still leave a task out in one of them."""
    folders = ("tasks", "defaults", "vars", "handlers", "templates")
    paths = [PROJECT / "site.yml", *(PROJECT / "playbooks").rglob("*.yml")]
    paths += [path for folder in folders for path in (PROJECT / "roles").glob(f"*/{folder}/**/*") if path.is_file()]
    assert len(paths) > 60
    found = []
    for path in paths:
        text = path.read_text()
        parts = texts(yaml.safe_load(text)) if path.suffix == ".yml" else [text]
        found += [f"{path.relative_to(PROJECT)}: {part}" for part in parts if _NAMED.search(part.replace("/dev/", ""))]
    assert found == []


@pytest.mark.parametrize(
    "text", ["environment_name == 'prod'", "'dev' in group_names", "inventory_hostname == 'swarm-dev'"]
)
def test_a_condition_on_an_environment_is_recognised(text: str) -> None:
    assert _NAMED.search(text)
