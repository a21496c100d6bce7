"""Reads the tables directly from the store: the SQLite files, or PostgreSQL as its administrator."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from .kinds import GROUPS, TABLES

SQLITE, POSTGRESQL = "sqlite", "postgresql"

Rows = list[dict[str, Any]]


def read_all(used: Mapping[str, str]) -> dict[tuple[str, str], Rows]:
    """Return all rows of every table, by group and by its name in SQLite, as they stand in the store.

    :param used: the store of each group.
    :raises subprocess.CalledProcessError, sqlite3.Error: if it cannot be read.
    """
    found: dict[tuple[str, str], Rows] = {}
    for group, store in used.items():
        if store == SQLITE:
            found.update({(group, name): rows for name, rows in _from_sqlite(GROUPS[group][1], TABLES[group]).items()})
    moved = {
        (group, name): table
        for group, store in used.items()
        if store == POSTGRESQL
        for name, table in TABLES[group].items()
    }
    if moved:
        found.update(zip(moved, _from_postgresql(list(moved.values())), strict=True))
    return found


def _from_sqlite(path: str, tables: Mapping[str, str]) -> dict[str, Rows]:
    """Read beside the services, which have the file open: so closing ours checkpoints nothing."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        return {
            name: [dict(row) for row in connection.execute(f'SELECT * FROM "{name}"')]  # noqa: S608
            for name in tables
        }


def _from_postgresql(tables: list[str]) -> list[Rows]:
    """Read each table by a statement of its own, in one session: to begin one costs more than most tables."""
    command = [
        "runuser",
        "-u",
        "postgres",
        "--",
        "psql",
        "--no-psqlrc",
        "-d",
        "swarm",
        "-qAt0",
        "-v",
        "ON_ERROR_STOP=1",
    ]
    for table in tables:
        command += ["-c", f"SELECT coalesce(json_agg(entry), '[]') FROM {table} AS entry"]  # noqa: S608
    result = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
    return [json.loads(answer) for answer in result.stdout.split("\0") if answer]


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
