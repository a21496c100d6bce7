"""The library's runner and schema_apply on one PostgreSQL: each treats the other's files as applied."""

from __future__ import annotations

import json
import random
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import (
    connected,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres import schema, schema_files
from tests.library_container import PACKAGE, ROOT, Library, url_of

if TYPE_CHECKING:
    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login
    from tests.conftest import Server

SQL_FILES = ROOT / "files" / "sql"
# Every kind of object that the catalog describes, and defaults whose wording depends on the session.
EVERYTHING = """
\\restrict q1W2e3

SET lock_timeout = 0;
SET client_encoding = 'UTF8';
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
CREATE SCHEMA shop;
CREATE TABLE shop.goods (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  "Größe 🧀" numeric(8, 2) DEFAULT 1.5 CHECK ("Größe 🧀" > 0),
  at timestamptz NOT NULL DEFAULT '2026-01-31 12:00:00+02',
  span interval DEFAULT '1 day 2:00',
  ratio double precision DEFAULT 0.1::double precision,
  twice integer GENERATED ALWAYS AS (2 * 21) STORED
);
CREATE TABLE shop.parts (goods_id integer REFERENCES shop.goods (id), note text) PARTITION BY LIST (goods_id);
CREATE TABLE shop.parts_1 PARTITION OF shop.parts FOR VALUES IN (1);
CREATE INDEX parts_note ON shop.parts (lower(note)) WHERE note <> ';';
CREATE VIEW shop.cheap AS SELECT id FROM shop.goods;
CREATE MATERIALIZED VIEW shop.kept AS SELECT count(*) AS goods FROM shop.goods;
CREATE FUNCTION shop.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := 'a;b'; RETURN NEW; END $$;
CREATE TRIGGER noted BEFORE INSERT ON shop.parts_1 FOR EACH ROW EXECUTE FUNCTION shop.note();
"""
FRAGMENTS = (
    "SELECT", "begin", "atomic", "case", "end", "COPY", "copy x from stdin", "set", "set local", "set role", "commit",
    "reindex table concurrently", "vacuum", "E'a\\'b;'", "e'", "'it''s;'", "'", '"a;""b"', '"', "$$", "$$;$$", "$a$",
    "$tag$ ; $tag$", "$1", "x$y$", "--", "-- note;\n", "/*", "/* a /* b; */", "*/", "\\", "(", ")", ";", ";", "\n",
    "\t", " ", " ", "ä", "ß9", "größe", "🧀", "\u00a0", "\u3000", "\ufeff", "\u2028", "\x85", "_", "9", "²", "beginé",
    "*", "é'",
)  # fmt: skip


def read_files(directory: Path = SQL_FILES) -> list[schema_files.SqlFile]:
    """Return the files of a directory as schema_apply reads them."""
    paths = sorted(directory.glob("*.sql"))
    files: list[schema_files.SqlFile] = schema_files.read_files(
        [{"name": path.name, "content": path.read_bytes().decode()} for path in paths]
    )
    return files


def apply_in_python(login: Login, directory: Path = SQL_FILES, **options: Any) -> list[str]:
    """Apply files as schema_apply does; return the names of those that were not applied before."""
    with connected(login) as connection:
        applied: list[str] = schema.apply(connection, read_files(directory), **options)["applied"]
        return applied


def ledger_rows(login: Login) -> str:
    """Return everything that the ledger keeps of the applied files, apart from when and how fast."""
    with connected(login) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT json_agg(json_build_array(number, name, sha256, applied_by, catalog::text) ORDER BY number)::text, "
            "bool_and(duration_ms >= 0 AND applied_at BETWEEN now() - interval '1 hour' AND now()) "
            "FROM migration.applied_file"
        )
        rows, plausible = cursor.fetchone() or ("", False)
        assert plausible
        return str(rows)


@pytest.fixture
def other_login(server: Server, login: Login) -> Login:
    """The login to a second empty database like that of ``login``."""
    name = f"{login.database}_other"
    server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"CREATE DATABASE {name} TEMPLATE empty_template")
    server.execute(f"ALTER DATABASE {name} OWNER TO {login.session_role}")
    return replace(login, database=name)


@pytest.fixture
def directory(library: Library) -> Path:
    """A directory for SQL files that both runners see; the first file is in it."""
    path = library.shared / f"sql-{random.randrange(10**9)}"  # noqa: S311
    path.mkdir()
    (path / "001_everything.sql").write_text(EVERYTHING)
    return path


