"""The tables in which tools that change a database's tables note what they have done."""

from __future__ import annotations

from collections.abc import Iterable

# The name of the table in lower case → the tool.
_TOOLS = {
    "__drizzle_migrations": "Drizzle",
    "_prisma_migrations": "Prisma",
    "alembic_version": "Alembic",
    "directus_migrations": "Directus",
    "django_migrations": "Django",
    "flyway_schema_history": "Flyway",
    "knex_migrations": "Knex",
    "knex_migrations_lock": "Knex",
    "kysely_migration": "Kysely",
    "kysely_migration_lock": "Kysely",
    "mikro_orm_migrations": "MikroORM",
    "payload_migrations": "Payload",
    "sequelizemeta": "Sequelize",
    "typeorm_metadata": "TypeORM",
}
# Names that other tables have too: only these columns tell.
_TOOLS_BY_COLUMNS = {"migrations": (frozenset(("id", "timestamp", "name")), "TypeORM")}


def tool_of(table: str, columns: Iterable[str] = ()) -> str | None:
    """Return the tool whose bookkeeping a table is, None if it is none that we know.

    :param columns: the names of its columns, where they are known.
    """
    needed, tool = _TOOLS_BY_COLUMNS.get(table.lower(), (frozenset(), None))
    if tool is not None and {column.lower() for column in columns} == needed:
        return tool
    return _TOOLS.get(table.lower())
