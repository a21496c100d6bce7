"""The life of a backup: taken from one snapshot, proven, kept or removed, copied, restored."""

from __future__ import annotations

import json
import shutil
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.backup import offsite_methods
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.backup.settings import CopyTarget
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connect
from tests.backup.conftest import Program

if TYPE_CHECKING:
    from tests.conftest import Server

Age = Callable[[str, float], None]


@pytest.mark.promise("backup-proven-by-restore-test", "restore-swaps-whole-databases")
@pytest.mark.parametrize("kind", ["program", "managed"])
def test_a_backup_is_taken_proven_and_restored(kind: str, request: pytest.FixtureRequest) -> None:
    """The same for a superuser of the host itself, and for the migrating login of a managed server."""
    program: Program = request.getfixturevalue(kind)
    taken = program.run("run")
    assert taken["verified"]
    assert taken["rows"] > 3000
    path = program.settings.directory / taken["name"]
    assert {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.iterdir()} == {
        "database.dump": 0o600,
        "roles.sql": 0o600,
        "manifest.json": 0o600,
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    roles = (path / "roles.sql").read_text()
    assert "CREATE ROLE swarm_registry" in roles
    assert "SCRAM" not in roles
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["tables"]['odd.Qu"oted. name']["rows"] == 3000
    assert manifest["sequences"]["odd.downwards"] == [-6, -6]
    assert manifest["large_objects"]["rows"] == 1
    [(name, verified, sha256)] = program.query("SELECT name, verified_at IS NOT NULL, sha256 FROM migration.backup")
    assert (name, verified, sha256) == (taken["name"], True, manifest["files"]["database.dump"]["sha256"])

    program.query(
        "TRUNCATE odd.parts; DROP FUNCTION odd.twice(int); REVOKE CONNECT ON DATABASE "
        f"{program.superuser.database} FROM PUBLIC"
    )
    plan = program.run("restore", name, "--dry-run")
    assert any("odd.part_1: 0 rows, not 50" in line for line in plan["lines"])
    assert program.query("SELECT count(*) FROM odd.parts") == [(0,)]

    result = program.run("restore", name)
    assert result["changed"]
    assert program.query("SELECT odd.twice(21), count(*) FROM odd.parts") == [(42, 50)]
    assert program.query("SELECT nextval('odd.downwards')") == [(-6,)]
    assert program.query("SELECT count(*) FROM odd.parts", result["old"]) == [(0,)]
    # Rights on the database itself, and the ledger's row of the backup, which is not in the backup.
    assert program.query("SELECT has_database_privilege('swarm_registry', current_database(), 'CONNECT')") == [(True,)]
    assert program.query("SELECT count(*) FROM migration.backup WHERE verified_at IS NOT NULL") == [(1,)]
    assert program.databases() == {program.superuser.database, result["old"]}


def test_a_second_restore_of_what_is_there_changes_nothing(program: Program) -> None:
    name = program.run("take")["name"]
    assert not program.run("restore", name)["changed"]
    program.query("DELETE FROM odd.unlogged")
    assert program.run("restore", name)["changed"]
    assert not program.run("restore", name)["changed"]
    assert len(program.databases()) == 2


def test_settings_of_the_database_are_restored(program: Program) -> None:
    database = program.superuser.database
    program.query(
        f"ALTER DATABASE {database} SET search_path TO odd, \"$user\"; ALTER DATABASE {database} SET my.own TO 'a b'"
    )
    program.query(f"ALTER DATABASE {database} CONNECTION LIMIT 41")
    program.query(f"ALTER ROLE swarm_deploy IN DATABASE {database} SET work_mem TO '8MB'")
    name = program.run("take")["name"]
    select = (
        "SELECT setrole::regrole::text, setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase "
        "WHERE datname = current_database() ORDER BY 1"
    )
    before = program.query(select)
    program.query("DELETE FROM odd.unlogged")
    program.run("restore", name)
    assert program.query(select) == before
    assert len(before) == 2
    assert program.query("SELECT datconnlimit FROM pg_database WHERE datname = current_database()") == [(41,)]


@pytest.mark.promise("backup-proven-by-restore-test")
def test_a_writer_during_the_dump_does_no_harm(program: Program) -> None:
    """Rows and sequences move all the time, and a table is emptied: every backup still restores to its own counts."""
    ended = threading.Event()

    def write() -> None:
        with closing(connect(program.superuser)) as connection, connection.cursor() as cursor:
            connection.rollback()
            connection.autocommit = True
            while not ended.is_set():
                cursor.execute("""INSERT INTO odd."Qu""oted. name" (value, amount) VALUES ('during', 1)""")
                cursor.execute("UPDATE odd.parts SET kind = NULL WHERE id = 1 + random() * 40")
                cursor.execute("SELECT nextval('odd.downwards')")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        results = [program.run("run") for _ in range(3)]
    finally:
        ended.set()
        writer.join()
    assert all(result["verified"] for result in results)
    assert results[0]["rows"] < results[2]["rows"]


def test_services_that_write_during_a_restore_find_the_database_again(program: Program) -> None:
    """Sessions are ended; whoever connects meanwhile waits or is told to try again, and no third answer is given."""
    name = program.run("take")["name"]
    program.query("DELETE FROM odd.unlogged")
    ended = threading.Event()
    answers: set[str] = set()

    def visit() -> None:
        while not ended.is_set():
            try:
                with closing(connect(program.superuser)) as connection, connection.cursor() as cursor:
                    cursor.execute("SELECT count(*) FROM odd.unlogged")
                    answers.add("answer")
                    ended.wait(0.01)
            except Exception as error:
                answers.add(str(error))

    visitors = [threading.Thread(target=visit) for _ in range(3)]
    for visitor in visitors:
        visitor.start()
    idle = connect(program.superuser)
    try:
        assert program.run("restore", name)["changed"]
    finally:
        ended.set()
        for visitor in visitors:
            visitor.join()
    with closing(idle), pytest.raises(psycopg2.OperationalError), idle.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert "answer" in answers
    assert not [answer for answer in answers if "not currently accepting" in answer]
    assert program.query("SELECT count(*) FROM odd.unlogged") == [(1,)]


@pytest.mark.promise("restore-across-cutover-refused")
def test_a_restore_to_before_a_cutover_or_from_before_a_rollback_is_refused(program: Program) -> None:
    name = program.run("take")["name"]
    program.query("INSERT INTO migration.cutover_group (name, state, source_path) VALUES ('deploy', 'live', '/y.db')")
    program.query("UPDATE migration.cutover_group SET cutover_at = now() WHERE name = 'registry'")
    message = program.fail("restore", name)
    assert "cutover group deploy: its state is live now and in the backup pending" in message
    assert "cutover group registry: its cutover is at" in message
    assert "playbooks/rollback.yml" in message
    assert f"is no complete backup. Backups here: {name}" in program.fail("restore", "of-another-time")
    assert program.databases() == {program.superuser.database}


@pytest.mark.promise("restore-across-cutover-refused")
def test_a_lost_database_is_made_again(program: Program) -> None:
    """From the newest backup: an older one is from before a cutover, and only the newest can still tell that."""
    before = program.run("take")["name"]
    program.query("UPDATE migration.cutover_group SET cutover_at = '2026-02-01Z'")
    name = program.run("run")["name"]
    program.query(f"DROP DATABASE {program.superuser.database} WITH (FORCE)", "postgres")
    message = program.fail("restore", before)
    assert "its cutover is at 2026-02-01T00:00:00+00:00 in the newest backup" in message
    assert f"Restore {name}; only if that one is lost too" in message
    result = program.run("restore", name)
    assert result["old"] is None
    assert program.query("SELECT count(*) FROM odd.parts") == [(50,)]


@pytest.mark.promise("newest-proven-backup-kept")
def test_retention_keeps_by_age_and_by_count(program: Program, age: Age) -> None:
    """Of four old backups the newest two verified stay; the young one stays; what is not ours stays."""
    hoarding = program.change(keep_days=9999)
    old = [hoarding.run("run")["name"] for _ in range(3)] + [hoarding.run("take")["name"]]
    for name, hours in zip(old, (4000, 3000, 2000, 1500), strict=True):
        age(name, hours)
    (program.settings.directory / old[0] / "notes.txt").write_text("the operator's own")
    (program.settings.directory / "swarm-20200101T000000Z").mkdir()
    result = program.change(keep_days=30).run("take")
    # The last of them was never verified: it does not count, and age alone decides.
    assert set(result["removed"]) == {old[0], old[3]}
    assert program.names() == sorted([old[0], old[1], old[2], result["name"], "swarm-20200101T000000Z"])
    assert [entry.name for entry in (program.settings.directory / old[0]).iterdir()] == ["notes.txt"]
    recorded = {row[0] for row in program.query("SELECT name FROM migration.backup")}
    assert recorded == {old[1], old[2], result["name"]}


@pytest.mark.promise("newest-proven-backup-kept")
def test_the_newest_verified_backup_is_never_removed(program: Program, age: Age) -> None:
    changed = program.change(keep_count=1, keep_days=0)
    verified = changed.run("run")["name"]
    age(verified, 9999)
    assert changed.run("take")["removed"] == []
    assert verified in changed.names()


def test_a_verified_backup_whose_dump_is_gone_does_not_count(program: Program, age: Age) -> None:
    """Neither for retention, which would remove the last good one, nor for the ledger, which the cleanup trusts."""
    changed = program.change(keep_count=1, keep_days=9999)
    good, empty = changed.run("run")["name"], changed.run("run")["name"]
    for name in (good, empty):
        age(name, 2000)
    (program.settings.directory / empty / "database.dump").unlink()
    assert changed.change(keep_days=30).run("take")["removed"] == [empty]
    assert good in changed.names()
    broken = changed.run("run")["name"]
    (program.settings.directory / broken / "database.dump").write_bytes(b"")
    changed.run("take")
    assert program.query(f"SELECT verified_at FROM migration.backup WHERE name = '{broken}'") == [(None,)]


def test_the_ledger_is_made_to_say_what_the_disk_says(program: Program) -> None:
    """After a kill between the two, a directory that somebody removed, or a restored database."""
    first, second = program.run("run")["name"], program.run("run")["name"]
    program.query(f"DELETE FROM migration.backup WHERE name = '{first}'")
    shutil.rmtree(program.settings.directory / second)
    third = program.run("take")["name"]
    rows = program.query("SELECT name, verified_at IS NOT NULL FROM migration.backup ORDER BY name")
    assert rows == [(first, True), (third, False)]


@pytest.mark.promise("backup-due-after-cutover")
def test_a_backup_is_due_until_a_verified_one_is_newer_than_the_last_cutover(program: Program) -> None:
    assert "there is no verified backup" in program.run("run", "--if-needed", "--dry-run")["lines"][0]
    assert program.names() == []
    assert program.run("run", "--if-needed")["changed"]
    assert not program.run("run", "--if-needed")["changed"]
    program.query("UPDATE migration.cutover_group SET cutover_at = clock_timestamp()")
    assert "older than the last cutover" in program.run("run", "--if-needed", "--dry-run")["lines"][0]
    program.run("take")
    assert program.run("run", "--if-needed")["changed"], "one that no drill has proven does not count"
    assert not program.run("run", "--if-needed")["changed"]


@pytest.mark.promise("backup-alarm")
def test_the_check_complains_of_age_absence_and_damage(program: Program, age: Age) -> None:
    assert "no backup was ever proven to restore" in program.fail("check")
    name = program.run("take")["name"]
    assert "no backup was ever proven to restore" in program.fail("check")
    program.run("drill")
    assert program.run("check")["newest"] == name
    (program.settings.directory / name / "database.dump").write_bytes(b"")
    assert "its size is not" in program.fail("check")
    age(name, 37)
    assert "37.0 hours old, more than 36" in program.fail("check")
    age(name, -50)
    assert "hours in the future" in program.fail("check")


@pytest.mark.promise("backup-alarm")
def test_the_check_works_while_the_server_is_down(program: Program) -> None:
    program.run("run")
    down = program.change(login=program.superuser.__class__("127.0.0.1", 1, "x", "postgres"))
    down.run("check")
    assert "Cannot connect to PostgreSQL" in down.fail("take")


def test_a_copying_program_gets_what_the_settings_name_and_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "the caller's own")
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    address = "rest:https://keeper:hidden@backups.example/swarm"
    target = CopyTarget("restic", address, environment={"AWS_ACCESS_KEY_ID": "key"})
    environment = offsite_methods.environment(target)
    assert environment.keys() == {
        "PATH", "LC_ALL", "HOME", "RESTIC_REPOSITORY", "RESTIC_PASSWORD_FILE", "AWS_ACCESS_KEY_ID"
    }  # fmt: skip
    assert offsite_methods.shown(f"to {address}: no") == "to rest:https://keeper:***@backups.example/swarm: no"
    assert "key'" not in repr(target)


