"""What is wrong with the mapping, and with the values, is said in one round."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError

from .support import make_group, make_source, make_target, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


@pytest.mark.parametrize("check_mode", [True, False])
def test_mapping_and_values_are_refused_together(connection: Connection, tmp_path: Path, check_mode: bool) -> None:
    make_target(
        connection,
        "CREATE TABLE p (id integer PRIMARY KEY, at timestamp);"
        "CREATE TABLE t (id integer PRIMARY KEY, n integer, p integer REFERENCES p, name varchar(3) UNIQUE);"
        "CREATE TABLE unsure (id integer PRIMARY KEY, n integer)",
    )
    source = make_source(
        tmp_path / "t.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY, at, extra TEXT);"
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n, p, name); CREATE TABLE left_out (a);"
        "CREATE TABLE unsure (id INTEGER PRIMARY KEY, n)",
        {
            "p": [(1, 3, "text"), (2, 999, None)],
            "t": [(1, "seven", 1, "ann"), (2, 7, 9, "ann"), (3, 7, None, "anna")],
            "left_out": [(1,)],
            "unsure": [(1, "nothing")],
        },
    )
    group = make_group(
        source,
        {"source": "p"},
        {"source": "t"},
        {"source": "unsure", "row_filter": "no such column"},
    )
    with pytest.raises(MigrationError) as error:
        rehearse(connection, group, tmp_path, check_mode)
    places = [problem.where.rpartition("t.db: ")[2] for problem in error.value.problems]
    assert sorted(places) == sorted(
        ["p.at", "p.extra", "table left_out", "unsure: row_filter", "t.n", "t.p", "t.name", "t.name"]
    )
    assert str(error.value).count("\n") == len(places)
