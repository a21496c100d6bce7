"""The sample services answer alike on SQLite and on PostgreSQL.

Each service is started once on each store, for all tests but those that stop one. What the stores hold at first is
looked at by the first tests; the later ones change rows.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connect
from scripts.throwaway_postgres import free_port
from tests.library_container import NODE_MODULES

from .conftest import Estate, connection_variables, migrate

if TYPE_CHECKING:
    from pathlib import Path

    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login

HEALTH_ROWS = {"swarm-registry": 3, "swarm-deploy": 60, "swarm-tickets": 2, "swarm-platform": 2}
PATHS = {
    "swarm-registry": ("/agents", "/workflows"),
    "swarm-deploy": ("/deployments",),
    "swarm-tickets": ("/attempts",),
    "swarm-platform": ("/users",),
}


def without_ids(value: Any) -> Any:
    """Return an answer without its ids, which differ between the stores, and lists in an order that ignores them."""
    if isinstance(value, dict):
        return {key: without_ids(entry) for key, entry in value.items() if key != "id" and not key.endswith("_id")}
    if isinstance(value, list):
        return sorted((without_ids(entry) for entry in value), key=repr_of_sorted_keys)
    return value


def repr_of_sorted_keys(value: Any) -> str:
    """Return a text that is the same for equal JSON values."""
    return repr(sorted(value.items(), key=str)) if isinstance(value, dict) else repr(value)


def store_of(estate: Estate) -> str:
    """Return the name of the store that the services of an estate use."""
    return "postgresql" if estate.environment else "sqlite"


def test_the_default_inventory_moves_every_table_of_the_sample(estate: Path, schema_database: Login) -> None:
    tables = migrate(schema_database, estate)
    assert len(tables) == 17
    assert all(table["equal"] for table in tables.values())
    assert sum(int(str(table["target_rows"])) for table in tables.values()) == 372
    assert not any(table["rejected_rows"] for table in tables.values())


@pytest.mark.parametrize("name", HEALTH_ROWS)
def test_health_names_the_store_and_counts_rows(either_estate: Estate, name: str) -> None:
    answer = either_estate.running(name).get("/health")
    assert answer == {"status": "ok", "service": name, "store": store_of(either_estate), "rows": HEALTH_ROWS[name]}


def test_both_stores_answer_alike(sqlite_estate: Estate, postgresql_estate: Estate) -> None:
    for name, paths in PATHS.items():
        one, other = sqlite_estate.running(name), postgresql_estate.running(name)
        for path in paths:
            assert without_ids(one.get(path)) == without_ids(other.get(path))


def test_times_and_booleans_are_told_in_one_format(either_estate: Estate) -> None:
    registry = either_estate.running("swarm-registry")
    workflows = {workflow["name"]: workflow for workflow in registry.get("/workflows")["workflows"]}
    assert workflows["weekly-report"]["created_at"] == "2025-12-15T13:00:00.000Z"
    assert workflows["release"]["created_at"] == "2025-12-15T12:00:00.250Z"
    assert [workflows[name]["enabled"] for name in ("weekly-report", "release")] == [True, False]
    assert workflows["weekly-report"]["variables"] == 5


def test_an_agent_is_registered_read_and_removed(either_estate: Estate) -> None:
    registry = either_estate.running("swarm-registry")
    agent = {"name": "probe", "version": "1.0.0", "path": "/opt/agents/probe", "tags": ["ünïcode", "'quotes'"]}
    status, created = registry.request("POST", "/agents", agent)
    assert (status, created["tags"], created["runtime"]) == (201, agent["tags"], "node")
    assert registry.request("POST", "/agents", agent)[0] == 409
    assert registry.get(f"/agents/{created['id']}") == created
    assert registry.request("DELETE", f"/agents/{created['id']}")[0] == 200
    assert registry.request("GET", f"/agents/{created['id']}")[0] == 404
    assert len(registry.get("/agents")["agents"]) == 3


def test_rows_are_changed_and_say_so(either_estate: Estate) -> None:
    registry, deploy, tickets = (either_estate.running(f"swarm-{name}") for name in ("registry", "deploy", "tickets"))
    forge = next(agent["id"] for agent in registry.get("/agents")["agents"] if agent["name"] == "forge")
    deployment, attempt = deploy.get("/deployments")["deployments"][0], tickets.get("/attempts")["attempts"][0]
    for service, path, changes in (
        (registry, f"/agents/{forge}", {"description": 'it\'s "new"\n', "tags": ["ünïcode"]}),
        (deploy, f"/deployments/{deployment['id']}", {"status": "rolled_back", "rollback_reason": None}),
        (tickets, f"/attempts/{attempt['id']}", {"status": "passed", "static_result": {"score": 0.1}}),
    ):
        before = service.get(path)
        status, after = service.request("PATCH", path, changes)
        assert (status, service.get(path)) == (200, after)
        assert {**after, "updated_at": None} == {**before, **changes, "updated_at": None}
        assert service.request("PATCH", path, {"id": "another"})[0] == 400
        assert service.request("PATCH", f"{path}0", changes)[0] == 404


def test_an_agent_with_executions_stays(either_estate: Estate) -> None:
    registry = either_estate.running("swarm-registry")
    agents = {agent["name"]: agent["id"] for agent in registry.get("/agents")["agents"]}
    assert registry.request("DELETE", f"/agents/{agents['forge']}")[0] == 409


def test_a_workflow_runs_and_its_run_is_removed(either_estate: Estate) -> None:
    registry = either_estate.running("swarm-registry")
    status, run = registry.request("POST", "/workflows/weekly-report/runs", {"trigger_data": {"by": "test"}})
    assert (status, run["status"], run["trigger_data"]) == (201, "completed", {"by": "test"})
    steps = {step["step_id"]: (step["agent_name"], step["agent_version"]) for step in run["steps"]}
    assert steps == {"collect": ("echo", "1.1.0"), "write": ("forge", "1.2.0")}
    assert registry.request("POST", f"/workflows/{run['workflow_id']}/runs")[0] == 201
    assert registry.get(f"/runs/{run['id']}") == run
    assert registry.request("DELETE", f"/runs/{run['id']}")[0] == 200
    assert registry.request("GET", f"/runs/{run['id']}")[0] == 404
    assert registry.request("POST", "/workflows/release/runs")[0] == 409
    assert registry.request("POST", "/workflows/unknown/runs")[0] == 404


def test_a_deployment_is_recorded_with_new_event_ids(either_estate: Estate) -> None:
    deploy = either_estate.running("swarm-deploy")
    body = {"service": "swarm-registry", "commit_sha": "0" * 40, "triggered_by": "test"}
    status, created = deploy.request("POST", "/deployments", body)
    assert (status, created["status"]) == (201, "success")
    # 201 to 203 were given out once and deleted.
    assert [event["id"] for event in created["events"]] == [204, 205, 206, 207]
    assert deploy.get(f"/deployments/{created['id']}") == created
    assert len(deploy.get("/deployments")["deployments"]) == 61
    assert deploy.request("DELETE", f"/deployments/{created['id']}")[0] == 200
    assert deploy.request("DELETE", f"/deployments/{created['id']}")[0] == 404


@pytest.mark.parametrize("name", ["swarm-tickets", "swarm-platform"])
def test_a_user_logs_in_by_password_only(either_estate: Estate, name: str) -> None:
    service = either_estate.running(name)
    status, user = service.request(
        "POST", "/login", {"email": "admin@example.org", "password": "sample-admin-password"}
    )
    assert (status, user["role"]) == (200, "admin")
    assert user["last_login"] > "2026"
    assert not {"password", "password_hash"} & set(user)
    for email, password in (("admin@example.org", "wrong"), ("nobody@example.org", "sample-admin-password")):
        assert service.request("POST", "/login", {"email": email, "password": password})[0] == 401
    assert service.request("POST", "/login", {"email": "admin@example.org"})[0] == 400


def test_tickets_and_platform_see_the_same_rows(either_estate: Estate) -> None:
    tickets, platform = either_estate.running("swarm-tickets"), either_estate.running("swarm-platform")
    body = {"ticket_id": "TKT-E452DE50", "branch_name": "ticket/e452de50", "static_result": {"passed": True}}
    status, attempt = tickets.request("POST", "/attempts", body)
    assert (status, attempt["attempt_number"], attempt["static_result"]) == (201, 3, {"passed": True})
    assert platform.get("/dashboard")["counts"]["verification.attempts"] == 4
    assert tickets.request("DELETE", f"/attempts/{attempt['id']}")[0] == 200
    assert platform.get("/dashboard")["counts"]["verification.attempts"] == 3


def test_the_dashboard_counts_what_the_platform_sees(either_estate: Estate) -> None:
    counts = either_estate.running("swarm-platform").get("/dashboard")["counts"]
    own = {"auth.users": 2, "auth.roles": 4, "auth.permissions": 17, "auth.role_permissions": 46}
    assert own.items() <= counts.items()
    assert len(counts) == (17 if store_of(either_estate) == "postgresql" else 5)


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/agents", b"{", 400),
        ("POST", "/agents", b"[1]", 400),
        ("POST", "/agents", {"name": "x"}, 400),
        ("POST", "/agents", b'"' + b"x" * 1100000 + b'"', 413),
        ("GET", "/agents/%ff", None, 400),
        ("GET", "/agents/no-such-agent", None, 404),
        ("GET", "/nowhere", None, 404),
        ("PUT", "/agents", None, 405),
    ],
    ids=[
        "no JSON",
        "an array",
        "keys missing",
        "too long",
        "bad escape",
        "no such row",
        "no such address",
        "no such method",
    ],
)
def test_a_wrong_request_is_told_why(sqlite_estate: Estate, method: str, path: str, body: Any, expected: int) -> None:
    status, answer = sqlite_estate.running("swarm-registry").request(method, path, body)
    assert status == expected
    assert answer["error"]


@pytest.mark.parametrize("signal", ["TERM", "INT"])
def test_a_signal_closes_the_database_cleanly(own_estate: Estate, signal: str) -> None:
    database = own_estate.root / "opt/swarm-platform/data/swarm.db"
    service = own_estate.start("swarm-platform")
    assert service.get("/health")["rows"] == 2
    status, output = service.stop(signal)
    assert (status, output.count("\n")) == (0, 1), output
    # The last one to close a database checkpoints it.
    assert not database.with_name("swarm.db-wal").exists()


def test_a_missing_file_is_not_created(own_estate: Estate) -> None:
    database = own_estate.root / "opt/swarm-registry/registry.db"
    database.unlink()
    process = own_estate.prepare("swarm-registry").run()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert output.startswith("swarm-registry cannot open registry.db")
    assert not database.exists()


def test_health_says_that_the_server_is_gone(own_estate: Estate) -> None:
    url = f"postgresql://nobody:hidden-password@127.0.0.1:{free_port()}/nothing"
    service = own_estate.start("swarm-deploy", DATABASE_URL=url)
    status, answer = service.request("GET", "/health")
    assert (status, answer["store"]) == (503, "postgresql")
    assert "hidden-password" not in service.stop()[1]


def test_a_service_opens_no_more_connections_than_its_pool_may(schema_database: Login, own_estate: Estate) -> None:
    login = schema_database
    url = f"postgresql://{login.user}:{login.password}@{login.host}:{login.port}/{login.database}"
    service = own_estate.start("swarm-registry", DATABASE_URL=url, DATABASE_POOL_SIZE="2")
    assert service.get("/health")["store"] == "postgresql"
    for _ in range(5):
        service.get("/agents")
    with closing(connect(login)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE application_name = 'swarm-registry' AND datname = current_database()"
        )
        row = cursor.fetchone()
    assert row is not None
    assert 1 <= row[0] <= 2


@pytest.mark.parametrize("name", ["swarm-registry", "swarm-deploy"])
def test_only_a_service_on_postgresql_needs_the_library(schema_database: Login, own_estate: Estate, name: str) -> None:
    library = f"{NODE_MODULES}/swarm-shared-db"
    own_estate.run("mv", library, "/srv/hidden")
    try:
        on_sqlite = own_estate.start(name)
        assert on_sqlite.get("/health")["store"] == "sqlite"
        on_sqlite.stop()
        output, _ = own_estate.prepare(name, **connection_variables(schema_database)).run().communicate(timeout=120)
        assert "swarm-shared-db" in output
        assert str(schema_database.password) not in output
    finally:
        own_estate.run("mv", "/srv/hidden", library)
