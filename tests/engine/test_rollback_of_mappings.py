"""Whatever a mapping does, a rollback leaves the file as if the writes of PostgreSQL had been made in it by hand.

Each seed makes up an estate: tables with renamed columns, computed ones with an inverse, row filters, columns without
a target, defaults, policies, and keys of every kind. The estate is moved, random writes go to PostgreSQL, and the very
same writes go to a copy of the file in SQLite's own words. The rollback's file must equal that copy in every value and
storage class. Nothing here asks the engine how a value is converted: a value is made up as what SQLite holds, together
with what PostgreSQL's input takes for it.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .support import execute, make_group, make_source, make_target, query, rehearse
from .test_export import bring_back

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

Random = random.Random
# What SQLite holds, and what PostgreSQL's input takes for the same.
Pair = tuple[Any, str | None]

# Beside the first ones, one that inserts into a table whose ids are spelled in two ways.
SEEDS = (*range(16), 39)
FURTHER_SEEDS = 300
NAMES = ("select", "User Name", 'say "hi"', "it's", "100%", "a.b", "UPPER", "größe", "日本", "{}", "back\\slash", "v",
         "w", "x", "y", "z", "camelCase", "order", "%s", "rowid_", "value", "left_behind", "c0", "part_0")  # fmt: skip
WORDS = ("", " ", "a", "Zoë", "it's", "\\N", "tab\tnew\nline", "null", "007", "1e3", "🦆", "true", "x" * 40)


def quoted(name: str) -> str:
    """Return a name quoted, for both databases."""
    return '"' + name.replace('"', '""') + '"'


def on_postgresql(connection: Connection, statement: str, *values: Any) -> None:
    """Execute a statement in which U+0001 stands for each value, as no name does, and commit."""
    execute(connection, statement.replace("%", "%%").replace("\x01", "%s"), *values)


# ---------------------------------------------------------------- what columns hold


def _moment(choose: Random) -> datetime:
    """Return a moment far from any change of summer time, to the second."""
    day = datetime(choose.choice((1975, 1999, 2024, 2031)), choose.choice((1, 7)), choose.randint(5, 25), tzinfo=UTC)
    return day + timedelta(seconds=choose.randrange(4 * 3600, 20 * 3600))


def _integer(limit: int) -> Callable[[Random], Pair]:
    def make(choose: Random) -> Pair:
        number = choose.choice((0, 1, -1, limit, -limit - 1, choose.randint(-limit, limit)))
        return number, str(number)

    return make


def _text(choose: Random) -> Pair:
    text = choose.choice(WORDS)
    return text, text


def _double(choose: Random) -> Pair:
    number = choose.choice((0.1, 1e308, 5e-324, choose.uniform(-1e6, 1e6)))
    return number, repr(number)


def _decimal(choose: Random) -> Pair:
    cents = choose.randint(-99_999, 99_999)
    number = cents / 100
    return (cents // 100 if cents % 100 == 0 else number), f"{number:.2f}"


def _digits(choose: Random) -> Pair:
    # Nothing to lose at the end: PostgreSQL's own form.
    text = f"{choose.randint(-999, 999)}.{choose.randint(0, 99):02d}{choose.randint(1, 9)}".replace("-0.", "-1.")
    return text, text


def _boolean(choose: Random) -> Pair:
    value = choose.choice((True, False))
    return int(value), str(value)


def _words(choose: Random) -> Pair:
    value = choose.choice(("true", "false"))
    return value, value


def _time(form: str) -> Callable[[Random], Pair]:
    def make(choose: Random) -> Pair:
        moment = _moment(choose)
        return moment.strftime(form), f"{moment:%Y-%m-%d %H:%M:%S+00}"

    return make


def _with_milliseconds(choose: Random) -> Pair:
    moment = _moment(choose) + timedelta(milliseconds=choose.randrange(1000))
    text = moment.replace(tzinfo=None).isoformat(timespec="milliseconds")
    return f"{text}Z", f"{text}+00"


def _in_berlin(choose: Random) -> Pair:
    moment = _moment(choose)
    return f"{moment:%Y-%m-%d %H:%M:%S}", f"{moment:%Y-%m-%d %H:%M:%S} Europe/Berlin"


def _epoch(per_second: int) -> Callable[[Random], Pair]:
    def make(choose: Random) -> Pair:
        moment = _moment(choose)
        return int(moment.timestamp()) * per_second, f"{moment:%Y-%m-%d %H:%M:%S+00}"

    return make


def _json(choose: Random) -> Pair:
    # As jsonb writes it: short keys first.
    value = choose.choice(([], {}, [1, None, "ä"], {"a": [1.5, True], "bb": {"c": "it's"}}, "text", 7))
    return (text := json.dumps(value, ensure_ascii=False)), text


def _bytes(choose: Random) -> Pair:
    data = choose.randbytes(choose.randint(0, 6))
    return data, "\\x" + data.hex()


def _seconds(choose: Random) -> Pair:
    number = choose.choice((0, 59, -90, 360_000, choose.randint(1, 10**7)))
    return number, f"{number} seconds"


def _array(choose: Random) -> Pair:
    text = choose.choice(("{}", "{1,2}", "{-5}", "{NULL,3}"))
    return text, text


def _cents(choose: Random) -> Pair:
    number = choose.randint(0, 99_999)
    return number, f"{number // 100}.{number % 100:02d}"


def _letter(choose: Random) -> Pair:
    value = choose.choice("tf")
    return value, value


def _prefixed(choose: Random) -> Pair:
    text = choose.choice(WORDS)
    return f"u:{text}", text


def _day_number(choose: Random) -> Pair:
    day = _moment(choose)
    return int(day.timestamp()) // 86_400, f"{day:%Y-%m-%d}"


def _wrapped(choose: Random) -> Pair:
    text = choose.choice(("", "a", "ä", "it's"))
    return text, json.dumps([text], ensure_ascii=False)


@dataclass(frozen=True)
class Kind:
    """A kind of column.

    :param options: of the inventory.
    :param offenders: policy, its answer, and a value of SQLite for which it answers.
    :param forward: for a computed column: SQL over the source's ``{v}``; ``back`` is that over the target's ``{w}``.
    """

    declared: str
    target: str
    make: Callable[[Random], Pair]
    options: dict[str, Any] = field(default_factory=dict)
    offenders: tuple[tuple[str, str, Any], ...] = ()
    forward: str = ""
    back: str = ""


WHOLE = (("fraction", "round", 8.5), ("empty_string", "set_null", ""), ("unconvertible", "set_null", "abc"))
CLOCK = (("sub_microsecond", "truncate", "2024-05-01 10:00:00.1234567"), ("unconvertible", "set_null", "2023-02-30"))
WRONG_JSON = (("invalid_json", "set_null", "{'a'"), ("repeated_key", "keep_last", '{"a":1,"a":2}'),
              ("invalid_json", "as_json_string", "[1"))  # fmt: skip
KINDS = (
    Kind("INTEGER", "integer", _integer(2**31 - 1), offenders=(*WHOLE, ("out_of_range", "set_null", 2**40))),
    Kind("INT", "bigint", _integer(2**63 - 1), offenders=WHOLE),
    Kind("TEXT", "text", _text, offenders=(("nul_character", "remove", "a\x00b"),)),
    Kind("VARCHAR(40)", "varchar(40)", _text, offenders=(("unconvertible", "set_null", "y" * 41),)),
    Kind("REAL", "double precision", _double),
    Kind("DECIMAL(8,2)", "numeric(8,2)", _decimal,
         offenders=(("fraction", "round", 1.125), ("out_of_range", "set_null", 12_345_678))),
    Kind("TEXT", "numeric", _digits),
    Kind("BOOLEAN", "boolean", _boolean, offenders=(("unconvertible", "set_null", 7),)),
    Kind("TEXT", "boolean", _words),
    Kind("TEXT", "timestamptz", _time("%Y-%m-%d %H:%M:%S"), offenders=CLOCK),
    Kind("DATETIME", "timestamp", _with_milliseconds, offenders=CLOCK),
    Kind("TEXT", "timestamptz", _in_berlin, {"time_zone": "Europe/Berlin"}),
    Kind("INTEGER", "timestamptz", _epoch(1), {"epoch_unit": "seconds"}),
    Kind("INTEGER", "timestamp", _epoch(1000)),
    Kind("TEXT", "date", lambda choose: (f"{(day := _moment(choose)):%Y-%m-%d}", f"{day:%Y-%m-%d}"),
         offenders=(("unconvertible", "set_null", "0000-00-00"),)),
    Kind("TEXT", "time", lambda choose: (f"{(clock := _moment(choose)):%H:%M:%S}", f"{clock:%H:%M:%S}")),
    Kind("TEXT", "jsonb", _json, offenders=WRONG_JSON),
    Kind("BLOB", "bytea", _bytes),
    Kind("INTEGER", "interval", _seconds, {"duration_unit": "seconds"}),
    Kind("TEXT", "integer[]", _array, offenders=(("rewritten", "keep", "{ 1 }"),)),
    Kind("TEXT", "boolean", _letter, forward="CASE {v} WHEN 't' THEN 1 WHEN 'f' THEN 0 ELSE {v} END",
         back="CASE {w} WHEN 1 THEN 't' WHEN 0 THEN 'f' ELSE {w} END",
         offenders=(("unconvertible", "set_null", "maybe"),)),
    Kind("TEXT", "timestamp", _time("%Y/%m/%d %H:%M:%S"), forward="replace({v}, '/', '-')",
         back="replace({w}, '-', '/')"),
    Kind("INTEGER", "numeric(10,2)", _cents,
         forward="CASE WHEN {v} IS NOT NULL THEN printf('%d.%02d', {v} / 100, {v} % 100) END",
         back="CAST(round({w} * 100) AS INTEGER)"),
    Kind("TEXT", "text", _prefixed, forward="substr({v}, 3)", back="'u:' || {w}"),
    Kind("INTEGER", "date", _day_number, forward="date({v} * 86400, 'unixepoch')",
         back="CAST(strftime('%s', {w}) / 86400 AS INTEGER)"),
    Kind("TEXT", "jsonb", _wrapped, forward="CASE WHEN {v} IS NOT NULL THEN json_array({v}) END",
         back="json_extract({w}, '$[0]')"),
)  # fmt: skip
# What refers to rows of another table from inside a text: the values are made where the rows are known.
IDS_IN_JSON = Kind("TEXT", "jsonb", lambda _: (None, None))
IDS_IN_TEXT = Kind("TEXT", "text", lambda _: (None, None))
FILTER = Kind("TEXT", "timestamptz", _time("%Y-%m-%d %H:%M:%S"))


# ---------------------------------------------------------------- ids


SPELLINGS: dict[str, Callable[[Random, uuid.UUID], str]] = {
    "as PostgreSQL": lambda choose, value: str(value),
    "capitals": lambda choose, value: str(value).upper(),
    "32 digits": lambda choose, value: value.hex,
    "32 digits in capitals": lambda choose, value: value.hex.upper(),
    "text": lambda choose, value: f"role-{value.hex[:9]}",
    "text and capitals": lambda choose, value: choose.choice((f"Role {value.hex[:9]}", str(value).upper())),
    "mixed": lambda choose, value: (str(value).upper(), value.hex)[value.int % 2],
}
# How an id that PostgreSQL has given out is spelled.
NEW_ID = {
    **SPELLINGS,
    "text": SPELLINGS["as PostgreSQL"],
    "text and capitals": SPELLINGS["capitals"],
    "mixed": SPELLINGS["as PostgreSQL"],
}


@dataclass(frozen=True)
class Column:
    """A column that is moved: its name in each database, what it holds, and its default in PostgreSQL, if any."""

    name: str
    target: str
    kind: Kind
    default: Pair | None = None

    @property
    def definition(self) -> str:
        """Return what stands in PostgreSQL's CREATE TABLE."""
        given = "" if self.default is None or self.default[1] is None else self.default[1].replace("'", "''")
        default = "" if self.default is None else f" DEFAULT '{given}'::{self.kind.target}"
        return f"{quoted(self.target)} {self.kind.target}{default}"


