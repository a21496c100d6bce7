"""There and back: SQLite → PostgreSQL → SQLite gives back the same content, or a refusal that names why not.

Hypothesis makes up the tables and their values. The rows go to PostgreSQL with the engine; then a
file with the same tables, where rows are missing, changed, or too many, takes PostgreSQL's rows
back, and must hold what the first file holds, in every storage class and value.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import uuid
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.export.export import (
    ExportReport,
    export_changes,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.proof.canonical import (
    canonical_json,
)

from .support import empty_again, examples, make_group, make_target, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

Row = tuple[Any, ...]

CONTROL_CHARACTERS = "".join(map(chr, range(1, 32))) + "\x7f"
NAMES = (
    "id", "select", "User Name", 'say "hi"', "it's", "100%", "%s", "a.b", "semi;colon", "UPPER", "größe", "日本", "{}",
    "back\\slash", "order", "rowid", "value",
)  # fmt: skip
# Of the conversions that the report counts, those that the rollback undoes.
UNDONE = ("text id to uuid", "epoch ")


@dataclass(frozen=True)
class Broken:
    """A text whose bytes are not UTF-8, which Python cannot bind."""

    data: bytes


CHARACTERS = st.characters(codec="utf-8", exclude_characters="\x00")
TEXTS = st.text(CHARACTERS, max_size=15) | st.sampled_from(
    ["", "null", "\\N", "\\.", "a\tb\nc\rd\\", CONTROL_CHARACTERS, "🦆\U0010ffff", "\x1d\x1e\x1f", "5", "0012", "1e3"]
)
FLOATS = st.floats(allow_nan=False) | st.sampled_from([-0.0, 1e308, 5e-324, 0.1, 2.0**53, 1e22])
INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 2**63 - 1, -(2**63), 2**53 + 1])
SECONDS = st.datetimes(datetime(1980, 1, 1), datetime(2200, 1, 1)).map(lambda moment: moment.replace(microsecond=0))
MOMENTS = st.tuples(SECONDS, st.integers(0, 999)).map(lambda pair: pair[0].replace(microsecond=pair[1] * 1000))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(CHARACTERS, max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "ä"]), inner, max_size=3),
    max_leaves=6,
).map(lambda value: canonical_json(json.dumps(value, ensure_ascii=False)))
# What may stand anywhere, since SQLite lets it.
ANYTHING = st.one_of(
    INTEGERS, FLOATS, TEXTS, st.binary(max_size=8), st.sampled_from(["\x00", "a\x00b", "true", "2025-02-30", 1.5, b""]),
    st.sampled_from([Broken(b"\xff"), Broken(b"ab\xc3"), Broken(b"\xed\xa0\x80")]),
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of column.

    :param anything: whether values of other kinds may stand in it too: they are refused, or the
        report counts their conversion.
    :param formed: whether the form of its values is learnt from those that the file holds.
    :param epoch_unit: of the inventory: a file without values cannot tell it.
    """

    declared: str
    target: str
    values: st.SearchStrategy[Any]
    anything: bool = True
    formed: bool = False
    epoch_unit: str | None = None


