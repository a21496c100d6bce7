"""The way back: brings the rows written to PostgreSQL since the cutover into a copy of the frozen SQLite file.

The rows of both sides are told apart by the hashes of their canonical fields (:mod:`.canonical`),
and only those that differ are written: each value in the form its column has (:mod:`.source_forms`),
tested to read back as the same value before it is taken. All others stay byte for byte as they
are, among them values that a policy repaired on their way to PostgreSQL, rejected rows, and
columns without a target. Nothing is written to PostgreSQL, and nothing to the copy either unless
all of it is proven equal there.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import stat
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import md5
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from .canonical import define_functions, null_field, source_field, source_reader, target_field, target_value
from .catalog import read_catalog
from .connection import explained, first_row
from .convert import Convert, Refused, converter
from .errors import MigrationError, Problem
from .estate import Group
from .names import table_name
from .plan import ColumnPlan, TablePlan, plan_group
from .policies import repair
from .prepare import Prepared, PreparedTable, prepare
from .server_forms import ServerForms
from .snapshot import sha256_of
from .source import (
    ROWID_ALIASES,
    SourceTable,
    Value,
    add_missing_collations,
    has_invalid_utf8,
    quote_name,
    read_rows,
    read_tables,
    row_key,
    show,
    to_json,
    unknown_collations,
)
from .source_forms import Form, candidates, read_form
from .verify import Comparison, compare_tables

try:
    from psycopg2 import sql
except ImportError:  # reported by connection.connect()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.sql import Composable

_SHOWN_KEYS = 5
_SHOWN_CHARACTERS = 60
_ROWS_AT_ONCE = 500
# The values of so many bytes of rows are held at once, or of one row.
_BYTES_AT_ONCE = 4 << 20
_STREAMED_ROWS = 5_000
# Of up to two arguments each, and SQLite's printf takes 127.
_FIELDS_AT_ONCE = 50
_CHANGE_IT = (
    "Change it in PostgreSQL to something that the old schema can hold, or delete the row there, then run again"
)


@dataclass(frozen=True)
class TableExport:
    """What the way back did to one table of the copy.

    :param rows: rows that are now equal on both sides.
    :param content_hash: the sum over them, the same on both sides.
    :param kept_rows: rows that never went to PostgreSQL and stay: rejected, or left behind by ``row_filter``.
    :param not_told: columns of the target that the source lacks, and whose default is not one value
        (``now()``, for example), so that nobody can tell whether something else stands in them.
    """

    source: str
    target: str
    inserted: int
    updated: int
    deleted: int
    rows: int
    content_hash: str
    kept_rows: int
    not_told: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportReport:
    """What the way back did to a copy.

    :param sequences: source table → the id that AUTOINCREMENT will not give out again.
    """

    tables: tuple[TableExport, ...]
    sequences: Mapping[str, int]

    @property
    def changed(self) -> bool:
        """Return whether any row was written."""
        return any(table.inserted or table.updated or table.deleted for table in self.tables)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "changed": self.changed,
            "tables": [asdict(table) for table in self.tables],
            "sequences": dict(self.sequences),
        }


def export_changes(connection: Connection, group: Group, frozen: Path, copy: Path) -> ExportReport:
    """Make a copy of the frozen file equal in content to PostgreSQL, and prove it.

    The group's services must be stopped. PostgreSQL is read in one snapshot and never written to;
    the connection's transaction is rolled back before and after. The copy changes in one
    transaction, which commits only after the proof; after a crash make a new copy.

    :param frozen: the file as it was at the cutover; it is only read.
    :param copy: a byte-for-byte copy of it, mode 0600, in a directory with room for some
        private files beside it.
    :raises MigrationError: with every row and value that the old schema cannot hold; the copy is as it was.
    """
    _require_copy(frozen, copy)
    connection.rollback()
    try:
        with (
            explained(f"bringing the changes of cutover group {group.name} back"),
            _work_directory(copy) as directory,
            closing(_open_frozen(frozen)) as source,
            closing(_open_copy(copy)) as writer,
        ):
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            targets = read_catalog(connection, [mapping.target for mapping in group.tables])
            plans = plan_group(group, source, read_tables(source), targets)
            with _transaction(writer):
                return _Export(connection, group, frozen, directory, source, writer, plans).run()
    except sqlite3.Error as error:
        raise MigrationError(
            f"SQLite cannot bring the changes of cutover group {group.name} back.",
            [Problem(str(copy), str(error), "Correct this, then run again with a new copy")],
        ) from None
    finally:
        if not connection.closed:
            connection.rollback()


def _require_copy(frozen: Path, copy: Path) -> None:
    """Refuse anything but a private copy of a file that is at rest.

    :raises MigrationError: naming what is wrong with it.
    """
    problems = []
    try:
        status = copy.lstat()
    except FileNotFoundError:
        raise MigrationError(
            "The changes cannot be brought back.",
            [Problem(str(copy), "there is no such file", "Copy the frozen file")],
        ) from None
    if not stat.S_ISREG(status.st_mode) or copy.samefile(frozen):
        problems.append(Problem(str(copy), "it is no file of its own", "Give a copy of the frozen file"))
    elif stat.S_IMODE(status.st_mode) & 0o077:
        problems.append(Problem(str(copy), "others may read or write it", "Give it the mode 0600"))
    elif sha256_of(copy) != sha256_of(frozen):
        problems.append(Problem(str(copy), f"it is no copy of {frozen}: its bytes differ", "Copy the frozen file anew"))
    for path in (frozen, copy):
        for suffix in ("-wal", "-journal"):
            journal = Path(f"{path}{suffix}")
            if journal.exists() and journal.stat().st_size:
                problems.append(Problem(str(journal), "it holds pages that the file lacks", "Freeze the file anew"))
    if problems:
        raise MigrationError("The changes cannot be brought back into this file.", problems)


@contextmanager
def _work_directory(copy: Path) -> Iterator[Path]:
    """Give a private directory beside the copy, and remove it at the end; one that a killed run left goes first."""
    directory = copy.with_name(f"{copy.name}.export")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _open_frozen(path: Path) -> sqlite3.Connection:
    """Open the frozen file for reading, so that nothing appears beside it."""
    connection = sqlite3.connect(f"file:{quote(str(path))}?immutable=1", uri=True)
    _read_every_byte(connection)
    return connection


def _open_copy(path: Path) -> sqlite3.Connection:
    """Open the copy for writing; foreign keys are checked at the end, for all rows at once."""
    connection = sqlite3.connect(path, isolation_level=None)
    _read_every_byte(connection)
    connection.execute("PRAGMA foreign_keys = OFF")
    return connection


def _read_every_byte(connection: sqlite3.Connection) -> None:
    """Let texts come back byte for byte, as :func:`.source.open_snapshot` does."""
    connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
    add_missing_collations(connection)


@contextmanager
def _transaction(writer: sqlite3.Connection) -> Iterator[None]:
    """Commit what was written inside, or take it back; leave nothing beside the file."""
    writer.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if writer.in_transaction:
            writer.execute("ROLLBACK")
        raise
    writer.execute("COMMIT")
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class _Offenders:
    """Collects what cannot be said in the old schema, by place and reason."""

    def __init__(self, frozen: Path) -> None:
        self._frozen = frozen
        self._found: dict[tuple[str, str], list[str]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, where: str, what: str, *rows: str, count: int = 1) -> None:
        """Note some rows or values; ``rows`` names the first of them, secrets masked."""
        self._counts[(where, what)] += count
        shown = self._found.setdefault((where, what), [])
        shown.extend(rows[: _SHOWN_KEYS - len(shown)])

    def require_none(self, group: Group) -> None:
        """Refuse to go on.

        :raises MigrationError: with one problem for each place and reason.
        """
        problems = []
        for (where, what), rows in self._found.items():
            count = self._counts[(where, what)]
            more = "" if count == len(rows) else f" and {count - len(rows):,} more"
            number = "1 row" if count == 1 else f"{count:,} rows"
            shown = f"{what} ({number}: {'; '.join(rows)}{more})"
            problems.append(Problem(f"{self._frozen}: {where}", shown, _CHANGE_IT))
        if problems:
            raise MigrationError(f"What PostgreSQL holds of {group.name} cannot be said in the old schema.", problems)


@dataclass
class _Counts:
    """Rows written to one table."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    not_told: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Export:
    """One way back of one group; the fields are what its steps need."""

    connection: Connection
    group: Group
    frozen: Path
    directory: Path
    source: sqlite3.Connection
    writer: sqlite3.Connection
    plans: Sequence[TablePlan]

    def run(self) -> ExportReport:
        """Write what differs, and prove that both sides are equal then."""
        offenders = _Offenders(self.frozen)
        forms = ServerForms(self.connection)
        prepared = self._prepare(self.source, forms)
        orphans_before = _orphans(self.source)
        counts: dict[str, _Counts] = {}
        for table in prepared.tables:
            counts[table.plan.target.name] = _TableExport(
                self.connection, self.source, self.writer, table, forms, self.directory, offenders
            ).run()
        _note_new_orphans(self.source, self.writer, orphans_before, offenders)
        offenders.require_none(self.group)
        sequences = _move_sequences(self.connection, self.writer, self.plans)
        comparisons = self._prove(prepared, forms)
        _require_integrity(self.source, self.writer, self.frozen)
        return ExportReport(
            tuple(
                TableExport(
                    source=table.plan.source.name,
                    target=table.plan.target.name,
                    inserted=counts[table.plan.target.name].inserted,
                    updated=counts[table.plan.target.name].updated,
                    deleted=counts[table.plan.target.name].deleted,
                    rows=comparison.source_rows,
                    content_hash=comparison.source_hash,
                    kept_rows=len(table.rejected) + table.plan.filtered_rows,
                    not_told=counts[table.plan.target.name].not_told,
                )
                for table, comparison in zip(prepared.tables, comparisons, strict=True)
            ),
            sequences,
        )

    def _prepare(self, file: sqlite3.Connection, forms: ServerForms, exact: bool = False) -> Prepared:
        """Find out which rows of a file are rejected, and which values repaired."""
        try:
            return prepare(self.group, file, self.plans, self.directory, forms, spool=False, exact=exact)
        except MigrationError:
            if exact:
                raise
            return self._prepare(file, forms, exact=True)

    def _prove(self, prepared: Prepared, forms: ServerForms) -> list[Comparison]:
        """Compare the copy with PostgreSQL.

        First as a new migration would, which is fast. That may see a row that was rejected, or a value
        that was repaired, and is right by now: the row it clashed with is another, say. So what counts is
        the comparison in which the rejected rows are those of the move, and the repaired values too.

        :param prepared: what is left of the frozen file's rejected rows and repaired values.
        :raises MigrationError: naming rows, columns and both values.
        """
        try:
            again = self._prepare(self.writer, forms)
        except MigrationError:
            pass
        else:
            comparisons = compare_tables(self.connection, self.writer, again.tables)
            if all(comparison.equal for comparison in comparisons):
                return comparisons
        as_moved = [replace(table, plain=None, odd_rows=max(1, table.source_rows)) for table in prepared.tables]
        comparisons = compare_tables(self.connection, self.writer, as_moved)
        if all(comparison.equal for comparison in comparisons):
            return comparisons
        problems = []
        for table, comparison in zip(prepared.tables, comparisons, strict=True):
            mapping = table.plan.mapping
            selected = [name for name in ("row_filter", "computed") if getattr(mapping, name)]
            fix = f"Look at {' and '.join(selected)} of the table in the inventory" if selected else _CHANGE_IT
            for found in comparison.differences:
                what = (
                    f"{found['key']}: {found['column']} would read as {found['source']}, "
                    f"and PostgreSQL holds {found['target']}"
                )
                problems.append(Problem(f"{self.frozen}: {table.plan.source.name}", what, fix))
        raise MigrationError(f"What PostgreSQL holds of {self.group.name} cannot be said in the old schema.", problems)


