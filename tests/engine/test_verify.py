"""What the proof says of a difference; that it finds every one is shown in test_mutations.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate

from .support import execute, make_group, make_source, make_target, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


@pytest.mark.promise("secret-column-masked")
def test_secrets_are_masked_in_differences(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text)")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", {"t": [(1, "hush")]})
    group = make_group(source, {"source": "t", "columns": {"v": {"secret": True}}})
    rehearse(connection, group, tmp_path)
    execute(connection, "UPDATE app.t SET v = 'hushed'")
    table = migrate.compare(connection, group, str(tmp_path / "work"))["tables"][0]
    assert table["differences"] == [{"key": "id=1", "column": "v", "source": "(secret)", "target": "(secret)"}]


@pytest.mark.promise("secret-column-masked")
def test_a_secret_key_is_masked_in_differences(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (token text PRIMARY KEY, v text)")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (token TEXT PRIMARY KEY, v TEXT)", {"t": [("hush", "a")]})
    group = make_group(source, {"source": "t", "columns": {"token": {"secret": True}}})
    rehearse(connection, group, tmp_path)
    for change in ("UPDATE app.t SET v = 'b'", "UPDATE app.t SET v = 'a', token = 'hushed'"):
        execute(connection, change)
        found = migrate.compare(connection, group, str(tmp_path / "work"))["tables"][0]["differences"]
        assert found
        assert "hush" not in str(found)


def test_long_values_are_shortened(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text, w bytea)")
    rows = [(1, "x" * 5_000, b"\x00" * 5_000)]
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, w BLOB)", {"t": rows})
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    execute(connection, "UPDATE app.t SET v = 'y' || v, w = '\\x01' || w")
    found = migrate.compare(connection, group, str(tmp_path / "work"))["tables"][0]["differences"]
    assert [difference["column"] for difference in found] == ["v", "w"]
    assert all(len(difference[side]) < 80 for difference in found for side in ("source", "target"))


def test_nothing_is_left_locked_or_changed_by_a_comparison(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY)")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)", {"t": [(1,)]})
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    before, files = source.read_bytes(), sorted(tmp_path.rglob("*"))
    migrate.compare(connection, group, str(tmp_path / "work"))
    assert source.read_bytes() == before
    assert connection.info.transaction_status == 0
    assert sorted(tmp_path.rglob("*")) == files
