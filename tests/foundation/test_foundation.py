"""States, ledger, inventory and connections."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger, state
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import (
    Login,
    LoginRefused,
    ServerUnreachable,
    connect,
    connected,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import parse_group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.group_detail import (
    GroupDetail,
    changes,
)

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

ESTATE = Path(__file__).parents[2] / "inventory" / "group_vars" / "all" / "estate.yml"

ALLOWED = {
    ("pending", "rehearse"): "rehearsed",
    ("rehearsed", "rehearse"): "rehearsed",
    ("rolled_back", "rehearse"): "rehearsed",
    ("rehearsed", "freeze"): "frozen",
    ("frozen", "freeze"): "frozen",
    ("frozen", "thaw"): "rehearsed",
    ("frozen", "go_live"): "live",
    ("live", "abandon"): "rehearsed",
    ("live", "roll_back"): "rolled_back",
    ("live", "archive"): "archived",
    ("archived", "remove"): "removed",
}
STEPS = sorted({step for _, step in ALLOWED})


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("present", state.STATES)
def test_every_step_from_every_state(present: str, step: str) -> None:
    if (present, step) in ALLOWED:
        assert state.next_state("g", present, step) == ALLOWED[present, step]
    else:
        assert not state.is_allowed(present, step)
        with pytest.raises(MigrationError, match=f"its state is '{present}'"):
            state.next_state("g", present, step)


def test_only_states_before_the_cutover_may_be_loaded_over() -> None:
    assert {name for name in state.STATES if state.is_on_postgresql(name)} == {"live", "archived", "removed"}


def test_the_ledger_keeps_a_group_from_step_to_step(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute(ledger.CREATE_LEDGER)
    assert ledger.read_group(connection, "g", "/a.db").state == "pending"
    ledger.take_step(connection, "g", "rehearse", "/a.db", detail=changes(proven=True))
    ledger.take_step(connection, "g", "freeze", "/a.db", frozen_sha256="abc", detail=changes(baseline={"token": "two"}))
    ledger.take_step(connection, "g", "go_live", "/a.db")
    record = ledger.read_group(connection, "g")
    expected = GroupDetail(proven=True, baseline={"token": "two"})
    assert (record.state, record.frozen_sha256, record.detail) == ("live", "abc", expected)
    assert record.rehearsed_at is not None and record.cutover_at is not None
    with pytest.raises(MigrationError):
        ledger.take_step(connection, "g", "freeze", "/a.db")


@pytest.mark.promise("violation-names-next-step")
def test_a_missing_ledger_says_what_to_run(connection: Connection) -> None:
    assert not ledger.exists(connection)
    with pytest.raises(MigrationError, match=r"playbooks/1_infrastructure\.yml"):
        ledger.require(connection)


def test_the_lock_is_the_sessions_and_ends_with_it(connection: Connection, login: Login) -> None:
    with connected(login) as other:
        with ledger.locked(other, "group a"), ledger.locked(other, "group a"):
            other.rollback()
            with ledger.locked(connection, "group b"):
                pass
            with (
                pytest.raises(MigrationError, match=f"session {other.info.backend_pid} of swarm_migrator"),
                ledger.locked(connection, "group a", wait_seconds=0.1),
            ):
                pytest.fail("the lock was given twice")
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s, hashtext('group a'))", (ledger.LOCK_CLASS,))
    with ledger.locked(connection, "group a", wait_seconds=5):
        pass


def test_the_shipped_estate_is_valid() -> None:
    groups = [parse_group(entry) for entry in yaml.safe_load(ESTATE.read_text())["estate_cutover_groups"]]
    assert [group.name for group in groups] == ["registry", "deploy", "platform"]
    assert sum(len(group.tables) for group in groups) == 17
    assert [service.env_path for service in groups[2].services] == [
        "/opt/swarm-tickets/.env",
        "/opt/swarm-platform/.env",
    ]


@pytest.mark.promise("violations-at-once")
def test_every_mistake_in_the_inventory_is_listed() -> None:
    entry: Any = {
        "name": "shop",
        "source": {"path": "relative.db", "alias": []},
        "tables": [
            {"source": "a", "target": "no_schema", "columns": {"x": {"orphan": "ignore", "secret": "yes"}}},
            {"source": "a", "target": "s.t", "colums": {}},
            "not a mapping",
        ],
        "services": [{"name": "web", "directory": "/opt/../etc", "pool_size": "many"}],
    }
    with pytest.raises(MigrationError) as error:
        parse_group(entry)
    text = str(error.value)
    for part in (
        "unknown key 'alias'",
        "'path' is missing or not valid: 'relative.db'",
        "table a: 'target' is 'no_schema'. Write schema.table with one dot",
        "table a.x: 'orphan' is 'ignore'. Choose one of refuse, as_parent, set_null, reject",
        "table a.x: 'secret' is 'yes'",
        "unknown key 'colums'",
        "is str, not a mapping",
        "'directory' is missing or not valid: '/opt/../etc'",
        "'pool_size' is 'many'",
        "'user' is missing",
        "'schemas' is empty",
        "source table 'a' is named twice",
    ):
        assert part in text


@pytest.mark.promise("no-password-in-output")
def test_a_refused_login_says_why_and_never_the_password(login: Login) -> None:
    wrong = replace(login, password="this-is-wrong")  # noqa: S106 (wrong on purpose)
    with pytest.raises(LoginRefused, match="password authentication failed") as error:
        connect(wrong)
    assert "postgres_role_passwords" in str(error.value)
    assert "this-is-wrong" not in str(error.value) + repr(wrong)


@pytest.mark.promise("violation-names-next-step")
def test_a_missing_database_role_or_server_is_told_apart(login: Login) -> None:
    with pytest.raises(LoginRefused, match='database "nowhere" does not exist'):
        connect(replace(login, database="nowhere"))
    with pytest.raises(LoginRefused, match="cannot act as its owner"):
        connect(replace(login, session_role="postgres"))
    with pytest.raises(ServerUnreachable, match="Check that the server runs"):
        connect(replace(login, port=1))
