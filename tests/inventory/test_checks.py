"""What is wrong with the variables of a run, told without a host."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.inventory import checks
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import (
    parse_group,
    widest_rights,
)
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
    other = estate(name="shop", tables=[{"source": "notes", "target": "shop.notes"}])
    assert checks.find_estate_mistakes([estate(), other]) == []
    assert len(checks.find_estate_mistakes({"name": "web"})) == 1


def test_two_groups_have_no_table_in_common() -> None:
    """The one that has not moved would shut the table that the other's services write to."""
    (problem,) = checks.find_estate_mistakes([estate(), estate(name="shop")])
    assert problem.what == "the groups web, shop have the same target table web.notes"


def test_a_service_that_migrates_itself_shares_neither_role_nor_schema() -> None:
    """What it owns, it may do anything with: nobody else may depend on it."""
    group = estate()
    group["services"][0]["migrates_itself"] = True
    assert checks.find_estate_mistakes([group]) == []
    group["services"][0] |= {"schemas": ["web", "public"], "rights": {"web.notes": "read"}}
    other = estate(name="shop", tables=[{"source": "orders", "target": "web.orders"}])
    told = [problem.what for problem in checks.find_estate_mistakes([group, other])]
    assert told == [
        "service web may use schema web too",
        "service web logs in as web too",
        "group shop moves a table into its schema too, web.orders",
        "schema public can belong to no service",
        "its role owns all of its schemas, so 'rights: web.notes' cannot hold",
    ]
    group["services"][0]["migrates_itself"] = "yes"
    assert any("Write true or false" in str(problem) for problem in checks.find_estate_mistakes([group]))


def with_rights(**rights: str) -> dict[str, Any]:
    """Return a group whose service has rights of its own; in a keyword two underscores stand for a dot."""
    group = estate()
    group["services"][0]["rights"] = {name.replace("__", "."): word for name, word in rights.items()}
    return group


def test_a_right_with_an_unknown_word_or_schema_is_named_with_the_nearest() -> None:
    told = [
        str(problem) for problem in checks.find_estate_mistakes([with_rights(web__notes="raed", wed__notes="read")])
    ]
    assert [line.partition(": service web: ")[2] for line in told] == [
        "'rights: web.notes' is 'raed'. Did you mean 'read'? Choose one of write, read, none",
        "'rights: wed.notes' is in a schema that is not among its 'schemas'. Did you mean 'web'? It may use: web",
    ]
    assert checks.find_estate_mistakes([with_rights(web="read", web__notes="write", web__notes__body="none")]) == []


def test_a_role_that_services_share_may_do_what_any_of_them_needs() -> None:
    """Or one of them would lose what it says nothing of, because another one says that it needs less."""
    narrow = {"database_role": "all", "schemas": ["a", "b"], "rights": {"a": "read", "a.t": "none", "b.t.c": "none"}}
    assert widest_rights([narrow]) == {"all": narrow["rights"]}
    silent = {"database_role": "all", "schemas": ["a"], "rights": {}}
    assert widest_rights([narrow, silent]) == {"all": {"a": "write", "a.t": "write", "b.t.c": "none"}}
    other = {"database_role": "all", "schemas": ["a", "b"], "rights": {"a": "none", "b.t": "read"}}
    assert widest_rights([narrow, other]) == {"all": {"a": "read", "a.t": "none", "b.t": "write", "b.t.c": "read"}}
    assert widest_rights([narrow, {**silent, "database_role": "one"}]) == {"all": narrow["rights"], "one": {}}


def test_a_service_with_rights_can_be_a_member_of_a_set() -> None:
    """As the window of a cutover keeps its services."""
    (service,) = parse_group(with_rights(web__notes="read")).services
    assert len({service, replace(service, pool_size=6)}) == 2


NOTES = """
CREATE TABLE web.notes (
  id integer PRIMARY KEY, -- not: secret
  "Body" text DEFAULT 'a, b)' CHECK (length("Body") < 9),
  CONSTRAINT one UNIQUE (id)
);
ALTER TABLE ONLY web.notes ADD COLUMN created numeric(3, 1), ADD author text;
CREATE TABLE IF NOT EXISTS web.copies (LIKE web.notes);
CREATE VIEW web.shown AS SELECT id FROM web.notes;
"""


def test_a_right_on_a_table_or_column_that_nothing_makes_is_named_with_the_nearest() -> None:
    right = with_rights(
        web__notes__Body="none", web__notes__created="read", web__notes__author="read", web__shown="read"
    )
    assert checks.find_rights_on_nothing([right, "text", {}], [NOTES]) == []
    wrong = with_rights(web__note="read", web__notes__body="none", web__notes__one="none", web__copies__anything="read")
    told = [str(problem) for problem in checks.find_rights_on_nothing([wrong], [NOTES])]
    assert len(told) == 3
    assert "'rights: web.note' names a table that no SQL file makes. Did you mean 'web.notes'?" in told[0]
    assert "'rights: web.notes.body' names a column that no SQL file makes. Did you mean 'Body'?" in told[1]
    assert "'rights: web.notes.one' names a column" in told[2]
    # What such a statement makes, only a server knows.
    for statement in (
        "DO $$ BEGIN EXECUTE 'CREATE TABLE web.note ()'; END $$;",
        "ALTER TABLE web.notes RENAME TO note;",
    ):
        assert checks.find_rights_on_nothing([wrong], [NOTES, statement]) == []


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
    # A discovery only reads, and comes before there is an inventory that could be right.
    playbooks = sorted(set(Path(PROJECT, "playbooks").glob("*.yml")) - {PROJECT / "playbooks" / "discover.yml"})
    assert len(playbooks) > 8
    for playbook in playbooks:
        first, *_ = yaml.safe_load(playbook.read_text())
        assert first["tasks"][0]["ansible.builtin.import_role"]["name"] == "inventory_check", playbook
        assert first["any_errors_fatal"], playbook