# ---------------------------------------------------------------- one table


@dataclass(frozen=True)
class _Change:
    """A row that differs.

    :param locator: how to find it in the file, None for a new row.
    :param place: where PostgreSQL holds it, see its ``ctid``.
    """

    locator: tuple[Value, ...] | None
    place: str


class _TableExport:
    """Brings one table of the copy to what PostgreSQL holds."""

    def __init__(
        self,
        connection: Connection,
        source: sqlite3.Connection,
        writer: sqlite3.Connection,
        prepared: PreparedTable,
        forms: ServerForms,
        directory: Path,
        offenders: _Offenders,
    ) -> None:
        self._connection = connection
        self._source = source
        self._writer = writer
        self._prepared = prepared
        self._forms = forms
        self._directory = directory
        self._offenders = offenders
        self._plan = plan = prepared.plan
        self._columns = plan.compared
        self._readers = [source_reader(column, partial(forms.normal_form, plan, column)) for column in self._columns]
        self._nulls = [null_field(column) for column in self._columns]
        written = {column.name for column in plan.source.columns if not column.generated}
        self._written = [index for index, column in enumerate(plan.columns) if column.source in written]
        self._locator = _locator(source, plan.source)
        self._located = replace(plan.source, key=self._locator)
        self._fields, self._values, self._joins = _target_columns(connection, plan)
        self._counts = _Counts()

    def run(self) -> _Counts:
        """Write every row that differs; note what cannot be said."""
        self._counts.not_told = self._check_other_columns()
        path = self._directory / "rows.db"
        path.touch(mode=0o600)
        with closing(_open_work(path)) as work:
            self._fill(work)
            if _differs(work):
                self._require_known_collations()
                with _without_triggers(self._writer, self._plan.source.name):
                    self._write(work)
        path.unlink()
        return self._counts

    # ------------------------------------------------------------ which rows differ

    def _fill(self, work: sqlite3.Connection) -> None:
        """Bring the hashes of both sides' rows together, and pair them up."""
        positions = self._key_positions()
        work.executemany("INSERT INTO source VALUES (?, ?, ?, ?, 1)", self._source_hashes(positions))
        work.executemany("INSERT INTO target VALUES (?, ?, ?, ?, 1)", self._target_hashes(positions))
        work.execute("CREATE INDEX target_hash ON target (hash)")
        if self._prepared.plain is not None:
            self._read_again(work, positions)
        if not positions or _has_duplicates(work):
            # Rows are told apart by all of their values, and equal ones are counted.
            work.execute("UPDATE source SET key = CASE rejected WHEN 0 THEN hash END")
            work.execute("UPDATE target SET key = hash")
            for table in ("source", "target"):
                work.execute(
                    f"UPDATE {table} SET number = n.number FROM (SELECT rowid AS id, "  # noqa: S608 (constant)
                    f"row_number() OVER (PARTITION BY key ORDER BY rowid) AS number FROM {table}) AS n "
                    f"WHERE n.id = {table}.rowid AND n.number > 1"
                )
        for table in ("source", "target"):
            work.execute(f"CREATE INDEX {table}_key ON {table} (key, number)")
        if not self._prepared.rejected:
            return
        # A rejected row is a row like any other if PostgreSQL has got its key meanwhile, and no other row has it.
        work.execute(
            "UPDATE source SET key = NULL WHERE rejected AND rowid NOT IN "
            "(SELECT rowid FROM (SELECT rowid, row_number() OVER (PARTITION BY key ORDER BY rejected, rowid) AS number "
            "FROM source WHERE key IS NOT NULL AND key IN (SELECT key FROM source WHERE rejected)) WHERE number = 1)"
        )

    def _key_positions(self) -> list[int]:
        """Return the positions of the columns that tell rows apart; none if only all of them together do."""
        plan = self._plan
        by_target = {column.target: index for index, column in enumerate(plan.columns)}
        keys = [plan.target.key] + [
            key for key in plan.target.unique_keys if all(plan.target.columns[name].not_null for name in key)
        ]
        for key in keys:
            if key and all(name in by_target for name in key):
                return [by_target[name] for name in key]
        by_source = {column.source: index for index, column in enumerate(plan.columns)}
        return [by_source[name] for name in plan.source.key if name in by_source]

    def _source_hashes(self, positions: Sequence[int]) -> Iterator[tuple[bytes | None, bytes, str, int]]:
        """Yield for each row of the file: hash of its key, of all of it, how to find it, whether it was rejected."""
        prepared = self._prepared
        if prepared.plain is not None:
            yield from self._plain_hashes(positions, "" if prepared.odd_rows == 0 else prepared.plain.condition)
            if not prepared.odd_rows:
                return
        for values, key, locator in self._source_rows(prepared.odd_condition):
            named, whole = self._exact_hashes(values, key, positions)
            yield named, whole, _locator_text(locator), int(key in prepared.rejected)

    def _exact_hashes(self, values: Sequence[Value], key: str, positions: Sequence[int]) -> tuple[bytes | None, bytes]:
        """Return the hash of a row's key, and of all of it."""
        fields = self._source_fields(values, key)
        whole = [each for each in fields if each is not None]
        named = [each for index in positions if (each := fields[index]) is not None]
        return (
            _hash("".join(named)) if positions and len(named) == len(positions) else None,
            # Nothing is equal to a row of which some value has no canonical form.
            _hash("".join(whole)) if len(whole) == len(fields) else b"",
        )

    def _read_again(self, work: sqlite3.Connection, positions: Sequence[int]) -> None:
        """Hash the rows again in Python that seem to differ: perhaps SQLite has only said them in another way."""
        last = 0
        query = (
            "SELECT s.rowid, s.locator FROM source s WHERE s.rowid > ? AND NOT s.rejected "
            "AND NOT EXISTS (SELECT 1 FROM target t WHERE t.hash = s.hash) ORDER BY s.rowid LIMIT ?"
        )
        while suspects := work.execute(query, (last, _ROWS_AT_ONCE)).fetchall():
            last = suspects[-1][0]
            for number, locator in suspects:
                values, key = self._source_row(_locator_of(locator))
                named, whole = self._exact_hashes(values, key, positions)
                work.execute("UPDATE source SET key = ?, hash = ? WHERE rowid = ?", (named, whole, number))

    def _source_row(self, locator: Sequence[Value]) -> tuple[Sequence[Value], str]:
        """Return the values of one row of the file, and its key as text."""
        plan = self._plan
        where, bound = _where(self._locator, locator)
        names = ", ".join(quote_name(name) for name in (*(column.source for column in self._columns), *plan.source.key))
        row = self._source.execute(
            f"SELECT {names} FROM {self._located.relation} WHERE {where}",  # noqa: S608 (quoted)
            bound,
        ).fetchone()
        count = len(self._columns)
        return row[:count], row_key(plan.source, row[count:])

    def _plain_hashes(self, positions: Sequence[int], condition: str) -> Iterator[tuple[bytes, bytes, str, int]]:
        """Yield the same for the rows whose fields SQLite builds itself; :mod:`.verify` reads them so too.

        What only seems to differ is found by :meth:`_read_again`.
        """
        define_functions(self._source)
        whole = _built_by_sqlite(self._columns)
        named = _built_by_sqlite([self._columns[index] for index in positions]) if positions else "''"
        locators = ", ".join(f"{name}, typeof({name})" for name in map(quote_name, self._locator))
        where = f" WHERE {condition}" if condition else ""
        before = self._source.text_factory
        self._source.text_factory = bytes
        try:
            for line, key, *locator in self._source.execute(
                f"SELECT {whole}, {named}, {locators} FROM {self._located.scan}{where}"  # noqa: S608 (quoted)
            ):
                yield _digest(key), _digest(line), _locator_text(list(map(_as_stored, locator[::2], locator[1::2]))), 0
        finally:
            self._source.text_factory = before

    def _source_rows(self, condition: str | None) -> Iterator[tuple[Sequence[Value], str, tuple[Value, ...]]]:
        """Yield the values of each row of the file, its key as text, and how to find it."""
        plan = self._plan
        names = tuple(column.source for column in self._columns)
        count, end = len(names), len(names) + len(plan.source.key)
        rows = read_rows(self._source, self._located, (*names, *plan.source.key), condition)
        for block in self._forms.learned(plan, rows):
            for row in block:
                yield row[:count], row_key(plan.source, row[count:end]), tuple(row[end:])

    def _source_fields(self, values: Sequence[Value], key: str) -> list[str | None]:
        """Return the canonical fields of a row of the file, policies applied; a rejected row may lack some."""
        changes = self._prepared.changes.get(key, {})
        fields: list[str | None] = []
        for column, read, null, value in zip(self._columns, self._readers, self._nulls, values, strict=True):
            for answer in changes.get(column.source, ()):
                value = repair(value, answer, column.scale)
            try:
                read_as = null if value is None else read(value)
                _hash(read_as)
            except Exception:
                if key not in self._prepared.rejected:
                    raise
                fields.append(None)
            else:
                fields.append(read_as)
        return fields

    def _target_hashes(self, positions: Sequence[int]) -> Iterator[tuple[bytes, bytes, str, int]]:
        """Yield for each row of PostgreSQL: hash of its key, of all of it, its place, and its size in bytes."""
        line = sql.SQL(" || ").join(self._fields)
        named = sql.SQL(" || ").join([self._fields[index] for index in positions] or [sql.SQL("''")])
        query = sql.SQL(
            "SELECT place, md5(named), md5(line), octet_length(line) FROM "
            "(SELECT t.ctid::text AS place, {} AS named, {} AS line FROM ONLY {} AS t{} OFFSET 0) AS rows"
        ).format(named, line, table_name(self._plan.target.name), self._joins)
        with self._connection.cursor(name="rows_of_target") as cursor:
            cursor.itersize = _STREAMED_ROWS
            cursor.execute(query)
            for place, key, whole, size in cursor:
                yield bytes.fromhex(key), bytes.fromhex(whole), place, size

    # ------------------------------------------------------------ writing

    def _write(self, work: sqlite3.Connection) -> None:
        """Delete, update and insert, in this order."""
        locators = (
            "SELECT s.locator FROM source s WHERE NOT s.rejected "
            "AND NOT EXISTS (SELECT 1 FROM target t WHERE t.key = s.key AND t.number = s.number)"
        )
        for (locator,) in work.execute(locators):
            if self._prepared.changes:
                # Another row may get its row id.
                self._prepared.changes.pop(self._source_row(_locator_of(locator))[1], None)
            where, values = _where(self._locator, _locator_of(locator))
            try:
                self._writer.execute(f"DELETE FROM {self._table} WHERE {where}", values)  # noqa: S608 (quoted)
            except sqlite3.Error as error:
                secret = not self._plan.secret_columns.isdisjoint(self._locator)
                self._refused(error, "(secret)" if secret else locator)
            self._counts.deleted += 1
        value_forms = _ValueForms(self._source, self._plan, self._forms)
        updates = (
            "SELECT s.locator, t.place, t.size FROM target t JOIN source s "
            "ON s.key = t.key AND s.number = t.number WHERE s.hash <> t.hash"
        )
        held = _Held(self._writer, self._plan.source, self._locator)
        for change, found in self._changed(work.execute(updates)):
            self._update(change, found, value_forms, held)
        for where, what, row in held.put_back():
            self._offenders.add(where, what, row)
        inserts = (
            "SELECT NULL, t.place, t.size FROM target t "
            "WHERE NOT EXISTS (SELECT 1 FROM source s WHERE s.key = t.key AND s.number = t.number)"
        )
        for _, found in self._changed(work.execute(inserts)):
            self._insert(found, value_forms)

    @property
    def _table(self) -> str:
        """Return the quoted name of the table in the file."""
        return quote_name(self._plan.source.name)

    def _changed(self, rows: Iterable[tuple[str | None, str, int]]) -> Iterator[tuple[_Change, list[Any]]]:
        """Yield rows that differ with what PostgreSQL holds of them: hash of the field, then value, of each column."""
        block: list[_Change] = []
        size = 0
        for locator, place, row_size in rows:
            if block and (len(block) >= _ROWS_AT_ONCE or size + row_size > _BYTES_AT_ONCE):
                yield from self._read(block)
                block, size = [], 0
            block.append(_Change(None if locator is None else _locator_of(locator), place))
            size += row_size
        if block:
            yield from self._read(block)

    def _read(self, block: Sequence[_Change]) -> Iterator[tuple[_Change, list[Any]]]:
        """Yield the rows of a block with what PostgreSQL holds of them."""
        columns: list[Composable] = [sql.SQL("t.ctid::text")]
        columns += [sql.SQL("md5({})").format(each) for each in self._fields]
        columns += self._values
        query = sql.SQL("SELECT {} FROM ONLY {} AS t{} WHERE t.ctid = ANY ({}::tid[])").format(
            sql.SQL(", ").join(columns),
            table_name(self._plan.target.name),
            self._joins,
            # No parameter: then a name may hold a percent sign.
            sql.Literal([change.place for change in block]),
        )
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            rows = {row[0]: list(row[1:]) for row in cursor}
        # So that the forms of all texts are asked for at once.
        first, last = len(self._columns), len(self._columns) + len(self._plan.columns)
        values = [(*rows[change.place][first:last], number) for number, change in enumerate(block)]
        for learned in self._forms.learned(self._plan, values):
            for *_, number in learned:
                change = block[cast(int, number)]
                yield change, rows[change.place]

    def _update(self, change: _Change, found: Sequence[Any], value_forms: _ValueForms, held: _Held) -> None:
        """Write the values of one row that differ."""
        row = self._shown(found)
        where, bound = _where(self._locator, change.locator or ())
        values, key = self._source_row(change.locator or ())
        before = self._source_fields(values, key)
        new: dict[str, Value] = {}
        for index in self._written:
            known = before[index]
            if known is None or _hash(known).hex() != found[index]:
                self._say(index, found, row, value_forms, new)
        if not new:
            return  # nothing, or what is computed from other columns: the proof names it
        self._prepared.rejected.pop(key, None)
        repaired = self._prepared.changes.get(key, {})
        for name in repaired.keys() & new.keys():
            del repaired[name]
        self._counts.updated += 1
        assignments = ", ".join(f"{quote_name(name)} = ?" for name in new)
        try:
            self._writer.execute(
                f"UPDATE OR ABORT {self._table} SET {assignments} WHERE {where}",  # noqa: S608 (quoted)
                (*new.values(), *bound),
            )
        except sqlite3.IntegrityError as error:
            if _is_clash(error):
                # Perhaps with a row that is still to change.
                held.take(change.locator or (), new, row)
            else:
                self._refused(error, row)
        except sqlite3.Error as error:
            self._refused(error, row)

    def _insert(self, found: Sequence[Any], value_forms: _ValueForms) -> None:
        """Write one new row."""
        row = self._shown(found)
        new: dict[str, Value] = {}
        for index in self._written:
            self._say(index, found, row, value_forms, new)
        self._counts.inserted += 1
        names = ", ".join(map(quote_name, new))
        marks = ", ".join("?" * len(new))
        try:
            self._writer.execute(
                f"INSERT OR ABORT INTO {self._table} ({names}) VALUES ({marks})",  # noqa: S608 (quoted)
                tuple(new.values()),
            )
        except sqlite3.Error as error:
            self._refused(error, row)

    def _say(self, index: int, found: Sequence[Any], row: str, value_forms: _ValueForms, new: dict[str, Value]) -> None:
        """Put the value of one column into ``new``, or note that the file cannot hold it."""
        column = self._columns[index]
        text = found[len(self._columns) + index]
        if text is None:
            new[column.source] = None
            return
        value = value_forms.find(index, text, found[index])
        if value is None:
            self._offenders.add(
                f"{self._plan.source.name}.{column.source}",
                f"holds a value of type {column.display_type} that the file cannot say exactly",
                row if column.options.secret else f"{row}: {_shown(column, text)}",
            )
            return
        new[column.source] = value

    def _shown(self, found: Sequence[Any]) -> str:
        """Return the key of a row of PostgreSQL for a person, secrets masked."""
        plan, count = self._plan, len(self._columns)
        positions = self._key_positions() or range(len(plan.columns))
        return ", ".join(
            f"{self._columns[index].source}="
            + (
                "(secret)"
                if self._columns[index].source in plan.secret_columns
                else _shown(self._columns[index], found[count + index])
            )
            for index in list(positions)[:_SHOWN_KEYS]
        )

    def _refused(self, error: sqlite3.Error, row: str) -> None:
        """Note that SQLite refuses a row; its messages name columns, never values."""
        self._offenders.add(self._plan.source.name, f"SQLite refuses it: {error}", row)

    # ------------------------------------------------------------ what the file has no place for

    def _check_other_columns(self) -> tuple[str, ...]:
        """Note the rows with data in columns that the source lacks; return the columns where nobody can tell."""
        plan = self._plan
        taken = {column.target for column in plan.compared}
        not_told = []
        for column in plan.target.columns.values():
            if column.name in taken or column.generated:
                continue
            default, constant = self._default(column.name)
            if not constant or column.sequence is not None or column.identity:
                not_told.append(column.name)
                continue
            # The server wrote the default itself.
            rows = sql.SQL("FROM ONLY {} AS t{} WHERE t.{}::text IS DISTINCT FROM ({})::{}::text").format(
                table_name(plan.target.name),
                self._joins,
                sql.Identifier(column.name),
                sql.SQL(default),
                sql.SQL(column.display_type),
            )
            with self._connection.cursor() as cursor:
                cursor.execute(sql.SQL("SELECT count(*) {}").format(rows))
                count = int(first_row(cursor)[0])
                if not count:
                    continue
                shown = sql.SQL("SELECT {} {} LIMIT {}").format(
                    sql.SQL(", ").join(self._values), rows, sql.Literal(_SHOWN_KEYS)
                )
                cursor.execute(shown)
                self._offenders.add(
                    f"{plan.source.name} ← {plan.target.name}.{column.name}",
                    "holds data, and the file has no such column",
                    *(self._shown([None] * len(self._columns) + list(row)) for row in cursor),
                    count=count,
                )
        return tuple(not_told)

    def _default(self, column: str) -> tuple[str, bool]:
        """Return the SQL of a target column's default, and whether it is the same value every time."""
        schema, _, table = self._plan.target.name.partition(".")
        with self._connection.cursor() as cursor:
            cursor.execute(
                r"""
                SELECT pg_get_expr(d.adbin, d.adrelid),
                       d.adbin::text NOT LIKE '%%SQLVALUEFUNCTION%%' AND d.adbin::text NOT LIKE '%%NEXTVALUEEXPR%%'
                       AND NOT EXISTS (SELECT FROM regexp_matches(d.adbin::text, ':(?:func|opfunc)id (\d+)', 'g') AS f
                                       JOIN pg_proc p ON p.oid = f[1]::oid WHERE p.provolatile <> 'i')
                FROM pg_attrdef d
                JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
                JOIN pg_class c ON c.oid = d.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = %s AND c.relname = %s AND a.attname = %s
                """,
                (schema, table, column),
            )
            row = cursor.fetchone()
        return ("NULL", True) if row is None else (str(row[0]), bool(row[1]))

    def _require_known_collations(self) -> None:
        """Refuse to write where an order of texts that only the service knows keeps an index.

        :raises MigrationError: naming the collation.
        """
        name = self._plan.source.name
        statements = [
            text
            for (text,) in self._source.execute(
                "SELECT sql FROM sqlite_schema WHERE tbl_name = ? COLLATE NOCASE AND sql IS NOT NULL", (name,)
            )
        ]
        problems = [
            Problem(
                name,
                f"it is ordered by the collation {collation}, which only the service knows",
                "Bring its changes back through the service itself",
            )
            for collation in unknown_collations(self._source)
            if any(re.search(rf"\bCOLLATE\W+{re.escape(collation)}", text, re.IGNORECASE) for text in statements)
        ]
        if problems:
            raise MigrationError(f"The changes of {self._plan.target.name} cannot be brought back.", problems)