KINDS = [
    Kind("INTEGER", "bigint", INTEGERS),
    Kind("", "bigint", INTEGERS),
    Kind("INTEGER", "integer", st.integers(-(2**31), 2**31 - 1)),
    Kind("TEXT", "text", TEXTS),
    Kind("", "text", TEXTS),
    Kind("VARCHAR(20)", "varchar(20)", TEXTS.filter(lambda text: len(text) <= 20)),
    Kind("REAL", "double precision", FLOATS),
    Kind("", "double precision", FLOATS, anything=False),
    Kind("BLOB", "bytea", st.binary(max_size=20)),
    Kind("NUMERIC", "numeric", INTEGERS | st.floats(allow_nan=False, allow_infinity=False)),
    Kind("BOOLEAN", "boolean", st.integers(0, 1)),
    Kind("TEXT", "json", JSON),
    Kind("TEXT", "jsonb", JSON, anything=False),
    Kind("TEXT", "timestamptz", SECONDS.map(str), anything=False),
    Kind("TEXT", "date", SECONDS.map(lambda moment: moment.date().isoformat()), anything=False),
    Kind("TEXT", "time", SECONDS.map(lambda moment: moment.time().isoformat()), anything=False),
    Kind("TIMESTAMP", "timestamptz", MOMENTS.map(lambda moment: f"{moment.isoformat(timespec='milliseconds')}Z"),
         anything=False, formed=True),
    Kind("INTEGER", "timestamptz", MOMENTS.map(lambda moment: round(moment.replace(tzinfo=UTC).timestamp() * 1000)),
         anything=False, epoch_unit="milliseconds"),
]  # fmt: skip
STRICT_TYPES = ("INTEGER", "TEXT", "REAL", "BLOB")


@dataclass(frozen=True)
class Table:
    """A made-up table: its columns, of which the first ``key_size`` are its key, and its rows."""

    name: str
    columns: tuple[tuple[str, Kind], ...]
    key_size: int
    options: str
    rows: tuple[Row, ...]
    parent: str | None = None

    def in_sqlite(self) -> str:
        """Return the statement that creates it in SQLite."""
        columns = [
            f"{quoted(name)} {kind.declared}{' NOT NULL' if position < self.key_size else ''}"
            for position, (name, kind) in enumerate(self.columns)
        ]
        return f"CREATE TABLE {quoted(self.name)} ({', '.join(columns)}{self._key()}) {self.options}"

    def in_postgresql(self) -> str:
        """Return the statement that creates it in PostgreSQL."""
        columns = [f"{quoted(name)} {kind.target}" for name, kind in self.columns]
        if self.parent is not None:
            columns[-1] += f" REFERENCES app.{quoted(self.parent)}"
        return f"CREATE TABLE {quoted(self.name)} ({', '.join(columns)}{self._key()});"

    def _key(self) -> str:
        names = ", ".join(quoted(name) for name, _ in self.columns[: self.key_size])
        return f", PRIMARY KEY ({names})" if names else ""


def quoted(name: str) -> str:
    """Return a name quoted, for both databases."""
    return '"' + name.replace('"', '""') + '"'


@st.composite
def tables(draw: st.DrawFn) -> list[Table]:
    """Make up one table, or two of which the second refers to the first."""
    first = draw(one_table("t one"))
    if first.columns[0][1].target != "uuid":
        return [first]
    owner = Kind("TEXT", "uuid", st.none() | st.sampled_from([row[0] for row in first.rows] or [None]), anything=False)
    second = draw(one_table("Second", (("the owner", owner),)))
    return [first, replace(second, parent=first.name)]


@st.composite
def one_table(draw: st.DrawFn, name: str, more: tuple[tuple[str, Kind], ...] = ()) -> Table:
    """Make up one table."""
    strict, clustered = draw(st.booleans()), draw(st.booleans())
    kinds = [kind for kind in KINDS if kind.declared in STRICT_TYPES] if strict else KINDS
    names = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=5, unique_by=str.lower))
    columns = [(each, draw(st.sampled_from(kinds))) for each in names]
    key = draw(st.sampled_from(["", "integer", "id", "text", "composite"]))
    integer, text = Kind("INTEGER", "bigint", INTEGERS, False), Kind("TEXT", "text", TEXTS, False)
    identity = Kind("TEXT", "uuid", TEXTS.filter(bool), False)
    start = {"integer": [integer], "id": [identity], "text": [text], "composite": [text, integer]}.get(key, [])
    for position, kind in enumerate(start):
        columns[position] = (columns[position][0], kind)
    options = (["WITHOUT ROWID"] if start and clustered else []) + (["STRICT"] if strict else [])
    columns += more
    rows = draw(st.lists(st.tuples(*(values_of(kind, at < len(start)) for at, (_, kind) in enumerate(columns))),
                         max_size=6, unique_by=(lambda row: row[: len(start)]) if start else None))  # fmt: skip
    return Table(name, tuple(columns), len(start), ", ".join(options), tuple(rows))


