"""Indexes and constraints that are dropped before a large load and made again after it.

Building an index over rows that are all there takes a fraction of the time that keeping it up to
date takes, and a foreign key checked once for all rows likewise. Everything happens in the
caller's transaction: if it is rolled back, they were never gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...core.connection import psycopg2, sql
from ...core.sql import table_name

if TYPE_CHECKING:
    from psycopg2.sql import Composable

# Below this an index is kept up to date in less time than its rebuilding takes.
FROM_ROWS = 20_000

# An index is left alone if making it again by its definition would forget something: a
# tablespace, storage parameters, its statistics targets, CLUSTER or REPLICA IDENTITY.
_INDEXES = """
SELECT n.nspname || '.' || c.relname, ic.relname, k.conname,
       CASE WHEN k.oid IS NULL THEN pg_get_indexdef(i.indexrelid) ELSE pg_get_constraintdef(k.oid) END,
       coalesce(obj_description(k.oid, 'pg_constraint'), obj_description(ic.oid, 'pg_class')), n.nspname
FROM pg_index i
JOIN pg_class ic ON ic.oid = i.indexrelid
JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
WHERE n.nspname || '.' || c.relname = ANY (%(large)s) AND c.relkind = 'r' AND NOT c.relispartition
  AND i.indisvalid AND NOT i.indisclustered AND NOT i.indisreplident AND NOT i.indisexclusion
  AND ic.reltablespace = 0 AND ic.reloptions IS NULL
  AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = ic.oid AND a.attstattarget >= 0)
  AND NOT EXISTS (
    SELECT FROM pg_constraint f JOIN pg_class fc ON fc.oid = f.conrelid JOIN pg_namespace fn ON fn.oid = fc.relnamespace
    WHERE f.contype = 'f' AND f.conindid = i.indexrelid AND NOT fn.nspname || '.' || fc.relname = ANY (%(loaded)s))
ORDER BY k.contype = 'p' DESC NULLS LAST, k.oid IS NULL, ic.oid
"""

_FOREIGN_KEYS = """
SELECT n.nspname || '.' || c.relname, k.conname, k.conname, pg_get_constraintdef(k.oid),
       obj_description(k.oid, 'pg_constraint'), n.nspname
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class rc ON rc.oid = k.confrelid JOIN pg_namespace rn ON rn.oid = rc.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND c.relkind = 'r' AND NOT c.relispartition AND rc.relkind = 'r'
  AND n.nspname || '.' || c.relname = ANY (%(loaded)s) AND rn.nspname || '.' || rc.relname = ANY (%(loaded)s)
  AND (n.nspname || '.' || c.relname = ANY (%(large)s) OR rn.nspname || '.' || rc.relname = ANY (%(large)s)
       OR (n.nspname || '.' || c.relname || ' ' || k.conname) = ANY (%(cyclic)s))
ORDER BY k.oid
"""


@dataclass(frozen=True)
class _Object:
    """An index or a constraint, with all that makes it again."""

    table: str
    name: str
    constraint: str | None
    definition: str
    comment: str | None
    schema: str

    def drop(self) -> Composable:
        """Return the statement that drops it."""
        if self.constraint is not None:
            return sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(
                table_name(self.table), sql.Identifier(self.constraint)
            )
        return sql.SQL("DROP INDEX {}").format(sql.Identifier(self.schema, self.name))

    def make(self) -> Composable:
        """Return the statement that makes it again; the server wrote its definition."""
        if self.constraint is not None:
            return sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
                table_name(self.table), sql.Identifier(self.constraint), sql.SQL(self.definition)
            )
        return sql.SQL(self.definition)

    def comment_on(self) -> Composable:
        """Return the statement that gives it its comment again."""
        if self.constraint is not None:
            return sql.SQL("COMMENT ON CONSTRAINT {} ON {} IS {}").format(
                sql.Identifier(self.constraint), table_name(self.table), sql.Literal(self.comment)
            )
        return sql.SQL("COMMENT ON INDEX {} IS {}").format(
            sql.Identifier(self.schema, self.name), sql.Literal(self.comment)
        )


@contextmanager
def rebuilt(cursor: Any, loaded: Sequence[str], large: Sequence[str], cyclic: Sequence[str]) -> Iterator[None]:
    """Drop what slows a load down, and make it again afterwards.

    :param loaded: the tables that are loaded, as ``schema.table``.
    :param large: those of them with many rows.
    :param cyclic: foreign keys, as ``schema.table name``, whose rows are loaded before those they refer to.
    :raises psycopg2.Error: if the rows do not satisfy a constraint.
    """
    names = {"loaded": list(loaded), "large": list(large), "cyclic": list(cyclic)}
    foreign_keys = _read(cursor, _FOREIGN_KEYS, names) if large or cyclic else []
    indexes = _read(cursor, _INDEXES, names) if large else []
    dropped = [each for each in (*foreign_keys, *indexes) if _dropped(cursor, each)]
    yield
    if dropped:
        # No table can be altered while a deferred key of its rows waits for its check; all rows are there now.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    for each in sorted(dropped, key=foreign_keys.__contains__):
        cursor.execute(each.make())
        if each.comment is not None:
            cursor.execute(each.comment_on())


def _read(cursor: Any, statement: str, names: dict[str, list[str]]) -> list[_Object]:
    """Return the indexes or constraints that a statement finds."""
    cursor.execute(statement, names)
    return [_Object(*row) for row in cursor.fetchall()]


def _dropped(cursor: Any, each: _Object) -> bool:
    """Drop one object and return whether that was possible: a view may depend on it."""
    cursor.execute("SAVEPOINT before_drop")
    try:
        cursor.execute(each.drop())
    except psycopg2.errors.DependentObjectsStillExist:
        cursor.execute("ROLLBACK TO SAVEPOINT before_drop")
        return False
    finally:
        cursor.execute("RELEASE SAVEPOINT before_drop")
    return True
