"""The engine from a source to a verified target, against a real PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate

from .support import execute, make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

PARENTS = "CREATE TABLE parents (id TEXT PRIMARY KEY, name TEXT);"
CHILDREN = "CREATE TABLE children (id TEXT PRIMARY KEY, parent_id TEXT, score INTEGER);"
TARGET = """
CREATE TABLE parents (id uuid PRIMARY KEY, name text NOT NULL);
CREATE TABLE children (id uuid PRIMARY KEY, parent_id uuid REFERENCES parents (id), score integer);
"""


@pytest.fixture
def family(connection: Connection, tmp_path: Path) -> Path:
    """A source of two tables with text ids, and its target."""
    make_target(connection, TARGET)
    return make_source(
        tmp_path / "family.db",
        PARENTS + CHILDREN,
        {
            "parents": [("mother", "Anna"), ("6f1c2a34-0000-4000-8000-000000000001", "Bert")],
            "children": [("child-1", "mother", 1), ("child-2", None, None)],
        },
    )


def family_group(source: Path, **columns: Any) -> Any:
    """Return the group of the family with column options for its children."""
    return make_group(source, {"source": "parents"}, {"source": "children", "columns": columns})


@pytest.mark.promise("nothing-lost", "second-run-changes-nothing")
def test_every_row_arrives_and_a_second_run_changes_nothing(
    connection: Connection, family: Path, tmp_path: Path
) -> None:
    group = family_group(family)
    first = rehearse(connection, group, tmp_path)
    assert first["changed"]
    assert all(table["equal"] for table in first["report"]["tables"])
    assert {table["source"]: table["target_rows"] for table in first["report"]["tables"]} == {
        "parents": 2,
        "children": 2,
    }
    assert query(
        connection,
        "SELECT p.name FROM app.children c JOIN app.parents p ON p.id = c.parent_id",
    ) == [("Anna",)]
    assert query(connection, "SELECT namespace, old_id FROM migration.id_map ORDER BY 1, 2") == [
        ("app.children", "child-1"),
        ("app.children", "child-2"),
        ("app.parents", "mother"),
    ]
    assert ledger.read_group(connection, "test").state == "rehearsed"
    second = rehearse(connection, group, tmp_path)
    assert not second["changed"]
    assert query(connection, "SELECT count(*) FROM migration.run") == [(1,)]


@pytest.mark.promise("dry-run-changes-nothing")
def test_check_mode_writes_nothing_and_predicts_the_run(connection: Connection, family: Path, tmp_path: Path) -> None:
    group = family_group(family)
    assert rehearse(connection, group, tmp_path, check_mode=True)["changed"]
    assert query(connection, "SELECT count(*) FROM app.parents") == [(0,)]
    assert query(connection, "SELECT count(*) FROM migration.cutover_group") == [(0,)]
    rehearse(connection, group, tmp_path)
    assert not rehearse(connection, group, tmp_path, check_mode=True)["changed"]


def test_a_change_in_the_source_is_followed(connection: Connection, family: Path, tmp_path: Path) -> None:
    group = family_group(family)
    rehearse(connection, group, tmp_path)
    with sqlite3.connect(family) as source:
        source.execute("UPDATE children SET score = 99 WHERE id = 'child-1'")
        source.execute("DELETE FROM parents WHERE name = 'Bert'")
    result = rehearse(connection, group, tmp_path)
    assert result["changed"]
    assert [table["changed"] for table in result["report"]["tables"]] == [True, True]
    assert query(connection, "SELECT max(score) FROM app.children") == [(99,)]
    assert query(connection, "SELECT count(*) FROM app.parents") == [(1,)]


@pytest.mark.promise("source-only-read", "rows-in-the-log-arrive")
def test_rows_that_live_only_in_the_wal_arrive(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE parents (id uuid PRIMARY KEY, name text)")
    path = tmp_path / "live.db"
    writer = sqlite3.connect(path)
    writer.executescript("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;" + PARENTS)
    writer.execute("INSERT INTO parents VALUES ('only-in-wal', 'Anna')")
    writer.commit()
    before = path.read_bytes()
    assert b"only-in-wal" not in before
    report = rehearse(connection, make_group(path, {"source": "parents"}), tmp_path)["report"]
    assert report["tables"][0]["target_rows"] == 1
    assert path.read_bytes() == before, "the source's bytes must stay as they are"
    writer.close()


@pytest.mark.promise("violations-at-once")
def test_every_violation_is_listed_and_nothing_is_written(connection: Connection, family: Path, tmp_path: Path) -> None:
    with sqlite3.connect(family) as source:
        source.execute("INSERT INTO children VALUES ('child-3', 'nobody', 'many')")
        source.execute("INSERT INTO children VALUES ('child-4', 'mother', 8.5)")
        source.execute("INSERT INTO parents VALUES ('father', NULL)")
        source.execute("INSERT INTO parents VALUES ('uncle', ?)", ("a\x00b",))
    with pytest.raises(MigrationError) as error:
        rehearse(connection, family_group(family), tmp_path)
    found = {problem.where.partition(": ")[2]: str(problem) for problem in error.value.problems}
    assert len(error.value.problems) == 5
    assert "child-3" in found["children.parent_id"]
    assert "father" in str(error.value) and "uncle" in str(error.value) and "8.5" in str(error.value)
    assert query(connection, "SELECT count(*) FROM app.parents") == [(0,)]
    assert query(connection, "SELECT count(*) FROM migration.run") == [(0,)]
    assert not (tmp_path / "work").exists()


@pytest.mark.promise("policy-keeps-original")
def test_policies_answer_and_keep_the_originals(connection: Connection, family: Path, tmp_path: Path) -> None:
    with sqlite3.connect(family) as source:
        source.execute("INSERT INTO children VALUES ('child-3', 'nobody', 3)")
        source.execute("INSERT INTO children VALUES ('child-4', 'mother', 8.5)")
        source.execute("INSERT INTO children VALUES ('child-5', 'mother', 'many')")
    group = family_group(
        family,
        parent_id={"orphan": "set_null"},
        score={"fraction": "round", "unconvertible": "reject"},
    )
    report = rehearse(connection, group, tmp_path)["report"]
    children = next(table for table in report["tables"] if table["source"] == "children")
    assert (children["source_rows"], children["target_rows"], children["rejected_rows"]) == (5, 4, 1)
    assert children["equal"]
    assert report["rejects"] == [
        {"table": "children", "key": "id='child-5'", "reason": "score holds text where integer is needed"}
    ]
    assert query(connection, "SELECT row_key, column_name, value FROM migration.original_value ORDER BY row_key") == [
        ("id='child-3'", "parent_id", {"text": "nobody"}),
        ("id='child-4'", "score", {"real": "8.5"}),
    ]
    assert query(connection, "SELECT row_values FROM migration.reject") == [
        ({"id": {"text": "child-5"}, "parent_id": {"text": "mother"}, "score": {"text": "many"}},)
    ]
    assert query(connection, "SELECT score FROM app.children WHERE score > 3") == [(9,)]
    assert not rehearse(connection, group, tmp_path)["changed"]


def test_rows_that_refer_to_a_rejected_row_are_orphans(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE nodes (id uuid PRIMARY KEY, parent_id uuid REFERENCES nodes (id), weight integer NOT NULL)",
    )
    source = make_source(
        tmp_path / "tree.db",
        "CREATE TABLE nodes (id TEXT PRIMARY KEY, parent_id TEXT, weight INTEGER)",
        {"nodes": [("leaf", "branch", 1), ("branch", "root", 1), ("root", None, "heavy")]},
    )
    columns = {"weight": {"unconvertible": "reject"}, "parent_id": {"orphan": "reject"}}
    report = rehearse(connection, make_group(source, {"source": "nodes", "columns": columns}), tmp_path)["report"]
    assert {reject["key"] for reject in report["rejects"]} == {"id='leaf'", "id='branch'", "id='root'"}
    assert query(connection, "SELECT count(*) FROM app.nodes") == [(0,)]


def test_tables_that_refer_to_each_other_in_a_cycle(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE a (id integer PRIMARY KEY, b_id integer);"
        "CREATE TABLE b (id integer PRIMARY KEY, a_id integer REFERENCES a (id));"
        "ALTER TABLE a ADD CONSTRAINT a_to_b FOREIGN KEY (b_id) REFERENCES b (id)",
    )
    source = make_source(
        tmp_path / "cycle.db",
        "CREATE TABLE a (id INTEGER PRIMARY KEY, b_id INTEGER); CREATE TABLE b (id INTEGER PRIMARY KEY, a_id INTEGER)",
        {"a": [(1, 2)], "b": [(2, 1)]},
    )
    report = rehearse(connection, make_group(source, {"source": "a"}, {"source": "b"}), tmp_path)["report"]
    assert {key["name"]: (key["valid"], key["orphans"]) for key in report["foreign_keys"]} == {
        "app.a: a_to_b": (True, 0),
        "app.b: b_a_id_fkey": (True, 0),
    }


@pytest.mark.promise("sequence-goes-on")
def test_a_deleted_maximum_is_never_given_out_again(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE events (id serial PRIMARY KEY, name text)")
    source = make_source(
        tmp_path / "events.db",
        "CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT);"
        "INSERT INTO events VALUES (41, 'kept'), (57, 'deleted'); DELETE FROM events WHERE id = 57",
    )
    group = make_group(source, {"source": "events"})
    report = rehearse(connection, group, tmp_path)["report"]
    assert report["sequences"] == [{"name": "app.events_id_seq", "next_value": 58, "required": 58, "correct": True}]
    execute(connection, "INSERT INTO app.events (name) VALUES ('new')")
    assert query(connection, "SELECT id FROM app.events WHERE name = 'new'") == [(58,)]


@pytest.mark.promise("foreign-rows-never-replaced")
def test_rows_of_others_are_never_replaced(connection: Connection, family: Path, tmp_path: Path) -> None:
    execute(connection, "INSERT INTO app.parents VALUES ('6f1c2a34-0000-4000-8000-0000000000ff', 'foreign')")
    with pytest.raises(MigrationError, match=r"app\.parents: it holds 1 rows, and no run has loaded it yet"):
        rehearse(connection, family_group(family), tmp_path)
    execute(connection, "DELETE FROM app.parents")
    rehearse(connection, family_group(family), tmp_path)
    execute(connection, "INSERT INTO app.parents VALUES ('6f1c2a34-0000-4000-8000-0000000000ff', 'foreign')")
    with pytest.raises(MigrationError, match=r"app\.parents: it holds 3 rows, and our last run left 2 rows"):
        rehearse(connection, family_group(family), tmp_path)
    assert query(connection, "SELECT count(*) FROM app.parents") == [(3,)]


@pytest.mark.promise("services-rows-never-overwritten")
def test_a_group_on_postgresql_is_never_loaded(connection: Connection, family: Path, tmp_path: Path) -> None:
    group = family_group(family)
    rehearse(connection, group, tmp_path)
    for step in ("freeze", "go_live"):
        ledger.take_step(connection, "test", step, str(family))
    connection.commit()
    execute(connection, "DELETE FROM app.children")
    with pytest.raises(MigrationError, match="lives in PostgreSQL"):
        rehearse(connection, group, tmp_path)
    assert query(connection, "SELECT count(*) FROM app.children") == [(0,)]


@pytest.mark.promise("unmapped-data-refused")
def test_a_column_without_a_target_needs_a_policy_and_is_kept(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE parents (id uuid PRIMARY KEY)")
    source = make_source(tmp_path / "s.db", PARENTS, {"parents": [("mother", "Anna"), ("father", None)]})
    with pytest.raises(MigrationError, match=r"parents\.name: it holds data, and app\.parents has no column name"):
        rehearse(connection, make_group(source, {"source": "parents"}), tmp_path)
    columns = {"name": {"without_target": "keep"}}
    report = rehearse(connection, make_group(source, {"source": "parents", "columns": columns}), tmp_path)["report"]
    assert report["tables"][0]["kept"] == [{"column": "name", "rows": 1, "values": {"'Anna'": 1}}]
    assert query(connection, "SELECT row_key, value FROM migration.original_value") == [
        ("id='mother'", {"text": "Anna"})
    ]


@pytest.mark.promise("unmapped-data-refused")
def test_a_source_table_that_nobody_maps_is_refused_if_it_holds_rows(
    connection: Connection, family: Path, tmp_path: Path
) -> None:
    with pytest.raises(MigrationError, match="table children: it holds 2 rows and the inventory names no target"):
        rehearse(connection, make_group(family, {"source": "parents"}), tmp_path)
    group = make_group(family, {"source": "parents"}, ignored_tables=["children"])
    assert rehearse(connection, group, tmp_path)["report"]["ignored_tables"] == ["children"]


@pytest.mark.promise("violations-at-once")
def test_unknown_tables_and_columns_in_the_mapping_are_all_named(
    connection: Connection, family: Path, tmp_path: Path
) -> None:
    group = make_group(
        family,
        {"source": "parnets", "target": "app.parents"},
        {"source": "parents", "target": "app.parnets"},
        {"source": "children", "columns": {"scroe": {"fraction": "round"}}},
    )
    with pytest.raises(MigrationError) as error:
        rehearse(connection, group, tmp_path)
    text = str(error.value)
    assert "table parnets: it is named in the inventory, but the source holds children, parents" in text
    assert "table parents: its target app.parnets does not exist in PostgreSQL" in text
    assert "children.scroe: the inventory has options for it, but the source has no such column" in text
    assert query(connection, "SELECT count(*) FROM app.parents") == [(0,)]


@pytest.mark.promise("policy-keeps-original")
def test_duplicate_keys_are_named(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE people (id integer PRIMARY KEY, email text UNIQUE)")
    source = make_source(
        tmp_path / "people.db",
        "CREATE TABLE people (id INTEGER, email TEXT)",
        {"people": [(1, "a@example.org"), (1, "b@example.org"), (2, "b@example.org"), (None, None)]},
    )
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, {"source": "people"}), tmp_path)
    text = str(error.value)
    assert "people.id: holds the same key more than once (1 row: id=1: 2 times)" in text
    assert "people.email: holds the same key more than once (1 row: email='b@example.org': 2 times)" in text
    assert "holds NULL, and the target column is NOT NULL" in text


@pytest.mark.promise("secret-column-masked")
def test_no_secret_is_ever_shown(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE users (id integer PRIMARY KEY, hash varchar(8) CHECK (hash <> 'topsecre'))")
    source = make_source(
        tmp_path / "users.db",
        "CREATE TABLE users (id INTEGER PRIMARY KEY, hash TEXT)",
        {"users": [(1, "topsecret-and-too-long")]},
    )
    group = make_group(source, {"source": "users", "columns": {"hash": {"secret": True}}})
    with pytest.raises(MigrationError) as error:
        rehearse(connection, group, tmp_path)
    assert "id=1" in str(error.value) and "topsecre" not in str(error.value)
    with sqlite3.connect(source) as writer:
        writer.execute("UPDATE users SET hash = 'topsecre'")
    with pytest.raises(MigrationError) as error:
        rehearse(connection, group, tmp_path)
    assert "users_hash_check" in str(error.value) and "topsecre" not in str(error.value)


def test_epoch_units_are_decided_from_the_whole_column(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE events (id integer PRIMARY KEY, at timestamptz)")
    source = make_source(
        tmp_path / "events.db",
        "CREATE TABLE events (id INTEGER PRIMARY KEY, at TEXT)",
        {"events": [(1, "1704164645678.0"), (2, "2024-01-02T03:04:05.678Z"), (3, "2024-01-02 03:04:05.678")]},
    )
    group = make_group(source, {"source": "events"})
    rehearse(connection, group, tmp_path)
    assert query(connection, "SELECT count(DISTINCT at) FROM app.events") == [(1,)]
    with sqlite3.connect(source) as writer:
        writer.execute("INSERT INTO events VALUES (4, '1704164645')")
    with pytest.raises(MigrationError, match="do not all read as a time in one unit"):
        rehearse(connection, group, tmp_path)


@pytest.mark.promise("corrupt-source-refused")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "the file does not exist"),
        (lambda path: path.symlink_to("nowhere"), "a symlink that leads nowhere"),
        (lambda path: path.mkdir(), "it is not a regular file"),
        (lambda path: path.write_text("this is not a database, but a letter"), "it is not an SQLite database"),
        (lambda path: path.write_bytes(b""), "the source holds no table at all"),
    ],
)
def test_a_source_that_is_none_is_refused(connection: Connection, tmp_path: Path, make: Any, message: str) -> None:
    make_target(connection, TARGET)
    make(tmp_path / "source.db")
    with pytest.raises(MigrationError, match=message):
        rehearse(connection, family_group(tmp_path / "source.db"), tmp_path)


@pytest.mark.promise("corrupt-source-refused")
def test_a_corrupt_page_is_refused(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, TARGET)
    path = make_source(
        tmp_path / "corrupt.db", PARENTS + CHILDREN, {"parents": [(f"id-{n}", "x" * 500) for n in range(100)]}
    )
    with path.open("r+b") as file:
        file.seek(5 * 4096)
        file.write(os.urandom(4096))
    with pytest.raises(MigrationError, match=r"corrupt|cannot read"):
        rehearse(connection, family_group(path), tmp_path)


def test_a_killed_run_leaves_nothing_behind(connection: Connection, family: Path, tmp_path: Path) -> None:
    leftover = tmp_path / "work" / "run-999999999-1"
    leftover.mkdir(parents=True)
    (leftover / "snapshot.db").write_text("from a run that was killed")
    rehearse(connection, family_group(family), tmp_path)
    assert [name[:5] for name in os.listdir(tmp_path / "work")] == ["kept-"]


@pytest.mark.promise("snapshot-private")
def test_private_files_are_private(connection: Connection, family: Path, tmp_path: Path) -> None:
    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.sqlite.snapshot import snapshot

    with snapshot(str(family), str(tmp_path / "work")) as copy:
        assert copy.path.stat().st_mode & 0o777 == 0o600
        assert copy.directory.stat().st_mode & 0o777 == 0o700


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A work directory on a file system of 256 KiB."""
    work = tmp_path / "work"
    work.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", str(work)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a small file system here: {mount.stderr.decode().strip()}")
    yield work
    subprocess.run(["umount", str(work)], check=True)


