"""Advice for refused values, computed from all values of their column: it is tried out before it is given.

First comes the narrowest type that holds every value, then an expression that brings the values to the type
that there is. Only then follow the policies, which lose something: see :mod:`.violations`.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal

from ...core.errors import TABLE_SQL
from ...core.estate import COMPUTED, REFUSE
from ...sqlite.tables import SourceTable, Value, quote_name
from ..convert.known_ids import ids_of
from ..convert.refusals import TOO_LONG_ROW, UNCLEAR_ID, Convert, Refused
from ..convert.values import converter
from ..plan.epoch_units import DAYS_SINCE_1899, EPOCHS, JULIAN_DAYS
from ..plan.planner import KINDS, ColumnPlan, TablePlan
from .server_refusals import MARK, cures
from .violations import Violation

# What no other type and no expression would help against.
_ONLY_BY_PEOPLE = frozenset(("duplicate", "spelling", "duration_unit", "orphan"))
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# A text that a numeric gives back as it was.
_NUMBER_AS_WRITTEN = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]*[1-9])?\Z")
# A UUID that says which of its bits are its version.
_UUID_WITH_VERSION = re.compile(r"[0-9a-f]{12}[1-8][0-9a-f]{3}[89ab]", re.IGNORECASE)
# The most that a numeric may declare.
_MOST_DIGITS = 1_000
# Characters of the longest varchar with a length.
_LONGEST_VARCHAR = 10_485_760
_INTEGERS = ("int2", "int4", "int8")
_TEXTS = ("varchar", "text")

# Kind of the target → types that may hold what it does not, the narrowest first.
WIDER: dict[str, tuple[str, ...]] = {
    "integer": ("int4", "int8", "numeric", "float8", "text", "bytea"),
    "boolean": ("int2", "int4", "int8", "numeric", "float8", "text", "bytea"),
    "numeric": ("numeric", "float8", "text", "bytea"),
    "real": ("float8", "numeric", "text", "bytea"),
    "double": ("numeric", "text", "bytea"),
    "date": ("timestamp", "timestamptz", "text", "bytea"),
    "timestamp": ("timestamp", "timestamptz", "text", "bytea"),
    "time": ("time", "text", "bytea"),
    "uuid": ("int8", "text", "bytea"),
    "json": ("json", "text", "bytea"),
    "text": ("varchar", "text", "bytea"),
    "char": ("varchar", "text", "bytea"),
    "bytes": ("int8", "numeric", "text"),
    "other": ("int8", "numeric", "text", "bytea"),
}
_WRITTEN = {
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "float8": "double precision",
    "timestamptz": "timestamp with time zone",
}


@dataclass(frozen=True)
class _Expression:
    """SQL of SQLite over the column ``{}`` that may bring its values to their type.

    :param guard: SQL that is true for a value that the expression could misread.
    :param loses: what it loses, empty if nothing.
    """

    sql: str
    guard: str = ""
    loses: str = ""


# SQLite's text functions write a REAL with a loss, and take a BLOB for a text.
_NO_TEXT = "typeof({0}) IN ('real', 'blob')"
_TRIMMED = _Expression("trim({0}, char(9, 10, 13, 32))", _NO_TEXT)
_WORDS = _Expression(
    "CASE WHEN lower({0}) IN ('t', 'y', 'yes', 'on') THEN 1 "
    "WHEN lower({0}) IN ('f', 'n', 'no', 'off') THEN 0 ELSE {0} END"
)
_DECIMAL_COMMA = _Expression(
    "replace({0}, ',', '.')", f"{_NO_TEXT} OR {{0}} GLOB '*,[0-9][0-9][0-9]' OR {{0}} GLOB '*,*,*'"
)
_NUMBER = _Expression(
    "CASE typeof({0}) WHEN 'text' THEN CAST({0} AS REAL) ELSE {0} END",
    "typeof({0}) = 'text' AND ({0} GLOB '*[^0-9.]*' OR {0} GLOB '*.*.*' OR length({0}) > 15)",
)
_DAYS = (
    _Expression("replace({0}, '/', '-')", _NO_TEXT),
    _Expression(
        "CASE WHEN {0} GLOB '[0-9][0-9].[0-9][0-9].[0-9][0-9][0-9][0-9]*' "
        "THEN substr({0}, 7, 4) || '-' || substr({0}, 4, 2) || '-' || substr({0}, 1, 2) || substr({0}, 11) ELSE {0} END"
    ),
)
_DATE_OF_TEXT = _Expression("substr({0}, 1, 10)", "{0} NOT GLOB '????-??-??*'", "the time of day")
_HEX = "hex({0})"
_GUID = " || ".join(
    f"substr({_HEX}, {start}, {length})"
    for start, length in ((7, 2), (5, 2), (3, 2), (1, 2), (11, 2), (9, 2), (15, 2), (13, 2), (17, 16))
)
_EXPRESSIONS: dict[str, tuple[_Expression, ...]] = {
    "boolean": (_WORDS, _TRIMMED),
    "integer": (_TRIMMED, _WORDS),
    "numeric": (_TRIMMED, _DECIMAL_COMMA),
    "double": (_TRIMMED, _NUMBER),
    "real": (_TRIMMED, _NUMBER),
    "date": (_TRIMMED, *_DAYS, _DATE_OF_TEXT),
    "timestamp": (_TRIMMED, *_DAYS),
    "time": (_TRIMMED,),
    "uuid": (
        _Expression(
            f"CASE typeof({{0}}) WHEN 'blob' THEN lower({_HEX}) ELSE {{0}} END",
            "typeof({0}) = 'blob' AND NOT is_uuid_with_version(" + _HEX + ")",
        ),
        _Expression(
            f"CASE typeof({{0}}) WHEN 'blob' THEN lower({_GUID}) ELSE {{0}} END",
            "typeof({0}) = 'blob' AND NOT is_uuid_with_version(" + _GUID + ")",
        ),
        _Expression(f"CASE typeof({{0}}) WHEN 'blob' THEN lower({_HEX}) ELSE {{0}} END"),
        _Expression("trim({0}, '{{}}')", _NO_TEXT),
        _TRIMMED,
    ),
    "json": (_Expression("CASE WHEN json_valid({0}) THEN {0} ELSE json_quote({0}) END"),),
    "bytes": (_Expression("CAST({0} AS BLOB)"),),
    "other": (_TRIMMED,),
}


class Advice:
    """Finds for the violations of a group what would help, and tries it out on all values."""

    def __init__(
        self,
        snapshot: sqlite3.Connection,
        plans: Sequence[TablePlan],
        server_converter: Callable[[TablePlan, ColumnPlan], Convert],
    ) -> None:
        """Look at the source's values in ``snapshot``; the server knows types that we do not."""
        self._snapshot = snapshot
        self._plans = {plan.source.name: plan for plan in plans}
        self._server_converter = server_converter
        self._found: dict[tuple[str, str], list[str]] = {}
        snapshot.create_function(
            "is_uuid_with_version", 1, lambda digits: _UUID_WITH_VERSION.match(digits) is not None, deterministic=True
        )

    def for_violation(self, found: Violation) -> list[str]:
        """Return what would help against one kind of violation, the best first."""
        plan = self._plans.get(found.table)
        column = None if plan is None else next((each for each in plan.columns if each.source == found.columns), None)
        if found.what.startswith(MARK):
            return cures(found.what, None if column is None else column.target)
        if plan is None or column is None or found.policy in _ONLY_BY_PEOPLE:
            return []
        if found.what.startswith(TOO_LONG_ROW):
            return [
                "store its longest values in another way, in files or in several rows, in the source and the service"
            ]
        if found.what == UNCLEAR_ID:
            return [self._about_unclear_ids(plan, column)]
        if found.policy == "null_value":
            if column.target in plan.target.key:
                return []
            if plan.target.columns[column.target].not_null_by_domain:
                where = f"{plan.target.name}.{column.target}"
                return [
                    f"give {where} the type {column.type_name} in {TABLE_SQL}, which allows NULL and holds all rows"
                ]
            return [f"let {plan.target.name}.{column.target} be NULL in {TABLE_SQL}, which holds all rows"]
        place = (found.table, found.columns)
        if place not in self._found:
            self._found[place] = [*self._types(plan, column), *self._expressions(plan, column)]
        return self._found[place]

    def _about_unclear_ids(self, plan: TablePlan, column: ColumnPlan) -> str:
        """Return with which tables alone every id in a column is certain, if the ids are theirs; else leave all."""
        left_out = "leave 'rewrite_ids_of' out, so that all ids in the column stay as they are"
        names = column.options.rewrite_ids_of
        certain = [name for name in names if len(names) > 1 and self._are_certain(plan, column, name)]
        if not certain:
            return left_out
        listed = " or ".join(f"'rewrite_ids_of: [{name}]'" for name in certain)
        return f"name only the table whose ids stand there ({listed}); or {left_out}"

    def _are_certain(self, plan: TablePlan, column: ColumnPlan, name: str) -> bool:
        """Return whether every value of a column is certain if it holds ids of one table alone."""
        alone = replace(column, ids=ids_of(self._snapshot, list(self._plans.values()), [name]))
        convert = self._server_converter(plan, alone)
        return all(_holds(alone, convert, value) for value in self._values(plan.source, quote_name(column.source)))

    # ------------------------------------------------------------ types

    def _types(self, plan: TablePlan, column: ColumnPlan) -> Iterator[str]:
        """Yield the narrowest type that holds every value of a column, if there is one."""
        allowed = self._allowed_types(plan, column)
        trials = [trial for trial in _trials(column) if trial.column.type_name in allowed]
        count = 0
        for value in self._values(plan.source, quote_name(column.source)):
            count += 1
            trials = [trial for trial in trials if trial.holds(value)]
            if not trials:
                return
        written = trials[0].written()
        held = "its value" if count == 1 else f"all {count:,} values"
        yield f"give {plan.target.name}.{column.target} the type {written} in {TABLE_SQL}, which holds {held}"

    def _allowed_types(self, plan: TablePlan, column: ColumnPlan) -> Sequence[str]:
        """Return the types that a column can have without another one having to change too."""
        tied = any(column.target in key.columns for key in plan.target.foreign_keys) or any(
            key.referenced_table == plan.target.name and column.target in key.referenced_columns
            for other in self._plans.values()
            for key in other.target.foreign_keys
        )
        if not tied:
            return tuple(KINDS)
        return {"integer": _INTEGERS, "text": _TEXTS, "char": _TEXTS}.get(column.kind, ())

    # ------------------------------------------------------------ expressions

    def _expressions(self, plan: TablePlan, column: ColumnPlan) -> Iterator[str]:
        """Yield the expression that brings every value of a column to its type, if one is known."""
        if column.source.startswith(COMPUTED):
            return
        # In brackets, for the expression stands in double quotes.
        name = column.source if _PLAIN_NAME.match(column.source) else f"[{column.source}]"
        for expression in (*_EXPRESSIONS.get(column.kind, ()), *_of_numbers(column)):
            if not self._helps(plan, column, expression):
                continue
            written = expression.sql.format(name)
            loses = f", which loses {expression.loses}" if expression.loses else ""
            yield (
                f"bring the values there by 'computed: {{{column.target}: \"{written}\"}}' with "
                f"'columns: {{{column.source}: {{without_target: keep}}}}'{loses}"
            )
            return

    def _helps(self, plan: TablePlan, column: ColumnPlan, expression: _Expression) -> bool:
        """Return whether an expression leaves no value of a column that its type cannot hold."""
        name = quote_name(column.source)
        convert = self._server_converter(plan, column)
        relation = plan.source.relation
        try:
            if expression.guard:
                guard = expression.guard.format(name)
                if self._snapshot.execute(f"SELECT 1 FROM {relation} WHERE {guard} LIMIT 1").fetchone():  # noqa: S608
                    return False
            return all(
                _holds(column, convert, value) for value in self._values(plan.source, expression.sql.format(name))
            )
        except sqlite3.Error:
            return False  # a BLOB where the function needs a text, for example

    def _values(self, source: SourceTable, expression: str) -> Iterator[Value]:
        """Yield all values of an expression but NULL."""
        query = f"SELECT {expression} AS v FROM {source.relation} WHERE v IS NOT NULL"  # noqa: S608 (quoted)
        for (value,) in self._snapshot.execute(query):
            yield value


