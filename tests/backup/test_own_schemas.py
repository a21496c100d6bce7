"""A backup of a database in which a service owns its schema, and has migrated itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres import privileges
from tests.conftest import OWNER, PASSWORD

from .conftest import Program

if TYPE_CHECKING:
    from tests.conftest import Server

ROLE = "swarm_crm"
MIGRATION = """
CREATE TABLE crm.tags (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, person integer REFERENCES crm.people (id));
ALTER TABLE crm.people ADD COLUMN mail text DEFAULT '';
CREATE INDEX people_mail ON crm.people (lower(mail));
CREATE FUNCTION crm.touched() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER touched BEFORE UPDATE ON crm.people FOR EACH ROW EXECUTE FUNCTION crm.touched();
INSERT INTO crm.people (name, mail) VALUES ('Cid', 'cid@example.org')
"""


@pytest.fixture
def role(server: Server) -> Iterator[str]:
    """The service's role, of which phase 1 makes the owner a member; gone after the databases."""
    server.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'", f"GRANT {ROLE} TO {OWNER}")
    yield ROLE
    server.execute(f"DROP ROLE {ROLE}")


@pytest.fixture
def migrated(role: str, schema_database: Login) -> Callable[[], None]:
    """Return a function that gives the service its schema, which it then migrates."""

    def migrate() -> None:
        with closing(connect(schema_database)) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA crm; CREATE TABLE crm.people (id serial PRIMARY KEY, name text NOT NULL)")
            cursor.execute("INSERT INTO crm.people (name) VALUES ('Ann')")
            connection.commit()
            groups = {"registry": [role]}
            given = privileges.synchronise(
                connection, {role: ["crm"]}, False, {}, {"registry": ["crm.people"]}, groups, owners={role: ["crm"]}
            )
            assert given["granted"] == [f"{role}: schema crm and its tables are its own"]
        with closing(connect(replace(schema_database, user=role, session_role=None))) as connection:
            with connection.cursor() as cursor:
                cursor.execute(MIGRATION)
            connection.commit()

    return migrate


@pytest.mark.promise("self-migrating-is-backed-up")
def test_a_backup_of_a_service_that_has_migrated_itself_is_proven_and_restored(
    migrated: Callable[[], None], program: Program
) -> None:
    migrated()
    manifest = program.run("run")
    assert manifest["verified"]
    program.query("DELETE FROM crm.people; DELETE FROM odd.unlogged")
    assert "every count and hash equal" in "\n".join(program.run("restore", manifest["name"])["lines"])
    assert program.query("SELECT name, mail FROM crm.people ORDER BY id") == [("Ann", ""), ("Cid", "cid@example.org")]
    owners = "SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class WHERE relnamespace = 'crm'::regnamespace"
    assert program.query(owners) == [(ROLE,)]


@pytest.mark.promise("self-migrating-is-backed-up")
def test_the_migrator_of_a_managed_server_proves_such_a_backup(migrated: Callable[[], None], managed: Program) -> None:
    migrated()
    assert managed.run("run")["verified"]