# ---------------------------------------------------------------- values


class _ValueForms:
    """Finds for each value of PostgreSQL the one that stands for it in the file."""

    def __init__(self, source: sqlite3.Connection, plan: TablePlan, forms: ServerForms) -> None:
        self._plan = plan
        self._columns = plan.columns
        self._source = source
        self._forms: dict[int, Form] = {}
        self._converters: list[Convert] = [converter(column, _no_note) for column in plan.columns]
        self._readers = [source_reader(column, partial(forms.normal_form, plan, column)) for column in plan.columns]
        self._probe = _Probe(source, plan)

    def find(self, index: int, text: str, field_hash: str) -> Value:
        """Return a value that reads back, through SQLite and the mapping, as the same field; None if there is none.

        :param text: the value as :func:`.canonical.target_value` gives it.
        :param field_hash: MD5 of its canonical field.
        """
        column = self._columns[index]
        if index not in self._forms:
            self._forms[index] = read_form(self._source, self._plan.source, column)
        for candidate in candidates(column, self._forms[index], text):
            stored = self._probe.stored(column.source, candidate)
            if stored is not None and self._reads_as(index, stored, field_hash):
                return candidate
        return None

    def _reads_as(self, index: int, stored: Value, field_hash: str) -> bool:
        """Return whether a stored value would be moved as it is, and compare equal."""
        try:
            self._converters[index](stored)
            return _hash(self._readers[index](stored)).hex() == field_hash
        except (Refused, ValueError, ArithmeticError, TypeError):
            return False


