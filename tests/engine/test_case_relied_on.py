"""What an application relies on and no engine moves is said by the rehearsal, and by a dry run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer.report import (
    warnings_of,
)

from .support import make_group, make_source, make_target, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ..conftest import Server

# Default in SQLite, type and default in PostgreSQL, and whether a new row gets another value there.
DEFAULTS = [
    ("0", "boolean DEFAULT false", False),
    ("1", "boolean DEFAULT false", True),
    ("'a'", "text DEFAULT 'a'", False),
    ("'a'", "text DEFAULT 'b'", True),
    ("'it''s'", "varchar(9) DEFAULT 'it''s'", False),
    ("7", "integer", True),
    ("7", "numeric(5,2) DEFAULT 7.00", False),
    ("-1", "bigint DEFAULT -1", False),
    ("'{}'", "jsonb DEFAULT '{}'", False),
    ("'{}'", "jsonb DEFAULT '[]'", True),
    ("'x'", "integer DEFAULT 1", True),
    ("CURRENT_TIMESTAMP", "timestamptz DEFAULT now()", False),
    ("CURRENT_TIMESTAMP", "timestamptz", True),
    ("NULL", "text", False),
    ("'nowhere'", "inet DEFAULT '127.0.0.1'", True),
    ("'127.0.0.1'", "inet DEFAULT '127.0.0.1'", False),
    ("'%s {}'", "text DEFAULT '%s {}'", False),
]


@pytest.mark.parametrize("check_mode", [True, False])
def test_defaults_that_differ_are_named(connection: Connection, tmp_path: Path, check_mode: bool) -> None:
    there = "".join(f", c{number} {column}" for number, (_, column, _) in enumerate(DEFAULTS))
    here = "".join(f", c{number} DEFAULT {default}" for number, (default, _, _) in enumerate(DEFAULTS))
    make_target(connection, f"CREATE TABLE t (id serial PRIMARY KEY{there})")
    source = make_source(tmp_path / "t.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY{here})")
    report = rehearse(connection, make_group(source, {"source": "t"}), tmp_path, check_mode)["report"]
    named = [found.partition(" ")[0] for found in report["other_defaults"]]
    assert named == [f"app.t.c{number}" for number, (_, _, differs) in enumerate(DEFAULTS) if differs]
    assert "app.t.c1 (1 in SQLite, false in PostgreSQL)" in warnings_of(report)[-1]
    assert "app.t.c5 (7 in SQLite, none in PostgreSQL)" in warnings_of(report)[-1]


@pytest.mark.parametrize("check_mode", [True, False])
def test_row_level_security_and_missing_views_are_named(
    connection: Connection, tmp_path: Path, check_mode: bool
) -> None:
    make_target(
        connection,
        "CREATE TABLE t (id integer PRIMARY KEY); CREATE TABLE u (id integer PRIMARY KEY);"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE VIEW known AS SELECT id FROM t",
    )
    source = make_source(
        tmp_path / "t.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE u (id INTEGER PRIMARY KEY);"
        "CREATE VIEW Known AS SELECT id FROM t; CREATE VIEW summary AS SELECT count(*) FROM u",
        {"t": [(1,), (2,)]},
    )
    report = rehearse(connection, make_group(source, {"source": "t"}, {"source": "u"}), tmp_path, check_mode)["report"]
    assert (report["row_level_security"], report["missing_views"]) == (["app.t"], ["summary"])
    security, views = warnings_of(report)
    assert security.startswith("app.t: row level security is on")
    assert views.startswith("summary: views of the SQLite file")


SERVICE = {
    "name": "registry",
    "user": "registry",
    "directory": "/srv/registry",
    "database_role": "swarm_registry",
    "schemas": ["app"],
    "health_url": "http://127.0.0.1:4001/health",
}


@pytest.mark.parametrize("check_mode", [True, False])
@pytest.mark.parametrize(
    ("statements", "meant"),
    [
        ([], {}),
        (["CREATE TABLE public.t (id integer)", "GRANT USAGE ON SCHEMA public TO PUBLIC"], {"app.t": "public.t"}),
        # It may not look into that schema, so that it finds nothing there.
        (["CREATE TABLE public.t (id integer)"], {}),
        (["ALTER DATABASE {database} SET search_path = elsewhere"], {"app.t": "nothing", "app.u": "nothing"}),
        (
            [
                "ALTER DATABASE {database} SET search_path = elsewhere",
                "ALTER ROLE swarm_registry IN DATABASE {database} SET search_path = 'app', public",
            ],
            {},
        ),
        (
            [
                'CREATE SCHEMA "My, Schema"',
                'CREATE VIEW "My, Schema".u AS SELECT 1',
                'GRANT USAGE ON SCHEMA "My, Schema" TO PUBLIC',
                'ALTER ROLE swarm_registry IN DATABASE {database} SET search_path = "My, Schema", app',
            ],
            {"app.u": "My, Schema.u"},
        ),
        (['CREATE SCHEMA swarm_registry AUTHORIZATION swarm_registry', "CREATE TABLE swarm_registry.u ()"],
         {"app.u": "swarm_registry.u"}),
    ],
)  # fmt: skip
def test_tables_that_a_role_does_not_find_by_their_bare_name_are_named(
    connection: Connection,
    server: Server,
    database: str,
    tmp_path: Path,
    statements: list[str],
    meant: dict[str, str],
    check_mode: bool,
) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY); CREATE TABLE u (id integer PRIMARY KEY)")
    server.execute(
        "GRANT USAGE ON SCHEMA app TO swarm_registry",
        *(statement.format(database=database) for statement in statements),
        database=database,
    )
    source = make_source(
        tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE u (id INTEGER PRIMARY KEY)"
    )
    group = make_group(source, {"source": "t"}, {"source": "u"}, services=[SERVICE])
    report = rehearse(connection, group, tmp_path, check_mode)["report"]
    assert report["search_paths"] == [
        f"{table} (swarm_registry finds {other} by that name)" for table, other in meant.items()
    ]
    assert bool(warnings_of(report)) == bool(meant)


def test_a_role_that_is_not_there_yet_stops_no_rehearsal(connection: Connection, tmp_path: Path) -> None:
    """Whoever keeps a managed server may make it before the cutover, which refuses to start without it."""
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY); CREATE TABLE public.t ()")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)")
    group = make_group(source, {"source": "t"}, services=[{**SERVICE, "database_role": "not_there"}])
    assert rehearse(connection, group, tmp_path)["report"]["search_paths"] == []


def test_where_nothing_differs_nothing_is_said(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text DEFAULT 'a')")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT DEFAULT 'a')")
    assert warnings_of(rehearse(connection, make_group(source, {"source": "t"}), tmp_path)["report"]) == []


def test_a_name_that_postgresql_has_cut_is_named_with_what_is_left_of_it(
    connection: Connection, tmp_path: Path
) -> None:
    long = "ä" * 20 + "a" * 40
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, {long} text)")
    source = make_source(tmp_path / "t.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY, {long} TEXT)", {"t": [(1, "x")]})
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path, check_mode=True)
    (problem,) = error.value.problems
    assert f"has no column {long}, but {long[:43]}" in problem.what