@pytest.mark.promise("full-disk-named")
def test_too_little_disk_is_refused_before_the_snapshot(
    connection: Connection, family: Path, tmp_path: Path, small_disk: Path
) -> None:
    with sqlite3.connect(family) as source:
        source.execute("INSERT INTO parents VALUES ('large', ?)", ("x" * 200_000,))
    with pytest.raises(MigrationError, match=r"Not enough disk .*\n.*bytes are free and .* are needed"):
        rehearse(connection, family_group(family), tmp_path)
    assert os.listdir(small_disk) == []


@pytest.mark.promise("full-disk-named")
def test_a_disk_that_fills_up_during_the_run_is_named(
    connection: Connection, family: Path, tmp_path: Path, small_disk: Path
) -> None:
    with sqlite3.connect(family) as source:
        # As an original value in the ledger's file, each backslash takes four bytes.
        source.execute("INSERT INTO children VALUES ('large', NULL, ?)", ("\\" * 44_000,))
    (small_disk / "of-somebody-else").write_bytes(b"x" * 40_000)
    group = family_group(family, score={"unconvertible": "set_null"})
    with pytest.raises(MigrationError, match=r"Not enough disk .*\n.*the disk is full"):
        rehearse(connection, group, tmp_path)
    assert os.listdir(small_disk) == ["of-somebody-else"]
    assert query(connection, "SELECT count(*) FROM app.parents") == [(0,)]