class _Probe:
    """Tells what SQLite makes of a value in a column: affinity may turn it into another."""

    def __init__(self, source: sqlite3.Connection, plan: TablePlan) -> None:
        encoding = str(source.execute("PRAGMA encoding").fetchone()[0])
        strict = bool(
            source.execute(
                "SELECT strict FROM pragma_table_list WHERE schema = 'main' AND name = ?", (plan.source.name,)
            ).fetchone()[0]
        )
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.execute(f"PRAGMA encoding = '{encoding}'")
        declared = {column.name: column.declared_type.upper() for column in plan.source.columns}
        self._tables: dict[str, str] = {}
        for number, name in enumerate(dict.fromkeys(column.source for column in plan.columns)):
            # Any other type would say no more than its affinity.
            kind = plan.source.affinity(name)
            if strict:
                kind = declared.get(name, "ANY")
            elif declared.get(name) == "ANY":
                kind = "NUMERIC"
            self._tables[name] = table = f"column_{number}"
            self._connection.execute(f"CREATE TABLE {table} (value {kind}){' STRICT' if strict else ''}")
            self._connection.execute(f"INSERT INTO {table} VALUES (NULL)")  # noqa: S608 (our own name)

    def stored(self, column: str, value: Value) -> Value:
        """Return what a column holds after a value was written to it, None if it takes no such value."""
        table = self._tables[column]
        try:
            self._connection.execute(f"UPDATE {table} SET value = ?", (value,))  # noqa: S608 (our own name)
        except (sqlite3.Error, OverflowError, UnicodeEncodeError):
            return None
        found: Value = self._connection.execute(f"SELECT value FROM {table}").fetchone()[0]  # noqa: S608
        return found


