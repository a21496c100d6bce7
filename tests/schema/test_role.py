"""The role as it runs: ansible-playbook on this machine, against a real PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from scripts.loaded_ansible import LoadedAnsible
from tests.conftest import environment_of_ansible

if TYPE_CHECKING:
    from tests.conftest import Server

PROJECT = Path(__file__).resolve().parents[2]
# No newline at the end, and text that looks like a template: both must reach the server as they are.
CONTENT = "CREATE SCHEMA app;\nCREATE TABLE app.t (v text DEFAULT '{{ größer }}');\r\n-- the end"
PLAY = """
- hosts: localhost
  gather_facts: false
  roles: [schema_apply]
"""


@dataclass(frozen=True)
class Outcome:
    """What one run of the role printed."""

    status: int
    output: str

    def recap(self, counter: str) -> int:
        """Return one counter of the recap."""
        return int(self.output.rpartition(f"{counter}=")[2].split()[0])


Run = Callable[..., Outcome]


@pytest.fixture
def run(login: Login, tmp_path: Path, ansible: LoadedAnsible) -> Run:
    """Run the role with options of ansible-playbook and other variables; the password must never be printed."""
    directory = tmp_path / "sql"
    directory.mkdir()
    (directory / "001_first.sql").write_bytes(CONTENT.encode())
    (tmp_path / "play.yml").write_text(PLAY)

    def run(*options: str, port: int = login.port, password: str = str(login.password), **variables: str) -> Outcome:
        given = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "schema_apply_directory": str(directory),
            "schema_apply_login": {
                "login_host": login.host,
                "login_port": port,
                "login_db": login.database,
                "login_user": login.user,
                "login_password": password,
                "session_role": login.session_role,
                "ssl_mode": login.ssl_mode,
                "ca_cert": login.ca_cert,
            },
            "schema_apply_services": [{"database_role": "swarm_deploy", "schemas": ["app"]}],
            "schema_apply_tables": {"app": ["app.t"]},
            "schema_apply_roles": {"app": ["swarm_registry"]},
            **variables,
        }
        file = tmp_path / "variables.json"
        file.write_text(json.dumps(given))
        command = ["ansible-playbook", "-i", "localhost,", "-e", f"@{file}", "-vvvv", "--diff", *options, "play.yml"]
        status, *streams = ansible.run(command, environment_of_ansible(), tmp_path)
        output = "".join(streams)
        assert password not in output
        assert "Traceback" not in output
        return Outcome(status, output)

    return run


@pytest.mark.promise("dry-run-changes-nothing", "sql-file-applied-once")
def test_a_dry_run_a_run_and_a_second_run(run: Run, login: Login) -> None:
    def applied() -> list[tuple[str, str]]:
        with closing(connect(login)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT name, sha256 FROM migration.applied_file")
            return [(name, sha256) for name, sha256 in cursor.fetchall()]

    bare = run("--check", port=1)
    assert (bare.status, bare.recap("changed")) == (0, 1)
    assert "+001_first.sql" in bare.output
    assert "WARNING" not in bare.output
    before = run("--check")
    assert (before.status, before.recap("changed")) == (0, 1)
    with closing(connect(login)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regnamespace('migration'), to_regnamespace('app')")
        assert cursor.fetchone() == (None, None)
    first = run()
    assert (first.status, first.recap("changed")) == (0, 1)
    assert "+swarm_deploy: SELECT on app.t" in first.output
    assert applied() == [("001_first.sql", hashlib.sha256(CONTENT.encode()).hexdigest())]
    # The test without a directory below does the same in a dry run.
    again = run()
    assert (again.status, again.recap("changed")) == (0, 0)


def test_a_refused_login_fails_and_does_not_hinder_a_dry_run(run: Run) -> None:
    refused = run(password="quite-wrong")  # noqa: S106 (wrong on purpose)
    assert refused.status != 0
    assert "password authentication failed" in refused.output
    announced = run("--check", password="quite-wrong")  # noqa: S106
    assert (announced.status, announced.recap("changed")) == (0, 1)
    assert "All files are listed, as nobody could look: role swarm_migrator: " in announced.output


def test_a_dry_run_on_a_bare_host_lists_every_file() -> None:
    program = """
import json, sys
sys.modules["psycopg2"] = None
sys.path.append(sys.argv[1] + "/.collections")
from ansible.module_utils.testing import patch_module_args
with patch_module_args(json.loads(sys.argv[2])):
    from ansible_collections.swarm.sqlite_to_postgresql.plugins.modules import schema_apply
    schema_apply.main()
"""
    arguments = {
        "files": [{"name": "001_shop.sql", "content": "CREATE SCHEMA shop;"}],
        "login_port": 1,
        "login_db": "shop",
        "login_user": "shop_migrator",
        "_ansible_check_mode": True,
    }
    done = subprocess.run(
        [sys.executable, "-c", program, str(PROJECT), json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)
    assert (found.get("changed"), found.get("applied")) == (True, ["001_shop.sql"]), found


def test_without_a_directory_the_tables_of_an_application_stay_and_the_privileges_are_set(
    run: Run, login: Login
) -> None:
    with closing(connect(login)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA app; CREATE TABLE app.t (v text)")
        connection.commit()
    before = run("--check", schema_apply_directory="")
    assert (before.status, before.recap("changed")) == (0, 1)
    first = run(schema_apply_directory="")
    assert (first.status, first.recap("changed")) == (0, 1)
    assert "+swarm_deploy: SELECT on app.t" in first.output
    again = run("--check", schema_apply_directory="")
    assert (again.status, again.recap("changed")) == (0, 0)
    with closing(connect(login)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM migration.applied_file")
        assert cursor.fetchone() == (0,)
    # Files that are applied do not vanish unnoticed.
    assert run().status != 0


def test_a_directory_without_files_is_named(run: Run, tmp_path: Path) -> None:
    outcome = run("--check", schema_apply_directory=str(tmp_path))
    assert outcome.status != 0
    assert "schema_apply_directory: holds no .sql file" in outcome.output


@pytest.mark.promise("backup-runs-nobodys-code")
def test_what_no_backup_can_be_proven_with_is_named_before_anything_moves(
    run: Run, server: Server, login: Login
) -> None:
    server.execute(
        "CREATE TABLE public.theirs (i int CHECK (set_config('role', 'none', false) <> ''))",
        "ALTER TABLE public.theirs OWNER TO swarm_deploy",
        "CREATE TABLE public.harmless (i int CHECK (i > 0))",
        "ALTER TABLE public.harmless OWNER TO swarm_deploy",
        database=login.database,
    )
    outcome = run()
    assert outcome.status == 0
    assert "table public.theirs belongs to swarm_deploy, so no backup can be proven" in outcome.output
    assert "give it to swarm_owner with ALTER" in outcome.output
    assert "public.harmless" not in outcome.output