@dataclass
class Table:
    """A made-up table.

    :param key: ``number``, ``ids``, ``text``, or ``owned``: a parent's id with a number.
    :param spelling: of the ids in its key, or in its unique column ``code``.
    :param parent: the table that ``owner`` refers to, and ``refers_to`` the column there.
    :param policies: column → policy, answer, offending value.
    :param filtered: whether rows with ``gone`` stay behind.
    :param ids_of: the table whose ids stand in its columns of :data:`IDS_IN_JSON` and :data:`IDS_IN_TEXT`.
    :param orphan: the answer for owners that do not exist, if there are such.
    :param rows: the tags of the rows that PostgreSQL holds.
    """

    name: str
    target: str
    key: str
    spelling: str
    has_code: bool
    parent: Table | None
    refers_to: str
    columns: list[Column]
    policies: dict[str, tuple[str, str, Any]]
    filtered: bool
    autoincrement: bool
    clustered: bool
    ids_of: Table | None = None
    orphan: str | None = None
    rows: list[str] = field(default_factory=list)

    @property
    def id_kind(self) -> str:
        """Return the type that its ids have in PostgreSQL."""
        return {"number": "bigint", "ids": "uuid", "text": "text"}[self.key]

    def in_sqlite(self) -> str:
        """Return the statement that creates it in SQLite."""
        number = f"INTEGER PRIMARY KEY{' AUTOINCREMENT' if self.autoincrement else ''}"
        parts = {
            "number": [f"id {number}"],
            "ids": ["id TEXT PRIMARY KEY"],
            "text": ["id TEXT NOT NULL PRIMARY KEY"],
            "owned": ["number INTEGER NOT NULL"],
        }[self.key]
        parts += ["tag TEXT NOT NULL"] + (["code TEXT UNIQUE"] if self.has_code else [])
        if self.parent is not None:
            declared = "INTEGER" if self.refers_to == "id" and self.parent.key == "number" else "TEXT"
            parts.append(f"owner {declared} REFERENCES {quoted(self.parent.name)} ({self.refers_to})")
        parts += [f"{quoted(column.name)} {column.kind.declared}" for column in self.columns]
        parts += ["kept TEXT DEFAULT 'as ever'", "also_kept INTEGER"]
        if self.key == "owned":
            parts.append("PRIMARY KEY (owner, number)")
        return f"CREATE TABLE {quoted(self.name)} ({', '.join(parts)}){' WITHOUT ROWID' if self.clustered else ''}"

    def in_postgresql(self) -> str:
        """Return the statement that creates it in PostgreSQL."""
        numbers = "bigserial" if self.autoincrement else "bigint GENERATED BY DEFAULT AS IDENTITY"
        parts = {
            "number": [f"id {numbers} PRIMARY KEY"],
            "ids": ["id uuid PRIMARY KEY DEFAULT gen_random_uuid()"],
            "text": ["id text PRIMARY KEY"],
            "owned": ["number integer"],
        }[self.key]
        parts += ["tag text NOT NULL", "only_here text DEFAULT 'new'"] + (["code uuid UNIQUE"] if self.has_code else [])
        if self.parent is not None:
            kind = "uuid" if self.refers_to == "code" else self.parent.id_kind
            parts.append(f"parent {kind} REFERENCES {quoted(self.parent.target)} ({self.refers_to})")
        parts += [column.definition for column in self.columns]
        if self.key == "owned":
            parts.append("PRIMARY KEY (parent, number)")
        return f"CREATE TABLE {quoted(self.target)} ({', '.join(parts)});"

    def mapping(self) -> dict[str, Any]:
        """Return what the inventory says of it."""
        columns: dict[str, Any] = {name: {"without_target": "keep"} for name in ("kept", "also_kept")}
        computed = {}
        if self.parent is not None:
            columns["owner"] = {"target": "parent", **({"orphan": self.orphan} if self.orphan else {})}
        for column in self.columns:
            kind, policy = column.kind, self.policies.get(column.name)
            answers = {} if policy is None else {policy[0]: policy[1]}
            if self.ids_of is not None and kind in (IDS_IN_JSON, IDS_IN_TEXT):
                columns[column.name] = {"target": column.target, "rewrite_ids_of": [f"app.{self.ids_of.target}"]}
                continue
            if not kind.forward:
                columns[column.name] = {"target": column.target, **kind.options, **answers}
                continue
            back = kind.back.replace("{w}", quoted(column.target))
            computed[column.target] = {
                "from": kind.forward.replace("{v}", quoted(column.name)),
                "back": back if column.name == column.target else {column.name: back},
            }
            columns[column.name] = {"without_target": "keep"}
            if answers:
                columns[f"computed {column.target}"] = answers
        entry = {"source": self.name, "target": f"app.{self.target}", "columns": columns, "computed": computed}
        return {**entry, "row_filter": "gone IS NULL -- those stay"} if self.filtered else entry


