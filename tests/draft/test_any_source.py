"""Whatever schema and values a file has, its draft loads, and the engine moves and verifies every value."""

from __future__ import annotations

import os
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.draft import draft
from tests.engine.support import execute

from .support import load_sql, move

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

DECLARED = (
    "", "TEXT", "VARCHAR(5)", "INTEGER", "INT", "BIGINT", "SMALLINT", "REAL", "DOUBLE", "NUMERIC", "DECIMAL(10,2)",
    "BOOLEAN", "JSON", "DATETIME", "DATE", "BLOB", "UUID",
)  # fmt: skip
NAMES = (
    "id", "is_on", "created_at", "User", "order", "ctid", "a.b", "a b", 'q"q', "x" * 70, "x" * 71, "ü", "%s", "select",
    "password", "line\nend", "{}",
)  # fmt: skip
# Each list is one kind of column; the last one holds everything.
VALUES: tuple[list[Any], ...] = (
    [0, 1],
    [0, 5, -7, 2**30, 2**31, -(2**63), 2**63 - 1],
    [0.5, -0.0, 1e300, 5e-324, float("inf"), 0.1, 3],
    ["2025-12-16 05:51:27", "2025-12-16T05:51:27.178Z", "2024-02-29", "2025-01-01T00:00:00+02:00"],
    ["2025-12-16", "2024-02-29", "0001-01-01", "2025-02-30"],
    [1704164645, 1704164646, 1704164645.25],
    [1704164645678, 1704164645679],
    ['{"a": 1}', "[]", '{"a": 1, "a": 2}', "[1e400]", '["\\u0000"]', "[" * 300 + "]" * 300],
    ["6f1e3b52-1d0c-4f0e-9f3a-5f3f3c1d2e4b", "6f1e3b52-1d0c-4f0e-9f3a-5f3f3c1d2e4c"],
    ["6F1E3B52-1D0C-4F0E-9F3A-5F3F3C1D2E4B", "6F1E3B52-1D0C-4F0E-9F3A-5F3F3C1D2E4C"],
    ["", "a", "Ä", "tab\tnew\nline\\", "5", "0.1", "🦆", "\\N"],
    [b"", b"\x00\xff", b"text"],
    ["12.50", "1.005", 3, 2.25],
    ["x\x00y", b"blob", 7, "text", 0.1, "2025-12-16"],
)
KEYS = ("", "PRIMARY KEY", "UNIQUE", "NOT NULL", "COLLATE NOCASE UNIQUE")
DEFAULTS = (
    "", "DEFAULT 0", "DEFAULT 'x'", "DEFAULT CURRENT_TIMESTAMP", "DEFAULT (datetime('now'))", "DEFAULT NULL",
    "DEFAULT (strftime('%s','now'))", "DEFAULT (lower(hex(randomblob(16))))", "DEFAULT (abs(random()))",
    "DEFAULT 1.5", "DEFAULT TRUE", "DEFAULT x'00ff'", "DEFAULT '[]'",
)  # fmt: skip
CHECKS = (
    "", "CHECK ({0} IS NOT NULL OR 1)", "CHECK ({0} IN (0, 1) OR {0} NOT IN (0, 1) OR {0} IS NULL)",
    "CHECK (length({0}) < 1000)", "CHECK (typeof({0}) <> 'x')", "CHECK ({0} || '' <> 'never')",
    "CHECK ({0} + 0 < {0} + 1 OR 1)", "CHECK (coalesce({0}, 'x') LIKE '%')",
)  # fmt: skip
INDEXES = (
    "CREATE INDEX {i} ON {t} ({c} DESC)", "CREATE INDEX {i} ON {t} (lower({c}))",
    "CREATE INDEX {i} ON {t} ({c}) WHERE {c} IS NOT NULL", "CREATE INDEX {i} ON {t} ({c} COLLATE NOCASE)",
    "CREATE UNIQUE INDEX {i} ON {t} ({c}, rowid0)", "CREATE INDEX {i} ON {t} (substr({c}, 1, 3), {c})",
)  # fmt: skip


