"""Foreign keys whose spelling PostgreSQL itself compares: by a collation, or as a type takes them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation.structure import (
    validate_structure,
)

from .support import make_group, make_source, make_target, query, rehearse
from .test_export import bring_back, counts, rows_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

ANY_CASE = "CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
# Keys of parents, what refers to them in whatever spelling, and what refers to nothing.
WORDS = (["USD", "EUR"], ["usd", "USD", None, "Eur"], "gbp")
ADDRESSES = (["10.0.0.1/32", "10.0.0.2"], ["10.0.0.1", "10.0.0.1/32", None, "10.0.0.2"], "10.0.0.3")
SCRIPT = "CREATE TABLE p (id TEXT PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)"


def try_spellings(
    connection: Connection,
    tmp_path: Path,
    type_name: str,
    values: tuple[list[str], list[str | None], str],
    ddl: str = "",
) -> None:
    """See that a dry run and the run take other spellings of a parent, refuse what has none, and obey a policy."""
    parents, children, orphan = values
    tables = f"CREATE TABLE p (id {type_name} PRIMARY KEY); CREATE TABLE t (id integer PRIMARY KEY, v {type_name}"
    make_target(connection, f"{ddl} {tables} REFERENCES p)")
    rows: dict[str, list[tuple[Any, ...]]] = {"p": [(key,) for key in parents], "t": list(enumerate(children, 1))}
    source = make_source(tmp_path / "t.db", SCRIPT, rows)
    group = make_group(source, {"source": "p"}, {"source": "t"})
    for check_mode in (True, False, True):
        report = rehearse(connection, group, tmp_path, check_mode)["report"]
        assert {table["source"]: table["rejected_rows"] for table in report["tables"]} == {"p": 0, "t": 0}
        assert [(key["valid"], key["orphans"]) for key in report["foreign_keys"]] == [(True, 0)]
    assert all(table["equal"] for table in report["tables"])
    assert query(connection, "SELECT count(*), count(v) FROM app.t") == [(4, 3)]
    see_that_the_file_comes_back(connection, group, source)
    found: dict[str, Any] = {"sequences": [], "foreign_keys": []}
    validate_structure(connection, group, found, [])
    assert [(key["valid"], key["orphans"]) for key in found["foreign_keys"]] == [(True, 0)]

    with closing(sqlite3.connect(source)) as opened:
        opened.execute("INSERT INTO t VALUES (5, ?)", (orphan,))
        opened.commit()
    said = []
    for check_mode in (True, False):
        with pytest.raises(MigrationError) as error:
            rehearse(connection, group, tmp_path, check_mode)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert (
        f"t.v: PostgreSQL refuses it: it refers to a row of app.p that does not exist (1 row: id=5: '{orphan}'"
        in said[0]
    )
    for answer, left in (("reject", [(3,)]), ("set_null", [(3,), (5,)])):
        group = make_group(source, {"source": "p"}, {"source": "t", "columns": {"v": {"orphan": answer}}})
        assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])
        assert query(connection, "SELECT id FROM app.t WHERE v IS NULL ORDER BY id") == left
        see_that_the_file_comes_back(connection, group, source)
    # Its parent comes, which changes the row though nobody has written to it.
    with closing(sqlite3.connect(source)) as opened:
        opened.execute("INSERT INTO p VALUES (?)", (orphan,))
        opened.commit()
    group = make_group(source, {"source": "p"}, {"source": "t", "columns": {"v": {"orphan": "set_null"}}})
    assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])
    assert query(connection, "SELECT id FROM app.t WHERE v IS NULL") == [(3,)]
    see_that_the_file_comes_back(connection, group, source)


def see_that_the_file_comes_back(connection: Connection, group: Group, source: Path) -> None:
    """See that a rollback writes the file as it was."""
    exported, copy = bring_back(connection, group)
    assert counts(exported) == {"p": (0, 0, 0), "t": (0, 0, 0)}
    assert all(rows_of(copy, f"SELECT * FROM {name}") == rows_of(source, f"SELECT * FROM {name}") for name in "pt")


@pytest.mark.promise("dry-run-changes-nothing")
def test_a_dry_run_takes_the_spellings_that_a_type_takes(connection: Connection, tmp_path: Path) -> None:
    try_spellings(connection, tmp_path, "inet", ADDRESSES)


@pytest.mark.parametrize(
    ("type_name", "ddl"), [("text COLLATE any_case", ANY_CASE), ("citext", "CREATE EXTENSION citext;")]
)
def test_a_dry_run_takes_the_spellings_that_a_collation_takes(
    fetched_connection: Connection, tmp_path: Path, type_name: str, ddl: str
) -> None:
    """The tests' own server has neither collations of ICU nor contrib."""
    try_spellings(fetched_connection, tmp_path, type_name, WORDS, ddl)
