"""The fast way is really taken, gives what the exact way gives, and steps aside where it cannot."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.proof import (
    parallel_checksums,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate

from .support import execute, make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

DDL = """CREATE TABLE t (
  id integer PRIMARY KEY, words text, short varchar(9), tag uuid, small smallint, whole integer, big bigint,
  flag boolean, doc jsonb, raw json, at timestamptz, local timestamp, day date, amount numeric, ratio double precision,
  data bytea)"""
COLUMNS = "words, short, tag, small, whole, big, flag, doc, raw, at, local, day, amount, ratio, data"
UUID = "7d0c1e9a-3f1b-4c57-9a53-0b6f3f2f6a11"
JAVASCRIPT = "2025-12-16T05:51:27.178Z"
PLAIN: list[tuple[Any, ...]] = [
    (None,) * 15,
    ("", "", UUID, 0, 0, 0, 0, "{}", "{ }", "2025-12-16 05:51:27", "2025-12-16 05:51:27", "2025-12-16", 0, 0.0, b""),
    (
        "a\tb\nc\\d\\N\r\\.", "é🦆", "text id", -32768, -(2**31), -(2**63), 1, '{"b": [1, 2.50, 1e2], "a": "\\u00e9"}',
        '{"b":1, "b":2}', JAVASCRIPT, JAVASCRIPT, "2024-02-29", 12.5, -0.0, bytes(range(256)),
    ),
    ("\\N", "\\.", UUID, 32767, 2**31 - 1, 2**63 - 1, 1, " null ", "1", "2025-12-16T05:51:27.000Z",
     "1999-12-31T23:59:59.990Z", "0001-01-01", 10**17, 5e-324, b"\\x00"),
    ("\x01\x7f\x1b", "'\"", "other", 1, 1, 1, 0, '"\\n"', "[]", JAVASCRIPT, JAVASCRIPT,
     "9999-12-31", 1e22, 1e308, b"\n"),
]  # fmt: skip


@pytest.fixture
def group(connection: Connection, tmp_path: Path) -> Any:
    make_target(connection, DDL)
    path = make_source(
        tmp_path / "t.db",
        f"CREATE TABLE t (id INTEGER PRIMARY KEY, {COLUMNS})",
        {"t": [(number, *row) for number, row in enumerate(PLAIN)]},
    )
    return make_group(path, {"source": "t", "columns": {"tag": {"references": "tags"}}})


def test_plain_rows_need_no_python(connection: Connection, group: Any, tmp_path: Path) -> None:
    result = rehearse(connection, group, tmp_path)["report"]
    assert result["way"] == migrate.PLAIN_ROWS
    assert result["tables"][0]["equal"]
    fast = query(connection, "SELECT t::text FROM app.t AS t ORDER BY id")
    assert len(fast) == len(PLAIN)
    execute(connection, "TRUNCATE app.t; DELETE FROM migration.cutover_group")
    for row in migrate.compare(connection, group, str(tmp_path / "work"))["tables"][0]["differences"]:
        assert row["column"] == "(row)"


@pytest.mark.promise("proven-before-commit")
def test_the_exact_way_gives_the_same_rows(
    connection: Connection, group: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = rehearse(connection, group, tmp_path)["report"]["tables"][0]
    rows = query(connection, "SELECT t::text FROM app.t AS t ORDER BY id")
    ids = query(connection, "SELECT * FROM migration.id_map ORDER BY 1, 2")
    execute(connection, "TRUNCATE app.t; DELETE FROM migration.cutover_group; TRUNCATE migration.id_map")
    monkeypatch.setattr(
        "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.prepare.prepare.plain_rows",
        lambda plan, orphaned: None,
    )
    exact = rehearse(connection, group, tmp_path)["report"]["tables"][0]
    assert query(connection, "SELECT t::text FROM app.t AS t ORDER BY id") == rows
    assert query(connection, "SELECT * FROM migration.id_map ORDER BY 1, 2") == ids
    assert [exact[name] for name in ("source_hash", "target_hash", "conversions")] == [
        fast[name] for name in ("source_hash", "target_hash", "conversions")
    ]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("words", "\x1f"), ("words", "\x1e"), ("words", "\x1d"), ("words", "a\x1eb\x1fc"), ("short", "\x1d"),
        ("at", "2025-12-16 24:00:00"), ("at", "20:5-12-16 05:51:27"), ("day", "2025-02-30"), ("doc", "{"),
        ("tag", "7d0c1e9a-3f1b-4c57-9a53-0b6f3f2f6aZZ"), ("words", "x" * 200_000), ("data", b"x" * 200_000),
    ],
)  # fmt: skip
def test_what_only_looks_plain_is_found(
    connection: Connection, group: Any, tmp_path: Path, column: str, value: Any
) -> None:
    make_source(Path(group.source_path), f"UPDATE t SET {column} = NULL")
    with sqlite3.connect(group.source_path) as source:
        source.execute(f"UPDATE t SET {column} = ? WHERE id = 2", (value,))
    try:
        table = rehearse(connection, group, tmp_path)["report"]["tables"][0]
    except Exception as error:
        assert "id=2" in str(error)
        return
    assert table["equal"]
    assert table["target_rows"] == len(PLAIN)


@pytest.mark.parametrize("odd", [0, 3])
def test_a_large_source_is_added_up_in_a_process_of_its_own(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: int
) -> None:
    monkeypatch.setattr(parallel_checksums, "FROM_BYTES", 0)
    monkeypatch.setattr(parallel_checksums, "FROM_ROWS", 0)
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text, n integer)")
    rows = [(number, f"value {number}", 7.5 if number <= odd else number) for number in range(1, 3_001)]
    path = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, n)", {"t": rows})
    group = make_group(path, {"source": "t", "columns": {"n": {"fraction": "round"}}})
    used: list[set[str]] = []
    original = parallel_checksums._Process.result

    def watched(process: Any) -> Any:
        found = original(process)
        used.append(set(found))
        return found

    monkeypatch.setattr(parallel_checksums._Process, "result", watched)
    report = rehearse(connection, group, tmp_path)["report"]
    assert report["way"] == migrate.PLAIN_ROWS
    assert used == [{"t"}]
    assert query(connection, "SELECT count(*) FILTER (WHERE n = 8) FROM app.t") == [(odd + (odd < 8),)]


def test_there_may_be_more_pieces_than_a_pipe_has_room_for(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FROM_BYTES": 0, "FROM_ROWS": 0, "ROWS_OF_A_PIECE": 1, "_MOST_PIECES": 3}.items():
        monkeypatch.setattr(parallel_checksums, name, value)
    tables = [f"t{number}" for number in range(5)]
    make_target(connection, ";".join(f"CREATE TABLE {name} (id integer PRIMARY KEY)" for name in tables))
    path = make_source(
        tmp_path / "t.db",
        ";".join(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY)" for name in tables),
        {name: [(number,) for number in range(7)] for name in tables},
    )
    results: list[set[str]] = []
    original = parallel_checksums._Process.result

    def watched(process: Any) -> Any:
        found = original(process)
        results.append(set(found))
        return found

    monkeypatch.setattr(parallel_checksums._Process, "result", watched)
    report = rehearse(connection, make_group(path, *({"source": name} for name in tables)), tmp_path)["report"]
    assert results == [set(tables)]
    assert report["way"] == migrate.PLAIN_ROWS
    assert [(table["equal"], table["target_rows"]) for table in report["tables"]] == [(True, 7)] * 5


LARGEST = 2**63 - 1


@pytest.mark.parametrize(
    ("columns", "options", "numbers", "pieces"),
    [
        ("id INTEGER PRIMARY KEY", "", range(1, 11), 5),
        ("id INTEGER PRIMARY KEY", "", (-LARGEST - 1, -7, 0, 1, LARGEST), 3),
        ("id INTEGER PRIMARY KEY", "", (), 1),
        ("id INTEGER PRIMARY KEY", "WITHOUT ROWID", range(1, 11), 1),
        ("id INTEGER", "", range(1, 11), 5),
        ("id BIGINT NOT NULL PRIMARY KEY, ROWID TEXT, _rowid_ TEXT, Oid TEXT", "", range(1, 11), 1),
        ("id INTEGER, RowId TEXT", "", range(1, 11), 5),
    ],
)
def test_both_processes_share_the_pieces_of_a_table(
    connection: Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    columns: str,
    options: str,
    numbers: Any,
    pieces: int,
) -> None:
    """A piece that is lost, or added up twice, makes the sums differ, and the move is refused."""
    for name in ("FROM_BYTES", "FROM_ROWS"):
        monkeypatch.setattr(parallel_checksums, name, 0)
    monkeypatch.setattr(parallel_checksums, "ROWS_OF_A_PIECE", 2)
    make_target(connection, "CREATE TABLE t (id bigint, rowid text, _rowid_ text, oid text, v text)")
    path = make_source(tmp_path / "t.db", f"CREATE TABLE t ({columns}, v TEXT) {options}")
    with sqlite3.connect(path) as source:
        source.executemany("INSERT INTO t (id, v) VALUES (?, ?)", ((number, f"v{number}") for number in numbers))
    taken: list[int] = []
    original = parallel_checksums._Process.result

    def watched(process: Any) -> Any:
        taken.append(len(process._pieces))
        return original(process)

    monkeypatch.setattr(parallel_checksums._Process, "result", watched)
    report = rehearse(connection, make_group(path, {"source": "t"}), tmp_path)["report"]
    assert report["way"] == migrate.PLAIN_ROWS
    assert taken == [pieces]
    assert report["tables"][0]["equal"]
    assert report["tables"][0]["target_rows"] == len(numbers)


@pytest.mark.parametrize("special", ["", "rows that are not plain", "a row that is too long"])
@pytest.mark.parametrize("who", ["this process", "the other"])
def test_it_does_not_matter_who_adds_up_a_piece(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str, special: str
) -> None:
    for name, value in {"FROM_BYTES": 0, "FROM_ROWS": 0, "ROWS_OF_A_PIECE": 2, "_LONGEST_LINE_BYTES": 10_000}.items():
        monkeypatch.setattr(parallel_checksums, name, value)
    parent = os.getpid()
    take = parallel_checksums._take_pieces

    def take_all_or_none(*arguments: Any) -> None:
        if (os.getpid() == parent) is (who == "this process"):
            take(*arguments)

    monkeypatch.setattr(parallel_checksums, "_take_pieces", take_all_or_none)
    results: list[set[str]] = []
    original = parallel_checksums._Process.result

    def watched(process: Any) -> Any:
        found = original(process)
        results.append(set(found))
        return found

    monkeypatch.setattr(parallel_checksums._Process, "result", watched)
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, n integer, v text)")
    odd = 3 if special == "rows that are not plain" else 0
    long = 6 if special == "a row that is too long" else 0
    rows = [(number, number + 0.5 * (number <= odd), "x" * (20_000 * (number == long))) for number in range(1, 12)]
    path = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, n, v TEXT)", {"t": rows})
    group = make_group(path, {"source": "t", "columns": {"n": {"fraction": "round"}}})
    report = rehearse(connection, group, tmp_path)["report"]
    assert report["way"] == migrate.PLAIN_ROWS
    assert report["tables"][0]["equal"]
    # What is too long for them is added up in another way.
    assert results == [set() if long else {"t"}]


@pytest.mark.promise("indexes-as-before")
def test_indexes_and_constraints_are_the_same_after_a_large_load(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer.full_load.FROM_ROWS",
        10,
    )
    make_target(
        connection,
        "CREATE TABLE p (id integer PRIMARY KEY, code text, UNIQUE (code) DEFERRABLE);"
        "CREATE TABLE c (id integer PRIMARY KEY, p_id integer REFERENCES p ON DELETE CASCADE,"
        " self integer REFERENCES c, v text, CHECK (v <> 'no'), EXCLUDE (v WITH =));"
        "CREATE INDEX by_value ON c (lower(v) text_pattern_ops) INCLUDE (p_id) WHERE v IS NOT NULL;"
        "CREATE UNIQUE INDEX filled ON c (v) WITH (fillfactor = 70);"
        "COMMENT ON INDEX by_value IS 'kept'; COMMENT ON CONSTRAINT p_pkey ON p IS 'kept too';"
        "CREATE VIEW counted AS SELECT p.id, p.code, count(*) FROM p GROUP BY p.id;"
        "CREATE TABLE outside (p_id integer REFERENCES p)",
    )
    catalog = (
        "SELECT coalesce(c.conname, i.relname), coalesce(pg_get_constraintdef(c.oid), pg_get_indexdef(i.oid)),"
        " coalesce(obj_description(c.oid, 'pg_constraint'), obj_description(i.oid, 'pg_class'))"
        " FROM pg_class i FULL JOIN pg_constraint c ON c.conindid = i.oid AND c.contype <> 'f'"
        " WHERE coalesce(i.relkind = 'i' AND i.relnamespace = 'app'::regnamespace,"
        " c.connamespace = 'app'::regnamespace)"
        " ORDER BY 1"
    )
    before = query(connection, catalog)
    path = make_source(
        tmp_path / "t.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY, code TEXT);"
        "CREATE TABLE c (id INTEGER PRIMARY KEY, p_id INTEGER, self INTEGER, v TEXT)",
        {
            "p": [(number, f"code {number}") for number in range(50)],
            "c": [(number, number, (number * 7) % 50, f"value {number}") for number in range(50)],
        },
    )
    report = rehearse(connection, make_group(path, {"source": "p"}, {"source": "c"}), tmp_path)["report"]
    assert report["way"] == migrate.PLAIN_ROWS
    assert all(key["valid"] and key["orphans"] == 0 for key in report["foreign_keys"])
    assert query(connection, catalog) == before


def test_a_partitioned_target_takes_its_rows(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE t (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);"
        "CREATE TABLE low PARTITION OF t FOR VALUES FROM (MINVALUE) TO (100);"
        "CREATE TABLE high PARTITION OF t FOR VALUES FROM (100) TO (MAXVALUE);"
        'CREATE TYPE "100% mood" AS ENUM (\'glad\'); ALTER TABLE t ADD m "100% mood"',
    )
    path = make_source(
        tmp_path / "t.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, m TEXT)",
        {"t": [(number, f"value {number}", "glad") for number in range(50, 150)]},
    )
    group = make_group(path, {"source": "t"})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    assert query(connection, "SELECT count(*) FROM ONLY app.high") == [(50,)]
    with sqlite3.connect(path) as source:
        source.execute("UPDATE t SET v = 'changed' WHERE id IN (60, 120)")
    report = rehearse(connection, group, tmp_path)["report"]
    assert report["way"] == migrate.CHANGED_ROWS
    assert report["tables"][0]["equal"]
    execute(connection, "UPDATE app.low SET v = 'x' WHERE id = 70")
    found = migrate.compare(connection, group, str(tmp_path / "work"))["tables"][0]["differences"]
    assert [(each["key"], each["column"]) for each in found] == [("id=70", "v")]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("local", "2025-12-16 05:51:27\x00lost"), ("local", JAVASCRIPT + "\x00lost"), ("day", "2025-12-16\x00lost"),
        ("at", "2025-12-16 05:51:27\x00lost"), ("words", "a\x00lost"), ("doc", "{}\x00lost"),
        ("tag", UUID + "\x00lost"),
    ],
)  # fmt: skip
def test_nothing_behind_a_nul_character_is_lost(
    connection: Connection, group: Any, tmp_path: Path, column: str, value: str
) -> None:
    with sqlite3.connect(group.source_path) as source:
        source.execute(f"UPDATE t SET {column} = ? WHERE id = 2", (value,))
    with pytest.raises(MigrationError, match="id=2"):
        rehearse(connection, group, tmp_path)


def test_a_name_with_braces_is_a_name_like_any_other(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, 'CREATE TABLE t (id integer PRIMARY KEY, "{}" jsonb, "{0}" text)')
    script = 'CREATE TABLE t (id INTEGER PRIMARY KEY, "{}" TEXT, "{0}" TEXT)'
    path = make_source(tmp_path / "t.db", script, {"t": [(1, '{"a": 1}', "{1}")]})
    (table,) = rehearse(connection, make_group(path, {"source": "t"}), tmp_path)["report"]["tables"]
    assert table["equal"]
    assert query(connection, 'SELECT "{}" ->> \'a\', "{0}" FROM app.t') == [("1", "{1}")]
