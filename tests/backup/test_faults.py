"""What goes wrong around a backup: full disks, damaged files, wrong versions, kills. Nothing half done is left."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.backup import cli
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.backup import (
    databases as backup_server,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.backup import store as backup_store
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.backup.restore_test import SUFFIX
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres.client_programs import (
    version_of,
)
from tests.backup.conftest import Program
from tests.conftest import PASSWORD, PROJECT

# The program in a process of its own, which can be killed.
RUNNER = (
    "import sys; sys.path.insert(0, sys.argv[1]); from migration.backup import cli; sys.exit(cli.main(sys.argv[2:]))"
)


# What changes the content, and what the comparison then says.
OTHER_CONTENT = {
    "UPDATE odd.parts SET id = 99 WHERE id = 1": "table odd.part_1: 50 rows, and their hash differs",
    "DELETE FROM odd.unlogged": "table odd.unlogged: 0 rows, not 1",
    "SELECT setval('odd.downwards', -100)": "sequence odd.downwards: stands at -105, not -6",
    "DROP VIEW odd.seen": "missing: view odd.seen",
    "SELECT lo_put(oid, 0, 'x') FROM pg_largeobject_metadata": "large objects: 1 rows, and their hash differs",
    "CREATE TABLE odd.further ()": "table odd.further: not in the manifest",
    "ALTER TABLE odd.parts DROP CONSTRAINT parts_check": "missing: constraint odd.parts.parts_check",
    "ALTER TABLE odd.parts ENABLE ROW LEVEL SECURITY": "manifest: table odd.parts of swarm_owner with row security",
    "COMMENT ON COLUMN odd.parts.id IS 'later'": "manifest: comment on odd.parts.id later",
    "ALTER TYPE odd.mood ADD VALUE 'glad'": "missing: type odd.mood of swarm_owner 'sad'",
}
OTHER_RIGHTS = {
    "GRANT DELETE ON odd.part_1 TO swarm_deploy": "manifest: privilege odd.part_1 DELETE to swarm_deploy",
    "GRANT SELECT (id) ON odd.part_1 TO swarm_deploy": "manifest: privilege odd.part_1.id SELECT to swarm_deploy",
    "GRANT USAGE ON SCHEMA odd TO swarm_deploy": "manifest: privilege schema odd USAGE to swarm_deploy",
    "REVOKE ALL ON FUNCTION odd.twice(int) FROM PUBLIC": "missing: privilege function odd.twice(integer)",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA odd GRANT SELECT ON TABLES TO swarm_deploy": "manifest: default privilege of",
}


def start(program: Program, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUNNER, str(PROJECT / "plugins" / "module_utils"), *arguments]
    command += ["--settings", str(program.path)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def forked(program: Program, *arguments: str) -> ForkProcess:
    """Start the program in a copy of this process, which has loaded it: what is killed is its work, not its start."""
    command = [*arguments, "--settings", str(program.path)]
    process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(cli.main(command)))
    process.start()
    return process


def descendants(pid: int) -> list[tuple[int, str]]:
    """Return id and name of each process that another has started, directly or not, after one look at all of them."""
    children: dict[int, list[tuple[int, str]]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, rest = path.read_text().partition("(")[2].rsplit(")", 1)
            children.setdefault(int(rest.split()[1]), []).append((int(path.parent.name), name))
    found = list(children.get(pid, []))
    for member, _ in found:
        found += children.get(member, [])
    return found


@pytest.mark.promise("nothing-half-done")
def test_a_full_disk_leaves_nothing_behind_and_the_older_backup_alone(program: Program, small_disk: Path) -> None:
    small = program.change(directory=small_disk)
    first = small.run("run")["name"]
    program.query("CREATE TABLE odd.big AS SELECT gen_random_uuid() FROM generate_series(1, 100000)")
    assert "No space left on device" in small.fail("take")
    assert small.names() == [first]
    assert program.query("SELECT name FROM migration.backup") == [(first,)]
    small.run("check")
    program.query("DROP TABLE odd.big")
    small.run("run")


@pytest.mark.promise("nothing-half-done")
def test_a_dump_that_is_cut_off_half_way_is_no_backup(program: Program) -> None:
    first = program.run("run")["name"]
    program.query("CREATE TABLE odd.big AS SELECT n, md5(n::text) FROM generate_series(1, 300000) AS n")
    with start(program, "take") as process:
        deadline = time.monotonic() + 180
        while not (dumps := [child for child in descendants(process.pid) if child[1] == "pg_dump"]):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(dumps[0][0], signal.SIGKILL)
        _, errors = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "pg_dump" in errors
    assert "Traceback" not in errors
    assert program.names() == [first]
    assert program.query("SELECT name FROM migration.backup") == [(first,)]
    program.query("DROP TABLE odd.big")
    program.run("run")


@pytest.mark.promise("damaged-backup-loses-mark")
def test_a_truncated_dump_loses_its_mark(program: Program) -> None:
    name = program.run("run")["name"]
    dump = program.settings.directory / name / "database.dump"
    os.truncate(dump, dump.stat().st_size - 100)
    message = program.fail("drill")
    assert f"Backup {name} is damaged." in message
    assert str(dump) in message
    assert program.query("SELECT verified_at FROM migration.backup") == [(None,)]
    assert "no backup was ever proven" in program.fail("check")
    assert "is damaged" in program.fail("restore", name)
    assert program.databases() == {program.superuser.database}


def test_a_damaged_backup_loses_its_mark_while_the_server_is_down(program: Program) -> None:
    name = program.run("run")["name"]
    os.truncate(program.settings.directory / name / "database.dump", 100)
    down = program.change(login=program.superuser.__class__("127.0.0.1", 1, "x", "postgres"))
    assert f"Backup {name} is damaged." in down.fail("drill")
    assert "no backup was ever proven" in down.fail("check")
    program.change().run("take")
    assert program.query(f"SELECT verified_at FROM migration.backup WHERE name = '{name}'") == [(None,)]


@pytest.mark.promise("damaged-backup-loses-mark")
def test_a_changed_byte_is_found(program: Program) -> None:
    name = program.run("run")["name"]
    dump = program.settings.directory / name / "database.dump"
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)
    assert "its hash differs" in program.fail("drill", name)


@pytest.mark.promise("backup-proven-by-restore-test")
@pytest.mark.parametrize("otherwise", [OTHER_CONTENT, OTHER_RIGHTS], ids=["content", "rights"])
def test_a_dump_that_restores_to_something_else_is_found(program: Program, otherwise: dict[str, str]) -> None:
    """A dump of another content under the manifest of the first, with its hash: only the comparison can see it."""
    program.query("ALTER TABLE odd.parts ADD CONSTRAINT parts_check CHECK (id > 0)")
    name = program.run("take")["name"]
    for statement in otherwise:
        program.query(statement)
    other = program.run("take")["name"]
    directory = program.settings.directory
    (directory / other / "database.dump").replace(directory / name / "database.dump")
    manifest = json.loads((directory / name / "manifest.json").read_text())
    manifest["files"]["database.dump"] = backup_store.describe_file(directory / name / "database.dump")
    (directory / name / "manifest.json").write_text(json.dumps(manifest))
    message = program.fail("drill", name)
    assert "does not restore to what was saved" in message
    for expected in otherwise.values():
        assert expected in message
    assert program.databases() == {program.superuser.database}


@pytest.mark.parametrize("said", ["pg_dump (PostgreSQL) 16.4 (Debian 16.4-1)", "pg_dump (EnterpriseDB) 16.4"])
def test_whoever_has_made_a_program_it_tells_its_version(tmp_path: Path, said: str) -> None:
    program = tmp_path / "pg_dump"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    assert version_of(str(program)) == (16, "16.4")


def test_a_client_of_another_version_is_refused(program: Program, tmp_path: Path) -> None:
    other = Path(program.settings.programs).parents[1] / "pginstall18" / "bin"
    assert "its version is 18" in program.change(programs=str(other)).fail("take")
    missing = program.change(programs="/usr/lib/postgresql/{major}/nowhere")
    assert "/usr/lib/postgresql/16/nowhere/pg_dump" in missing.fail("take")
    assert program.names() == []


@pytest.mark.promise("scratch-database-of-others-kept")
def test_a_drill_database_left_behind_is_dropped(program: Program) -> None:
    scratch = backup_server.name_with(program.superuser.database, SUFFIX)
    program.run("take")
    program.query(f"CREATE DATABASE {scratch}", "postgres")
    program.run("drill")
    program.query(f"CREATE DATABASE {scratch}", "postgres")
    program.query("CREATE TABLE somebodys_own ()", scratch)
    assert "was not made by this program" in program.fail("drill")
    assert scratch in program.databases()
    program.query(f"COMMENT ON DATABASE {scratch} IS '{backup_server.WORK_MARK}drill'", "postgres")
    program.run("drill")
    assert program.databases() == {program.superuser.database}


def test_two_runs_at_once(program: Program) -> None:
    with backup_store.locked(program.settings.directory, 0):
        message = program.fail("take")
        assert f"process {os.getpid()} holds its lock" in message
        program.run("list")
    patient = program.change(lock_wait_seconds=240)
    processes = [forked(patient, "take") for _ in range(2)]
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(program.names()) == 2


@pytest.mark.promise("nothing-half-done")
def test_a_kill_at_any_moment_is_healed_by_the_next_run(program: Program) -> None:
    """Killed a little later each time, until one comes through: nothing of the others is left after the last run."""
    program.query("CREATE TABLE odd.more AS SELECT n, md5(n::text) FROM generate_series(1, 30000) AS n")
    delay, killed = 0.04, 0
    while True:
        process = forked(program, "run")
        process.join(delay)
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        killed += 1
        delay *= 1.3
    assert process.exitcode == 0
    assert killed > 2
    program.run("run")
    assert not [name for name in program.names() if name.startswith(".partial")]
    assert program.databases() == {program.superuser.database}
    recorded = {row[0] for row in program.query("SELECT name FROM migration.backup")}
    assert recorded == set(program.names())


def parts(program: Program) -> list[tuple[int]]:
    """Return the number of rows of a table, also if the server still commits what a program that was killed asked for.

    Whoever connects in that moment waits, and is told to try again.
    """
    statement = "SELECT count(*) FROM odd.parts"
    try:
        return program.query(statement)
    except MigrationError as error:
        assert "just been dropped or renamed" in str(error)
        return program.query(statement)


@pytest.mark.promise("restore-swaps-whole-databases")
def test_a_killed_restore_leaves_the_database_as_it_was(program: Program) -> None:
    program.query("CREATE TABLE odd.more AS SELECT n, md5(n::text) FROM generate_series(1, 30000) AS n")
    name = program.run("run")["name"]
    program.query("DELETE FROM odd.parts")
    delay, killed = 0.04, 0
    while True:
        process = forked(program, "restore", name)
        process.join(delay)
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        killed += 1
        delay *= 1.3
        # Before the swap or after it: never anything else, and always open to everybody.
        assert parts(program) in ([(0,)], [(50,)])
    assert process.exitcode == 0
    assert killed > 2
    assert program.query("SELECT count(*) FROM odd.parts") == [(50,)]
    assert not [name for name in program.databases() if name.endswith("_restore_new")]


def test_a_drill_that_is_asked_to_end_drops_its_database(program: Program) -> None:
    program.query("CREATE TABLE odd.more AS SELECT n, md5(n::text) FROM generate_series(1, 200000) AS n")
    program.run("take")
    scratch = backup_server.name_with(program.superuser.database, SUFFIX)
    process = forked(program, "drill")
    deadline = time.monotonic() + 180
    while scratch not in program.databases() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    process.join(180)
    assert process.exitcode
    assert program.databases() == {program.superuser.database}
    assert program.query("SELECT verified_at FROM migration.backup") == [(None,)]


@pytest.mark.promise("backup-password-hidden")
def test_the_password_reaches_no_argument_and_no_message(program: Program) -> None:
    program.query("CREATE TABLE odd.more AS SELECT n, md5(n::text) FROM generate_series(1, 30000) AS n")
    process = start(program, "run")
    seen: set[str] = set()
    while process.poll() is None:
        # Its own alone: other tests that run on this machine may show the same password.
        for member in (process.pid, *(pid for pid, _ in descendants(process.pid))):
            with suppress(OSError):
                seen.add(Path(f"/proc/{member}/cmdline").read_bytes().decode("utf-8", "replace"))
        time.sleep(0.02)
    output, errors = process.communicate()
    assert any("pg_dump" in line for line in seen)
    assert not [line for line in (*seen, output, errors) if PASSWORD in line]
    wrong = program.change(
        login=program.superuser.__class__("127.0.0.1", program.superuser.port, "x", "postgres", "wr0ng")
    )
    assert "wr0ng" not in wrong.fail("take")


def test_settings_that_cannot_work_are_refused(program: Program) -> None:
    content = json.loads(program.path.read_text())
    for change, expected in (
        ({"keep_count": 0}, "keep_count is below 1"),
        ({"directory": "backups"}, "no absolute path"),
        ({"copy": {"method": "ftp", "target": "x"}}, "not rsync or restic"),
        ({"copy": "rsync"}, "wrong or missing"),
        ({"keep_days": "nan"}, "keep_days is nan"),
        ({"keep_days": 1e300}, "keep_days is 1e+300"),
        ({"lock_wait_seconds": -1}, "lock_wait_seconds is -1"),
        ({"reserve_bytes": -1}, "reserve_bytes is below 0"),
        ({"login": []}, "wrong or missing"),
    ):
        program.path.write_text(json.dumps(content | change))
        assert expected in program.fail("list")
    program.path.write_text("{")
    assert "is no JSON" in program.fail("list")
