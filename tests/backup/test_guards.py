"""What is refused before anything is written: missing rights and roles, and disks without room. All by name."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from hashlib import md5
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.backup import (
    content as backup_content,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.backup import (
    databases as backup_server,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.backup import preflight
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.backup.restore_test import SUFFIX
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connect, sql
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres.content import table_sums
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres.foreign_objects import (
    read_foreign_objects,
)
from tests.backup.conftest import Program
from tests.conftest import MIGRATOR, OWNER, PROJECT

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from tests.conftest import Server

LATER = "CREATE TABLE odd.more AS SELECT n, md5(n::text) AS value FROM generate_series(1, 400000) AS n"


def change_manifest(program: Program, name: str, **changes: object) -> None:
    """Let the manifest of a backup say something else."""
    path = program.settings.directory / name / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def stranger(server: Server) -> Iterator[str]:
    """A role that owns nothing and is nobody's member."""
    server.execute("CREATE ROLE stranger")
    yield "stranger"
    server.execute("DROP ROLE stranger")


@pytest.mark.promise("backup-names-missing-rights")
def test_a_role_without_superuser_needs_what_the_refusal_names(server: Server, managed: Program) -> None:
    """Nothing granted: the backup is taken all the same. Each statement of the refusal then takes its problem away."""
    server.execute(f"ALTER ROLE {MIGRATOR} NOCREATEDB", f"REVOKE pg_signal_backend FROM {MIGRATOR}")
    name = managed.run("take")["name"]
    drill, restore = managed.fail("drill"), ""
    assert f"Backup {name} cannot be restored as role {MIGRATOR}." in drill
    assert f"role {MIGRATOR}: may not create databases. ALTER ROLE {MIGRATOR} CREATEDB;" in drill
    assert "pg_signal_backend" not in drill, "nobody's session is ended by a drill"
    managed.query("DELETE FROM odd.unlogged")
    for arguments in (("restore", name, "--dry-run"), ("restore", name)):
        restore = managed.fail(*arguments)
        assert f"ALTER ROLE {MIGRATOR} CREATEDB;" in restore
        assert f"may not end the sessions of other roles. GRANT pg_signal_backend TO {MIGRATOR};" in restore
    assert "no backup was ever proven" in managed.fail("check")
    assert managed.databases() == {managed.superuser.database}
    server.execute(f"ALTER ROLE {MIGRATOR} CREATEDB")
    assert managed.run("drill")["verified"]
    assert "CREATEDB" not in managed.fail("restore", name)
    server.execute(f"GRANT pg_signal_backend TO {MIGRATOR}")
    assert managed.run("restore", name)["changed"]
    assert managed.query("SELECT count(*) FROM odd.unlogged") == [(1,)]


@pytest.fixture
def eager_autovacuum(server: Server) -> Iterator[None]:
    """An autovacuum that looks at every database each second."""
    server.execute(
        "ALTER SYSTEM SET autovacuum = on", "ALTER SYSTEM SET autovacuum_naptime = 1", "SELECT pg_reload_conf()"
    )
    yield
    server.execute("ALTER SYSTEM RESET autovacuum", "ALTER SYSTEM RESET autovacuum_naptime", "SELECT pg_reload_conf()")


def test_a_database_that_autovacuum_looks_at_is_dropped_by_a_role_that_may_only_create_databases(
    server: Server, managed: Program, eager_autovacuum: None
) -> None:
    server.execute(f"REVOKE pg_signal_backend FROM {MIGRATOR}")
    settings, name = managed.settings, managed.superuser.database + SUFFIX
    with backup_server.maintenance(settings) as connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        comment = sql.Literal(backup_server.WORK_MARK + "a test")
        cursor.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), comment))
    # Each page costs a pause of 100 ms, so the worker is there for as long as the test needs.
    managed.query(
        "CREATE TABLE slow (value int) WITH (fillfactor = 10, autovacuum_vacuum_insert_threshold = 1, "
        "autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_cost_delay = 100)",
        name,
    )
    managed.query("INSERT INTO slow SELECT generate_series(1, 20000)", name)
    there = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND backend_type = 'autovacuum worker'"
    deadline = time.monotonic() + 180
    while managed.query(there, "postgres") == [(0,)]:
        assert time.monotonic() < deadline, "no autovacuum worker has come"
        time.sleep(0.1)
    backup_server.drop(settings, name)
    assert name not in managed.databases()


def test_an_owner_whose_role_is_not_ours_is_named(server: Server, managed: Program, stranger: str) -> None:
    name = managed.run("take")["name"]
    properties = json.loads((managed.settings.directory / name / "manifest.json").read_text())["properties"]
    change_manifest(managed, name, properties=properties | {"owner": stranger})
    what = f"role {MIGRATOR}: may not make {stranger} the owner of what is restored. GRANT {stranger} TO {MIGRATOR};"
    assert what in managed.fail("drill")
    assert managed.databases() == {managed.superuser.database}


