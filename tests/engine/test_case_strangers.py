"""What a stranger owns of a target table, or lets it call, would run with our rights: it is named before the move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from tests.conftest import MIGRATOR, OWNER

from .support import execute, make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from tests.conftest import Server

STRANGER = "swarm_deploy"
# At first it does what a reader of the table expects.
HONEST = "CREATE FUNCTION app.rise(v text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'"
# The owner of the tables may let others read what is its own.
RISE = f"""
CREATE FUNCTION app.act() RETURNS void LANGUAGE plpgsql AS
  $$ BEGIN EXECUTE 'GRANT SELECT ON app.hidden TO {STRANGER}'; EXCEPTION WHEN OTHERS THEN NULL; END $$;
CREATE OR REPLACE FUNCTION app.rise(v text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
  $$ BEGIN PERFORM app.act(); RETURN true; END $$;
"""


@pytest.fixture
def as_stranger(connection: Connection, login: Login) -> Iterator[Callable[[str], None]]:
    """Return a function that runs a statement as a service's role, which has made the tables with us."""
    make_target(connection, "CREATE TABLE hidden (v text)")
    execute(connection, f"GRANT USAGE, CREATE ON SCHEMA app TO {STRANGER}")

    def run(statement: str) -> None:
        own = replace(login, user=STRANGER, session_role=None)
        with closing(connect(own)) as session:
            execute(session, statement)

    yield run


def has_risen(connection: Connection) -> bool:
    """Return whether the stranger may read what it could not."""
    return query(connection, f"SELECT has_table_privilege('{STRANGER}', 'app.hidden', 'SELECT')") == [(True,)]


@pytest.mark.promise("strangers-run-nothing-in-a-move")
@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE app.t (id int PRIMARY KEY, v text CHECK (app.rise(v)))",
        "CREATE TABLE app.t (id int PRIMARY KEY, v text, w boolean DEFAULT app.rise('x'))",
        "CREATE TABLE app.t (id int PRIMARY KEY, v text, w boolean GENERATED ALWAYS AS (app.rise(v)) STORED)",
        "CREATE TABLE app.t (id int PRIMARY KEY, v text); CREATE INDEX ON app.t ((app.rise('x')))",
        "CREATE TABLE app.t (id int PRIMARY KEY, v text); CREATE INDEX ON app.t (id) WHERE app.rise(v)",
        "CREATE TABLE app.t (id int PRIMARY KEY, v text); CREATE STATISTICS app.s ON id, (app.rise('x')) FROM app.t",
        "CREATE DOMAIN app.risen AS text CHECK (app.rise(VALUE)); CREATE TABLE app.t (id int PRIMARY KEY, v app.risen)",
        "CREATE TABLE app.t (id int, v text) PARTITION BY RANGE (id);"
        "CREATE TABLE app.p PARTITION OF app.t (CHECK (app.rise(v))) DEFAULT; ALTER TABLE app.t ADD PRIMARY KEY (id)",
    ],
    ids=["check", "default", "generated", "index", "condition", "statistics", "domain", "partition"],
)
def test_no_function_of_a_stranger_runs_in_a_move(
    connection: Connection, as_stranger: Callable[[str], None], tmp_path: Path, table: str
) -> None:
    as_stranger(f"{HONEST}; GRANT EXECUTE ON FUNCTION app.rise TO PUBLIC")
    execute(connection, table)
    as_stranger(RISE)
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", {"t": [(1, "a")]})
    group = make_group(source, {"source": "t"})
    for check_mode in (True, False):
        with pytest.raises(MigrationError, match=r"function app.rise.* belongs to role") as refused:
            rehearse(connection, group, tmp_path, check_mode)
        connection.rollback()
        assert not has_risen(connection)
    (problem,) = refused.value.problems
    assert f"ALTER FUNCTION app.rise(pg_catalog.text) OWNER TO {OWNER}" in problem.fix


@pytest.mark.promise("strangers-run-nothing-in-a-move")
@pytest.mark.parametrize(
    ("made", "column", "named"),
    [
        ("TYPE app.mood AS ENUM ('sad')", "app.mood", "type app.mood"),
        (
            "OPERATOR app.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq)",
            "text CHECK (v OPERATOR(app.===) v)",
            "operator app.===",
        ),
    ],
    ids=["type", "operator"],
)
def test_a_stranger_who_owns_nothing_else_is_named(
    connection: Connection, as_stranger: Callable[[str], None], tmp_path: Path, made: str, column: str, named: str
) -> None:
    as_stranger(f"CREATE {made}")
    execute(connection, f"CREATE TABLE app.t (id int PRIMARY KEY, v {column})")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", {"t": [(1, "sad")]})
    with pytest.raises(MigrationError, match=rf"{named}.* belongs to role {STRANGER}"):
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path)