def _shown(column: ColumnPlan, text: str | None) -> str:
    """Return a value, as :func:`.canonical.target_value` gives it, for a person."""
    if text is None:
        return "NULL"
    if column.kind in ("double", "real"):
        return repr(struct.unpack(">d", bytes.fromhex(text))[0])
    return show(text) if column.kind in ("text", "char", "uuid", "json", "other") else text[:_SHOWN_CHARACTERS]


def _no_note(_conversion: str) -> None:
    """Count nothing."""


def _hash(text: str) -> bytes:
    """Return the MD5 of canonical fields."""
    return _digest(text.encode("utf-8", "surrogateescape"))


def _digest(data: bytes) -> bytes:
    """Return the MD5 of the bytes of canonical fields."""
    return md5(data, usedforsecurity=False).digest()


def _built_by_sqlite(columns: Sequence[ColumnPlan]) -> str:
    """Return the SQL of some fields of a plain row put together."""
    fields = [found for found in map(source_field, columns) if found is not None]
    parts = [fields[start : start + _FIELDS_AT_ONCE] for start in range(0, len(fields), _FIELDS_AT_ONCE)]
    return " || ".join(
        f"printf('{''.join(form for form, _ in part)}', {', '.join(each for _, values in part for each in values)})"
        for part in parts
    )