def values_of(kind: Kind, in_key: bool) -> st.SearchStrategy[Any]:
    """Return what may stand in a column; one value in twenty or so is of another kind."""
    if in_key:
        return kind.values
    if not kind.anything:
        return st.none() | kind.values
    return st.integers(0, 24).flatmap(lambda number: ANYTHING if not number else st.none() | kind.values)


def build(path: Path, made: list[Table], encoding: str) -> Path:
    """Make a file of the tables; rows that SQLite itself refuses are left out, and broken texts in UTF-16."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA encoding = '{encoding}'")
        for table in made:
            connection.execute(table.in_sqlite())
            for row in table.rows:
                if encoding != "UTF-8" and any(isinstance(value, Broken) for value in row):
                    continue
                marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, Broken) else "?" for value in row)
                values = [value.data if isinstance(value, Broken) else value for value in row]
                try:
                    connection.execute(f"INSERT INTO {quoted(table.name)} VALUES ({marks})", values)
                except sqlite3.IntegrityError:
                    event("a row that SQLite refuses")
        connection.commit()
    path.chmod(0o600)
    return path


def content(path: Path, table: Table, columns: list[str]) -> Counter[Row]:
    """Return the rows of a table with the storage class and every bit of each value."""
    parts = [f"typeof({quoted(name)}), CASE typeof({quoted(name)}) WHEN 'text' THEN CAST({quoted(name)} AS BLOB) "
             f"ELSE {quoted(name)} END" for name in columns]  # fmt: skip
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"SELECT {', '.join(parts) or 'NULL'} FROM {quoted(table.name)}")
        return Counter(tuple(map(repr, row)) for row in rows)


def changed_rows(draw: Any, table: Table, has_children: bool) -> tuple[Row, ...]:
    """Return other rows for the file that takes PostgreSQL's back: some missing, changed, or in excess."""
    rows = []
    for row in table.rows:
        what = draw(st.sampled_from(["keep", "keep", "drop", "change", "double"]))
        if what == "drop" and not has_children:
            continue
        if what == "change":
            row = row[: table.key_size] + draw(st.sampled_from(table.rows))[table.key_size :]
        rows.append(row)
        if what == "double" and not table.key_size:
            rows.append(row)
    return tuple(rows)


