"""Applying the numbered SQL files."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import (
    Login,
    connect,
    connected,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres import schema, schema_files
from tests.conftest import PROGRAMS

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

SHIPPED = Path(__file__).parents[2] / "files" / "sql"
FIRST = {"name": "001_first.sql", "content": "CREATE SCHEMA app;\nCREATE TABLE app.t (id integer PRIMARY KEY);\n"}
SECOND = {"name": "002_second.sql", "content": "ALTER TABLE app.t ADD COLUMN name text;\n"}


def apply(connection: Connection, *files: dict[str, str], **options: Any) -> dict[str, Any]:
    """Apply files given as name and content."""
    result: dict[str, Any] = schema.apply(connection, schema_files.read_files(files), **options)
    return result


def count(connection: Connection, table: str) -> int | None:
    """Return the rows of a table, None if it does not exist."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s)", (table,))
        row = cursor.fetchone()
        if row is None or row[0] is None:
            return None
        cursor.execute(f"SELECT count(*) FROM {table}")
        row = cursor.fetchone()
    connection.rollback()
    return None if row is None else int(row[0])


def test_the_shipped_schema_is_the_plans(connection: Connection) -> None:
    files = [{"name": path.name, "content": path.read_text()} for path in SHIPPED.glob("*.sql")]
    assert apply(connection, *files)["applied"] == [
        "001_auth_schema.sql",
        "002_registry_schema.sql",
        "003_deploy_schema.sql",
        "004_verification_schema.sql",
    ]
    with connection.cursor() as cursor:
        lines = schema.describe_catalog(cursor)
    assert sum(line.startswith("schema ") for line in lines) == 4
    assert sum(line.startswith("table ") for line in lines) == 17
    assert sum(line.startswith("index CREATE INDEX idx_") for line in lines) == 25
    assert not apply(connection, *files)["changed"]


@pytest.mark.promise("sql-file-applied-once")
def test_each_file_is_applied_once_and_in_order(connection: Connection) -> None:
    assert apply(connection, SECOND, FIRST)["applied"] == ["001_first.sql", "002_second.sql"]
    assert apply(connection, FIRST, SECOND) == {"changed": False, "applied": [], "drift": [], "own_changes": []}


@pytest.mark.promise("dry-run-changes-nothing")
def test_check_mode_lists_and_writes_nothing(connection: Connection) -> None:
    assert apply(connection, FIRST, check_mode=True) == {
        "changed": True,
        "applied": ["001_first.sql"],
        "drift": [],
        "own_changes": [],
    }
    assert not ledger.exists(connection)
    apply(connection, FIRST)
    assert apply(connection, FIRST, SECOND, check_mode=True)["applied"] == ["002_second.sql"]
    assert count(connection, "migration.applied_file") == 1


@pytest.mark.promise("failing-sql-file-rolled-back")
def test_an_error_names_file_line_and_sqlstate_and_rolls_the_file_back(connection: Connection) -> None:
    broken = {
        "name": "002_broken.sql",
        "content": "-- a comment; with one\nCREATE TABLE app.u (id integer);\n\n\nSELECT 1,\n  nothing FROM app.t;\n",
    }
    with pytest.raises(MigrationError, match=r'002_broken\.sql:6: column "nothing" does not exist \(SQLSTATE 42703\)'):
        apply(connection, FIRST, broken)
    assert count(connection, "app.t") == 0, "the file before it stays applied"
    assert count(connection, "app.u") is None
    assert count(connection, "migration.applied_file") == 1
    repaired = {"name": "002_broken.sql", "content": "CREATE TABLE app.u (id integer);"}
    assert apply(connection, FIRST, repaired)["applied"] == ["002_broken.sql"]


@pytest.mark.promise("sql-files-checked-first")
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([{**FIRST, "content": FIRST["content"] + "-- edited"}, SECOND], "001_first.sql: was edited after"),
        ([SECOND], "001_first.sql: was applied and is missing now"),
        ([{**FIRST, "name": "001_renamed.sql"}, SECOND], "001_renamed.sql: was applied under the name 001_first.sql"),
    ],
)
def test_history_cannot_be_rewritten(connection: Connection, files: list[dict[str, str]], message: str) -> None:
    apply(connection, FIRST, SECOND)
    third = {"name": "003_third.sql", "content": "CREATE TABLE app.third (id integer);"}
    with pytest.raises(MigrationError, match=message):
        apply(connection, *files, third)
    assert count(connection, "app.third") is None


@pytest.mark.promise("sql-files-checked-first")
def test_a_new_file_below_an_applied_one_is_refused(connection: Connection) -> None:
    apply(connection, FIRST, {**SECOND, "name": "003_second.sql"})
    late = {"name": "002_late.sql", "content": "CREATE TABLE app.late (id integer)"}
    with pytest.raises(MigrationError, match=r"002_late\.sql: is new, but 003_second\.sql"):
        apply(connection, FIRST, {**SECOND, "name": "003_second.sql"}, late)