class _Trial:
    """Whether one other type holds every value of a column."""

    def __init__(self, column: ColumnPlan, digits: tuple[int, int] | None = None) -> None:
        """Begin with no value seen.

        :param digits: for a numeric that shall be no wider than it needs to be: at least so many digits before the
            point, and after it.
        """
        self.column = column
        self._convert = converter(column, lambda _: None)
        self._longest = 0
        self._digits = digits

    def holds(self, value: Value) -> bool:
        """Return whether the type holds one more value."""
        if self.column.kind == "numeric":
            if isinstance(value, str) and _NUMBER_AS_WRITTEN.match(value) is None:
                return False  # it would come back otherwise: '007' is no number
            if self._digits is not None and not self._widened(value, *self._digits):
                return False
        if self.column.kind == "text" and not isinstance(value, bytes):
            self._longest = max(self._longest, self._length(value))
            if self._longest > _LONGEST_VARCHAR and self.column.type_name == "varchar":
                return False
        return _holds(self.column, self._convert, value)

    def _length(self, value: Value) -> int:
        """Return the characters that a value takes in PostgreSQL, where the ids in it may be longer."""
        if self.column.ids is None:
            return len(value if isinstance(value, str) else repr(value))
        with suppress(Refused):
            return len(self._convert(value) or "")
        return 0

    def _widened(self, value: Value, whole: int, decimals: int) -> bool:
        """Let the number of digits grow with one more value; return whether it is a number at all."""
        try:
            number = Decimal(value if isinstance(value, str) else repr(value)).normalize()
            exponent = int(number.as_tuple().exponent)
        except (ArithmeticError, ValueError):
            return False
        self._digits = (max(whole, number.adjusted() + 1), max(decimals, -exponent))
        return sum(self._digits) <= _MOST_DIGITS

    def written(self) -> str:
        """Return the type as PostgreSQL writes it."""
        type_name = self.column.type_name
        if type_name == "varchar":
            longest = 0 if self.column.options.secret else self._longest
            return f"character varying({longest})" if longest else "text"
        if self._digits is not None:
            return f"numeric({sum(self._digits)},{self._digits[1]})"
        return _WRITTEN.get(type_name, type_name)


