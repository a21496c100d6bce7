"""The library's TypeScript types cannot drift from the schema: both are compared, column by column."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connected

from .row_types import read_database, read_typescript

if TYPE_CHECKING:
    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login

SCHEMAS = Path(__file__).parents[2] / "roles" / "shared_library" / "files" / "db" / "src" / "schemas"
INTERFACES = read_typescript(SCHEMAS)


@pytest.mark.promise("library-types-match-schema")
def test_every_table_and_column_has_its_type(schema_database: Login) -> None:
    with connected(schema_database) as connection, connection.cursor() as cursor:
        assert read_database(cursor) == INTERFACES
    assert len(INTERFACES) == 17
    exported = sum(path.read_text().count("export ") for path in SCHEMAS.glob("*.ts"))
    assert exported == 17, "something is exported that is compared with no table"


@pytest.mark.promise("library-types-match-schema")
@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE auth.users ADD COLUMN nickname text",
        "ALTER TABLE auth.users DROP COLUMN name",
        "ALTER TABLE auth.users RENAME COLUMN name TO full_name",
        "ALTER TABLE auth.users ALTER COLUMN email DROP NOT NULL",
        "ALTER TABLE auth.users ALTER COLUMN name SET NOT NULL",
        "ALTER TABLE registry.agents ALTER COLUMN memory_mb TYPE text",
        "CREATE TABLE deploy.rollbacks (id uuid PRIMARY KEY)",
        "DROP TABLE verification.attempts",
    ],
)
def test_every_change_of_the_schema_is_seen(schema_database: Login, change: str) -> None:
    with connected(schema_database) as connection, connection.cursor() as cursor:
        cursor.execute(change)
        assert read_database(cursor) != INTERFACES
