"""What is wrong with the variables of a run, told without a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.inventory import checks
from tests.conftest import PROJECT


def estate(**changes: Any) -> dict[str, Any]:
    """Return a group of an estate, with some keys changed."""
    service = {
        "name": "web",
        "user": "web",
        "directory": "/opt/web",
        "database_role": "web",
        "schemas": ["web"],
        "health_url": "http://127.0.0.1/health",
    }
    return {
        "name": "web",
        "source": {"path": "/opt/web/web.db"},
        "tables": [{"source": "notes", "target": "web.notes"}],
        "services": [service],
    } | changes


def test_hosts_of_one_environment_may_run_together() -> None:
    assert checks.find_two_environments({"a": "dev", "b": "dev"}) == []
    assert checks.find_two_environments({"a": None, "b": None}) == []


@pytest.mark.parametrize("other", ["prod", None, ""])
def test_hosts_of_two_environments_are_refused(other: str | None) -> None:
    (problem,) = checks.find_two_environments({"a": "dev", "b": other, "c": "dev"})
    assert "dev (a, c)" in problem.what and "(b)" in problem.what
    assert "-l dev" in problem.fix


def test_every_mistake_of_every_group_is_told_at_once_with_the_nearest_key() -> None:
    first = estate()
    first["tabels"] = first.pop("tables")
    second = estate(name="shop")
    second["services"] = [{**second["services"][0]}]
    second["services"][0]["database_rol"] = second["services"][0].pop("database_role")
    told = [str(problem) for problem in checks.find_estate_mistakes([first, second, estate(), "text"])]
    assert any("'tabels'. Did you mean 'tables'?" in line for line in told)
    assert any("'database_rol'. Did you mean 'database_role'?" in line for line in told)
    assert any("two groups have the name 'web'" in line for line in told)
    assert any("str, not a mapping" in line for line in told)
    assert checks.find_estate_mistakes([estate(), estate(name="shop")]) == []
    assert len(checks.find_estate_mistakes({"name": "web"})) == 1


def test_every_role_without_a_password_is_named_and_no_password_told() -> None:
    passwords = {"migrator": "hunter2", "shop": "hunter3"}
    (problem,) = checks.find_missing_passwords(["migrator", "web", "shop", "till", "web"], passwords)
    assert problem.what == "2 roles that log in have no password: web, till"
    assert "hunter" not in str(problem)
    assert "migrator, web" in str(checks.find_missing_passwords(["migrator", "web"], None))
    assert checks.find_missing_passwords(["migrator"], passwords) == []


def test_a_misspelt_variable_is_named_with_the_right_one() -> None:
    texts = ["{{ estate_cutover_groups }} and {{ service_env_rollback_groups | default([]) }}"]
    variables = {
        "estate_cutover_grops": [],
        "service_env_rolback_groups": "web",
        "estate_cutover_groups": "{{ estate_common }}",
        # Another variable of the inventory reads it.
        "estate_common": [],
        # Nobody's business of ours.
        "nginx_port": 80,
        "ansible_host": "a",
        "ansible_user": "root",
    }
    problems = checks.find_misspelt_variables(variables, texts, ("estate_", "service_env_"))
    assert [(problem.where, problem.fix) for problem in problems] == [
        ("variable estate_cutover_grops", "Did you mean estate_cutover_groups?"),
        ("variable service_env_rolback_groups", "Did you mean service_env_rollback_groups?"),
    ]


def test_a_value_of_a_wrong_type_is_named_and_a_secret_one_not_told() -> None:
    specification = {
        "shop_port": {"type": "int", "required": True, "description": "Port."},
        "shop_mode": {"type": "str", "choices": ["a", "b"], "default": "a"},
        "shop_login": {
            "type": "dict",
            "options": {"password": {"type": "str", "no_log": True}, "port": {"type": "int"}},
        },
    }
    right = {"shop_port": "80", "shop_mode": "b", "shop_login": {"password": "hunter2", "port": 1}}
    assert checks.find_invalid_options("shop", specification, right) == []
    wrong = {"shop_port": "eighty", "shop_mode": "c", "shop_login": {"password": "hunter2", "port": "hunter3"}}
    told = [str(problem) for problem in checks.find_invalid_options("shop", specification, wrong)]
    assert len(told) == 3
    assert "variable shop_port" in told[0] and "eighty" in told[0]
    assert "variable shop_mode" in told[1]
    assert "variable shop_login" in told[2]
    assert "hunter" not in str(told)


def test_every_playbook_checks_the_inventory_first() -> None:
    playbooks = sorted(Path(PROJECT, "playbooks").glob("*.yml"))
    assert len(playbooks) > 8
    for playbook in playbooks:
        first = playbook.read_text().split("- name: ")[1]
        assert "role: inventory_check" in first and "any_errors_fatal: true" in first, playbook
