"""After the first load only the rows that changed are moved, and the whole is proved all the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import (
    baseline,
    migrate,
)

from .support import execute, make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

DDL = """
CREATE TABLE authors (id uuid PRIMARY KEY, name text UNIQUE, born timestamptz);
CREATE TABLE books (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, author_id uuid NOT NULL REFERENCES authors(id),
  title text NOT NULL, price numeric(8, 2), tags jsonb, cover bytea, rating double precision);
"""
SCRIPT = """
CREATE TABLE authors (id TEXT PRIMARY KEY, name TEXT UNIQUE, born TIMESTAMP);
CREATE TABLE books (id INTEGER PRIMARY KEY AUTOINCREMENT, author_id TEXT, title TEXT, price REAL, tags JSON, cover BLOB,
  rating);
"""
AUTHORS, BOOKS = 40, 500


@pytest.fixture
def library(connection: Connection, tmp_path: Path) -> Path:
    """A source of two tables, and its target."""
    make_target(connection, DDL)
    return make_source(
        tmp_path / "library.db",
        SCRIPT,
        {
            "authors": [(f"author-{n}", f"Author {n}", "2025-12-16T05:51:27.178Z") for n in range(AUTHORS)],
            "books": [
                (
                    n,
                    f"author-{n % AUTHORS}",
                    f"Title {n}",
                    n / 4,
                    json.dumps({"n": n, "a": [1]}),
                    bytes([n % 256]),
                    n * 0.1,
                )
                for n in range(1, BOOKS + 1)
            ],
        },
    )


def library_group(path: Path) -> Any:
    return make_group(path, {"source": "authors"}, {"source": "books"})


def change(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def moved(report: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {
        table["source"]: (table["rows_moved"]["in"], table["rows_moved"]["out"])
        for table in report["tables"]
        if "rows_moved" in table
    }


def prove_equal(connection: Connection, group: Any, tmp_path: Path) -> None:
    """Read every row of both sides, whatever the incremental run believes."""
    for table in migrate.compare(connection, group, str(tmp_path / "work"))["tables"]:
        assert table["equal"], table["differences"]


@pytest.mark.promise("only-changed-rows-moved")
def test_only_changed_rows_are_moved(connection: Connection, library: Path, tmp_path: Path) -> None:
    group = library_group(library)
    assert moved(rehearse(connection, group, tmp_path)["report"]) == {}
    untouched = query(connection, "SELECT xmin::text, ctid::text FROM app.books WHERE id = 400")
    change(
        library,
        "UPDATE books SET title = title || '!' WHERE id IN (1, 2, 3);"
        "UPDATE books SET rating = '0.5' WHERE id = 4;"
        "DELETE FROM books WHERE id = 5;"
        "INSERT INTO authors VALUES ('new author', 'New', '2025-12-16 05:51:27');"
        "INSERT INTO books (author_id, title) VALUES ('new author', 'New title');",
    )
    change(library, "UPDATE books SET rating = 0.5 WHERE id = 4")
    result = rehearse(connection, group, tmp_path)
    assert result["changed"]
    assert moved(result["report"]) == {"authors": (1, 0), "books": (5, 5)}
    assert [table["source_rows"] for table in result["report"]["tables"]] == [AUTHORS + 1, BOOKS]
    prove_equal(connection, group, tmp_path)
    assert query(connection, "SELECT xmin::text, ctid::text FROM app.books WHERE id = 400") == untouched
    assert query(connection, "SELECT nextval(pg_get_serial_sequence('app.books', 'id'))") == [(BOOKS + 2,)]
    full = migrate.compare(connection, group, str(tmp_path / "work"))["tables"]
    hashes = [(table["source_hash"], table["target_hash"]) for table in result["report"]["tables"]]
    assert hashes == [(table["source_hash"], table["target_hash"]) for table in full]
    again = rehearse(connection, group, tmp_path)
    assert not again["changed"]
    assert moved(again["report"]) == {"authors": (0, 0), "books": (0, 0)}


@pytest.mark.promise("dry-run-changes-nothing")
def test_check_mode_counts_the_changed_rows_and_writes_nothing(
    connection: Connection, library: Path, tmp_path: Path
) -> None:
    group = library_group(library)
    rehearse(connection, group, tmp_path)
    change(library, "UPDATE books SET price = 1 WHERE id = 7")
    before = query(connection, "SELECT sum(hashtext(t::text)) FROM app.books t")
    result = rehearse(connection, group, tmp_path, check_mode=True)
    assert result["changed"]
    assert [table["changed"] for table in result["report"]["tables"]] == [False, True]
    assert query(connection, "SELECT sum(hashtext(t::text)) FROM app.books t") == before
    assert rehearse(connection, group, tmp_path)["changed"]


CHANGES = (
    "UPDATE books SET price = -0.0 WHERE id = 9",
    "UPDATE books SET rating = CAST(id AS INTEGER) WHERE id = 10",
    "UPDATE books SET cover = x'' WHERE id = 11",
    'UPDATE books SET tags = \'{"a": [1], "n": 12.0}\' WHERE id = 12',
    "UPDATE books SET id = 90000 WHERE id = 13",
    "UPDATE authors SET name = 'author 3' WHERE name = 'Author 3'",
    # Swapped unique values cannot be moved one by one: everything is loaded again.
    "UPDATE authors SET name = 'x' WHERE id = 'author-1';"
    "UPDATE authors SET name = 'Author 1' WHERE id = 'author-2';"
    "UPDATE authors SET name = 'Author 2' WHERE id = 'author-1'",
    # A parent goes away while its only reference moves.
    "UPDATE books SET author_id = 'author-1' WHERE author_id = 'author-2';DELETE FROM authors WHERE id = 'author-2'",
    "VACUUM",
    "ALTER TABLE books ADD COLUMN note TEXT",
    "CREATE INDEX more ON books (title)",
    "DELETE FROM books; DELETE FROM authors",
)


@pytest.mark.promise("only-changed-rows-moved")
def test_whatever_changes_the_next_run_proves_it(connection: Connection, library: Path, tmp_path: Path) -> None:
    group = library_group(library)
    rehearse(connection, group, tmp_path)
    for script in CHANGES:
        change(library, script)
        rehearse(connection, group, tmp_path)
        prove_equal(connection, group, tmp_path)
        assert not rehearse(connection, group, tmp_path)["changed"], script


@pytest.mark.promise("only-changed-rows-moved")
def test_random_changes_over_many_runs(connection: Connection, library: Path, tmp_path: Path) -> None:
    group = library_group(library)
    rehearse(connection, group, tmp_path)
    choose = random.Random(7)  # noqa: S311 (chooses rows, guards nothing)
    for _ in range(8):
        with closing(sqlite3.connect(library)) as source:
            for _ in range(choose.randrange(1, 60)):
                book = choose.randrange(1, BOOKS + 50)
                author = f"author-{choose.randrange(AUTHORS)}"
                match choose.randrange(4):
                    case 0:
                        source.execute("DELETE FROM books WHERE id = ?", (book,))
                    case 1:
                        source.execute(
                            "INSERT OR REPLACE INTO books VALUES (?, ?, ?, ?, ?, ?, ?)",
                            (book, author, str(choose.random()), None, "[]", None, choose.random()),
                        )
                    case 2:
                        source.execute("UPDATE books SET rating = ? WHERE id = ?", (choose.choice([0, 1, 2.5]), book))
                    case _:
                        source.execute("UPDATE authors SET born = NULL WHERE id = ?", (author,))
            source.commit()
        result = rehearse(connection, group, tmp_path)
        assert moved(result["report"])
        prove_equal(connection, group, tmp_path)


@pytest.mark.promise("foreign-rows-never-replaced")
def test_foreign_rows_are_still_refused(connection: Connection, library: Path, tmp_path: Path) -> None:
    group = library_group(library)
    rehearse(connection, group, tmp_path)
    change(library, "UPDATE books SET price = 2 WHERE id = 7")
    execute(connection, "UPDATE app.books SET price = 99 WHERE id = 8")
    with pytest.raises(MigrationError, match=r"app\.books: it holds 500 rows.*somebody else wrote to it"):
        rehearse(connection, group, tmp_path)
    assert query(connection, "SELECT price FROM app.books WHERE id IN (7, 8) ORDER BY id") == [(1.75,), (99,)]


@pytest.mark.promise("violations-at-once")
def test_a_refused_row_names_all_violations_and_changes_nothing(
    connection: Connection, library: Path, tmp_path: Path
) -> None:
    group = library_group(library)
    rehearse(connection, group, tmp_path)
    change(
        library,
        "UPDATE books SET tags = 'no JSON' WHERE id = 1; UPDATE books SET author_id = 'nobody' WHERE id = 2;"
        "UPDATE books SET title = NULL WHERE id = 3;",
    )
    with pytest.raises(MigrationError) as caught:
        rehearse(connection, group, tmp_path)
    assert len(caught.value.problems) == 3
    assert query(connection, "SELECT title FROM app.books WHERE id = 3") == [("Title 3",)]
    assert query(connection, "SELECT count(*) FROM migration.run") == [(1,)]


def test_values_changed_by_a_policy_follow_their_row(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v jsonb, n integer)")
    path = make_source(
        tmp_path / "t.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, n)",
        {"t": [(number, "free text" if number % 50 == 0 else "{}", number) for number in range(1, 501)]},
    )
    group = make_group(
        path, {"source": "t", "columns": {"v": {"invalid_json": "as_json_string"}, "n": {"fraction": "round"}}}
    )
    rehearse(connection, group, tmp_path)
    change(
        path, "UPDATE t SET v = '[]' WHERE id = 50; UPDATE t SET n = 7.5 WHERE id = 51; DELETE FROM t WHERE id = 100"
    )
    result = rehearse(connection, group, tmp_path)
    assert moved(result["report"]) == {"t": (2, 3)}
    prove_equal(connection, group, tmp_path)
    keys = [key for (key,) in query(connection, "SELECT row_key FROM migration.original_value ORDER BY row_key")]
    assert keys == sorted([f"id={number}" for number in range(150, 501, 50)] + ["id=51"])
    counted = {entry["conversion"]: entry["rows"] for entry in result["report"]["tables"][0]["conversions"]}
    assert counted["invalid_json: as_json_string, original kept in the ledger"] == 8
    assert counted["fraction: round, original kept in the ledger"] == 1


def test_a_lost_or_foreign_kept_snapshot_means_a_full_load(
    connection: Connection, library: Path, tmp_path: Path
) -> None:
    group, work = library_group(library), tmp_path / "work"
    rehearse(connection, group, tmp_path)
    (kept,) = work.glob("kept-*")
    assert kept.stat().st_mode & 0o777 == 0o600
    shutil.copy(kept, work / f"{kept.name[:22]}0123456789abcdef.db")
    kept.unlink()
    change(library, "UPDATE books SET price = 3 WHERE id = 7")
    result = rehearse(connection, group, tmp_path)
    assert result["changed"]
    assert moved(result["report"]) == {}
    assert len(list(work.iterdir())) == 1
    prove_equal(connection, group, tmp_path)


def test_a_restored_database_is_recognised_by_its_content(
    connection: Connection, library: Path, tmp_path: Path
) -> None:
    group = library_group(library)
    rehearse(connection, group, tmp_path)
    execute(connection, "UPDATE app.books SET title = title")  # other transactions, the same content
    change(library, "UPDATE books SET price = 3 WHERE id = 7")
    assert moved(rehearse(connection, group, tmp_path)["report"]) == {"authors": (0, 0), "books": (1, 1)}
    prove_equal(connection, group, tmp_path)


def test_what_touches_other_rows_is_noticed(connection: Connection, library: Path, tmp_path: Path) -> None:
    group = library_group(library)
    rehearse(connection, group, tmp_path)
    execute(
        connection,
        "CREATE FUNCTION app.meddle(bigint) RETURNS boolean LANGUAGE plpgsql AS "
        "$$ BEGIN IF $1 = 7 THEN UPDATE app.books SET price = 0 WHERE id = 499; END IF; RETURN true; END $$;"
        "ALTER TABLE app.books ADD CHECK (app.meddle(id)) NOT VALID",
    )
    change(library, "UPDATE books SET price = 3 WHERE id = 7")
    result = rehearse(connection, group, tmp_path)
    assert moved(result["report"]) == {}  # the sync was undone, and everything loaded by COPY
    prove_equal(connection, group, tmp_path)


def test_the_final_sync_forgets_the_kept_snapshot(connection: Connection, library: Path, tmp_path: Path) -> None:
    group, work = library_group(library), tmp_path / "work"
    rehearse(connection, group, tmp_path)
    change(library, "UPDATE books SET price = 3 WHERE id = 7")
    with connection.cursor() as cursor:
        ledger.take_step(connection, group.name, "freeze", group.source_path)
        cursor.execute("SELECT 1")
    connection.commit()
    result = migrate.migrate(connection, group, migrate.FINAL, False, str(work))
    assert moved(result["report"]) == {"authors": (0, 0), "books": (1, 1)}
    assert os.listdir(work) == []


def test_check_mode_shows_the_first_rows_that_differ(connection: Connection, library: Path, tmp_path: Path) -> None:
    group = make_group(library, {"source": "authors", "columns": {"name": {"secret": True}}}, {"source": "books"})
    rehearse(connection, group, tmp_path)
    change(
        library,
        "UPDATE authors SET name = 'hush' WHERE id = 'author-3'; UPDATE books SET price = 1 WHERE id = 7;"
        "DELETE FROM books WHERE id = 8; INSERT INTO books (id, author_id, title) VALUES (9000, 'author-1', 'New');",
    )
    tables = rehearse(connection, group, tmp_path, check_mode=True)["report"]["tables"]
    assert tables[0]["differences"] == [
        {"key": "id='author-3'", "column": "name", "source": "(secret)", "target": "(secret)"}
    ]
    shown = {(found["key"], found["column"], found["source"], found["target"]) for found in tables[1]["differences"]}
    assert shown == {
        ("id=7", "price", "1", "1.75"),
        ("id=8", "(row)", "0 rows", "1 rows"),
        ("id=9000", "(row)", "1 rows", "0 rows"),
    }


@pytest.mark.parametrize("answer", ["set_null", "reject"])
def test_orphans_are_answered_whichever_way_a_run_takes(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(
        "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.proof.parallel_checksums.FROM_BYTES",
        0,
    )
    monkeypatch.setattr(
        "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.proof.parallel_checksums.FROM_ROWS",
        0,
    )
    make_target(
        connection,
        "CREATE TABLE p (id integer PRIMARY KEY);"
        "CREATE TABLE c (id integer PRIMARY KEY, p_id integer REFERENCES p, v text)",
    )
    path = make_source(
        tmp_path / "t.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE c (id INTEGER PRIMARY KEY, p_id INTEGER, v TEXT)",
        {
            "p": [(number,) for number in range(100)],
            "c": [(number, number % 101, f"value {number}") for number in range(1_010)],
        },
    )
    group = make_group(path, {"source": "p"}, {"source": "c", "columns": {"p_id": {"orphan": answer}}})
    report = rehearse(connection, group, tmp_path)["report"]
    assert report["way"] == migrate.PLAIN_ROWS
    left = 1_010 if answer == "set_null" else 1_000
    assert [table["target_rows"] for table in report["tables"]] == [100, left]
    kept = "original_value" if answer == "set_null" else "reject"
    assert query(connection, f"SELECT count(*) FROM migration.{kept}") == [(10,)]
    change(path, "UPDATE c SET v = 'changed' WHERE id = 5")
    report = rehearse(connection, group, tmp_path)["report"]
    assert bool(moved(report)) == (answer == "set_null")  # what refers to a rejected row is not its own affair alone
    prove_equal(connection, group, tmp_path)
    # The missing row appears: rows that did not change themselves are orphans no more.
    change(path, "INSERT INTO p VALUES (100)")
    report = rehearse(connection, group, tmp_path)["report"]
    assert moved(report) == {}
    assert [table["target_rows"] for table in report["tables"]] == [101, 1_010]
    assert query(connection, "SELECT count(*) FROM app.c WHERE p_id = 100") == [(10,)]
    assert query(connection, f"SELECT count(*) FROM migration.{kept}") == [(0,)]
    prove_equal(connection, group, tmp_path)


def test_check_mode_finds_new_orphans_and_doubled_keys(connection: Connection, library: Path, tmp_path: Path) -> None:
    group = library_group(library)
    rehearse(connection, group, tmp_path)
    change(
        library,
        "UPDATE books SET author_id = 'nobody' WHERE id = 3;"
        "DROP TABLE authors; CREATE TABLE authors (id TEXT PRIMARY KEY, name TEXT UNIQUE, born TIMESTAMP)",
    )
    with pytest.raises(MigrationError, match="refers to a row of authors that does not exist"):
        rehearse(connection, group, tmp_path, check_mode=True)
    change(library, "INSERT INTO authors SELECT DISTINCT author_id, author_id, NULL FROM books")
    rehearse(connection, group, tmp_path)
    change(library, "UPDATE books SET author_id = 'nobody else' WHERE id = 4")
    with pytest.raises(MigrationError, match="1 row: id=4: 'nobody else'"):
        rehearse(connection, group, tmp_path, check_mode=True)


def test_after_an_upgrade_the_next_rehearsal_renews_what_the_window_will_count_on(
    connection: Connection, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = library_group(library)
    assert rehearse(connection, group, tmp_path)["changed"]
    real = baseline.digest
    monkeypatch.setattr(baseline, "digest", lambda plans: f"newer {real(plans)}")
    upgraded = rehearse(connection, group, tmp_path)
    assert (upgraded["changed"], upgraded["report"]["way"] != migrate.CHANGED_ROWS) == (False, True)
    assert query(connection, "SELECT count(*) FROM migration.run") == [(1,)]
    again = rehearse(connection, group, tmp_path)
    assert (again["changed"], again["report"]["way"]) == (False, migrate.CHANGED_ROWS)
