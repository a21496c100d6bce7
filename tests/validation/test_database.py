"""What all groups share, and the services' own answers: the server, its schema, privileges, backups, health."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible.module_utils.migration import privileges, schema, schema_files, validate_database, validate_services
from ansible.module_utils.migration.errors import MigrationError

from .support import TARGET, Estate, make_estate

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from tests.conftest import Server

ROLE = "swarm_registry"


@pytest.fixture
def estate(connection: Connection, tmp_path: Path) -> Estate:
    """An estate in state live, its tables made by a SQL file, and its service's role with its privileges."""
    schema.apply(connection, schema_files.read_files([{"name": "001_zoo.sql", "content": TARGET}]))
    estate = make_estate(connection, tmp_path, with_target=False)
    service = replace(estate.group.services[0], database_role=ROLE)
    estate.group = replace(estate.group, services=(service,))
    privileges.synchronise(connection, {ROLE: ["app"]}, check_mode=False)
    estate.cut_over()
    return estate


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
    assert result["privileges"] == {"roles": {ROLE: ["app"]}}
    assert result["server"]["version"].startswith("16")
    assert "max_connections" in {setting["name"] for setting in result["server"]["settings"]}
    assert look(estate) == result


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("DROP INDEX app.pets_name", "missing: index CREATE INDEX pets_name"),
        ("ALTER TABLE app.pets DROP CONSTRAINT pets_owner", "missing: constraint app.pets.pets_owner"),
        ("ALTER TABLE app.owners ADD COLUMN by_hand text", "not from our files: column app.owners.by_hand"),
        (f"REVOKE INSERT ON app.pets FROM {ROLE}", f"missing: {ROLE}: INSERT on app.pets"),
        (f"GRANT TRUNCATE ON app.pets TO {ROLE}", f"too much: {ROLE}: TRUNCATE on app.pets"),
        (f"REVOKE USAGE ON SEQUENCE app.pets_id_seq FROM {ROLE}", f"missing: {ROLE}: USAGE on app.pets_id_seq"),
        ("GRANT SELECT ON app.owners TO PUBLIC", "app.owners: every role has SELECT on it"),
    ],
)
def test_what_differs_from_the_files_and_the_inventory_is_a_finding(
    estate: Estate, statement: str, finding: str
) -> None:
    estate.on_target(statement)
    assert finding in findings(estate)


def test_a_service_s_role_with_too_much_power_is_a_finding(estate: Estate, server: Server) -> None:
    server.execute(f"ALTER ROLE {ROLE} CREATEDB CREATEROLE")
    try:
        assert f"role {ROLE}: it has more power than a service needs: rolcreatedb, rolcreaterole" in findings(estate)
    finally:
        server.execute(f"ALTER ROLE {ROLE} NOCREATEDB NOCREATEROLE")


def test_a_role_that_is_not_there_is_a_finding(estate: Estate) -> None:
    estate.group = replace(estate.group, services=(replace(estate.group.services[0], database_role="nobody_there"),))
    assert "role nobody_there: it does not exist in PostgreSQL" in findings(estate)


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


def test_a_proven_backup_that_is_too_old_is_a_finding(estate: Estate) -> None:
    backup(estate, "old", 49, verified=True)
    backup(estate, "new", 1, verified=False)
    assert "backups of PostgreSQL: the newest that was proven to restore is backup old" in findings(estate)
    assert look(estate, backup_max_age_hours=50)["findings"] == []


def test_a_first_backup_has_time_to_be_proven_and_no_more(estate: Estate) -> None:
    backup(estate, "first", 1, verified=False)
    assert look(estate)["findings"] == []
    backup(estate, "before", 49, verified=False)
    assert "backups of PostgreSQL: none was ever proven to restore: 48 hours are allowed" in findings(estate)


def test_before_the_first_cutover_no_backup_is_too_old(estate: Estate) -> None:
    backup(estate, "old", 1000, verified=True)
    estate.on_target("UPDATE migration.cutover_group SET state = 'rehearsed'")
    assert look(estate)["findings"] == []


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


@pytest.mark.parametrize(("path", "finding"), [("/200", ""), ("/503", "answers with status 503"), ("", "not answer")])
def test_each_service_is_asked_for_its_health(estate: Estate, address: str, path: str, finding: str) -> None:
    url = f"{address}{path}" if path else "http://127.0.0.1:1/health"
    group = replace(estate.group, services=(replace(estate.group.services[0], health_url=url),))
    answers, problems = validate_services.look_at_services(group, "live")
    assert finding in answers[0]["shortcoming"]
    assert bool(finding) is bool(problems)


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
