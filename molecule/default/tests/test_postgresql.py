"""The server as the playbook leaves it, told by the server itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[3]
SCHEMAS = ("auth", "deploy", "registry", "verification")
Query = Callable[[str], list[Any]]


@pytest.mark.promise("server-runs-at-boot")
def test_the_service_runs_and_starts_at_boot(host: Host) -> None:
    """PostgreSQL 16 is installed, running and enabled."""
    assert host.package("postgresql-16").is_installed
    service = host.service("postgresql@16-main")
    assert service.is_running, host.run("journalctl --unit postgresql@16-main --no-pager --lines 30").stdout
    assert host.service("postgresql").is_enabled
    assert re.search(r"^16\s+main\s+5432\s+online\b", host.run("pg_lsclusters --no-header").stdout, re.MULTILINE)


@pytest.mark.promise("settings-in-conf-d")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen_addresses", "localhost"),
        ("max_connections", "100"),
        ("shared_buffers", "256MB"),
        ("effective_cache_size", "768MB"),
        ("work_mem", "4MB"),
        ("password_encryption", "scram-sha-256"),
        ("log_connections", "on"),
        ("log_disconnections", "on"),
        ("log_line_prefix", "%m [%p] %q%u@%d %r %a "),
    ],
)
def test_the_server_has_the_settings_of_the_plan(query: Query, name: str, value: str) -> None:
    """The running server reports the plan's value, taken from conf.d or from its default."""
    (row,) = query(f"SELECT current_setting('{name}') AS value, pending_restart FROM pg_settings WHERE name = '{name}'")
    assert row == {"value": value, "pending_restart": False}


def test_the_new_cluster_keeps_checksums(query: Query) -> None:
    """A page that the disk has changed is noticed when it is read."""
    assert query("SELECT current_setting('data_checksums') AS kept") == [{"kept": "on"}]


@pytest.mark.promise("settings-in-conf-d")
def test_no_setting_waits_for_a_restart(host: Host, query: Query) -> None:
    """What the files say is what the server does, and did right after phase 1, before anybody started it again."""
    waiting = host.file("/var/lib/test-host/waiting")
    assert (waiting.exists, waiting.content_string) == (True, "")
    assert query("SELECT name FROM pg_settings WHERE pending_restart") == []
    assert query("SELECT sourcefile, name, error FROM pg_file_settings WHERE error IS NOT NULL") == []


@pytest.mark.promise("settings-in-conf-d")
def test_our_settings_stand_in_conf_d_only(host: Host, query: Query) -> None:
    """The distribution's postgresql.conf is as the package made it."""
    (row,) = query("SELECT sourcefile FROM pg_settings WHERE name = 'shared_buffers'")
    assert row["sourcefile"].startswith("/etc/postgresql/16/main/conf.d/")
    assert "256MB" not in host.file("/etc/postgresql/16/main/postgresql.conf").content_string


@pytest.mark.promise("access-rules-closed")
def test_access_rules_are_valid_and_end_in_reject(query: Query) -> None:
    """pg_hba.conf parses, lets the administrator in over the socket, and rejects what it does not name."""
    rules = query("SELECT * FROM pg_hba_file_rules ORDER BY line_number")
    assert [rule["error"] for rule in rules if rule["error"]] == []
    peer = [rule for rule in rules if rule["auth_method"] == "peer"]
    assert any(rule["type"] == "local" and rule["user_name"] == ["postgres"] for rule in peer)
    assert rules[-1]["auth_method"] == "reject"
    assert rules[-1]["user_name"] == ["all"]
    assert {rule["auth_method"] for rule in rules} <= {"peer", "scram-sha-256", "reject"}