def tables(choose: Random) -> list[Table]:
    """Make up one table, or up to three that refer to one another."""
    made: list[Table] = []
    for number in range(choose.randint(1, 3)):
        parents = [table for table in made if table.key != "owned"]
        parent = choose.choice([*parents, None]) if parents else None
        key = choose.choice(("number", "ids", "ids", "text", "owned") if parent else ("number", "ids", "ids", "text"))
        by_code = parent is not None and parent.has_code and choose.random() < 0.6
        names = choose.sample(NAMES, 12)
        kinds = choose.sample(KINDS, choose.randint(2, 5))
        # A computed column may have the name of the column that it is made from.
        columns = [
            Column(
                names[at],
                names[at] if choose.random() < 0.5 else names[6 + at],
                kind,
                kind.make(choose) if choose.random() < 0.3 else None,
            )
            for at, kind in enumerate(kinds)
        ]
        filtered = choose.random() < 0.4
        policies = {
            column.name: choose.choice(column.kind.offenders)
            for column in columns
            if column.kind.offenders and choose.random() < 0.7
        }
        if filtered:
            columns.append(Column("gone", "gone", FILTER))
        autoincrement = key == "number" and choose.random() < 0.5
        made.append(
            Table(
                name=choose.choice((f"table {number}", f"T{number}", f'"{number}"')),
                target=choose.choice((f"target {number}", f"t{number}")),
                key=key,
                spelling=choose.choice(list(SPELLINGS)),
                has_code=key in ("number", "text") and choose.random() < 0.6,
                parent=parent,
                refers_to="code" if by_code else "id",
                columns=columns,
                policies=policies,
                filtered=filtered,
                autoincrement=autoincrement,
                clustered=not autoincrement and choose.random() < 0.3,
            )
        )
    holders = [table for table in made if table.key == "ids"]
    for table in made:
        if holders and choose.random() < 0.6:
            table.ids_of = choose.choice(holders)
            table.columns += [Column("steps", "steps", IDS_IN_JSON), Column("agent", "agent in text", IDS_IN_TEXT)]
        if table.parent is not None and table.key != "owned" and choose.random() < 0.4:
            table.orphan = "set_null"
        if not any(child.parent is table for child in made) and choose.random() < 0.4:
            # Rows that are left out leave no row behind that refers to them.
            table.orphan = table.orphan and "reject"
            table.policies = {name: (policy, "reject", value) for name, (policy, _, value) in table.policies.items()}
    return made


