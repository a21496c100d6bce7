"""What no YAML file may lack or repeat: of a key that stands there twice Ansible leaves out what the first says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import PROJECT


def repeated_keys(text: str) -> list[str]:
    """Return each key that a mapping repeats, with its line. Tags such as ``!vault`` are not looked at."""
    found = []
    waiting = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            again = [key for number, (key, _) in enumerate(node.value) if key.value in names[:number]]
            found += [f"{key.value} in line {key.start_mark.line + 1}" for key in again]
            waiting += [value for _, value in node.value]
    return found


def test_no_key_is_repeated() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.yml"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    assert listed
    found = {path: repeated_keys(Path(PROJECT, path).read_text(encoding="utf-8")) for path in listed.splitlines()}
    assert {path: keys for path, keys in found.items() if keys} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("- hosts: a\n  tasks: [{name: x}]\n  tasks: []\n", ["tasks in line 3"]),
        ("a: {b: 1}\nc: {b: 2}\n---\na: 1\n", []),
        ("a:\n  - !vault |\n    x\n  - {b: 1, b: 2}\n", ["b in line 4"]),
    ],
)
def test_a_repeated_key_is_found_wherever_it_is(text: str, found: list[str]) -> None:
    assert repeated_keys(text) == found


@pytest.mark.promise("inventory-checked-first")
def test_every_playbook_checks_the_inventory_first() -> None:
    """All but the one that drafts an inventory."""
    without = []
    for path in sorted(Path(PROJECT, "playbooks").glob("*.yml")):
        first = yaml.safe_load(path.read_text(encoding="utf-8"))[0]
        roles = [role["role"] if isinstance(role, dict) else role for role in first.get("roles", ())]
        roles += [task.get("ansible.builtin.import_role", {}).get("name") for task in first.get("tasks", ())[:1]]
        if roles != ["inventory_check"]:
            without.append(path.name)
    assert without == ["discover.yml"]
