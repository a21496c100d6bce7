"""Each decision about a type: from the declared type, the name, and all values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError

from .support import draft_of, load_sql, move, types_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

UUID = "6f1e3b52-1d0c-4f0e-9f3a-5f3f3c1d2e4b"
OTHER_UUID = "6f1e3b52-1d0c-4f0e-9f3a-5f3f3c1d2e4c"

# name, declared type, values, the type that is drafted
CASES: tuple[tuple[str, str, list[Any], str], ...] = (
    # A boolean is declared or named so, and holds nothing but 0, 1 and NULL.
    ("flag", "BOOLEAN", [0, 1, None], "boolean"),
    ("is_on", "INTEGER", [0, 1, None], "boolean"),
    ("flag", "BOOLEAN", [0, 2], "integer"),
    ("is_on", "INTEGER", [0, 2], "integer"),
    ("retries", "INTEGER", [0, 1], "integer"),
    ("flag", "BOOLEAN", [], "boolean"),
    ("is_on", "INTEGER", [], "bigint"),
    ("emailVerified", "INTEGER", [0, 1], "boolean"),
    ("banned", "INTEGER", [0, None], "boolean"),
    # Whole numbers.
    ("n", "INTEGER", [5, -7], "integer"),
    ("n", "INTEGER", [2**30 - 1], "integer"),
    ("n", "INTEGER", [2**30], "bigint"),
    ("n", "INTEGER", [-(2**30)], "bigint"),
    ("n", "SMALLINT", [5], "integer"),
    ("n", "BIGINT", [5], "bigint"),
    ("n", "INTEGER", [], "bigint"),
    ("n", "TEXT", [5], "text"),  # SQLite makes a text of it
    # Numbers.
    ("n", "REAL", [0.5, 3], "double precision"),
    ("n", "", [0.5, 3], "double precision"),
    ("n", "", [0.5, 2**53 + 1], "numeric"),
    ("n", "DECIMAL(10,2)", [12.5, 3], "numeric(10,2)"),
    ("n", "DECIMAL(10,2)", [3], "numeric(10,2)"),
    ("n", "DECIMAL(10,2)", [12.505], "numeric"),
    ("n", "DECIMAL(4,2)", [100], "numeric"),
    ("n", "NUMERIC", [0.5], "numeric"),
    ("n", "NUMERIC", [float("inf")], "double precision"),
    ("n", "DECIMAL(10,2)", [], "numeric(10,2)"),
    # Times: what they are called does not matter, but for numbers.
    ("x", "TEXT", ["2025-12-16 05:51:27", "2025-12-16T05:51:27.178Z"], "timestamptz"),
    ("x", "TEXT", ["2025-12-16 05:51:27", "soon"], "text"),
    ("x", "TEXT", ["2025-02-30 05:51:27"], "text"),
    ("x", "TEXT", ["2025-12-16"], "date"),
    ("x", "DATETIME", ["2025-12-16"], "timestamptz"),
    ("x", "TEXT", ["2025-12-16", "2025-12-16 05:51:27"], "timestamptz"),
    ("x", "DATE", [], "date"),
    ("x", "DATETIME", [], "timestamptz"),
    ("created_at", "INTEGER", [1704164645], "timestamptz"),
    ("created_at", "INTEGER", [1704164645678], "timestamptz"),
    ("created_at", "REAL", [1704164645.25], "timestamptz"),
    ("x", "", ["2025-12-16 05:51:27", 1704164645678], "timestamptz"),
    ("x", "TEXT", ["2025-12-16 05:51:27", 1704164645678.0], "timestamptz"),
    ("x", "", ["2025-12-16 05:51:27", 1704164645678, 5], "text"),
    ("x", "TEXT", ["1704164645"], "text"),
    ("created_at", "TEXT", ["1704164645"], "timestamptz"),
    ("amount", "INTEGER", [1704164645], "bigint"),
    ("created_at", "INTEGER", [0, 1704164645], "bigint"),
    ("created_at", "INTEGER", [20240131], "integer"),
    ("x", "DATETIME", [2460310.5], "timestamptz"),
    # The form of all values.
    ("x", "TEXT", [UUID, OTHER_UUID], "uuid"),
    ("x", "TEXT", [UUID.upper()], "uuid"),
    ("x", "TEXT", [UUID, OTHER_UUID.upper()], "text"),
    ("x", "TEXT", [UUID, "admin"], "text"),
    ("x", "TEXT", [UUID.replace("-", "")], "text"),
    ("x", "UUID", [], "uuid"),
    ("x", "TEXT", ['{"a": 1}', "[]"], "jsonb"),
    ("x", "TEXT", ['{"a": 1}', ' {"a": 1}', '"b"', "[]", "{}"], "jsonb"),
    ("x", "TEXT", ['{"a": 1}', "plain"], "text"),
    ("x", "TEXT", ['{"a": 1}', "[]", "plain"], "text"),
    ("x", "TEXT", ['{"a": 1, "a": 2}'], "text"),
    ("x", "TEXT", ['["\\u0000"]'], "text"),
    ("x", "TEXT", ["[1e20000]"], "text"),
    ("x", "TEXT", ["5"], "text"),
    ("x", "JSON", ['"a"', "[]"], "jsonb"),
    ("x", "JSON", [], "jsonb"),
    ("x", "BLOB", [b"\x00"], "bytea"),
    ("x", "BLOB", ["a"], "text"),
    ("x", "", [b"\x00", "a"], "text"),
    ("x", "VARCHAR(3)", ["longer"], "text"),
    ("x", "TEXT", ["a", ""], "text"),
)


@pytest.mark.parametrize(("name", "declared", "values", "expected"), CASES)
def test_a_column_gets_the_type_that_holds_all_its_values(
    tmp_path: Path, name: str, declared: str, values: list[Any], expected: str
) -> None:
    drafted = draft_of(tmp_path, f"CREATE TABLE t ({name} {declared})", {"t": [(value,) for value in values]})
    assert types_of(drafted) == {f"t.{name}": expected}


def test_a_day_without_values_is_a_time_where_other_days_of_the_file_are(tmp_path: Path) -> None:
    ddl = "CREATE TABLE t (made date, ended date); CREATE TABLE u (seen DATE); CREATE TABLE v (at time)"
    for name in ("times", "days"):
        (tmp_path / name).mkdir()
    with_times = draft_of(tmp_path / "times", ddl, {"t": [("2026-11-30T13:18:06.509Z", None)]})
    with_days = draft_of(tmp_path / "days", ddl, {"t": [("2026-11-30", None)]})
    assert types_of(with_times) == {
        **dict.fromkeys(("t.made", "t.ended", "u.seen"), "timestamptz"),
        "v.at": "text",
    }
    assert types_of(with_days) == {**dict.fromkeys(("t.made", "t.ended", "u.seen"), "date"), "v.at": "text"}
    assert "other columns that are declared DATE hold times" in with_times.sql


def test_every_key_is_a_bigint_on_both_ends(tmp_path: Path) -> None:
    drafted = draft_of(
        tmp_path,
        """CREATE TABLE parent (id INTEGER PRIMARY KEY);
           CREATE TABLE child (id INT PRIMARY KEY, parent_id SMALLINT REFERENCES parent (id));""",
        {"parent": [(1,)], "child": [(1, 1)]},
    )
    assert set(types_of(drafted).values()) == {"bigint"}


def test_what_refers_to_a_row_id_is_a_bigint_whatever_stands_in_it(connection: Connection, tmp_path: Path) -> None:
    drafted = draft_of(
        tmp_path,
        """CREATE TABLE parent (id INTEGER PRIMARY KEY);
           CREATE TABLE child (parent_id REFERENCES parent (id));""",
        {"parent": [(1,)], "child": [("admin",), (1,), (b"x",)]},
    )
    assert set(types_of(drafted).values()) == {"bigint"}
    assert {question.where for question in drafted.questions} == {"child.parent_id"}
    load_sql(connection, drafted)
    with pytest.raises(MigrationError) as error:
        move(connection, drafted, tmp_path)
    assert all(problem.where.endswith(": child.parent_id") for problem in error.value.problems)


def test_both_ends_of_a_foreign_key_get_the_type_that_holds_the_values_of_both(tmp_path: Path) -> None:
    drafted = draft_of(
        tmp_path,
        """CREATE TABLE parent (id TEXT PRIMARY KEY);
           CREATE TABLE child (parent_id TEXT REFERENCES parent, other_id TEXT REFERENCES child2 (id));
           CREATE TABLE child2 (id TEXT PRIMARY KEY REFERENCES parent (id));""",
        {"parent": [(UUID,)], "child": [(UUID, "admin")], "child2": [(UUID,)]},
    )
    assert set(types_of(drafted).values()) == {"text"}


def test_two_keys_that_one_type_would_take_for_one_stay_two(tmp_path: Path) -> None:
    """In a key, JSON is a text, and so are times of several forms: of both, two that differ may be equal."""
    drafted = draft_of(
        tmp_path,
        """CREATE TABLE t (at TEXT PRIMARY KEY, one_form TEXT UNIQUE, doc TEXT UNIQUE, is_on INTEGER UNIQUE)""",
        {
            "t": [
                ("2025-12-16 05:51:27", "2025-12-16 05:51:27", '{"a": 1}', 0),
                ("2025-12-16T05:51:27Z", "2025-12-16 05:51:28", '{"a":1}', 1),
            ]
        },
    )
    assert types_of(drafted) == {"t.at": "text", "t.one_form": "timestamptz", "t.doc": "text", "t.is_on": "integer"}


def test_uuids_in_capitals_are_uuids_where_the_engine_remembers_their_spelling(
    connection: Connection, tmp_path: Path
) -> None:
    drafted = draft_of(
        tmp_path,
        """CREATE TABLE parent (id TEXT PRIMARY KEY, code TEXT UNIQUE);
           CREATE TABLE child (parent_id TEXT REFERENCES parent, code TEXT REFERENCES parent (code));""",
        {"parent": [(UUID.upper(), UUID.upper())], "child": [(UUID.upper(), UUID.upper())]},
    )
    assert types_of(drafted) == {
        "parent.id": "uuid",
        "parent.code": "text",
        "child.parent_id": "uuid",
        "child.code": "text",
    }
    load_sql(connection, drafted)
    assert all(table["equal"] for table in move(connection, drafted, tmp_path)["tables"])


def test_why_and_how_many_values_stands_above_a_column_that_its_declaration_does_not_explain(tmp_path: Path) -> None:
    rows = [('{"a": 1}', number) for number in range(1234)]
    sql = draft_of(tmp_path, "CREATE TABLE t (doc TEXT, n BIGINT)", {"t": rows}).sql
    assert (
        "  -- TEXT in SQLite: each of its 1,234 values is JSON; the order of keys is not kept.\n  doc jsonb,\n  n big"
        in sql
    )


def test_the_unit_of_numbers_in_a_time_column_stands_in_the_mapping(tmp_path: Path) -> None:
    drafted = draft_of(tmp_path, "CREATE TABLE t (seen_at INTEGER)", {"t": [(1704164645678,)]})
    assert drafted.mapping["tables"][0]["columns"] == {"seen_at": {"epoch_unit": "milliseconds"}}


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("password_hash", "x", True),
        ("apiKey", "x", True),
        ("reset_token", "x", True),
        ("client_secret", None, True),
        ("note", "$2b$12$abcdefghijklmnopqrstuv", True),
        ("note", "-----BEGIN PRIVATE KEY-----", True),
        ("note", "eyJhbGciOi.eyJzdWIiOi.c2ln", True),
        ("note", "nothing of the kind", False),
        ("commit_sha", "0123abc", False),
    ],
)
def test_what_looks_like_a_secret_by_name_or_by_form_is_marked(
    tmp_path: Path, name: str, value: str | None, secret: bool
) -> None:
    drafted = draft_of(tmp_path, f"CREATE TABLE t ({name} TEXT)", {"t": [(value,)]})
    assert drafted.mapping["tables"][0].get("columns", {}) == ({name: {"secret": True}} if secret else {})
    assert value is None or len(value) == 1 or value not in drafted.sql
