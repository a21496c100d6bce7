"""The window of a rollback against a real server, with no services in it: failures and kills at every step.

The services, pm2 and the playbooks are in tests/cutover/test_rollback.py.
"""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
import signal
import sqlite3
import stat
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.decide import (
    Interrupted,
    decide,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import (
    MigrationError,
    Problem,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Access, Group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.files import sha256_of
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.group_detail import Phase
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover import reconcile
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover import (
    window as cutover_window,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import write_protection
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres import (
    privileges,
    write_lock,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback import dump as group_dump
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback import rollback
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback import (
    window as rollback_window,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window import (
    frozen_file,
    rollback_record,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window import steps as cutover_report
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.checks import (
    Handles,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.context import WindowContext
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.host_lock import (
    locked_on_host,
)
from tests import estates
from tests.conftest import PASSWORD, PROGRAMS, Server, fresh_database

from .support import execute, make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

pytestmark = pytest.mark.usefixtures("no_older_processes")

NEW_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
WRITE = (
    f"INSERT INTO app.users VALUES ('{NEW_ID}', 'Dora'); UPDATE app.users SET name = 'Bobby' WHERE name = 'Bob';"
    f"INSERT INTO app.notes (owner, body) VALUES ('{NEW_ID}', 'new'); DELETE FROM app.notes WHERE id = 1"
)
BEFORE = [("forge-agent-001", "Bob"), ("role-admin", "Ann")]
AFTER = [(NEW_ID, "Dora"), ("forge-agent-001", "Bobby"), ("role-admin", "Ann")]


class Estate(estates.Estate):
    """One group on PostgreSQL, as the cutover leaves it."""

    @property
    def file(self) -> Path:
        return self.source

    @property
    def directory(self) -> Path:
        return self.place

    def described(self) -> Group:
        return make_group(self.source, {"source": "users"}, {"source": "notes"})

    @property
    def dumps(self) -> list[Path]:
        return sorted((self.directory / "dumps").glob("*"))

    def go_live(self) -> None:
        """Freeze the file, load the last difference, and make PostgreSQL the store."""
        context = WindowContext(self.connection, self.login, self.group, self.settings, Handles())
        window = cutover_window.Window(context, self.record)
        window._stop(datetime.now(UTC))
        digest = sha256_of(window._freeze())
        migrate.migrate(self.connection, self.group, migrate.FINAL, work_directory=self.settings.work_directory)
        window._go_live(digest)
        cutover_report.record_cutover(self.connection, self.group, datetime.now(UTC), {})

    def users(self) -> list[tuple[Any, ...]]:
        """Return the users in the file."""
        with closing(sqlite3.connect(f"file:{self.file}?mode=ro", uri=True)) as opened:
            return opened.execute("SELECT id, name FROM users ORDER BY id").fetchall()

    def may_write(self, role: str = "swarm_registry") -> bool:
        """Return whether a service's role may write to the tables."""
        statement = f"SELECT has_table_privilege('{role}', 'app.users', 'INSERT'), count(*) FROM app.users"
        return bool(query(self.connection, statement)[0][0])


def data_of(path: Path) -> Path:
    """Make the file of an estate."""
    return make_source(
        path,
        "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT UNIQUE);"
        "CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT REFERENCES users (id), body TEXT)",
        {"users": BEFORE, "notes": [(1, "role-admin", "first"), (2, "forge-agent-001", "second\\\ttab\nline")]},
    )


@pytest.fixture(scope="module")
def rehearsed(server: Server, ledger_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database with an estate that was rehearsed, to be copied."""

    def make(connection: Connection, login: Login) -> Estate:
        make_target(
            connection,
            "CREATE TABLE users (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text UNIQUE);"
            "CREATE TABLE notes (id serial PRIMARY KEY, owner uuid REFERENCES users (id), body text);"
            "GRANT USAGE ON SCHEMA app TO swarm_registry, swarm_platform;"
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO swarm_registry;"
            "GRANT SELECT, UPDATE (name) ON users TO swarm_platform; GRANT INSERT ON notes TO PUBLIC;"
            "GRANT USAGE ON ALL SEQUENCES IN SCHEMA app TO swarm_registry",
        )
        place = tmp_path_factory.mktemp("rehearsed")
        return Estate(connection, login, place, data_of(place / "data.db"))

    with estates.rehearsed_database(server, ledger_template, make) as name:
        yield name


@pytest.fixture
def database(server: Server, ledger_template: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a copy of that database, or of one with the ledger alone for a test without ``estate``."""
    has_estate = "estate" in request.fixturenames
    with fresh_database(server, request.getfixturevalue("rehearsed") if has_estate else ledger_template) as name:
        yield name


@pytest.fixture
def estate(connection: Connection, login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Estate]:
    source = data_of(tmp_path / "data.db")
    source.chmod(0o640)
    monkeypatch.setattr(rollback, "check_services", lambda *_, **__: Handles())
    estates.let_find_programs(monkeypatch)
    settings: dict[str, Any] = {"role_passwords": {}, "stop_timeout": 2.0, "health_timeout": 2.0, "stable_seconds": 0.0}
    made = Estate(connection, login, tmp_path, source, **settings)
    made.begin_rehearsed()
    made.go_live()
    yield made
    # Whatever has the attribute of the write protection could not be removed.
    write_protection.unprotect(made.file, {})


def assert_on_postgresql(estate: Estate) -> None:
    """See that a rollback that failed has left nothing behind, and that services can go on on PostgreSQL."""
    record = estate.record
    assert record.state == "live"
    assert decide(record).interrupted is Interrupted.NOTHING
    assert sha256_of(estate.file) == record.frozen_sha256
    assert write_protection.is_protected(estate.file)
    assert not frozen_file.private_directory(str(estate.file)).exists()
    assert [path for path in estate.dumps if path.suffix != ".dump"] == []
    assert estate.may_write()
    assert query(estate.connection, "SELECT count(*) FROM app.users") == [(3,)]


def assert_on_sqlite(estate: Estate) -> None:
    """See that a rollback has arrived, with every row."""
    record = estate.record
    assert record.state == "rolled_back"
    assert record.detail.phase is Phase.DONE
    assert estate.users() == AFTER
    with closing(sqlite3.connect(f"file:{estate.file}?mode=ro", uri=True)) as opened:
        assert opened.execute("SELECT id, owner, body FROM notes ORDER BY id").fetchall() == [
            (2, "forge-agent-001", "second\\\ttab\nline"),
            (3, NEW_ID, "new"),
        ]
    assert not write_protection.is_protected(estate.file)
    assert stat.S_IMODE(estate.file.stat().st_mode) == 0o640
    assert sha256_of(estate.file) == record.detail.rollback["exported_sha256"]
    assert sha256_of(Path(record.detail.rollback["old_file"])) == record.frozen_sha256
    assert not estate.may_write()


# ---------------------------------------------------------------- what comes back


@pytest.mark.promise("rollback-keeps-every-row", "rollback-dump-kept")
def test_every_row_comes_back_and_a_dump_is_kept(estate: Estate) -> None:
    execute(estate.connection, WRITE)
    left = frozen_file.make_directory(str(estate.file))
    (left / "trial-999999999.db").write_text("of a run that was killed")
    (left / "count-999999999.export").mkdir()
    before = estate.file.stat().st_ino
    dry = estate.roll_back(check_mode=True)
    assert (dry["changed"], dry["state"]) == (True, "live")
    assert (estate.record.state, estate.dumps) == ("live", [])
    result = estate.roll_back()
    assert_on_sqlite(estate)
    assert [path.name for path in left.iterdir()] == [Path(result["report"]["old_file"]).name]
    assert estate.file.stat().st_ino != before
    report = query(estate.connection, "SELECT report FROM migration.run WHERE kind = 'rollback'")[0][0]
    assert report == result["report"]
    assert [(table["inserted"], table["updated"], table["deleted"]) for table in report["tables"]] == [
        (1, 1, 0), (1, 0, 1),
    ]  # fmt: skip
    assert "2 inserted, 1 updated, 1 deleted (users +1 ~1 -0, notes +1 ~0 -1)" in result["msg"]
    (dump,) = estate.dumps
    assert (str(dump), sha256_of(dump)) == (report["dump"]["path"], report["dump"]["sha256"])
    assert stat.S_IMODE(dump.stat().st_mode) == 0o600
    assert stat.S_IMODE(dump.parent.stat().st_mode) == 0o700
    assert report["dump"]["rows"]["app.users"] == 3
    # What tells whose ids stood in the texts is kept with them.
    assert "migration.rewritten_id" in report["dump"]["rows"]
    listed = subprocess.run(
        [PROGRAMS / "pg_restore", "--list", dump], capture_output=True, text=True, check=True
    ).stdout
    assert "SEQUENCE SET app notes_id_seq" in listed
    assert "TABLE DATA migration id_map" in listed
    assert not estate.roll_back()["changed"]


@pytest.mark.promise("rollback-keeps-untouched-file")
def test_unchanged_tables_go_back_without_a_copy(estate: Estate) -> None:
    before = estate.file.stat().st_ino
    assert estate.roll_back()["report"]["way"] == "unchanged"
    assert (estate.record.state, estate.file.stat().st_ino, estate.dumps) == ("rolled_back", before, [])
    assert estate.users() == BEFORE
    assert not estate.may_write()


def test_rows_that_changed_and_changed_back_leave_the_file_as_it_is(estate: Estate) -> None:
    # Only who wrote the row is another.
    execute(estate.connection, "ALTER TABLE app.users ADD COLUMN made timestamptz DEFAULT clock_timestamp()")
    before = estate.file.stat().st_ino
    result = estate.roll_back()
    assert (result["report"]["way"], estate.file.stat().st_ino) == ("exported", before)
    assert "the file has no place for app.users.made, whose values stand in the dump alone" in result["msg"]
    assert estate.users() == BEFORE


@pytest.mark.promise("there-and-back-again")
def test_it_goes_there_and_back_again_as_often_as_one_likes(estate: Estate, tmp_path: Path) -> None:
    execute(estate.connection, WRITE)
    estate.roll_back()
    ids = dict(query(estate.connection, "SELECT name, id::text FROM app.users"))
    old_file = Path(estate.record.detail.rollback["old_file"])
    for number in range(3):
        with closing(sqlite3.connect(estate.file)) as opened:
            opened.execute("INSERT INTO users VALUES (?, ?)", (f"late-{number}", f"Late {number}"))
            opened.execute("UPDATE notes SET body = body || '!'")
            opened.commit()
        rehearse(estate.connection, estate.group, tmp_path)
        assert estate.record.state == "rehearsed"
        assert not estate.may_write()
        estate.go_live()
        assert estate.may_write()
        assert not estate.may_write("swarm_tickets")
        now = dict(query(estate.connection, "SELECT name, id::text FROM app.users"))
        assert {name: now[name] for name in ids} == ids
        assert now["Dora"] == NEW_ID
        ids = now
        if number == 2:
            break
        execute(estate.connection, f"INSERT INTO app.users (name) VALUES ('Born {number}')")
        ids = dict(query(estate.connection, "SELECT name, id::text FROM app.users"))
        estate.roll_back()
        assert (f"late-{number}", f"Late {number}") in estate.users()
        assert (ids[f"Born {number}"], f"Born {number}") in estate.users()
    # What the first cutover froze has been of no use since the second.
    assert not old_file.exists()
    assert len(estate.users()) == 8
    assert query(estate.connection, "SELECT DISTINCT namespace, old_id FROM migration.id_map ORDER BY 2") == [
        ("app.users", "forge-agent-001"), ("app.users", "late-0"), ("app.users", "late-1"), ("app.users", "late-2"),
        ("app.users", "role-admin"),
    ]  # fmt: skip


# ---------------------------------------------------------------- what is refused, and what may be lost


@pytest.mark.promise("rollback-violations-at-once", "rollback-loses-by-exact-number")
def test_what_cannot_be_said_is_refused_with_the_number_of_rows(estate: Estate) -> None:
    execute(
        estate.connection, WRITE + "; ALTER TABLE app.users ADD COLUMN badge text; UPDATE app.users SET badge = 'x'"
    )
    with pytest.raises(MigrationError) as refused:
        estate.roll_back()
    assert "nothing was stopped" in str(refused.value)
    assert "users ← app.users.badge: holds data, and the file has no such column (3 rows" in str(refused.value)
    # Five rows differ: one user inserted, one updated, a note inserted and one deleted; Ann has only a badge.
    assert "which lacks 5 rows of PostgreSQL" in str(refused.value)
    assert "-e service_env_rollback_lose_rows=5" in str(refused.value)
    assert_on_postgresql(estate)
    for wrong in (4, 6, 0, -5):
        with pytest.raises(MigrationError, match=r"nothing was stopped[\s\S]*would lose 5 rows of PostgreSQL"):
            estate.roll_back(lose_rows=wrong)
    assert_on_postgresql(estate)
    result = estate.roll_back(lose_rows=5)
    assert "5 rows were given up, as asked for" in result["msg"]
    assert (estate.record.state, estate.users(), len(estate.dumps)) == ("rolled_back", BEFORE, 1)


def test_lost_rows_are_in_nobodys_way(estate: Estate, tmp_path: Path) -> None:
    execute(estate.connection, WRITE)
    assert estate.roll_back(lose_rows=4)["report"]["lost_rows"] == 4
    rehearse(estate.connection, estate.group, tmp_path)
    estate.go_live()
    assert query(estate.connection, "SELECT name FROM app.users ORDER BY 1") == [("Ann",), ("Bob",)]


@pytest.mark.promise("rollback-loses-by-exact-number")
def test_no_number_is_needed_where_nothing_is_lost(estate: Estate) -> None:
    with pytest.raises(MigrationError, match="would lose 0 rows"):
        estate.roll_back(lose_rows=3)
    assert estate.roll_back(lose_rows=0)["changed"]


@pytest.mark.promise("rollback-loses-by-exact-number")
def test_a_row_that_comes_after_the_check_makes_the_typed_number_wrong(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(estate.connection, WRITE)
    stop = rollback_window_stop(lambda: execute(estate.connection, "INSERT INTO app.notes (body) VALUES ('late')"))
    monkeypatch.setattr(
        "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback.window.stop", stop
    )
    with pytest.raises(MigrationError, match=r"it is 4, and .* would lose 5 rows"):
        estate.roll_back(lose_rows=4)
    assert_on_postgresql(estate)


@pytest.mark.promise("rollback-write-lock")
def test_a_row_that_comes_while_the_services_stop_comes_back_too(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The trial, and even the look whether anything was written, came before it.
    monkeypatch.setattr(
        "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback.window.stop",
        rollback_window_stop(lambda: execute(estate.connection, WRITE)),
    )
    estate.roll_back()
    assert_on_sqlite(estate)


def rollback_window_stop(then: Callable[[], None]) -> Callable[..., None]:
    """Return a stop of services that something happens in."""
    return lambda *_: then()


@pytest.mark.promise("rollback-violations-at-once")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda estate: estate.file.write_bytes(estate.file.read_bytes() + b"x"), "its hash is another"),
        (lambda estate: estate.file.unlink(), "the frozen SQLite file is gone"),
        (lambda estate: Path(f"{estate.file}-wal").write_bytes(b"rows"), "somebody wrote to it since the cutover"),
    ],
)
def test_another_file_cannot_be_rolled_back_to(estate: Estate, spoil: Callable[[Estate], None], message: str) -> None:
    execute(estate.connection, WRITE)
    write_protection.unprotect(estate.file, {"mode": "0640"})
    content = estate.file.read_bytes()
    spoil(estate)
    with pytest.raises(MigrationError, match=message):
        estate.roll_back()
    assert estate.record.state == "live"
    estate.file.write_bytes(content)


def test_a_name_that_would_lead_to_the_old_file_is_refused(estate: Estate, tmp_path: Path) -> None:
    write_protection.unprotect(estate.file, {"mode": "0640"})
    os.link(estate.file, tmp_path / "alias.db")
    write_protection.protect(estate.file)
    estate.group = replace(estate.group, aliases=(str(tmp_path / "alias.db"),))
    execute(estate.connection, WRITE)
    with pytest.raises(MigrationError, match="it is no symlink that leads to"):
        estate.roll_back()
    write_protection.unprotect(estate.file, {"mode": "0640"})
    (tmp_path / "alias.db").unlink()
    (tmp_path / "alias.db").symlink_to(estate.file)
    write_protection.protect(estate.file)
    estate.roll_back()
    with closing(sqlite3.connect(tmp_path / "alias.db")) as opened:
        assert opened.execute("SELECT count(*) FROM users").fetchone() == (3,)


@pytest.mark.promise("rollback-violations-at-once")
def test_a_host_without_a_fitting_pg_dump_is_told_before(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_dump, "_PATH", "/nowhere")
    monkeypatch.setattr(group_dump, "_PROGRAM_DIRECTORIES", "/nowhere")
    execute(estate.connection, WRITE)
    with pytest.raises(MigrationError, match=r"nothing was stopped[\s\S]*pg_dump is not installed"):
        estate.roll_back()
    assert_on_postgresql(estate)


@pytest.mark.promise("rollback-violations-at-once")
def test_a_disk_without_room_is_told_before(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(estate.connection, WRITE)

    # Enough for the file, and for the tables to the last byte but one, with their indexes.
    def usage(free: int) -> Any:
        return lambda path: type("Usage", (), {"free": free if Path(path) == estate.directory else 0})

    stored = query(
        estate.connection, "SELECT (pg_total_relation_size('app.users') + pg_total_relation_size('app.notes'))::int"
    )[0][0]
    wanted = 4 * estate.file.stat().st_size + (1 << 20) + stored
    monkeypatch.setattr(
        "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback.checks.shutil.disk_usage",
        usage(wanted - 1),
    )
    with pytest.raises(MigrationError, match=r"nothing was stopped[\s\S]*1 MiB are free, and a rollback may need 2"):
        estate.roll_back()
    monkeypatch.setattr(
        "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback.checks.shutil.disk_usage",
        usage(wanted),
    )
    assert estate.roll_back(check_mode=True)["changed"]
    assert_on_postgresql(estate)


def spoil_the_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another row be read from the dump than the server has."""
    add = group_dump.RowsHashed.add
    monkeypatch.setattr(group_dump.RowsHashed, "add", lambda self, line: add(self, line.replace(b"Dora", b"Dorb", 1)))
    rows_of = group_dump._rows_of

    def as_the_server_says(*arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(group_dump.RowsHashed, "add", add)
            return rows_of(*arguments)

    monkeypatch.setattr(group_dump, "_rows_of", as_the_server_says)


@pytest.mark.promise("rollback-dump-kept")
def test_a_dump_that_lacks_a_row_is_told_and_the_services_stay_on_sqlite(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(estate.connection, WRITE)
    spoil_the_dump(monkeypatch)
    result = estate.roll_back()
    assert_on_sqlite(estate)
    (dump,) = estate.dumps
    assert dump.suffix == ".unproven"
    (warning,) = result["warnings"]
    assert "app.users: it holds 3 rows of it, and the server 3, or others" in warning
    assert str(dump) in warning
    assert set(result["report"]["dump"]) == {"path", "problem"}
    assert "SHA-256" not in result["msg"]
    # It is not swept away like the dump of a run that was killed.
    assert not estate.roll_back()["changed"]
    assert estate.dumps == [dump]


def test_the_dump_is_read_back_after_the_services_run_again(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written to PostgreSQL by its owner meanwhile is not in the dump's snapshot, and not compared."""
    execute(estate.connection, WRITE)
    events = []
    prove, to_sqlite = group_dump.GroupDump.prove, pkgutil.resolve_name(f"{PACKAGE}.rollback.window.to_sqlite")

    def proving(self: Any) -> Any:
        events.append(f"read back from {self._partial.suffix}")
        execute(estate.connection, "INSERT INTO app.users (name) VALUES ('Later')")
        return prove(self)

    def starting(*arguments: Any) -> Any:
        events.append("start")
        return to_sqlite(*arguments)

    monkeypatch.setattr(group_dump.GroupDump, "prove", proving)
    monkeypatch.setattr(f"{PACKAGE}.rollback.window.to_sqlite", starting)
    result = estate.roll_back()
    assert events == ["start", "read back from .partial"]
    assert result["warnings"] == []
    assert result["report"]["dump"]["rows"]["app.users"] == 3
    assert [path.suffix for path in estate.dumps] == [".dump"]
    steps = [step["name"] for step in result["report"]["steps"]]
    assert steps.index("start") < steps.index("read the dump back")


@pytest.mark.parametrize("by_an_older_version", [False, True])
def test_a_dump_that_a_killed_run_has_not_read_back_is_read_by_the_next(
    estate: Estate, by_an_older_version: bool
) -> None:
    execute(estate.connection, WRITE)
    if by_an_older_version:
        execute(estate.connection, "DROP TABLE migration.rewritten_id")
    killed(estate, "rollback.dump.GroupDump.prove", False)
    assert [path.suffix for path in estate.dumps] == [".partial"]
    # As phase 1 does after an upgrade.
    execute(estate.connection, ledger.CREATE_LEDGER)
    result = estate.roll_back()
    assert result["warnings"] == []
    assert [path.suffix for path in estate.dumps] == [".dump"]
    assert result["report"]["dump"]["rows"]["app.users"] == 3
    assert_on_sqlite(estate)


# ---------------------------------------------------------------- who else writes


def service(estate: Estate, role: str = "swarm_registry") -> Connection:
    """Return a session of a service's role."""
    found: Connection = connect(replace(estate.login, user=role, password=PASSWORD, session_role=None))
    return found


@pytest.mark.promise("rollback-write-lock")
def test_a_session_that_has_not_committed_is_waited_for_and_named(estate: Estate) -> None:
    execute(estate.connection, WRITE)
    with closing(service(estate)) as straggler:
        with straggler.cursor() as cursor:
            cursor.execute("INSERT INTO app.notes (body) VALUES ('in flight')")
        with pytest.raises(MigrationError) as refused:
            estate.roll_back()
        assert f"session {straggler.info.backend_pid} of role swarm_registry: it has written to" in str(refused.value)
        assert_on_postgresql(estate)
        straggler.commit()
    estate.roll_back()
    with closing(sqlite3.connect(estate.file)) as opened:
        assert opened.execute("SELECT count(*) FROM notes WHERE body = 'in flight'").fetchone() == (1,)


@pytest.mark.promise("rollback-write-lock")
def test_nobody_writes_from_the_protection_to_the_next_cutover(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(estate.connection, WRITE)
    export_changes = rollback_window.__name__ + ".export.export_changes"
    with closing(service(estate)) as straggler, closing(service(estate, "swarm_platform")) as shared:

        def refused(session: Connection, statement: str) -> str:
            with pytest.raises(psycopg2.Error) as error, session.cursor() as cursor:
                cursor.execute("SET lock_timeout = '200ms'")
                cursor.execute(statement)
            session.rollback()
            return str(error.value)

        from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.export import export

        original = export.export_changes

        def while_it_is_read(*arguments: Any) -> Any:
            assert "lock timeout" in refused(straggler, "INSERT INTO app.notes (body) VALUES ('late')")
            assert "lock timeout" in refused(shared, "UPDATE app.users SET name = 'late'")
            with straggler.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM app.users")
            straggler.rollback()
            return original(*arguments)

        # Not for the trial, where the services still run.
        monkeypatch.setattr(export, "rehearse", lambda *_: None)
        monkeypatch.setattr(export_changes, while_it_is_read)
        estate.roll_back()
        assert "permission denied" in refused(straggler, "INSERT INTO app.notes (body) VALUES ('late')")
        assert "permission denied" in refused(shared, "UPDATE app.users SET name = 'late'")
        assert "permission denied" in refused(shared, "INSERT INTO app.notes (body) VALUES ('late')")
    assert_on_sqlite(estate)
    # Whoever sets the privileges of the schema leaves the write lock where it is.
    found = privileges.synchronise(estate.connection, {"swarm_registry": ["app"]}, check_mode=True)
    assert not any(" on app." in line and "new" not in line and "seq" not in line for line in found["granted"])
    rehearse(estate.connection, estate.group, estate.directory)
    estate.go_live()
    with closing(service(estate)) as again, closing(service(estate, "swarm_platform")) as shared:
        for session, statement in (
            (again, "INSERT INTO app.notes (body) VALUES ('after')"),
            (again, "DELETE FROM app.notes WHERE body = 'after'"),
            (shared, "UPDATE app.users SET name = name"),
            (shared, "INSERT INTO app.notes (id, body) VALUES (99, 'by everybody')"),
        ):
            with session.cursor() as cursor:
                cursor.execute(statement)
            session.commit()
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), shared.cursor() as cursor:
            cursor.execute("DELETE FROM app.users")


def test_rights_of_whoever_is_gone_are_given_to_nobody(estate: Estate, server: Server) -> None:
    server.execute("CREATE ROLE passing")
    execute(estate.connection, "GRANT UPDATE ON app.users TO passing WITH GRANT OPTION")
    grants = write_lock.take_rights(estate.connection, estate.group)
    estate.connection.commit()
    assert {grant["role"] for grant in grants} == {"swarm_registry", "swarm_platform", "passing", None}
    server.execute("DROP ROLE passing")
    write_lock.give_rights(estate.connection, grants)
    estate.connection.commit()
    assert estate.may_write()
    assert write_lock.take_rights(estate.connection, estate.group) == [
        grant for grant in grants if grant["role"] != "passing"
    ]
    estate.connection.rollback()


@pytest.mark.promise("no-write-before-cutover", "rollback-write-lock")
def test_a_rollback_shuts_the_views_over_its_tables_too(estate: Estate) -> None:
    """A view writes to its table with the rights of the view's owner."""
    execute(
        estate.connection,
        "CREATE VIEW app.people AS SELECT * FROM app.users; CREATE VIEW app.all_people AS SELECT * FROM app.people; "
        "GRANT SELECT, INSERT ON app.people, app.all_people TO swarm_registry",
    )
    statements = [f"INSERT INTO app.{view} (name) VALUES ('through {view}')" for view in ("people", "all_people")]
    estate.roll_back()
    with closing(service(estate)) as session, session.cursor() as cursor:
        for statement in statements:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(statement)
            session.rollback()
    rehearse(estate.connection, estate.group, estate.directory)
    estate.go_live()
    with closing(service(estate)) as session, session.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        session.rollback()


@pytest.mark.promise("no-write-before-cutover")
def test_the_commit_that_makes_postgresql_the_store_gives_the_rights_of_the_inventory(estate: Estate) -> None:
    """What was changed in it while the group was on SQLite holds, also for services of other groups."""
    tables = {"test": ["app.users", "app.notes"], "other": ["app.users_of_others"]}
    schemas = {"swarm_registry": ["app"], "swarm_deploy": ["app"], "swarm_platform": ["app"]}
    access = Access(schemas, {"swarm_registry": {"app.users": "read"}, "swarm_platform": {"app": "none"}}, tables)
    estate.settings = replace(estate.settings, access=access)
    estate.roll_back()
    rehearse(estate.connection, estate.group, estate.directory)
    with estate.connection.cursor() as cursor:
        privileges.synchronise(estate.connection, schemas, False, access.rights, tables)
        assert [role for role in schemas if estate.may_write(role)] == []
        estate.go_live()
        assert [role for role in schemas if estate.may_write(role)] == ["swarm_deploy"]
        cursor.execute("SELECT has_any_column_privilege('swarm_platform', 'app.users', 'UPDATE')")
        assert cursor.fetchone() == (False,)
        estate.connection.rollback()
    # A second run of phase 1 has nothing to do.
    assert not privileges.synchronise(estate.connection, schemas, True, access.rights, tables)["changed"]


@pytest.mark.promise("rollback-write-lock", "failed-rollback-stays-on-postgresql")
def test_no_rights_are_taken_while_phase_1_sets_them(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has seen the group live, and would give the rights back behind the commit."""
    monkeypatch.setattr(privileges.lock_rights, "__defaults__", (0.2,))
    execute(estate.connection, WRITE)
    with ExitStack() as stack:

        def begin_phase_1() -> None:
            stack.enter_context(ledger.locked(stack.enter_context(closing(connect(estate.login))), "schema"))

        with monkeypatch.context() as patch:
            end_at(patch, "postgres.write_lock.hold", True, begin_phase_1)
            with pytest.raises(MigrationError, match="it stays on PostgreSQL") as failed:
                estate.roll_back()
        assert "holds its lock" in str(failed.value)
        with pytest.raises(MigrationError, match="Another run is at work on schema"):
            estate.roll_back()
        assert decide(estate.record).interrupted is Interrupted.NOTHING
    assert_on_postgresql(estate)
    estate.roll_back()
    assert_on_sqlite(estate)


# ---------------------------------------------------------------- what fails, and who is killed

PACKAGE = "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration"
# Where the run ends: the function, and whether it has done its work by then.
STEPS = [
    ("postgres.write_lock.hold", False),
    ("postgres.write_lock.hold", True),
    ("window.frozen_file.make_copy", True),
    ("engine.export.export.export_changes", True),
    ("rollback.dump.GroupDump.wait", False),
    ("rollback.dump.GroupDump.wait", True),
    ("window.frozen_file.finish_copy", True),
    ("window.frozen_file.swap", False),
    ("window.frozen_file.write_protection.unprotect", True),
    ("window.frozen_file.os.link", True),
    ("window.frozen_file.os.replace", True),
    ("window.frozen_file.swap", True),
    ("postgres.write_lock.take_rights", True),
    ("core.ledger.take_step", True),
]


# Where a request to end comes in every run, not in long searches alone.
REQUESTS_TO_END = ("engine.export.export.export_changes", "window.frozen_file.os.replace", "core.ledger.take_step")


def heals_by_cutover(function: str) -> bool:
    """Return whether a kill there leaves a file that the next cutover has to put right."""
    return function.startswith(("window.frozen_file", "core.ledger"))


def end_at(monkeypatch: pytest.MonkeyPatch, function: str, after: bool, end: Callable[[], None]) -> None:
    """Let the run end at one place, once the window is open."""
    module, _, name = f"{PACKAGE}.{function}".rpartition(".")
    original = pkgutil.resolve_name(f"{module}.{name}")
    opened = []

    def note(connection: Connection, group: Group, entry: dict[str, Any]) -> None:
        opened.append(True)
        real_note(connection, group, entry)

    def ending(*arguments: Any, **options: Any) -> Any:
        if not opened or ending.done:  # type: ignore[attr-defined]
            return original(*arguments, **options)
        ending.done = True  # type: ignore[attr-defined]
        result = original(*arguments, **options) if after else None
        end()
        return result if after else original(*arguments, **options)

    ending.done = False  # type: ignore[attr-defined]
    real_note = rollback_record.note
    monkeypatch.setattr(rollback_record, "note", note)
    monkeypatch.setattr(f"{module}.{name}", ending)


def fail() -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.promise("failed-rollback-stays-on-postgresql")
@pytest.mark.parametrize(("function", "after"), STEPS)
def test_a_failure_at_any_step_leaves_the_group_on_postgresql(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, function: str, after: bool
) -> None:
    execute(estate.connection, WRITE)
    with monkeypatch.context() as patch:
        end_at(patch, function, after, fail)
        with pytest.raises(MigrationError, match="it stays on PostgreSQL, and its services were started again"):
            estate.roll_back()
    assert_on_postgresql(estate)
    estate.roll_back()
    assert_on_sqlite(estate)


@pytest.mark.promise("failed-rollback-stays-on-postgresql", "full-disk-named")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_disk_that_is_full_in_the_window_leaves_the_group_on_postgresql(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(estate.connection, WRITE)
    # The exported file must come to lie there.
    beside = frozen_file.private_directory(str(estate.file))
    beside.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", beside], check=True)
    original = pkgutil.resolve_name(f"{PACKAGE}.engine.export.export.export_changes")

    def while_the_disk_fills(*arguments: Any) -> Any:
        with suppress(OSError), (beside / "trial-1-filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        return original(*arguments)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(f"{PACKAGE}.engine.export.export.export_changes", while_the_disk_fills)
            with pytest.raises(MigrationError) as failed:
                estate.roll_back()
    finally:
        subprocess.run(["umount", beside], check=True)
        beside.rmdir()
    assert f"{beside}: the disk is full. Free some disk, then run again" in str(failed.value)
    assert "it stays on PostgreSQL, and its services were started again" in str(failed.value)
    assert_on_postgresql(estate)


# It is undone as a failure at the same step is; one before the commit and one behind it are in every run.
@pytest.mark.promise("failed-rollback-stays-on-postgresql")
@pytest.mark.parametrize(
    ("function", "after"),
    [pytest.param(*step, marks=[] if step[0] in REQUESTS_TO_END else [pytest.mark.long_search]) for step in STEPS],
)
def test_a_request_to_end_at_any_step_leaves_the_group_on_one_store(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, function: str, after: bool
) -> None:
    execute(estate.connection, WRITE)
    with monkeypatch.context() as patch:
        end_at(patch, function, after, lambda: os.kill(os.getpid(), signal.SIGTERM))
        if function in ("postgres.write_lock.take_rights", "core.ledger.take_step"):
            # Too late: the commit is under way.
            assert estate.roll_back()["changed"]
            assert_on_sqlite(estate)
            return
        with pytest.raises(MigrationError) as failed:
            estate.roll_back()
    assert "it stays on PostgreSQL, and its services were started again and are well" in str(failed.value)
    assert "this run: it received SIGTERM" in str(failed.value)
    assert_on_postgresql(estate)


def test_a_request_to_end_behind_the_commit_does_not_leave_services_stopped(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(estate.connection, WRITE)
    end_at(monkeypatch, "rollback.window.to_sqlite", False, lambda: os.kill(os.getpid(), signal.SIGTERM))
    estate.roll_back()
    assert_on_sqlite(estate)


def test_a_request_to_end_does_not_keep_an_interrupted_rollback_from_its_end(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(estate.connection, WRITE)
    killed(estate, "rollback.window.finish", False)
    to_sqlite = pkgutil.resolve_name(f"{PACKAGE}.rollback.window.to_sqlite")

    def ask_to_end(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return to_sqlite(*arguments)

    monkeypatch.setattr(f"{PACKAGE}.rollback.window.to_sqlite", ask_to_end)
    assert "was finished" in estate.roll_back()["msg"]
    assert_on_sqlite(estate)


def test_a_host_that_fails_behind_the_commit_is_told_and_the_next_run_goes_on(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(estate.connection, WRITE)
    with monkeypatch.context() as patch:
        end_at(patch, "rollback.window.to_sqlite", False, fail)
        with pytest.raises(MigrationError, match=r"is rolled back, but[\s\S]*No space left on device"):
            estate.roll_back()
    assert "was finished" in estate.roll_back()["msg"]
    assert_on_sqlite(estate)


def killed(estate: Estate, function: str, after: bool) -> None:
    """Kill a run at one place."""

    def run() -> None:
        end_at(pytest.MonkeyPatch(), function, after, lambda: os.kill(os.getpid(), signal.SIGKILL))
        estate.roll_back()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.promise("killed-rollback-healed")
def test_services_of_a_killed_run_are_started_though_somebody_changes_the_schema(estate: Estate) -> None:
    execute(estate.connection, WRITE)
    killed(estate, "postgres.write_lock.hold", True)
    with closing(connect(estate.login)) as other, ledger.locked(other, "schema"):
        with pytest.raises(MigrationError, match="were started again and are well") as failed:
            estate.roll_back()
        assert "schema: session" in str(failed.value)
        assert_on_postgresql(estate)
    estate.roll_back()
    assert_on_sqlite(estate)


@pytest.mark.promise("killed-rollback-healed")
def test_services_of_a_killed_run_are_started_though_no_recovery_unit_can_be_put(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise MigrationError("The recovery unit cannot be set up.", [])

    execute(estate.connection, WRITE)
    killed(estate, "postgres.write_lock.hold", True)
    with monkeypatch.context() as patch:
        end_at(patch, "window.context.WindowContext.put_recovery_unit", False, refuse)
        with pytest.raises(MigrationError, match="were started again and are well"):
            estate.roll_back()
    assert_on_postgresql(estate)


@pytest.mark.promise("killed-rollback-healed")
@pytest.mark.parametrize(
    ("function", "after", "heals"),
    [
        # Where a cutover heals it, a rollback follows; the one that heals it by itself is left to the long searches.
        *(
            pytest.param(*step, "rollback", marks=[pytest.mark.long_search] if heals_by_cutover(step[0]) else [])
            for step in STEPS
        ),
        *((*step, "cutover") for step in STEPS if heals_by_cutover(step[0])),
    ],
)
def test_a_kill_at_any_step_is_healed_by_the_next_run(estate: Estate, function: str, after: bool, heals: str) -> None:
    execute(estate.connection, WRITE)
    killed(estate, function, after)
    assert decide(estate.record).interrupted is Interrupted.UNDO
    assert query(estate.connection, "SELECT count(*) FROM app.users") == [(3,)]
    if heals == "cutover":
        with pytest.raises(MigrationError, match="lives in PostgreSQL"):
            rehearse(estate.connection, estate.group, estate.directory)
        assert estate.roll_back(check_mode=True)["changed"]
        foretold = rollback.put_right(estate.login, estate.group, estate.settings, check_mode=True)
        assert "an interrupted rollback would be undone" in foretold
        # What a dry run of the cutover then looks at may have a further name, or none yet.
        context = WindowContext(estate.connection, estate.login, estate.group, estate.settings, Handles())
        looked = reconcile.Keeper(context, estate.record).dry_run()
        assert looked is not None
        assert looked["state"] == "live"
        assert decide(estate.record).interrupted is Interrupted.UNDO
        assert "was undone" in rollback.put_right(estate.login, estate.group, estate.settings)
        for left in estate.dumps:
            left.unlink()
        assert_on_postgresql(estate)
        assert rollback.put_right(estate.login, estate.group, estate.settings) == ""
    estate.roll_back()
    assert_on_sqlite(estate)
    assert [path.suffix for path in estate.dumps if path.suffix != ".dump"] == []


@pytest.mark.promise("killed-rollback-healed")
@pytest.mark.parametrize("heals", ["cutover", "rollback", "rehearsal"])
def test_a_kill_behind_the_commit_is_finished_by_the_next_run(estate: Estate, heals: str) -> None:
    execute(estate.connection, WRITE)
    killed(estate, "rollback.window.finish", False)
    assert decide(estate.record).interrupted is Interrupted.FINISH
    if heals == "rehearsal":
        rehearse(estate.connection, estate.group, estate.directory)
        assert decide(estate.record).interrupted is Interrupted.FINISH
    if heals == "rollback":
        assert "an interrupted rollback was finished" in estate.roll_back()["msg"]
    else:
        foretold = rollback.put_right(estate.login, estate.group, estate.settings, check_mode=True)
        assert "an interrupted rollback would be finished" in foretold
        assert decide(estate.record).interrupted is Interrupted.FINISH
        assert "was finished" in rollback.put_right(estate.login, estate.group, estate.settings)
    if heals != "rehearsal":
        assert_on_sqlite(estate)
    assert estate.users() == AFTER
    assert not estate.roll_back()["changed"]
    report = query(estate.connection, "SELECT report FROM migration.run WHERE kind = 'rollback'")[0][0]
    assert report["way"] == "exported"


@pytest.mark.promise("killed-rollback-healed")
def test_a_commit_whose_answer_is_lost_is_looked_up(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(estate.connection, WRITE)
    commit = rollback_window.Window._commit

    def lose_the_answer(self: Any, guard: Connection, loaded: dict[str, Any]) -> None:
        commit(self, guard, loaded)
        raise psycopg2.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(rollback_window.Window, "_commit", lose_the_answer)
    estate.roll_back()
    assert_on_sqlite(estate)


def test_nothing_is_decided_while_nobody_knows_whether_it_was_committed(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(estate.connection, WRITE)
    commit = rollback_window.Window._commit

    def lose_the_server(self: Any, guard: Connection, loaded: dict[str, Any]) -> None:
        commit(self, guard, loaded)
        self.login = replace(self.login, port=1)
        raise psycopg2.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(f"{PACKAGE}.rollback.window._RECONNECT_SECONDS", 0.1)
    monkeypatch.setattr(f"{PACKAGE}.rollback.undo.start", lambda *_: pytest.fail("services were started"))
    with monkeypatch.context() as patch:
        patch.setattr(rollback_window.Window, "_commit", lose_the_server)
        with pytest.raises(MigrationError, match="Only the server knows on which store"):
            estate.roll_back()
    assert estate.users() == AFTER
    estate.roll_back()
    assert_on_sqlite(estate)


def test_a_file_that_somebody_wrote_to_meanwhile_is_nobodys_to_replace(estate: Estate) -> None:
    execute(estate.connection, WRITE)
    killed(estate, "window.frozen_file.os.replace", True)
    with closing(sqlite3.connect(estate.file)) as opened:
        opened.execute("INSERT INTO users VALUES ('stray', 'Stray')")
        opened.commit()
    for run in (estate.roll_back, lambda: rollback.put_right(estate.login, estate.group, estate.settings)):
        with pytest.raises(MigrationError, match="Find out who wrote to it; the frozen file was kept as"):
            run()
    assert ("stray", "Stray") in estate.users()
    assert estate.record.state == "live"


def test_services_are_started_though_the_file_cannot_be_put_back(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(estate.connection, WRITE)
    killed(estate, "window.frozen_file.os.replace", True)
    with closing(sqlite3.connect(estate.file)) as opened:
        opened.execute("INSERT INTO users VALUES ('stray', 'Stray')")
        opened.commit()
    started = []
    monkeypatch.setattr(f"{PACKAGE}.rollback.undo.start", lambda *_: started.append("started"))
    for run in (estate.roll_back, lambda: rollback.put_right(estate.login, estate.group, estate.settings)):
        with pytest.raises(MigrationError, match="were started again and are well"):
            run()
    assert len(started) == 2
    # The next run has to know that the frozen file is not in its place.
    assert decide(estate.record).interrupted is Interrupted.UNDO


def test_services_that_are_not_well_after_a_failure_are_named(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwell(*_: Any) -> None:
        raise MigrationError("Not every service is healthy.", [Problem("service deaf", "it does not answer", "Look")])

    execute(estate.connection, WRITE)
    monkeypatch.setattr(f"{PACKAGE}.rollback.undo.require_healthy", unwell)
    end_at(monkeypatch, "engine.export.export.export_changes", True, fail)
    with pytest.raises(MigrationError) as failed:
        estate.roll_back()
    assert "its services were started again, and not all of them are proven well" in str(failed.value)
    assert "service deaf: it does not answer" in str(failed.value)
    assert_on_postgresql(estate)


# ---------------------------------------------------------------- what stands beside the file


def use_a_log(estate: Estate) -> None:
    """Let the frozen file be one that is written through a log, and the ledger know it."""
    write_protection.unprotect(estate.file, {"mode": "0640"})
    with closing(sqlite3.connect(estate.file)) as opened:
        opened.execute("PRAGMA journal_mode = WAL")
    write_protection.protect(estate.file)
    digest = sha256_of(estate.file)
    execute(estate.connection, "UPDATE migration.cutover_group SET frozen_sha256 = %s", digest)


def write_to_the_log(path: Path) -> None:
    """Write a row that stands in the log alone, as a service that is killed leaves it."""
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute(\"INSERT INTO users VALUES ('stray', 'Stray')\"); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert Path(f"{path}-wal").stat().st_size > 0


def test_a_file_with_a_log_goes_there_and_back(estate: Estate) -> None:
    use_a_log(estate)
    execute(estate.connection, WRITE)
    estate.roll_back()
    assert_on_sqlite(estate)


def test_a_row_in_the_log_of_the_exported_file_is_not_thrown_away(estate: Estate) -> None:
    use_a_log(estate)
    execute(estate.connection, WRITE)
    killed(estate, "window.frozen_file.os.replace", True)
    write_to_the_log(estate.file)
    with pytest.raises(MigrationError, match="Find out who wrote to it; the frozen file was kept as"):
        estate.roll_back()
    assert ("stray", "Stray") in estate.users()


def test_a_log_that_appears_beside_the_new_file_is_none_of_its(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(estate.connection, WRITE)
    log = Path(f"{estate.file}-wal")

    def leave_a_log() -> None:
        log.write_bytes(b"rows")

    with monkeypatch.context() as patch:
        end_at(patch, "window.frozen_file.os.replace", True, leave_a_log)
        with pytest.raises(MigrationError, match=r"it stays on PostgreSQL[\s\S]*somebody has written rows to it"):
            estate.roll_back()
    assert estate.record.state == "live"
    assert log.read_bytes() == b"rows"
    log.unlink()
    assert "was undone" in rollback.put_right(estate.login, estate.group, estate.settings)
    assert_on_postgresql(estate)


def test_an_exported_file_with_rows_beside_it_is_not_taken(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(estate.connection, WRITE)
    log = estate.directory / "work" / f"run-{os.getpid()}-rollback" / "exported.db-wal"

    def leave_a_log() -> None:
        log.write_bytes(b"rows")

    with monkeypatch.context() as patch:
        end_at(patch, "engine.export.export.export_changes", True, leave_a_log)
        with pytest.raises(MigrationError, match=r"exported\.db-wal: it holds rows that the file lacks"):
            estate.roll_back()
    assert_on_postgresql(estate)


def test_who_opens_the_unprotected_old_file_is_named(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(estate.connection, WRITE)
    code = "import sys; f = open(sys.argv[1], 'r+'); print('ready', flush=True); sys.stdin.read()"
    holders = []

    def hold() -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(estate.file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        holders.append(process)

    with monkeypatch.context() as patch:
        end_at(patch, "window.frozen_file.os.link", False, hold)
        with pytest.raises(MigrationError) as failed:
            estate.roll_back()
    holders[0].communicate()
    assert f"process {holders[0].pid} " in str(failed.value)
    assert "has opened it since" in str(failed.value)
    assert_on_postgresql(estate)


@pytest.mark.parametrize("write", [True, False])
def test_a_frozen_file_that_is_written_to_in_the_window_is_not_taken(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, write: bool
) -> None:
    def spoil() -> None:
        write_protection.unprotect(estate.file, {"mode": "0640"})
        with closing(sqlite3.connect(estate.file)) as opened:
            opened.execute("INSERT INTO users VALUES ('stray', 'Stray')")
            opened.commit()

    if write:
        execute(estate.connection, WRITE)
    with monkeypatch.context() as patch:
        end_at(patch, "postgres.write_lock.hold" if not write else "engine.export.export.export_changes", True, spoil)
        with pytest.raises(MigrationError, match="written to it, or exchanged it, in spite of its write protection"):
            estate.roll_back()
    assert estate.record.state == "live"
    assert ("stray", "Stray") in estate.users()


def test_the_new_file_has_the_access_list_and_the_mode_of_before_the_protection(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a file system without attributes answers: then the mode is the write protection.
    write_protection.unprotect(estate.file, {"mode": "0640"})
    monkeypatch.setattr(write_protection, "_SET_FLAGS", 0)
    entries = [(0x01, 6, -1), (0x02, 6, 65534), (0x04, 4, -1), (0x10, 6, -1), (0x20, 0, -1)]
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(estate.file, "system.posix_acl_access", packed)
    os.setxattr(estate.file, "user.label", b"kept")
    mode = stat.S_IMODE(estate.file.stat().st_mode)
    assert mode == 0o660
    described = write_protection.describe(estate.file)
    execute(
        estate.connection,
        "UPDATE migration.cutover_group SET detail = jsonb_set(detail, '{fence,mode}', to_jsonb(%s::text))",
        described["mode"],
    )
    write_protection.protect(estate.file)
    assert stat.S_IMODE(estate.file.stat().st_mode) == 0o400
    execute(estate.connection, WRITE)
    estate.roll_back()
    assert estate.users() == AFTER
    assert os.getxattr(estate.file, "system.posix_acl_access") == packed
    assert os.getxattr(estate.file, "user.label") == b"kept"
    assert stat.S_IMODE(estate.file.stat().st_mode) == mode


# ---------------------------------------------------------------- who waits for whom


def test_who_waits_for_our_lock_does_not_hold_us_up_for_ever(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(estate.connection, WRITE)
    with closing(connect(estate.login)) as other:
        waiting = threading.Thread(target=lambda: execute(other, "ALTER TABLE app.users ADD COLUMN late text"))

        def queue() -> None:
            waiting.start()
            statement = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
            while query(estate.connection, statement) != [(1,)]:
                time.sleep(0.02)

        with monkeypatch.context() as patch:
            end_at(patch, "postgres.write_lock.hold", True, queue)
            with pytest.raises(MigrationError, match="canceling statement due to lock timeout"):
                estate.roll_back()
        waiting.join(120)
    execute(estate.connection, "ALTER TABLE app.users DROP COLUMN late")
    assert_on_postgresql(estate)


def test_a_session_that_the_server_takes_for_alive_does_not_hold_up_the_question_for_ever(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(estate.connection, WRITE)
    commit = rollback_window.Window._commit
    with closing(connect(estate.login)) as left:

        def lose_the_answer(self: Any, guard: Connection, loaded: dict[str, Any]) -> None:
            commit(self, guard, loaded)
            with left.cursor() as cursor:
                cursor.execute("SELECT 1 FROM migration.cutover_group FOR UPDATE")
            raise psycopg2.OperationalError("server closed the connection unexpectedly")

        monkeypatch.setattr(f"{PACKAGE}.rollback.window._RECONNECT_SECONDS", 0.3)
        with monkeypatch.context() as patch:
            patch.setattr(rollback_window.Window, "_commit", lose_the_answer)
            with pytest.raises(MigrationError, match="Only the server knows on which store"):
                estate.roll_back()
    estate.roll_back()
    assert_on_sqlite(estate)


def test_limits_for_the_sessions_of_services_are_not_for_ours(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    execute(estate.connection, WRITE)
    limits = ("idle_in_transaction_session_timeout", "idle_session_timeout", "statement_timeout")
    for limit in limits:
        server.execute(f"ALTER ROLE swarm_migrator SET {limit} = '200ms'")
    try:
        end_at(monkeypatch, "engine.export.export.export_changes", True, lambda: time.sleep(0.5))
        estate.roll_back()
    finally:
        for limit in limits:
            server.execute(f"ALTER ROLE swarm_migrator RESET {limit}")
    assert_on_sqlite(estate)


def test_a_directory_that_leads_elsewhere_is_not_emptied(estate: Estate, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "precious").touch()
    frozen_file.private_directory(str(estate.file)).symlink_to(elsewhere)
    with pytest.raises(MigrationError, match="it is not a directory of ours alone"):
        frozen_file.remove_old(str(estate.file))
    assert (elsewhere / "precious").exists()


def test_two_runs_at_once_are_refused(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(estate.connection, WRITE)
    monkeypatch.setattr(rollback, "LOCK_SECONDS", 0.2)
    with ledger.locked(estate.connection, "group test"), pytest.raises(MigrationError, match="Another run is at work"):
        estate.roll_back()
    with (
        locked_on_host("test", estate.settings.work_directory, 0.0),
        pytest.raises(MigrationError, match=f"process {os.getpid()} holds its lock on this host"),
    ):
        estate.roll_back()
    assert_on_postgresql(estate)


def test_the_dump_of_another_group_with_a_longer_name_is_left_alone(estate: Estate) -> None:
    execute(estate.connection, WRITE)
    (estate.directory / "dumps").mkdir(mode=0o700)
    others = estate.directory / "dumps" / "test-two-20260101T000000000000Z.partial"
    own = estate.directory / "dumps" / "test-20260101T000000000000Z.partial"
    for path in (others, own):
        path.touch()
    estate.roll_back()
    assert (others.exists(), own.exists()) == (True, False)


def test_names_of_every_kind_are_dumped_and_read_back(
    connection: Connection, login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_dump, "_PATH", f"{PROGRAMS}:{group_dump._PATH}")
    make_target(
        connection,
        'CREATE TABLE "Select ""x"" *" (id integer PRIMARY KEY, "a, b" text, "ü ""q""" double precision,'
        ' "order" bytea, twice integer GENERATED ALWAYS AS (id * 2) STORED, at timestamptz, span interval);'
        "CREATE TABLE parts (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);"
        "CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE empty (id integer PRIMARY KEY)",
    )
    execute(
        connection,
        'INSERT INTO app."Select ""x"" *" VALUES (1, E\'tab\\tline\\nback\\\\slash\\r\', 0.1::float8 + 0.2,'
        " '\\x00ff',"
        " DEFAULT, now(), '1 day 2 hours'), (2, '\\.', 'NaN', NULL, DEFAULT, 'infinity', NULL);"
        "INSERT INTO app.parts SELECT n, repeat('x', n) FROM generate_series(1, 9) AS n",
    )
    group = make_group(
        tmp_path / "none.db",
        {"source": "a", "target": 'app.Select "x" *'},
        {"source": "b", "target": "app.parts"},
        {"source": "c", "target": "app.empty"},
    )
    with closing(connect(login)) as exporter, exporter.cursor() as cursor:
        cursor.execute("SELECT pg_export_snapshot()")
        (snapshot_id,) = cursor.fetchone() or ("",)
        execute(connection, "DELETE FROM app.parts; INSERT INTO app.empty VALUES (1)")
        dump = group_dump.GroupDump(login, connection, group, tmp_path / "dumps")
        dump.start(snapshot_id)
        try:
            dump.wait()
            cursor.connection.rollback()
            rows = dump.prove().rows
        finally:
            dump.cancel()
    assert {name: count for name, count in rows.items() if name.startswith("app.")} == {
        'app.Select "x" *': 2,
        "app.parts_low": 9,
        "app.empty": 0,
    }
    assert uuid.UUID(NEW_ID)