def test_node_s_own_tests_pass(library: Library, server: Server) -> None:
    result = library.run("npm", "test", TEST_DATABASE_URL=url_of(server.superuser))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "# pass 13\n# fail 0" in result.stdout.replace("ℹ", "#")


@pytest.mark.promise("library-runner-agrees")
@pytest.mark.parametrize("first", ["library", "schema_apply"])
def test_each_takes_the_other_s_work_for_done(library: Library, login: Login, first: str) -> None:
    runners: list[Callable[[Login], list[str]]] = [library.applied_by, apply_in_python]
    one, other = runners if first == "library" else reversed(runners)
    assert one(login) == [file.name for file in read_files()]
    rows = ledger_rows(login)
    assert other(login) == []
    assert one(login) == []
    assert ledger_rows(login) == rows
    with connected(login) as connection:
        assert ledger.is_complete(connection)


@pytest.mark.promise("library-runner-agrees")
@pytest.mark.parametrize("of_the_schema", [True, False])
def test_both_write_the_same_rows(
    library: Library, login: Login, other_login: Login, server: Server, directory: Path, of_the_schema: bool
) -> None:
    files = SQL_FILES if of_the_schema else directory
    # The migrator's own settings would word the defaults in another way.
    server.execute(
        f"ALTER ROLE {login.user} SET timezone = 'Asia/Tokyo'",
        f"ALTER ROLE {login.user} SET datestyle = 'German'",
        f"ALTER ROLE {login.user} SET intervalstyle = 'iso_8601'",
        f"ALTER ROLE {login.user} SET search_path = 'shop, auth'",
    )
    try:
        library.applied_by(login, *([] if of_the_schema else ["--directory", str(directory)]))
        apply_in_python(other_login, files)
    finally:
        server.execute(f"ALTER ROLE {login.user} RESET ALL")
    rows = ledger_rows(login)
    assert rows == ledger_rows(other_login)
    if not of_the_schema:
        for part in ("Größe 🧀", "10:00:00+00", "materialized view shop.kept", "trigger CREATE TRIGGER", "identity"):
            assert part in rows


def test_each_goes_on_where_the_other_stopped(library: Library, login: Login, directory: Path) -> None:
    options = ("--directory", str(directory))
    assert library.applied_by(login, *options) == ["001_everything.sql"]
    (directory / "002_more.sql").write_text("CREATE TABLE shop.more ();")
    assert apply_in_python(login, directory) == ["002_more.sql"]
    (directory / "003_last.sql").write_text("CREATE TABLE shop.last ();")
    assert library.applied_by(login, *options, "--check") == ["003_last.sql"]
    assert library.applied_by(login, *options) == ["003_last.sql"]
    assert apply_in_python(login, directory) == []


@pytest.mark.promise("library-runner-agrees")
@pytest.mark.parametrize(
    ("statement", "edit"),
    [
        ("ALTER TABLE shop.goods ADD COLUMN by_hand text", None),
        ("DROP INDEX shop.parts_note", None),
        ("ALTER TABLE shop.parts_1 DISABLE TRIGGER noted", None),
        (None, ("001_everything.sql", EVERYTHING + "-- edited")),
        (None, ("001_other_name.sql", EVERYTHING)),
        (None, ("002_wrong.sql", "SELECT 1;\n\nSELECT 'ä🧀', wrong;")),
        (None, ("002_wrong.sql", "CREATE TABLE shop.goods ();")),
        (None, ("002_wrong.sql", "CREATE ROLE somebody;")),
        (None, ("002_wrong.sql", "BEGIN; VACUUM; RESET ALL; COPY shop.goods FROM STDIN; \\d")),
        (None, ("002_wrong.sql", "SET lock_timeout = 0; SELECT set_config('a.b', 'c', false); SET row_security = x;")),
        (None, ("wrong.sql", "SELECT 1;")),
        (None, ("001_second.sql", "SELECT 1;")),
    ],
)
def test_both_refuse_the_same_for_the_same_reason(
    library: Library, login: Login, directory: Path, statement: str | None, edit: tuple[str, str] | None
) -> None:
    apply_in_python(login, directory)
    if statement is not None:
        with connected(login) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            connection.commit()
    if edit is not None:
        name, content = edit
        if name == "001_other_name.sql":
            (directory / "001_everything.sql").unlink()
        (directory / name).write_text(content)
    with pytest.raises(MigrationError) as refusal:
        apply_in_python(login, directory)
    result = library.migrate(login, "--directory", str(directory))
    assert result.returncode == 1
    for problem in refusal.value.problems:
        assert f"{problem.where}: {problem.what}" in result.stderr
    assert result.stderr.count("\n  - ") == len(refusal.value.problems)


