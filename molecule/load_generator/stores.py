"""Reads a table directly from the store: the SQLite file, or PostgreSQL as its administrator."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from contextlib import closing
from typing import Any

from .kinds import GROUPS, TABLES

SQLITE, POSTGRESQL = "sqlite", "postgresql"


def read(group: str, table: str, store: str) -> list[dict[str, Any]]:
    """Return all rows of a table, named as in SQLite, as they stand in the store.

    :raises subprocess.CalledProcessError, sqlite3.Error: if it cannot be read.
    """
    return _from_sqlite(GROUPS[group][1], table) if store == SQLITE else _from_postgresql(TABLES[group][table])


def _from_sqlite(path: str, table: str) -> list[dict[str, Any]]:
    """Read beside the services, which have the file open: so closing ours checkpoints nothing."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f'SELECT * FROM "{table}"')]  # noqa: S608


def _from_postgresql(table: str) -> list[dict[str, Any]]:
    statement = f"SELECT to_json(entry) FROM {table} AS entry"  # noqa: S608
    command = ["runuser", "-u", "postgres", "--", "psql", "--no-psqlrc", "-d", "swarm", "-Atc", statement]
    result = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
    return [json.loads(line) for line in result.stdout.split("\n") if line]


def decoded(row: dict[str, Any], columns: tuple[str, ...]) -> dict[str, Any]:
    """Return a row with its JSON columns as values: SQLite keeps them as text."""
    result = dict(row)
    for column in columns:
        if isinstance(result[column], str):
            try:
                result[column] = json.loads(result[column])
            except ValueError:
                # The sample has free text in JSON columns.
                pass
    return result
