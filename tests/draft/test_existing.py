"""A draft is mapped onto tables that an application has made, and the engine moves the rows there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import parse_group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.discovery import existing_tables
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.draft import Draft
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.existing import map_onto
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.mapping import group_lines
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.page import table_lines
from tests.conftest import MIGRATOR, OWNER, Server
from tests.engine.support import rehearse

from .support import draft_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Prisma names tables and columns after its models, the SQLite file has grown by hand.
SOURCE = """
CREATE TABLE users (id INTEGER PRIMARY KEY, full_name TEXT, password_hash TEXT, created_at INTEGER, nickname TEXT);
INSERT INTO users VALUES (1, 'ada', 'x1', 1700000000, NULL), (2, 'bob', 'x2', 1700000001, NULL);
CREATE TABLE order_items (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES users, qty INTEGER);
INSERT INTO order_items VALUES (1, 1, 3);
CREATE TABLE _prisma_migrations (id TEXT PRIMARY KEY, checksum TEXT);
INSERT INTO _prisma_migrations VALUES ('sqlite', 'a');
CREATE TABLE scratch (x TEXT);
"""
TARGET = """
CREATE SCHEMA shop;
CREATE TABLE shop."User" (id integer PRIMARY KEY, "fullName" text, "passwordHash" text, "createdAt" timestamptz);
CREATE TABLE shop."OrderItem" (id integer PRIMARY KEY, "userId" integer REFERENCES shop."User", qty integer);
CREATE TABLE shop._prisma_migrations (id text PRIMARY KEY, checksum text);
INSERT INTO shop._prisma_migrations VALUES ('postgresql', 'b');
"""


def execute(connection: Connection, statements: str) -> None:
    """Execute statements and commit them."""
    with connection.cursor() as cursor:
        cursor.execute(statements)
    connection.commit()


def mapped(drafted: Draft, login: Login, *schemas: str) -> Draft:
    """Return a draft as it is mapped onto the tables of the server."""
    return map_onto({"app": drafted}, existing_tables.read(login, schemas or ("shop",)))["app"]


def written(drafted: Draft, uncomment: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the mapping as it is written, with some comments taken for what they propose."""
    text = "\n".join(["groups:", *group_lines(drafted.mapping, drafted.choices, drafted.notes), "    services: []"])
    for line in uncomment:
        assert f"# {line}\n" in text
        text = text.replace(f"# {line}\n", line.replace("\n      # ", "\n      ") + "\n")
    (entry,) = yaml.safe_load(text)["groups"]
    found: dict[str, Any] = entry
    return found


@pytest.mark.promise("discover-maps-existing-tables")
def test_tables_and_columns_in_another_spelling_are_mapped_and_moved(
    connection: Connection, login: Login, tmp_path: Path
) -> None:
    execute(connection, ledger.CREATE_LEDGER + TARGET)
    drafted = mapped(draft_of(tmp_path, SOURCE), login)
    assert (drafted.sql, drafted.questions) == ("", [])
    entry = written(drafted)
    assert entry["ignored_tables"] == ["_prisma_migrations"]
    assert entry["tables"] == [
        {
            "source": "order_items",
            "target": "shop.OrderItem",
            "columns": {"user_id": {"target": "userId"}},
        },
        {
            "source": "users",
            "target": "shop.User",
            "columns": {
                "full_name": {"target": "fullName"},
                "password_hash": {"secret": True, "target": "passwordHash"},
                "created_at": {"target": "createdAt", "epoch_unit": "seconds"},
            },
        },
    ]
    report = rehearse(connection, parse_group(entry), tmp_path)["report"]
    assert {table["target"]: table["equal"] for table in report["tables"]} == {
        "shop.User": True,
        "shop.OrderItem": True,
    }
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM shop._prisma_migrations")
        assert cursor.fetchall() == [("postgresql",)]


