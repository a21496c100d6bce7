"""What the target database expects: types, keys and constraints, read from its catalog."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor


# One line for each column, with its type and its default: of the relations (oid, name) that a query has begun with.
DESCRIBE_COLUMNS = """\
SELECT 'column ' || r.name || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
       || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
       || CASE a.attidentity WHEN '' THEN '' ELSE ' identity' END
       || CASE WHEN d.oid IS NULL THEN '' WHEN a.attgenerated = '' THEN ' default ' ELSE ' generated ' END
       || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum"""


@dataclass(frozen=True)
class TargetColumn:
    """One column of a target table.

    :param type_name: base type as in ``pg_type`` (domains resolved, also domains over domains), for
        example ``int4``; with its schema unless that is ``pg_catalog``, so that an enum that
        somebody has called ``date`` is not taken for one.
    :param display_type: the type as PostgreSQL writes it, for example ``character varying(40)``.
    :param type_modifier: length or precision as in ``atttypmod``, of the base type; -1 if none.
    :param sequence: qualified name of the sequence that feeds it: one that it owns, or for a column of whole numbers
        the one that its default names. None if there is none.
    :param identity: ``a`` for GENERATED ALWAYS AS IDENTITY, ``d`` for BY DEFAULT, empty for neither.
    :param deterministic: whether only texts of the same bytes are equal in its collation.
    :param not_null_by_domain: whether its type is a domain that is NOT NULL, whatever the column itself is.
    """

    name: str
    type_name: str
    display_type: str
    type_modifier: int
    not_null: bool
    has_default: bool
    generated: bool
    sequence: str | None
    identity: str = ""
    deterministic: bool = True
    not_null_by_domain: bool = False


@dataclass(frozen=True)
class ForeignKey:
    """One foreign key. Tables are ``schema.table``; ``definition`` recreates it.

    :param ids_of: for each column whose ids it holds, at the end of the foreign keys that it leads along: a table, or
        ``schema.table.column`` where that is not the primary key by itself.
    """

    name: str
    table: str
    columns: tuple[str, ...]
    referenced_table: str
    referenced_columns: tuple[str, ...]
    definition: str
    ids_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class TargetTable:
    """One target table.

    :param key: columns of its primary key, empty if it has none.
    :param unique_keys: the columns of each unique constraint or index without an expression or
        predicate, the primary key among them.
    :param sequences: every sequence of the database: ``schema.name`` → its name quoted for SQL.
    """

    name: str
    columns: dict[str, TargetColumn]
    key: tuple[str, ...]
    unique_keys: tuple[tuple[str, ...], ...]
    foreign_keys: tuple[ForeignKey, ...]
    sequences: Mapping[str, str] = field(default_factory=dict)


def read_catalog(connection: Connection, names: Iterable[str]) -> dict[str, TargetTable]:
    """Return the target tables that exist among ``names`` (each ``schema.table``)."""
    wanted = list(names)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT n.nspname || '.' || c.relname, c.oid
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p') AND n.nspname || '.' || c.relname = ANY (%s)
            """,
            (wanted,),
        )
        found = dict(cursor.fetchall())
        oids = list(found.values())
        # One query for all tables each: PostgreSQL needs longer to plan one than to answer it.
        columns, sequences = _read_columns(cursor, oids), _read_sequences(cursor)
        keys, foreign_keys = _read_keys(cursor, oids), _read_foreign_keys(cursor, oids)
        return {
            name: TargetTable(name, columns[oid], *keys[oid], foreign_keys[oid], sequences)
            for name, oid in found.items()
        }


def _read_columns(cursor: Cursor, oids: Sequence[int]) -> dict[int, dict[str, TargetColumn]]:
    """Return for each table its columns in their order."""
    cursor.execute(
        """
        WITH RECURSIVE resolved (attrelid, attnum, type, modifier, not_null, has_default, by_domain) AS (
            SELECT a.attrelid, a.attnum, a.atttypid, a.atttypmod, a.attnotnull,
                   a.atthasdef OR a.attidentity <> '', false
            FROM pg_attribute a
            WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL
            SELECT r.attrelid, r.attnum, d.typbasetype, d.typtypmod,
                   r.not_null OR d.typnotnull, r.has_default OR d.typdefault IS NOT NULL, r.by_domain OR d.typnotnull
            FROM resolved r JOIN pg_type d ON d.oid = r.type AND d.typtype = 'd'
        )
        SELECT a.attrelid,
               a.attname,
               CASE WHEN tn.nspname = 'pg_catalog' THEN t.typname ELSE tn.nspname || '.' || t.typname END,
               format_type(a.atttypid, a.atttypmod),
               r.modifier,
               r.not_null,
               r.has_default,
               a.attgenerated <> '',
               coalesce(pg_get_serial_sequence(a.attrelid::regclass::text, a.attname), l.name),
               a.attidentity::text,
               coalesce((SELECT o.collisdeterministic FROM pg_collation o WHERE o.oid = a.attcollation), true),
               r.by_domain
        FROM resolved r
        JOIN pg_type t ON t.oid = r.type AND t.typtype <> 'd'
        JOIN pg_namespace tn ON tn.oid = t.typnamespace
        JOIN pg_attribute a ON a.attrelid = r.attrelid AND a.attnum = r.attnum
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        LEFT JOIN LATERAL (
            -- What the column's default, or else that of its domain, depends on.
            SELECT min(quote_ident(sn.nspname) || '.' || quote_ident(s.relname)) AS name
            FROM pg_depend k JOIN pg_class s ON s.oid = k.refobjid AND s.relkind = 'S'
            JOIN pg_namespace sn ON sn.oid = s.relnamespace
            WHERE t.oid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
              AND k.refclassid = 'pg_class'::regclass
              -- Each by itself, which an index finds.
              AND k.classid = CASE WHEN d.oid IS NULL THEN 'pg_type'::regclass ELSE 'pg_attrdef'::regclass END
              AND k.objid = coalesce(d.oid, a.atttypid)
            HAVING count(DISTINCT s.oid) = 1
        ) AS l ON true
        ORDER BY a.attnum
        """,
        (oids,),
    )
    columns: dict[int, dict[str, TargetColumn]] = {oid: {} for oid in oids}
    for oid, *row in cursor.fetchall():
        columns[oid][row[0]] = TargetColumn(*row)
    return columns