@pytest.mark.promise("library-runner-agrees")
def test_each_waits_for_the_other(library: Library, login: Login, directory: Path) -> None:
    # Whoever comes first works until the other one waits, and fails if that one never does.
    (directory / "002_slow.sql").write_text(
        "DO $$ BEGIN FOR n IN 1..2400 LOOP "
        "IF EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted) THEN RETURN; END IF; "
        "PERFORM pg_sleep(0.05); END LOOP; RAISE EXCEPTION 'the other one does not wait'; END $$;"
    )
    command = library.command(
        "node", "dist/migrations/command.js", "--role", str(login.session_role), "--directory", str(directory),
        DATABASE_URL=url_of(login),
    )  # fmt: skip
    applied: list[list[str]] = []
    in_python = threading.Thread(target=lambda: applied.append(apply_in_python(login, directory)))
    in_node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    in_python.start()
    output, errors = in_node.communicate(timeout=300)
    in_python.join()
    assert in_node.returncode == 0, errors
    assert sorted(map(len, (*applied, json.loads(output)["applied"]))) == [0, 2]


def test_neither_goes_on_while_the_other_is_stuck(library: Library, login: Login, directory: Path) -> None:
    apply_in_python(login, directory)
    with connected(login) as connection, ledger.locked(connection, "schema"):
        result = library.migrate(login, "--directory", str(directory))
    assert result.returncode == 1
    assert f"of {login.user} holds its lock" in result.stderr


def test_both_split_files_into_the_same_statements(library: Library) -> None:
    source = random.Random(5)  # noqa: S311
    contents = [EVERYTHING, *(path.read_text() for path in SQL_FILES.glob("*.sql"))]
    contents += ["".join(source.choices(FRAGMENTS, k=source.randint(1, 14))) for _ in range(20_000)]
    script = """
      const { splitStatements } = require('./dist/migrations/statements');
      const contents = JSON.parse(require('fs').readFileSync(0, 'utf8'));
      console.log(JSON.stringify(contents.map(splitStatements)));
    """
    result = library.run("node", "--eval", script, given=json.dumps(contents))
    assert result.returncode == 0, result.stderr
    for content, found in zip(contents, json.loads(result.stdout), strict=True):
        expected = [
            {"text": one.text, "line": one.line, "code": one.code, "executed": one.executed}
            for one in schema_files.split_statements(content)
        ]
        assert found == expected, repr(content)


def test_both_refuse_the_same_statements(library: Library) -> None:
    source = random.Random(6)  # noqa: S311
    contents = [" ".join(source.choices(FRAGMENTS, k=source.randint(1, 5))) for _ in range(3000)]
    for number in range(0, len(contents), 900):
        directory = library.shared / f"refused-{number}"
        directory.mkdir()
        chunk = contents[number : number + 900]
        for place, content in enumerate(chunk, start=1):
            (directory / f"{place:03d}_a.sql").write_text(content)
        expected = []
        for place, content in enumerate(chunk, start=1):
            try:
                schema_files.read_files([{"name": f"{place:03d}_a.sql", "content": content}])
            except MigrationError as error:
                expected += [f"{problem.where}: {problem.what}" for problem in error.problems]
        script = """
          require('./dist/index').readMigrationFiles(process.argv[1]).then(() => console.log('[]'), ({ problems }) =>
            console.log(JSON.stringify(problems.map(({ where, what }) => `${where}: ${what}`))));
        """
        found = json.loads(library.run("node", "--eval", script, str(directory)).stdout)
        assert found == expected


def test_both_have_the_same_lock_and_patience() -> None:
    sources = PACKAGE / "src" / "migrations"
    assert f"LOCK_CLASS = 0x{ledger.LOCK_CLASS:08x};" in (sources / "ledger.ts").read_text()
    assert f"LOCK_ATTEMPTS = {schema.LOCK_ATTEMPTS};" in (sources / "runner.ts").read_text()
