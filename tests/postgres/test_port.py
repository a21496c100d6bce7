"""A server on another port than the usual one: nothing but the inventory's variable says which."""

from __future__ import annotations

import re

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
