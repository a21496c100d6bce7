"""The services' privileges, tried as the services' own roles."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg2
import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import (
    Login,
    connect,
    connected,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres import privileges

SERVICES = {"swarm_registry": ["registry"], "swarm_tickets": ["auth", "verification"]}


def run(login: Login, role: str, statement: str) -> None:
    """Execute a statement as a service's role."""
    with closing(connect(replace(login, user=role, session_role=None))) as connection, connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.promise("service-privileges-exact")
def test_a_service_reads_and_writes_its_own_tables_only(schema_database: Login) -> None:
    with connected(schema_database) as connection:
        result = privileges.synchronise(connection, SERVICES, check_mode=False)
        assert result["changed"]
        assert "swarm_registry: USAGE on schema registry" in result["granted"]
        assert privileges.synchronise(connection, SERVICES, check_mode=False) == {
            "changed": False,
            "granted": [],
            "revoked": [],
        }
    run(schema_database, "swarm_registry", "INSERT INTO registry.agents (name, version, path) VALUES ('a', '1', '/')")
    for statement in (
        "SELECT * FROM auth.users",
        "SELECT * FROM migration.run",
        "TRUNCATE registry.agents",
        "CREATE TABLE registry.mine (id integer)",
        "CREATE TABLE public.mine (id integer)",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            run(schema_database, "swarm_registry", statement)


@pytest.mark.promise("service-privileges-exact")
def test_tables_still_to_come_are_included(schema_database: Login) -> None:
    with connected(schema_database) as connection:
        privileges.synchronise(connection, SERVICES, check_mode=False)
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE registry.later (id serial PRIMARY KEY, name text)")
        connection.commit()
        assert not privileges.synchronise(connection, SERVICES, check_mode=True)["changed"]
    run(schema_database, "swarm_registry", "INSERT INTO registry.later (name) VALUES ('works with its sequence')")


@pytest.mark.promise("service-privileges-exact")
def test_what_is_too_much_is_taken_away(schema_database: Login) -> None:
    with connected(schema_database) as connection:
        privileges.synchronise(connection, SERVICES, check_mode=False)
        with connection.cursor() as cursor:
            cursor.execute("GRANT USAGE ON SCHEMA migration TO swarm_registry")
            cursor.execute("GRANT SELECT ON migration.run TO swarm_registry")
        connection.commit()
        narrowed = {**SERVICES, "swarm_tickets": ["auth"]}
        preview = privileges.synchronise(connection, narrowed, check_mode=True)
        assert "swarm_registry: SELECT on migration.run" in preview["revoked"]
        run(schema_database, "swarm_tickets", "SELECT * FROM verification.attempts")
        assert privileges.synchronise(connection, narrowed, check_mode=False) == preview
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        run(schema_database, "swarm_tickets", "SELECT * FROM verification.attempts")


def test_unknown_roles_and_schemas_are_all_named(schema_database: Login) -> None:
    with connected(schema_database) as connection, pytest.raises(MigrationError) as error:
        privileges.synchronise(
            connection, {"nobody_known": ["auth"], "swarm_deploy": ["deploy", "depoly"]}, check_mode=False
        )
    assert "role nobody_known: it does not exist" in str(error.value)
    assert "schema depoly of role swarm_deploy: it does not exist" in str(error.value)


def test_an_owner_that_is_its_own_service_keeps_every_right(schema_database: Login) -> None:
    with connected(schema_database) as connection:
        for _ in range(2):
            assert not privileges.synchronise(connection, {"swarm_owner": ["auth"]}, check_mode=False)["changed"]
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE auth.later (id integer)")
            cursor.execute("TRUNCATE auth.later")


def test_tables_in_schema_public_and_materialized_views_are_given_too(schema_database: Login) -> None:
    services = {"swarm_deploy": ["deploy", "public"]}
    with connected(schema_database) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE public.mine (id integer)")
            cursor.execute("CREATE MATERIALIZED VIEW deploy.busy AS SELECT * FROM deploy.queue")
        connection.commit()
        privileges.synchronise(connection, services, check_mode=False)
        assert not privileges.synchronise(connection, services, check_mode=False)["changed"]
    run(schema_database, "swarm_deploy", "INSERT INTO public.mine VALUES (1)")
    run(schema_database, "swarm_deploy", "SELECT * FROM deploy.busy")


def test_two_runs_at_once_wait_for_each_other(schema_database: Login) -> None:
    def synchronise() -> bool:
        with connected(schema_database) as connection:
            return bool(privileges.synchronise(connection, SERVICES, check_mode=False)["changed"])

    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(synchronise) for _ in range(3)]
    assert sorted(run.result() for run in runs) == [False, False, True]


def test_the_use_of_schema_public_is_not_ours_to_take_away(server: Any, schema_database: Login) -> None:
    server.execute("GRANT USAGE ON SCHEMA public TO swarm_registry", database=schema_database.database)
    with connected(schema_database) as connection:
        privileges.synchronise(connection, SERVICES, check_mode=False)
        assert not privileges.synchronise(connection, SERVICES, check_mode=False)["changed"]
        with connection.cursor() as cursor:
            cursor.execute("SELECT has_schema_privilege('swarm_registry', 'public', 'USAGE')")
            assert cursor.fetchone() == (True,)