# ---------------------------------------------------------------- the file, and what is written on both sides


def _code(table: Table, identity: uuid.UUID) -> str:
    """Return an id in the unique column, which takes no text ids: nothing says whose they would be."""
    spelled = table.spelling if table.spelling in list(SPELLINGS)[:4] else "32 digits"
    return SPELLINGS[spelled](Random(0), identity)


class BothSides:
    """The tables in the file that is changed by hand, and in PostgreSQL.

    Rows are known by their tag: ``moved`` is what PostgreSQL held of them after the move, and ``original`` the file.
    """

    def __init__(self, choose: Random, by_hand: sqlite3.Connection, made: list[Table]) -> None:
        self.choose = choose
        self.by_hand = by_hand
        self.tables = made
        self.count = 0
        self.moved: dict[str, dict[str, Any]] = {}
        self.original: dict[str, dict[str, Any]] = {}

    def fill(self) -> None:
        """Create the tables and their first rows: some stay behind, some hold what a policy answers for."""
        for table in self.tables:
            self.by_hand.execute(table.in_sqlite())
            for number in range(self.choose.randint(2, 7)):
                # The first row says how each column writes its values.
                self._first_row(table, complete=number == 0 or (table.spelling == "mixed" and number == 1))
            if table.filtered:
                for _ in range(2):
                    self._first_row(table, complete=True, gone=True)
            if table.autoincrement and self.choose.random() < 0.5:
                self.by_hand.execute("UPDATE sqlite_sequence SET seq = seq + 10 WHERE name = ?", (table.name,))
        self.by_hand.commit()

    def _first_row(self, table: Table, complete: bool, gone: bool = False) -> None:
        choose = self.choose
        values: dict[str, Any] = {"kept": choose.choice(WORDS), "also_kept": choose.randint(0, 9)}
        answers = set()
        for column in table.columns:
            policy = table.policies.get(column.name)
            if column.name == "gone":
                values[column.name] = column.kind.make(choose)[0] if gone else None
            elif policy is not None and not complete and choose.random() < 0.4:
                values[column.name] = policy[2]
                answers.add(policy[1])
            else:
                values[column.name] = self._value(table, column, complete)[0]
        # Of ids of two kinds the first one says how a UUID is spelled.
        tag, keys = self._new_key(table, NEW_ID if complete and table.spelling == "text and capitals" else SPELLINGS)
        values |= {name: pair[0] for name, pair in keys.items()}
        if table.orphan is not None and not complete and choose.random() < 0.4:
            values["owner"] = self._unknown_owner(table)
            answers.add(table.orphan)
        self._write(table, values)
        if not gone and "reject" not in answers:
            table.rows.append(tag)

    def _unknown_owner(self, table: Table) -> Any:
        """Return an id of no row, spelled as those of the parent table."""
        parent = table.parent
        if parent is None or (parent.key == "number" and table.refers_to == "id"):
            return -self.count
        identity = uuid.UUID(int=self.choose.getrandbits(128))
        return NEW_ID[parent.spelling](self.choose, identity) if parent.key == "ids" else _code(parent, identity)

    def _value(self, table: Table, column: Column, complete: bool = False) -> Pair:
        if not complete and self.choose.random() < 0.2:
            return None, None
        if column.kind in (IDS_IN_JSON, IDS_IN_TEXT) and table.ids_of is not None:
            return self._with_id(table.ids_of, column.kind)
        return column.kind.make(self.choose)

    def _with_id(self, table: Table, kind: Kind) -> Pair:
        """Return a value with the id of a row of a table; a new id only where the file spells it as PostgreSQL."""
        nobody = ("[]", "[]") if kind is IDS_IN_JSON else ("nobody", "nobody")
        if not table.rows:
            return nobody  # the table may not be made yet
        ids = dict(self.by_hand.execute(f"SELECT tag, id FROM {quoted(table.name)}").fetchall())
        any_id = table.spelling in ("as PostgreSQL", "text") or not self.moved
        tags = [tag for tag in table.rows if any_id or ids[tag] == self.original.get(tag, {}).get("id")]
        if not tags:
            return nobody
        tag = self.choose.choice(tags)
        old = ids[tag]
        if kind is IDS_IN_TEXT:
            return old, f"id:{tag}"
        return json.dumps([{"id": old, "note": f"by {old}"}, 1], ensure_ascii=False), f"ids:{tag}:{old}"

    def _new_key(
        self, table: Table, spellings: dict[str, Callable[[Random, uuid.UUID], str]]
    ) -> tuple[str, dict[str, Pair]]:
        """Return the tag of a new row, and the values of key, tag, unique column and owner."""
        choose = self.choose
        self.count += 1
        # Of a table that mixes spellings the first two rows have each.
        identity = uuid.UUID(int=choose.getrandbits(127) * 2 + self.count % 2)
        tag = f"row {self.count}"
        values: dict[str, Pair] = {"tag": (tag, tag)}
        if table.parent is not None:
            parent = choose.choice([*table.parent.rows, *([] if table.key == "owned" else [None])])
            values["owner"] = self._reference(table, parent)
        if table.has_code:
            values["code"] = (_code(table, identity), str(identity))
        # Once the sequences go on, so far apart that none gets from one to the next.
        number = self.count * (1000 if self.moved else 1)
        if table.key == "number":
            values["id"] = (number, str(number))
        elif table.key == "ids":
            values["id"] = (spellings[table.spelling](choose, identity), str(identity))
        elif table.key == "text":
            text = f"{choose.choice(WORDS)}{self.count}"
            values["id"] = (text, text)
        else:
            values["number"] = (number, str(number))
        return tag, values

    def _reference(self, table: Table, parent: str | None) -> Pair:
        """Return the value that refers to a row of the parent table: PostgreSQL's is found by the tag."""
        if parent is None or table.parent is None:
            return None, None
        found = self.by_hand.execute(
            f"SELECT {table.refers_to} FROM {quoted(table.parent.name)} WHERE tag = ?", (parent,)
        ).fetchone()[0]
        return found, f"tag:{parent}"

    def _write(self, table: Table, values: dict[str, Any]) -> None:
        names, marks = ", ".join(map(quoted, values)), ", ".join("?" * len(values))
        self.by_hand.execute(f"INSERT INTO {quoted(table.name)} ({names}) VALUES ({marks})", tuple(values.values()))

    # ------------------------------------------------------------ on both sides

    def change(self, connection: Connection) -> bool:
        """Write once, to PostgreSQL and by hand; return whether anything was done."""
        table = self.choose.choice(self.tables)
        what = self.choose.choice(("insert", "update", "update", "delete", "another key"))
        if what == "insert":
            return self._insert(connection, table)
        if not table.rows:
            return False
        tag = self.choose.choice(table.rows)
        if what == "update":
            return self._update(connection, table, tag)
        if self._is_referred_to(table, tag):
            return False
        return (self._delete if what == "delete" else self._give_another_key)(connection, table, tag)

    def _insert(self, connection: Connection, table: Table) -> bool:
        if table.key == "owned" and table.parent is not None and not table.parent.rows:
            return False
        tag, values = self._new_key(table, NEW_ID)
        by_default: dict[str, Pair] = {}
        for column in table.columns:
            if column.default is not None and self.choose.random() < 0.5:
                by_default[column.name] = column.default
            else:
                values[column.name] = self._value(table, column)
        given_out = table.key == "number" and (table.autoincrement or self.choose.random() < 0.5)
        if given_out:
            del values["id"]
        names = [quoted(self._target_name(table, name)) for name in values]
        marks, bound = self._bound(table, values)
        statement = f"INSERT INTO app.{quoted(table.target)} ({', '.join(names)}) VALUES ({', '.join(marks)})"
        on_postgresql(connection, statement, *bound)
        if given_out:
            ((number,),) = query(connection, f"SELECT id FROM app.{quoted(table.target)} WHERE tag = '{tag}'")
            values["id"] = (number, str(number))
        self._write(table, {name: pair[0] for name, pair in (values | by_default).items()})
        table.rows.append(tag)
        return True

    def _update(self, connection: Connection, table: Table, tag: str) -> bool:
        changed = self.choose.sample(table.columns, self.choose.randint(1, len(table.columns)))
        values = {column.name: self._value(table, column) for column in changed}
        if table.parent is not None and table.key != "owned" and self.choose.random() < 0.5:
            values["owner"] = self._reference(table, self.choose.choice([*table.parent.rows, None]))
        self._set(connection, table, tag, values)
        ((after,),) = query(connection, f"SELECT to_jsonb(t) FROM app.{quoted(table.target)} AS t WHERE tag = '{tag}'")
        for name, (value, _) in values.items():
            target = self._target_name(table, name)
            # Where PostgreSQL holds what a policy has made of the file's value, the file keeps its own.
            as_moved = tag in self.moved and after[target] == self.moved[tag][target]
            self.by_hand.execute(
                f"UPDATE {quoted(table.name)} SET {quoted(name)} = ? WHERE tag = ?",
                (self.original[tag][name] if as_moved else value, tag),
            )
        return True

    def _set(self, connection: Connection, table: Table, tag: str, values: dict[str, Pair]) -> None:
        marks, bound = self._bound(table, values)
        parts = [f"{quoted(self._target_name(table, name))} = {mark}" for name, mark in zip(values, marks, strict=True)]
        statement = f"UPDATE app.{quoted(table.target)} SET {', '.join(parts)} WHERE tag = \x01"
        on_postgresql(connection, statement, *bound, tag)

    def _give_another_key(self, connection: Connection, table: Table, tag: str) -> bool:
        """Give a row another key: it is another row then, and has nothing of what only the file had of the first."""
        if table.policies or table.orphan or table.autoincrement or table.key == "owned":
            return False
        _, values = self._new_key(table, NEW_ID)
        self._set(connection, table, tag, {"id": values["id"]})
        self.by_hand.execute(
            f"UPDATE {quoted(table.name)} SET id = ?, kept = 'as ever', also_kept = NULL WHERE tag = ?",
            (values["id"][0], tag),
        )
        return True

    def _delete(self, connection: Connection, table: Table, tag: str) -> bool:
        on_postgresql(connection, f"DELETE FROM app.{quoted(table.target)} WHERE tag = \x01", tag)
        self.by_hand.execute(f"DELETE FROM {quoted(table.name)} WHERE tag = ?", (tag,))
        table.rows.remove(tag)
        return True

    def _is_referred_to(self, table: Table, tag: str) -> bool:
        """Return whether another row holds an id of this one."""
        return any(
            self.by_hand.execute(
                f"SELECT 1 FROM {quoted(child.name)} WHERE owner = "
                f"(SELECT {child.refers_to} FROM {quoted(table.name)} WHERE tag = ?)",
                (tag,),
            ).fetchone()
            for child in self.tables
            if child.parent is table
        )

    def note_moved_rows(self, connection: Connection) -> None:
        """Note for each row that was moved what PostgreSQL holds, and what the file does."""
        for table in self.tables:
            for (moved,) in query(connection, f"SELECT to_jsonb(t) FROM app.{quoted(table.target)} AS t"):
                self.moved[moved["tag"]] = moved
            cursor = self.by_hand.execute(f"SELECT * FROM {quoted(table.name)}")
            for values in cursor.fetchall():
                original = dict(zip((column[0] for column in cursor.description), values, strict=True))
                self.original[original["tag"]] = original

    @staticmethod
    def _target_name(table: Table, name: str) -> str:
        renamed = {column.name: column.target for column in table.columns}
        return "parent" if name == "owner" else renamed.get(name, name)

    def _bound(self, table: Table, values: dict[str, Pair]) -> tuple[list[str], list[str | None]]:
        """Return for each value what stands for it in a statement, and what is bound there."""
        marks: list[str] = []
        bound: list[str | None] = []
        for _, text in values.values():
            if text is not None and text.startswith("tag:") and table.parent is not None:
                marks.append(f"(SELECT {table.refers_to} FROM app.{quoted(table.parent.target)} WHERE tag = \x01)")
                bound.append(text.removeprefix("tag:"))
            elif text is not None and text.startswith("id:") and table.ids_of is not None:
                marks.append(f"(SELECT id::text FROM app.{quoted(table.ids_of.target)} WHERE tag = \x01)")
                bound.append(text.removeprefix("id:"))
            elif text is not None and text.startswith("ids:") and table.ids_of is not None:
                _, tag, old = text.split(":", 2)
                pair = "jsonb_build_object('id', id, 'note', \x01::text)"
                marks.append(
                    f"(SELECT jsonb_build_array({pair}, 1) FROM app.{quoted(table.ids_of.target)} WHERE tag = \x01)"
                )
                bound += [f"by {old}", tag]
            else:
                marks.append("\x01")
                bound.append(text)
        return marks, bound


