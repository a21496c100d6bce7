"""What PostgreSQL alone knows about a row is asked for all rows at once, in a dry run too, and policies answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2.errors
import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.files import sha256_of
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer.migrate import (
    CHANGED_ROWS,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer.replay import (
    RepairedRow,
    replay_rejects,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation import group as validation

from .support import execute, make_group, make_source, make_target, query, rehearse
from .test_case_triggers import change_source
from .test_export import bring_back, counts, rows_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

INCOMPRESSIBLE = "".join(chr(0x4E00 + (n * 7919) % 20_000) for n in range(4_000))
# What the table is, what stands in v (row 1 first), which rows are refused, what the message says, who may answer.
CASES: dict[str, tuple[str, list[Any], list[int], str, str]] = {
    "lower": ("v text); CREATE UNIQUE INDEX t_lower ON t (lower(v)", ["a", "A", "b", "B", "B", "c"], [2, 4, 5],
              "an earlier row has the same key in t_lower", "duplicate"),
    "nulls": ("v integer, UNIQUE NULLS NOT DISTINCT (v)", [None, 1, None, None], [3, 4],
              "an earlier row has the same key in t_v_key", "duplicate"),
    "partial": ("v text); CREATE UNIQUE INDEX t_partial ON t (v) WHERE (v <> 'free'", ["a", "a", "free", "free"], [2],
                "an earlier row has the same key in t_partial", "duplicate"),
    "spelled": ("v timestamptz UNIQUE", ["2024-01-01", "2024-01-01 00:00:00", "2024-01-01T00:00:00Z"], [2, 3],
                "an earlier row has the same key in t_v_key", "duplicate"),
    "exclusion": ("v int4range, EXCLUDE USING gist (v WITH &&)", ["[1,5)", "[4,8)", "[8,9)", "[2,3)"], [2, 4],
                  "an earlier row excludes it by t_v_excl", "duplicate"),
    "check": ("v integer CONSTRAINT positive CHECK (v > 0)", [1, 0, -1, None], [2, 3],
              "it violates the check constraint positive", "unconvertible"),
    "domain": ("v positive", [1, 0, -1, 7], [2, 3], "it violates the check constraint positive_check", "unconvertible"),
    "index": ("v text UNIQUE", ["short", INCOMPRESSIBLE, INCOMPRESSIBLE[:950], "other"], [2, 3],
              "it is too long for the index t_v_key: an entry of a B-tree has at most 2,704 bytes", "unconvertible"),
    "gin": ("v text[]); CREATE INDEX t_gin ON t USING gin (v", ["{a}", f"{{{INCOMPRESSIBLE[:1_000]}}}", "{b}"], [2],
            "it is too long for the index t_gin: an entry has at most 2,712 bytes", "unconvertible"),
    "brin": ("v text); CREATE INDEX t_brin ON t USING brin (v", ["a", INCOMPRESSIBLE, "b"], [2],
             "it is too long for the index t_brin: an entry has at most 8,152 bytes", "unconvertible"),
    "generated": ("v integer, w integer GENERATED ALWAYS AS (100 / v) STORED", [1, 0, 5, 0], [2, 4],
                  "division by zero (SQLSTATE 22012)", ""),
    "foreign": ("v integer REFERENCES other", [1, 2, 3, 4], [2, 3, 4],
                "it refers to a row of app.other, which this group does not fill, that does not exist", "orphan"),
}  # fmt: skip


def many(connection: Connection, tmp_path: Path, kind: str) -> tuple[Path, list[Any]]:
    """Make a table and a source of which PostgreSQL alone knows what is wrong, among many other rows."""
    columns, values, *_ = CASES[kind]
    make_target(
        connection,
        "CREATE DOMAIN positive AS integer CHECK (VALUE > 0); CREATE TABLE other (id integer PRIMARY KEY);"
        f"INSERT INTO other VALUES (1); CREATE TABLE t (id integer PRIMARY KEY, {columns})",
    )
    return make_source(
        tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", {"t": enumerate(values, 1)}
    ), values


@pytest.mark.promise("dry-run-changes-nothing")
@pytest.mark.parametrize("kind", CASES)
def test_all_rows_are_named_at_once(connection: Connection, tmp_path: Path, kind: str) -> None:
    source, _ = many(connection, tmp_path, kind)
    _, _, refused, what, policy = CASES[kind]
    for check_mode in (True, False):
        with pytest.raises(MigrationError) as error:
            rehearse(connection, make_group(source, {"source": "t"}), tmp_path, check_mode)
        (problem,) = error.value.problems
        assert problem.where.endswith("t.db: t" + (".v" if policy else ""))
        assert f"PostgreSQL refuses it: {what} ({len(refused)} row" in problem.what
        assert all(f"id={key}" in problem.what for key in refused[:3])
        assert (f"et '{policy}' for the column" in problem.fix) == bool(policy)
        assert query(connection, "SELECT count(*) FROM app.t") == [(0,)]


@pytest.mark.promise("policy-keeps-original")
@pytest.mark.parametrize("answer", ["reject", "set_null"])
@pytest.mark.parametrize("kind", CASES)
def test_a_policy_answers(connection: Connection, tmp_path: Path, kind: str, answer: str) -> None:
    source, values = many(connection, tmp_path, kind)
    _, _, refused, _, policy = CASES[kind]
    if not policy or (answer == "set_null" and policy == "duplicate"):
        pytest.skip("there is no such answer")
    group = make_group(source, {"source": "t", "columns": {"v": {policy: answer}}})
    assert rehearse(connection, group, tmp_path, check_mode=True)["changed"]
    report = rehearse(connection, group, tmp_path)["report"]
    assert report["tables"][0]["equal"]
    arrived = [key for (key,) in query(connection, "SELECT id FROM app.t ORDER BY id")]
    if answer == "reject":
        assert arrived == [key for key in range(1, len(values) + 1) if key not in refused]
        assert {each["key"] for each in report["rejects"]} == {f"id={key}" for key in refused}
    else:
        assert len(arrived) == len(values)
        null = query(connection, "SELECT id FROM app.t WHERE v IS NULL ORDER BY id")
        assert [key for (key,) in null if values[key - 1] is not None] == refused
    assert not rehearse(connection, group, tmp_path)["changed"]
    back, _ = bring_back(connection, group)
    assert counts(back) == {"t": (0, 0, 0)}


def test_what_we_know_and_what_the_server_knows_is_said_together(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v integer NOT NULL CHECK (v > 0), w integer)")
    rows = [(1, -1, 1), (2, "two", 2), (3, 3, "three"), (4, -4, "four"), (5, 5, 5)]
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v, w)", {"t": rows})
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path)
    assert sorted(problem.what.partition(" (")[0] for problem in error.value.problems) == [
        "PostgreSQL refuses it: it violates the check constraint t_v_check",
        "holds text where integer is needed",
        "holds text where integer is needed",
    ]


def test_a_dry_run_leaves_nothing_behind_and_takes_no_number(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE t (id integer PRIMARY KEY, v text CHECK (v <> ''), n serial NOT NULL,"
        " i integer GENERATED ALWAYS AS IDENTITY)",
    )
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", {"t": [(1, "a"), (2, "")]})
    group = make_group(source, {"source": "t", "columns": {"v": {"unconvertible": "reject"}}})
    assert rehearse(connection, group, tmp_path, check_mode=True)["changed"]
    execute(connection, "INSERT INTO app.t (id) VALUES (9)")
    assert query(connection, "SELECT n, i FROM app.t") == [(1, 1)]
    assert query(connection, "SELECT count(*) FROM pg_class WHERE relpersistence = 't'") == [(0,)]


def test_many_refused_rows_among_many_are_all_counted(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text); CREATE UNIQUE INDEX l ON t (lower(v))")
    rows = [(n, f"Name {n}" if n % 3 else f"name {n - 1}") for n in range(1, 9_000)]
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", {"t": rows})
    with pytest.raises(MigrationError, match=r"same key in l \(2,999 rows: id=3: 'name 2'; id=6: 'name 5'; id=9: "):
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path)


@pytest.mark.promise("dry-run-changes-nothing")
def test_a_dry_run_of_changed_rows_alone_is_told_too(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v integer CHECK (v > 0))")
    rows = {"t": [(n, n) for n in range(1, 100)]}
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", rows)
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    change_source(source, "UPDATE t SET v = 100 WHERE id = 1")
    assert rehearse(connection, group, tmp_path, check_mode=True)["report"]["way"] == CHANGED_ROWS
    assert query(connection, "SELECT v FROM app.t WHERE id = 1") == [(1,)]
    change_source(source, "UPDATE t SET v = -v WHERE id IN (3, 50)")
    for check_mode in (True, False):
        with pytest.raises(MigrationError, match=r"check constraint t_v_check \(2 rows: id=3: -3; id=50: -50\)"):
            rehearse(connection, group, tmp_path, check_mode)
    assert query(connection, "SELECT count(*) FROM app.t WHERE v < 0") == [(0,)]


@pytest.mark.promise("rejected-rows-replayed")
def test_a_row_that_the_server_refused_is_replayed_and_stays_proven(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v integer CHECK (v > 0))")
    rows = {"t": [(1, 1), (2, -2), (3, 3)]}
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", rows)
    group = make_group(source, {"source": "t", "columns": {"v": {"unconvertible": "reject"}}})
    rehearse(connection, group, tmp_path)
    ledger.take_step(connection, "test", "freeze", str(source), frozen_sha256=sha256_of(source))
    connection.commit()
    migrate.migrate(connection, group, migrate.FINAL, work_directory=str(tmp_path / "work"))
    ledger.take_step(connection, "test", "go_live", str(source))
    connection.commit()

    def findings() -> Any:
        found = validation.validate(connection, group, str(tmp_path / "work"), ask_services=False)
        return [each for each in found["findings"] if "write protection" not in each["what"]]

    assert findings() == []
    replay_rejects(connection, group, [RepairedRow("t", "id=2", {"v": 2})], work_directory=str(tmp_path / "replay"))
    assert query(connection, "SELECT v FROM app.t ORDER BY id") == [(1,), (2,), (3,)]
    assert findings() == []
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT v FROM t ORDER BY id") == [(1,), (2,), (3,)]


@pytest.mark.promise("violation-names-next-step")
def test_a_check_that_reads_another_table_is_told_what_it_means(connection: Connection, tmp_path: Path) -> None:
    """The other table is empty in a dry run, and need not be in a run: PostgreSQL forbids what the check does."""
    make_target(
        connection,
        "CREATE TABLE p (id integer PRIMARY KEY, kind text);"
        "CREATE FUNCTION is_good(k integer) RETURNS boolean LANGUAGE plpgsql AS "
        "'BEGIN RETURN EXISTS (SELECT FROM app.p WHERE id = k AND kind = ''good''); END';"
        "CREATE TABLE t (id integer PRIMARY KEY, v integer REFERENCES p, CONSTRAINT of_good_ones CHECK (is_good(v)))",
    )
    script = "CREATE TABLE p (id INTEGER PRIMARY KEY, kind TEXT); CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)"
    source = make_source(tmp_path / "t.db", script, {"p": [(1, "good"), (2, "bad")], "t": [(1, 1)]})
    group = make_group(source, {"source": "p"}, {"source": "t"})
    with pytest.raises(MigrationError) as error:
        rehearse(connection, group, tmp_path, check_mode=True)
    (problem,) = error.value.problems
    what = (
        "PostgreSQL refuses it: it violates the check constraint of_good_ones, which calls app.is_good (1 row: id=1: 1)"
    )
    assert problem.what == what
    assert problem.fix.startswith(
        "If app.is_good reads other tables, make a trigger of the check constraint of_good_ones in files/sql (or the "
        "application's own migrations): a check is made for one row alone, and those tables may be empty here, "
    )
    # What it advises.
    execute(
        connection,
        "SET LOCAL search_path = app; ALTER TABLE t DROP CONSTRAINT of_good_ones; CREATE FUNCTION check_good() "
        "RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NOT app.is_good(NEW.v) THEN RAISE check_violation; END IF; "
        "RETURN NEW; END'; CREATE TRIGGER of_good_ones BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION "
        "check_good()",
    )
    for check_mode in (True, False):
        rehearse(connection, group, tmp_path, check_mode)
    assert query(connection, "SELECT * FROM app.t") == [(1, 1)]
    with pytest.raises(psycopg2.errors.CheckViolation):
        execute(connection, "INSERT INTO app.t VALUES (2, 2)")
