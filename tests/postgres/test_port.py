"""A server on another port than the usual one: the inventory alone says which, and the file for it is written."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.conftest import PROJECT

# Each of them is what a module takes if nobody says a port, which the login of the inventory always does.
_DEFAULTS = ("| default(5432)",)
_DEFAULT_LOGIN = "roles/sqlite_cleanup/vars/main.yml"


def test_every_role_takes_the_port_of_the_inventory() -> None:
    found = []
    for kind in ("roles", "playbooks"):
        for path in (PROJECT / kind).rglob("*"):
            name = str(path.relative_to(PROJECT))
            if path.suffix not in (".yml", ".j2", ".py") or "/meta/" in name or "/files/" in name:
                continue
            for line in path.read_text(encoding="utf-8").splitlines():
                if re.search(r"\b5432\b", line) and not any(words in line for words in _DEFAULTS):
                    found.append((name, line.strip()))
    assert found == [(_DEFAULT_LOGIN, "login_port: 5432")]
    inventory = (PROJECT / "inventory/group_vars/all/postgres.yml").read_text(encoding="utf-8")
    assert re.findall(r"^.*\b5432\b.*$", inventory, re.MULTILINE) == ["postgres_port: 5432"]
    assert 'login_port: "{{ postgres_port }}"' in inventory


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "roles").rglob("tasks/*.yml")), ids=lambda path: f"{path.parts[-3]}-{path.stem}"
)
def test_what_a_task_writes_names_nothing_that_only_a_template_knows(path: Any) -> None:
    """Only the module template defines ``ansible_managed``: another task that names it fails when it is reached."""
    text = path.read_text(encoding="utf-8")
    for line in text.splitlines():
        if "ansible_managed" in line:
            templar = Templar(loader=DataLoader(), variables={"postgres_install_port": 5433})
            assert templar.template(trust_as_template(line.strip())) == "# Ansible managed"
