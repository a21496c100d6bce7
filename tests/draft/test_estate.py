"""Drafts of whole databases: the sample estate's, SQL that squawk takes, and drafts that later turn out to be wrong."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import parse_group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft import names
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.draft import Draft, draft
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.mapping import (
    with_refusals,
    write_estate,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.page import render
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils.sql_lines import places_of_types, with_lines
from tests.engine.support import execute, query
from tests.sample_estate.conftest import create_databases

from .support import draft_of, load_sql, move

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# The four files of the sample estate that hold rows: three in use, and one that its services have left behind.
SOURCES = {
    "registry": "opt/swarm-registry/registry.db",
    "deploy": "opt/swarm-deploy/data/deployments.db",
    "platform": "opt/swarm-platform/data/swarm.db",
    "legacy": "opt/swarm-mcp-factory.legacy/registry.db",
}
EVERY_KIND = """
CREATE TABLE one (id INTEGER PRIMARY KEY AUTOINCREMENT, two_id INTEGER REFERENCES two, n INTEGER,
  mail TEXT UNIQUE COLLATE NOCASE, made TEXT AS (lower(mail)), price DECIMAL(10,2) DEFAULT 0 CHECK (price >= 0),
  doc TEXT, at TEXT DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE two (id INTEGER PRIMARY KEY, one_id INTEGER REFERENCES one, x TEXT);
CREATE UNIQUE INDEX of_x ON two (x) WHERE x IS NOT NULL;
CREATE VIEW v AS SELECT * FROM one;
INSERT INTO two VALUES (1, NULL, 'x');
INSERT INTO one (n, mail, doc, two_id) VALUES (1, 'a@b', '[]', 1);
"""
# The reasons stand in .squawk.toml: what schema_apply does for every file.
WAIVED = "prefer-robust-stmts,require-timeout-settings,require-concurrent-index-creation"


@pytest.fixture(scope="module")
def sample_estate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a sample estate that tests only read."""
    root = tmp_path_factory.mktemp("estate")
    result = create_databases(root)
    assert result.returncode == 0, result.stderr
    return root


def require_squawk_clean(drafted: Draft, tmp_path: Path, version: str = "16.0") -> None:
    """Fail if squawk has anything to say of the drafted SQL but for the rules of WAIVED.

    :param version: of PostgreSQL.
    """
    file = tmp_path / "001_app.sql"
    file.write_text(drafted.sql)
    (tmp_path / "empty.toml").write_text("")
    command = [
        "squawk",
        "--config",
        "empty.toml",
        "--pg-version",
        version,
        "--assume-in-transaction",
        "--exclude",
        WAIVED,
    ]
    done = subprocess.run([*command, file.name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.promise("draft-moves-any-file")
@pytest.mark.parametrize("name", SOURCES)
def test_a_database_of_the_sample_estate_moves_as_it_is_drafted(
    connection: Connection, sample_estate: Path, tmp_path: Path, name: str
) -> None:
    move_as_drafted(connection, (sample_estate / SOURCES[name]).resolve(), tmp_path)


@pytest.mark.parametrize("name", SOURCES)
def test_a_draft_is_clean_and_moves_on_every_version(
    fetched_connection: Connection, sample_estate: Path, tmp_path: Path, name: str
) -> None:
    ((version,),) = query(fetched_connection, "SHOW server_version")
    move_as_drafted(fetched_connection, (sample_estate / SOURCES[name]).resolve(), tmp_path, version)


def move_as_drafted(connection: Connection, path: Path, tmp_path: Path, version: str = "16.0") -> None:
    """Draft a database, see that squawk takes the SQL, and move it with the first answer to all that is refused.

    :param version: of PostgreSQL.
    """
    drafted = draft(str(path), "app", str(tmp_path / "work"))
    require_squawk_clean(drafted, tmp_path, version)
    load_sql(connection, drafted)
    try:
        report = move(connection, drafted, tmp_path)
    except MigrationError as error:
        connection.rollback()
        # What is refused has its answers in the draft; with one of them everything else arrives.
        choices = with_refusals(drafted.choices, drafted.tables, error.problems)
        answered = 0
        for table in drafted.mapping["tables"]:
            for column, lines in choices.get(table["source"], {}).items():
                policy, _, answer = lines[1].partition(": ")
                table.setdefault("columns", {}).setdefault(column, {})[policy] = answer
                answered += 1
        assert answered, error
        report = move(connection, drafted, tmp_path)
    assert all(table["equal"] for table in report["tables"])
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source:
        for table in report["tables"]:
            counted = source.execute(f'SELECT count(*) FROM "{table["source"]}"').fetchone()[0]
            assert table["source_rows"] == table["target_rows"] == counted


def test_the_sql_of_every_kind_of_thing_is_clean(tmp_path: Path) -> None:
    require_squawk_clean(draft_of(tmp_path, EVERY_KIND), tmp_path)


def test_the_sql_of_every_kind_of_thing_loads_on_every_version(fetched_connection: Connection, tmp_path: Path) -> None:
    drafted = draft_of(tmp_path, EVERY_KIND)
    ((version,),) = query(fetched_connection, "SHOW server_version")
    require_squawk_clean(drafted, tmp_path, version)
    load_sql(fetched_connection, drafted)
    assert all(table["equal"] for table in move(fetched_connection, drafted, tmp_path)["tables"])


def test_every_reserved_word_of_every_version_is_known(fetched_connection: Connection) -> None:
    words = query(fetched_connection, "SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")
    assert {word for (word,) in words} <= names.RESERVED


@pytest.mark.promise("wrong-draft-refused")
@pytest.mark.parametrize(
    ("declared", "values", "kind", "other", "refusal"),
    [
        ("doc TEXT", ['{"a": 1}'], "jsonb", "plain", "holds text that is not JSON where jsonb is needed"),
        ("seen TEXT", ["2025-01-01 00:00:00"], "timestamptz", "soon", "holds text that is not a time in a known form"),
        ("is_on INTEGER", [0, 1], "boolean", 2, "holds a number other than 0 and 1 where boolean is needed"),
        ("amount INTEGER", [5], "integer", 2**40, "holds a number outside the range of integer"),
    ],
)
def test_a_value_that_comes_later_and_does_not_fit_is_refused_as_any_other(
    connection: Connection, tmp_path: Path, declared: str, values: list[Any], kind: str, other: object, refusal: str
) -> None:
    """The refusal names the column and the answers, and the draft takes them as comments."""
    name = declared.split()[0]
    script = f"CREATE TABLE t (id INTEGER PRIMARY KEY, {declared})"
    drafted = draft_of(tmp_path, script, {"t": list(enumerate(values))})
    assert f"  {name} {kind}" in drafted.sql
    load_sql(connection, drafted)
    with closing(sqlite3.connect(drafted.mapping["source"]["path"])) as source:
        source.execute("INSERT INTO t VALUES (99, ?)", (other,))
        source.commit()
    with pytest.raises(MigrationError) as error:
        move(connection, drafted, tmp_path)
    connection.rollback()
    (problem,) = error.value.problems
    assert problem.where.endswith(f"t.{name}")
    assert refusal in problem.what
    assert query(connection, "SELECT count(*) FROM app.t") == [(0,)]
    # What site.yml shows names the line of the draft.
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "001_app.sql").write_text(drafted.sql)
    result = {"failed": True, "msg": str(error.value), "problems": error.value.as_dicts()}
    shown = with_lines(result, drafted.mapping, tmp_path / "sql")
    (number,) = [n for n, line in enumerate(drafted.sql.split("\n"), 1) if line.startswith(f"  {name} {kind}")]
    said = f"Its type stands in {tmp_path}/sql/001_app.sql, line {number}"
    assert shown["problems"][0]["fix"].endswith(said)
    assert shown["msg"].endswith(said)
    choices = with_refusals(drafted.choices, drafted.tables, [problem])
    estate = write_estate("app", drafted.mapping, choices)
    comments = [line.strip() for line in estate.splitlines() if line.strip().startswith(f"# {name}: {{")]
    assert any("reject" in line for line in comments), f"{problem}\n{estate}"
    assert parse_group(yaml.safe_load(estate)["estate_cutover_groups"][0]).tables[0].columns == {}
    assert "What the engine refused" in render(drafted, "t.db", [problem])
    # The comment is the line that a person would take.
    chosen = next(line for line in comments if "reject" in line)
    taken = parse_group(yaml.safe_load(estate.replace(chosen, chosen.removeprefix("# ")))["estate_cutover_groups"][0])
    assert taken.tables[0].columns[name].policies


@pytest.mark.promise("wrong-draft-refused")
def test_the_line_of_a_type_is_found_however_names_are_written(tmp_path: Path) -> None:
    one = """-- CREATE TABLE app.no (id text);
CREATE SCHEMA app;
CREATE TABLE app."Order" (
  id bigint NOT NULL,
  -- "Sent at" text
  "Sent at" timestamptz,
  "a""b" text,
  CONSTRAINT order_pkey PRIMARY KEY (id)
);
create table if not exists App.T (
  Id INTEGER
);
"""
    (tmp_path / "001_one.sql").write_text(one)
    (tmp_path / "002_two.sql").write_text(
        "ALTER TABLE app.t\n  ADD x text;\nALTER TABLE app.t ALTER COLUMN id TYPE bigint;\n"
    )
    places = places_of_types(tmp_path)
    assert {place: said.removeprefix(f"{tmp_path}/") for place, said in places.items()} == {
        ("app", "Order", "id"): "001_one.sql, line 4",
        ("app", "Order", "Sent at"): "001_one.sql, line 6",
        ("app", "Order", 'a"b'): "001_one.sql, line 7",
        ("app", "t", "id"): "002_two.sql, line 3",
    }
    # A refusal of something else, or of a table that nobody mapped, stays as it is.
    group = {"tables": [{"source": "orders", "target": "app.Order", "columns": {"sent": {"target": "Sent at"}}}]}
    problems = [
        {"where": where, "what": "x", "fix": "y"}
        for where in ("a.db: orders.sent+id", "a.db: orders", "a.db: u.id", "z")
    ]
    message = "\n".join(f"{entry['where']}: x. y" for entry in problems)
    shown = with_lines({"msg": message, "problems": problems}, group, tmp_path)
    assert [entry["fix"] for entry in shown["problems"]] == [
        f"y. Its type stands in {tmp_path}/001_one.sql, line 6",
        "y",
        "y",
        "y",
    ]
    assert shown["msg"].count("line 6") == 1


@pytest.mark.promise("secret-column-masked")
def test_no_secret_stands_in_a_draft(connection: Connection, tmp_path: Path) -> None:
    drafted = draft_of(
        tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY, api_key TEXT)", {"t": [(1, "s3cr3t\x00key"), (2, "0ther")]}
    )
    load_sql(connection, drafted)
    with pytest.raises(MigrationError) as error:
        move(connection, drafted, tmp_path)
    choices = with_refusals(drafted.choices, drafted.tables, error.value.problems)
    written = drafted.sql + write_estate("app", drafted.mapping, choices) + render(drafted, "x", error.value.problems)
    assert "nul_character: remove" in written
    assert "s3cr3t" not in written
    assert "0ther" not in written


def test_whatever_a_name_holds_stays_in_its_comment(connection: Connection, tmp_path: Path) -> None:
    """Names and the text of views come from the file: none may become a statement, or a key of the mapping."""
    attack = "x\n; CREATE TABLE public.attack (); --"
    drafted = draft_of(
        tmp_path,
        f"""CREATE TABLE "{attack}" ("{attack}" TEXT DEFAULT (hex('{attack}')), y TEXT CHECK (y GLOB '{attack}'));
            CREATE VIEW "v{attack}" AS SELECT 1 AS "{attack}\r\n{attack}";
            INSERT INTO "{attack}" VALUES ('a', NULL);""",
    )
    load_sql(connection, drafted)
    assert query(connection, "SELECT to_regclass('public.attack')") == [(None,)]
    assert move(connection, drafted, tmp_path)["tables"][0]["equal"]
    execute(connection, "SELECT 1")