def test_every_table_and_index_of_the_sql_files_is_there(query: Query) -> None:
    """4 schemas, 17 tables and 25 indexes, by the names that files/sql gives them."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "files/sql").glob("*.sql")))
    tables = {name.lower() for name in re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?([a-z_]+\.[a-z_]+)", text, re.I)}
    indexes = {name.lower() for name in re.findall(r"CREATE INDEX (?:IF NOT EXISTS )?([a-z_]+)", text, re.I)}
    schemas = ", ".join(f"'{schema}'" for schema in SCHEMAS)
    found_tables = query(f"SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ({schemas})")
    found_indexes = query(
        f"SELECT indexname FROM pg_indexes WHERE schemaname IN ({schemas}) AND indexname LIKE 'idx_%'"
    )
    assert {f"{row['schemaname']}.{row['tablename']}" for row in found_tables} == tables
    assert {row["indexname"] for row in found_indexes} == indexes
    assert {row["schemaname"] for row in found_tables} == set(SCHEMAS)
    assert (len(tables), len(indexes)) == (17, 25)


def test_the_extensions_of_the_plan_work(query: Query) -> None:
    """uuid-ossp and pgcrypto are installed and load."""
    (row,) = query(
        "SELECT (SELECT count(*) FROM pg_extension WHERE extname IN ('uuid-ossp', 'pgcrypto')) AS extensions,"
        " encode((SELECT digest('a', 'sha256')), 'hex') AS digest"
    )
    assert row == {"extensions": 2, "digest": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}


@pytest.mark.promise("roles-with-least-rights")
def test_roles_have_no_more_rights_than_they_need(query: Query, services: list[dict[str, Any]]) -> None:
    """The owner cannot log in, no role is superuser, PUBLIC gets nothing, passwords are kept as SCRAM verifiers."""
    roles = {
        row["rolname"]: row
        for row in query(
            "SELECT rolname, rolsuper, rolcanlogin, rolcreatedb, rolcreaterole, rolpassword FROM pg_authid"
            " WHERE rolname LIKE 'swarm%'"
        )
    }
    service_roles = {service["database_role"] for service in services}
    assert set(roles) == {"swarm_owner", "swarm_migrator"} | service_roles
    assert not roles["swarm_owner"]["rolcanlogin"]
    for name in ("swarm_migrator", *service_roles):
        assert roles[name]["rolcanlogin"]
        assert roles[name]["rolpassword"].startswith("SCRAM-SHA-256$")
    for role in roles.values():
        assert not (role["rolsuper"] or role["rolcreatedb"] or role["rolcreaterole"])
    (row,) = query("SELECT has_database_privilege('public', 'swarm', 'CONNECT') AS may_connect")
    assert row["may_connect"] is False


@pytest.mark.promise("service-privileges-exact")
def test_a_service_reaches_its_own_schemas_only(query: Query, services: list[dict[str, Any]]) -> None:
    """Each service's role reads and writes the schemas that the inventory names, no others, and not the ledger."""
    for service in services:
        # Of a list the server only says whether one of them is there.
        rows = query(
            "SELECT schemaname, bool_and(has_table_privilege('{0}', format('%I.%I', schemaname, tablename), privilege))"
            " AS may FROM pg_tables CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege"
            " WHERE schemaname IN ('auth', 'deploy', 'registry', 'verification', 'migration')"
            " AND has_schema_privilege('{0}', schemaname, 'USAGE') GROUP BY schemaname".format(service["database_role"])
        )
        assert {row["schemaname"] for row in rows} == set(service["schemas"]), service["name"]
        narrowed = {name.partition(".")[0] for name in service.get("rights", {})}
        assert all(row["may"] != (row["schemaname"] in narrowed) for row in rows), service["name"]
    (row,) = query(
        "SELECT has_column_privilege('swarm_platform', 'registry.secrets', 'encrypted_value', 'SELECT') AS reads,"
        " has_column_privilege('swarm_tickets', 'auth.users', 'role_id', 'UPDATE') AS makes_admins"
    )
    assert row == {"reads": False, "makes_admins": False}


@pytest.mark.promise("roles-with-least-rights", "tables-found-by-bare-name")
def test_a_service_has_limits_of_time_and_makes_no_large_object(query: Query, services: list[dict[str, Any]]) -> None:
    """Each service's role has its own limits, finds its tables, and may not call what makes a large object."""
    schemas = {service["database_role"]: service["schemas"] for service in services}
    for role in schemas:
        (row,) = query(f"SELECT setconfig FROM pg_db_role_setting WHERE setrole = '{role}'::regrole")
        limits = ["statement_timeout=60s", "lock_timeout=10s", "idle_in_transaction_session_timeout=60s"]
        path = f"search_path={', '.join([*schemas[role], 'public'])}"
        assert sorted(row["setconfig"]) == sorted([*limits, path])
        for function in ("lo_create(oid)", "lo_creat(integer)", "lo_from_bytea(oid, bytea)"):
            (row,) = query(f"SELECT has_function_privilege('{role}', 'pg_catalog.{function}', 'EXECUTE') AS may")
            assert row["may"] is False, (role, function)


