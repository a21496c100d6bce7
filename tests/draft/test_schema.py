"""What SQLite's schema says beside types: keys, references, defaults, checks, indexes, names, and what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft import names
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.draft import draft
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres.schema_files import (
    split_statements,
)
from tests.engine.support import execute, make_source, query

from .support import draft_of, load_sql, move

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

UUID = "6f1e3b52-1d0c-4f0e-9f3a-5f3f3c1d2e4b"


def constraints(connection: Connection, table: str) -> set[str]:
    """Return the constraints of a table of schema app but for NOT NULL, as PostgreSQL writes them."""
    found = query(
        connection,
        f"SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = '{table}'::regclass AND contype <> 'n'",
    )
    return {definition for (definition,) in found}


def test_keys_references_and_their_actions(connection: Connection, tmp_path: Path) -> None:
    drafted = draft_of(
        tmp_path,
        """
        CREATE TABLE child (
          a INT, b TEXT, own INTEGER REFERENCES child (id) ON DELETE SET NULL, id INTEGER PRIMARY KEY AUTOINCREMENT,
          FOREIGN KEY (a, b) REFERENCES parent (a, b) ON DELETE CASCADE ON UPDATE RESTRICT
        );
        CREATE TABLE parent (a INT, b TEXT, other TEXT UNIQUE, PRIMARY KEY (a, b)) WITHOUT ROWID;
        CREATE TABLE one (id INTEGER PRIMARY KEY, two_id INTEGER REFERENCES two);
        CREATE TABLE two (id INTEGER PRIMARY KEY, one_id INTEGER REFERENCES one ON DELETE SET DEFAULT);
        CREATE TABLE nowhere (id INTEGER REFERENCES missing, a TEXT REFERENCES parent (b));
        """,
        {"parent": [(1, "x", "y")], "child": [(1, "x", None, 7)], "one": [(1, 1)], "two": [(1, 1)]},
    )
    load_sql(connection, drafted)
    assert constraints(connection, "app.child") == {
        "PRIMARY KEY (id)",
        "FOREIGN KEY (own) REFERENCES app.child(id) ON DELETE SET NULL",
        "FOREIGN KEY (a, b) REFERENCES app.parent(a, b) ON UPDATE RESTRICT ON DELETE CASCADE",
    }
    assert constraints(connection, "app.parent") == {"PRIMARY KEY (a, b)", "UNIQUE (other)"}
    assert "FOREIGN KEY (two_id) REFERENCES app.two(id)" in constraints(connection, "app.one")
    assert "FOREIGN KEY (one_id) REFERENCES app.one(id) ON DELETE SET DEFAULT" in constraints(connection, "app.two")
    assert constraints(connection, "app.nowhere") == set()
    assert {question.what.split(" is left out: ")[1] for question in drafted.questions} == {
        "there is no such table",
        "(b) is no unique key of it",
    }
    report = move(connection, drafted, tmp_path)
    assert all(table["equal"] for table in report["tables"])
    assert query(connection, "SELECT nextval(pg_get_serial_sequence('app.child', 'id'))") == [(8,)]


def test_indexes_of_every_kind(connection: Connection, tmp_path: Path) -> None:
    drafted = draft_of(
        tmp_path,
        """
        CREATE TABLE t (a TEXT, b INTEGER, mail TEXT COLLATE NOCASE UNIQUE, gone_at TEXT, is_on BOOLEAN);
        CREATE INDEX plain ON t (b DESC, a);
        CREATE UNIQUE INDEX partial ON t (a) WHERE gone_at IS NULL AND is_on = 1;
        CREATE UNIQUE INDEX expression ON t (lower(trim(a)), b);
        CREATE INDEX odd ON t (a COLLATE RTRIM);
        CREATE INDEX hexed ON t (hex(a));
        """,
        {"t": [("x", 1, "A@b", "2025-01-01 00:00:00", 1)]},
    )
    load_sql(connection, drafted)
    found = query(connection, "SELECT indexdef FROM pg_indexes WHERE schemaname = 'app' ORDER BY indexname")
    assert [definition.partition(" USING btree ")[2] for (definition,) in found] == [
        "(lower(btrim(a)), b)",
        "(a) WHERE ((gone_at IS NULL) AND (is_on = true))",
        "(b DESC, a)",
        "(lower(mail))",
    ]
    assert [question.what.split(" is left out: ")[1] for question in drafted.questions] == [
        "hex() is not translated here",
        "it is ordered by the collation RTRIM",
    ]


def test_nocase_keeps_two_letters_apart_that_sqlite_keeps_apart(connection: Connection, tmp_path: Path) -> None:
    drafted = draft_of(
        tmp_path, "CREATE TABLE t (name TEXT COLLATE NOCASE PRIMARY KEY)", {"t": [("Ä",), ("ä",), ("a",)]}
    )
    load_sql(connection, drafted)
    assert move(connection, drafted, tmp_path)["tables"][0]["equal"]
    with pytest.raises(psycopg2.errors.UniqueViolation):
        execute(connection, "INSERT INTO app.t VALUES ('A')")
    connection.rollback()


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("c TEXT DEFAULT 'it''s'", "x", "'it''s'::text"),
        ('c TEXT DEFAULT "quoted"', "x", "'quoted'::text"),
        ("c TEXT DEFAULT 5", "x", "'5'::text"),
        ("c INTEGER DEFAULT -3", 1, "'-3'::integer"),
        ("c INTEGER DEFAULT '7'", 1, "7"),
        ("c REAL DEFAULT 1e3", 0.5, "'1000'::numeric"),
        ("is_on INTEGER DEFAULT 1", 0, "true"),
        ("is_on BOOLEAN DEFAULT FALSE", 0, "false"),
        ("c TEXT DEFAULT NULL", "x", None),
        ("c BLOB DEFAULT x'00ff'", b"x", "'\\x00ff'::bytea"),
        ("c TEXT DEFAULT '[]'", "[1]", "'[]'::jsonb"),
        ("c TEXT DEFAULT CURRENT_TIMESTAMP", "2025-01-01 00:00:00", "CURRENT_TIMESTAMP"),
        ("c TEXT DEFAULT (datetime('now'))", "2025-01-01 00:00:00", "CURRENT_TIMESTAMP"),
        ("c TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))", "2025-01-01T00:00:00.000Z", "CURRENT_TIMESTAMP"),
        ("seen_at INTEGER DEFAULT (unixepoch())", 1704164645, "CURRENT_TIMESTAMP"),
        ("seen_at INTEGER DEFAULT (strftime('%s', 'now'))", 1704164645, "CURRENT_TIMESTAMP"),
        ("c DATE DEFAULT (date('now'))", "2025-01-01", "((now() AT TIME ZONE 'UTC'::text))::date"),
        (
            "c TEXT DEFAULT CURRENT_TIMESTAMP",
            "never",
            "to_char((now() AT TIME ZONE 'UTC'::text), 'YYYY-MM-DD HH24:MI:SS'::text)",
        ),
        ("c TEXT DEFAULT (lower(hex(randomblob(16))))", "x", "replace((gen_random_uuid())::text, '-'::text, ''::text)"),
        (f"c TEXT DEFAULT (lower(hex(randomblob(4))) || '-{UUID[9:]}')", UUID, "gen_random_uuid()"),
    ],
)
def test_a_default_becomes_its_equal(
    connection: Connection, tmp_path: Path, column: str, value: object, expected: str | None
) -> None:
    drafted = draft_of(tmp_path, f"CREATE TABLE t ({column})", {"t": [(value,)]})
    load_sql(connection, drafted)
    found = query(connection, "SELECT column_default FROM information_schema.columns WHERE table_schema = 'app'")
    assert found == [(expected,)]
    assert drafted.questions == []
    execute(connection, "INSERT INTO app.t DEFAULT VALUES")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("c TEXT DEFAULT (hex(randomblob(4)))", "x"),
        ("c INTEGER DEFAULT 'many'", 1),
        ("c INTEGER DEFAULT (abs(random()))", 1),
        ("c TEXT DEFAULT (datetime('now', '+1 day'))", "2025-01-01 00:00:00"),
    ],
)
def test_a_default_without_an_equal_is_a_question(
    connection: Connection, tmp_path: Path, column: str, value: object
) -> None:
    drafted = draft_of(tmp_path, f"CREATE TABLE t ({column})", {"t": [(value,)]})
    load_sql(connection, drafted)
    assert query(connection, "SELECT column_default FROM information_schema.columns WHERE table_schema = 'app'") == [
        (None,)
    ]
    (question,) = drafted.questions
    assert question.where == "t.c"
    assert "-- LEFT OUT: DEFAULT" in drafted.sql


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        ("n > 0 AND n <= 100", "n = 5", "n = 0"),
        ("n BETWEEN 1 AND 3", "n = 3", "n = 4"),
        ("kind IN ('a', 'b')", "kind = 'b'", "kind = 'c'"),
        ("kind NOT IN ('a')", "kind = 'b'", "kind = 'a'"),
        ("is_on IN (0, 1)", "is_on = true", None),
        ("is_on = 1 OR n IS NULL", "is_on = true", "is_on = false, n = 1"),
        ("length(kind) < 5", "kind = 'abc'", "kind = 'abcdef'"),
        ("kind LIKE 'A%'", "kind = 'abc'", "kind = 'bc'"),
        ("(n / 2) * 2 <> n", "n = 5", "n = 4"),
        ("n % 2 = 1", "n = 5", "n = 4"),
        ("CASE WHEN kind = 'a' THEN n > 1 ELSE n > 2 END", "kind = 'a', n = 2", "kind = 'b', n = 2"),
        ("ends >= starts", "starts = '2025-01-01', ends = '2025-01-02'", "starts = '2025-01-02', ends = '2025-01-01'"),
        ("coalesce(n, 0) < 10", "n = NULL", "n = 10"),
        ("n", "n = 5", "n = 0"),
    ],
)
def test_a_check_means_the_same(connection: Connection, tmp_path: Path, check: str, good: str, bad: str | None) -> None:
    columns = "n INTEGER, kind TEXT, is_on BOOLEAN, starts DATE, ends DATE"
    drafted = draft_of(tmp_path, f"CREATE TABLE t ({columns}, CHECK ({check}))")
    assert drafted.questions == []
    load_sql(connection, drafted)
    execute(connection, "INSERT INTO app.t DEFAULT VALUES")
    execute(connection, f"UPDATE app.t SET {good}")
    if bad is not None:
        with pytest.raises(psycopg2.errors.CheckViolation):
            execute(connection, f"UPDATE app.t SET {bad}")
        connection.rollback()


@pytest.mark.promise("draft-leaves-nothing-unsaid")
@pytest.mark.parametrize(
    "check", ["kind GLOB 'a*'", "typeof(n) = 'integer'", "kind > n", "json_valid(kind)", "mail = 'a'"]
)
def test_a_check_that_postgresql_cannot_say_is_a_question_and_a_comment(tmp_path: Path, check: str) -> None:
    columns = "n INTEGER, kind TEXT, mail TEXT COLLATE NOCASE"
    drafted = draft_of(tmp_path, f"CREATE TABLE t ({columns}, CHECK ({check}))")
    (question,) = drafted.questions
    assert question.where == "t"
    assert "-- LEFT OUT: CHECK" in drafted.sql


def test_generated_columns_are_generated_and_compared(connection: Connection, tmp_path: Path) -> None:
    drafted = draft_of(
        tmp_path,
        """CREATE TABLE t (
             name TEXT, n INTEGER, price DECIMAL(10,2),
             shown TEXT GENERATED ALWAYS AS (upper(name) || ' ' || n) VIRTUAL,
             total AS (price * n) STORED,
             is_many INTEGER AS (n > 1),
             hexed TEXT AS (hex(name))
           );
           INSERT INTO t VALUES ('ä x', 3, 0.1), (NULL, 2000000000, 1.15), ('b', 0, NULL);""",
    )
    load_sql(connection, drafted)
    (table,) = move(connection, drafted, tmp_path)["tables"]
    assert table["equal"]
    assert query(connection, "SELECT shown, total, is_many FROM app.t WHERE n = 3") == [("ä X 3", 0.1 * 3, 1)]
    assert [question.where for question in drafted.questions] == ["t.hexed"]


def test_names_that_postgresql_does_not_take_or_would_take_for_one(connection: Connection, tmp_path: Path) -> None:
    long = "a" * 70
    drafted = draft_of(
        tmp_path,
        f"""CREATE TABLE "Order" ("select" TEXT, ctid INTEGER, "a.b" TEXT, "a_b" TEXT, {long}1 TEXT, {long}2 TEXT,
              "line\nend" TEXT, "quote""d" TEXT);
            CREATE TABLE "{long}1" (x TEXT); CREATE TABLE "{long}2" (x TEXT); CREATE TABLE "a.b" (x TEXT);
            INSERT INTO "Order" VALUES ('1', 2, '3', '4', '5', '6', '7', '8');
            INSERT INTO "{long}1" VALUES ('one'); INSERT INTO "{long}2" VALUES ('two');
            INSERT INTO "a.b" VALUES ('x');""",
    )
    load_sql(connection, drafted)
    report = move(connection, drafted, tmp_path)
    assert [table["target_rows"] for table in report["tables"]] == [1, 1, 1, 1]
    assert query(connection, 'SELECT * FROM app."Order"') == [("1", 2, "3", "4", "5", "6", "7", "8")]


def test_every_reserved_word_of_the_server_is_known(connection: Connection) -> None:
    words = query(connection, "SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")
    assert {word for (word,) in words} <= names.RESERVED


def test_a_key_with_null_in_it_is_unique_instead(connection: Connection, tmp_path: Path) -> None:
    drafted = draft_of(tmp_path, "CREATE TABLE t (code TEXT PRIMARY KEY)", {"t": [(None,), (None,), ("x",)]})
    load_sql(connection, drafted)
    assert constraints(connection, "app.t") == {"UNIQUE (code)"}
    assert move(connection, drafted, tmp_path)["tables"][0]["target_rows"] == 3


def test_a_text_that_no_index_holds_leaves_its_index_out(connection: Connection, tmp_path: Path) -> None:
    script = "CREATE TABLE t (x TEXT UNIQUE, y TEXT); CREATE INDEX i ON t (y); CREATE INDEX low ON t (lower(y))"
    noise = "".join(f"{number:x}" for number in range(3000))
    drafted = draft_of(tmp_path, script, {"t": [(noise, noise)]})
    load_sql(connection, drafted)
    assert move(connection, drafted, tmp_path)["tables"][0]["equal"]
    assert [question.where for question in drafted.questions] == ["t", "t", "t"]


@pytest.mark.promise("draft-leaves-nothing-unsaid")
def test_virtual_tables_with_rows_of_their_own_are_moved_and_others_are_named(
    connection: Connection, tmp_path: Path
) -> None:
    drafted = draft_of(
        tmp_path,
        """CREATE TABLE posts (id INTEGER PRIMARY KEY, title TEXT);
           INSERT INTO posts VALUES (1, 'hello');
           CREATE VIRTUAL TABLE own USING fts5(title, body); INSERT INTO own VALUES ('a', 'b');
           CREATE VIRTUAL TABLE of_posts USING fts5(title, content='posts', content_rowid='id');
           CREATE VIRTUAL TABLE without USING fts5(title, content='');
           INSERT INTO without(rowid, title) VALUES (1, 'x');
           CREATE VIRTUAL TABLE places USING rtree(id, x0, x1); INSERT INTO places VALUES (5, 0.5, 1.5);
           CREATE VIEW recent AS
             SELECT * FROM posts;
           CREATE TRIGGER noted AFTER INSERT ON posts BEGIN SELECT 1; END;""",
    )
    load_sql(connection, drafted)
    report = move(connection, drafted, tmp_path)
    assert {table["target"]: table["target_rows"] for table in report["tables"]} == {
        "app.posts": 1,
        "app.own": 1,
        "app.places": 1,
    }
    assert query(connection, "SELECT id, title FROM app.own") == [(1, "a")]
    assert query(connection, "SELECT id, x0 FROM app.places") == [(5, 0.5)]
    assert drafted.mapping["ignored_tables"] == ["without"]
    assert {question.where for question in drafted.questions} == {"own", "places", "without", "recent", "noted"}
    for said in (
        "-- LEFT OUT: the virtual table of_posts (fts5): it only shows what posts holds.",
        "-- LEFT OUT: the shadow tables of_posts_config,",
        "-- CREATE VIEW recent AS\n--              SELECT * FROM posts",
    ):
        assert said in drafted.sql


def test_an_orphan_is_refused_until_a_person_has_decided(connection: Connection, tmp_path: Path) -> None:
    drafted = draft_of(
        tmp_path,
        """CREATE TABLE parent (id INTEGER PRIMARY KEY);
           CREATE TABLE child (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES parent);
           INSERT INTO child VALUES (1, 99);""",
    )
    load_sql(connection, drafted)
    with pytest.raises(MigrationError, match=r"child\.parent_id: refers to a row of parent that does not exist"):
        move(connection, drafted, tmp_path)
    assert drafted.choices["child"]["parent_id"][1:] == ["orphan: set_null", "orphan: reject"]
    child = next(table for table in drafted.mapping["tables"] if table["source"] == "child")
    child["columns"] = {"parent_id": {"orphan": "set_null"}}
    assert move(connection, drafted, tmp_path)["tables"]


def test_the_sql_is_one_that_schema_apply_takes(tmp_path: Path) -> None:
    drafted = draft_of(tmp_path, "CREATE TABLE t (a TEXT DEFAULT '; BEGIN', b TEXT); CREATE VIEW v AS SELECT 1")
    statements = [statement.code.split()[:2] for statement in split_statements(drafted.sql)]
    assert statements == [["CREATE", "SCHEMA"], ["CREATE", "TABLE"]]


def test_a_file_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="it holds no table"):
        draft_of(tmp_path, "CREATE TABLE t (a); DROP TABLE t;")


def test_the_file_is_only_read(tmp_path: Path) -> None:
    path = make_source(tmp_path / "app.db", "PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (1)")
    before, when = path.read_bytes(), path.stat().st_mtime_ns
    path.chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        drafted = draft(str(path), "app", str(tmp_path.parent / "draft-work"))
    finally:
        tmp_path.chmod(0o700)
    assert drafted.tables[0]["rows"] == 1
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, when)