def _trials(column: ColumnPlan) -> Iterator[_Trial]:
    """Yield a trial of each type that may hold more than the column's own, the narrowest first."""
    for type_name in WIDER.get(column.kind, ()):
        if column.type_name in _INTEGERS and type_name in _INTEGERS and column.type_name >= type_name:
            continue
        if type_name == column.type_name == "json":
            continue
        if (column.type_name, type_name) == ("timestamptz", "timestamp"):
            continue  # what it reads in UTC would be a moment no longer
        other = replace(
            column,
            kind=KINDS[type_name],
            type_name=type_name,
            display_type=_WRITTEN.get(type_name, type_name),
            max_length=None,
            precision=None,
            scale=6 if type_name in ("timestamp", "timestamptz", "time") else None,
        )
        if type_name == "numeric" and column.kind == "numeric" and column.precision is not None:
            scale = max(column.scale or 0, 0)
            yield _Trial(other, (max(column.precision - scale, 0), scale))
        yield _Trial(other)


def _holds(column: ColumnPlan, convert: Convert, value: Value) -> bool:
    """Return whether a column can hold a value, or a policy answers for it."""
    if isinstance(value, bytes) and column.kind == "bytes":
        return True  # not written in hexadecimal first
    try:
        convert(value)
    except Refused as refused:
        return column.options.policy(refused.policy) != REFUSE
    return True


def _of_numbers(column: ColumnPlan) -> Iterator[_Expression]:
    """Yield the expression that makes days of numbers that are moments."""
    if column.kind != "date" or column.epoch_unit is None:
        return
    if column.epoch_unit == JULIAN_DAYS:
        yield _Expression("date({0})", loses="the time of day")
        return
    start, size = EPOCHS[column.epoch_unit]
    second = 1_000_000 / size
    number = "{0}" if second <= 1 else f"{{0}} / {second}"
    if start.year == 1970:
        yield _Expression(f"date({number}, 'unixepoch')", loses="the time of day")
    else:
        counted = "days" if column.epoch_unit == DAYS_SINCE_1899 else "seconds"
        yield _Expression(f"date('{start.date()}', ({number}) || ' {counted}')", loses="the time of day")
