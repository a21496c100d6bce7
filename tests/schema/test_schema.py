"""Applying the numbered SQL files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible.module_utils.migration import ledger, schema
from ansible.module_utils.migration.connection import Login, connect, connected
from ansible.module_utils.migration.errors import MigrationError

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

SHIPPED = Path(__file__).parents[2] / "files" / "sql"
FIRST = {"name": "001_first.sql", "content": "CREATE SCHEMA app;\nCREATE TABLE app.t (id integer PRIMARY KEY);\n"}
SECOND = {"name": "002_second.sql", "content": "ALTER TABLE app.t ADD COLUMN name text;\n"}


def apply(connection: Connection, *files: dict[str, str], **options: Any) -> dict[str, Any]:
    """Apply files given as name and content."""
    result: dict[str, Any] = schema.apply(connection, schema.read_files(files), **options)
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


def test_each_file_is_applied_once_and_in_order(connection: Connection) -> None:
    assert apply(connection, SECOND, FIRST)["applied"] == ["001_first.sql", "002_second.sql"]
    assert apply(connection, FIRST, SECOND) == {"changed": False, "applied": [], "drift": []}


def test_check_mode_lists_and_writes_nothing(connection: Connection) -> None:
    assert apply(connection, FIRST, check_mode=True) == {"changed": True, "applied": ["001_first.sql"], "drift": []}
    assert not ledger.exists(connection)
    apply(connection, FIRST)
    assert apply(connection, FIRST, SECOND, check_mode=True)["applied"] == ["002_second.sql"]
    assert count(connection, "migration.applied_file") == 1


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


def test_a_new_file_below_an_applied_one_is_refused(connection: Connection) -> None:
    apply(connection, FIRST, {**SECOND, "name": "003_second.sql"})
    late = {"name": "002_late.sql", "content": "CREATE TABLE app.late (id integer)"}
    with pytest.raises(MigrationError, match=r"002_late\.sql: is new, but 003_second\.sql"):
        apply(connection, FIRST, {**SECOND, "name": "003_second.sql"}, late)


def test_all_bad_files_are_named_at_once() -> None:
    with pytest.raises(MigrationError) as error:
        schema.read_files(
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
    assert [statement.line for statement in schema.split_statements(content)] == [2, 3, 4]
    apply(connection, {"name": "001_odd.sql", "content": content})
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO app.t DEFAULT VALUES RETURNING v, app.f()")
        assert cursor.fetchone() == ("a;'b", 1)


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


def test_a_killed_run_leaves_whole_files_only(connection: Connection, login: Login, server: Any) -> None:
    apply(connection, FIRST)
    pid = connection.info.backend_pid
    suicide = {
        "name": "002_killed.sql",
        "content": f"CREATE TABLE app.u (id integer); SELECT pg_terminate_backend({pid})",
    }
    with pytest.raises(Exception, match=r"002_killed\.sql|connection"):
        apply(connection, FIRST, suicide)
    with closing(connect(login)) as again:
        assert count(again, "app.u") is None
        assert apply(again, FIRST, SECOND)["applied"] == ["002_second.sql"]
