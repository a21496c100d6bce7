"""The fast forward mapping: SQLite itself builds the COPY lines of the rows that need no care.

A row is *plain* when the storage class and the form of each of its values are ones that SQL can
say exactly in the target's type; a condition in SQL decides, row by row. All other rows go
through :mod:`.engine.convert.values` in Python. What the condition cannot see (bytes that are not UTF-8, U+0000,
a date that is none) PostgreSQL or the verification refuses, and then the whole group takes the
exact way. Where a policy may answer for such a value the condition has to see it: then PostgreSQL
holds what the policy has made of it. Nothing here is trusted: :mod:`.engine.proof.compare` reads every row back.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from ...core.estate import REFUSE
from ...sqlite.tables import count_rows, quote_name
from ..convert.values import id_namespace, name_based_id
from ..plan.planner import INTEGER_RANGES, ColumnPlan, ForeignKeyPlan, TablePlan
from .duplicates import is_uuid_without_hyphens

# Between SQLite and us a line is cut by control characters, so that escaping is one pass over a
# whole block of lines. A text that holds one of them makes PostgreSQL or the verification refuse.
_FIELD, _ROW, _NULL = b"\x1f", b"\x1e", b"\x1d"
_REPLACEMENTS = (
    (b"\\", b"\\\\"),
    (b"\t", b"\\t"),
    (b"\n", b"\\n"),
    (b"\r", b"\\r"),
    (_FIELD, b"\t"),
    (_ROW, b"\n"),
    (_NULL, b"\\N"),
)
_BLOCK_BYTES = 1 << 18
# A longer value would be copied several times inside SQLite; Python handles it with less memory.
LONGEST_PLAIN_VALUE = 100_000
# SQLite's parser refuses an expression that is much deeper than what this makes.
_MOST_COLUMNS = 100
_UUID = "'????????-????-????-????-????????????'"
_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")
_CLOCK = "'????-??-?? ??:??:??'"
_JAVASCRIPT = "'????-??-??T??:??:??.[0-9][0-9][0-9]Z'"
# A JSON number that numeric cannot hold has 16,000 digits or more, those that its exponent stands for counted:
# in a text of this length it needs an exponent of five digits.
_LONGEST_SURE_JSON = 6_000
_LONG_EXPONENT = "[0-9][0-9][0-9][0-9][0-9]"
# A whole number has no more digits in SQLite.
_MOST_INTEGER_DIGITS = 19


@dataclass(frozen=True)
class _Rule:
    """How one column's plain values are recognised and written, as SQL over the column ``name``.

    SQLite orders values by storage class first: NULL, numbers, texts, BLOBs. So ``x < ''`` is true
    for a number alone and ``x >= x''`` for a BLOB alone, in half the time that ``typeof(x)`` takes.

    :param odd: true for a value that ``field`` might not write exactly; never NULL for another value than NULL.
    :param field: the text that PostgreSQL parses.
    :param notes: conversions worth counting: (condition, conversion).
    """

    odd: str
    field: str
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class PlainRows:
    """The plain rows of one table.

    :param odd: SQL that is true for a row that is not plain; NULL means that it is.
    :param lines: SQL of one whole line.
    :param notes: (column, conversion, SQL condition) of the conversions to count.
    """

    plan: TablePlan
    odd: str
    lines: str
    notes: tuple[tuple[str, str, str], ...]

    @property
    def condition(self) -> str:
        """Return the SQL that is true for a plain row."""
        return f"({self.odd}) IS NOT TRUE"


def plain_rows(plan: TablePlan, orphaned: Sequence[ForeignKeyPlan] = ()) -> PlainRows | None:
    """Return how the plain rows of a table are built, or None if its rows all need care.

    :param orphaned: foreign keys of which some row refers to nothing; such a row is not plain.
    """
    is_selection = plan.source.relation != quote_name(plan.source.name)
    if len(plan.columns) > _MOST_COLUMNS or plan.kept or plan.generated or (orphaned and is_selection):
        # Kept values go into the ledger row by row; a selection has no name for a subquery to refer to.
        return None
    odd: list[str] = []
    fields: list[str] = []
    notes: list[tuple[str, str, str]] = []
    for column in plan.columns:
        rule = _rule(column, plan.source.affinity(column.source))
        if rule is None:
            return None
        name = quote_name(column.source)
        odd.append(f"{name} IS NULL OR {rule.odd}" if column.not_null else rule.odd)
        fields.append(rule.field if column.not_null else f"ifnull({rule.field}, char(29))")
        notes.extend((column.source, conversion, condition) for condition, conversion in rule.notes)
    odd.extend(_is_orphan(key) for key in orphaned)
    # One printf takes half the time of putting the fields together one by one. It ends a text at U+0000, as
    # SQLite does; the verification compares whole lengths.
    form = _FIELD.decode().join(["%s"] * len(fields))
    return PlainRows(plan, " OR ".join(odd), f"printf('{form}', {', '.join(fields)})", tuple(notes))


def _is_orphan(key: ForeignKeyPlan) -> str:
    """Return the SQL that is true for a row whose foreign key refers to nothing."""
    child = [f"{quote_name(key.source)}.{quote_name(name)}" for name in key.columns]
    found = " AND ".join(
        f"p.{quote_name(parent)} = {name}" for parent, name in zip(key.referenced_columns, child, strict=True)
    )
    set_at_all = " AND ".join(f"{name} IS NOT NULL" for name in child)
    return f"({set_at_all} AND NOT EXISTS (SELECT 1 FROM {key.referenced_relation} p WHERE {found}))"  # noqa: S608 (quoted)


def count_plain_rows(snapshot: sqlite3.Connection, rows: PlainRows) -> tuple[int, int, Counter[tuple[str, str]]]:
    """Return the number of all rows, of plain rows, and of each conversion among those."""
    total = count_rows(snapshot, rows.plan.source)
    scan = rows.plan.source.scan
    odd = snapshot.execute(f"SELECT count(*) FROM {scan} WHERE {rows.odd}").fetchone()[0]  # noqa: S608 (quoted)
    conversions: Counter[tuple[str, str]] = Counter()
    if rows.notes:
        noted = ", ".join(f"sum({condition})" for _, _, condition in rows.notes)
        where = f" WHERE {rows.condition}" if odd else ""
        numbers = snapshot.execute(f"SELECT {noted} FROM {scan}{where}").fetchone()  # noqa: S608 (quoted)
        for (column, conversion, _), number in zip(rows.notes, numbers, strict=True):
            if number:
                conversions[(column, conversion)] += number
    return total, total - odd, conversions


def copy_blocks(snapshot: sqlite3.Connection, rows: PlainRows, all_plain: bool) -> Iterator[tuple[int, bytes]]:
    """Yield (number of rows, their COPY lines) for all plain rows of a table.

    :param all_plain: whether every row is plain, so that the condition need not be tested again.
    """
    where = "" if all_plain else f" WHERE {rows.condition}"
    yield from _blocks(snapshot, f"SELECT {rows.lines} FROM {rows.plan.source.scan}{where}")  # noqa: S608 (quoted)


def _blocks(snapshot: sqlite3.Connection, query: str) -> Iterator[tuple[int, bytes]]:
    """Yield (number of rows, their COPY lines) of a query for lines."""
    _define_functions(snapshot)
    before = snapshot.text_factory
    # Every text comes as its UTF-8 bytes, also from a database in UTF-16.
    snapshot.text_factory = bytes
    try:
        block, size = [], 0
        for (line,) in snapshot.execute(query):
            block.append(line)
            size += len(line)
            if size >= _BLOCK_BYTES:
                yield len(block), _escaped(block)
                block, size = [], 0
        if block:
            yield len(block), _escaped(block)
    finally:
        snapshot.text_factory = before


def _escaped(lines: list[bytes]) -> bytes:
    """Return lines as COPY reads them."""
    block = _ROW.join(lines) + _ROW
    for found, replacement in _REPLACEMENTS:
        block = block.replace(found, replacement)
    return block


def id_blocks(snapshot: sqlite3.Connection, rows: PlainRows, all_plain: bool) -> Iterator[bytes]:
    """Yield the COPY lines of the id map for the ids in plain rows that became another UUID: namespace, old id, new id.

    An id may come twice: from two columns, or as a key that has yet to be found double.
    """
    for column in rows.plan.columns:
        if not column.records_ids or column.namespace is None:
            continue
        name = quote_name(column.source)
        namespace = "'" + column.namespace.replace("'", "''") + "'"
        distinct = "" if rows.plan.source.key == (column.source,) else "DISTINCT "
        where = "" if all_plain else f"{rows.condition} AND "
        query = (
            f"SELECT {distinct}printf('%s\x1f%s\x1f%s', {namespace}, {name}, new_id({namespace}, {name})) "  # noqa: S608 (quoted)
            f"FROM {rows.plan.source.scan} WHERE {where}{name} IS NOT NULL AND NOT {name} GLOB {_UUID}"
        )
        for _, block in _blocks(snapshot, query):
            yield block


def _define_functions(snapshot: sqlite3.Connection) -> None:
    """Give SQLite the conversions that its own SQL cannot do exactly."""
    snapshot.create_function("new_id", 2, _new_id, deterministic=True)
    snapshot.create_function("number_text", 1, repr, deterministic=True)


@lru_cache(maxsize=10_000)
def _new_id(namespace: str, old_id: str) -> str:
    """Return the UUID of a text id, as :mod:`.engine.convert.values` makes it."""
    if len(old_id) == 32 and _HEXADECIMAL.issuperset(old_id):
        return str(uuid.UUID(old_id))
    return name_based_id(_namespace(namespace), old_id)


@cache
def _namespace(name: str) -> bytes:
    """Return the 16 bytes of a namespace's UUID."""
    return id_namespace(name).bytes


