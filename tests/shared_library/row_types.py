"""The types of the tables' columns, as the library's TypeScript says and as PostgreSQL says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor

# How pg returns PostgreSQL's types. What JSON holds is unknown, null included.
TYPESCRIPT = {
    "uuid": "string",
    "text": "string",
    "integer": "number",
    "boolean": "boolean",
    "timestamp with time zone": "Date",
    "bytea": "Buffer",
    "jsonb": "unknown",
}
SCHEMAS = ("auth", "registry", "deploy", "verification")

_ROW = re.compile(r"/\*\* A row of (\w+\.\w+)\. \*/\nexport interface \w+ \{\n(.*?)\n\}", re.DOTALL)

Columns = dict[str, list[tuple[str, str]]]


def read_typescript(directory: Path) -> Columns:
    """Return the columns with their types by table, from the files of a directory."""
    written: Columns = {}
    for path in directory.glob("*.ts"):
        for table, body in _ROW.findall(path.read_text()):
            fields = (line.strip().rstrip(";").split(": ", 1) for line in body.splitlines())
            written[table] = [(name, kind) for name, kind in fields]
    return written


def read_database(cursor: Cursor) -> Columns:
    """Return the columns with the types that they ought to have in TypeScript, by table."""
    cursor.execute(
        "SELECT table_schema || '.' || table_name, column_name, data_type, is_nullable "
        "FROM information_schema.columns WHERE table_schema = ANY (%s) ORDER BY ordinal_position",
        (list(SCHEMAS),),
    )
    expected: Columns = {}
    for table, column, data_type, nullable in cursor.fetchall():
        kind = TYPESCRIPT.get(data_type, f"no type for {data_type}")
        text = f"{kind} | null" if nullable == "YES" and kind != "unknown" else kind
        expected.setdefault(table, []).append((column, text))
    return expected