def test_a_session_that_only_a_superuser_may_end_is_named_before_the_restore(managed: Program) -> None:
    name = managed.run("take")["name"]
    managed.query("DELETE FROM odd.unlogged")
    with closing(connect(managed.superuser)):
        message = managed.fail("restore", name)
    assert f"superuser postgres: has sessions in {managed.superuser.database}" in message
    assert managed.databases() == {managed.superuser.database}


@pytest.mark.promise("backup-names-missing-rights")
def test_roles_that_a_new_server_lacks_are_named_all_at_once(server: Server, program: Program) -> None:
    server.execute('CREATE ROLE "Gone away"', "CREATE ROLE gone_too")
    program.query('GRANT SELECT ON odd.part_1 TO "Gone away"')
    program.query(f"ALTER ROLE gone_too IN DATABASE {program.superuser.database} SET work_mem TO '8MB'")
    name = program.run("take")["name"]
    program.query('DROP OWNED BY "Gone away"')
    server.execute('DROP ROLE "Gone away"', "DROP ROLE gone_too")
    for message in (program.fail("drill"), program.fail("restore", name)):
        assert "role Gone away: does not exist on this server" in message
        assert "role gone_too: does not exist on this server" in message
        assert f"as roles.sql of {name} does" in message


@pytest.mark.promise("backup-names-missing-rights")
def test_what_the_role_cannot_read_is_named_all_at_once(server: Server, managed: Program, stranger: str) -> None:
    managed.query(
        f"CREATE SCHEMA hidden AUTHORIZATION {stranger}; CREATE TABLE hidden.one (); CREATE TABLE odd.own ();"
        f"ALTER TABLE odd.own OWNER TO {stranger}; ALTER SEQUENCE odd.downwards OWNER TO {stranger};"
        f"ALTER TABLE odd.part_1 ENABLE ROW LEVEL SECURITY; ALTER TABLE odd.part_1 OWNER TO {stranger};"
        f"GRANT SELECT ON odd.part_1 TO {OWNER}"
    )
    message = managed.fail("take")
    assert f"Role {OWNER} cannot read all that a backup holds." in message
    assert "hidden.one: its schema may not be used" in message
    assert "odd.own: may not be read" in message
    assert "odd.downwards: may not be read" in message
    assert "odd.part_1: its policies hide rows" in message
    more = " ".join(f"CREATE TABLE hidden.more_{number} ();" for number in range(20))
    managed.query(more)
    assert "the database: 4 more like these" in managed.fail("take")
    assert managed.names() == []
    managed.query(f"DROP SCHEMA hidden CASCADE; REASSIGN OWNED BY {stranger} TO {OWNER}")
    managed.run("take")
    managed.query(f"DROP OWNED BY {stranger}")


@pytest.mark.promise("backup-fills-no-disk")
def test_a_dump_is_ended_before_it_eats_up_the_reserve(program: Program, large_disk: Path) -> None:
    """The disk may be PostgreSQL's own: a full one would stop the server."""
    small = program.change(directory=large_disk, reserve_bytes=preflight.free_bytes(large_disk) - 1_500_000)
    first = small.run("take")["name"]
    program.query(LATER)
    message = small.fail("take")
    assert "pg_dump was ended before it filled the disk." in message
    assert str(large_disk) in message
    assert small.names() == [first]
    assert program.query("SELECT name FROM migration.backup") == [(first,)]
    (large_disk / "filler").write_bytes(b"x" * 2_000_000)
    assert "There is no room for a backup." in small.fail("take")
    (large_disk / "filler").unlink()
    program.query("DROP TABLE odd.more")
    small.run("take")


@pytest.mark.promise("backup-fills-no-disk")
def test_the_check_says_beforehand_that_the_next_backup_will_not_fit(program: Program, large_disk: Path) -> None:
    small = program.change(directory=large_disk)
    size = small.run("run")["bytes"]
    small.run("check")
    tight = small.change(reserve_bytes=preflight.free_bytes(large_disk) - size + 1)
    assert f"too few for another {size:,}" in tight.fail("check")


def test_a_disk_that_old_backups_have_filled_gets_room_by_the_next_run(program: Program, large_disk: Path) -> None:
    small = program.change(directory=large_disk, keep_count=1, keep_days=9999)
    first, second = small.run("run")["name"], small.run("run")["name"]
    for name in (first, second):
        change_manifest(small, name, taken_at="2020-01-01T00:00:00+00:00")
    reserve = preflight.free_bytes(large_disk) + 20_000
    full = small.change(keep_days=30, reserve_bytes=reserve)
    assert full.run("take")["removed"] == [first]
    assert second in full.names()