def content(path: Path) -> set[str]:
    """Return the rows of a file, with the storage class and every bit of each value; each has a tag of its own."""
    with closing(sqlite3.connect(path)) as opened:
        names = [name for (name,) in opened.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {f"{name}: {row}" for name in names for row in opened.execute(f"SELECT * FROM {quoted(name)}")}


def seeds() -> Iterator[Any]:
    """Yield the seeds: the first few for each run, the others for the long search."""
    yield from SEEDS
    for seed in range(FURTHER_SEEDS):
        if seed not in SEEDS:
            yield pytest.param(seed, marks=pytest.mark.long_search)


def test_the_first_seeds_make_up_all_that_a_mapping_can_be() -> None:
    made = [table for seed in SEEDS for table in tables(Random(seed))]
    columns = [column for table in made for column in table.columns]
    assert {table.spelling for table in made if table.key == "ids"} == set(SPELLINGS)
    assert {table.key for table in made} == {"number", "ids", "text", "owned"}
    assert {table.refers_to for table in made if table.parent is not None} == {"id", "code"}
    assert all(kind in [column.kind for column in columns] for kind in (*KINDS, IDS_IN_JSON, IDS_IN_TEXT, FILTER))
    assert any(table.orphan for table in made)
    assert any(column.name != column.target for column in columns)
    assert any(column.default is not None and column.kind.forward for column in columns)
    assert {"set_null", "reject"} <= {answer for table in made for _, answer, _ in table.policies.values()}


@pytest.mark.promise("rollback-keeps-every-row")
@pytest.mark.parametrize("seed", seeds())
def test_the_file_is_as_if_it_was_changed_by_hand(connection: Connection, tmp_path: Path, seed: int) -> None:
    choose = Random(seed)
    made = tables(choose)
    source, by_hand = tmp_path / "frozen.db", tmp_path / "by_hand.db"
    with closing(sqlite3.connect(by_hand)) as opened:
        estate = BothSides(choose, opened, made)
        estate.fill()
        shutil.copyfile(by_hand, source)
        source.chmod(0o600)
        make_target(connection, "".join(table.in_postgresql() for table in made))
        group = make_group(source, *(table.mapping() for table in made))
        report = rehearse(connection, group, tmp_path)["report"]
        assert all(table["equal"] for table in report["tables"])
        estate.note_moved_rows(connection)
        done = [estate.change(connection) for _ in range(choose.randint(0, 12))]
        opened.commit()
    exported, copy = bring_back(connection, group)
    assert exported.changed <= any(done)
    found, wanted = content(copy), content(by_hand)
    assert (sorted(found - wanted), sorted(wanted - found)) == ([], [])


@pytest.mark.parametrize(
    ("type_name", "policy", "offender", "values", "new", "back"),
    [
        ("timestamp", {"unconvertible": "set_null"}, "2023-02-30", "2024-05-01 10:00:00", "2024-06-02 11:30:00", None),
        ("timestamptz", {"unconvertible": "set_null"}, "0000-00-00 00:00:00", "2024-05-01T10:00:00.000Z",
         "2024-06-02 11:30:00+00", "2024-06-02T11:30:00.000Z"),
        ("date", {"unconvertible": "set_null"}, "0000-00-00", "2024-05-01", "2024-06-02", None),
        ("bigint", {"fraction": "round"}, 8.5, 7, str(-(2**63)), -(2**63)),
    ],
)  # fmt: skip
def test_values_that_only_a_policy_lets_pass_say_nothing_of_how_a_column_is_written(
    connection: Connection, tmp_path: Path, type_name: str, policy: dict[str, str], offender: Any, values: Any,
    new: str, back: Any,
) -> None:  # fmt: skip
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, v {type_name})")
    script = f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {'INTEGER' if type_name == 'bigint' else 'TEXT'})"
    rows = [(number, offender) for number in range(5)] + [(5, values)]
    source = make_source(tmp_path / "frozen.db", script, {"t": rows})
    group = make_group(source, {"source": "t", "columns": {"v": policy}})
    rehearse(connection, group, tmp_path)
    execute(connection, "INSERT INTO app.t VALUES (9, %s)", new)
    _, copy = bring_back(connection, group)
    assert content(copy) - content(source) == {f"t: {(9, new if back is None else back)}"}
