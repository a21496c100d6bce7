"""A text that the server's type cannot read is refused with its place, whatever the server calls the error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError

from .support import make_group, make_tables, problems_by_table, query, rehearse
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


def test_the_place_is_named_and_a_policy_answers(connection: Connection, tmp_path: Path) -> None:
    tables = {
        f"t_{name}": (f"id integer PRIMARY KEY, v {name}", "id INTEGER PRIMARY KEY, v", enumerate([good, bad] * 2))
        for name, good, bad in UNREADABLE
    }
    source = make_tables(connection, tmp_path / "t.db", tables, "CREATE TYPE mood AS ENUM ('sad');")
    for check_mode in (True, False):
        with pytest.raises(MigrationError) as error:
            rehearse(connection, make_group(source, *({"source": name} for name in tables)), tmp_path, check_mode)
        problems = problems_by_table(error.value)
        for type_name, _, bad in UNREADABLE:
            found = problems[f"t_{type_name}"]
            assert f"t_{type_name}.v: holds text that is no value of type " in found
            assert f"(2 rows: id=1: {bad!r}; id=3: {bad!r})" in found
            assert "; or set 'unconvertible' for the column: set_null (2 values) or reject (2 rows)" in found
    for answer, left in (("set_null", 4), ("reject", 2)):
        group = make_group(source, *({"source": name, "columns": {"v": {"unconvertible": answer}}} for name in tables))
        report = rehearse(connection, group, tmp_path)["report"]
        assert all(table["equal"] for table in report["tables"])
        for name in tables:
            assert query(connection, f"SELECT count(*), count(v) FROM app.{name}") == [(left, 2)], name
        report, _ = bring_back(connection, group)
        assert counts(report) == dict.fromkeys(tables, (0, 0, 0))