@pytest.mark.promise("backup-fills-no-disk")
def test_a_restore_that_cannot_fit_is_refused_before_it_begins(program: Program, server: Server) -> None:
    name = program.run("take")["name"]
    manifest = json.loads((program.settings.directory / name / "manifest.json").read_text())
    assert manifest["database_bytes"] > 1_000_000
    program.run("drill")
    change_manifest(program, name, database_bytes=10**15)
    program.query("DELETE FROM odd.unlogged")
    for message in (program.fail("drill"), program.fail("restore", name, "--dry-run"), program.fail("restore", name)):
        assert f"There is no room to restore backup {name}." in message
        assert str(server.data / "base") in message
        assert "1,000,000,000,000,000" in message
    assert program.databases() == {program.superuser.database}
    assert program.run("check")["newest"] == name, "a full disk says nothing against the backup"


def test_the_servers_disk_is_known_only_on_its_own_host_and_to_who_may_know(
    program: Program, managed: Program, server: Server
) -> None:
    with closing(connect(program.superuser)) as connection, connection.cursor() as cursor:
        assert preflight.server_disk(cursor) == server.data / "base"
    with closing(connect(managed.settings.login)) as connection, connection.cursor() as cursor:
        assert preflight.server_disk(cursor) is None


def test_a_directory_of_the_same_name_on_another_host_is_not_the_servers(
    program: Program, server: Server, tmp_path: Path
) -> None:
    """Where a server on another host keeps its data, this host may have something else."""
    (tmp_path / "base").mkdir()
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from migration.backup import preflight, settings\n"
        "from migration.core import connection\n"
        "from pathlib import Path\n"
        "login = settings.read(Path(sys.argv[2])).login\n"
        "print(preflight.server_disk(connection.connect(login).cursor()))"
    )
    run = shlex.join([sys.executable, "-c", script, str(PROJECT / "plugins" / "module_utils"), str(program.path)])
    seen = []
    for mount in ("true", f"mount --bind {tmp_path} {server.data}"):
        command = ["unshare", "--mount", "sh", "-c", f"{mount} && {run}"]
        result = subprocess.run(command, text=True, capture_output=True, check=False)
        if "Operation not permitted" in result.stderr or "permission denied" in result.stderr:
            pytest.skip("nothing can be mounted here")
        seen.append(result.stdout.strip() + result.stderr)
    assert seen == [str(server.data / "base"), "None"]


def test_a_restore_is_ended_before_it_fills_the_servers_disk(program: Program, server: Server) -> None:
    """With a reserve that the restored rows eat into, as if other things had been written meanwhile."""
    program.query(LATER)
    name = program.run("take")["name"]
    change_manifest(program, name, database_bytes=0)
    tight = program.change(reserve_bytes=preflight.free_bytes(server.data) - 4_000_000)
    message = tight.fail("drill")
    assert "pg_restore was ended before it filled the disk." in message
    assert program.databases() == {program.superuser.database}


