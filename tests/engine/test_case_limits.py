"""Limits of PostgreSQL itself: each value beyond one is named with its key and the limit, in a dry run too."""

from __future__ import annotations

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
@pytest.mark.parametrize("answer", ["set_null", "reject"])
def test_a_row_longer_than_postgresql_reads_is_named(
    connection: Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    type_name: str,
    value: Any,
    limit: int,
    answer: str,
) -> None:
    # The true limit, 1 GB, would take the test's machine several: only the number is another here.
    monkeypatch.setattr(prepared_table, "LONGEST_LINE", limit)
    monkeypatch.setattr(prepared_table, "PIECE", 100)
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, v {type_name}, w text)")
    source = make_source(
        tmp_path / "t.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v, w TEXT)",
        {"t": [(1, value[:10], "short"), (2, value, "short"), (3, value, None)]},
    )
    # A row so long never takes the way on which SQLite itself builds the lines: neither does one in a dry run.
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path, check_mode=True)
    what = f"makes its row longer than PostgreSQL can read ({limit:,} bytes, two for each of a BLOB)"
    assert f"t.v: {what} (2 rows: id=2: " in str(error.value)
    group = make_group(source, {"source": "t", "columns": {"v": {"unconvertible": answer}}})
    report = rehearse(connection, group, tmp_path, check_mode=True)["report"]
    assert report["tables"][0]["source_rows"] == 3
    assert report["tables"][0]["rejected_rows"] == (2 if answer == "reject" else 0)


def test_the_limit_is_that_of_the_server() -> None:
    assert 2**30 - 2**20 < prepared_table.LONGEST_LINE < 2**30