def test_two_runs_at_once_do_not_mix(connection: Connection, family: Path, tmp_path: Path, login: Any) -> None:
    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connected

    with (
        connected(login) as other,
        ledger.locked(other, "group test"),
        pytest.raises(MigrationError, match="Another run is at work on group test"),
        ledger.locked(connection, "group test", wait_seconds=0.2),
    ):
        pytest.fail("the lock was given twice")
    assert rehearse(connection, family_group(family), tmp_path)["changed"]


def test_a_connection_cut_during_the_load_leaves_nothing_half_done(
    connection: Connection, family: Path, tmp_path: Path, login: Any, server: Any
) -> None:
    execute(
        connection,
        "CREATE FUNCTION app.wait() RETURNS boolean LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(60); RETURN true; END $$;"
        "ALTER TABLE app.children ADD CONSTRAINT wait CHECK (app.wait())",
    )
    cut = server.end_when_asleep(connection.info.backend_pid)
    with pytest.raises(MigrationError, match=r"(terminating|closed the) connection.*Look at the server's log"):
        rehearse(connection, family_group(family), tmp_path)
    cut.join()
    assert not (tmp_path / "work").exists()
    with closing(connect(login)) as again:
        assert query(again, "SELECT (SELECT count(*) FROM app.parents) + (SELECT count(*) FROM app.children)") == [(0,)]
        assert query(again, "SELECT count(*) FROM migration.run") == [(0,)]
        execute(again, "ALTER TABLE app.children DROP CONSTRAINT wait")
        assert rehearse(again, family_group(family), tmp_path)["changed"]


