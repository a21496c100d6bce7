"""A draft becomes an inventory of its own."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.template import Templar

from ansible_collections.swarm.sqlite_to_postgresql.plugins.action.estate_discover import ActionModule
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.discovery import (
    adopt,
    draft_directory,
    render,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.discovery.draft_directory import (
    Written,
)
from scripts.loaded_ansible import LoadedAnsible
from tests.conftest import MIGRATOR, OWNER, PROJECT, environment_of_ansible

from .support import holding, look_at, make_database

CONNECTION = {"ansible_host": "db.example.org", "ansible_user": "root"}


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    """A draft of one database."""
    database = make_database(tmp_path / "app.db")
    with holding(database):
        files = render.files(look_at(tmp_path), "own-host")
    for name, text in files.items():
        path = tmp_path / "draft" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "draft"


def variables_of(inventory: Path) -> dict[str, Any]:
    """Return the variables of the host as Ansible reads them with our settings."""
    command = [str(Path(sys.executable).parent / "ansible-inventory"), "-i", str(inventory), "--host", "own-host"]
    environment = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True)
    assert "WARNING" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.promise("draft-never-overwritten")
def test_an_adopted_draft_is_an_inventory_that_is_never_overwritten(tmp_path: Path, draft: Path) -> None:
    inventory = tmp_path / "inventories" / "own-host"
    adopt.adopt(draft, inventory, PROJECT / "inventory", "own-host", "dev", CONNECTION)
    found = variables_of(inventory)
    assert found.items() >= {**CONNECTION, "environment_name": "dev", "postgres_database": "own_host"}.items()
    assert found["postgres_owner_role"] == "own_host_owner"
    assert [group["name"] for group in found["estate_cutover_groups"]] == ["app"]
    assert found["schema_apply_directory"] == f"{inventory}/sql"
    assert [path.name for path in (inventory / "sql").iterdir()] == ["001_app.sql"]
    hosts = yaml.safe_load((inventory / "hosts.yml").read_text())["all"]["children"]
    assert set(hosts) == {"dev", "database_hosts", "service_hosts"}
    # What describes the checks of the sample estate is not taken over.
    assert "validation_functional_checks" not in found

    (inventory / "hosts.yml").write_text("edited")
    with pytest.raises(MigrationError, match="it exists already"):
        adopt.adopt(draft, inventory, PROJECT / "inventory", "own-host", "dev", CONNECTION)
    assert (inventory / "hosts.yml").read_text() == "edited"
    assert [path.name for path in inventory.parent.iterdir()] == ["own-host"]


@pytest.mark.promise("discover-maps-existing-tables")
def test_a_draft_onto_tables_of_an_application_is_adopted_without_sql(
    tmp_path: Path, login: Login, ansible: LoadedAnsible
) -> None:
    with closing(connect(login)) as connection, connection.cursor() as cursor:
        cursor.execute(
            'CREATE SCHEMA shop; CREATE TABLE shop."User" (id integer PRIMARY KEY, name text, "apiToken" text)'
        )
        connection.commit()
    database = make_database(tmp_path / "app.db")
    with holding(database):
        files = render.files(look_at(tmp_path, login=login, existing_schemas=("shop",)), "own-host")
    # The command that the page prints finds the same.
    asked = f"-e discover_existing_schemas=shop -e discover_existing_database={login.database} -e discover_adopt=true"
    assert asked in files[render.PAGE_FILE]
    written = draft_directory.write(str(tmp_path / "drafts" / "own-host"), files)
    with pytest.raises(MigrationError, match="The draft was not written"):
        draft_directory.write(
            str(tmp_path / "drafts" / "own-host"), {**files, render.NO_SQL_FILE: "schema_apply_x: /etc"}
        )
    inventory = tmp_path / "inventories" / "own-host"
    with pytest.raises(MigrationError, match="discover_existing_schemas"):
        adopt.adopt(Path(written.directory), inventory, PROJECT / "inventory", "own-host", "dev", CONNECTION)
    names = {"postgres_database": login.database, "postgres_owner_role": OWNER, "postgres_migrator_role": MIGRATOR}
    adopt.adopt(Path(written.directory), inventory, PROJECT / "inventory", "own-host", "dev", CONNECTION, names)
    found = variables_of(inventory)
    assert found.items() >= {**names, "schema_apply_directory": ""}.items()
    (group,) = found["estate_cutover_groups"]
    (table,) = group["tables"]
    assert (table["source"], table["target"]) == ("users", "shop.User")
    assert table["columns"] == {"api_token": {"secret": True, "target": "apiToken"}}
    assert not (inventory / "sql").exists()
    # The first thing that site.yml does with it.
    command = ["ansible", "-i", str(inventory), "own-host", "-m", "swarm.sqlite_to_postgresql.check_inventory"]
    _, output, errors = ansible.run(command, environment_of_ansible())
    assert "SUCCESS" in output, output + errors


def test_the_role_passes_its_options_on(tmp_path: Path, login: Login, ansible: LoadedAnsible) -> None:
    play = [{"hosts": "localhost", "gather_facts": False, "roles": ["discovery"]}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "discovery_draft_directory": str(tmp_path / "draft"),
        # Nothing of this machine.
        "discovery_left_out": ["*"],
        "discovery_directories": [],
        "discovery_work_directory": str(tmp_path),
    }
    (tmp_path / "variables.json").write_text(json.dumps(variables))
    files = [f"@{tmp_path}/variables.json", str(tmp_path / "play.yml")]
    command = ["ansible-playbook", "-i", "localhost,", "-e", *files]
    # An inventory that knows no server is enough.
    status, output, errors = ansible.run(command, environment_of_ansible())
    assert status == 0, output + errors
    assert (tmp_path / "draft" / render.ESTATE_FILE).exists()
    own = {"login_host": login.host, "login_port": login.port, "login_user": login.user, "session_role": OWNER}
    server = {"postgres_database": "none", "postgres_migrator_login": own, "discovery_existing_schemas": "nowhere,shop"}
    server["discovery_existing_database"] = login.database
    own["login_password"] = login.password
    status, output, errors = ansible.run([*command, "-e", json.dumps(server)], environment_of_ansible())
    assert status != 0
    assert f"discovery_existing_schemas: shop: database {login.database} has no table" in output
    assert str(login.password) not in output + errors


@pytest.mark.promise("discover-follows-no-trap")
def test_a_name_that_is_a_template_is_not_run(tmp_path: Path) -> None:
    trap = f"{{{{ lookup('ansible.builtin.pipe', 'touch {tmp_path}/ran') }}}}"
    header = "#jinja2:variable_start_string:'[['\n[[ 1 + 1 ]]"
    database = make_database(tmp_path / "app.db", f'CREATE TABLE "{trap}" (id INTEGER PRIMARY KEY, "{trap}" TEXT)')
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE users (id)")
        connection.execute(f'CREATE TABLE "{header}" (id)')
    link = tmp_path / "{{ 1 + 1 }}.db"
    link.symlink_to(database)
    with holding(database):
        files = render.files(look_at(tmp_path, tmp_path), "own-host")
    for name, text in files.items():
        path = tmp_path / "draft" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    inventory = tmp_path / "inventory"
    adopt.adopt(
        tmp_path / "draft", inventory, PROJECT / "inventory", "own-host", "dev", {"ansible_connection": "local"}
    )
    command = [str(Path(sys.executable).parent / "ansible"), "-i", str(inventory), "own-host", "-m", "debug"]
    done = subprocess.run(
        [*command, "-a", "var=estate_cutover_groups"],
        cwd=PROJECT,
        env={
            "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
            "PATH": "/usr/bin:/bin",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (group,) = json.loads(done.stdout[done.stdout.index("{") :])["estate_cutover_groups"]
    assert group["source"]["aliases"] == [str(link)]
    assert {trap, header} <= {table["source"] for table in group["tables"]}
    assert not (tmp_path / "ran").exists()


@pytest.mark.promise("discover-trusts-no-host")
def test_a_template_in_a_draft_is_named_with_its_line_and_not_adopted(tmp_path: Path, draft: Path) -> None:
    estate = draft / render.ESTATE_FILE
    text = estate.read_text()
    with estate.open("a") as file:
        file.write("ansible_connection: local\n")
    estate.write_text(estate.read_text().replace("name: app", "name: \"{{ lookup('pipe', 'id') }}\"", 1))
    with pytest.raises(MigrationError, match="The draft was not adopted") as refused:
        adopt.adopt(draft, tmp_path / "inventory", PROJECT / "inventory", "own-host", "dev", CONNECTION)
    lines = estate.read_text().splitlines()
    named = [number for number, line in enumerate(lines, 1) if "lookup" in line or "ansible_" in line]
    assert [entry.where for entry in refused.value.problems] == [f"{render.ESTATE_FILE}, line {n}" for n in named]
    assert not (tmp_path / "inventory").exists()
    # What a person writes otherwise is taken.
    estate.write_text(text.replace("name: app", "name: !unsafe '{{ app }}'", 1))
    adopt.adopt(draft, tmp_path / "inventory", PROJECT / "inventory", "own-host", "dev", CONNECTION)


def test_a_draft_of_what_has_changed_since_is_not_adopted_unread(tmp_path: Path) -> None:
    written = Written(str(tmp_path / "host-2"), True, ("+ group app: /opt/app.db",))
    action = object.__new__(ActionModule)
    with pytest.raises(MigrationError, match="beside an earlier draft"):
        action._adopt(written, tmp_path / "inventory", {"inventory_hostname": "host"})
    assert list(tmp_path.iterdir()) == []


def test_a_draft_without_sql_or_without_its_inventory_is_refused_with_a_cure(tmp_path: Path, draft: Path) -> None:
    action = object.__new__(ActionModule)
    action._templar = Templar(None)
    shutil.rmtree(draft / "sql")
    written = Written(str(draft), True, ())
    with pytest.raises(MigrationError, match="no source could be drafted"):
        action._adopt(written, tmp_path / "inventory", {"inventory_hostname": "host"})
    (draft / render.ESTATE_FILE).unlink()
    with pytest.raises(MigrationError, match=r"estate\.yml: No such file or directory"):
        action._adopt(written, tmp_path / "inventory", {"inventory_hostname": "host"})
    assert not (tmp_path / "inventory").exists()
