"""A computed column with an inverse comes back; of one without it the rehearsal says that it will not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer.report import (
    warnings_of,
)

from .support import execute, make_group, make_source, make_target, rehearse
from .test_export import bring_back, counts, rows_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

FROM_WORD = "CASE v WHEN 't' THEN 1 WHEN 'f' THEN 0 END"
TO_WORD = "CASE v WHEN 1 THEN 't' WHEN 0 THEN 'f' END"
KEEP = {"v": {"without_target": "keep"}}
# Type in PostgreSQL, declared in SQLite, values, from, back, a new value in PostgreSQL, and in the file.
INVERSES: list[tuple[str, str, list[Any], str, str, str, Any]] = [
    ("boolean NOT NULL", "BOOLEAN NOT NULL", ["t", "f"], FROM_WORD, TO_WORD, "true", "t"),
    ("timestamp", "TEXT", ["2024/05/01 10:00:00", None], "replace(v, '/', '-')", "replace(v, '-', '/')",
     "'2024-05-02 11:00:00'", "2024/05/02 11:00:00"),
    ("date", "INTEGER NOT NULL", [1714521600, 0], "date(v, 'unixepoch')", "CAST(strftime('%s', v) AS INTEGER)",
     "'2024-05-02'", 1714608000),
    ("numeric(8,2)", "INTEGER", [150, 99], "printf('%d.%02d', v / 100, v % 100)",
     "CAST(round(v * 100) AS INTEGER)", "7.05", 705),
    ("text", "TEXT", ["A", "b"], "v", "v", "'new'", "new"),
]  # fmt: skip


def table(inverse: tuple[str, str], **more: Any) -> dict[str, Any]:
    """Return the mapping of a table with a computed column."""
    return {"source": "t", "computed": {"v": {"from": inverse[0], "back": inverse[1]}}, "columns": KEEP, **more}


@pytest.mark.promise("rollback-keeps-every-row")
@pytest.mark.parametrize(("type_name", "declared", "values", "forward", "back", "new", "stored"), INVERSES)
def test_what_is_written_on_postgresql_comes_back(
    connection: Connection,
    tmp_path: Path,
    type_name: str,
    declared: str,
    values: list[Any],
    forward: str,
    back: str,
    new: str,
    stored: Any,
) -> None:
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, v {type_name})")
    script = f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared})"
    source = make_source(tmp_path / "t.db", script, {"t": enumerate(values, 1)})
    group = make_group(source, table((forward, back)))
    result = rehearse(connection, group, tmp_path)["report"]
    assert result["tables"][0]["equal"]
    assert result["one_way_columns"] == []
    report, _ = bring_back(connection, group)
    assert counts(report) == {"t": (0, 0, 0)}
    execute(connection, f"INSERT INTO app.t VALUES (9, {new}); UPDATE app.t SET v = {new} WHERE id = 2")
    report, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT v FROM t ORDER BY id") == [(values[0],), (stored,), (stored,)]
    found = rows_of(copy, "SELECT DISTINCT typeof(v) FROM t WHERE id > 1")
    assert found == [("text" if isinstance(stored, str) else "integer",)]


def test_one_target_column_may_give_several_of_the_source(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, name text)")
    script = "CREATE TABLE t (id INTEGER PRIMARY KEY, first TEXT NOT NULL, last TEXT NOT NULL)"
    source = make_source(tmp_path / "t.db", script, {"t": [(1, "Ann", "Lee"), (2, "Bob", "Ray")]})
    back = {"first": "substr(name, 1, instr(name, ' ') - 1)", "last": "substr(name, instr(name, ' ') + 1)"}
    mapping = {"source": "t", "computed": {"name": {"from": "first || ' ' || last", "back": back}},
               "columns": dict.fromkeys(("first", "last"), KEEP["v"])}  # fmt: skip
    group = make_group(source, mapping)
    assert rehearse(connection, group, tmp_path)["report"]["one_way_columns"] == []
    execute(connection, "INSERT INTO app.t VALUES (3, 'Cy Fox'); UPDATE app.t SET name = 'Bob Roy' WHERE id = 2")
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT first, last FROM t ORDER BY id") == [("Ann", "Lee"), ("Bob", "Roy"), ("Cy", "Fox")]


@pytest.mark.parametrize(
    ("back", "what"),
    [
        ("CASE v WHEN 1 THEN 'f' ELSE 't' END", r"computed to another value than before \(3 rows: id=1; id=2; id=3\)"),
        ("CASE v WHEN 1 THEN 't' END", r"computed to another value than before \(1 row: id=2\)"),
        ("no_function(v)", "SQLite refuses it: no such function"),
        ({"w": "v"}, "the source has no column w"),
        ({"other": "v"}, "other goes to a column of its own"),
    ],
)
def test_an_inverse_that_does_not_lead_back_is_refused(
    connection: Connection, tmp_path: Path, back: Any, what: str
) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v boolean, other text)")
    script = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, other TEXT)"
    source = make_source(tmp_path / "t.db", script, {"t": [(1, "t", None), (2, "f", None), (3, "t", "x")]})
    with pytest.raises(MigrationError, match=rf"t: computed: v: back: .*{what}"):
        rehearse(connection, make_group(source, table((FROM_WORD, back))), tmp_path)


def test_without_an_inverse_the_rehearsal_says_what_will_not_come_back(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v boolean)")
    script = (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, gone TEXT NOT NULL, free TEXT, given TEXT NOT NULL DEFAULT 1)"
    )
    source = make_source(tmp_path / "t.db", script, {"t": [(1, "t", "x", "y", "z")]})
    mapping = {
        "source": "t",
        "computed": {"v": FROM_WORD},
        "columns": {**KEEP, **dict.fromkeys(("gone", "free", "given"), KEEP["v"])},
    }
    report = rehearse(connection, make_group(source, mapping), tmp_path)["report"]
    assert report["one_way_columns"] == ["t.gone", "t: computed v"]
    assert (
        "t.gone, t: computed v: what the services write there on PostgreSQL does not come back"
        in warnings_of(report)[0]
    )


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"back": "v"}, "'computed: v' is None"),
        ({"from": "v", "bakc": "v"}, "computed: v: has an unknown key 'bakc'. Did you mean 'back'?"),
        ({"from": "v", "back": ""}, "'computed: v: back: v' is ''"),
        ({"from": "v", "back": {"w": None}}, "'computed: v: back: w' is None"),
    ],
)
def test_a_wrong_entry_of_computed_is_told(tmp_path: Path, entry: Any, what: str) -> None:
    with pytest.raises(MigrationError, match=re.escape(what)):
        make_group(tmp_path / "t.db", {"source": "t", "computed": {"v": entry}})
