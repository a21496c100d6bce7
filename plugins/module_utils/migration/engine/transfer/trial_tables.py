"""The temporary tables of a trial: the converted rows as texts, and an empty copy of a target table.

All are gone with the savepoint that the trial is rolled back to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.connection import sql
from ...core.sql import table_name
from ..plan.planner import TablePlan
from ..prepare.table import PreparedTable

if TYPE_CHECKING:
    from psycopg2.sql import Composable

_COPY_BUFFER = 1 << 20  # bytes
# Columns of texts of any length of which a row surely fits into a page.
_COLUMNS_AT_ONCE = 250
# Rows that are read from one end to the other in less time than an index of them is made.
_SOON_READ = 100
# What a trial makes names for its row in a copy; no column of a target is likely to be called so.
ROW_NUMBER = "number of the row in the trial"
_LIKE = "(LIKE {} INCLUDING ALL EXCLUDING IDENTITY EXCLUDING COMMENTS EXCLUDING STATISTICS)"
# A table and its partitions of every level, each after what it is a part of; the table alone if it has none.
_PARTS = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), p.relid::oid, p.parentrelid::oid,
       pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid)
FROM (
  SELECT relid, parentrelid, level FROM pg_partition_tree(%(table)s::regclass)
  UNION SELECT %(table)s::regclass, NULL, 0 WHERE NOT EXISTS (SELECT FROM pg_partition_tree(%(table)s::regclass))
) AS p JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY p.level, 1
"""


def stage(cursor: Any, name: str, table: PreparedTable, with_keys: bool = True) -> None:
    """Load the rows of a table as texts: ``n`` numbers them, ``row_key`` is the key, ``c0`` … are the plan's columns.

    :param name: of the temporary table, or of the view over several where there are too many columns for one.
    """
    if table.spool is None or (with_keys and table.keys is None):
        raise ValueError("a trial needs its rows in files")
    count = len(table.plan.columns)
    starts = range(0, count, _COLUMNS_AT_ONCE)
    parts = [range(start, min(start + _COLUMNS_AT_ONCE, count)) for start in starts]
    names = [name] if len(parts) == 1 else [f"{name} {number}" for number, _ in enumerate(parts)]
    for number, (part, part_name) in enumerate(zip(parts, names, strict=True)):
        with_key = with_keys and number == 0
        columns = [sql.Identifier("row_key")] * with_key + [sql.Identifier(f"c{position}") for position in part]
        cursor.execute(
            sql.SQL("CREATE TEMP TABLE {} (n bigint GENERATED ALWAYS AS IDENTITY, {})").format(
                sql.Identifier(part_name), sql.SQL(", ").join(sql.SQL("{} text").format(column) for column in columns)
            )
        )
        keys = table.keys if with_key else None
        with _Lines(keys, table.spool, part if len(parts) > 1 else None) as lines:
            cursor.copy_expert(
                sql.SQL("COPY pg_temp.{} ({}) FROM STDIN").format(
                    sql.Identifier(part_name), sql.SQL(", ").join(columns)
                ),
                lines,
                _COPY_BUFFER,
            )
        if table.rows > _SOON_READ:
            cursor.execute(
                sql.SQL("CREATE UNIQUE INDEX ON pg_temp.{} (n); ANALYZE pg_temp.{}").format(
                    sql.Identifier(part_name), sql.Identifier(part_name)
                )
            )
    if len(parts) > 1:
        joined = sql.SQL(" JOIN ").join(
            sql.SQL("pg_temp.{}{}").format(sql.Identifier(part), sql.SQL(" USING (n)" if number else ""))
            for number, part in enumerate(names)
        )
        cursor.execute(sql.SQL("CREATE TEMP VIEW {} AS SELECT * FROM {}").format(sql.Identifier(name), joined))


