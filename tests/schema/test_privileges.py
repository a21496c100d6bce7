"""The services' privileges, tried as the services' own roles."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import (
    Json,
    Login,
    connect,
    connected,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import (
    Access,
    parse_group,
    rights_by_role,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.group_detail import KEYS, Phase
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres import privileges
from tests.conftest import PROJECT

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

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
            "warnings": [],
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


@pytest.mark.promise("service-privileges-exact")
def test_whoever_changes_a_view_is_waited_for_and_not_for_ever(
    schema_database: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    with connected(schema_database) as connection, connected(schema_database) as other:
        with other.cursor() as cursor:
            cursor.execute("CREATE VIEW auth.names AS SELECT id FROM auth.users")
            other.commit()
            cursor.execute("ALTER VIEW auth.names RENAME TO other_names")
        tables = {"auth": ["auth.users"]}

        def synchronise() -> dict[str, Any]:
            return privileges.synchronise(connection, SERVICES, False, {}, tables, lock_timeout_seconds=0.05)

        monkeypatch.setattr(time, "sleep", waits.append)
        with pytest.raises(MigrationError, match="Another session has a table locked"):
            synchronise()
        assert waits == [0.5, 1.0, 1.5, 2.0]
        # It is tried again: this time the other ends while we wait.
        monkeypatch.setattr(time, "sleep", lambda _: other.commit())
        assert synchronise()["changed"]


def test_the_use_of_schema_public_is_not_ours_to_take_away(server: Any, schema_database: Login) -> None:
    server.execute("GRANT USAGE ON SCHEMA public TO swarm_registry", database=schema_database.database)
    with connected(schema_database) as connection:
        privileges.synchronise(connection, SERVICES, check_mode=False)
        assert not privileges.synchronise(connection, SERVICES, check_mode=False)["changed"]
        with connection.cursor() as cursor:
            cursor.execute("SELECT has_schema_privilege('swarm_registry', 'public', 'USAGE')")
            assert cursor.fetchone() == (True,)


def sample_estate() -> tuple[dict[str, list[str]], dict[str, dict[str, str]]]:
    """Return the schemas and the rights of the roles of the inventory that is shipped."""
    estate = yaml.safe_load((PROJECT / "inventory" / "group_vars" / "all" / "estate.yml").read_text())
    services = [service for group in estate["estate_cutover_groups"] for service in parse_group(group).services]
    return {service.database_role: list(service.schemas) for service in services}, rights_by_role(services)


@pytest.mark.promise("service-privileges-exact")
def test_the_sample_estate_says_rights_by_table_and_column(schema_database: Login) -> None:
    schemas, rights = sample_estate()
    with connected(schema_database) as connection:
        given = privileges.synchronise(connection, schemas, False, rights)
        assert "swarm_tickets: UPDATE on column auth.users.last_login" in given["granted"]
        assert not privileges.synchronise(connection, schemas, False, rights)["changed"]
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO auth.users (email, password_hash) VALUES ('a@example.org', 'x')")
        connection.commit()
        columns = privileges._read_tables(connection.cursor())
    user = "UPDATE auth.users SET last_login = now() WHERE email = 'a@example.org'"
    allowed = {
        # What the services of molecule/sample_estate send: a login, and the rows of the dashboard.
        "swarm_tickets": ["SELECT * FROM auth.users", "SELECT * FROM auth.roles", user,
                          "INSERT INTO verification.attempts (ticket_id, attempt_number, branch_name, status) "
                          "VALUES ('t', 1, 'b', 's')", "DELETE FROM verification.attempts"],
        "swarm_platform": [user, "SELECT * FROM deploy.queue", "SELECT id, workflow_id FROM registry.triggers",
                           *(f"SELECT count(*) FROM {schema}.{table}" for schema, table in columns
                             if schema in schemas["swarm_platform"])],
    }  # fmt: skip
    refused = {
        "swarm_tickets": ["UPDATE auth.users SET role_id = NULL", "INSERT INTO auth.users (last_login) VALUES (now())",
                          "DELETE FROM auth.users", "UPDATE auth.roles SET level = 100",
                          "INSERT INTO auth.role_permissions VALUES (gen_random_uuid(), gen_random_uuid())"],
        "swarm_platform": ["SELECT encrypted_value FROM registry.secrets", "SELECT * FROM registry.secrets",
                           "SELECT webhook_secret FROM registry.triggers", "DELETE FROM deploy.queue",
                           "COPY registry.secrets TO STDOUT"],
    }  # fmt: skip
    for role, statements in allowed.items():
        for statement in statements:
            run(schema_database, role, statement)
    for role, statements in refused.items():
        for statement in statements:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                run(schema_database, role, statement)


@pytest.mark.promise("service-privileges-exact")
def test_rights_are_narrowed_and_widened_again(schema_database: Login) -> None:
    steps: list[dict[str, str]] = [
        {},
        {"auth.users.password_hash": "none"},
        {"auth.users": "read", "auth.users.password_hash": "none", "auth.users.name": "write"},
        {"auth": "none", "auth.users": "write", "auth.users.role_id": "read"},
        {},
    ]
    seen = []
    with connected(schema_database) as connection:
        for rights in steps:
            preview = privileges.synchronise(connection, SERVICES, True, {"swarm_tickets": rights})
            assert preview["changed"], rights
            assert privileges.synchronise(connection, SERVICES, False, {"swarm_tickets": rights}) == preview
            assert not privileges.synchronise(connection, SERVICES, False, {"swarm_tickets": rights})["changed"]
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT has_table_privilege(r, 'auth.users', 'DELETE'), has_column_privilege(r, 'auth.users', "
                    "'password_hash', 'SELECT'), has_column_privilege(r, 'auth.users', 'role_id', 'UPDATE'), "
                    "has_column_privilege(r, 'auth.users', 'name', 'UPDATE'), has_column_privilege(r, 'auth.users', "
                    "'name', 'INSERT'), has_table_privilege(r, 'auth.roles', 'SELECT') "
                    "FROM (SELECT 'swarm_tickets') x (r)"
                )
                seen.append(cursor.fetchone())
    assert seen == [
        (True, True, True, True, True, True),
        (True, False, True, True, True, True),
        (False, False, False, True, False, True),
        (True, True, False, True, True, False),
        (True, True, True, True, True, True),
    ]


def test_what_is_said_of_a_partitioned_table_holds_for_its_parts(schema_database: Login) -> None:
    """Whoever may read a part reads the rows of the whole."""
    rights = {"swarm_registry": {"registry.seen": "read", "registry.seen.word": "none", "registry.seen_2": "none"}}
    schemas = {"swarm_registry": ["registry"]}
    with connected(schema_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE registry.seen (id integer, word text) PARTITION BY RANGE (id)")
        cursor.execute("CREATE TABLE registry.seen_1 PARTITION OF registry.seen FOR VALUES FROM (1) TO (9)")
        cursor.execute("CREATE TABLE registry.seen_2 PARTITION OF registry.seen FOR VALUES FROM (9) TO (19)")
        connection.commit()
        privileges.synchronise(connection, schemas, False, rights)
        assert not privileges.synchronise(connection, schemas, False, rights)["changed"]
    for table in ("seen", "seen_1"):
        run(schema_database, "swarm_registry", f"SELECT id FROM registry.{table}")
        for refused in (f"SELECT word FROM registry.{table}", f"INSERT INTO registry.{table} VALUES (1)"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                run(schema_database, "swarm_registry", refused)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        run(schema_database, "swarm_registry", "SELECT id FROM registry.seen_2")


def test_unknown_tables_and_columns_of_rights_are_named_with_the_nearest(schema_database: Login) -> None:
    rights = {"swarm_tickets": {"auth.user": "read", "auth.users.role": "none", "auth.roles": "read"}}
    with connected(schema_database) as connection, pytest.raises(MigrationError) as error:
        privileges.synchronise(connection, SERVICES, False, rights)
    assert len(error.value.problems) == 2
    assert "swarm_tickets on auth.user: there is no such table. Did you mean 'users'?" in str(error.value)
    assert "swarm_tickets on auth.users.role: the table has no such column. Did you mean 'role_id'?" in str(error.value)


def test_what_a_rollback_has_shut_stays_shut_whatever_the_rights_say(schema_database: Login) -> None:
    taken = [{"role": "swarm_tickets", "schema": "auth", "table": "users", "column": "", "privilege": "UPDATE"}]
    rights = {"swarm_tickets": {"auth.users.password_hash": "read"}}
    with connected(schema_database) as connection:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO migration.cutover_group (name, source_path, state, detail) VALUES ('g', '/g', "
                "'rolled_back', %s)",
                (Json({KEYS["rollback"]: {"phase": Phase.DONE.value, "rights": taken}}),),
            )
        connection.commit()
        granted = privileges.synchronise(connection, SERVICES, False, rights)["granted"]
    assert "swarm_tickets: SELECT on auth.users" in granted
    assert [line for line in granted if "auth.users" in line and "SELECT" not in line] == []


@pytest.mark.promise("service-privileges-exact")
def test_a_sequence_follows_the_tables_that_take_their_numbers_from_it(schema_database: Login) -> None:
    """Also one that no column owns, one in another schema, and one that only the service itself calls by its name."""
    schemas = {"swarm_registry": ["registry"], "swarm_tickets": ["auth"], "swarm_deploy": ["auth"]}
    rights = {
        "swarm_registry": {"registry": "read", "registry.numbered": "write"},
        "swarm_tickets": {"auth": "read", "auth.roles.level": "write"},
        "swarm_deploy": {"auth": "none", "auth.roles": "write"},
    }
    with connected(schema_database) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE SEQUENCE registry.loose")
            cursor.execute("CREATE SEQUENCE auth.elsewhere")
            cursor.execute("CREATE SEQUENCE auth.by_name")
            cursor.execute(
                "CREATE TABLE registry.numbered (id bigint DEFAULT nextval('registry.loose'), "
                "other bigint DEFAULT nextval('auth.elsewhere'), own serial)"
            )
            cursor.execute("CREATE TABLE registry.only_read (id bigserial, word text)")
        connection.commit()
        privileges.synchronise(connection, schemas, False, rights)
        assert not privileges.synchronise(connection, schemas, False, rights)["changed"]
    run(schema_database, "swarm_registry", "INSERT INTO registry.numbered DEFAULT VALUES")
    run(schema_database, "swarm_registry", "SELECT last_value FROM registry.only_read_id_seq")
    run(schema_database, "swarm_deploy", "SELECT nextval('auth.by_name')")
    for role, statement in (
        ("swarm_registry", "SELECT nextval('registry.only_read_id_seq')"),
        # What it may change is a column of rows that are there.
        ("swarm_tickets", "SELECT nextval('auth.by_name')"),
        ("swarm_tickets", "SELECT nextval('auth.elsewhere')"),
        ("swarm_deploy", "SELECT last_value FROM auth.elsewhere"),
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            run(schema_database, role, statement)


def set_state(connection: Connection, group: str, state: str) -> None:
    """Let the ledger say where a group is."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO migration.cutover_group (name, source_path, state) VALUES (%s, '/' || %s, %s) "
            "ON CONFLICT (name) DO UPDATE SET state = excluded.state",
            (group, group, state),
        )