def _rule(column: ColumnPlan, affinity: str) -> _Rule | None:
    """Return how a column's plain values are built, or None if each of its values needs care.

    :param affinity: SQLite's, which says what storage classes cannot occur.
    """
    build = _RULES.get(column.kind)
    if build is None:
        return None
    name = quote_name(column.source)
    rule = build(column, name)
    if rule is not None and column.ids is not None:
        # Only Python finds ids inside a value.
        rule = _Rule(f"{name} IS NOT NULL", "NULL")
    if rule is None or column.options.policy("invalid_utf8") != REFUSE:
        # There is no test for UTF-8 in SQL: where a policy may answer, Python looks at each value.
        return None
    if affinity in _IMPOSSIBLE:
        # TEXT turns each number into text, the others each whole double into an integer: nothing to count.
        rule = replace(rule, notes=tuple(note for note in rule.notes if note[1] not in _IMPOSSIBLE[affinity]))
    if column.kind == "text" and affinity != "TEXT":
        rule = replace(rule, odd=f"{rule.odd} OR typeof({name}) = 'real'")
    if column.options.policy("nul_character") != REFUSE:
        rule = replace(rule, odd=f"{rule.odd} OR {_holds_nul(name)}")
    return rule


def _text(column: ColumnPlan, name: str) -> _Rule:
    longest = LONGEST_PLAIN_VALUE if column.max_length is None else min(column.max_length, LONGEST_PLAIN_VALUE)
    # The length first: SQLite knows that of a large value without reading it.
    return _Rule(
        f"length({name}) > {longest} OR {name} >= x''", name, ((f"typeof({name}) = 'integer'", "integer to text"),)
    )


