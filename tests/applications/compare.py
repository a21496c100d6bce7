"""Compare an SQLite file with a PostgreSQL database value by value, with rules of its own.

It shares no code with the engine, and asks neither its ledger nor its mapping: tables and columns of the same name, in
whatever case, must hold the same rows. `python compare.py FILE DSN` prints what differs.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg2
from psycopg2 import extensions

# The schema of the migration's own tables.
LEDGER = "migration"
# PostgreSQL's text of these types is taken as it is, before psycopg2 makes something else of it.
_PLAIN_TEXT = ("json", "jsonb", "interval", "ARRAY", "USER-DEFINED")


@dataclass(frozen=True)
class Compared:
    """One comparison.

    :param rows: table → rows in SQLite.
    :param values: values that were compared.
    :param differences: what is not the same, a line each.
    """

    rows: Mapping[str, int]
    values: int
    differences: list[str]


def compare(file: str, dsn: str, ignored: tuple[str, ...] = (), filler: tuple[str, ...] = ()) -> Compared:
    """Compare every table.

    :param ignored: tables of the file that are not expected in PostgreSQL.
    :param filler: ``table.column`` of PostgreSQL that the file has not.
    """
    differences: list[str] = []
    counts: dict[str, int] = {}
    values = 0
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as source, closing(psycopg2.connect(dsn)) as target:
        source.text_factory = bytes
        columns_there = _columns_of_postgresql(target)
        for table in _tables_of_sqlite(source):
            if table in ignored:
                continue
            there = columns_there.pop(table.lower(), None)
            here = _columns_of_sqlite(source, table)
            if there is None:
                if source.execute(f"SELECT count(*) FROM {_quoted(table)}").fetchone() != (0,):
                    differences.append(f"{table}: it holds rows, and PostgreSQL has no such table")
                continue
            missing = {name.lower() for name in here} ^ set(there.columns)
            missing -= {name.partition(".")[2] for name in filler if name.partition(".")[0] == table}
            differences += [f"{table}.{name}: it stands on one side only" for name in sorted(missing)]
            both = [name for name in here if name.lower() in there.columns]
            selected = source.execute(f"SELECT {', '.join(map(_quoted, both))} FROM {_quoted(table)}")
            in_source = Counter(there.meaning(both, row) for row in selected)
            in_target = Counter(there.read(target, [name.lower() for name in both]))
            counts[table] = in_source.total()
            values += in_source.total() * len(both)
            differences += [f"{table}: only in SQLite: {row}" for row in (in_source - in_target)]
            differences += [f"{table}: only in PostgreSQL: {row}" for row in (in_target - in_source)]
        for there in columns_there.values():
            if there.count(target):
                differences.append(f"{there.table}: it holds rows, and the file has no such table")
    return Compared(counts, values, differences)


@dataclass(frozen=True)
class _Table:
    """One table of PostgreSQL: its columns by lower-case name, each with its real name and its type."""

    schema: str
    table: str
    columns: dict[str, tuple[str, str]]

    @property
    def _place(self) -> str:
        return f"{_quoted(self.schema)}.{_quoted(self.table)}"

    def count(self, target: extensions.connection) -> int:
        """Return its rows."""
        with target.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {self._place}")
            row = cursor.fetchone()
        return int(row[0]) if row else 0

    def meaning(self, names: list[str], row: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a row of SQLite as what PostgreSQL's types mean; a column that is not there has no meaning.

        :param names: the columns of the row.
        """
        return tuple(
            _from_sqlite(value, self.columns[name.lower()][1])
            for name, value in zip(names, row, strict=True)
            if name.lower() in self.columns
        )

    def read(self, target: extensions.connection, names: list[str]) -> list[tuple[Any, ...]]:
        """Return its rows, each value in a form that can be compared."""
        kinds = [self.columns[name][1] for name in names]
        wanted = [
            _quoted(self.columns[name][0]) + ("::text" if kind in _PLAIN_TEXT else "")
            for name, kind in zip(names, kinds, strict=True)
        ]
        with target.cursor() as cursor:
            cursor.execute(f"SELECT {', '.join(wanted)} FROM {self._place}")
            return [
                tuple(_from_postgresql(value, kind) for value, kind in zip(row, kinds, strict=True)) for row in cursor
            ]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _tables_of_sqlite(source: sqlite3.Connection) -> list[str]:
    listed = source.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return sorted(name.decode() for (name,) in listed)


def _columns_of_sqlite(source: sqlite3.Connection, table: str) -> list[str]:
    return [row[1].decode() for row in source.execute(f"PRAGMA table_xinfo({_quoted(table)})")]


def _columns_of_postgresql(target: extensions.connection) -> dict[str, _Table]:
    tables: dict[str, _Table] = {}
    with target.cursor() as cursor:
        cursor.execute(
            "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns"
            " JOIN information_schema.tables USING (table_catalog, table_schema, table_name)"
            " WHERE table_type = 'BASE TABLE' AND table_schema NOT IN (%s, 'pg_catalog', 'information_schema')",
            (LEDGER,),
        )
        for schema, table, column, kind in cursor.fetchall():
            found = tables.setdefault(table.lower(), _Table(schema, table, {}))
            found.columns[column.lower()] = (column, kind)
    return tables


