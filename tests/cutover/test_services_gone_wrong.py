"""What a run does about services, pm2 and settings that are not as they should be, under the small pm2.

Each case stands for one on a host, which is a long search: the table is in tests/README.md.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import write_protection
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback import rollback
from scripts.loaded_ansible import LoadedAnsible
from tests.conftest import PASSWORD, PROJECT, environment_of_ansible
from tests.engine.support import execute, query, rehearse

from .test_services import Estate, database, estate

__all__ = ["database", "estate"]

pytestmark = pytest.mark.usefixtures("no_older_processes")


def roll_back(estate: Estate, **settings: Any) -> dict[str, Any]:
    """Run the rollback as the module does."""
    result: dict[str, Any] = rollback.roll_back(
        estate.login, estate.group, replace(estate.settings, **settings), options=estate.options
    )
    return result


def env_of(estate: Estate) -> str:
    """Return the settings of the service."""
    return (estate.pm2.place / ".env").read_text()


def assert_as_before(estate: Estate, notes: tuple[str, ...] = ("a",)) -> None:
    """See that the service runs on SQLite as if nothing had been tried."""
    estate.ask("/health")
    assert (estate.state(), env_of(estate), estate.notes()) == ("rehearsed", "PORT=1\n", list(notes))
    assert not write_protection.is_protected(estate.source)


# ---------------------------------------------------------------- before anything stops


@pytest.mark.promise("checked-before-services-stop", "every-process-moves")
@pytest.mark.parametrize(
    ("spoil", "settings", "said"),
    [
        pytest.param(
            lambda pm2: None,
            {"role_passwords": {"swarm_registry": "not-the-password"}},
            'password authentication failed for user "swarm_registry"',
            id="wrong password",
        ),
        pytest.param(
            lambda pm2: setattr(pm2, "instances", 6),
            {},
            "it starts 6 processes, and the service's pool_size is 5",
            id="more processes than connections",
        ),
        pytest.param(
            lambda pm2: setattr(pm2, "variables", ("NODE_ENV", "PGHOST")),
            {},
            "env.PGHOST: it would beat the value in .env",
            id="a variable that pm2 hands over",
        ),
        pytest.param(
            lambda pm2: setattr(pm2, "has_no_daemon", True), {}, "its daemon does not run", id="pm2 does not run"
        ),
    ],
)
def test_what_would_fail_the_cutover_is_refused_before_the_stop(
    estate: Estate, spoil: Callable[[Any], None], settings: dict[str, Any], said: str
) -> None:
    spoil(estate.pm2)
    with pytest.raises(MigrationError, match="nothing was stopped") as refused:
        estate.move(**settings)
    assert said in str(refused.value)
    assert "not-the-password" not in str(refused.value)
    assert estate.pm2.starts == 1
    assert_as_before(estate)


def test_settings_of_two_services_in_one_file_are_refused_before_the_stop(estate: Estate) -> None:
    (service,) = estate.group.services
    with pytest.raises(MigrationError, match=r"\.env: several services name it as their env_file"):
        estate.move(replace(estate.group, services=(service, replace(service, name="second"))))
    assert_as_before(estate)


def test_names_that_the_estate_does_not_have_are_refused_by_the_rollback(
    tmp_path: Path, ansible: LoadedAnsible
) -> None:
    """The role's own first two tasks."""
    refusals = yaml.safe_load((PROJECT / "roles/service_env/tasks/rollback.yml").read_text())[:2]

    def run(**variables: Any) -> str:
        given = {"service_env_groups": [{"name": "registry"}, {"name": "deploy"}], **variables}
        playbook = tmp_path / "play.json"
        playbook.write_text(
            json.dumps([{"hosts": "localhost", "gather_facts": False, "vars": given, "tasks": refusals}])
        )
        command = ["ansible-playbook", "-i", "localhost,", "-c", "local", str(playbook)]
        status, output, errors = ansible.run(command, environment_of_ansible())
        assert status != 0
        return re.sub(r"\s+", " ", output + errors)

    assert "names registri; the estate's cutover groups are registry, deploy" in run(
        __service_env_names=["registri"], service_env_rollback_lose_rows=None
    )
    assert "name that group alone" in run(__service_env_names=["registry", "deploy"], service_env_rollback_lose_rows=3)


# ---------------------------------------------------------------- what fails is undone


@pytest.mark.promise("service-proven-on-postgresql", "failed-cutover-back-on-sqlite")
def test_a_service_that_goes_on_with_sqlite_has_not_moved(estate: Estate) -> None:
    estate.pm2.behave("stubborn")
    with pytest.raises(MigrationError) as failed:
        estate.move(health_timeout=3.0)
    assert f"has the SQLite file {estate.source} open" in str(failed.value)
    assert "was undone: its services run on SQLite again" in str(failed.value)
    assert_as_before(estate)


def test_a_pm2_that_does_not_stop_a_service_leaves_it_running(estate: Estate) -> None:
    estate.pm2.refuses_to_delete = True
    try:
        with pytest.raises(MigrationError, match="putting it back on SQLite failed too"):
            estate.move()
        estate.ask("/health")
    finally:
        estate.pm2.refuses_to_delete = False
    roll_back(estate)
    assert_as_before(estate)