@pytest.mark.promise("discover-maps-existing-tables")
def test_what_is_not_certain_is_a_decision_at_its_place(connection: Connection, login: Login, tmp_path: Path) -> None:
    execute(
        connection,
        ledger.CREATE_LEDGER
        + """CREATE SCHEMA shop; CREATE SCHEMA old;
        CREATE TABLE shop.users (id integer PRIMARY KEY, name text, team text NOT NULL, alias text);
        INSERT INTO shop.users VALUES (7, 'admin', 'all');
        CREATE TABLE shop."Order" (id integer PRIMARY KEY);
        CREATE TABLE old."order" (id integer PRIMARY KEY);
        CREATE TABLE shop.audit_logs (id integer PRIMARY KEY, line text);""",
    )
    drafted = draft_of(
        tmp_path,
        """CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, alias_name TEXT);
        INSERT INTO users VALUES (1, 'ada', 'a');
        CREATE TABLE orders (id INTEGER PRIMARY KEY);
        INSERT INTO orders VALUES (1);
        CREATE TABLE audit_log_2 (id INTEGER PRIMARY KEY, line TEXT);
        INSERT INTO audit_log_2 VALUES (1, 'x');
        CREATE TABLE log (line TEXT);
        INSERT INTO log VALUES ('x')""",
    )
    drafted = mapped(drafted, login, "shop", "old")
    asked = {question.where: question.what for question in drafted.questions}
    assert asked.keys() == {"users", "users.alias_name", "users.team", "orders", "audit_log_2", "log"}
    assert "holds 1 row already" in asked["users"]
    assert "may be old.order or shop.Order" in asked["orders"]
    assert [table["source"] for table in written(drafted)["tables"]] == ["users"]
    # Each comment names what it is about.
    lines = "\n".join(group_lines(drafted.mapping, drafted.choices, drafted.notes))
    assert "      # DECIDE: log: it holds 1 row, and no table of shop, old has that name." in lines
    assert "      # - source: log\n      #   target: SCHEMA.TABLE\n" in lines
    entry = written(
        drafted,
        (
            "- source: audit_log_2",
            "  target: shop.audit_logs",
            # Of two proposals a person takes one.
            "- source: orders\n      #   target: shop.Order",
            "alias_name: {target: alias}",
        ),
    )
    assert {table["source"]: table["target"] for table in entry["tables"]} == {
        "users": "shop.users",
        "orders": "shop.Order",
        "audit_log_2": "shop.audit_logs",
    }
    users = next(table for table in entry["tables"] if table["source"] == "users")
    assert users["columns"] == {"alias_name": {"target": "alias"}}
    users["computed"] = {"team": "'all'"}
    entry["ignored_tables"] = ["log"]
    with pytest.raises(MigrationError, match=r"shop\.users"):
        rehearse(connection, parse_group(entry), tmp_path)
    execute(connection, "TRUNCATE shop.users")
    report = rehearse(connection, parse_group(entry), tmp_path)["report"]
    assert all(table["equal"] for table in report["tables"])


@pytest.mark.promise("discover-maps-existing-tables")
def test_a_match_that_is_not_exact_has_its_reason_in_the_draft_and_on_the_page(
    connection: Connection, login: Login, tmp_path: Path
) -> None:
    target = """CREATE SCHEMA shop;
    CREATE TABLE shop.bases (id integer PRIMARY KEY, "userId" text, keys text, tags jsonb NOT NULL)"""
    execute(connection, ledger.CREATE_LEDGER + target)
    source = """CREATE TABLE basis (id INTEGER PRIMARY KEY, user_id TEXT, key TEXT, tag TEXT);
    INSERT INTO basis VALUES (1, 'u', 'k', 'red')"""
    drafted = mapped(draft_of(tmp_path, source), login)
    lines = list(group_lines(drafted.mapping, drafted.choices, drafted.notes))
    assert "      # basis is matched with shop.bases without regard to plural and singular." in lines
    assert "      # Columns matched without regard to how words are joined: user_id." in lines
    assert "      # Columns matched without regard to plural and singular: key." in lines
    shown = "\n".join(table_lines(drafted))
    assert "matched without regard to plural and singular.\n" in shown
    assert "| user\\_id | TEXT | text | 1 | matched without regard to how words are joined |" in shown
    # Texts become JSON only if a person says so.
    assert [question.where for question in drafted.questions] == ["basis.tag", "basis.tags"]
    assert "its target may be tags, which is jsonb and not text" in drafted.questions[0].what
    (table,) = written(drafted)["tables"]
    assert table["columns"] == {"user_id": {"target": "userId"}, "key": {"target": "keys"}}
    assert "          # tag: {target: tags}" in lines