def _target_columns(connection: Connection, plan: TablePlan) -> tuple[list[Composable], list[Composable], Composable]:
    """Return the SQL of each column's field and of its value as text, and of the joins that both need."""
    fields: list[Composable] = []
    values: list[Composable] = []
    joins: list[Composable] = []
    for number, column in enumerate(plan.compared):
        old_id = None
        if column.kind == "uuid" and column.namespace is not None:
            alias = sql.Identifier(f"m{number}")
            old_id = sql.SQL("{}.old_id").format(alias)
            joins.append(
                sql.SQL(" LEFT JOIN migration.id_map AS {} ON {}.namespace = {} AND {}.new_id = {}").format(
                    alias, alias, sql.Literal(column.namespace), alias, sql.Identifier("t", column.target)
                )
            )
        fields.append(sql.SQL("concat({})").format(target_field(column, old_id)))
        whole = sql.SQL("encode({}, 'hex')").format(sql.Identifier("t", column.target))
        values.append(whole if column.kind == "bytes" else target_value(column, old_id))
    return fields, values, sql.SQL("").join(joins)


# ---------------------------------------------------------------- rows of the file


def _locator(source: sqlite3.Connection, table: SourceTable) -> tuple[str, ...]:
    """Return the columns by which every row of a table is found: its row id, or its key."""
    without_rowid = source.execute(
        "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?", (table.name,)
    ).fetchone()[0]
    taken = {name.lower() for name in table.column_names}
    row_id = next((alias for alias in ROWID_ALIASES if alias not in taken), None)
    return table.key if without_rowid or row_id is None else (row_id,)


