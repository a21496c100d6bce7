"""A draft is tried in a scratch database: what the engine refuses stands in it, and nothing is left on the server."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.discovery import (
    reader,
    render,
    scratch,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.discovery.discover import Discovery
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.signals import interruptible
from tests.conftest import MIGRATOR, Server

from .support import NOBODY_UID, holding, look_at, make_database, source_at, state_of

# The second order is of nobody, and two notes have the same text but for what PostgreSQL's text cannot hold.
SCRIPT = """
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, api_token TEXT UNIQUE);
INSERT INTO users VALUES (1, 'ada', 'tok-3141592653'), (2, 'bob', 'tok-2718' || char(0));
CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES users, note TEXT);
INSERT INTO orders VALUES (1, 1, 'fine'), (2, 99, 'two' || char(0) || 'halves');
"""


@pytest.fixture
def creator(server: Server, login: Login) -> Iterator[Login]:
    """The migrator's login, with the right to create databases."""
    server.execute(f"ALTER ROLE {MIGRATOR} CREATEDB")
    yield login
    server.execute(f"ALTER ROLE {MIGRATOR} NOCREATEDB")


def left_behind(login: Login) -> list[str]:
    """Return the scratch databases that are on the server."""
    with closing(connect(login)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE starts_with(datname, 'discovery_try_')")
        return [name for (name,) in cursor.fetchall()]


def tried(root: Path, login: Login, held: Path | None = None) -> Discovery:
    """Return what is found, with drafts that were tried."""
    if held is None:
        return look_at(root, login=login, tries=True)
    with holding(held, directory=root):
        return look_at(root, login=login, tries=True)


@pytest.mark.promise("discover-tries-its-draft", "discover-tells-no-secret")
def test_what_the_engine_refuses_stands_beside_its_answers_and_no_secret_does(tmp_path: Path, creator: Login) -> None:
    path = make_database(tmp_path / "app" / "app.db", SCRIPT)
    before = state_of(path.parent)
    found = tried(tmp_path, creator, path)
    assert {name: state for name, state in state_of(path.parent).items() if not name.endswith("-shm")} == before
    assert left_behind(creator) == []
    written = render.files(found, "here")
    estate = written[render.ESTATE_FILE]
    assert "# refers to a row of users that does not exist (1 row: id=2: 99)." in estate
    assert "          # user_id: {orphan: set_null}\n" in estate
    assert "# note: {nul_character: remove}\n" in estate
    assert "(1 row: id=2: 'two" in estate
    assert "# api_token: {secret: true, nul_character: remove}\n" in estate
    told = {**written, render.ESTATE_FILE: "", "summary": str(render.summary(found))}
    assert "tok-" not in estate + str(told)
    # Of other columns the values stand beside the answers, and nowhere else.
    assert "halves" not in str(told)
    asked = [entry["where"] for entry in render.summary(found)["decisions"]]
    assert {"sql/001_app.sql: orders.user_id", "sql/001_app.sql: orders.note"} <= set(asked)

    # With answers taken, the engine refuses nothing any more.
    for answer in ("user_id: {orphan: set_null}", "note: {nul_character: remove}"):
        estate = estate.replace(f"# {answer}", answer)
    estate = estate.replace("api_token: {secret: true}", "api_token: {secret: true, nul_character: remove}")
    (entry,) = yaml.safe_load(estate)["estate_cutover_groups"]
    source = source_at(found, path)
    assert source.draft is not None
    with scratch.scratch_database(creator) as place, closing(connect(place)) as connection:
        assert scratch.make_tables(connection, {"app": source.draft.sql}) == {}
        arguments = (source.database, os.geteuid(), entry, False, connection, str(tmp_path / "snapshots"), 60)
        assert reader.read_refusals(*arguments) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read as somebody else")
def test_a_trial_reads_with_the_rights_of_the_services_user(creator: Login) -> None:
    # Not below pytest's own directory, which nobody else may enter.
    with tempfile.TemporaryDirectory(prefix="discovery-") as place:
        Path(place).chmod(0o711)
        path = make_database(Path(place) / "app" / "app.db", SCRIPT)
        for mine in (path.parent, path):
            os.chown(mine, NOBODY_UID, NOBODY_UID)
            mine.chmod(0o700)
        with holding(path, directory=path.parent, uid=NOBODY_UID):
            found = look_at(Path(place), login=creator, tries=True)
        source = source_at(found, path)
        assert source.draft is not None
        assert "orphan: set_null" in source.draft.choices["orders"]["user_id"]
        assert "(1 row: id=2: 99)" in str(source.draft.choices["orders"]["user_id"])
        # What only root may read is not tried.
        path.chmod(0)
        path.parent.chmod(0)
        with scratch.scratch_database(creator) as there, closing(connect(there)) as connection:
            arguments = (source.database, NOBODY_UID, source.draft.mapping, True, connection, place, 60)
            with pytest.raises(MigrationError, match=f"user id {NOBODY_UID} cannot read it"):
                reader.read_refusals(*arguments)


@pytest.mark.promise("discover-tries-its-draft")
def test_a_role_that_may_not_create_databases_is_told_before_anything_is_read(tmp_path: Path, login: Login) -> None:
    with pytest.raises(MigrationError, match=f"ALTER ROLE {MIGRATOR} CREATEDB"):
        tried(tmp_path, login)
    with pytest.raises(MigrationError, match="there is no SQL to try"):
        look_at(tmp_path, login=login, tries=True, existing_schemas=("public",))


def may_enter(login: Login) -> bool:
    """Return whether the server lets a login in."""
    with suppress(MigrationError), closing(connect(login)):
        return True
    return False


@contextmanager
def rules_first(server: Server, *lines: str) -> Iterator[None]:
    """Put rules before those of the server's pg_hba.conf, of which the last closes other databases to the migrator."""
    file = server.data / "pg_hba.conf"
    before = file.read_text()

    def use(text: str, opened: bool) -> None:
        file.write_text(text)
        server.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + 120
        while may_enter(closed) is not opened:
            assert time.monotonic() < deadline, "the server has not read its rules again"
            time.sleep(0.05)

    closed = replace(server.superuser, user=MIGRATOR)
    try:
        use("\n".join((*lines, before)), opened=False)
        yield
    finally:
        use(before, opened=True)


@pytest.mark.promise("discover-tries-its-draft")
def test_a_server_that_lets_nobody_into_new_databases_is_told_before_anything_is_read(
    tmp_path: Path, server: Server, creator: Login
) -> None:
    rules = [f"host {creator.database} all all trust", f"host all {MIGRATOR} all reject"]
    with rules_first(server, *rules), pytest.raises(MigrationError) as refused:
        tried(tmp_path, creator)
    assert "may not enter a database that it has made" in str(refused.value)
    assert "postgres_config_hba_extra_rules" in str(refused.value)
    assert left_behind(creator) == []


@pytest.mark.promise("discover-tries-its-draft")
@pytest.mark.parametrize("end", ["failure", "interruption"])
def test_nothing_is_left_on_the_server(creator: Login, end: str) -> None:
    with pytest.raises(MigrationError), interruptible(), scratch.scratch_database(creator) as place:
        assert left_behind(creator) == [place.database]
        with closing(connect(place)):
            if end == "failure":
                raise MigrationError("a failure")
            os.kill(os.getpid(), signal.SIGINT)
            # The signal is dealt with before this ends.
            threading.Event().wait(60)
    assert left_behind(creator) == []


def test_what_a_killed_run_has_left_is_dropped_and_not_what_another_run_uses(server: Server, creator: Login) -> None:
    with (
        scratch.scratch_database(creator) as place,
        closing(connect(place)) as connection,
        connection.cursor() as cursor,
    ):
        what = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"
        cursor.execute(what)
        ((mark,),) = cursor.fetchall()
    killed, used = (f"discovery_try_{sign * 16}" for sign in "ab")
    # Somebody else has made these: one has a name of ours, the other only begins like one.
    unmarked, longer = f"discovery_try_{'c' * 16}", "discovery_try_results"
    kept = sorted((used, unmarked, longer))
    try:
        for name in (killed, *kept):
            server.execute(f"CREATE DATABASE {name} OWNER {MIGRATOR}")
            if name != unmarked:
                server.execute(f"COMMENT ON DATABASE {name} IS '{mark}'")
        with closing(connect(replace(creator, database=used, session_role=None))):
            with scratch.scratch_database(creator) as place:
                assert sorted(left_behind(creator)) == sorted([*kept, place.database])
            assert sorted(left_behind(creator)) == kept
    finally:
        for name in (killed, *kept):
            server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.mark.promise("discover-tries-its-draft")
def test_check_mode_makes_no_database_and_only_asks_for_the_right(
    tmp_path: Path, server: Server, login: Login, creator: Login
) -> None:
    path = make_database(tmp_path / "app" / "app.db", SCRIPT)
    # Whoever makes a scratch database ends here, because nobody is let into it.
    rules = [f"host {creator.database} all all trust", f"host all {MIGRATOR} all reject"]
    with rules_first(server, *rules), holding(path, directory=path.parent):
        found = look_at(tmp_path, login=creator, tries=True, check_mode=True)
    assert source_at(found, path).draft is not None
    server.execute(f"ALTER ROLE {MIGRATOR} NOCREATEDB")
    with pytest.raises(MigrationError, match=f"ALTER ROLE {MIGRATOR} CREATEDB"):
        look_at(tmp_path, login=login, tries=True, check_mode=True)


def test_sql_that_postgresql_does_not_take_is_named_and_nothing_of_it_is_left(creator: Login) -> None:
    files = {
        "good": "CREATE SCHEMA good; CREATE TABLE good.t ()",
        "bad": "CREATE SCHEMA bad; CREATE TABLE bad.t (v nil)",
    }
    with scratch.scratch_database(creator) as place, closing(connect(place)) as connection:
        refused = scratch.make_tables(connection, files)
        assert refused.keys() == {"bad"}
        assert 'type "nil" does not exist' in refused["bad"]
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('good.t') IS NULL, to_regnamespace('bad') IS NULL")
            assert cursor.fetchone() == (False, True)