@pytest.mark.promise("sql-files-checked-first")
def test_all_bad_files_are_named_at_once() -> None:
    with pytest.raises(MigrationError) as error:
        schema_files.read_files(
            [
                {"name": "first.sql", "content": "SELECT 1"},
                {"name": "001_a.sql", "content": "SELECT 1;\nBEGIN;\nSELECT 2; commit"},
                {"name": "001_b.sql", "content": "SELECT 1"},
                {"name": "002_c.sql", "content": "\\connect other"},
                {"name": "003_d.sql", "content": "/* why */\nCREATE UNIQUE INDEX CONCURRENTLY i ON t (id)"},
            ]
        )
    assert [problem.where for problem in error.value.problems] == [
        "001_a.sql:2",
        "001_a.sql:3",
        "001_b.sql",
        "002_c.sql:1",
        "003_d.sql:2",
        "first.sql",
    ]


def test_semicolons_in_texts_bodies_and_comments_do_not_cut_a_statement(connection: Connection) -> None:
    content = """-- one; two
CREATE SCHEMA app;
CREATE TABLE app.t (v text DEFAULT 'a;''b', "odd;name" integer);
CREATE FUNCTION app.f() RETURNS integer LANGUAGE plpgsql AS $body$ BEGIN RETURN 1; END; $body$;
/* the end; */
"""
    assert [statement.line for statement in schema_files.split_statements(content)] == [2, 3, 4]
    apply(connection, {"name": "001_odd.sql", "content": content})
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO app.t DEFAULT VALUES RETURNING v, app.f()")
        assert cursor.fetchone() == ("a;'b", 1)


@pytest.mark.parametrize(
    "content",
    [
        "CREATE FUNCTION f() RETURNS integer LANGUAGE sql AS $body_1$ SELECT 1; SELECT 2; $body_1$;",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql\nBEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 2 END; END;",
        "CREATE RULE r AS ON DELETE TO t DO INSTEAD (SELECT 1; SELECT 2);",
        "/* outer /* inner; */ still; */ SELECT 1 -- end; ",
        "SELECT E'it\\'s; one', 'two;', \"three;\";",
        "SELECT 'x' LIKE'\\' ;",
        "SELECT 'dollars $$ ; ', 1;",
    ],
)
def test_what_psql_takes_as_one_statement_is_one(content: str) -> None:
    assert len(list(schema_files.split_statements(content))) == 1


@pytest.mark.promise("sql-files-checked-first")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("COPY app.t FROM STDIN;\n1\n\\.\n", "001_a.sql:1: 'COPY app.t FROM' needs a client"),
        ("SELECT 1;\nSET search_path = app;", "001_a.sql:2: 'SET search_path =' changes the session"),
        ("SET ROLE postgres", "changes the session"),
        ("SET LOCAL SESSION AUTHORIZATION postgres", "changes the session"),
        ("RESET ALL", "changes the session"),
        ("SELECT set_config('search_path', 'app', false)", "'SELECT set_config.* changes the session"),
        ("SELECT 1, set_config ( 'a.b', 'c', FALSE )", "changes the session"),
        ("SET client_encoding = 'LATIN1'", "changes the session"),
        ("SET standard_conforming_strings = off", "changes the session"),
        ("SET statement_timeout = 5000", "changes the session"),
        (r"\connect other", "is a command of psql"),
        ("-- why\nCREATE /* really */ INDEX\n CONCURRENTLY i ON t (id)", "001_a.sql:2: .* cannot run inside"),
        ("/* a */ BEGIN", "controls the transaction"),
        ("SELECT 1; RELEASE SAVEPOINT s", "controls the transaction"),
    ],
)
def test_what_would_break_the_transaction_is_refused(content: str, message: str) -> None:
    with pytest.raises(MigrationError, match=message):
        schema_files.read_files([{"name": "001_a.sql", "content": content}])


def dump_of(login: Login, *options: str) -> str:
    """Return what pg_dump -s writes of the schema, our ledger left out."""
    environment = {"PGPASSWORD": login.password or "", "PATH": "/usr/bin:/bin"}
    where = ["-h", login.host, "-p", str(login.port), "-U", login.user, f"--role={login.session_role}"]
    command = [str(PROGRAMS / "pg_dump"), "-s", "--exclude-schema=migration", *options, *where, login.database]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.mark.promise("sql-files-checked-first")
