"""Rows that refer to nothing, or to a row that only SQLite finds: what each answer does, and why one cannot be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError

from .support import execute, make_group, make_source, make_target, query, rehearse
from .test_case_triggers import change_source
from .test_export import bring_back, counts, rows_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ..conftest import Server

SET_NULL = {"orphan": "set_null"}


def refused(connection: Connection, group: Any, tmp_path: Path) -> str:
    """Return the message of a refused run, the same for a dry run."""
    with pytest.raises(MigrationError) as error:
        rehearse(connection, group, tmp_path)
    with pytest.raises(MigrationError) as dry:
        rehearse(connection, group, tmp_path, check_mode=True)
    assert str(dry.value) == str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- what set_null can


def test_set_null_in_a_column_that_is_never_null_says_why_it_cannot_be(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE p (id integer PRIMARY KEY);"
                "CREATE TABLE t (id integer PRIMARY KEY, v integer NOT NULL REFERENCES p)")  # fmt: skip
    source = make_source(
        tmp_path / "t.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
        {"t": [(1, 5)]},
    )
    group = make_group(source, {"source": "p"}, {"source": "t", "columns": {"v": SET_NULL}})
    found = refused(connection, group, tmp_path)
    assert (
        "Set 'orphan' for the column: reject (1 row). 'orphan: set_null' cannot be, for v is NOT NULL in app.t" in found
    )


COMPOSITE = "CREATE TABLE p (a integer, b integer, PRIMARY KEY (a, b));"
COMPOSITE_SOURCE = (
    "CREATE TABLE p (a INTEGER, b INTEGER, PRIMARY KEY (a, b)); CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)"
)


@pytest.mark.parametrize(
    ("columns", "match", "asked", "stored"),
    [
        ("a integer, b integer", "", ["b"], (1, None)),
        ("a integer, b integer", "", ["a"], (None, 2)),
        ("a integer, b integer", "", ["a", "b"], (None, None)),
        ("a integer NOT NULL, b integer", "", ["b"], (1, None)),
        ("a integer NOT NULL, b integer", "", ["a", "b"], (1, None)),
        ("a integer, b integer", "MATCH FULL", ["b"], (None, None)),
    ],
)
def test_set_null_empties_the_columns_that_it_is_named_for(
    connection: Connection, tmp_path: Path, columns: str, match: str, asked: list[str], stored: tuple[Any, ...]
) -> None:
    make_target(
        connection,
        f"{COMPOSITE}CREATE TABLE t (id integer PRIMARY KEY, {columns}, FOREIGN KEY (a, b) REFERENCES p {match})",
    )
    source = make_source(tmp_path / "t.db", COMPOSITE_SOURCE, {"p": [(1, 1)], "t": [(1, 1, 1), (2, 1, 2)]})
    group = make_group(source, {"source": "p"}, {"source": "t", "columns": dict.fromkeys(asked, SET_NULL)})
    assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])
    assert query(connection, "SELECT a, b FROM app.t ORDER BY id") == [(1, 1), stored]
    report, _ = bring_back(connection, group)
    assert counts(report) == {"p": (0, 0, 0), "t": (0, 0, 0)}


@pytest.mark.parametrize(
    ("match", "why"),
    [
        ("", "cannot be, for a is NOT NULL in app.t; it can for b"),
        (
            "MATCH FULL",
            "cannot be, for a is NOT NULL in app.t, and with MATCH FULL all columns of the key are set or none",
        ),
    ],
)
def test_set_null_of_a_column_of_a_key_that_is_never_null(
    connection: Connection, tmp_path: Path, match: str, why: str
) -> None:
    make_target(
        connection,
        COMPOSITE + "CREATE TABLE t (id integer PRIMARY KEY, a integer NOT NULL, b integer, "
        f"FOREIGN KEY (a, b) REFERENCES p {match})",
    )
    source = make_source(tmp_path / "t.db", COMPOSITE_SOURCE, {"p": [(1, 1)], "t": [(1, 1, 1), (2, 1, 2)]})
    group = make_group(source, {"source": "p"}, {"source": "t", "columns": {"a": SET_NULL}})
    assert why in refused(connection, group, tmp_path)


# ---------------------------------------------------------------- parents that only SQLite finds

NOCASE = {
    "text": ("text", "TEXT COLLATE NOCASE", "USD", "usd"),
    "varchar": ("varchar(9)", "TEXT COLLATE NOCASE", "USD", "Usd"),
    "rtrim": ("text", "TEXT COLLATE RTRIM", "USD", "USD  "),
    "uuid": ("uuid", "TEXT COLLATE NOCASE", "Role-Admin", "role-admin"),
}


def currencies(connection: Connection, tmp_path: Path, kind: str) -> Path:
    """Return a source whose rows refer to a parent in other letters."""
    type_name, declared, parent, child = NOCASE[kind]
    make_target(connection, f"CREATE TABLE p (code {type_name} PRIMARY KEY);"
                f"CREATE TABLE t (id integer PRIMARY KEY, code {type_name} REFERENCES p)")  # fmt: skip
    script = f"CREATE TABLE p (code {declared} PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, code TEXT)"
    rows: dict[str, Iterable[Sequence[Any]]] = {
        "p": [(parent,), ("EUR",)],
        "t": [(1, parent), (2, child), (3, None), (4, "EUR"), (5, child)],
    }
    return make_source(tmp_path / "t.db", script, rows)


@pytest.mark.parametrize("kind", NOCASE)
def test_a_parent_in_other_letters_is_refused_or_mapped(connection: Connection, tmp_path: Path, kind: str) -> None:
    source = currencies(connection, tmp_path, kind)
    _, _, parent, child = NOCASE[kind]
    found = refused(connection, make_group(source, {"source": "p"}, {"source": "t"}), tmp_path)
    assert f"t.code: refers to a row of p that is spelled otherwise there (2 rows: id=2: {child!r}; id=5: " in found
    assert "Set 'orphan' for the column: as_parent (2 values), set_null (2 values) or reject (2 rows)" in found

    group = make_group(source, {"source": "p"}, {"source": "t", "columns": {"code": {"orphan": "as_parent"}}})
    report = rehearse(connection, group, tmp_path)["report"]
    assert all(table["equal"] for table in report["tables"])
    joined = "SELECT count(*) FROM app.t AS t JOIN app.p AS p ON p.code = t.code"
    assert query(connection, joined) == [(4,)]
    kept = "SELECT row_key, value FROM migration.original_value ORDER BY row_key"
    assert query(connection, kept) == [("id=2", {"text": child}), ("id=5", {"text": child})]
    assert not rehearse(connection, group, tmp_path)["changed"]
    back, copy = bring_back(connection, group)
    assert counts(back) == {"p": (0, 0, 0), "t": (0, 0, 0)}
    execute(connection, "INSERT INTO app.t SELECT 9, code FROM app.t WHERE id = 2")
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT code FROM t WHERE id IN (2, 9) ORDER BY id") == [(child,), (parent,)]


def test_a_parent_that_gets_another_spelling_takes_its_rows_along(connection: Connection, tmp_path: Path) -> None:
    source = currencies(connection, tmp_path, "text")
    group = make_group(source, {"source": "p"}, {"source": "t", "columns": {"code": {"orphan": "as_parent"}}})
    rehearse(connection, group, tmp_path)
    change_source(source, "UPDATE p SET code = 'UsD' WHERE code = 'USD'")
    rehearse(connection, group, tmp_path)
    assert query(connection, "SELECT DISTINCT code FROM app.t WHERE code <> 'EUR'") == [("UsD",)]


@pytest.mark.parametrize("answer", ["set_null", "reject"])
def test_other_answers_for_a_parent_in_other_letters(connection: Connection, tmp_path: Path, answer: str) -> None:
    source = currencies(connection, tmp_path, "text")
    group = make_group(source, {"source": "p"}, {"source": "t", "columns": {"code": {"orphan": answer}}})
    assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])
    assert query(connection, "SELECT count(*), count(code) FROM app.t") == [(5, 2) if answer == "set_null" else (3, 2)]


def test_a_target_that_does_not_tell_letters_apart_needs_no_answer(
    connection: Connection, server: Server, database: str, tmp_path: Path
) -> None:
    if not query(connection, "SELECT FROM pg_available_extensions WHERE name = 'citext'"):
        pytest.skip("this server comes without citext")
    server.execute("CREATE EXTENSION citext", "GRANT USAGE ON SCHEMA public TO PUBLIC", database=database)
    make_target(
        connection,
        "CREATE TABLE p (code public.citext PRIMARY KEY);"
        "CREATE TABLE t (id integer PRIMARY KEY, code public.citext REFERENCES p)",
    )
    script = "CREATE TABLE p (code TEXT COLLATE NOCASE PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, code TEXT)"
    source = make_source(tmp_path / "t.db", script, {"p": [("USD",)], "t": [(1, "usd")]})
    group = make_group(source, {"source": "p"}, {"source": "t"})
    assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])
    assert query(connection, "SELECT code::text FROM app.t") == [("usd",)]
