"""The script for the administrator of a managed server, run by one with CREATEDB and CREATEROLE and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.filter import postgres_install as install
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.backup import preflight
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres import own_schemas
from tests.conftest import PASSWORD, PROGRAMS, PROJECT

if TYPE_CHECKING:
    from tests.conftest import Server

ADMINISTRATOR, OWNER, MIGRATOR, SERVICE, DATABASE = "far_admin", "far owner", "far_migrator", "far_web", "far_database"
PASSWORDS = {MIGRATOR: "migrator's", SERVICE: "service's"}
LIMITS = {"statement_timeout": "60s"}
SERVICE_ROLE = {"name": SERVICE, "connection_limit": 7}
ROLES: list[dict[str, Any]] = [
    {"name": OWNER, "login": False, "connection_limit": -1, "configuration": {}},
    {"name": MIGRATOR, "login": True, "connection_limit": 10, "configuration": {"log_statement": "none"}},
    install.postgres_service_role(SERVICE_ROLE, LIMITS, {SERVICE: ["web", "My schema"]}),
]
SETTINGS = {
    "owner": OWNER,
    "migrator": MIGRATOR,
    "database": DATABASE,
    "extensions": ["plpgsql"],
    "self_migrating": [SERVICE],
}


@pytest.fixture
def administrator(server: Server) -> Iterator[Login]:
    """The login of an administrator who may make databases and roles, and nothing else."""
    server.execute(f"CREATE ROLE {ADMINISTRATOR} LOGIN CREATEDB CREATEROLE PASSWORD '{PASSWORD}'")
    yield replace(server.superuser, user=ADMINISTRATOR)
    server.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    for role in (SERVICE, MIGRATOR, f'"{OWNER}"', ADMINISTRATOR):
        server.execute(f"DROP ROLE IF EXISTS {role}")


def run(login: Login, script: str, directory: Path) -> None:
    """Run a script with psql."""
    path = directory / "managed_server.sql"
    path.write_text(script)
    where = ["-h", login.host, "-p", str(login.port), "-U", login.user, "-d", "postgres"]
    done = subprocess.run(
        [str(PROGRAMS / "psql"), "-X", "-q", *where, "-f", str(path)],
        env={"PGPASSWORD": PASSWORD, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "ERROR" not in done.stderr, done.stderr


def missing(login: Login) -> list[str]:
    """Return what the role would name as missing, in the migrator's session."""
    variables = yaml.safe_load((PROJECT / "roles" / "postgres_install" / "vars" / "main.yml").read_text())
    arguments = {"owner": OWNER, "migrator": MIGRATOR, "extensions": "plpgsql"}
    arguments |= {"logins": ",".join(PASSWORDS), "self_migrating": SERVICE}
    with closing(connect(login)) as connection, connection.cursor() as cursor:
        cursor.execute(variables["__postgres_install_managed_query"], arguments)
        return [row[0] for row in cursor.fetchall()]


@pytest.mark.promise("managed-server-one-script", "tables-found-by-bare-name")
def test_one_script_makes_all_that_any_phase_needs_and_may_be_run_again(
    administrator: Login, server: Server, tmp_path: Path
) -> None:
    for _ in range(2):
        run(administrator, install.postgres_managed_script(ROLES, PASSWORDS, SETTINGS), tmp_path)
    migrator = replace(server.superuser, database=DATABASE, user=MIGRATOR, password=PASSWORDS[MIGRATOR])
    assert missing(migrator) == []
    with closing(connect(replace(migrator, session_role=OWNER))) as connection, connection.cursor() as cursor:
        # What schema_apply does.
        cursor.execute("CREATE SCHEMA web; CREATE TABLE web.notes (id uuid DEFAULT gen_random_uuid())")
        cursor.execute(f"GRANT USAGE ON SCHEMA web TO {SERVICE}; GRANT SELECT ON web.notes TO {SERVICE}")
        connection.commit()
    service = replace(migrator, user=SERVICE, password=PASSWORDS[SERVICE])
    with (
        closing(connect(service)) as session,
        closing(connect(replace(migrator, database="postgres"))) as connection,
        connection.cursor() as cursor,
    ):
        # As services write it for SQLite.
        session.cursor().execute("SELECT * FROM notes")
        # What the restore test and a restore ask for before they begin, and then do.
        preflight.require_rights(cursor, {"name": "b", "properties": {"owner": OWNER}, "roles": []}, DATABASE)
        connection.rollback()
        connection.autocommit = True
        cursor.execute(f'CREATE DATABASE {DATABASE}_scratch OWNER "{OWNER}"')
        cursor.execute(f"DROP DATABASE {DATABASE}_scratch")
        cursor.execute("SELECT pg_terminate_backend(%s)", (session.info.backend_pid,))
        assert cursor.fetchone() == (True,)
        cursor.execute("SELECT setconfig FROM pg_db_role_setting WHERE setrole = %s::regrole", (SERVICE,))
        assert cursor.fetchall() == [(["statement_timeout=60s", 'search_path=web, "My schema", public'],)]
    # The administrator is no member of the owner any more, and could not connect to look at the services' rows.
    with pytest.raises(MigrationError, match="does not have CONNECT privilege"):
        connect(replace(administrator, database=DATABASE))