# ---------------------------------------------------------------- a group that has moved


def wrong_settings(estate: Estate) -> None:
    """Let the settings of the service name another port of the server."""
    text = re.sub(r"(?m)^PGPORT=.*", "PGPORT=1", env_of(estate))
    (estate.pm2.place / ".env").write_text(text)


@pytest.mark.promise("moved-group-kept-so")
@pytest.mark.parametrize(
    "spoil", [wrong_settings, lambda estate: estate.pm2.delete(["service"])], ids=["wrong settings", "stopped"]
)
def test_a_moved_service_is_started_again_with_the_right_settings(
    estate: Estate, spoil: Callable[[Estate], None]
) -> None:
    estate.move()
    right, starts = env_of(estate), estate.pm2.starts
    assert (estate.move()["changed"], estate.pm2.starts) == (False, starts)
    spoil(estate)
    kept = estate.move()
    assert "started again with the right settings: service." in kept["msg"]
    assert (env_of(estate), estate.pm2.starts) == (right, starts + 1)
    estate.ask("/health")
    assert not estate.move()["changed"]


@contextmanager
def held_connections(estate: Estate, number: int) -> Iterator[None]:
    """Hold so many connections of the service's role, as its pool does."""
    login = replace(estate.login, user="swarm_registry", password=PASSWORD, session_role=None)
    with ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(closing(connect(login)))
        yield


def test_a_live_group_whose_pools_are_full_is_not_refused(estate: Estate) -> None:
    estate.move()
    ((connections,),) = query(estate.connection, "SELECT current_setting('max_connections')::int")
    pool_size = connections - 15
    (service,) = estate.group.services
    estate.group = replace(estate.group, services=(replace(service, pool_size=pool_size),))
    with held_connections(estate, pool_size - 5):
        # Only to tell it the new size of its pool.
        kept = estate.move(estate_connections={"swarm_registry": pool_size})
    assert "started again with the right settings: service" in kept["msg"]
    assert f"DATABASE_POOL_SIZE={pool_size}" in env_of(estate)


# ---------------------------------------------------------------- the rollback


def until(estate: Estate, statement: str) -> None:
    """Wait until a statement finds one row."""
    deadline = time.monotonic() + 60
    while query(estate.connection, statement) != [(1,)]:
        assert time.monotonic() < deadline, statement
        time.sleep(0.05)


@contextmanager
def write_of_a_client_that_is_gone(estate: Estate) -> Iterator[None]:
    """Let the server work on a statement of a service that was killed; when this ends, the row is committed."""
    insert = "import psycopg2, sys; c = psycopg2.connect(sys.stdin.readline()); c.autocommit = True; "
    insert += "c.cursor().execute(\"INSERT INTO app.notes VALUES ('in flight')\")"
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'app.notes'::regclass AND NOT granted"
    login = estate.login
    address = f"host={login.host} port={login.port} dbname={login.database} user=swarm_registry password={PASSWORD}\n"
    with closing(connect(login)) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE app.notes IN SHARE ROW EXCLUSIVE MODE")
        with subprocess.Popen([sys.executable, "-c", insert], stdin=subprocess.PIPE, text=True) as client:
            assert client.stdin is not None
            client.stdin.write(address)
            client.stdin.flush()
            try:
                until(estate, waiting)
            finally:
                client.kill()
        yield


@pytest.mark.promise("acknowledged-write-kept", "rollback-write-lock")
def test_a_row_that_the_server_still_works_on_is_not_left_behind(estate: Estate) -> None:
    estate.move()
    with (
        write_of_a_client_that_is_gone(estate),
        pytest.raises(MigrationError, match=r"the server still works for it 0\.5 seconds after its service"),
    ):
        roll_back(estate, stop_timeout=0.5)
    assert estate.state() == "live"
    until(estate, "SELECT count(*) FROM app.notes WHERE text = 'in flight'")
    roll_back(estate)
    assert estate.notes() == ["a", "in flight"]


@pytest.mark.promise("killed-rollback-healed")
def test_a_service_that_does_not_come_up_on_sqlite_is_started_by_the_next_run(estate: Estate) -> None:
    estate.move()
    execute(estate.connection, "INSERT INTO app.notes VALUES ('on postgresql')")
    estate.pm2.behave("deaf")
    # Else pm2 would start it once more as soon as it has been repaired.
    estate.pm2.most_restarts = 1
    with pytest.raises(MigrationError, match="is rolled back, but its services are not all well on SQLite"):
        roll_back(estate, health_timeout=3.0)
    assert estate.state() == "rolled_back"
    estate.pm2.behave("")
    # SQLite is the store, so it is brought up there before the cutover refuses what was not rehearsed.
    with pytest.raises(MigrationError, match="Rehearse it again"):
        estate.move()
    estate.ask("/health")
    assert estate.notes() == ["a", "on postgresql"]
    assert not roll_back(estate)["changed"]
    rehearse(estate.connection, estate.group, estate.pm2.place)
    estate.move()
    assert estate.state() == "live"