def test_what_the_benchmark_asks_for_and_the_server_does_by_itself_stays_so(query: Query) -> None:
    """No file of ours and none of the distribution's changes these."""
    expected = {
        "authentication_timeout": "1min",
        "debug_print_parse": "off",
        "debug_print_plan": "off",
        "debug_print_rewritten": "off",
        "fsync": "on",
        "full_page_writes": "on",
        "log_error_verbosity": "default",
        "log_hostname": "off",
        "log_min_error_statement": "error",
        "log_min_messages": "warning",
        "ssl_min_protocol_version": "TLSv1.2",
        "synchronous_commit": "on",
    }
    names = ", ".join(f"'{name}'" for name in expected)
    rows = query(f"SELECT name, current_setting(name) AS value FROM pg_settings WHERE name IN ({names})")
    assert {row["name"]: row["value"] for row in rows} == expected


def test_what_the_server_keeps_is_for_its_user(host: Host) -> None:
    """Nobody else reads its data, its access rules and its log, or writes to its extensions."""
    expected = {
        "/var/lib/postgresql/16/main": "postgres 700",
        "/etc/postgresql/16/main/pg_hba.conf": "postgres 640",
        "/var/run/postgresql": "postgres 2775",
        "/var/log/postgresql/postgresql-16-main.log": "postgres 640",
        "/usr/share/postgresql/16/extension": "root 755",
    }
    found = host.run(f"stat --format '%n %U %a' {' '.join(expected)}").stdout
    assert found.splitlines() == [f"{path} {attributes}" for path, attributes in expected.items()]


def test_nothing_is_there_that_the_estate_does_not_need(host: Host, query: Query) -> None:
    """No further extension, tablespace, function with its owner's rights or replication; the user has no password."""
    found = {row["extname"] for row in query("SELECT extname FROM pg_extension")}
    assert found == {"plpgsql", "uuid-ossp", "pgcrypto"}
    assert query("SELECT spcname FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')") == []
    functions = "SELECT proname FROM pg_proc WHERE prosecdef AND pronamespace <> 'pg_catalog'::regnamespace"
    assert query(functions) == []
    assert query("SELECT rolname FROM pg_roles WHERE rolreplication AND NOT rolsuper") == []
    assert query("SELECT slot_name FROM pg_replication_slots") == []
    assert host.run("getent shadow postgres").stdout.split(":")[1] in ("*", "!", "!*")


def test_no_superuser_logs_in_over_the_network(query: Query) -> None:
    """Every rule that lets somebody in from the network names roles, and none of them is a superuser."""
    rules = query(
        "SELECT user_name, database FROM pg_hba_file_rules WHERE type LIKE 'host%' AND auth_method <> 'reject'"
    )
    superusers = {row["rolname"] for row in query("SELECT rolname FROM pg_roles WHERE rolsuper")}
    assert rules
    for rule in rules:
        assert not superusers & set(rule["user_name"]) and "all" not in rule["user_name"], rule
        assert rule["database"] == ["swarm"], rule


# Lets the server refuse rows and statements.
REFUSED = """
import sys
import psycopg2
connection = psycopg2.connect(host="127.0.0.1", dbname="swarm", user="swarm_migrator", password=PASSWORD)
connection.autocommit = True
cursor = connection.cursor()
cursor.execute("SET ROLE swarm_owner; CREATE TEMPORARY TABLE refused (a text CHECK (length(a) < 5), b text)")
for statement in (
    "INSERT INTO refused VALUES ('too long', 'canary-row')",
    "SELECT 'canary-value'::int",
    "DO $$BEGIN RAISE EXCEPTION 'canary-message' USING DETAIL = 'canary-detail'; END$$",
):
    try:
        cursor.execute(statement)
    except psycopg2.Error as error:
        print(error)
"""


@pytest.mark.promise("log-holds-no-row")
def test_the_server_logs_nothing_of_a_load(host: Host, run_with_password: Callable[[str, str], str]) -> None:
    """A server that is told to log every statement writes none of the migrator's, nor what it says of a refused row."""
    superuser = "cd / && sudo -u postgres psql --no-psqlrc -q"
    host.check_output(f"{superuser} -c \"ALTER SYSTEM SET log_statement = 'all'\" -c 'SELECT pg_reload_conf()'")
    try:
        output = run_with_password("swarm_migrator", REFUSED)
        host.check_output(f"{superuser} -c \"SELECT 'written for the test'\"")
    finally:
        host.check_output(f"{superuser} -c 'ALTER SYSTEM RESET log_statement' -c 'SELECT pg_reload_conf()'")
    for said in ("canary-row", "canary-value", "canary-message", "canary-detail"):
        assert said in output
    written = host.check_output("cat /var/log/postgresql/*.log")
    assert "written for the test" in written
    assert "canary" not in written