@pytest.mark.promise("copy-off-the-host")
@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed here; the Molecule scenario has it")
def test_copies_by_rsync_are_read_back_and_watched(program: Program, tmp_path: Path, age: Age) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    copying = program.change(copy=CopyTarget("rsync", str(target)))
    first = copying.run("run")
    assert first["copied"] == [first["name"]]
    source = program.settings.directory / first["name"]
    assert {p.name: p.read_bytes() for p in source.iterdir()} == {
        p.name: p.read_bytes() for p in (target / first["name"]).iterdir()
    }
    copying.run("check")
    shutil.rmtree(target)
    target.write_text("in the way")
    assert "its copy off this host is not" in copying.fail("take")
    assert len(copying.names()) == 3, "two backups, and what was copied"
    age(first["name"], 40)
    assert "the newest backup there is 40.0 hours old" in copying.fail("check")


@pytest.mark.promise("log-holds-no-row")
def test_a_row_that_cannot_be_restored_is_neither_in_the_log_nor_in_the_message(
    program: Program, server: Server
) -> None:
    program.query(
        "SET odd.allowed = 'canary-row'; CREATE TABLE odd.secrets (value text CONSTRAINT secret_right "
        "CHECK (value = coalesce(current_setting('odd.allowed', true), '') || E'\nand more of the canary')); "
        "INSERT INTO odd.secrets VALUES (E'canary-row\nand more of the canary')"
    )
    program.run("take")
    log = server.data.parent / "log"
    before = len(log.read_text())
    message = program.fail("drill")
    assert "secret_right" in message and "canary" not in message
    program.query("DO $$ BEGIN RAISE LOG 'written for the test'; END $$")
    written = log.read_text()[before:]
    assert "written for the test" in written
    assert "canary" not in written
