"""A database with every kind of content, and the backup program's settings for it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.backup import cli
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.backup import (
    settings as backup_settings,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.backup.settings import Settings
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from tests.conftest import MIGRATOR, PROGRAMS, PROJECT, make_template

if TYPE_CHECKING:
    from tests.conftest import Server

CONTENT = """
CREATE SCHEMA odd;
CREATE TABLE odd."Qu""oted. name" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, value text,
                                   amount double precision, number serial,
                                   content bytea DEFAULT decode('00ff10', 'hex'),
                                   doubled double precision GENERATED ALWAYS AS (amount * 2) STORED);
INSERT INTO odd."Qu""oted. name" (value, amount) SELECT 'row ' || n, n / 7.0 FROM generate_series(1, 3000) AS n;
CREATE TABLE odd.parts (id int NOT NULL, kind regclass) PARTITION BY RANGE (id);
CREATE TABLE odd.part_1 PARTITION OF odd.parts FOR VALUES FROM (1) TO (100);
INSERT INTO odd.parts SELECT n, 'odd.parts'::regclass FROM generate_series(1, 50) AS n;
CREATE SEQUENCE odd.downwards INCREMENT BY -5;
SELECT nextval('odd.downwards');
CREATE UNLOGGED TABLE odd.unlogged (at timestamptz);
INSERT INTO odd.unlogged VALUES ('2026-03-01 12:00+02');
CREATE VIEW odd.seen AS SELECT id FROM odd.parts;
CREATE FUNCTION odd.twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
CREATE TYPE odd.mood AS ENUM ('sad');
CREATE DOMAIN odd.small AS int DEFAULT 1 CHECK (VALUE < 10);
CREATE POLICY own ON odd.part_1 TO swarm_registry USING (id > 0);
CREATE RULE quiet AS ON DELETE TO odd.seen DO INSTEAD NOTHING;
COMMENT ON TABLE odd.parts IS 'in parts';
GRANT SELECT ON odd.part_1 TO swarm_registry;
SELECT lo_from_bytea(0, decode('00ff10', 'hex'));
INSERT INTO migration.cutover_group (name, state, source_path, cutover_at)
VALUES ('registry', 'live', '/x.db', '2026-01-01Z');
"""


@dataclass(frozen=True)
class Program:
    """The backup program with its settings.

    :param path: file of the settings.
    :param superuser: login of the server's superuser to the same database.
    """

    path: Path
    settings: Settings
    superuser: Login
    capture: Any

    def run(self, *arguments: str) -> dict[str, Any]:
        """Run a command that succeeds, and return its result."""
        status, result = self.try_to(*arguments)
        assert status == 0, result
        return result

    def fail(self, *arguments: str) -> str:
        """Run a command that fails, and return its message."""
        status, result = self.try_to(*arguments)
        assert status == 1, result
        return str(result["msg"])

    def try_to(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run a command and return exit code and result."""
        self.capture.readouterr()
        before = os.umask(0o022)
        try:
            status = cli.main([*arguments, "--json", "--settings", str(self.path)])
        finally:
            # The program sets that of its process, which is ours here.
            os.umask(before)
        result: dict[str, Any] = json.loads(self.capture.readouterr().out)
        return status, result

    def change(self, **changes: Any) -> Program:
        """Return the program with other settings, written to the same file."""
        return write(self.path, replace(self.settings, **changes), self.superuser, self.capture)

    def names(self) -> list[str]:
        """Return the names in the directory of the backups, without the lock."""
        return sorted(entry.name for entry in self.settings.directory.iterdir() if entry.name != ".lock")

    def query(self, statement: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, commit, and return its rows."""
        login = replace(self.superuser, database=database or self.superuser.database)
        with closing(connect(login)) as connection:
            connection.rollback()
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []

    def databases(self) -> set[str]:
        """Return the databases of the server whose names begin with this one's."""
        name = self.superuser.database
        return {row[0] for row in self.query("SELECT datname FROM pg_database", "postgres") if row[0].startswith(name)}


def write(path: Path, settings: Settings, superuser: Login, capture: Any) -> Program:
    """Write a file of settings as the role does, and return the program for it."""
    login = settings.login
    content = asdict(settings) | {
        "directory": str(settings.directory),
        "login": {
            "login_host": login.host,
            "login_port": login.port,
            "login_db": login.database,
            "login_user": login.user,
            "login_password": login.password,
            "session_role": login.session_role,
        },
    }
    path.write_text(json.dumps(content))
    return Program(path, backup_settings.read(path), superuser, capture)


def usual_settings(directory: Path, login: Login) -> Settings:
    """Make a directory for backups, and return what is set for them where a test is about something else."""
    directory.mkdir(mode=0o700)
    return Settings(
        directory=directory,
        login=login,
        maintenance_database="postgres",
        programs=str(PROGRAMS),
        keep_days=30,
        keep_count=2,
        maximum_age_hours=36,
        lock_wait_seconds=1,
        reserve_bytes=0,
    )


@pytest.fixture(scope="session")
def schema_template(server: Server, ledger_template: str) -> str:
    """The name of a template database with the ledger and the first file of the plan's schema.

    A backup asks each table several questions, and the further files hold no kind of object that is neither in this one
    nor in CONTENT. The whole schema is backed up, proven and restored on the host of the backup scenario.
    """
    first = (PROJECT / "files" / "sql" / "001_auth_schema.sql").read_text()
    return make_template(server, "backup_template", ledger_template, [first])


@pytest.fixture
def program(
    server: Server, schema_database: Login, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Program]:
    """The program as a self-hosted server's superuser, for a database with every kind of content."""
    superuser = replace(server.superuser, database=schema_database.database)
    with closing(connect(schema_database)) as connection, connection.cursor() as cursor:
        cursor.execute(CONTENT)
        connection.commit()
    settings = usual_settings(tmp_path / "backups", superuser)
    program = write(tmp_path / "settings.json", settings, superuser, capsys)
    yield program
    for name in program.databases() - {superuser.database}:
        server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def managed(server: Server, program: Program, schema_database: Login) -> Iterator[Program]:
    """The program as the migrating login of a managed server, who may create databases and end sessions."""
    server.execute(f"ALTER ROLE {MIGRATOR} CREATEDB", f"GRANT pg_signal_backend TO {MIGRATOR}")
    yield program.change(login=schema_database)
    server.execute(f"ALTER ROLE {MIGRATOR} NOCREATEDB", f"REVOKE pg_signal_backend FROM {MIGRATOR}")


@pytest.fixture
def age(program: Program) -> Callable[[str, float], None]:
    """Return a function that makes a backup older by some hours, on disk."""

    def change(name: str, hours: float) -> None:
        path = program.settings.directory / name / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["taken_at"] = (datetime.fromisoformat(manifest["taken_at"]) - timedelta(hours=hours)).isoformat()
        path.write_text(json.dumps(manifest))

    return change


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    yield from _disk(tmp_path / "small", "1m")


@pytest.fixture
def large_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 megabytes."""
    yield from _disk(tmp_path / "large", "64m")


def _disk(path: Path, size: str) -> Iterator[Path]:
    """Mount a file system of a size for a while."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(path)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("nothing can be mounted here; the Molecule scenario does it on its host")
    yield path
    subprocess.run(["umount", str(path)], check=True)