def test_engine_names_the_report_as_documented(connection: Connection, family: Path, tmp_path: Path) -> None:
    group = family_group(family)
    report = rehearse(connection, group, tmp_path)["report"]
    assert set(report) == {
        "group", "kind", "source", "started_at", "tables", "sequences", "foreign_keys", "rejects", "ignored_tables",
        "left_out", "way", "seconds", "unset_sequences", "triggers", "one_way_columns", "ids_in_texts",
        "number_readings", "text_readings", "row_level_security", "missing_views", "other_defaults", "search_paths",
    }  # fmt: skip
    compared = migrate.compare(connection, group, str(tmp_path / "work"))
    assert [table["source_hash"] for table in compared["tables"]] == [
        table["target_hash"] for table in report["tables"]
    ]


@pytest.mark.promise("nothing-lost")
def test_tables_that_refer_to_each_other_load_where_other_keys_wait_for_the_commit(
    connection: Connection, tmp_path: Path
) -> None:
    # Django makes every foreign key so: one of a cycle is made again while the others still wait.
    make_target(
        connection,
        "CREATE TABLE users (id integer PRIMARY KEY);"
        "CREATE TABLE access (id integer PRIMARY KEY, owner integer REFERENCES users DEFERRABLE INITIALLY DEFERRED,"
        " source integer);"
        "CREATE TABLE refresh (id integer PRIMARY KEY, owner integer REFERENCES users DEFERRABLE INITIALLY DEFERRED,"
        " access integer REFERENCES access DEFERRABLE INITIALLY DEFERRED);"
        "ALTER TABLE access ADD FOREIGN KEY (source) REFERENCES refresh DEFERRABLE INITIALLY DEFERRED;",
    )
    source = make_source(
        tmp_path / "tokens.db",
        "CREATE TABLE users (id INTEGER PRIMARY KEY);"
        "CREATE TABLE access (id INTEGER PRIMARY KEY, owner INTEGER, source INTEGER);"
        "CREATE TABLE refresh (id INTEGER PRIMARY KEY, owner INTEGER, access INTEGER);",
        {"users": [(1,)], "access": [(1, 1, 2), (2, 1, None)], "refresh": [(1, 1, 2), (2, 1, 1)]},
    )
    group = make_group(source, {"source": "users"}, {"source": "access"}, {"source": "refresh"})
    report = rehearse(connection, group, tmp_path)["report"]
    assert all(table["equal"] for table in report["tables"])
    assert [key["valid"] and not key["orphans"] for key in report["foreign_keys"]] == [True] * 4
