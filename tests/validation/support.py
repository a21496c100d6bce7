"""A small estate of one cutover group, and the steps that bring it to each state."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group, parse_group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.files import sha256_of
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover import rehearsal
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.proof.target_state import (
    fingerprint,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation import group as validate
from tests.conftest import fresh_database, migrator_of
from tests.estates import point_to

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from tests.conftest import Server

SOURCE = """
CREATE TABLE owners (id TEXT PRIMARY KEY, name TEXT, token TEXT, rank TEXT);
CREATE TABLE pets (id INTEGER PRIMARY KEY AUTOINCREMENT, owner_id TEXT, name TEXT);
INSERT INTO owners VALUES ('ann', 'Ann', 'hush-hush', 'chief'), ('bob', 'Bob', NULL, 'guest');
INSERT INTO pets VALUES (1, 'ann', 'Rex'), (2, 'bob', 'Tom'), (9, 'bob', 'gone');
DELETE FROM pets WHERE id = 9;
"""
TARGET = """
CREATE SCHEMA app;
CREATE TABLE app.owners (id uuid PRIMARY KEY, name text NOT NULL, token text);
CREATE TABLE app.pets (
  id serial PRIMARY KEY,
  owner_id uuid CONSTRAINT pets_owner REFERENCES app.owners (id),
  name text
);
CREATE INDEX pets_name ON app.pets (name);
"""
GROUP: dict[str, Any] = {
    "name": "zoo",
    "source": {"path": ""},
    "tables": [
        {
            "source": "owners",
            "target": "app.owners",
            "columns": {"token": {"secret": True}, "rank": {"without_target": "keep"}},
        },
        {"source": "pets", "target": "app.pets", "columns": {"owner_id": {"orphan": "set_null"}}},
    ],
    "services": [
        {
            "name": "zoo-web",
            "user": "zoo",
            "directory": "/opt/zoo",
            "database_role": "zoo_web",
            "schemas": ["app"],
            "health_url": "http://127.0.0.1:4999/health",
        }
    ],
}


@dataclass
class Estate:
    """One cutover group with a real source and a real target.

    :param unwritten_tables: target tables that no service writes to.
    """

    connection: Connection
    group: Group
    source: Path
    work: str
    unwritten_tables: tuple[str, ...] = ()

    def on_source(self, script: str) -> None:
        """Write to the SQLite file, as a service does."""
        with closing(sqlite3.connect(self.source)) as database:
            database.executescript(script)

    def on_target(self, statement: str) -> None:
        """Write to PostgreSQL, as a service does."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
        self.connection.commit()

    def rehearse(self) -> None:
        """Load the tables while the services use SQLite."""
        rehearsal.rehearse(self.connection, self.group, self.work)

    def cut_over(self, downtime_seconds: float = 1.5) -> None:
        """Take the ledger's steps of a cutover, with the engine's own final sync."""
        self.rehearse()
        path = str(self.source)
        ledger.take_step(self.connection, "zoo", "freeze", path, frozen_sha256=sha256_of(self.source))
        self.connection.commit()
        migrate.migrate(self.connection, self.group, migrate.FINAL, work_directory=self.work)
        detail = {"fingerprint": fingerprint(self.connection, self.group)}
        ledger.take_step(self.connection, "zoo", "go_live", path, detail=detail)
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            (now,) = cursor.fetchone() or (None,)
        steps = [{"name": "stop", "seconds": 0.4}, {"name": "start", "seconds": 1.1}]
        seen = {"downtime_seconds": downtime_seconds, "start_seconds": 0.9, "requests": 60, "requests_failed": 41}
        report = {
            "downtime_seconds": downtime_seconds,
            "window_seconds": downtime_seconds + 0.1,
            "services_seconds": 1.5,
            "own_seconds": 0.6,
            "steps": [*steps, {"name": "watch", "seconds": 2.0}],
            "services": [{"name": "zoo-web", "pid": 1, "session_pid": 2, "store": "postgresql", **seen}],
        }
        ledger.record_run(self.connection, "zoo", "cutover", now, report)
        self.connection.commit()

    def validate(self) -> dict[str, Any]:
        """Run the validation."""
        result: dict[str, Any] = validate.validate(
            self.connection, self.group, self.work, ask_services=False, unwritten_tables=self.unwritten_tables
        )
        return result

    def findings(self) -> str:
        """Return every finding as text."""
        return "\n".join(f"{entry['where']}: {entry['what']}. {entry['fix']}" for entry in self.validate()["findings"])


def make_estate(connection: Connection, directory: Path, with_target: bool = True) -> Estate:
    """Create the source, the target and the ledger."""
    source = directory / "zoo.db"
    with closing(sqlite3.connect(source)) as database:
        database.executescript(SOURCE)
    with connection.cursor() as cursor:
        cursor.execute(ledger.CREATE_LEDGER + (TARGET if with_target else ""))
    connection.commit()
    group = parse_group({**GROUP, "source": {"path": str(source)}})
    return Estate(connection, group, source, str(directory / "work"))


@dataclass(frozen=True)
class Moved:
    """An estate that was cut over once, for tests that begin with one: each takes a copy of its database and its file.

    The cutover takes most of the time of such a test.
    """

    database: str
    estate: Estate

    def copied(self, connection: Connection, directory: Path) -> Estate:
        """Return the estate in a copy of its database, with its file in a directory of its own.

        :param connection: to the copy.
        """
        source, work = directory / self.estate.source.name, directory / "work"
        shutil.copyfile(self.estate.source, source)
        shutil.copytree(self.estate.work, work)
        point_to(connection, source)
        group = replace(self.estate.group, source_path=str(source))
        return replace(self.estate, connection=connection, group=group, source=source, work=str(work))


@contextmanager
def moved_estate(server: Server, directory: Path, make: Callable[[Connection, Path], Estate]) -> Iterator[Moved]:
    """Cut an estate over, to be copied as often as it is needed.

    :param make: makes it, with a connection to an empty database and a directory for its file.
    """
    with fresh_database(server) as database:
        with closing(connect(migrator_of(server, database))) as connection:
            estate = make(connection, directory)
            estate.cut_over()
        yield Moved(database, estate)
