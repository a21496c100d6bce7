"""dev and prod may differ in hosts, sizes, providers and secrets, never in tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from scripts.loaded_ansible import LoadedAnsible
from tests.conftest import PROJECT, environment_of_ansible

# Of a host, what could tell one environment from another. What they may differ in is said in the inventory.
_NAMED = re.compile(r"\b(?:swarm-)?(?:dev|prod)\b(?!/)|(?<!/)\bgroup_names\b")


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
def test_no_playbook_and_no_role_names_an_environment() -> None:
    """A condition on one could leave a task out there."""
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


@pytest.mark.promise("same-tasks-everywhere")
def test_a_run_of_either_environment_has_the_same_plays_and_tasks_on_the_same_kinds_of_hosts(
    ansible: LoadedAnsible,
) -> None:
    """As Ansible itself lists them, with everything that is imported, and the hosts that each play reaches."""
    listed = {}
    for environment in ("dev", "prod"):
        command = ["ansible-playbook", "site.yml", "-l", environment, "--list-hosts", "--list-tasks"]
        status, output, errors = ansible.run(command, environment_of_ansible())
        assert status == 0, errors
        listed[environment] = output.replace(f"swarm-{environment}", "the host")
    assert listed["dev"].count("      the host\n") > 10
    assert listed["dev"] == listed["prod"]


@pytest.mark.parametrize(
    "text", ["environment_name == 'prod'", "'dev' in group_names", "inventory_hostname == 'swarm-dev'"]
)
def test_a_condition_on_an_environment_is_recognised(text: str) -> None:
    assert _NAMED.search(text)