@pytest.mark.promise("no-write-before-cutover")
def test_nobody_writes_to_a_groups_tables_before_its_cutover(schema_database: Login) -> None:
    """Not directly, and not through what leads to them: a view writes with the rights of its owner."""
    services = {"swarm_registry": ["registry"], "swarm_deploy": ["deploy", "registry"]}
    rights = {"swarm_deploy": {"registry": "read", "registry.agents.tags": "write"}}
    access = Access(services, rights, {"registry": ["registry.agents", "registry.seen"], "deploy": ["deploy.queue"]})
    insert = "INSERT INTO registry.{} (name, version, path) VALUES (md5(random()::text), '1', '/')"
    writes = [
        ("swarm_registry", insert.format("agents")),
        ("swarm_registry", insert.format("as_seen")),
        ("swarm_registry", insert.format("as_seen_twice")),
        ("swarm_registry", "DELETE FROM registry.agents WHERE false"),
        ("swarm_registry", "INSERT INTO registry.seen VALUES (1)"),
        ("swarm_registry", "INSERT INTO registry.seen_1 VALUES (1)"),
        ("swarm_deploy", "UPDATE registry.agents SET tags = NULL"),
    ]
    with connected(schema_database) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE VIEW registry.as_seen AS SELECT * FROM registry.agents")
            cursor.execute("CREATE VIEW registry.as_seen_twice AS SELECT * FROM registry.as_seen")
            cursor.execute("CREATE TABLE registry.seen (id integer) PARTITION BY RANGE (id)")
            cursor.execute("CREATE TABLE registry.seen_1 PARTITION OF registry.seen FOR VALUES FROM (1) TO (9)")
        connection.commit()

        def synchronised(check_mode: bool = False) -> bool:
            found = privileges.synchronise(connection, services, check_mode, rights, access.tables)
            return bool(found["changed"])

        assert synchronised()
        for state in ("pending", "rehearsed", "frozen", "live", "rehearsed", "rolled_back", "archived", "removed"):
            if state != "pending":
                set_state(connection, "registry", state)
                privileges.settle_writing(connection, "registry", access)
                connection.commit()
            # Phase 1 and the validation want the very rights that the cutover has left.
            assert not synchronised(check_mode=True), state
            run(schema_database, "swarm_registry", "SELECT * FROM registry.agents, registry.as_seen, registry.seen")
            # A table of no group is the services' own from the beginning.
            run(schema_database, "swarm_registry", "DELETE FROM registry.triggers")
            for role, statement in writes:
                if state in ("live", "archived", "removed"):
                    run(schema_database, role, statement)
                    continue
                with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                    run(schema_database, role, statement)
            # The other group has not moved.
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                run(schema_database, "swarm_deploy", "DELETE FROM deploy.queue")


