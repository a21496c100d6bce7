"""A call for one group knows the passwords of that group's services, and no others."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from tests.conftest import PROJECT

TASKS = PROJECT / "roles" / "service_env" / "tasks"
MODULE = "swarm.sqlite_to_postgresql.cutover_group"
PASSWORDS = {"role_a": "secret-a", "role_b": "secret-b", "migrator": "secret-m"}


def group(name: str, *roles: str) -> dict[str, Any]:
    """Return a group of the inventory with one service for each role."""
    services = [
        {
            "name": f"{name}-{role}", "user": "nobody", "directory": "/nowhere", "database_role": role,
            "schemas": ["app"], "health_url": "http://127.0.0.1:9/",
        }
        for role in roles
    ]  # fmt: skip
    return {"name": name, "source": {"path": "/nowhere/data.db"}, "tables": [], "services": services}


@pytest.mark.parametrize("name", ["cut_over.yml", "rollback.yml"])
@pytest.mark.parametrize(("item", "expected"), [("a", ["role_a"]), ("both", ["role_a", "role_b"]), ("none", [])])
def test_the_tasks_hand_over_the_passwords_of_the_group_alone(name: str, item: str, expected: list[str]) -> None:
    (task,) = [
        task for task in DataLoader().load_from_file(str(TASKS / name), trusted_as_template=True) if MODULE in task
    ]
    groups = [group("a", "role_a"), group("both", "role_a", "role_b"), group("none")]
    variables = {"item": item, "service_env_groups": groups, "service_env_role_passwords": PASSWORDS, **task["vars"]}
    templar = Templar(loader=DataLoader(), variables=variables)
    assert templar.template(task[MODULE]["role_passwords"]) == {role: PASSWORDS[role] for role in expected}
    assert templar.template(task[MODULE]["group"])["name"] == item


def test_the_module_refuses_the_passwords_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {
        "group": group("a", "role_a"),
        "services_login": {"host": "127.0.0.1", "port": 1, "database": "none"},
        "role_passwords": PASSWORDS,
        "work_directory": str(tmp_path),
        "login_host": "127.0.0.1",
        "login_port": 1,
        "login_db": "none",
        "login_user": "nobody",
    }
    with patch_module_args(arguments), pytest.raises(SystemExit):
        importlib.import_module("ansible_collections.swarm.sqlite_to_postgresql.plugins.modules.cutover_group").main()
    result = json.loads(capsys.readouterr().out)
    assert "was given passwords that it does not need" in result["msg"]
    (problem,) = result["problems"]
    assert problem["what"] == "it holds those of migrator, role_b"
    assert "secret-" not in json.dumps(result)
