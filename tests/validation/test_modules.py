"""The modules as Ansible calls them: arguments, check mode, and failures that a person can act on."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connected
from tests.conftest import PLUGINS, PROJECT

from .support import GROUP, Estate

if TYPE_CHECKING:
    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login

CHECK = {
    "name": "Agent registration works",
    "steps": [{"name": "Register", "method": "POST", "url": "http://127.0.0.1:1/agents", "body": {"name": "x"}}],
}


def call(
    capsys: pytest.CaptureFixture[str], module: str, arguments: dict[str, Any], check_mode: bool = False
) -> dict[str, Any]:
    """Run a module and return what it prints."""
    with patch_module_args({**arguments, "_ansible_check_mode": check_mode}), pytest.raises(SystemExit):
        importlib.import_module(f"{PLUGINS}.modules.{module}").main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def login_arguments(login: Login) -> dict[str, Any]:
    """Return a login as module arguments."""
    return {
        "login_host": login.host,
        "login_port": login.port,
        "login_db": login.database,
        "login_user": login.user,
        "login_password": login.password,
        "session_role": login.session_role,
    }


@pytest.fixture
def arguments(live_estate: Estate, login: Login) -> dict[str, Any]:
    """Return the arguments of validate_group for an estate that was cut over."""
    group = {**GROUP, "source": {"path": str(live_estate.source)}}
    return {"groups": [group], "work_directory": live_estate.work, **login_arguments(login)}


def plan_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the same for sqlite_cleanup."""
    return {**arguments, "legacy_files": []}


def database_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the same for validate_database."""
    return {key: value for key, value in arguments.items() if key != "work_directory"}


def unreachable(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return arguments that lead to a port where nobody listens."""
    return {**arguments, "login_port": 1}


@pytest.mark.parametrize("check_mode", [False, True])
def test_validate_group_compares_in_check_mode_too(
    capsys: pytest.CaptureFixture[str], arguments: dict[str, Any], check_mode: bool
) -> None:
    result = call(capsys, "validate_group", {**arguments, "ask_services": False}, check_mode)
    assert result["changed"] is False
    (validation,) = result["validations"]
    assert validation["valid"] is True
    assert len(validation["tables"]) == 2


def test_validate_group_compares_every_group_in_one_call(
    capsys: pytest.CaptureFixture[str], arguments: dict[str, Any]
) -> None:
    groups = [*arguments["groups"], {**arguments["groups"][0], "name": "unknown"}]
    result = call(capsys, "validate_group", {**arguments, "groups": groups, "ask_services": False})
    assert [(found["group"], found["state"]) for found in result["validations"]] == [
        (GROUP["name"], "live"),
        ("unknown", "pending"),
    ]


def test_validate_group_says_once_what_stops_every_group(
    capsys: pytest.CaptureFixture[str], arguments: dict[str, Any]
) -> None:
    groups = [*arguments["groups"], {**arguments["groups"][0], "name": "other"}]
    one = call(capsys, "validate_group", unreachable(arguments))
    both = call(capsys, "validate_group", unreachable({**arguments, "groups": groups}))
    assert both["failed"] is True
    assert (both["msg"], both["problems"]) == (one["msg"], one["problems"])


def test_validate_group_without_a_server(capsys: pytest.CaptureFixture[str], arguments: dict[str, Any]) -> None:
    dry = call(capsys, "validate_group", unreachable(arguments), check_mode=True)
    assert dry["validations"][0]["basis"] == "Nothing was compared: there is no server yet"
    real = call(capsys, "validate_group", unreachable(arguments))
    assert real["failed"] is True
    assert real["problems"][0]["fix"]


def test_validate_group_with_a_wrong_password(capsys: pytest.CaptureFixture[str], arguments: dict[str, Any]) -> None:
    wrong = "not-the-password"
    for check_mode in (False, True):
        result = call(capsys, "validate_group", {**arguments, "login_password": wrong}, check_mode)
        assert result["failed"] is True
        assert "postgres_role_passwords" in result["msg"]
        assert wrong not in json.dumps(result)


def test_validate_group_with_a_group_that_is_none(
    capsys: pytest.CaptureFixture[str], arguments: dict[str, Any]
) -> None:
    result = call(capsys, "validate_group", {**arguments, "groups": [{"name": "zoo"}]})
    assert result["failed"] is True
    assert "'path' is missing" in result["msg"]


@pytest.mark.parametrize("check_mode", [False, True])
def test_validate_database_looks_in_check_mode_too(
    capsys: pytest.CaptureFixture[str], arguments: dict[str, Any], check_mode: bool
) -> None:
    result = call(capsys, "validate_database", database_arguments(arguments), check_mode)
    assert result["changed"] is False
    assert result["validation"]["server"]["version"]


def test_validate_database_without_a_server(capsys: pytest.CaptureFixture[str], arguments: dict[str, Any]) -> None:
    dry = call(capsys, "validate_database", unreachable(database_arguments(arguments)), check_mode=True)
    assert dry["validation"]["information"] == ["Nothing was looked at: there is no server yet"]
    assert dry["validation"]["findings"] == []
    real = call(capsys, "validate_database", unreachable(database_arguments(arguments)))
    assert real["failed"] is True
    assert real["problems"][0]["fix"]


@pytest.mark.promise("validation-only-reads")
def test_the_server_itself_refuses_to_write_for_a_validation(login: Login) -> None:
    with connected(login, read_only=True) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW transaction_read_only")
        assert cursor.fetchone() == ("on",)
        connection.commit()
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            cursor.execute("CREATE TABLE written (a integer)")
    for module in ("validate_group", "validate_database"):
        source = (PROJECT / "plugins" / "modules" / f"{module}.py").read_text(encoding="utf-8")
        assert source.count("connected(login") == source.count("connected(login, read_only=True)") == 1


def test_cleanup_plan_changes_nothing(capsys: pytest.CaptureFixture[str], arguments: dict[str, Any]) -> None:
    results = [call(capsys, "sqlite_cleanup", plan_arguments(arguments), check_mode) for check_mode in (False, True)]
    assert results[0]["plan_id"] == results[1]["plan_id"]
    assert [result["changed"] for result in results] == [False, False]


def test_cleanup_plan_without_a_server(capsys: pytest.CaptureFixture[str], arguments: dict[str, Any]) -> None:
    dry = call(capsys, "sqlite_cleanup", unreachable(plan_arguments(arguments)), check_mode=True)
    assert "the ledger cannot be read: there is no server yet" in dry["entries"][0]["unmet"]
    assert call(capsys, "sqlite_cleanup", unreachable(plan_arguments(arguments)))["failed"] is True


def test_http_checks_send_nothing_in_check_mode(capsys: pytest.CaptureFixture[str]) -> None:
    dry = call(capsys, "http_checks", {"checks": [CHECK], "secrets": {}}, check_mode=True)
    assert [entry["result"] for entry in dry["results"]] == ["not run"]
    real = call(capsys, "http_checks", {"checks": [CHECK], "secrets": {}})
    assert [entry["result"] for entry in real["results"]] == ["failed"]
    assert "failed" not in real