def copy_of_target(cursor: Any, plan: TablePlan, name: str, numbered: bool) -> dict[str, str]:
    """Make an empty table with all that the target enforces by itself, its partitions too.

    :param name: of the temporary table.
    :param numbered: give it the column :data:`ROW_NUMBER`.
    :returns: the copy and the table that it is a copy of, quoted for SQL; a pair for each partition too.
    """
    cursor.execute(_PARTS, {"table": table_name(plan.target.name).as_string(cursor)})
    copies: dict[str, str] = {}
    made: dict[int, Composable] = {}
    for number, (own, oid, parent, bound, key) in enumerate(cursor.fetchall()):
        copy = sql.Identifier("pg_temp", f"{name}_{number}" if number else name)
        statement = sql.SQL("CREATE TEMP TABLE {} " + _LIKE).format(sql.Identifier(copy.strings[1]), sql.SQL(own))
        cursor.execute(statement + sql.SQL(f" PARTITION BY {key}" if key else ""))
        if number:
            # The server wrote the bound, and the key above.
            attach = sql.SQL("ALTER TABLE {} ATTACH PARTITION {} ").format(made[parent], copy)
            cursor.execute(attach + sql.SQL(bound))
        made[oid] = copy
        copies[copy.as_string(cursor)] = own
    root = sql.Identifier("pg_temp", name)
    if numbered:
        cursor.execute(sql.SQL("ALTER TABLE {} ADD {} bigint").format(root, sql.Identifier(ROW_NUMBER)))
    _take_no_number(cursor, plan, root)
    _evaluate_statistics(cursor, plan, root)
    return copies


def _take_no_number(cursor: Any, plan: TablePlan, copy: Composable) -> None:
    """Take the defaults from a copy that would take a number from a sequence, which no rollback gives back."""
    mapped = {column.target for column in plan.columns}
    cursor.execute(
        "SELECT a.attname::text FROM pg_attribute a JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum) "
        "WHERE a.attrelid = %s::regclass AND a.attgenerated = '' "
        "AND pg_get_expr(d.adbin, d.adrelid) LIKE '%%nextval(%%'",
        (copy.as_string(cursor),),
    )
    for (name,) in cursor.fetchall():
        if name not in mapped and plan.target.columns[name].sequence is None:
            column = sql.Identifier(name)
            cursor.execute(
                sql.SQL("ALTER TABLE {} ALTER {} DROP DEFAULT, ALTER {} DROP NOT NULL").format(copy, column, column)
            )


def _evaluate_statistics(cursor: Any, plan: TablePlan, copy: Composable) -> None:
    """Let a copy evaluate for each row the expressions of which statistics are collected after a load."""
    cursor.execute(
        "SELECT unnest(pg_get_statisticsobjdef_expressions(oid)) FROM pg_statistic_ext "
        "WHERE stxrelid = %s::regclass AND stxexprs IS NOT NULL",
        (table_name(plan.target.name).as_string(cursor),),
    )
    for (expression,) in cursor.fetchall():
        # It is never false; the server wrote the expression.
        check = sql.SQL("ALTER TABLE {} ADD CHECK (coalesce(({})::text, '') IS NOT NULL)")
        cursor.execute(check.format(copy, sql.SQL(expression)))


class _Lines:
    """What COPY reads: each line of a file, or some of its columns, behind the line of another.

    :param keys: the other file; None if there is none.
    :param part: positions of the columns that are wanted, all of them if not given.
    """

    def __init__(self, keys: Path | None, lines: Path, part: range | None) -> None:
        self._stack = ExitStack()
        self._keys = self._stack.enter_context(keys.open("rb")) if keys is not None else None
        self._lines = self._stack.enter_context(lines.open("rb"))
        self._part = part
        self._parts = self._joined()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, size: int = -1) -> bytes:
        """Return the next line, of whatever size; none at the end."""
        return next(self._parts, b"")

    def _joined(self) -> Iterator[bytes]:
        if self._keys is None:
            yield from map(self._chosen, self._lines)
            return
        # That both have as many lines is not for a trial to find out: the verification does.
        for key, line in zip(self._keys, self._lines, strict=False):
            yield key.rstrip(b"\n") + b"\t" + self._chosen(line)

    def _chosen(self, line: bytes) -> bytes:
        """Return a line with the wanted columns alone. A tab in a value is escaped."""
        if self._part is None:
            return line
        return b"\t".join(line.rstrip(b"\n").split(b"\t")[self._part.start : self._part.stop]) + b"\n"