def _from_sqlite(value: Any, kind: str) -> Any:
    """Return a value of SQLite as what PostgreSQL's type means."""
    if value is None:
        return None
    text = value.decode() if isinstance(value, bytes) and kind != "bytea" else value
    if kind == "bytea":
        return bytes(value)
    if kind in ("smallint", "integer", "bigint"):
        assert int(text) == Decimal(str(text)), f"{text!r} is no whole number"
        return int(text)
    if kind == "boolean":
        return {"0": False, "1": True, "true": True, "false": False}[str(text).lower()]
    if kind == "numeric":
        return Decimal(str(text))
    if kind in ("real", "double precision"):
        return float(text)
    if kind.startswith("timestamp"):
        return _moment(text)
    if kind == "date":
        return _day(str(text))
    if kind.startswith("time"):
        return time.fromisoformat(str(text))
    if kind == "interval":
        return timedelta(microseconds=int(text))
    if kind == "uuid":
        return UUID(str(text))
    if kind in ("json", "jsonb"):
        return _json(text)
    return str(text)


def _from_postgresql(value: Any, kind: str) -> Any:
    """Return a value that psycopg2 has read, in the same form."""
    if value is None:
        return None
    if kind == "bytea":
        return bytes(value)
    if kind == "numeric":
        return Decimal(value)
    if kind.startswith("timestamp"):
        return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
    if kind == "uuid":
        return UUID(str(value))
    if kind in ("json", "jsonb"):
        return _json(value)
    if kind == "interval":
        days, _, clock = value.rpartition(" ")
        hours, minutes, seconds = clock.split(":")
        whole = timedelta(days=int(days.split(" ")[0])) if days else timedelta(0)
        return whole + timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds))
    return value


def _moment(value: Any) -> datetime:
    """Return a moment in UTC: an ISO text, or seconds or milliseconds since 1970."""
    if isinstance(value, (int, float)) or str(value).isdigit():
        number = Decimal(str(value))
        seconds = number / 1000 if abs(number) > 10**11 else number
        return datetime(1970, 1, 1) + timedelta(microseconds=int(seconds * 1_000_000))
    moment = datetime.fromisoformat(str(value))
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _day(text: str) -> date:
    """Return a date; a time of day behind it stays, so that it equals no date, unless it is midnight."""
    moment = datetime.fromisoformat(text)
    return moment.date() if moment.timetz() in (time(), time(tzinfo=UTC)) else moment


def _json(text: Any) -> Any:
    """Return JSON in a form that can be compared: members in order of their keys, each with its type, numbers exact.

    A key that stands twice stays twice, in the order of the text.
    """

    def form(value: Any) -> Any:
        if isinstance(value, tuple):  # an object, which has its form
            return value
        return ("list", *map(form, value)) if isinstance(value, list) else (type(value).__name__, value)

    def members(pairs: list[tuple[str, Any]]) -> Any:
        return ("object", *sorted(((key, form(value)) for key, value in pairs), key=lambda pair: pair[0]))

    return form(json.loads(str(text), parse_float=Decimal, parse_int=Decimal, object_pairs_hook=members))


def raw_rows(file: str) -> dict[str, Counter[tuple[Any, ...]]]:
    """Return table → its rows, of all tables of a file: the bytes of each value, then the storage class of each.

    The classes stand there because 1 equals 1.0 in Python, and a text is read as bytes.
    """
    found: dict[str, Counter[tuple[Any, ...]]] = {}
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as source:
        source.text_factory = bytes
        for table in _tables_of_sqlite(source):
            names = [_quoted(name) for name in _columns_of_sqlite(source, table)]
            wanted = ", ".join([*names, *(f"typeof({name})" for name in names)])
            found[table] = Counter(source.execute(f"SELECT {wanted} FROM {_quoted(table)}").fetchall())
    return found


def rewritten(before: str, after: str, dsn: str) -> list[str]:
    """Return the rows of a file that mean what they meant in an earlier copy, and are written in another way.

    :param before: the earlier copy.
    :param dsn: the database whose types say what a value means.
    """
    found: list[str] = []
    with (
        closing(sqlite3.connect(f"file:{before}?mode=ro", uri=True)) as source,
        closing(psycopg2.connect(dsn)) as target,
    ):
        source.text_factory = bytes
        columns_there = _columns_of_postgresql(target)
        columns_here = {table: _columns_of_sqlite(source, table) for table in _tables_of_sqlite(source)}
    later = raw_rows(after)
    for table, rows in raw_rows(before).items():
        there = columns_there.get(table.lower())
        if there is not None:
            names = columns_here[table]
            lost = {there.meaning(names, row[: len(names)]) for row in rows - later[table]}
            gained = later[table] - rows
            found += [f"{table}: {row}" for row in gained if there.meaning(names, row[: len(names)]) in lost]
    return found


def storage_classes(file: str) -> dict[str, set[str]]:
    """Return the storage classes that each column of a file holds, NULL left out: ``table.column`` → classes."""
    found: dict[str, set[str]] = {}
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as source:
        source.text_factory = bytes
        for table in _tables_of_sqlite(source):
            for row in source.execute(f"PRAGMA table_info({_quoted(table)})").fetchall():
                name = row[1].decode()
                kinds = source.execute(f"SELECT DISTINCT typeof({_quoted(name)}) FROM {_quoted(table)}")
                found[f"{table}.{name}"] = {kind.decode() for (kind,) in kinds} - {"null"}
    return found


if __name__ == "__main__":
    result = compare(sys.argv[1], sys.argv[2], tuple(sys.argv[3:]))
    print("\n".join(result.differences))
    print(f"{len(result.rows)} tables, {sum(result.rows.values())} rows, {result.values} values")
    sys.exit(1 if result.differences else 0)
