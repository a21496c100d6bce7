"""A text that the server's type cannot read is refused with its place, whatever the server calls the error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError

from .support import make_group, make_source, make_target, query, rehearse
from .test_export import bring_back, counts

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

UNREADABLE = [
    ("tsquery", "'cat' & 'dog'", "cat &"),
    ("tsvector", "'cat'", "'cat"),
    ("jsonpath", '$."a"', "$."),
    ("inet", "10.0.0.1", "10.0.0.256"),
    ("int4range", "[1,5)", "[5,1)"),
    ("regclass", "pg_class", "no_such_table"),
    ("regtype", "integer", "no_such_type"),
    ("regproc", "now", "no_such_function"),
    ("pg_lsn", "0/0", "none"),
    ("point", "(1,2)", "1"),
    ("mood", "sad", "furious"),
]


@pytest.mark.parametrize("check_mode", [True, False])
@pytest.mark.parametrize(("type_name", "good", "bad"), UNREADABLE)
def test_the_place_is_named_and_a_policy_answers(
    connection: Connection,
    tmp_path: Path,
    type_name: str,
    good: str,
    bad: str,
    check_mode: bool,
) -> None:
    make_target(connection, f"CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE t (id integer PRIMARY KEY, v {type_name})")
    source = make_source(
        tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", {"t": enumerate([good, bad, good, bad])}
    )
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path, check_mode)
    found = str(error.value)
    assert "t.v: holds text that is no value of type " in found
    assert f"(2 rows: id=1: {bad!r}; id=3: {bad!r})" in found
    assert "set 'unconvertible' for the column: set_null (2 values) or reject (2 rows)" in found
    for answer, left in (("set_null", 4), ("reject", 2)):
        group = make_group(source, {"source": "t", "columns": {"v": {"unconvertible": answer}}})
        assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
        assert query(connection, "SELECT count(*), count(v) FROM app.t") == [(left, 2)]
        report, _ = bring_back(connection, group)
        assert counts(report) == {"t": (0, 0, 0)}