@pytest.mark.promise("strangers-run-nothing-in-a-move")
@pytest.mark.parametrize("may_read", [True, False], ids=["read by us", "read by the server alone"])
def test_no_function_of_a_stranger_runs_where_a_key_refers_to_its_table(
    connection: Connection, login: Login, as_stranger: Callable[[str], None], tmp_path: Path, may_read: bool
) -> None:
    """Who looks for all orphans plans a query of both tables. A single row is checked as the parent's owner."""
    as_stranger(
        f"{HONEST}; CREATE TABLE app.parent (id int PRIMARY KEY); INSERT INTO app.parent VALUES (1);"
        f"CREATE INDEX ON app.parent ((app.rise('x'))); GRANT REFERENCES ON app.parent TO {OWNER}"
    )
    execute(connection, "CREATE TABLE app.t (id int PRIMARY KEY, parent int REFERENCES app.parent)")
    statement = "CREATE TABLE t (id INTEGER PRIMARY KEY, parent INTEGER)"
    group = make_group(make_source(tmp_path / "t.db", statement, {"t": [(1, 1)]}), {"source": "t"})
    rehearse(connection, group, tmp_path)
    # Without what the first run has kept there, the next one compares everything.
    (elsewhere := tmp_path / "elsewhere").mkdir(mode=0o700)
    # A number that is taken stays so, whatever becomes of the transaction.
    as_stranger(
        f"CREATE SEQUENCE app.runs; GRANT USAGE ON SEQUENCE app.runs TO {OWNER};"
        "CREATE OR REPLACE FUNCTION app.rise(v text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN"
        f" IF current_user = '{OWNER}' THEN PERFORM nextval('app.runs'); END IF; RETURN true; END $$;"
        + (f"GRANT SELECT ON app.parent TO {OWNER}" if may_read else "")
    )
    with closing(connect(login)) as another:
        if may_read:
            with pytest.raises(MigrationError, match=f"table app.parent belongs to role {STRANGER}"):
                rehearse(another, group, elsewhere)
        else:
            rehearse(another, group, elsewhere)
    assert query(connection, "SELECT pg_sequence_last_value('app.runs')") == [(None,)]


@pytest.mark.promise("strangers-run-nothing-in-a-move")
def test_what_a_stranger_owns_moves_once_it_is_given_as_the_message_says(
    connection: Connection, server: Server, as_stranger: Callable[[str], None], database: str, tmp_path: Path
) -> None:
    """As an application that has made its tables with a type, and was asked for the tables alone."""
    as_stranger(
        "CREATE TYPE app.mood AS ENUM ('sad'); CREATE DOMAIN app.name AS text;"
        "CREATE TABLE app.t (id int PRIMARY KEY, mood app.mood, names app.name[]);"
        f"GRANT ALL ON app.t TO {OWNER}"
    )
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, mood TEXT)", {"t": [(1, "sad")]})
    group = make_group(source, {"source": "t"})
    with pytest.raises(MigrationError) as refused:
        rehearse(connection, group, tmp_path)
    connection.rollback()
    statements = [problem.fix.partition("trust it: ")[2].partition(";")[0] for problem in refused.value.problems]
    assert statements == [
        f"ALTER TABLE app.t OWNER TO {OWNER}",
        f"ALTER TYPE app.mood OWNER TO {OWNER}",
        f"ALTER TYPE app.name OWNER TO {OWNER}",
    ]
    server.execute(*statements, database=database)
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["target_rows"] == 1


@pytest.mark.promise("strangers-run-nothing-in-a-move")
def test_code_of_a_member_a_superuser_an_extension_or_the_databases_owner_is_no_strangers(
    connection: Connection, server: Server, as_stranger: Callable[[str], None], database: str, tmp_path: Path
) -> None:
    execute(connection, "CREATE FUNCTION app.ours() RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'")
    execute(connection, "CREATE TABLE app.t (id int PRIMARY KEY, CHECK (app.ours()))")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)", {"t": [(1,)]})
    group = make_group(source, {"source": "t"})
    for owner in (OWNER, MIGRATOR, "postgres"):
        server.execute(f"ALTER FUNCTION app.ours() OWNER TO {owner}", database=database)
        rehearse(connection, group, tmp_path)
    server.execute(f"ALTER FUNCTION app.ours() OWNER TO {STRANGER}", database=database)
    with pytest.raises(MigrationError, match="belongs to role"):
        rehearse(connection, group, tmp_path)
    connection.rollback()
    server.execute(f"ALTER DATABASE {database} OWNER TO {STRANGER}", database=database)
    server.execute(f"GRANT TEMPORARY ON DATABASE {database} TO {OWNER}", database=database)
    rehearse(connection, group, tmp_path)