def _locator_text(values: Sequence[Value]) -> str:
    """Return how to find a row as a text that keeps every bit of it."""
    return json.dumps([to_json(value) for value in values], ensure_ascii=True)


def _locator_of(text: str) -> tuple[Value, ...]:
    """Return what :func:`_locator_text` was given."""
    readers: dict[str, Callable[[str], Value]] = {
        "blob": bytes.fromhex,
        "real": float,
        "integer": int,
        "text": str,
        "text_bytes": lambda data: bytes.fromhex(data).decode("utf-8", "surrogateescape"),
    }
    values: list[Value] = []
    for item in json.loads(text):
        ((kind, data),) = item.items()
        values.append(readers[kind](data))
    return tuple(values)


def _as_stored(value: Any, storage_class: bytes) -> Value:
    """Return a value that was read with its texts as bytes."""
    stored: Value = value.decode("utf-8", "surrogateescape") if storage_class == b"text" else value
    return stored


def _where(names: Sequence[str], values: Sequence[Value]) -> tuple[str, tuple[Value, ...]]:
    """Return the SQL that finds one row, and the values to bind to it."""
    conditions, bound = [], []
    for name, value in zip(names, values, strict=True):
        broken = isinstance(value, str) and has_invalid_utf8(value)
        # Python binds no text that is not UTF-8; SQLite makes one of bytes. BINARY looks at nothing else.
        conditions.append(f"{quote_name(name)} = {'CAST(? AS TEXT)' if broken else '?'} COLLATE BINARY")
        bound.append(value.encode("utf-8", "surrogateescape") if broken and isinstance(value, str) else value)
    return " AND ".join(conditions), tuple(bound)


class _Held:
    """Rows that clash with others on their way to new values: taken out, and put back when all others are right."""

    def __init__(self, writer: sqlite3.Connection, table: SourceTable, locator: Sequence[str]) -> None:
        self._writer = writer
        self._name = table.name
        self._table = quote_name(table.name)
        self._locator = locator
        columns = [column.name for column in table.columns if not column.generated]
        # The row id stays what it is, unless a column is one.
        row_id = [name for name in locator if name not in table.column_names and not _is_row_id(writer, table)]
        self._columns = [*row_id, *columns]
        self._rows: list[str] = []

    def take(self, locator: Sequence[Value], new: Mapping[str, Value], row: str) -> None:
        """Take one row out of its table, and change it."""
        places = [f"c{number}" for number in range(len(self._columns))]
        if not self._rows:
            self._writer.execute(f"CREATE TEMP TABLE held ({', '.join(places)})")
        where, bound = _where(self._locator, locator)
        names = ", ".join(map(quote_name, self._columns))
        self._writer.execute(
            f"INSERT INTO temp.held SELECT {names} FROM {self._table} WHERE {where}",  # noqa: S608 (quoted)
            bound,
        )
        self._writer.execute(f"DELETE FROM {self._table} WHERE {where}", bound)  # noqa: S608 (quoted)
        assignments = ", ".join(f"{places[self._columns.index(name)]} = ?" for name in new)
        self._writer.execute(
            f"UPDATE temp.held SET {assignments} WHERE rowid = (SELECT max(rowid) FROM temp.held)",  # noqa: S608
            tuple(new.values()),
        )
        self._rows.append(row)

    def put_back(self) -> Iterator[tuple[str, str, str]]:
        """Put all rows back; yield the table, the reason and the row of each that SQLite refuses."""
        names = ", ".join(map(quote_name, self._columns))
        places = ", ".join(f"c{number}" for number in range(len(self._columns)))
        for number, row in enumerate(self._rows, 1):
            try:
                self._writer.execute(
                    f"INSERT OR ABORT INTO {self._table} ({names}) "  # noqa: S608 (quoted)
                    f"SELECT {places} FROM temp.held WHERE rowid = ?",
                    (number,),
                )
            except sqlite3.Error as error:
                yield self._name, f"SQLite refuses it: {error}", row
        if self._rows:
            self._writer.execute("DROP TABLE temp.held")


def _is_row_id(connection: sqlite3.Connection, table: SourceTable) -> bool:
    """Return whether a column of a table is its row id: its only key, and declared INTEGER."""
    rows = connection.execute(f"PRAGMA table_xinfo({quote_name(table.name)})").fetchall()
    keys = [row for row in rows if row[5]]
    return len(keys) == 1 and str(keys[0][2]).upper() == "INTEGER"


