"""A file whose schema only a newer SQLite can read is told from a damaged one, with all that is in the way."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError

from .support import make_group, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# What no SQLite can read yet stands for what this one cannot.
NEWER = {
    "view v": "CREATE VIEW v AS SELECT future_aggregate(id ORDERED SO THAT id) FROM t",
    "trigger g": "CREATE TRIGGER g AFTER INSERT ON t WHENEVER new.id DO SELECT 1; END",
    "index i": "CREATE INDEX i ON t (id) COVERING (w)",
    "table u": "CREATE TABLE u (id INTEGER PRIMARY KEY, w CHECK (w LIKE ANY OF ('a')))",
}


def newer(path: Path, *kinds: str) -> Path:
    """Make a file whose schema holds statements of a newer SQLite."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE t (id INTEGER PRIMARY KEY, w); INSERT INTO t VALUES (1, 'a')")
        connection.execute("PRAGMA writable_schema = ON")
        for kind in kinds:
            entry = (kind.split()[0], kind.split()[1], "u" if kind == "table u" else "t", 2, NEWER[kind])
            connection.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", entry)
        connection.commit()
    return path


@pytest.mark.parametrize("kinds", [*((kind,) for kind in NEWER), ("view v", "trigger g"), ("view v", "table u")])
def test_what_only_a_newer_sqlite_reads_is_named(
    connection: Connection, tmp_path: Path, kinds: tuple[str, ...]
) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, w text)")
    source = newer(tmp_path / "t.db", *kinds)
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path)
    found = str(error.value)
    assert f"it is for a newer SQLite than {sqlite3.sqlite_version}" in found
    assert (
        f"cannot read the SQL of {', '.join(kinds)} (the file was last written by SQLite {sqlite3.sqlite_version})"
        in found
    )
    assert ("Drop " in found) == ("table u" not in kinds)
    assert "Give this host's Python a newer SQLite" in found or "or give this host's Python a newer SQLite" in found
    assert ".recover" not in found
    assert query(connection, "SELECT count(*) FROM app.t") == [(0,)]


def test_a_damaged_schema_is_still_called_damaged(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, w text)")
    source = newer(tmp_path / "t.db")
    with closing(sqlite3.connect(source)) as writer:
        writer.execute("PRAGMA writable_schema = ON")
        writer.execute("UPDATE sqlite_schema SET rootpage = 4000 WHERE name = 't'")
        writer.commit()
    with pytest.raises(MigrationError, match=r"\.recover"):
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path)
