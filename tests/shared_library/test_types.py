"""The library's TypeScript types cannot drift from the schema: both are compared, column by column."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ansible.module_utils.migration.connection import connected

if TYPE_CHECKING:
    from ansible.module_utils.migration.connection import Login

TYPES = Path(__file__).parents[2] / "roles" / "shared_library" / "files" / "db" / "src" / "schemas"
# How pg returns PostgreSQL's types; what JSON holds is unknown, null included.
TYPESCRIPT = {
    "uuid": "string",
    "text": "string",
    "integer": "number",
    "boolean": "boolean",
    "timestamp with time zone": "Date",
    "bytea": "Buffer",
    "jsonb": "unknown",
}
ROW = re.compile(r"/\*\* A row of (\w+\.\w+)\. \*/\nexport interface \w+ \{\n(.*?)\n\}", re.DOTALL)


def test_every_table_and_column_has_its_type(schema_database: Login) -> None:
    written = {
        table: [tuple(line.strip().rstrip(";").split(": ", 1)) for line in body.splitlines()]
        for path in TYPES.glob("*.ts")
        for table, body in ROW.findall(path.read_text())
    }
    expected: dict[str, list[tuple[str, ...]]] = {}
    with connected(schema_database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_schema || '.' || table_name, column_name, data_type, is_nullable "
            "FROM information_schema.columns "
            "WHERE table_schema IN ('auth', 'registry', 'deploy', 'verification') ORDER BY ordinal_position"
        )
        for table, column, data_type, nullable in cursor.fetchall():
            name = TYPESCRIPT[data_type]
            text = f"{name} | null" if nullable == "YES" and name != "unknown" else name
            expected.setdefault(table, []).append((column, text))
    assert len(expected) == 17
    assert written == expected
