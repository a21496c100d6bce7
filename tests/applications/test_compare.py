"""compare.py sees what it must see: each difference below is one, and each pair that means the same is none."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Server

from .compare import compare, raw_rows, rewritten

# Type of PostgreSQL, value in the file, value there.
DIFFERENT = [
    ("numeric", "1234567890123456789012345678901234567891", "1234567890123456789012345678901234567892"),
    ("jsonb", '{"a": 1, "a": 2}', '{"a": 2}'),
    ("json", '{"a": 1, "a": 2}', '{"a": 2, "a": 1}'),
    ("json", '["number 1"]', "[1]"),
    ("json", '{"a": true}', '{"a": 1}'),
    ("json", '[["a", 1]]', '{"a": 1}'),
    ("json", "[1.00000000000000000000000000000000001]", "[1.00000000000000000000000000000000002]"),
    ("date", "2026-02-28 23:59:59", "2026-02-28"),
    ("timestamptz", "2026-02-28 23:59:59.000001", "2026-02-28 23:59:59Z"),
    ("text", "", None),
]
THE_SAME = [
    ("numeric", "1.50", "1.5000"),
    ("jsonb", '{"b": [1.0, null], "a": "ü"}', '{"a": "\\u00fc", "b": [1, null]}'),
    ("json", "[1e21]", "[1000000000000000000000]"),
    ("date", "2026-02-28T00:00:00Z", "2026-02-28"),
    ("timestamptz", "2026-02-28T01:00:00+01:00", "2026-02-28 00:00:00Z"),
]


def made(file: Path, value: object) -> None:
    """Make a file of one table with one value."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, value)")
        connection.execute("INSERT INTO things VALUES (1, ?)", (value,))
        connection.commit()


def sent(server: Server, database: str, kind: str, value: str | None) -> str:
    """Make the table on PostgreSQL, and return the place of the database."""
    literal = "NULL" if value is None else f"'{value}'"
    server.execute(
        f"CREATE TABLE things (id bigint PRIMARY KEY, value {kind})",
        f"INSERT INTO things VALUES (1, {literal})",
        database=database,
    )
    login = replace(server.superuser, database=database)
    return f"postgresql://{login.user}:{login.password}@{login.host}:{login.port}/{login.database}"


@pytest.mark.parametrize(("kind", "here", "there"), DIFFERENT)
def test_a_difference_is_seen(
    server: Server, database: str, tmp_path: Path, kind: str, here: str, there: str | None
) -> None:
    made(tmp_path / "a.db", here)
    differences = compare(str(tmp_path / "a.db"), sent(server, database, kind, there)).differences
    assert [line.split(":")[0] for line in differences] == ["things", "things"]


@pytest.mark.parametrize(("kind", "here", "there"), THE_SAME)
def test_what_means_the_same_is_equal(
    server: Server, database: str, tmp_path: Path, kind: str, here: str, there: str
) -> None:
    made(tmp_path / "a.db", here)
    compared = compare(str(tmp_path / "a.db"), sent(server, database, kind, there))
    assert (compared.differences, compared.values) == ([], 2)


@pytest.mark.parametrize(
    ("kind", "before", "after"), [("numeric", "1.50", 1.5), ("integer", 1.0, 1), ("json", "[1]", "[ 1]")]
)
def test_a_value_that_is_written_in_another_way_is_seen(
    server: Server, database: str, tmp_path: Path, kind: str, before: object, after: object
) -> None:
    place = sent(server, database, kind, None)
    made(tmp_path / "before.db", before)
    made(tmp_path / "after.db", after)
    assert raw_rows(str(tmp_path / "before.db")) != raw_rows(str(tmp_path / "after.db"))
    assert rewritten(str(tmp_path / "before.db"), str(tmp_path / "before.db"), place) == []
    assert len(rewritten(str(tmp_path / "before.db"), str(tmp_path / "after.db"), place)) == 1
    made(tmp_path / "changed.db", "2")
    assert rewritten(str(tmp_path / "before.db"), str(tmp_path / "changed.db"), place) == []
