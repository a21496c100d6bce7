"""The estate that tests of a window build: one group on both sides, and the calls that move it and bring it back.

What runs its services, if it has any, is added where that is under test.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.service_health import (
    ServicesLogin,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback import dump, rollback
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback.checks import Options
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.checks import Settings
from ansible_collections.swarm.sqlite_to_postgresql.plugins.modules.cutover_group import move
from tests.conftest import PASSWORD, PROGRAMS, fresh_database, migrator_of
from tests.engine.support import execute, make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from tests.conftest import Server

NOTES = "CREATE TABLE notes (text TEXT PRIMARY KEY)"


def make_notes(connection: Connection, path: Path, journal: str = "") -> Path:
    """Make the table ``notes`` on both sides, with one row in the file, and let a service write to it on PostgreSQL.

    :param journal: statement that comes before the table in the file.
    """
    make_target(connection, NOTES)
    execute(connection, "GRANT USAGE ON SCHEMA app TO swarm_registry; GRANT ALL ON app.notes TO swarm_registry")
    return make_file_of_notes(path, journal)


def make_file_of_notes(path: Path, journal: str = "") -> Path:
    """Make the table ``notes`` with one row in the file alone."""
    return make_source(path, f"{journal}{NOTES}", {"notes": [("a",)]})


def let_find_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a rollback find the programs of the tests' own server for its dump."""
    monkeypatch.setattr(dump, "_PATH", f"{PROGRAMS}:{dump._PATH}")


class Estate:
    """One group, and how it is moved and brought back.

    :param place: where its private files are.
    :param group: of one service, or of none; a subclass may describe it later.
    :param settings: of its cutover, where they are others than usual.
    """

    def __init__(
        self,
        connection: Connection,
        login: Login,
        place: Path,
        source: Path,
        group: Group | None = None,
        **settings: Any,
    ) -> None:
        self.connection, self.login, self.place, self.source = connection, login, place, source
        common = {
            "role_passwords": {"swarm_registry": PASSWORD},
            "health_timeout": 60.0,
            "stable_seconds": 0.5,
            "work_directory": str(place / "work"),
        }
        self.settings = Settings(ServicesLogin(login.host, login.port, login.database), **{**common, **settings})
        self.options = Options(str(place / "dumps"))
        self.group = group or self.described()

    def described(self) -> Group:
        """Return the group of the table ``notes``, which no service uses."""
        return make_group(self.source, {"source": "notes"}, services=[])

    def rehearse(self) -> None:
        """Load the tables while the services use SQLite."""
        rehearse(self.connection, self.group, self.place)

    def begin_rehearsed(self) -> None:
        """Begin in a copy of a database in which the same estate was rehearsed: see ``rehearsed_database``."""
        (self.place / "work").mkdir(mode=0o700)
        point_to(self.connection, self.source)

    def move(self, group: Group | None = None, **settings: Any) -> dict[str, Any]:
        """Run the cutover as the module does."""
        settings_now = replace(self.settings, **settings)
        result: dict[str, Any] = move(self.login, group or self.group, settings_now, False, self.options)
        return result

    def roll_back(self, lose_rows: int | None = None, check_mode: bool = False) -> dict[str, Any]:
        """Run the rollback as the module does."""
        options = replace(self.options, lose_rows=lose_rows)
        result: dict[str, Any] = rollback.roll_back(self.login, self.group, self.settings, check_mode, options)
        return result

    @property
    def record(self) -> ledger.GroupRecord:
        """Return what the ledger says of the group."""
        record = ledger.read_group(self.connection, self.group.name)
        self.connection.rollback()
        return record

    def state(self) -> str:
        """Return the state of the group in the ledger."""
        return str(self.record.state)

    def notes(self) -> list[str]:
        """Return the notes in the file."""
        with closing(sqlite3.connect(f"file:{self.source}?mode=ro", uri=True)) as opened:
            return [text for (text,) in opened.execute("SELECT text FROM notes ORDER BY text")]

    def moved(self) -> list[str]:
        """Return the notes in PostgreSQL."""
        return [text for (text,) in query(self.connection, "SELECT text FROM app.notes ORDER BY text")]


@contextmanager
def rehearsed_database(server: Server, template: str, make: Callable[[Connection, Login], Estate]) -> Iterator[str]:
    """Rehearse an estate once, so that each test takes a copy of its database; return the name of the database.

    A rehearsal takes much of the time of a test that begins with one.

    :param template: what the database is made from.
    :param make: makes the estate in it.
    """
    with fresh_database(server, template) as name:
        login = migrator_of(server, name)
        with closing(connect(login)) as connection:
            make(connection, login).rehearse()
        yield name


def point_to(connection: Connection, source: Path) -> None:
    """Let the ledger of a copied database name another file, which holds the same as the one that was moved."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE migration.cutover_group SET source_path = %s", (str(source),))
        cursor.execute(
            "UPDATE migration.run SET report = jsonb_set(report, '{source}', report -> 'source' || "
            "jsonb_build_object('path', %s, 'inode', %s)) WHERE report ? 'source'",
            (str(source), source.stat().st_ino),
        )
    connection.commit()