def _is_clash(error: sqlite3.IntegrityError) -> bool:
    """Return whether another row holds the same key."""
    return error.sqlite_errorname in (
        "SQLITE_CONSTRAINT_UNIQUE",
        "SQLITE_CONSTRAINT_PRIMARYKEY",
        "SQLITE_CONSTRAINT_ROWID",
    )


@contextmanager
def _without_triggers(writer: sqlite3.Connection, table: str) -> Iterator[None]:
    """Keep the triggers of a table from changing what is written: they acted in PostgreSQL, or not at all."""
    triggers = writer.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE ORDER BY rowid",
        (table,),
    ).fetchall()
    for name, _ in triggers:
        writer.execute(f"DROP TRIGGER {quote_name(name)}")
    yield
    for _, statement in triggers:
        writer.execute(statement)


# ---------------------------------------------------------------- the work file


def _open_work(path: Path) -> sqlite3.Connection:
    """Open an empty file for the hashes of both sides' rows; it need not outlive a crash."""
    work = sqlite3.connect(path, isolation_level=None)
    work.execute("PRAGMA journal_mode = OFF")
    work.execute("PRAGMA synchronous = OFF")
    # One transaction for all: it is never committed, for nobody else reads the file.
    work.execute("BEGIN")
    work.execute("CREATE TABLE source (key BLOB, hash BLOB, locator TEXT, rejected INTEGER, number INTEGER)")
    work.execute("CREATE TABLE target (key BLOB, hash BLOB, place TEXT, size INTEGER, number INTEGER)")
    return work


def _has_duplicates(work: sqlite3.Connection) -> bool:
    """Return whether a key stands for two rows of one side."""
    return any(
        work.execute(
            f"SELECT 1 FROM {table} WHERE {condition} GROUP BY key HAVING count(*) > 1 LIMIT 1"  # noqa: S608 (constant)
        ).fetchone()
        for table, condition in (("source", "NOT rejected"), ("target", "1"))
    )


def _differs(work: sqlite3.Connection) -> bool:
    """Return whether any row is not the same on both sides."""
    pairs = "t.key = s.key AND t.number = s.number AND t.hash = s.hash"
    return any(
        work.execute(query).fetchone()
        for query in (
            f"SELECT 1 FROM target t WHERE NOT EXISTS (SELECT 1 FROM source s WHERE {pairs}) LIMIT 1",  # noqa: S608
            "SELECT 1 FROM source s WHERE NOT s.rejected "  # noqa: S608 (constant)
            f"AND NOT EXISTS (SELECT 1 FROM target t WHERE {pairs}) LIMIT 1",
        )
    )


# ---------------------------------------------------------------- the whole file

Orphans = Counter[tuple[str, str, int]]


def _orphans(connection: sqlite3.Connection) -> Orphans | None:
    """Return how many rows of each table refer to no row, by foreign key; None if SQLite cannot tell."""
    try:
        rows = connection.execute(
            'SELECT "table", parent, fkid, count(*) FROM pragma_foreign_key_check GROUP BY 1, 2, 3'
        ).fetchall()
    except sqlite3.Error:
        return None  # a key refers to columns that are not unique: SQLite itself would refuse it
    return Counter({(table, parent, number): count for table, parent, number, count in rows})


def _note_new_orphans(
    source: sqlite3.Connection, writer: sqlite3.Connection, before: Orphans | None, offenders: _Offenders
) -> None:
    """Note each foreign key that more rows violate than before."""
    after = _orphans(writer)
    if before is None or after is None:
        return
    for (table, parent, number), count in (after - before).items():
        columns = writer.execute(
            "SELECT group_concat(\"from\", ', ') FROM pragma_foreign_key_list(?) WHERE id = ?", (table, number)
        ).fetchone()[0]
        query = "SELECT rowid FROM pragma_foreign_key_check(?) WHERE fkid = ?"
        known = set(source.execute(query, (table, number)))
        new = [row for row in writer.execute(query, (table, number)) if row not in known]
        what = f"{columns} would refer to rows of {parent} that do not exist"
        offenders.add(table, what, *(f"row {row_id}" for (row_id,) in new if row_id is not None), count=count)


def _move_sequences(connection: Connection, writer: sqlite3.Connection, plans: Sequence[TablePlan]) -> dict[str, int]:
    """Keep AUTOINCREMENT from giving out what PostgreSQL's sequences gave out; return where each table stands."""
    moved: dict[str, int] = {}
    if writer.execute("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'").fetchone() is None:
        return moved
    for plan in plans:
        name = plan.source.name
        (statement,) = writer.execute(
            "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (name,)
        ).fetchone()
        sequences = [column.sequence for column in plan.columns if column.sequence is not None]
        if not sequences or re.search(r"\bAUTOINCREMENT\b", statement, re.IGNORECASE) is None:
            continue
        given_out = 0
        with connection.cursor() as cursor:
            for sequence in sequences:
                # The server wrote the name, quoted where needed.
                query = sql.SQL("SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {}")
                cursor.execute(query.format(sql.SQL(sequence)))
                given_out = max(given_out, int(first_row(cursor)[0]))
        row = writer.execute("SELECT max(CAST(seq AS INTEGER)) FROM sqlite_sequence WHERE name = ?", (name,)).fetchone()
        if row[0] is None:
            writer.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, given_out))
        elif row[0] < given_out:
            writer.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (given_out, name))
        moved[name] = max(given_out, row[0] or 0)
    return moved


def _require_integrity(source: sqlite3.Connection, writer: sqlite3.Connection, frozen: Path) -> None:
    """Refuse a copy in which SQLite finds faults that the frozen file has not.

    :raises MigrationError: with what SQLite says.
    """
    found = [text for (text,) in writer.execute("PRAGMA integrity_check")]
    if found == ["ok"]:
        return
    known = {text for (text,) in source.execute("PRAGMA integrity_check")}
    new = [text for text in found if text not in known]
    if new:
        raise MigrationError(
            "SQLite finds faults in the copy; nothing was brought back.",
            [Problem(str(frozen), text, "Please report this") for text in new],
        )
