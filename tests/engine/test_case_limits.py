"""Limits of PostgreSQL itself: each value beyond one is named with its key and the limit, in a dry run too."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.prepare import (
    table as prepared_table,
)

from .support import make_group, make_source, make_target, query, rehearse
from .test_export import bring_back, counts

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

WORD = "'" + "a" * 2_046 + "'"
LONG_WORD = "'" + "a" * 2_047 + "'"
MANY_WORDS = " ".join(f"'{number:060d}'" for number in range(20_000))
FAR = "'cat':16384"
OFTEN = "'cat':" + ",".join(map(str, range(1, 300)))


def refused(connection: Connection, group: Any, tmp_path: Path) -> str:
    """Return the message of a refused run, the same as that of the dry run."""
    messages = []
    for check_mode in (True, False):
        with pytest.raises(MigrationError) as error:
            rehearse(connection, group, tmp_path, check_mode)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    return messages[0]


def test_a_tsvector_beyond_a_limit_is_named_with_the_limit(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v tsvector)")
    rows = list(enumerate(["'cat':1", WORD, LONG_WORD, MANY_WORDS, LONG_WORD.replace("a", "b"), FAR, OFTEN], 1))
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", {"t": rows})
    message = refused(connection, make_group(source, {"source": "t"}), tmp_path)
    assert "t.v: holds text beyond a limit of type tsvector (max 2046 bytes) (2 rows: id=3: " in message
    assert "t.v: holds text beyond a limit of type tsvector (max 1048575 bytes) (1 row: id=4: " in message
    # A position that is too large, or one too many, is only left out by the type.
    assert "writes otherwise and may lose something of (2 rows: id=6: " in message
    group = make_group(source, {"source": "t", "columns": {"v": {"unconvertible": "set_null", "rewritten": "keep"}}})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    assert query(connection, "SELECT id FROM app.t WHERE v IS NULL ORDER BY id") == [(3,), (4,), (5,)]
    assert counts(bring_back(connection, group)[0]) == {"t": (0, 0, 0)}


@pytest.mark.parametrize(
    ("type_name", "value", "limit"),
    [
        ("bytea", b"\x00" * 600, 1_000),
        ("text", "a" * 1_001, 1_000),
        ("text", "\t" * 501, 1_000),
        ("jsonb", "9" * 1_001, 1_000),
    ],
)
@pytest.mark.parametrize("largest_original", [2_000, 900])
def test_a_row_longer_than_postgresql_reads_is_named(
    connection: Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    type_name: str,
    value: Any,
    limit: int,
    largest_original: int,
) -> None:
    # The true limits, 1 GB and 256 MB, would take the test's machine several: only the numbers are others here.
    monkeypatch.setattr(prepared_table, "LONGEST_LINE", limit)
    monkeypatch.setattr(prepared_table, "LONGEST_ORIGINAL", largest_original)
    monkeypatch.setattr(prepared_table, "PIECE", 100)
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, v {type_name}, w text)")
    source = make_source(
        tmp_path / "t.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v, w TEXT)",
        {"t": [(1, value[:10], "short"), (2, value, "short"), (3, value, None)]},
    )
    # A row so long never takes the way on which SQLite itself builds the lines: neither does one in a dry run.
    what = (
        f"t.v: makes its row longer than PostgreSQL can read ({limit:,} bytes, two for each of a BLOB) (2 rows: id=2: "
    )
    # The ledger can hold no such row, and a value only up to a limit of its own.
    set_null = largest_original > limit
    for answer in ["refuse", "reject", *([] if set_null else ["set_null"])]:
        group = make_group(source, {"source": "t", "columns": {"v": {"unconvertible": answer}}})
        with pytest.raises(MigrationError) as error:
            rehearse(connection, group, tmp_path, check_mode=True)
        (problem,) = error.value.problems
        assert what in str(problem)
        first, _, others = problem.fix.partition("; or ")
        assert first == (
            "Store its longest values in another way, in files or in several rows, in the source and the service"
        )
        assert others == ("set 'unconvertible' for the column: set_null (2 values)" if set_null else "")
    if set_null:
        group = make_group(source, {"source": "t", "columns": {"v": {"unconvertible": "set_null"}}})
        (table,) = rehearse(connection, group, tmp_path, check_mode=True)["report"]["tables"]
        assert (table["source_rows"], table["rejected_rows"]) == (3, 0)
    # What it advises first.
    half = len(value) // 2
    with closing(sqlite3.connect(source)) as opened:
        opened.execute("UPDATE t SET v = ?", (value[:half],))
        opened.executemany("INSERT INTO t VALUES (?, ?, NULL)", [(4, value[half:]), (5, value[half:])])
        opened.commit()
    assert rehearse(connection, make_group(source, {"source": "t"}), tmp_path)["report"]["tables"][0]["equal"]


def test_the_limit_is_that_of_the_server() -> None:
    assert 2**30 - 2**20 < prepared_table.LONGEST_LINE < 2**30
    assert 2**28 - 2**20 < prepared_table.LONGEST_ORIGINAL < 2**28