def test_rows_that_refer_to_no_row_are_a_decision_whatever_the_types_are(
    connection: Connection, login: Login, tmp_path: Path
) -> None:
    execute(connection, ledger.CREATE_LEDGER + TARGET)
    drafted = mapped(draft_of(tmp_path, SOURCE + "INSERT INTO order_items VALUES (2, 99, 1);"), login)
    assert [question.where for question in drafted.questions] == ["order_items.user_id"]
    entry = written(drafted)
    with pytest.raises(MigrationError, match="does not exist"):
        rehearse(connection, parse_group(entry), tmp_path)
    text = "\n".join(group_lines(drafted.mapping, drafted.choices, drafted.notes))
    assert "# user_id: {target: userId, orphan: set_null}\n" in text


def test_tables_of_another_owner_are_named_with_the_statement(
    server: Server, connection: Connection, login: Login, tmp_path: Path
) -> None:
    execute(connection, "CREATE SCHEMA shop; CREATE TABLE shop.users (id integer PRIMARY KEY)")
    server.execute(
        f"ALTER TABLE shop.users OWNER TO {MIGRATOR}",
        f"GRANT SELECT ON shop.users TO {OWNER}",
        database=login.database,
    )
    drafted = mapped(draft_of(tmp_path, "CREATE TABLE users (id INTEGER PRIMARY KEY)"), login)
    (question,) = drafted.questions
    assert f"belongs to the role {MIGRATOR}, and rows are moved as {OWNER}" in question.what
    statement = question.fix.partition(": ")[2]
    assert statement == f"ALTER TABLE shop.users OWNER TO {OWNER};"
    server.execute(statement, database=login.database)
    (tmp_path / "again").mkdir()
    assert mapped(draft_of(tmp_path / "again", "CREATE TABLE users (id INTEGER PRIMARY KEY)"), login).questions == []


@pytest.mark.promise("strangers-run-nothing-in-a-discovery")
def test_rows_of_an_applications_tables_are_counted_without_its_code(
    server: Server, connection: Connection, login: Login
) -> None:
    """The planner evaluates what is constant in an index, with the rights of whoever counts."""
    application = "swarm_deploy"
    execute(connection, f"CREATE SCHEMA shop; GRANT ALL ON SCHEMA shop TO {application}")
    server.execute(
        f"SET ROLE {application}",
        "CREATE TABLE shop.goods (id integer)",
        "INSERT INTO shop.goods VALUES (1), (2)",
        "CREATE TABLE shop.parts (id integer) PARTITION BY RANGE (id)",
        "CREATE TABLE shop.part PARTITION OF shop.parts DEFAULT",
        "INSERT INTO shop.parts VALUES (1)",
        "CREATE FUNCTION shop.rise() RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'",
        "CREATE INDEX ON shop.goods ((shop.rise()))",
        "CREATE INDEX ON shop.parts ((shop.rise()))",
        "CREATE OR REPLACE FUNCTION shop.rise() RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'it runs as %', current_user; END $$",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA shop TO {OWNER}",
        database=login.database,
    )
    with pytest.raises(psycopg2.Error, match=f"it runs as {OWNER}"):
        execute(connection, "SELECT count(*) FROM shop.goods")
    connection.rollback()
    assert existing_tables.read(login, ("shop",)).rows == {"shop.goods": 2, "shop.parts": 1}


def test_a_schema_without_tables_is_refused(login: Login) -> None:
    with pytest.raises(MigrationError, match="has no table in a schema of that name"):
        existing_tables.read(login, ("nowhere",))
