#!/usr/bin/env python3
"""Print every row of SQLite files as JSON, with what lies in their -wal: the truth that the tests compare with.

Takes one JSON object {path: [table, …]} and prints {path: {table: [row, …]}}. Shares no code with the migration.
A BLOB is printed as {"hex": …}.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from typing import Any


def read(path: str, tables: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of these tables from a private copy in memory."""
    with closing(sqlite3.connect(":memory:")) as copy:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source:
            source.backup(copy)
        copy.row_factory = sqlite3.Row
        return {
            table: [
                {key: {"hex": value.hex()} if isinstance(value, bytes) else value for key, value in dict(row).items()}
                for row in copy.execute(f'SELECT * FROM "{table}"')  # noqa: S608 - names of the inventory
            ]
            for table in tables
        }


json.dump({path: read(path, tables) for path, tables in json.loads(sys.argv[1]).items()}, sys.stdout)