def test_two_directories_do_not_drill_the_same_database_at_once(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts with timers for one server: the lock of a directory cannot know of the other."""
    monkeypatch.setattr(backup_server, "_SHORTEST_WAIT_SECONDS", 0)
    program.run("take")
    holder = replace(program.settings, directory=tmp_path / "other")
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with backup_server.alone(holder):
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert entered.wait(30)
        assert "started on another host or for another directory" in program.fail("drill")
    finally:
        leave.set()
        thread.join()
    program.run("drill")


def test_a_restore_waits_for_no_run_that_is_at_work_in_the_database(program: Program) -> None:
    name = program.run("take")["name"]
    program.query("DELETE FROM odd.unlogged")
    with closing(connect(program.superuser)) as connection, ledger.locked(connection, "group registry"):
        assert f"of another run is at work in database {program.superuser.database}" in program.fail("restore", name)
    assert program.run("restore", name)["changed"]


def test_a_prepared_transaction_is_named_before_the_restore(program: Program) -> None:
    name = program.run("take")["name"]
    program.query("DELETE FROM odd.unlogged")
    with closing(connect(program.superuser)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE odd.further ()")
        cursor.execute("PREPARE TRANSACTION 'half done'")
        connection.rollback()
        connection.autocommit = True
        try:
            message = program.fail("restore", name)
        finally:
            cursor.execute("ROLLBACK PREPARED 'half done'")
    assert "prepared transaction half done: is open in database" in message
    assert program.databases() == {program.superuser.database}


def test_the_scratch_database_of_a_drill_is_nobody_elses(program: Program) -> None:
    """Nobody but the owner may enter it: rows of the services lie in it."""
    scratch = backup_server.name_with(program.superuser.database, SUFFIX)
    program.query("CREATE TABLE odd.more AS SELECT n, md5(n::text) FROM generate_series(1, 100000) AS n")
    program.run("take")
    seen: set[bool] = set()
    ended = threading.Event()

    def look() -> None:
        with closing(connect(program.superuser)) as connection, connection.cursor() as cursor:
            connection.rollback()
            connection.autocommit = True
            while not ended.wait(0.02):
                cursor.execute(
                    "SELECT has_database_privilege('swarm_deploy', oid, 'CONNECT') FROM pg_database "
                    "WHERE datname = %s AND shobj_description(oid, 'pg_database') IS NOT NULL",
                    (scratch,),
                )
                seen.update(row[0] for row in cursor.fetchall())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        program.run("drill")
    finally:
        ended.set()
        watcher.join()
    assert False in seen


def test_another_user_of_the_host_is_refused(program: Program) -> None:
    os.chown(program.settings.directory, 65534, 65534)
    try:
        message = program.fail("take")
    finally:
        os.chown(program.settings.directory, 0, 0)
    assert "belongs to user nobody, and this runs as user root" in message
    assert program.names() == []


@pytest.fixture
def service_with_a_schema(program: Program) -> Iterator[Callable[[str], None]]:
    """Return a function that runs a statement as a service that may create what it likes in its own schema."""
    program.query("CREATE SCHEMA own AUTHORIZATION swarm_registry")

    def run(statement: str) -> None:
        login = replace(program.superuser, user="swarm_registry")
        with closing(connect(login)) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            connection.commit()

    yield run
    program.query("ALTER ROLE swarm_registry NOSUPERUSER")


def is_superuser(program: Program) -> bool:
    """Return whether the service has become a superuser."""
    return program.query("SELECT rolsuper FROM pg_roles WHERE rolname = 'swarm_registry'") == [(True,)]


BECOME_SUPERUSER = """
    LANGUAGE plpgsql AS $$ BEGIN
      BEGIN ALTER ROLE swarm_registry SUPERUSER; EXCEPTION WHEN OTHERS THEN NULL; END;
      RETURN {};
    END $$
"""


# Code that runs where a row is loaded, and what the refusal names.
BAITS = {
    "CREATE TABLE own.checked (i int CHECK (own.rise(i)))": "table own.checked",
    "CREATE DOMAIN own.number AS int CHECK (own.rise(VALUE)); CREATE TABLE own.some (i own.number)": "type own.number",
    "CREATE TABLE own.made (i int, j boolean GENERATED ALWAYS AS (own.rise(i)) STORED)": "table own.made",
}


@pytest.mark.promise("backup-runs-nobodys-code")
def test_a_restore_runs_no_code_of_a_service(program: Program, service_with_a_schema: Callable[[str], None]) -> None:
    """What a service owns is named, in the drill and in the restore, before a scratch database is made."""
    service_with_a_schema(
        f"CREATE FUNCTION own.rise(i int) RETURNS boolean IMMUTABLE {BECOME_SUPERUSER.format('true')}"
    )
    rows = "INSERT INTO own.checked VALUES (1); INSERT INTO own.some VALUES (1); INSERT INTO own.made VALUES (1)"
    service_with_a_schema(f"{'; '.join(BAITS)}; {rows}")
    name = program.run("take")["name"]
    for command in (("drill",), ("restore", name, "--dry-run"), ("restore", name)):
        program.query("DELETE FROM odd.unlogged")
        message = program.fail(*command)
        assert not is_superuser(program)
        assert "function own.rise(integer): belongs to swarm_registry, and a restore would run its code" in message
        for named in BAITS.values():
            assert f"{named}: belongs to swarm_registry" in message
        assert "schema own" not in message, "it holds no code itself"
    assert program.databases() == {program.superuser.database}
    # A database that is lost can be restored only as it was backed up: then a person may trust its owners.
    program.query("DELETE FROM odd.unlogged")
    assert program.run("restore", name, "--dry-run", "--trust", "swarm_registry")["changed"]
    assert "function own.rise" in program.fail("restore", name, "--dry-run", "--trust", "somebody_else")
    program.query(f"REASSIGN OWNED BY swarm_registry TO {OWNER}")
    program.run("run")


@pytest.mark.promise("backup-runs-nobodys-code")
def test_what_holds_no_code_or_is_as_trusted_as_the_owner_does_not_stop_a_drill(
    server: Server, program: Program
) -> None:
    """Extensions and schemas of an administrator without superuser, as on a managed server, and the owner's members."""
    # A database that is made later is dropped before the role is.
    server.execute("CREATE ROLE administrator")
    try:
        program.query(f"GRANT CREATE ON DATABASE {program.superuser.database} TO administrator")
        program.query("DROP EXTENSION plpgsql; SET ROLE administrator; CREATE EXTENSION plpgsql")
        program.query("CREATE SCHEMA elsewhere AUTHORIZATION administrator")
        program.query("ALTER SCHEMA public OWNER TO administrator")
        program.query(f"CREATE TABLE odd.of_a_member (i int); ALTER TABLE odd.of_a_member OWNER TO {MIGRATOR}")
        assert program.run("run")["verified"]
    finally:
        program.query("DROP OWNED BY administrator CASCADE")
        server.execute("DROP ROLE administrator")


@pytest.mark.promise("backup-runs-nobodys-code")
def test_what_a_service_makes_as_a_role_of_the_systems_own_is_found_too(program: Program) -> None:
    """PostgreSQL keeps no list of what belongs to pg_monitor and the like."""
    program.query("CREATE TABLE odd.bait (i int CHECK (query_to_xml('TABLE pg_class', true, true, '') IS NOT NULL))")
    program.query("ALTER TABLE odd.bait OWNER TO pg_monitor")
    program.query("CREATE FUNCTION odd.rise() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'")
    program.query("ALTER FUNCTION odd.rise() OWNER TO pg_monitor; CREATE INDEX ON odd.parts ((odd.rise()))")
    message = program.fail("run")
    assert "table odd.bait: belongs to pg_monitor" in message
    assert "function odd.rise(): belongs to pg_monitor" in message


def test_an_older_backup_of_a_table_with_a_column_called_t_still_restores(program: Program) -> None:
    """Its sum is that of the column alone. The rows are counted, and the other tables compared as ever."""
    program.query("CREATE TABLE odd.hidden (t int, other int); INSERT INTO odd.hidden VALUES (1, 2)")
    name = program.run("take")["name"]
    path = program.settings.directory / name / "manifest.json"
    manifest = json.loads(path.read_text())
    part = md5(b"1", usedforsecurity=False).hexdigest()
    assert manifest["tables"]["odd.hidden"]["hash"] != part
    manifest["tables"]["odd.hidden"]["hash"] = part
    path.write_text(json.dumps(manifest))
    assert "odd.hidden: 1 rows, and their hash differs" in program.fail("drill", name)
    path.write_text(json.dumps({**manifest, "format": 1}))
    assert program.run("drill", name)["verified"]
    manifest["tables"]["odd.hidden"]["rows"] = 2
    path.write_text(json.dumps({**manifest, "format": 1}))
    assert "odd.hidden: 1 rows, not 2" in program.fail("drill", name)


@pytest.mark.promise("backup-runs-nobodys-code")
def test_what_a_session_makes_for_itself_and_large_objects_do_not_stop_a_drill(program: Program) -> None:
    program.query(f"GRANT TEMPORARY ON DATABASE {program.superuser.database} TO swarm_registry")
    login = replace(program.superuser, user="swarm_registry")
    with closing(connect(login)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMPORARY TABLE mine (id serial PRIMARY KEY, value text);"
            "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'; SELECT lo_create(0)"
        )
        connection.commit()
        assert program.run("run")["verified"]


@pytest.mark.promise("backup-runs-nobodys-code")
def test_a_backup_reads_rows_without_their_owners_casts(
    program: Program, service_with_a_schema: Callable[[str], None]
) -> None:
    """The owner of a table says what `row::text` does: the sums of a backup, read as superuser, do not ask."""
    service_with_a_schema("CREATE TABLE own.bait (i int); INSERT INTO own.bait VALUES (1)")
    service_with_a_schema(
        "CREATE FUNCTION own.speak(own.bait) RETURNS text LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'it runs as %', current_user; END $$"
    )
    service_with_a_schema("CREATE CAST (own.bait AS text) WITH FUNCTION own.speak(own.bait)")
    assert program.run("take")["tables"]


def test_a_column_that_is_called_as_the_row_hides_no_other_column(program: Program) -> None:
    program.query("CREATE TABLE odd.hidden (t int, other int); INSERT INTO odd.hidden VALUES (1, 2)")
    with closing(connect(program.superuser)) as connection, connection.cursor() as cursor:
        before = table_sums(cursor, sql.Identifier("odd", "hidden"))
        cursor.execute("UPDATE odd.hidden SET other = 3")
        assert table_sums(cursor, sql.Identifier("odd", "hidden")) != before


ACT_AS_SUPERUSER = """
    CREATE FUNCTION own.act() RETURNS void LANGUAGE plpgsql AS
      $$ BEGIN EXECUTE 'COPY (SELECT 1) TO ' || quote_literal('{}'); EXCEPTION WHEN OTHERS THEN NULL; END $$;
    CREATE OR REPLACE FUNCTION own.rise(i int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
      $$ BEGIN PERFORM own.act(); RETURN true; END $$
"""


@pytest.mark.promise("backup-runs-nobodys-code")
@pytest.mark.parametrize(
    "bait",
    [
        "CREATE INDEX ON own.bait (own.rise(1))",
        "CREATE INDEX ON own.bait (i) WHERE own.rise(1)",
        "CREATE STATISTICS own.baited ON i, (own.rise(1)) FROM own.bait",
        "CREATE TABLE own.parts (i int) PARTITION BY LIST ((own.rise(1) = (i > 0)));"
        "CREATE TABLE own.part PARTITION OF own.parts DEFAULT",
    ],
    ids=["index", "condition of an index", "statistics", "partition key"],
)
def test_a_backup_plans_no_query_of_a_strangers_table(
    program: Program, server: Server, service_with_a_schema: Callable[[str], None], bait: str
) -> None:
    """The planner evaluates what is constant in them, with the rights of whoever reads the table."""
    proof = server.data / f"proof_{program.superuser.database}"
    service_with_a_schema("CREATE FUNCTION own.rise(i int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'")
    service_with_a_schema(f"CREATE TABLE own.bait (i int); INSERT INTO own.bait VALUES (1), (2); {bait}")
    service_with_a_schema(ACT_AS_SUPERUSER.format(proof))
    name = program.run("take")["name"]
    assert not proof.exists()
    assert program.run("list")
    tables = json.loads((program.settings.directory / name / "manifest.json").read_text())["tables"]
    assert tables["own.bait"]["rows"] == 2
    program.query("DELETE FROM odd.unlogged")
    program.fail("restore", name, "--dry-run")
    assert not proof.exists(), "the present database is read in the same way"
    # The bait is one: whoever plans a query as superuser falls for it.
    program.query("SELECT count(*) FROM own.bait")
    if "PARTITION" not in bait:
        assert proof.exists()


WITHOUT_CODE = """
CREATE TYPE own.mood AS ENUM ('glad', 'sad');
CREATE DOMAIN own.age AS int DEFAULT 1 CHECK (VALUE BETWEEN 0 AND 200);
CREATE TABLE own.people (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), number serial, name text NOT NULL, mood own.mood DEFAULT 'glad',
  age own.age, made timestamptz DEFAULT now(), kind varchar(9) DEFAULT 'a',
  upper_name text GENERATED ALWAYS AS (upper(name)) STORED,
  CHECK (kind IN ('a', 'b')), CHECK (number >= 0 AND length(name) > 0 OR name IS NULL), CHECK (name COLLATE "C" <> 'x'),
  CHECK (CASE kind WHEN 'a' THEN coalesce(age, 0) >= 0 ELSE greatest(age::int, 1) < 1000 END),
  CHECK (nullif(name, '') IS DISTINCT FROM 'y' AND (age > 0) IS NOT FALSE AND name ~ '^.'));
CREATE INDEX ON own.people (lower(name)) WHERE mood = 'sad';
CREATE STATISTICS own.of_names ON (lower(name)), kind FROM own.people;
CREATE TABLE own.pets (
  id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, owner uuid REFERENCES own.people ON DELETE CASCADE,
  data jsonb DEFAULT '{}' CHECK (jsonb_typeof(data) = 'object'), tags text[] DEFAULT ARRAY['a', 'b'],
  day date DEFAULT CURRENT_DATE, CHECK (data ? 'name' OR data = '{}'), CHECK (tags[1] <> ''));
INSERT INTO own.people (name, age) SELECT E'a\tb\n' || n, n FROM generate_series(1, 50) AS n;
INSERT INTO own.pets (owner) SELECT id FROM own.people
"""


@pytest.mark.promise("backup-runs-nobodys-code")
def test_every_server_knows_tables_without_code(fetched_server: Server, fetched_connection: Connection) -> None:
    """The servers differ in how they call the parts of an expression."""
    login = replace(fetched_server.superuser, database=fetched_connection.info.dbname)
    with closing(connect(login)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA own AUTHORIZATION swarm_registry; SET ROLE swarm_registry")
        cursor.execute(WITHOUT_CODE)
        cursor.execute("RESET ROLE")
        assert read_foreign_objects(cursor) == []


@pytest.mark.promise("backup-runs-nobodys-code")
def test_what_calls_nothing_of_a_stranger_is_restored_and_compared(
    program: Program, service_with_a_schema: Callable[[str], None]
) -> None:
    """Tables as Django, Prisma and Knex make them: their owner has written no code."""
    service_with_a_schema(WITHOUT_CODE)
    manifest = program.run("run")
    assert manifest["verified"]
    path = program.settings.directory / manifest["name"] / "manifest.json"
    assert json.loads(path.read_text())["foreign_objects"] == []
    program.query("DELETE FROM own.pets")
    lines = "\n".join(program.run("restore", manifest["name"])["lines"])
    assert "every count and hash equal" in lines
    assert program.query("SELECT count(*), count(DISTINCT owner) FROM own.pets") == [(50, 50)]


@pytest.mark.promise("backup-names-missing-rights")
def test_a_role_without_superuser_restores_a_strangers_table_once_it_may_give_it_back(
    server: Server, managed: Program, service_with_a_schema: Callable[[str], None]
) -> None:
    service_with_a_schema("CREATE TABLE own.people (id serial PRIMARY KEY, name text CHECK (name <> ''))")
    service_with_a_schema("INSERT INTO own.people (name) VALUES ('Ada')")
    managed.query(f"GRANT USAGE ON SCHEMA own TO {OWNER}; GRANT SELECT ON ALL TABLES IN SCHEMA own TO {OWNER}")
    managed.query(f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA own TO {OWNER}")
    statement = f"GRANT swarm_registry TO {MIGRATOR};"
    assert f"may not make swarm_registry the owner of what is restored. {statement}" in managed.fail("run")
    server.execute(statement)
    try:
        # What it did as a member of the owner it does as the owner now.
        server.execute(f"GRANT swarm_registry TO {OWNER}")
        assert managed.run("run")["verified"]
    finally:
        server.execute(f"REVOKE swarm_registry FROM {MIGRATOR}, {OWNER}")


@pytest.mark.promise("backup-names-missing-rights")
def test_nobody_need_be_given_what_a_restore_makes_without_an_owner_or_not_at_all(
    server: Server, managed: Program, stranger: str
) -> None:
    """An extension that the provider's administrator has made, and what another role's session has for itself."""
    database = sql.Identifier(managed.superuser.database)
    with closing(connect(managed.superuser)) as connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("GRANT CREATE, TEMPORARY ON DATABASE {} TO stranger").format(database))
        cursor.execute("SET ROLE stranger; CREATE TEMPORARY TABLE of_a_session (id serial PRIMARY KEY, name text)")
        connection.commit()
        try:
            assert managed.run("run")["verified"]
            # The only extension of this server that needs no superuser; a restore finds the server's own in its place.
            cursor.execute("RESET ROLE; DROP EXTENSION plpgsql CASCADE; SET ROLE stranger; CREATE EXTENSION plpgsql")
            assert preflight.read_needs(cursor)["owners"] == [OWNER]
        finally:
            connection.rollback()
            cursor.execute("RESET ROLE; DROP OWNED BY stranger")
            connection.commit()


@pytest.mark.promise("backup-runs-nobodys-code")
@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("CREATE TABLE own.bait (i int CHECK (query_to_xml('TABLE pg_class', true, true, '') IS NOT NULL))", "table"),
        ("CREATE TABLE own.bait (i int CHECK (set_config('role', 'none', false) <> ''))", "table"),
        ("CREATE DOMAIN own.bait AS text CHECK (pg_read_file(VALUE) <> '')", "type"),
        ("CREATE TYPE own.bait AS RANGE (subtype = int)", "type"),
        ("CREATE TABLE own.bait (i int CHECK (ROW(i, i) < ROW(1, 2)))", "table"),
        ("CREATE TABLE own.bait (i int DEFAULT own.one())", "table"),
        ("CREATE TABLE own.bait (i int, EXCLUDE ((own.one()) WITH =))", "table"),
        ("CREATE AGGREGATE own.bait (int) (sfunc = own.add, stype = int)", "function own.bait(integer)"),
        ("CREATE OPERATOR own.+ (leftarg = int, rightarg = int, procedure = own.add)",
         "operator own.+(integer,integer)"),
        ("CREATE TYPE own.a AS ENUM ('a'); CREATE FUNCTION own.bait(own.a) RETURNS text LANGUAGE sql AS 'SELECT 1';"
         "CREATE CAST (own.a AS text) WITH FUNCTION own.bait(own.a) AS IMPLICIT", "function own.bait(own.a)"),
    ],
)  # fmt: skip
def test_what_a_stranger_lets_the_server_do_is_named(
    program: Program, service_with_a_schema: Callable[[str], None], code: str, named: str
) -> None:
    """Functions of the server itself write files and run queries too; what is not known to be harmless is code."""
    service_with_a_schema("CREATE FUNCTION own.one() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'")
    service_with_a_schema("CREATE FUNCTION own.add(int, int) RETURNS int LANGUAGE sql AS 'SELECT $1 + $2'")
    service_with_a_schema(code)
    with closing(connect(program.superuser)) as connection, connection.cursor() as cursor:
        cursor.execute("SET search_path TO ''")
        named = named if " " in named else f"{named} own.bait"
        assert [named, "swarm_registry"] in read_foreign_objects(cursor)