@pytest.mark.promise("no-write-before-cutover")
def test_a_table_is_shut_with_what_writes_to_it_and_not_with_what_reads_it(schema_database: Login) -> None:
    with connected(schema_database) as connection:
        with connection.cursor() as cursor:
            for statement in (
                "CREATE TABLE registry.seen (id integer) PARTITION BY RANGE (id)",
                "CREATE TABLE registry.seen_1 PARTITION OF registry.seen FOR VALUES FROM (1) TO (9)",
                "CREATE TABLE registry.seen_2 PARTITION OF registry.seen FOR VALUES FROM (9) TO (20)",
                "CREATE VIEW registry.as_seen AS SELECT * FROM registry.seen",
                "CREATE VIEW registry.counted AS SELECT count(*) FROM registry.seen_1",
                "CREATE VIEW registry.joined AS SELECT a.name FROM registry.agents a JOIN registry.seen_1 s ON true",
                "CREATE FUNCTION registry.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
                "CREATE TRIGGER nothing INSTEAD OF INSERT ON registry.joined "
                "FOR EACH ROW EXECUTE FUNCTION registry.nothing()",
                "CREATE VIEW registry.by_rule AS SELECT 1 AS id",
                "CREATE RULE send AS ON INSERT TO registry.by_rule DO INSTEAD INSERT INTO registry.seen_1 VALUES (1)",
            ):
                cursor.execute(statement)
        connection.commit()
        tables = {"registry": ["registry.seen_1"]}
        privileges.synchronise(connection, {"swarm_registry": ["registry"]}, False, None, tables)
    for shut in ("seen", "seen_1", "as_seen", "by_rule"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            run(schema_database, "swarm_registry", f"INSERT INTO registry.{shut} VALUES (1)")
    run(schema_database, "swarm_registry", "INSERT INTO registry.seen_2 VALUES (9)")
    run(schema_database, "swarm_registry", "INSERT INTO registry.joined VALUES ('a')")


@pytest.mark.promise("no-write-before-cutover", "service-privileges-exact")
def test_a_cutover_gives_the_rights_that_the_inventory_says_by_then(schema_database: Login) -> None:
    """They may have been narrowed or widened while the group was on SQLite again."""
    tables = {"platform": ["auth.users", "auth.roles"]}
    schemas = {"swarm_tickets": ["auth"], "nobody_known": ["auth"]}
    narrow = Access(schemas, {"swarm_tickets": {"auth.users": "read", "auth.users.name": "write"}}, tables)
    wide = Access(schemas, {}, tables)
    question = (
        "SELECT has_column_privilege('swarm_tickets', 'auth.users', 'name', 'UPDATE'), "
        "has_column_privilege('swarm_tickets', 'auth.users', 'email', 'UPDATE'), "
        "has_table_privilege('swarm_tickets', 'auth.users', 'DELETE'), "
        "has_table_privilege('swarm_tickets', 'auth.roles', 'DELETE')"
    )
    seen = []
    with connected(schema_database) as connection, connection.cursor() as cursor:
        for state, access in (
            ("live", wide), ("rolled_back", wide), ("live", narrow), ("rehearsed", wide), ("live", wide)
        ):  # fmt: skip
            set_state(connection, "platform", state)
            privileges.settle_writing(connection, "platform", access)
            cursor.execute(question)
            seen.append(cursor.fetchone())
    nothing = (False,) * 4
    assert seen == [(True,) * 4, nothing, (True, False, False, True), nothing, (True,) * 4]


@pytest.mark.promise("no-write-before-cutover", "live-roles-keep-rights")
def test_a_role_of_a_group_on_postgresql_keeps_what_its_services_may_need(schema_database: Login) -> None:
    """An upgrade finds rights on the tables of groups that have not moved: who lives on PostgreSQL may need them."""
    schemas = {"swarm_tickets": ["auth", "registry"], "swarm_registry": ["registry"]}
    tables = {"platform": ["auth.users"], "registry": ["registry.agents"]}
    roles = {"platform": ["swarm_tickets"], "registry": ["swarm_registry"]}
    statements = [("swarm_tickets", "auth.users"), ("swarm_tickets", "registry.agents")]
    with connected(schema_database) as connection:
        privileges.synchronise(connection, schemas, check_mode=False)
        set_state(connection, "platform", "live")
        connection.commit()
        found = privileges.synchronise(connection, schemas, False, None, tables, roles)
        assert {line.partition(":")[0] for line in found["revoked"]} == {"swarm_registry"}
        (warning,) = found["warnings"]
        assert "swarm_tickets: INSERT on registry.agents" in warning and "swarm_registry" not in warning
        for role, table in statements:
            run(schema_database, role, f"DELETE FROM {table} WHERE false")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            run(schema_database, "swarm_registry", "DELETE FROM registry.agents WHERE false")
        again = privileges.synchronise(connection, schemas, False, None, tables, roles)
        assert not again["changed"] and again["warnings"] == found["warnings"]
        # Nor does the other group's cutover take them when it is undone.
        privileges.settle_writing(connection, "registry", Access(schemas, tables=tables, roles=roles))
        connection.commit()
        run(schema_database, "swarm_tickets", "DELETE FROM registry.agents WHERE false")
        # A person's word takes them.
        rights = {"swarm_tickets": {"registry": "read"}}
        assert privileges.synchronise(connection, schemas, False, rights, tables, roles)["warnings"] == []
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            run(schema_database, "swarm_tickets", "DELETE FROM registry.agents WHERE false")


@pytest.mark.promise("live-roles-keep-rights")
def test_a_renamed_group_keeps_its_rights(schema_database: Login) -> None:
    """The ledger knows the group by its old name, and the new one as never moved."""
    with connected(schema_database) as connection:
        privileges.synchronise(connection, {"swarm_tickets": ["auth"]}, check_mode=False)
        set_state(connection, "platform", "live")
        connection.commit()
        found = privileges.synchronise(
            connection, {"swarm_tickets": ["auth"]}, False, None, {"core": ["auth.users"]}, {"core": ["swarm_tickets"]}
        )
        assert (found["changed"], found["revoked"]) == (False, [])
        assert "knows platform on PostgreSQL, which the inventory does not name" in found["warnings"][0]
    run(schema_database, "swarm_tickets", "DELETE FROM auth.users WHERE false")
