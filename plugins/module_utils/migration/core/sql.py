"""Names of tables as identifiers for PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .connection import sql

if TYPE_CHECKING:
    from psycopg2.sql import Identifier


def table_name(name: str) -> Identifier:
    """Return ``schema.table`` as an identifier for SQL."""
    schema, _, table = name.partition(".")
    return sql.Identifier(schema, table)
