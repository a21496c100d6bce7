"""Options for a computed column that has the name of a source column, and for one that has none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError

from .support import make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

KEYS = ["v", "computed v"]
# Target type, value in SQLite, expression, option that is demanded without it, option, what arrives.
DEMANDED: list[tuple[str, Any, str, str, dict[str, Any], str | None]] = [
    ("timestamptz", "2024/05/01 10:00", "replace(v,'/','-')", "", {"time_zone": "Europe/Berlin"},
     "2024-05-01 08:00:00+00"),
    ("timestamp", 5, "v + 1", "epoch_unit", {"epoch_unit": "seconds"}, "1970-01-01 00:00:06"),
    ("timestamp(0)", "2024/05/01 10:00:00.7", "replace(v,'/','-')", "sub_microsecond", {"sub_microsecond": "truncate"},
     "2024-05-01 10:00:00"),
    ("integer", " ", "trim(v)", "empty_string", {"empty_string": "set_null"}, None),
    ("integer REFERENCES t (id)", 69, "v + 1", "orphan", {"orphan": "set_null"}, None),
    ("integer", "8,5", "CAST(replace(v,',','.') AS REAL)", "fraction", {"fraction": "round"}, "9"),
    ("interval", 1, "v * 2", "duration_unit", {"duration_unit": "minutes"}, "00:02:00"),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("type_name", "value", "expression", "demanded", "option", "arrives"), DEMANDED)
def test_options_of_a_computed_column_of_the_same_name_count(
    connection: Connection,
    tmp_path: Path,
    type_name: str,
    value: Any,
    expression: str,
    demanded: str,
    option: dict[str, Any],
    arrives: str | None,
    key: str,
) -> None:
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, v {type_name})")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", {"t": [(1, value)]})
    table = {"source": "t", "computed": {"v": expression}}
    if demanded:
        without = make_group(source, {**table, "columns": {"v": {"without_target": "keep"}}})
        with pytest.raises(MigrationError, match=f"t\\.computed v: .*'{demanded}"):
            rehearse(connection, without, tmp_path)
    columns = {"v": {"without_target": "keep"}}
    columns[key] = {**columns.get(key, {}), **option}
    group = make_group(source, {**table, "columns": columns})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    assert query(connection, "SELECT v::text FROM app.t") == [(arrives,)]
    assert query(connection, "SELECT count(*) FROM migration.original_value WHERE column_name = 'v'") == [(1,)]


def test_options_of_a_source_column_that_goes_elsewhere_are_its_own(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v timestamptz, original timestamptz)")
    source = make_source(
        tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", {"t": [(1, "2024-05-01 10:00:00")]}
    )
    columns = {"v": {"target": "original", "time_zone": "Europe/Berlin"}}
    group = make_group(source, {"source": "t", "computed": {"v": "v"}, "columns": columns})
    rehearse(connection, group, tmp_path)
    assert query(connection, "SELECT v::text, original::text FROM app.t") == [
        ("2024-05-01 10:00:00+00", "2024-05-01 08:00:00+00")
    ]


def test_a_key_that_names_no_column_is_still_refused(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text)")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)", {"t": [(1,)]})
    group = make_group(source, {"source": "t", "computed": {"v": "1"}, "columns": {"computed w": {}}})
    with pytest.raises(MigrationError, match=r"t\.computed w: the inventory has options for it, but the source has no"):
        rehearse(connection, group, tmp_path)