@pytest.mark.promise("self-migrating-owns-from-cutover")
def test_the_owner_gives_a_schema_to_a_service_and_takes_it_back(
    administrator: Login, server: Server, tmp_path: Path
) -> None:
    run(administrator, install.postgres_managed_script(ROLES, PASSWORDS, SETTINGS), tmp_path)
    migrator = replace(server.superuser, database=DATABASE, user=MIGRATOR, password=PASSWORDS[MIGRATOR])
    with closing(connect(replace(migrator, session_role=OWNER))) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA web; CREATE TABLE web.notes (id serial, body text)")
        for live in ([SERVICE], []):
            own_schemas.settle(cursor, {SERVICE: ["web"]}, live, [SERVICE], ["web.notes"])
            connection.commit()
            cursor.execute("SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname = 'notes'")
            assert cursor.fetchall() == [(SERVICE if live else OWNER,)]
            if live:
                with closing(connect(replace(migrator, user=SERVICE, password=PASSWORDS[SERVICE]))) as session:
                    session.cursor().execute(
                        "ALTER TABLE web.notes ADD made timestamptz; CREATE INDEX ON web.notes (made)"
                    )
                    session.commit()


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (f"ALTER ROLE {MIGRATOR} NOCREATEDB", f"role {MIGRATOR} may not create databases, with which it proves"),
        (
            # It would be one through the owner.
            f'REVOKE {SERVICE} FROM {MIGRATOR}, "{OWNER}" GRANTED BY {ADMINISTRATOR}',
            f"role {MIGRATOR} is not a member of {SERVICE}",
        ),
        (f'REVOKE "{OWNER}" FROM {MIGRATOR} GRANTED BY {ADMINISTRATOR}', f"role {MIGRATOR} is not a member of {OWNER}"),
        (
            f'REVOKE {SERVICE} FROM "{OWNER}" GRANTED BY {ADMINISTRATOR}',
            f"role {OWNER} is not a member of {SERVICE}, whose service migrates itself",
        ),
        (f"ALTER ROLE {SERVICE} NOLOGIN", f"role {SERVICE} does not exist, or cannot log in"),
        (f"ALTER DATABASE {DATABASE} OWNER TO postgres", f"database {DATABASE} belongs to postgres, not to {OWNER}"),
        (f"GRANT CONNECT ON DATABASE {DATABASE} TO PUBLIC", f"everybody may connect to database {DATABASE}"),
        (f"REVOKE CONNECT ON DATABASE {DATABASE} FROM {SERVICE}", f"role {SERVICE} may not connect"),
    ],
)
def test_what_is_missing_is_named(
    administrator: Login, server: Server, tmp_path: Path, statement: str, told: str
) -> None:
    run(administrator, install.postgres_managed_script(ROLES, PASSWORDS, SETTINGS), tmp_path)
    server.execute(statement)
    migrator = replace(server.superuser, database=DATABASE, user=MIGRATOR, password=PASSWORDS[MIGRATOR])
    found = missing(migrator)
    assert any(line.startswith(told) for line in found), found


def test_the_script_that_is_shown_holds_no_verifier() -> None:
    written = install.postgres_managed_script(ROLES, PASSWORDS, SETTINGS)
    assert "SCRAM-SHA-256$" in written and "service" not in written.replace("services'", "")
    shown = install.postgres_managed_script(ROLES, {}, SETTINGS, hidden=True)
    assert "SCRAM" not in shown.replace("Of a password only its SCRAM verifier is sent", "")
    assert shown.count("PASSWORD '...'") == len(PASSWORDS)