def _read_sequences(cursor: Cursor) -> dict[str, str]:
    """Return every sequence of the database by ``schema.name``, with its name quoted for SQL."""
    cursor.execute(
        "SELECT n.nspname || '.' || c.relname, quote_ident(n.nspname) || '.' || quote_ident(c.relname) "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'S'"
    )
    return dict(cursor.fetchall())


def _read_keys(cursor: Cursor, oids: Sequence[int]) -> dict[int, tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]]:
    """Return for each table its primary key and all its unique keys."""
    cursor.execute(
        """
        SELECT i.indrelid, i.indisprimary,
               array(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY k(number, position)
                     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
                     WHERE k.position <= i.indnkeyatts ORDER BY k.position)
        FROM pg_index i
        WHERE i.indrelid = ANY (%s::oid[]) AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL
        ORDER BY i.indisprimary DESC, i.indexrelid
        """,
        (oids,),
    )
    primary: dict[int, tuple[str, ...]] = dict.fromkeys(oids, ())
    unique: dict[int, list[tuple[str, ...]]] = {oid: [] for oid in oids}
    for oid, is_primary, columns in cursor.fetchall():
        unique[oid].append(tuple(columns))
        if is_primary:
            primary[oid] = tuple(columns)
    return {oid: (primary[oid], tuple(unique[oid])) for oid in oids}


def _read_foreign_keys(cursor: Cursor, oids: Sequence[int]) -> dict[int, tuple[ForeignKey, ...]]:
    """Return for each table its foreign keys."""
    cursor.execute("SELECT FROM pg_constraint WHERE conrelid = ANY (%s::oid[]) AND contype = 'f' LIMIT 1", (oids,))
    if not cursor.rowcount:
        # Most of what the next statement takes is its plan.
        return dict.fromkeys(oids, ())
    cursor.execute(
        """
        SELECT k.conrelid, k.conname, n.nspname || '.' || c.relname,
               array(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(number, position)
                     JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number ORDER BY u.position),
               fn.nspname || '.' || fc.relname,
               array(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(number, position)
                     JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number ORDER BY u.position),
               pg_get_constraintdef(k.oid),
               array(SELECT e.name FROM unnest(k.conkey) WITH ORDINALITY u(number, position), LATERAL (
                   WITH RECURSIVE followed (relation, number, step) AS (
                       SELECT k.confrelid, k.confkey[u.position], 1
                       UNION ALL
                       SELECT q.confrelid, q.confkey[array_position(q.conkey, f.number)], f.step + 1
                       FROM followed f CROSS JOIN LATERAL (
                           SELECT * FROM pg_constraint q
                           WHERE q.conrelid = f.relation AND q.contype = 'f' AND f.number = ANY (q.conkey)
                           ORDER BY q.conname LIMIT 1
                       ) AS q
                       WHERE f.step < 50  -- there are circles
                   )
                   SELECT CASE WHEN p.conkey = ARRAY[f.number] THEN n.nspname || '.' || c.relname
                               ELSE n.nspname || '.' || c.relname || '.' || a.attname END AS name
                   FROM followed f JOIN pg_class c ON c.oid = f.relation JOIN pg_namespace n ON n.oid = c.relnamespace
                   JOIN pg_attribute a ON a.attrelid = f.relation AND a.attnum = f.number
                   LEFT JOIN pg_constraint p ON p.conrelid = f.relation AND p.contype = 'p'
                   ORDER BY f.step DESC LIMIT 1
               ) AS e ORDER BY u.position)
        FROM pg_constraint k
        JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_class fc ON fc.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = fc.relnamespace
        WHERE k.conrelid = ANY (%s::oid[]) AND k.contype = 'f' AND k.conparentid = 0
        ORDER BY k.conname
        """,
        (oids,),
    )
    keys: dict[int, list[ForeignKey]] = {oid: [] for oid in oids}
    for oid, name, table, columns, referenced, referenced_columns, definition, ids_of in cursor.fetchall():
        keys[oid].append(
            ForeignKey(name, table, tuple(columns), referenced, tuple(referenced_columns), definition, tuple(ids_of))
        )
    return {oid: tuple(found) for oid, found in keys.items()}
