"""What all groups share, and the services' own answers: the server, its schema, privileges, backups, health."""

from __future__ import annotations

import http.server
import os
import pwd
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import soak_check
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.manager import Process
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.pm2 import Pm2
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres import (
    privileges,
    schema,
    schema_files,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation import (
    database as validate_database,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation import (
    services as validate_services,
)
from tests.conftest import PASSWORD

from .support import TARGET, Estate, Moved, make_estate, moved_estate

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from tests.conftest import Server

ROLE = "swarm_registry"


@pytest.fixture(scope="module")
def moved(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    """An estate in state live, its tables made by a SQL file, to be copied."""

    def make(connection: Connection, directory: Path) -> Estate:
        schema.apply(connection, schema_files.read_files([{"name": "001_zoo.sql", "content": TARGET}]))
        estate = make_estate(connection, directory, with_target=False)
        service = replace(estate.group.services[0], database_role=ROLE)
        estate.group = replace(estate.group, services=(service,))
        return estate

    with moved_estate(server, tmp_path_factory.mktemp("moved"), make) as made:
        yield made


@pytest.fixture
def estate(live_estate: Estate, server: Server, database: str) -> Estate:
    """A copy of that estate, and its service's role with its privileges."""
    server.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC", f"GRANT CONNECT ON DATABASE {database} TO {ROLE}")
    privileges.synchronise(live_estate.connection, {ROLE: ["app"]}, check_mode=False)
    return live_estate


def look(estate: Estate, **values: Any) -> dict[str, Any]:
    """Validate the server of an estate."""
    settings = {"backup_max_age_hours": 48.0, **values}
    result: dict[str, Any] = validate_database.validate(estate.connection, [estate.group], **settings)
    # The tests' server is fast at the price of safety, and that is found too.
    assert [finding["where"] for finding in result["findings"][:1]] == ["setting fsync"]
    result["findings"] = result["findings"][1:]
    return result


def findings(estate: Estate) -> str:
    """Return every finding as text."""
    return "\n".join(f"{entry['where']}: {entry['what']}. {entry['fix']}" for entry in look(estate)["findings"])


def shut(estate: Estate) -> None:
    """Set the privileges as phase 1 does, which lets nobody write where SQLite is the store."""
    tables = {estate.group.name: [mapping.target for mapping in estate.group.tables]}
    privileges.synchronise(estate.connection, {ROLE: ["app"]}, False, None, tables)


def backup(estate: Estate, name: str, hours: float, verified: bool) -> None:
    """Note a backup that was taken some hours ago."""
    estate.on_target(
        "INSERT INTO migration.backup VALUES "
        f"('{name}', now() - interval '{hours} hours', {'now()' if verified else 'NULL'}, '0', '{{}}')"
    )


def test_nothing_is_wrong_and_nothing_is_written(estate: Estate) -> None:
    estate.on_target("SET default_transaction_read_only = on")
    result = look(estate)
    assert result["findings"] == []
    assert result["drift"] == []
    assert result["privileges"] == {"roles": {ROLE: ["app"]}, "rights": {}}
    assert result["server"]["version"].startswith("16")
    assert "max_connections" in {setting["name"] for setting in result["server"]["settings"]}
    assert look(estate) == result


@pytest.mark.promise("server-compared-with-inventory")
@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("DROP INDEX app.pets_name", "missing: index CREATE INDEX pets_name"),
        ("ALTER TABLE app.pets DROP CONSTRAINT pets_owner", "missing: constraint app.pets.pets_owner"),
        ("ALTER TABLE app.owners ADD COLUMN by_hand text", "not from our files: column app.owners.by_hand"),
        (f"REVOKE INSERT ON app.pets FROM {ROLE}", f"missing: {ROLE}: INSERT on app.pets"),
        (f"GRANT TRUNCATE ON app.pets TO {ROLE}", f"too much: {ROLE}: TRUNCATE on app.pets"),
        (f"GRANT REFERENCES (name) ON app.owners TO {ROLE}", f"too much: {ROLE}: REFERENCES on column app.owners.name"),
        (f"REVOKE USAGE ON SEQUENCE app.pets_id_seq FROM {ROLE}", f"missing: {ROLE}: USAGE on app.pets_id_seq"),
        ("GRANT SELECT ON app.owners TO PUBLIC", "app.owners: every role has SELECT on it"),
        ("GRANT SELECT (name) ON app.owners TO PUBLIC", "column app.owners.name: every role has SELECT on it"),
        ("GRANT USAGE ON SCHEMA app TO PUBLIC", "schema app: every role has USAGE on it"),
        ("GRANT USAGE ON SEQUENCE app.pets_id_seq TO PUBLIC", "app.pets_id_seq: every role has USAGE on it"),
        ("GRANT SELECT ON migration.run TO PUBLIC", "migration.run: every role has SELECT on it"),
        (
            "ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO PUBLIC",
            "new objects in schema app: every role has SELECT on it",
        ),
        ("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC", "new objects everywhere: every role has"),
        (f"GRANT UPDATE (name) ON migration.backup TO {ROLE}", f"{ROLE}: UPDATE on column migration.backup.name"),
        (f"GRANT SELECT ON migration.run TO {ROLE}", f"too much: {ROLE}: SELECT on migration.run"),
        ("ALTER TABLE app.owners ENABLE ROW LEVEL SECURITY", "not from our files: table app.owners with row level"),
        ("ALTER TABLE app.pets SET UNLOGGED", "not from our files: table app.pets unlogged"),
        (
            "CREATE RULE nothing AS ON INSERT TO app.pets DO INSTEAD NOTHING",
            "not from our files: rule CREATE RULE nothing AS ON INSERT TO app.pets DO INSTEAD NOTHING",
        ),
        (
            "CREATE POLICY mine ON app.pets USING (false)",
            "not from our files: policy mine on app.pets",
        ),
    ],
)
def test_what_differs_from_the_files_and_the_inventory_is_a_finding(
    estate: Estate, statement: str, finding: str
) -> None:
    estate.on_target(statement)
    assert finding in findings(estate)


@pytest.mark.promise("server-compared-with-inventory")
def test_a_service_s_role_with_too_much_power_is_a_finding(estate: Estate, server: Server) -> None:
    server.execute(f"ALTER ROLE {ROLE} CREATEDB CREATEROLE")
    try:
        assert f"role {ROLE}: it has more power than a service needs: rolcreatedb, rolcreaterole" in findings(estate)
    finally:
        server.execute(f"ALTER ROLE {ROLE} NOCREATEDB NOCREATEROLE")


@pytest.mark.promise("server-compared-with-inventory")
@pytest.mark.parametrize(
    ("statement", "undo", "finding"),
    [
        (
            f"GRANT swarm_owner TO {ROLE}",
            f"REVOKE swarm_owner FROM {ROLE}",
            "it is a member of swarm_owner, and so may",
        ),
        (
            f"GRANT pg_read_all_data TO {ROLE}",
            f"REVOKE pg_read_all_data FROM {ROLE}",
            "it is a member of pg_read_all_data",
        ),
        (f"ALTER ROLE {ROLE} VALID UNTIL '2020-01-01'", f"ALTER ROLE {ROLE} VALID UNTIL 'infinity'", "has expired"),
        (f"ALTER ROLE {ROLE} NOLOGIN", f"ALTER ROLE {ROLE} LOGIN", "it may not log in"),
        (
            f"ALTER ROLE {ROLE} SET synchronous_commit = 0",
            f"ALTER ROLE {ROLE} RESET ALL",
            f"setting synchronous_commit of role {ROLE}: it is off, expected on",
        ),
        (
            "ALTER ROLE ALL SET session_replication_role = replica",
            "ALTER ROLE ALL RESET ALL",
            "setting session_replication_role of every role: it is replica, expected origin",
        ),
        (
            "ALTER DATABASE {database} SET default_transaction_read_only = true",
            "ALTER DATABASE {database} RESET ALL",
            "setting default_transaction_read_only of the database: it is on, expected off",
        ),
        (
            "GRANT TEMPORARY ON DATABASE {database} TO PUBLIC",
            "REVOKE ALL ON DATABASE {database} FROM PUBLIC",
            "every role has TEMPORARY on it",
        ),
        (
            "GRANT CREATE ON DATABASE {database} TO " + ROLE,
            "REVOKE CREATE ON DATABASE {database} FROM " + ROLE,
            f"too much: {ROLE}: CREATE on database",
        ),
    ],
)
def test_what_a_superuser_has_changed_is_a_finding(
    estate: Estate, server: Server, database: str, statement: str, undo: str, finding: str
) -> None:
    server.execute(statement.format(database=database))
    try:
        assert finding in findings(estate)
    finally:
        server.execute(undo.format(database=database))
    assert findings(estate) == ""


@pytest.mark.parametrize("setting", ["synchronous_commit = remote_apply", "default_transaction_read_only = false"])
def test_a_setting_of_a_role_that_loses_nothing_is_none(estate: Estate, server: Server, setting: str) -> None:
    server.execute(f"ALTER ROLE {ROLE} SET {setting}")
    try:
        assert findings(estate) == ""
    finally:
        server.execute(f"ALTER ROLE {ROLE} RESET ALL")


def test_foreign_keys_whose_triggers_are_disabled_are_a_finding(estate: Estate, server: Server, database: str) -> None:
    server.execute("ALTER TABLE app.owners DISABLE TRIGGER ALL", database=database)
    assert "not from our files: constraint app.owners.pets_owner is not enforced by its triggers" in findings(estate)


def test_a_role_that_is_no_service_s_is_told(estate: Estate) -> None:
    estate.on_target("GRANT SELECT ON app.owners TO swarm_tickets; GRANT USAGE ON SCHEMA app TO swarm_tickets")
    result = look(estate)
    assert result["findings"] == []
    told = "Role swarm_tickets is no service of the estate and has rights of its own: app.owners, schema app"
    assert told in result["information"]


@pytest.mark.promise("overruled-setting-named")
def test_settings_that_were_overruled_are_findings(estate: Estate) -> None:
    setting = {"name": "work_mem", "wanted": "4MB", "found": "1MB", "source": "/x/postgresql.auto.conf"}
    result = look(estate, overruled_settings=[setting])
    assert [finding["where"] for finding in result["findings"]] == ["setting work_mem"]
    assert (
        "1MB, from /x/postgresql.auto.conf, and the role postgres_config has set 4MB" in result["findings"][0]["what"]
    )


def test_a_table_that_is_no_group_s_cannot_be_watched(estate: Estate) -> None:
    result = look(estate, unwritten_tables=["app.owners", "app.owner"])
    assert [finding["where"] for finding in result["findings"]] == ["validation_unwritten_tables: app.owner"]


def test_a_role_that_is_not_there_is_a_finding(estate: Estate) -> None:
    estate.group = replace(estate.group, services=(replace(estate.group.services[0], database_role="nobody_there"),))
    assert "role nobody_there: it does not exist in PostgreSQL" in findings(estate)


@pytest.mark.promise("server-compared-with-inventory")
def test_a_server_that_may_lose_commits_is_a_finding(estate: Estate, server: Server) -> None:
    with estate.connection.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        (name,) = cursor.fetchone() or ("",)
        cursor.execute("SET synchronous_commit = off")
    estate.connection.commit()
    assert name
    result = validate_database.validate(estate.connection, [estate.group], 48)
    assert [finding["where"] for finding in result["findings"]] == ["setting fsync", "setting synchronous_commit"]


def test_without_a_ledger_the_next_step_is_named(connection: Connection) -> None:
    with pytest.raises(MigrationError, match=r"1_infrastructure\.yml"):
        validate_database.validate(connection, [], 48)


# ---------------------------------------------------------------- backups


def test_where_no_backup_was_ever_taken_that_is_only_said(estate: Estate) -> None:
    result = look(estate)
    assert result["findings"] == []
    assert "No backup of PostgreSQL has been taken yet" in result["information"][0]


def test_the_newest_proven_backup_counts(estate: Estate) -> None:
    backup(estate, "old", 47, verified=True)
    backup(estate, "new", 1, verified=False)
    result = look(estate)
    assert result["findings"] == []
    assert result["backup"]["newest_verified"] == "old"
    assert "The newest backup that was proven to restore: backup old, taken at 20" in result["information"][0]


@pytest.mark.promise("old-backup-is-a-finding")
def test_a_proven_backup_that_is_too_old_is_a_finding(estate: Estate) -> None:
    backup(estate, "old", 49, verified=True)
    backup(estate, "new", 1, verified=False)
    assert "backups of PostgreSQL: the newest that was proven to restore is backup old" in findings(estate)
    assert look(estate, backup_max_age_hours=50)["findings"] == []


@pytest.mark.promise("old-backup-is-a-finding")
def test_a_first_backup_has_time_to_be_proven_and_no_more(estate: Estate) -> None:
    backup(estate, "first", 1, verified=False)
    assert look(estate)["findings"] == []
    backup(estate, "before", 49, verified=False)
    assert "backups of PostgreSQL: none was ever proven to restore: 48 hours are allowed" in findings(estate)


def test_before_the_first_cutover_no_backup_is_too_old(estate: Estate) -> None:
    backup(estate, "old", 1000, verified=True)
    estate.on_target("UPDATE migration.cutover_group SET state = 'rehearsed'")
    shut(estate)
    assert look(estate)["findings"] == []


@pytest.mark.promise("no-write-before-cutover", "server-compared-with-inventory")
def test_a_role_that_may_write_before_its_cutover_is_found(estate: Estate) -> None:
    assert findings(estate) == ""
    estate.on_target("UPDATE migration.cutover_group SET state = 'rolled_back'")
    assert f"too much: {ROLE}: INSERT on app.pets" in findings(estate)
    shut(estate)
    assert findings(estate) == ""
    estate.on_target("UPDATE migration.cutover_group SET state = 'live'")
    assert f"missing: {ROLE}: INSERT on app.pets" in findings(estate)


# ---------------------------------------------------------------- services


class _Health(http.server.BaseHTTPRequestHandler):
    """Answers every request with the status in its path."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """The address of something that answers as a service does."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Health) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{service.server_port}"
        service.shutdown()


@pytest.mark.promise("services-asked")
@pytest.mark.parametrize(("path", "finding"), [("/200", ""), ("/503", "answers with status 503"), ("", "not answer")])
def test_each_service_is_asked_for_its_health(estate: Estate, address: str, path: str, finding: str) -> None:
    url = f"{address}{path}" if path else "http://127.0.0.1:1/health"
    group = replace(estate.group, services=(replace(estate.group.services[0], health_url=url),))
    answers, problems = validate_services.look_at_services(group, "live")
    assert finding in answers[0]["shortcoming"]
    assert bool(finding) is bool(problems)


# Connects to PostgreSQL as a service does, and stays.
CONNECT = "import psycopg2, sys; c = psycopg2.connect(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"


IDLE = "import sys; print('ready', flush=True); sys.stdin.read()"
HOLD = "import sys; file = open(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
WITH_OTHER_SETTINGS = f"import os, sys; os.execve(sys.executable, [sys.executable, '-c', {IDLE!r}], {{'PGHOST': 'x'}})"


@contextmanager
def process(code: str, *arguments: str) -> Iterator[int]:
    """A process of its own, for as long as the block runs."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        try:
            yield running.pid
        finally:
            running.communicate()


@pytest.mark.promise("services-asked")
@pytest.mark.parametrize("look", ["the daily check", "the validation"])
def test_only_a_session_of_its_own_process_shows_that_a_service_uses_postgresql(
    estate: Estate, server: Server, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    """A session of the role that somebody else has opened does not count, for whoever looks."""
    login = replace(server.superuser, database=estate.connection.info.dbname, user=ROLE)
    dsn = f"host={login.host} port={login.port} dbname={login.database} user={ROLE} password={PASSWORD}"
    (tmp_path / ".env").write_text(f"PGHOST={login.host}\n")
    user = pwd.getpwuid(os.geteuid()).pw_name
    service = replace(
        estate.group.services[0], user=user, directory=str(tmp_path), health_url=f"{address}/200", database_role=ROLE
    )
    group = replace(estate.group, services=(service,))
    pids: list[int] = []
    listed = lambda _: [Process(service.name, pid, "online", 0, frozenset()) for pid in pids]  # noqa: E731
    monkeypatch.setattr(Pm2, "processes", listed)
    monkeypatch.setattr(Pm2, "problem", lambda _: None)

    def wrong() -> str:
        if look == "the daily check":
            return "; ".join(soak_check.services_failures(estate.connection, group))
        answers = [{"name": service.name, "shortcoming": ""}]
        findings, warnings = validate_services.find_strays(estate.connection, group, answers, True)
        return "; ".join([*(problem.what for problem in findings), *warnings])

    with process(IDLE) as without, process(CONNECT, dsn) as with_session:
        # The role has a session, and it is not the service's.
        pids[:] = [without]
        assert wrong()
        pids[:] = [with_session]
        assert "may not see where the sessions" in wrong()
        server.execute("GRANT pg_read_all_stats TO swarm_migrator")
        try:
            assert wrong() == ""
            pids[:] = [with_session, without]
            assert f"comes from its process {without}: it uses another store" in wrong()
            pids[:] = [without]
            assert f"comes from its process {without}: it uses another store" in wrong()
        finally:
            server.execute("REVOKE pg_read_all_stats FROM swarm_migrator")


@pytest.mark.promise("services-asked")
@pytest.mark.parametrize(
    ("what", "code", "settings", "was_proven", "query_url", "is_finding"),
    [
        ("idle", IDLE, "PGHOST=localhost\n", True, "", False),
        ("not proven at its cutover", IDLE, "PGHOST=localhost\n", False, "", True),
        ("its query_url answers", IDLE, "PGHOST=localhost\n", True, "/200", True),
        ("its settings are those of SQLite", IDLE, "PORT=1\n", True, "", True),
        ("its variables beat them", WITH_OTHER_SETTINGS, "PGHOST=localhost\n", True, "", True),
        ("it has the SQLite file open", HOLD, "PGHOST=localhost\n", True, "", True),
    ],
)
def test_an_idle_service_is_a_warning_unless_something_speaks_for_another_store(
    estate: Estate,
    server: Server,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    code: str,
    settings: str,
    was_proven: bool,
    query_url: str,
    is_finding: bool,
) -> None:
    (tmp_path / ".env").write_text(settings)
    service = replace(
        estate.group.services[0],
        user=pwd.getpwuid(os.geteuid()).pw_name,
        directory=str(tmp_path),
        health_url=f"{address}/200",
        query_url=f"{address}{query_url}" if query_url else "",
    )
    group = replace(estate.group, services=(service,))
    monkeypatch.setattr(Pm2, "problem", lambda _: None)
    with process(code, str(estate.source)) as pid:
        monkeypatch.setattr(Pm2, "processes", lambda _: [Process(service.name, pid, "online", 0, frozenset())])
        answers = [{"name": service.name, "shortcoming": ""}]
        findings, warnings = validate_services.find_strays(estate.connection, group, answers, was_proven)
    assert (len(findings), len(warnings)) == (int(is_finding), int(not is_finding)), what
    said = findings[0].what if is_finding else warnings[0]
    assert f"no session of role {service.database_role} on the server comes from its process {pid}" in said
    if not is_finding:
        assert "'query_url' of the service in estate_cutover_groups" in said


def test_a_process_that_has_the_frozen_file_open_is_a_finding(estate: Estate, address: str) -> None:
    group = replace(estate.group, services=(replace(estate.group.services[0], health_url=f"{address}/200"),))
    code = "import sys; file = open(sys.argv[1]); print(1, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(estate.source)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        for state, expected in (("live", 1), ("rehearsed", 0)):
            _, problems = validate_services.look_at_services(group, state)
            assert len(problems) == expected
            assert all(str(holder.pid) in problem.what for problem in problems)
        holder.communicate()