def _uuid(column: ColumnPlan, name: str) -> _Rule | None:
    if column.namespace is None:
        return None
    any_uuid, without_hyphens = f"{name} GLOB {_UUID}", is_uuid_without_hyphens(name)
    other_spelling = (
        f"CASE WHEN {any_uuid} THEN 0 ELSE {without_hyphens} END",
        "uuid in other spelling to uuid",
    )
    # PostgreSQL reads a UUID without hyphens too. One with capital letters and hyphens needs care.
    is_no_id = f"{name} <= '' OR {name} >= x''"
    if not column.text_ids:
        odd = f"{is_no_id} OR NOT (({any_uuid} AND {name} = lower({name})) OR {without_hyphens})"
        return _Rule(odd, name, (other_spelling,))
    namespace = "'" + column.namespace.replace("'", "''") + "'"
    return _Rule(
        f"{is_no_id} OR ({any_uuid} AND {name} <> lower({name}))",
        f"CASE WHEN {any_uuid} OR {without_hyphens} THEN {name} "
        f"WHEN {name} IS NOT NULL THEN new_id({namespace}, {name}) END",
        ((f"CASE WHEN {any_uuid} THEN 0 ELSE NOT {without_hyphens} END", "text id to uuid"), other_spelling),
    )


def _integer(column: ColumnPlan, name: str) -> _Rule:
    low, high = INTEGER_RANGES[column.type_name]
    out_of_range = "" if column.type_name == "int8" else f" OR {name} NOT BETWEEN {low} AND {high}"
    return _Rule(
        f"{name} >= ''{out_of_range} OR {name} <> CAST({name} AS INTEGER)",
        f"CAST({name} AS INTEGER)",
        ((f"typeof({name}) = 'real'", "real to integer"),),
    )


def _boolean(column: ColumnPlan, name: str) -> _Rule:
    return _Rule(f"{name} >= '' OR ({name} <> 0 AND {name} <> 1)", f"CASE {name} WHEN 1 THEN 't' WHEN 0 THEN 'f' END")