def test_what_pg_dump_writes_is_applied_as_it_is_and_changes_nothing_for_the_next_file(
    connection: Connection, schema_database: Login
) -> None:
    dump = dump_of(schema_database, "--no-owner", "--no-privileges")
    assert "set_config('search_path', '', false)" in dump and "SET lock_timeout = 0;" in dump
    if "\\restrict" not in dump:
        # Since 2025 it writes these two as well.
        dump = f"--\n\n\\restrict q1W2e3\n{dump}\n\\unrestrict q1W2e3\n\n"
    same = "SELECT 1 / (current_setting('search_path') <> '')::int, 1 / (current_setting('row_security') = 'on')::int"
    hidden = "DO $$ BEGIN PERFORM set_config('check_function_bodies', 'off', false); END $$"
    body = "SELECT 1 / (current_setting('check_function_bodies') = 'on')::int"
    contents = enumerate((dump, same, hidden, body), 1)
    files = [{"name": f"00{number}_a.sql", "content": content} for number, content in contents]
    assert len(apply(connection, *files)["applied"]) == 4
    assert apply(connection, *files)["changed"] is False
    with connected(schema_database) as other, other.cursor() as there, connection.cursor() as here:
        assert schema.describe_catalog(here) == schema.describe_catalog(there)
        assert len(schema.describe_catalog(here)) > 100


def test_a_dump_that_gives_its_tables_away_fails_by_name(connection: Connection, schema_database: Login) -> None:
    dump = dump_of(schema_database).replace("OWNER TO swarm_owner", "OWNER TO somebody_else")
    with pytest.raises(MigrationError, match=r"somebody_else.*Leave it out, as pg_dump -s --no-owner --no-privileges"):
        apply(connection, {"name": "001_dump.sql", "content": dump})


def test_a_time_limit_of_a_dump_does_not_hold_up_a_run(connection: Connection, login: Login) -> None:
    apply(connection, FIRST)
    with closing(connect(login)) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE app.t IN SHARE MODE")
        dump = {"name": "002_dump.sql", "content": "SET lock_timeout = 0;\nALTER TABLE app.t ADD COLUMN late text;"}
        with pytest.raises(MigrationError, match=r"002_dump\.sql:2: no lock within the time allowed"):
            apply(connection, FIRST, dump, fail_on_drift=False, lock_timeout_seconds=0.05)


def test_a_statement_that_postgresql_refuses_in_a_transaction_is_explained(connection: Connection) -> None:
    hidden = {"name": "002_hidden.sql", "content": "ALTER TABLE app.t DETACH PARTITION app.x CONCURRENTLY"}
    with pytest.raises(MigrationError, match=r"SQLSTATE 25001\)\. Write it in another way"):
        apply(connection, FIRST, hidden)


def test_a_search_path_of_one_file_is_neither_the_next_ones_nor_drift(connection: Connection) -> None:
    files = (
        FIRST,
        {
            "name": "002_path.sql",
            "content": "SET LOCAL search_path = app; ALTER TABLE t ADD FOREIGN KEY (id) REFERENCES t (id);",
        },
        {"name": "003_none.sql", "content": "CREATE TABLE t (id integer)"},
    )
    apply(connection, *files)
    assert count(connection, "public.t") == 0
    assert apply(connection, *files) == {"changed": False, "applied": [], "drift": [], "own_changes": []}


def test_what_exists_already_is_named_and_left_alone(server: Any, database: str, connection: Connection) -> None:
    server.execute("SET ROLE swarm_owner", "CREATE SCHEMA app", database=database)
    with pytest.raises(
        MigrationError, match=r'schema "app" already exists \(SQLSTATE 42P06\)\. If it was made by hand'
    ):
        apply(connection, FIRST)
    assert count(connection, "app.t") is None


def test_missing_rights_are_explained(login: Login, connection: Connection) -> None:
    stranger = replace(login, user="swarm_deploy", session_role=None)
    with connected(stranger) as other, pytest.raises(MigrationError, match="permission denied for database"):
        apply(other, FIRST)
    apply(connection, FIRST)
    with connected(stranger) as other, pytest.raises(MigrationError, match="permission denied for schema migration"):
        apply(other, FIRST)


def test_drift_of_triggers_generated_columns_and_schema_public_is_named(connection: Connection) -> None:
    file = {
        "name": "001_public.sql",
        "content": "CREATE TABLE public.mine (id integer, double integer GENERATED ALWAYS AS (id * 2) STORED);"
        "CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';",
    }
    apply(connection, file)
    assert apply(connection, file)["drift"] == []
    with connection.cursor() as cursor:
        cursor.execute("CREATE TRIGGER quiet BEFORE INSERT ON public.mine FOR EACH ROW EXECUTE FUNCTION nothing()")
        cursor.execute("ALTER TABLE public.mine ALTER COLUMN double DROP EXPRESSION")
    connection.commit()
    with pytest.raises(MigrationError) as error:
        apply(connection, file)
    assert "not from our files: trigger CREATE TRIGGER quiet BEFORE INSERT ON public.mine" in str(error.value)
    assert "missing: column public.mine.double integer generated (id * 2)" in str(error.value)


