"""Sequences that no column owns: set where a default shows the link, else named before the cutover."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import Problem
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover import rehearsal
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation.structure import (
    validate_structure,
)

from .support import execute, make_group, make_source, make_target, query, rehearse
from .test_export import bring_back, rows_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

NUMBERED = "CREATE TABLE {} (id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT);"


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE SEQUENCE s; CREATE TABLE t (id integer PRIMARY KEY DEFAULT nextval('s'), v text)",
        "CREATE SEQUENCE s; CREATE TABLE t (id bigint PRIMARY KEY DEFAULT 1 * nextval('s'::regclass), v text)",
        'CREATE SEQUENCE "S t"; CREATE DOMAIN number AS integer;'
        "CREATE TABLE t (id number PRIMARY KEY DEFAULT nextval('\"S t\"'), v text)",
        "CREATE SEQUENCE s; CREATE DOMAIN number AS integer DEFAULT nextval('s');"
        "CREATE TABLE t (id number PRIMARY KEY, v text)",
    ],
)
def test_a_sequence_that_a_default_names_goes_on_after_the_largest_id(
    connection: Connection, tmp_path: Path, ddl: str
) -> None:
    make_target(connection, ddl)
    source = make_source(tmp_path / "t.db", NUMBERED.format("t"), {"t": [(1, "a"), (41, "b")]})
    group = make_group(source, {"source": "t"})
    report = rehearse(connection, group, tmp_path)["report"]
    assert [(each["next_value"], each["required"]) for each in report["sequences"]] == [(42, 42)]
    assert report["unset_sequences"] == []
    assert not rehearse(connection, group, tmp_path)["changed"]
    execute(connection, "INSERT INTO app.t (v) VALUES ('c')")
    assert query(connection, "SELECT max(id) FROM app.t") == [(42,)]
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT seq FROM sqlite_sequence") == [(42,)]


def test_one_sequence_of_two_tables_goes_on_after_the_largest_id_of_both(
    connection: Connection, tmp_path: Path
) -> None:
    tables = "".join(
        f"CREATE TABLE {name} (id integer PRIMARY KEY DEFAULT nextval('s'), v text);" for name in ("a", "b", "c")
    )
    make_target(connection, f"CREATE SEQUENCE s; {tables}")
    source = make_source(
        tmp_path / "t.db",
        "".join(map(NUMBERED.format, ("a", "b", "c"))),
        {"a": [(7, "x")], "b": [(41, "x")], "c": [(9, "x")]},
    )
    group = make_group(source, {"source": "a"}, {"source": "b"}, {"source": "c"})
    report = rehearse(connection, group, tmp_path)["report"]
    assert [(each["name"], each["required"], each["correct"]) for each in report["sequences"]] == [("app.s", 42, True)]
    assert query(connection, "SELECT nextval('app.s')") == [(42,)]
    assert not rehearse(connection, group, tmp_path)["changed"]


def test_validation_sees_a_sequence_that_is_behind(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE SEQUENCE s; CREATE TABLE t (id integer PRIMARY KEY DEFAULT nextval('s'), v text)")
    source = make_source(tmp_path / "t.db", NUMBERED.format("t"), {"t": [(41, "b")]})
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    execute(connection, "SELECT setval('app.s', 5)")
    result: dict[str, Any] = {"sequences": [], "foreign_keys": []}
    problems: list[Problem] = []
    validate_structure(connection, group, result, problems)
    assert [(each["next_value"], each["required"]) for each in result["sequences"]] == [(6, 42)]
    assert [problem.where for problem in problems] == ["sequence app.s"]


def test_every_other_unset_sequence_is_named_before_the_cutover(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE SEQUENCE numbers; CREATE SEQUENCE used; SELECT nextval('used'); CREATE SEQUENCE given START 5;"
        "CREATE SEQUENCE texts; CREATE TABLE own (id serial);"
        "CREATE TABLE t (id integer PRIMARY KEY, v text DEFAULT 'T-' || nextval('texts'), n integer)",
    )
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v, n)", {"t": [(1, "T-3", 4)]})
    group = make_group(source, {"source": "t"})
    result = rehearsal.rehearse(connection, group, str(tmp_path / "work"))
    # Not the one that another table owns: this group does not fill that.
    assert result["report"]["unset_sequences"] == ["app.given", "app.numbers", "app.texts"]
    (warning,) = result["warnings"]
    assert warning.startswith(
        "app.given, app.numbers, app.texts: these sequences have given out nothing yet, and nothing shows which column"
    )
    assert "'sequence'" in warning
    assert rehearse(connection, group, tmp_path, check_mode=True)["report"]["unset_sequences"] == [
        "app.given",
        "app.numbers",
        "app.texts",
    ]
    columns = {"n": {"sequence": "app.numbers"}}
    named = make_group(source, {"source": "t", "columns": columns})
    report = rehearse(connection, named, tmp_path)["report"]
    assert report["unset_sequences"] == ["app.given", "app.texts"]
    assert query(connection, "SELECT nextval('app.numbers')") == [(5,)]
