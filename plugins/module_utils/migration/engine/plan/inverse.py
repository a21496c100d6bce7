"""The inverse of computed columns: what the source's columns get for a row that was written in PostgreSQL.

It is SQL that a person wrote, so it is tried on every row before anything is moved.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence

from ...core.errors import Problem
from ...core.estate import COMPUTED, TableMapping
from ...sqlite.tables import SourceTable, quote_name, shown_key

_SHOWN_KEYS = 3


def inverse_problems(
    where: str, mapping: TableMapping, source: SourceTable, snapshot: sqlite3.Connection
) -> Iterator[Problem]:
    """Yield a problem for each inverse that SQLite refuses, or that does not lead back to the computed value."""
    expressions = dict(zip(mapping.computed, source.computed, strict=True))
    for target, back in mapping.back.items():
        option = f"{where}: computed: {target}: back"
        unknown = sorted(set(back) - {column.name for column in source.columns if not column.generated})
        if unknown:
            known = f"Its columns are {', '.join(source.column_names)}"
            yield Problem(option, f"the source has no column {', '.join(unknown)}", known)
            continue
        also_moved = sorted(name for name in back if mapping.options(name).policy("without_target") != "keep")
        if also_moved:
            what = f"{', '.join(also_moved)} goes to a column of its own, which says what comes back"
            yield Problem(option, what, "Name 'without_target: keep' for it, or leave this out")
            continue
        name, expression = expressions[target]
        try:
            rows = list(snapshot.execute(_not_led_back(source, name, expression, target, back)))
        except sqlite3.Error as error:
            yield Problem(option, f"SQLite refuses it: {error}", f"Correct it: SQL of SQLite over {target}")
            continue
        if rows:
            secret = {column for column, options in mapping.columns.items() if options.secret}
            keys = "; ".join(shown_key(source, row[:-1], secret) for row in rows[:_SHOWN_KEYS])
            count = rows[0][-1]
            number = "1 row" if count == 1 else f"{count:,} rows"
            more = "" if count <= _SHOWN_KEYS else f" and {count - _SHOWN_KEYS:,} more"
            what = f"what it gives is computed to another value than before ({number}: {keys}{more})"
            yield Problem(option, what, "Correct it, so that 'from' of what 'back' gives is the same value again")


def _not_led_back(source: SourceTable, name: str, expression: str, target: str, back: Mapping[str, str]) -> str:
    """Return the query for the first keys, and the number, of rows that the inverse does not lead back."""
    computed = quote_name(name)
    keys = [f"{quote_name(key)} AS key_{number}" for number, key in enumerate(source.key)]
    given = [
        f"(SELECT ({inverse}\n) FROM (SELECT c.{computed} AS {quote_name(target)})) AS {quote_name(column)}"  # noqa: S608
        for column, inverse in back.items()
    ]
    others = [quote_name(column) for column in source.column_names if column not in back]
    rows = f"SELECT {', '.join([*keys, computed, *given, *others])} FROM {source.relation} AS c"  # noqa: S608 (quoted)
    again = f"SELECT *, ({expression}\n) AS again FROM ({rows})"  # noqa: S608 (quoted)
    listed = ", ".join(f"key_{number}" for number in range(len(source.key)))
    return (
        f"SELECT {listed}, count(*) OVER () FROM ({again}) "  # noqa: S608 (quoted)
        f"WHERE again IS NOT {computed} OR typeof(again) <> typeof({computed}) LIMIT {_SHOWN_KEYS}"
    )


def one_way_columns(
    mapping: TableMapping, source: SourceTable, snapshot: sqlite3.Connection, kept: Sequence[str]
) -> list[str]:
    """Return what a rollback lacks for rows that were written in PostgreSQL, as ``table.column``.

    These are computed columns without an inverse, and columns without a target that no new row can do without. Any
    other column without a target is NULL, or holds its default, in such rows.

    :param kept: names of the columns without a target.
    """
    described = snapshot.execute(f"PRAGMA table_xinfo({quote_name(source.name)})").fetchall()
    required = {row[1] for row in described if row[3] and row[4] is None}
    given = {column for back in mapping.back.values() for column in back}
    lost = [f"{source.name}.{name}" for name in kept if name in required - given]
    return lost + [f"{source.name}: {COMPUTED}{target}" for target in mapping.computed if target not in mapping.back]
