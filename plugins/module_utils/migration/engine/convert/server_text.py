"""How the server itself reads and writes a text of a type that only the server knows.

Intervals, arrays, enums, ranges, addresses and whatever a database defines go through the type's
own text input. Here the server is asked how it writes such a text back, with the column's
modifier (its length or precision) and without: a text that the modifier would cut is not accepted.
A type may also change a text silently: money rounds, tsvector sorts, name cuts. Only of a few types
it is known that the value is the same when the text is another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from ...core.connection import first_row, psycopg2, sql
from ...core.sql import table_name
from ...sqlite.tables import Value
from ..plan.planner import ColumnPlan, TablePlan

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_ROWS_AT_ONCE = 200
# Types, also as elements of an array, of which another text is only another spelling of the same value. Enums are too.
_LOSE_NOTHING = [
    "text", "varchar", "uuid", "bool", "int2", "int4", "int8", "numeric", "bytea", "inet", "cidr", "macaddr",
    "bit", "varbit", "pg_lsn", "citext", "ltree", "int4range", "int8range", "numrange", "int4multirange",
    "int8multirange", "nummultirange",
]  # fmt: skip
# SQLSTATEs, and classes of them, that no text causes: the connection, the transaction, rights, room, a lock, a stop,
# the disk, a damaged page or index.
_NOT_OF_A_TEXT = frozenset(("08", "25", "28", "40", "53", "55", "57", "58", "42501", "XX001", "XX002"))
# What the server says of a limit, without the size of the very value.
_LIMIT = re.compile(r"\bmax(?:imum)? \d+ \w+")
# Words that mean another time whenever they are read, and zones whose offset depends on the day, which a time of day
# has not got.
_MOVES = re.compile(r"\b(?:now|today|tomorrow|yesterday)\b", re.IGNORECASE)
_ZONE_BY_NAME = re.compile(r"[a-z]/[a-z]", re.IGNORECASE)
# In a text without any of these an interval has no fraction that it could round.
_FRACTION_OF_INTERVAL = re.compile(r"[.,]|\d[eE]")


class ServerForms:
    """Asks the server for the normal forms of texts, many at once, and remembers those of a few rows."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._types: dict[tuple[str, str], tuple[str, bool]] = {}
        self._forms: dict[tuple[str, str], dict[str, str | None]] = {}
        self._limits: dict[tuple[str, str], dict[str, str]] = {}

    def learned(self, plan: TablePlan, rows: Iterable[tuple[Value, ...]]) -> Iterator[Sequence[tuple[Value, ...]]]:
        """Yield the rows in blocks, the forms of each block's texts known.

        :param rows: the values of the plan's columns, and maybe more behind them.
        """
        others = [(index, column) for index, column in enumerate(plan.columns) if column.kind == "other"]
        remaining = iter(rows)
        # Without a question for the server there is no reason to hold more than one row.
        size = _ROWS_AT_ONCE if others else 1
        while block := list(islice(remaining, size)):
            for index, column in others:
                numbers_apart = column.options.duration_unit is not None
                texts = {
                    _text(row[index])
                    for row in block
                    if isinstance(row[index], str if numbers_apart else (str, int, float))
                }
                self._limits.pop((plan.target.name, column.target), None)
                self._forms[(plan.target.name, column.target)] = self._ask(plan, column, sorted(texts))
            yield block

    def accepts(self, plan: TablePlan, column: ColumnPlan, text: str) -> bool:
        """Return whether the column's type can read a text."""
        return self._form(plan, column, text) is not None

    def limit(self, plan: TablePlan, column: ColumnPlan, text: str) -> str:
        """Return the limit of the column's type that a text exceeds, as the server words it; '' if it is none."""
        return self._limits.get((plan.target.name, column.target), {}).get(text, "")

    def keeps(self, plan: TablePlan, column: ColumnPlan, text: str) -> bool:
        """Return whether the column's type, which can read a text, is known to lose nothing of it."""
        form = self._form(plan, column, text)
        name, loses_nothing = self._type_of(plan, column)
        # From version 17 on the server reads an array of empty arrays, and makes one without any of them.
        if form == "{}" and name.endswith("[]"):
            return "".join(text.split()) == "{}"
        if form == text or loses_nothing:
            return True
        return column.type_name == "interval" and _FRACTION_OF_INTERVAL.search(text) is None

    def moves(self, plan: TablePlan, column: ColumnPlan, text: str) -> bool:
        """Return whether the column's type reads another value from a text tomorrow: no proof could compare it."""
        form = self._form(plan, column, text)
        if form is None or form == text:
            return False
        zoned = "time with time zone" in self._type_of(plan, column)[0] and _ZONE_BY_NAME.search(text)
        return _MOVES.search(text) is not None or bool(zoned)

    def normal_form(self, plan: TablePlan, column: ColumnPlan, text: str) -> str:
        """Return a text as the column's type writes it, or the text itself if the type cannot read it."""
        form = self._form(plan, column, text)
        return text if form is None else form

    def readings(self, plan: TablePlan, column: ColumnPlan, texts: Iterable[str]) -> dict[str, str | None]:
        """Return each text as the column's type writes it, None if the type cannot read it; nothing is remembered."""
        return self._ask(plan, column, sorted(set(texts)))

    def _form(self, plan: TablePlan, column: ColumnPlan, text: str) -> str | None:
        known = self._forms.setdefault((plan.target.name, column.target), {})
        if text not in known:  # made by a policy, or by another block
            known.update(self._ask(plan, column, [text]))
        return known[text]

    def _ask(self, plan: TablePlan, column: ColumnPlan, texts: list[str]) -> dict[str, str | None]:
        """Return the normal form of each text, None for one that the type cannot read."""
        askable = [text for text in texts if "\x00" not in text and _is_utf8(text)]
        forms: dict[str, str | None] = dict.fromkeys(texts)
        if not askable:
            return forms
        # The server wrote both types, quoted where needed.
        query = sql.SQL(
            "SELECT v, CASE WHEN v::{type}::text = v::{declared}::text THEN v::{type}::text END "
            "FROM unnest(%s::text[]) AS v"
        ).format(
            type=sql.SQL(self._type_of(plan, column)[0].replace("%", "%%")),
            declared=sql.SQL(column.display_type.replace("%", "%%")),
        )
        pending = [askable]
        while pending:
            part = pending.pop()
            with self._connection.cursor() as cursor:
                cursor.execute("SAVEPOINT forms")
                try:
                    cursor.execute(query, (part,))
                except psycopg2.Error as error:
                    if not _is_about_the_text(error.pgcode or ""):
                        raise
                    cursor.execute("ROLLBACK TO SAVEPOINT forms")
                    limit = _LIMIT.search(str(error)) if error.pgcode == "54000" else None
                    if len(part) > 1:
                        middle = len(part) // 2
                        pending += [part[:middle], part[middle:]]
                    elif limit is not None:
                        self._limits.setdefault((plan.target.name, column.target), {})[part[0]] = limit.group()
                else:
                    forms.update(cursor.fetchall())
                cursor.execute("RELEASE SAVEPOINT forms")
        return forms

    def _type_of(self, plan: TablePlan, column: ColumnPlan) -> tuple[str, bool]:
        """Return the column's type as PostgreSQL writes it in SQL, and whether it is known to lose nothing.

        Domains are resolved, and the modifier is left out.
        """
        key = (plan.target.name, column.target)
        if key not in self._types:
            with self._connection.cursor() as cursor:
                cursor.execute(
                    """
                    WITH RECURSIVE resolved (type) AS (
                      SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = %s::regclass AND a.attname = %s
                      UNION ALL
                      SELECT t.typbasetype FROM resolved r JOIN pg_type t ON t.oid = r.type WHERE t.typtype = 'd'
                    )
                    SELECT format_type(r.type, -1), e.typtype = 'e' OR e.typname = ANY (%s)
                    FROM resolved r JOIN pg_type t ON t.oid = r.type
                    JOIN pg_type e ON e.oid = CASE t.typcategory WHEN 'A' THEN t.typelem ELSE t.oid END
                    WHERE t.typtype <> 'd'
                    """,
                    (table_name(plan.target.name).as_string(cursor), column.target, _LOSE_NOTHING),
                )
                # format_type() quotes the name itself.
                name, loses_nothing = first_row(cursor)
                self._types[key] = str(name), bool(loses_nothing)
        return self._types[key]


def _is_about_the_text(code: str) -> bool:
    """Return whether an error of the server says that a type cannot read a text.

    Each type has errors of its own: those of extensions and of path languages call it a syntax error; those that name
    objects (regclass) an object or a schema that is not there; a domain's function may raise what it likes; and a type
    that exists for an index alone answers with an internal error.

    :param code: SQLSTATE.
    """
    return bool(code) and code[:2] not in _NOT_OF_A_TEXT and code not in _NOT_OF_A_TEXT


def _text(value: Value) -> str:
    return value if isinstance(value, str) else repr(value)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
