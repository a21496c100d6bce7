"""A managed server: after one script of an administrator with CREATEDB and CREATEROLE no phase asks for another right.

The roles are those that the script has made, and nobody else has made anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.filter import postgres_install as install
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback import rollback
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation import group as validate
from scripts.throwaway_postgres import throwaway_postgres
from tests.backup.conftest import usual_settings, write
from tests.conftest import MIGRATOR, OWNER, PASSWORD, SERVICES
from tests.cutover.test_services import Estate, estate
from tests.engine.support import query
from tests.postgres.test_managed_server import run

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

__all__ = ["estate"]

DATABASE = "swarm"
PASSWORDS = dict.fromkeys((MIGRATOR, *SERVICES), PASSWORD)
LIMITS = {"statement_timeout": "60s", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "60s"}
ROLES: list[dict[str, Any]] = [
    {"name": OWNER, "login": False, "connection_limit": -1, "configuration": {}},
    {"name": MIGRATOR, "login": True, "connection_limit": 10, "configuration": {"log_statement": "none"}},
    *({"name": name, "login": True, "connection_limit": 7, "configuration": LIMITS} for name in SERVICES),
]
SETTINGS = {"owner": OWNER, "migrator": MIGRATOR, "database": DATABASE, "extensions": ["plpgsql"]}


@pytest.fixture(scope="module")
def superuser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    """The provider's own login, to a server on which only the script was run."""
    with throwaway_postgres(PASSWORD) as server:
        with closing(connect(server.superuser)) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE ROLE keeper LOGIN CREATEDB CREATEROLE PASSWORD '{PASSWORD}'")
            connection.commit()
        script = install.postgres_managed_script(ROLES, PASSWORDS, SETTINGS)
        run(replace(server.superuser, user="keeper"), script, tmp_path_factory.mktemp("script"))
        yield replace(server.superuser, database=DATABASE)


@pytest.fixture
def login(superuser: Login) -> Login:
    """The migrator's login, acting as the owner."""
    return replace(superuser, user=MIGRATOR, password=PASSWORD, session_role=OWNER)


@pytest.fixture
def connection(login: Login) -> Iterator[Connection]:
    """A connection as the migrator, acting as the owner."""
    with closing(connect(login)) as connection:
        yield connection


@pytest.mark.promise("managed-server-one-script")
def test_the_phases_and_the_way_back_ask_for_no_further_right(
    estate: Estate, login: Login, superuser: Login, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The schema was made and the group rehearsed; now it moves, and its service writes.
    estate.pm2.behave("write")
    assert estate.move()["changed"]
    assert estate.state() == "live"
    # A backup, which a restore into a scratch database proves.
    settings = usual_settings(tmp_path / "backups", login)
    backup = write(tmp_path / "settings.json", settings, superuser, capsys)
    backup.run("run")
    assert query(estate.connection, "SELECT bool_or(verified_at IS NOT NULL) FROM migration.backup") == [(True,)]
    # The validation.
    validated = validate.validate(connection=estate.connection, group=estate.group)
    assert validated["findings"] == []
    # A restore of the whole database, with the service's sessions on it.
    (name,) = backup.names()
    backup.run("restore", name)
    estate.connection.close()
    # And the way back.
    rolled_back = rollback.roll_back(login, estate.group, estate.settings, options=estate.options)
    assert rolled_back["state"] == "rolled_back"
    assert estate.notes() == ["a", "on postgresql"]