@pytest.mark.promise("drift-named")
def test_drift_is_named_object_by_object(connection: Connection) -> None:
    apply(connection, FIRST)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE app.t ADD COLUMN stray text; CREATE INDEX by_hand ON app.t (stray)")
        cursor.execute("ALTER TABLE app.t DROP CONSTRAINT t_pkey")
    connection.commit()
    with pytest.raises(MigrationError) as error:
        apply(connection, FIRST, SECOND)
    text = str(error.value)
    assert "not from our files: column app.t.stray text" in text
    assert "not from our files: index CREATE INDEX by_hand" in text
    assert "missing: constraint app.t.t_pkey PRIMARY KEY (id)" in text
    assert apply(connection, FIRST, SECOND, fail_on_drift=False)["applied"] == ["002_second.sql"]


@pytest.mark.promise("drift-named")
def test_rows_and_rebuilt_constraints_are_no_drift(connection: Connection) -> None:
    apply(connection, FIRST)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO app.t VALUES (1)")
        cursor.execute("ALTER TABLE app.t DROP CONSTRAINT t_pkey; ALTER TABLE app.t ADD PRIMARY KEY (id)")
    connection.commit()
    assert apply(connection, FIRST)["drift"] == []


def test_a_lock_that_is_not_to_be_had_is_tried_again_and_named(
    connection: Connection, login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(connection, FIRST)
    monkeypatch.setattr(schema, "LOCK_ATTEMPTS", 2)
    with closing(connect(login)) as other:
        with other.cursor() as cursor:
            cursor.execute("LOCK TABLE app.t IN ACCESS SHARE MODE")
        with pytest.raises(MigrationError, match=r"002_second\.sql:1: no lock within the time allowed, tried 2 times"):
            apply(connection, FIRST, SECOND, lock_timeout_seconds=0.1)
    assert apply(connection, FIRST, SECOND)["changed"]


def test_a_table_locked_against_everybody_is_named(connection: Connection, login: Login) -> None:
    apply(connection, FIRST, SECOND)
    with closing(connect(login)) as other, other.cursor() as cursor:
        cursor.execute("ALTER TABLE app.t ALTER COLUMN name SET DEFAULT 'x'; LOCK TABLE app.t")
        with pytest.raises(MigrationError, match="another session has a table locked"):
            apply(connection, FIRST, SECOND, lock_timeout_seconds=0.1)
    connection.rollback()


def test_a_second_run_at_the_same_time_names_the_first(connection: Connection, login: Login) -> None:
    with (
        connected(login) as other,
        ledger.locked(other, "schema"),
        pytest.raises(MigrationError, match=f"session {other.info.backend_pid} of swarm_migrator holds its lock"),
        ledger.locked(connection, "schema", wait_seconds=0.2),
    ):
        pytest.fail("the lock was given twice")


@pytest.mark.promise("sql-file-applied-once")
def test_two_runs_at_once_apply_each_file_once(connection: Connection, login: Login) -> None:
    slow = {"name": "002_slow.sql", "content": "CREATE TABLE app.slow (id integer); SELECT pg_sleep(0.5);"}
    with connected(login) as other, ThreadPoolExecutor() as pool:
        runs = [pool.submit(apply, one, FIRST, slow) for one in (connection, other)]
        applied = sorted(len(run.result()["applied"]) for run in runs)
    assert applied == [0, 2]
    assert count(connection, "migration.applied_file") == 2


@pytest.mark.promise("failing-sql-file-rolled-back")
def test_a_killed_run_leaves_whole_files_only(connection: Connection, login: Login, server: Any) -> None:
    killed = {"name": "002_killed.sql", "content": "CREATE TABLE app.u (id integer);\nSELECT pg_sleep(60)"}
    cut = server.end_when_asleep(connection.info.backend_pid)
    with pytest.raises(
        MigrationError,
        match=r"002_killed\.sql:2: .*Look at the server's log for why it ended the connection, then run again",
    ):
        apply(connection, FIRST, killed)
    cut.join()
    with closing(connect(login)) as again:
        assert count(again, "app.u") is None
        assert apply(again, FIRST, SECOND)["applied"] == ["002_second.sql"]


def test_a_ledger_of_an_older_release_is_completed(connection: Connection) -> None:
    apply(connection, FIRST)
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE migration.progress")
    connection.commit()
    assert apply(connection, FIRST, check_mode=True)["changed"]
    assert count(connection, "migration.progress") is None
    assert apply(connection, FIRST)["changed"]
    assert count(connection, "migration.progress") == 0
    assert not apply(connection, FIRST)["changed"]
