"""A test of the engine finds its database as if it were a new one, whatever the test before it has done."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Server

from .kept_database import KeptDatabase
from .support import execute, query

# What is more than a schema with all that is in it, rows of the ledger, and what a session has set.
LEFT = (
    "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "GRANT SELECT ON migration.run TO swarm_registry",
    "ALTER TABLE migration.run ADD COLUMN more text",
    "DROP TABLE migration.backup",
    "COMMENT ON SCHEMA migration IS NULL; ALTER SCHEMA migration RENAME TO other",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO swarm_registry",
    "SELECT lo_create(0)",
)


@pytest.fixture
def kept(server: Server, ledger_template: str) -> Iterator[KeptDatabase]:
    made = KeptDatabase(server, ledger_template)
    yield made
    made.drop()


def test_the_same_database_is_handed_on_empty(kept: KeptDatabase) -> None:
    name = kept.take()
    for value in ("first", "second"):
        execute(kept.session, "CREATE SCHEMA app; CREATE TABLE app.t (v text); SET search_path = app")
        execute(kept.session, "CREATE TEMPORARY TABLE staged (v text); SELECT pg_advisory_lock(1)")
        execute(
            kept.session,
            "INSERT INTO migration.run (group_name, kind, started_at, report) VALUES (%s, '', now(), '{}')",
            value,
        )
        assert query(kept.session, "SELECT id, group_name FROM migration.run") == [(1, value)]
        kept.give_back()
        assert kept.take() == name
        assert query(kept.session, "SELECT current_setting('search_path'), current_user::text") == [
            ('"$user", public', "swarm_owner")
        ]
        assert query(kept.session, "SELECT FROM pg_locks WHERE locktype = 'advisory'") == []


@pytest.mark.parametrize("statement", LEFT)
def test_a_database_that_was_changed_is_not_handed_on(kept: KeptDatabase, statement: str) -> None:
    name = kept.take()
    execute(kept.session, statement)
    kept.give_back()
    assert kept.take() != name


def test_settings_of_the_database_and_the_driver_are_not_handed_on(kept: KeptDatabase, server: Server) -> None:
    leave: tuple[Callable[[], object], ...] = (
        lambda: server.execute(f"ALTER DATABASE {kept.name} SET search_path = elsewhere"),
        lambda: server.execute(f"REVOKE TEMPORARY ON DATABASE {kept.name} FROM PUBLIC"),
        lambda: kept.session.set_session(readonly=True),
        lambda: kept.session.close(),
    )
    for change in leave:
        name = kept.take()
        change()
        kept.give_back()
        assert kept.take() != name
        assert query(kept.session, "SELECT 1") == [(1,)]