@pytest.mark.promise("rollback-keeps-every-row")
@settings(
    max_examples=examples(30, 120),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(made=tables(), encoding=st.sampled_from(["UTF-8", "UTF-8", "UTF-16le", "UTF-16be"]), data=st.data())
def test_the_same_content_comes_back(
    connection: Connection, tmp_path: Path, made: list[Table], encoding: str, data: st.DataObject
) -> None:
    empty_again(connection)
    make_target(connection, "".join(table.in_postgresql() for table in made))
    source = build(tmp_path / f"{uuid.uuid4()}.db", made, encoding)
    mappings = [
        {
            "source": table.name,
            "columns": {name: {"epoch_unit": kind.epoch_unit} for name, kind in table.columns if kind.epoch_unit},
        }
        for table in made
    ]
    try:
        report = rehearse(connection, make_group(source, *mappings), tmp_path)["report"]
    except MigrationError as error:
        connection.rollback()
        event("refused")
        assert error.problems
        assert all(problem.what and problem.fix for problem in error.problems)
        assert any(table.name in problem.where for problem in error.problems for table in made)
        return
    wiped = data.draw(st.booleans())
    has_children = len(made) > 1
    others = [
        replace(table, rows=() if wiped else changed_rows(data.draw, table, has_children and table is made[0]))
        for table in made
    ]
    frozen = build(tmp_path / "frozen.db", others, encoding)
    copy = tmp_path / "copy.db"
    shutil.copyfile(frozen, copy)
    copy.chmod(0o600)
    export_changes(connection, make_group(frozen, *mappings), frozen, copy)
    event("came back")
    converted = {
        (entry["source"], each["column"])
        for entry in report["tables"]
        for each in entry["conversions"]
        if not each["conversion"].startswith(UNDONE)
    }
    for table, other in zip(made, others, strict=True):
        exact = [
            name
            for position, (name, kind) in enumerate(table.columns)
            if (table.name, name) not in converted
            and not (kind.formed and all(row[position] is None for row in other.rows))
        ]
        assert content(copy, table, exact) == content(source, table, exact)


def there_and_back(connection: Connection, tmp_path: Path, source: Path, name: str) -> ExportReport:
    """Bring a table's rows into a file from which they were wiped, and see that they are the same."""
    rehearse(connection, make_group(source, {"source": name}), tmp_path)
    frozen, copy = tmp_path / "frozen.db", tmp_path / "copy.db"
    shutil.copyfile(source, frozen)
    with closing(sqlite3.connect(frozen)) as writer:
        writer.execute(f"DELETE FROM {name}")
        writer.commit()
        writer.execute("VACUUM")
    shutil.copyfile(frozen, copy)
    copy.chmod(0o600)
    report = export_changes(connection, make_group(frozen, {"source": name}), frozen, copy)
    everything = f"SELECT * FROM {name} ORDER BY 1"
    with closing(sqlite3.connect(source)) as before, closing(sqlite3.connect(copy)) as after:
        assert after.execute(everything).fetchall() == before.execute(everything).fetchall()
    return report


def test_values_of_megabytes_come_back(connection: Connection, tmp_path: Path) -> None:
    """Each large value is written and hashed in several pieces, of a million characters each."""
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text, w bytea, j jsonb, n numeric)")
    size = 5 << 20
    source = tmp_path / "large.db"
    with closing(sqlite3.connect(source)) as writer:
        writer.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, w BLOB, j TEXT, n TEXT)")
        document = '{"a": "' + "ä" * (size // 2) + '"}'
        rows = [
            (1, "x\ty\n" * (size // 4), bytes(range(256)) * (size // 256), document, "9" * 5_000),
            (2, "🦆" * (size // 4), None, None, None),
        ]
        writer.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", rows)
        writer.commit()
    assert there_and_back(connection, tmp_path, source, "t").tables[0].inserted == 2


@pytest.mark.parametrize("rows", [0, 1, 3_000])
def test_any_number_of_rows_comes_back(connection: Connection, tmp_path: Path, rows: int) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text, x double precision, moods text[])")
    source = tmp_path / "many.db"
    with closing(sqlite3.connect(source)) as writer:
        writer.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, x REAL, moods TEXT)")
        writer.executemany(
            "INSERT INTO t VALUES (?, ?, ?, ?)",
            ((number, f"row {number}", number / 7, f"{{mood{number % 5}}}") for number in range(rows)),
        )
        writer.commit()
    assert there_and_back(connection, tmp_path, source, "t").tables[0].inserted == rows


def test_every_control_character_and_every_plane_comes_back(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v text)")
    source = tmp_path / "characters.db"
    with closing(sqlite3.connect(source)) as writer:
        writer.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
        codes = [*range(1, 0x300), 0x2028, 0xFEFF, 0xFFFD, 0xFFFE, 0xFFFF, *range(0x1F600, 0x1F650), 0x10FFFF]
        writer.executemany("INSERT INTO t VALUES (?, ?)", ((code, f"a{chr(code)}b") for code in codes))
        writer.commit()
    assert there_and_back(connection, tmp_path, source, "t").tables[0].inserted == len(codes)