def _json(column: ColumnPlan, name: str) -> _Rule:
    odd = f"{name} <= '' OR {name} >= x''"
    if not _is_answered(column, "invalid_json", "nul_character", "repeated_key"):
        return _Rule(f"length({name}) > {LONGEST_PLAIN_VALUE} OR {odd}", name)
    # Python looks at what PostgreSQL may refuse, \u0000 for example.
    exponents = " OR ".join(f"{name} GLOB '*[0-9][eE]{sign}{_LONG_EXPONENT}*'" for sign in ("", "[+-]"))
    odd += f" OR instr({name}, '\\u') > 0 OR {exponents} OR NOT json_valid({name})"
    if _is_answered(column, "repeated_key"):
        # The table-valued function has columns of its own, whose names the column may have.
        valid = f"(SELECT CASE WHEN json_valid({name}) THEN {name} END AS text) AS valid"
        odd += (
            f" OR EXISTS (SELECT 1 FROM {valid}, json_tree(valid.text) AS j "  # noqa: S608 (quoted)
            "GROUP BY j.parent, j.key HAVING count(*) > 1)"
        )
    return _Rule(f"length({name}) > {_LONGEST_SURE_JSON} OR {odd}", name)


def _timestamp(column: ColumnPlan, name: str) -> _Rule | None:
    if column.scale is not None and column.scale < 6:  # which may round
        return None
    # A time without a zone is written as it is: the session's zone is UTC.
    clock = f"{name} GLOB {_CLOCK} OR " if column.options.time_zone == "UTC" or column.type_name == "timestamp" else ""
    odd = f"{name} >= x'' OR NOT ({clock}{name} GLOB {_JAVASCRIPT}) OR {_holds_nul(name)}"
    if _is_answered(column, "unconvertible", "out_of_range"):
        # Adding nothing makes SQLite move a day or an hour that does not exist to one that does.
        second = f"substr({name}, 1, 10) || ' ' || substr({name}, 12, 8)"
        odd += f" OR {name} < '0001' OR datetime({second}, '+0 days') IS NOT {second}"
    return _Rule(odd, name)


def _date(column: ColumnPlan, name: str) -> _Rule:
    odd = f"{name} >= x'' OR NOT {name} GLOB '????-??-??' OR {_holds_nul(name)}"
    if _is_answered(column, "unconvertible", "out_of_range"):
        odd += f" OR {name} < '0001' OR date({name}, '+0 days') IS NOT {name}"
    return _Rule(odd, name)


def _is_answered(column: ColumnPlan, *policies: str) -> bool:
    """Return whether any of these policies lets a row pass that PostgreSQL would refuse."""
    return any(column.options.policy(policy) != REFUSE for policy in policies)


def _holds_nul(name: str) -> str:
    """Return the SQL that is true for a text with U+0000, behind which GLOB and printf do not look."""
    return f"instr({name}, char(0)) > 0"


def _numeric(column: ColumnPlan, name: str) -> _Rule:
    if column.precision is not None and column.scale is not None:
        odd = f"({name} IS NOT NULL AND typeof({name}) <> 'integer')"
        digits = max(column.precision - column.scale, 0)
        if digits < _MOST_INTEGER_DIGITS:
            odd += f" OR {name} NOT BETWEEN {1 - 10**digits} AND {10**digits - 1}"
        if column.scale < 0:
            odd += f" OR {name} % {10**-column.scale} <> 0"
        return _Rule(odd, name)
    return _Rule(
        f"{name} >= '' OR {name} NOT BETWEEN -1e300 AND 1e300",
        f"CASE typeof({name}) WHEN 'real' THEN number_text({name}) ELSE {name} END",
    )


def _double(column: ColumnPlan, name: str) -> _Rule:
    return _Rule(
        f"({name} IS NOT NULL AND typeof({name}) <> 'real')",
        f"CASE WHEN {name} IS NOT NULL THEN number_text({name}) END",
    )


def _bytes(column: ColumnPlan, name: str) -> _Rule:
    return _Rule(
        f"length({name}) > {LONGEST_PLAIN_VALUE} OR {name} < x''",
        f"('\\x' || CASE WHEN {name} IS NOT NULL THEN hex({name}) END)",
    )


_IMPOSSIBLE = {"TEXT": ("integer to text",), "INTEGER": ("real to integer",), "NUMERIC": ("real to integer",)}
_RULES: dict[str, Callable[[ColumnPlan, str], _Rule | None]] = {
    "text": _text,
    "uuid": _uuid,
    "integer": _integer,
    "boolean": _boolean,
    "json": _json,
    "timestamp": _timestamp,
    "date": _date,
    "numeric": _numeric,
    "double": _double,
    "bytes": _bytes,
}