# `make test-all` looks longer.
EXAMPLES = 400 if os.environ.get("LONG_SEARCHES") else 40


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@st.composite
def sources(draw: st.DrawFn) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """Statements with the rows that each is executed for; SQLite itself refuses some of them."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    table = draw(st.sampled_from(("t", "Table", "user", "a.b", "y" * 70)))
    has_key = False
    columns, values = ["rowid0 INTEGER"], []
    for name in names:
        key = draw(st.sampled_from(KEYS))
        if key == "PRIMARY KEY":
            key, has_key = ("" if has_key else key), True
        parts = [quoted(name), draw(st.sampled_from(DECLARED)), key, draw(st.sampled_from(DEFAULTS))]
        columns.append(" ".join([*parts, draw(st.sampled_from(CHECKS)).format(quoted(name))]))
        values.append(st.none() | st.sampled_from(draw(st.sampled_from(VALUES))))
    if draw(st.booleans()):
        columns.append(f"made AS (coalesce({quoted(names[0])}, '') || '!')")
    if draw(st.booleans()):
        columns.append("made2 INTEGER AS (rowid0 * 3 / 2 > 4) STORED")
    rows = draw(st.lists(st.tuples(*values), max_size=6))
    listed = ", ".join(["rowid0", *map(quoted, names)])
    marks = ", ".join("?" * (len(names) + 1))
    statements: list[tuple[str, list[tuple[Any, ...]]]] = [
        (f"CREATE TABLE {quoted(table)} ({', '.join(columns)})", [()]),
        (
            f"INSERT OR IGNORE INTO {quoted(table)} ({listed}) VALUES ({marks})",
            [(number, *row) for number, row in enumerate(rows)],
        ),
    ]
    for number, index in enumerate(draw(st.lists(st.sampled_from(INDEXES), max_size=2))):
        made = index.format(i=quoted(f"index{number}"), t=quoted(table), c=quoted(draw(st.sampled_from(names))))
        statements.append((made, [()]))
    reference = quoted(draw(st.sampled_from(names)))
    statements.append((f"CREATE TABLE child (ref REFERENCES {quoted(table)} ({reference}) ON DELETE CASCADE)", [()]))
    statements.append((f"INSERT INTO child SELECT {reference} FROM {quoted(table)}", [()]))
    return statements


@pytest.mark.promise("draft-moves-any-file", "nothing-lost")
@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(statements=sources())
def test_every_value_arrives_or_is_a_question(
    connection: Connection, tmp_path: Path, statements: list[tuple[str, list[tuple[Any, ...]]]]
) -> None:
    path = tmp_path / f"{uuid.uuid4()}.db"
    with closing(sqlite3.connect(path)) as source:
        for statement, rows in statements:
            for row in rows:
                try:
                    source.execute(statement, row)
                except sqlite3.Error:
                    continue
        source.commit()
        if not source.execute("SELECT 1 FROM sqlite_schema WHERE name <> 'child'").fetchall():
            return
    drafted = draft(str(path), "app", str(tmp_path / "work"))
    connection.rollback()
    execute(connection, "DROP SCHEMA IF EXISTS app CASCADE; DROP SCHEMA IF EXISTS migration CASCADE")
    load_sql(connection, drafted)
    try:
        report = move(connection, drafted, tmp_path)
    except MigrationError as error:
        connection.rollback()
        asked = {f"{path}: {question.where}" for question in drafted.questions if "policy" in question.fix}
        asked |= {f"{path}: {question.where}" for question in drafted.questions if "duplicate" in question.fix}
        unasked = [problem for problem in error.problems if problem.where not in asked]
        assert error.problems and not unasked, f"{error}\n{drafted.sql}"
        return
    assert report["tables"] and all(table["equal"] for table in report["tables"])
    assert all(table["source_rows"] == table["target_rows"] for table in report["tables"])
    assert report["rejects"] == []
