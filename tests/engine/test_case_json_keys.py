"""A JSON object that names a key twice: jsonb keeps the last, so it is refused, or kept and counted by a policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError

from .support import make_group, make_source, make_target, query, rehearse
from .test_export import bring_back, counts, rows_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

REPEATED = [
    '{"a": 1, "a": 2}',
    '{"a": 1, "a": 1}',
    '[{"x": {"b": 1.50, "c": 2, "b": 1e2}}]',
    '{"a": 1, "\\u0061": 2}',
    '{"": null, "b": [], "": {}}',
]
LAST = ['{"a": 2}', '{"a": 1}', '[{"x": {"b": 100, "c": 2}}]', '{"a": 2}', '{"": {}, "b": []}']
ONCE = ['{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}', "[]", "{}"]


@pytest.fixture
def source(connection: Connection, tmp_path: Path) -> Path:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, value jsonb)")
    rows = enumerate([*ONCE, *REPEATED])
    return make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, value TEXT)", {"t": rows})


@pytest.mark.parametrize("check_mode", [True, False])
def test_a_repeated_key_is_refused(connection: Connection, source: Path, tmp_path: Path, check_mode: bool) -> None:
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path, check_mode)
    assert f"t.value: holds a JSON object that names a key twice (5 rows: id=3: '{REPEATED[0]}'; " in str(error.value)
    assert "set 'repeated_key' for the column: keep_last (" in str(error.value)


@pytest.mark.parametrize("answer", ["keep_last", "set_null", "reject"])
def test_a_policy_answers_for_a_repeated_key(connection: Connection, source: Path, tmp_path: Path, answer: str) -> None:
    group = make_group(source, {"source": "t", "columns": {"value": {"repeated_key": answer}}})
    result = rehearse(connection, group, tmp_path)["report"]
    # Only the rows that need it leave the fast path.
    assert (result["way"], result["tables"][0]["equal"]) == ("all rows", True)
    stored = [value for (value,) in query(connection, "SELECT value::text FROM app.t ORDER BY id")]
    made: dict[str, list[Any]] = {"keep_last": LAST, "set_null": [None] * len(REPEATED), "reject": []}
    assert stored == [*ONCE, *made[answer]]
    kept: list[Any] = query(connection, "SELECT value ->> 'text' FROM migration.original_value ORDER BY row_key")
    assert [text for (text,) in kept] == ([] if answer == "reject" else REPEATED)
    report, copy = bring_back(connection, group)
    assert counts(report) == {"t": (0, 0, 0)}
    assert rows_of(copy, "SELECT * FROM t") == rows_of(source, "SELECT * FROM t")


def test_json_keeps_every_key(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v json)")
    source = make_source(
        tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", {"t": enumerate(REPEATED)}
    )
    assert rehearse(connection, make_group(source, {"source": "t"}), tmp_path)["report"]["tables"][0]["equal"]
    assert [value for (value,) in query(connection, "SELECT v::text FROM app.t ORDER BY id")] == REPEATED
