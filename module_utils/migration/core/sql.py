"""Names of tables as identifiers for PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from psycopg2 import sql
except ImportError:  # reported by connection.connect()
    pass

if TYPE_CHECKING:
    from psycopg2.sql import Identifier


def table_name(name: str) -> Identifier:
    """Return ``schema.table`` as an identifier for SQL."""
    schema, _, table = name.partition(".")
    return sql.Identifier(schema, table)
