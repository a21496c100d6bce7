"""Names and texts as they stand in drafted files.

A draft is text for a person to read, and no server is there to ask while it is written: so names are quoted here, not
by psycopg2. What is drafted is loaded into a real PostgreSQL before anybody relies on it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

# PostgreSQL cuts a longer name off, silently.
LONGEST_NAME = 63  # bytes
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*\Z")
# The keywords that PostgreSQL 15 to 18 do not take as the name of a table or column without quotes.
RESERVED = frozenset(
    (
        "all",
        "analyse",
        "analyze",
        "and",
        "any",
        "array",
        "as",
        "asc",
        "asymmetric",
        "authorization",
        "binary",
        "both",
        "case",
        "cast",
        "check",
        "collate",
        "collation",
        "column",
        "concurrently",
        "constraint",
        "create",
        "cross",
        "current_catalog",
        "current_date",
        "current_role",
        "current_schema",
        "current_time",
        "current_timestamp",
        "current_user",
        "default",
        "deferrable",
        "desc",
        "distinct",
        "do",
        "else",
        "end",
        "except",
        "false",
        "fetch",
        "for",
        "foreign",
        "freeze",
        "from",
        "full",
        "grant",
        "group",
        "having",
        "ilike",
        "in",
        "initially",
        "inner",
        "intersect",
        "into",
        "is",
        "isnull",
        "join",
        "lateral",
        "leading",
        "left",
        "like",
        "limit",
        "localtime",
        "localtimestamp",
        "natural",
        "not",
        "notnull",
        "null",
        "offset",
        "on",
        "only",
        "or",
        "order",
        "outer",
        "overlaps",
        "placing",
        "primary",
        "references",
        "returning",
        "right",
        "select",
        "session_user",
        "similar",
        "some",
        "symmetric",
        "system_user",
        "table",
        "tablesample",
        "then",
        "to",
        "trailing",
        "true",
        "union",
        "unique",
        "user",
        "using",
        "variadic",
        "verbose",
        "when",
        "where",
        "window",
        "with",
    )
)
# Columns that every table of PostgreSQL has already.
_SYSTEM_COLUMNS = frozenset(("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"))
# Schemas that are somebody else's: PostgreSQL's, or the ledger's.
_TAKEN_SCHEMAS = frozenset(("migration", "public", "information_schema"))


def quote(name: str) -> str:
    """Return a name for PostgreSQL, in quotes where it needs them."""
    if _PLAIN_NAME.match(name) and name not in RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Return a text as a constant for PostgreSQL with ``standard_conforming_strings``."""
    return "'" + text.replace("'", "''") + "'"


def comment(text: str, indent: str = "") -> str:
    """Return a text as comment lines of SQL or YAML: whatever stands in it, it stays in the comment."""
    mark = f"{indent}-- "
    return "\n".join((mark + line).rstrip() for line in printable(text).split("\n"))


def printable(text: str) -> str:
    """Return a text with each kind of line end as a line feed, and ``?`` for other characters that no editor shows."""
    lines = re.split(r"\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]", text)
    return "\n".join("".join(sign if sign.isprintable() or sign == "\t" else "?" for sign in line) for line in lines)


def schema_name(text: str) -> str:
    """Return a name for a schema, made from the name of a file for example."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:40].rstrip("_") or "app"
    if name[0].isdigit() or name.startswith("pg_") or name in RESERVED | _TAKEN_SCHEMAS:
        name = f"app_{name}"
    return name


class Namer:
    """Gives each thing a name of its own that PostgreSQL takes.

    :param taken: names that may not be given.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def name(self, wanted: str, default: str) -> str:
        """Return ``wanted``, or a name like it.

        :param default: for a thing without a name.
        """
        # The mapping writes schema.table with one dot.
        base = wanted.replace(".", "_").replace("\x00", "_") or default
        candidate, number = _cut(base), 1
        while candidate in self._taken:
            number += 1
            candidate = _cut(f"{base}_{number}")
        self._taken.add(candidate)
        return candidate


def column_namer() -> Namer:
    """Return what names the columns of one table."""
    return Namer(_SYSTEM_COLUMNS)


def _cut(name: str) -> str:
    """Return a name that fits; one that is cut ends in a hash of the whole, so that two stay two."""
    if len(name.encode("utf-8", "replace")) <= LONGEST_NAME:
        return name
    mark = "_" + hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    return name.encode("utf-8", "replace")[: LONGEST_NAME - len(mark)].decode("utf-8", "ignore") + mark