@pytest.mark.promise("backup-runs-nobodys-code")
def test_what_somebody_else_has_made_of_a_strangers_function_is_named(
    program: Program, service_with_a_schema: Callable[[str], None]
) -> None:
    """A materialized view is filled with the rights of its owner, so with those of the owner of the database."""
    service_with_a_schema("CREATE FUNCTION own.rise() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    service_with_a_schema("CREATE VIEW own.bait AS SELECT own.rise() AS i")
    program.query(f"GRANT USAGE ON SCHEMA own TO {OWNER}; GRANT SELECT ON own.bait TO {OWNER}")
    program.query("CREATE MATERIALIZED VIEW odd.of_a_function AS SELECT own.rise()")
    program.query("CREATE MATERIALIZED VIEW odd.of_a_view AS SELECT * FROM own.bait")
    program.query(f"ALTER TABLE odd.of_a_function OWNER TO {OWNER}; ALTER TABLE odd.of_a_view OWNER TO {OWNER}")
    message = program.fail("run")
    assert "function own.rise(): belongs to swarm_registry" in message
    assert "view own.bait: belongs to swarm_registry" in message


@pytest.mark.promise("backup-runs-nobodys-code")
def test_code_that_a_restore_does_not_run_is_restored_and_compared(
    program: Program, service_with_a_schema: Callable[[str], None]
) -> None:
    """Triggers, rules, policies and views: what they call would act with the rights of the session, if it ran."""
    service_with_a_schema(f"CREATE FUNCTION own.rise(i int) RETURNS boolean {BECOME_SUPERUSER.format('true')}")
    service_with_a_schema(f"CREATE FUNCTION own.touched() RETURNS trigger {BECOME_SUPERUSER.format('NEW')}")
    service_with_a_schema(
        "CREATE TABLE own.bait (i int PRIMARY KEY); CREATE TABLE own.child (i int REFERENCES own.bait);"
        "INSERT INTO own.bait VALUES (1); INSERT INTO own.child VALUES (1);"
        "CREATE TRIGGER touched BEFORE INSERT OR UPDATE ON own.bait FOR EACH ROW EXECUTE FUNCTION own.touched();"
        "CREATE TRIGGER emptied AFTER INSERT ON own.child FOR EACH STATEMENT EXECUTE FUNCTION own.touched();"
        "ALTER TABLE own.bait ENABLE ALWAYS TRIGGER touched;"
        "CREATE RULE risen AS ON INSERT TO own.child DO ALSO SELECT own.rise(1);"
        "CREATE POLICY risen ON own.bait USING (own.rise(i)); ALTER TABLE own.bait ENABLE ROW LEVEL SECURITY;"
        "CREATE VIEW own.seen AS SELECT own.rise(i) FROM own.bait;"
        "CREATE MATERIALIZED VIEW own.kept AS SELECT own.rise(i) FROM own.bait;"
        "CREATE VIEW own.seen_again AS SELECT * FROM own.seen;"
        "CREATE PROCEDURE own.proceed() LANGUAGE sql BEGIN ATOMIC SELECT own.rise(1); END"
    )
    manifest = program.run("run")
    assert manifest["verified"]
    assert not is_superuser(program)
    program.query("DELETE FROM odd.unlogged")
    assert "every count and hash equal" in "\n".join(program.run("restore", manifest["name"])["lines"])
    assert not is_superuser(program)
    assert program.query("SELECT count(*) FROM pg_trigger WHERE tgname IN ('touched', 'emptied')") == [(2,)]


@pytest.mark.promise("backup-runs-nobodys-code")
def test_a_view_in_the_place_of_a_table_is_not_read(
    program: Program, service_with_a_schema: Callable[[str], None]
) -> None:
    """As when its owner exchanges it after the names of the tables were read."""
    service_with_a_schema(f"CREATE FUNCTION own.rise() RETURNS int {BECOME_SUPERUSER.format(1)}")
    service_with_a_schema("CREATE VIEW own.bait AS SELECT own.rise() AS i")
    with closing(connect(program.superuser)) as connection, connection.cursor() as cursor:
        backup_content.prepare_session(cursor)
        with pytest.raises(psycopg2.Error, match="access to non-system view"):
            table_sums(cursor, sql.Identifier("own", "bait"))
    assert not is_superuser(program)
