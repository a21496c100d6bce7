"""Export: brings the rows written to PostgreSQL since the cutover into a copy of the frozen SQLite file.

The rows of both sides are told apart by the hashes of their canonical fields (:mod:`.engine.proof.canonical`),
and only those that differ are written: each value in the form its column has (:mod:`.engine.export.sqlite_text`),
tested to read back as the same value before it is taken. All others stay byte for byte as they
are, among them values that a policy repaired on their way to PostgreSQL, rejected rows, and
columns without a target. Nothing is written to PostgreSQL, and nothing to the copy either unless
all of it is proven equal there.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from ...core.connection import explained
from ...core.errors import MigrationError, Problem
from ...core.estate import Group
from ...core.files import copy_private, sha256_of
from ...postgres.catalog import read_catalog
from ...sqlite.tables import add_missing_collations, read_tables
from ..convert.recorded_ids import with_recorded_ids
from ..convert.server_text import ServerForms
from ..plan.planner import TablePlan, plan_group
from ..prepare.prepare import Prepared, prepare
from ..prepare.server_refusals import recorded_refusals
from ..proof.checksums import sum_target
from ..proof.compare import Comparison, compare_tables
from . import left_behind
from .difference import Counts, found
from .file_checks import move_sequences, note_new_orphans, orphans_of, require_integrity
from .id_spelling import with_spellings
from .inputs import NotPlain, Sides
from .table import Written, export_table
from .unmapped_columns import other_columns
from .violations import CHANGE_IT, ExportViolations

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class TableExport:
    """What the export did to one table of the copy.

    :param rows: rows that are now equal on both sides.
    :param content_hash: the sum over them, the same on both sides.
    :param kept_rows: rows that never went to PostgreSQL and stay: rejected, or left behind by ``row_filter``.
    :param not_told: columns of the target that the source lacks, and whose default is not one value
        (``now()``, for example), so that nobody can tell whether something else stands in them.
    :param ids_as_written: column of the file → values that hold ids as a service has written them on PostgreSQL, and
        not as the file has them: see :meth:`.values.ValueForms.leaves_ids`.
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
    ids_as_written: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportReport:
    """What the export did to a copy.

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


def export_changes(
    connection: Connection, group: Group, frozen: Path, copy: Path, snapshot_id: str | None = None
) -> ExportReport:
    """Make a copy of the frozen file equal in content to PostgreSQL, and prove it.

    PostgreSQL is read in one snapshot and never written to; the connection's transaction is rolled
    back before and after. The copy changes in one transaction, which commits only after the proof;
    after a crash make a new copy.

    :param frozen: the file as it was at the cutover; it is only read.
    :param copy: a byte-for-byte copy of it, mode 0600, in a directory with room for some
        private files beside it.
    :param snapshot_id: a snapshot that another session has exported, to be read; else one of its own.
    :raises MigrationError: with every row and value that the old schema cannot hold; the copy is as it was.
    """
    _require_copy(frozen, copy)

    def export(exact: bool) -> ExportReport:
        with (
            _reading(connection, group, frozen, copy, snapshot_id) as reading,
            closing(_open_copy(copy)) as writer,
            _transaction(writer),
        ):
            # Problems name the file that people know, which may be another than the private copy that is read.
            return _Export(reading, Path(group.source_path), writer).run(exact)

    return _exactly_if_need_be(export)


def rehearse(connection: Connection, group: Group, frozen: Path, directory: Path) -> ExportReport:
    """Bring the changes back into a scratch copy, and forget it: to know beforehand whether that can be done.

    The services may run meanwhile: PostgreSQL is read in one snapshot.

    :param frozen: the file as it was when it was loaded, at rest.
    :param directory: private directory for the scratch copy, which needs twice the size of the file.
    :raises MigrationError: with every row and value that the old schema cannot hold.
    """
    scratch = directory / f"trial-{os.getpid()}.db"
    try:
        copy_private(frozen, scratch)
        return export_changes(connection, group, frozen, scratch)
    finally:
        scratch.unlink(missing_ok=True)


def count_changes(
    connection: Connection, group: Group, frozen: Path, directory: Path, snapshot_id: str | None = None
) -> dict[str, Counts]:
    """Return by source table how many rows PostgreSQL holds otherwise than the frozen file.

    :param directory: private directory for work files.
    """

    def count(exact: bool) -> dict[str, Counts]:
        with _reading(connection, group, frozen, directory / f"count-{os.getpid()}", snapshot_id) as reading:
            forms = ServerForms(connection)
            counts: dict[str, Counts] = {}
            for table in reading.prepare(reading.source, forms, exact).tables:
                sides = Sides(connection, reading.source, table, forms)
                with found(sides, reading.directory) as difference:
                    counts[table.plan.source.name] = difference.count(other_columns(sides).places())
            return counts

    return _exactly_if_need_be(count)


def _exactly_if_need_be(do: Callable[[bool], _Result]) -> _Result:
    """Do something with the rows that the fast path takes, or again with none if it took a wrong one.

    :param do: is told whether to take no row for plain.
    """
    try:
        return do(False)
    except NotPlain:
        return do(True)


def hash_targets(
    connection: Connection, group: Group, frozen: Path, directory: Path, snapshot_id: str | None = None
) -> dict[str, str]:
    """Return the hash of each target table's content, as a migration would find it equal to its source.

    :param directory: private directory for work files.
    """
    with _reading(connection, group, frozen, directory / f"hash-{os.getpid()}", snapshot_id) as reading:
        return {plan.target.name: sum_target(connection, plan).hexdigest() for plan in reading.plans}


@dataclass(frozen=True)
class _Reading:
    """Both sides as they are read, in one snapshot of each."""

    connection: Connection
    group: Group
    directory: Path
    source: sqlite3.Connection
    plans: Sequence[TablePlan]

    def prepare(self, file: sqlite3.Connection, forms: ServerForms, exact: bool = False) -> Prepared:
        """Find out which rows of a file are rejected, and which values repaired."""
        try:
            refusals = recorded_refusals(self.connection, self.group.name)
            return prepare(
                self.group, file, self.plans, self.directory, forms, spool=False, exact=exact, refusals=refusals
            )
        except MigrationError:
            if exact:
                raise
            return self.prepare(file, forms, exact=True)


@contextmanager
def _reading(
    connection: Connection, group: Group, frozen: Path, beside: Path, snapshot_id: str | None
) -> Iterator[_Reading]:
    """Begin the snapshot in PostgreSQL and open the frozen file; end both afterwards."""
    connection.rollback()
    try:
        with (
            explained(f"bringing the changes of cutover group {group.name} back"),
            _work_directory(beside) as directory,
            closing(_open_frozen(frozen)) as source,
        ):
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                if snapshot_id is not None:
                    cursor.execute("SET TRANSACTION SNAPSHOT %s", (snapshot_id,))
            targets = read_catalog(connection, [mapping.target for mapping in group.tables])
            tables = read_tables(source)
            plans = plan_group(group, source, tables, targets, asks=False)
            if any(mapping.row_filter for mapping in group.tables):
                group = left_behind.excluded(group, source, tables)
                plans = plan_group(group, source, tables, targets, asks=False)
            plans = with_spellings(source, with_recorded_ids(connection, group.name, plans))
            yield _Reading(connection, group, directory, source, plans)
    except sqlite3.Error as error:
        raise MigrationError(
            f"SQLite cannot bring the changes of cutover group {group.name} back.",
            [Problem(str(beside), str(error), "Correct this, then run again with a new copy")],
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
    """Let texts come back byte for byte, as :func:`.sqlite.tables.open_snapshot` does."""
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


@dataclass(frozen=True)
class _Export:
    """One export of one group; the fields are what its steps need."""

    reading: _Reading
    frozen: Path
    writer: sqlite3.Connection

    def run(self, exact: bool) -> ExportReport:
        """Write what differs, and prove that both sides are equal then.

        :param exact: take no row of the file for plain.
        :raises NotPlain: if the fast path took a row that it cannot write exactly.
        """
        reading = self.reading
        left_behind.note_in(self.writer, reading.source)
        violations = ExportViolations(self.frozen)
        forms = ServerForms(reading.connection)
        prepared = reading.prepare(reading.source, forms, exact)
        orphans_before = orphans_of(reading.source)
        written: dict[str, Written] = {}
        for table in prepared.tables:
            sides = Sides(reading.connection, reading.source, table, forms)
            written[table.plan.target.name] = export_table(sides, self.writer, reading.directory, violations)
        note_new_orphans(self.writer, orphans_before, violations)
        violations.require_none(reading.group)
        sequences = move_sequences(reading.connection, self.writer, reading.plans)
        comparisons = self._prove(prepared, forms)
        require_integrity(reading.source, self.writer, self.frozen)
        return ExportReport(
            tuple(
                TableExport(
                    source=table.plan.source.name,
                    target=table.plan.target.name,
                    inserted=written[table.plan.target.name].inserted,
                    updated=written[table.plan.target.name].updated,
                    deleted=written[table.plan.target.name].deleted,
                    rows=comparison.source_rows,
                    content_hash=comparison.source_hash,
                    kept_rows=len(table.rejected) + table.plan.filtered_rows,
                    not_told=written[table.plan.target.name].not_told,
                    ids_as_written=dict(written[table.plan.target.name].ids_as_written),
                )
                for table, comparison in zip(prepared.tables, comparisons, strict=True)
            ),
            sequences,
        )

    def _prove(self, prepared: Prepared, forms: ServerForms) -> list[Comparison]:
        """Compare the copy with PostgreSQL.

        First as a new migration would, which is fast. That may see a row that was rejected, or a value
        that was repaired, and is right by now: the row it clashed with is another, say. So what counts is
        the comparison in which the rejected rows are those of the move, and the repaired values too.

        :param prepared: what is left of the frozen file's rejected rows and repaired values.
        :raises MigrationError: naming rows, columns and both values.
        """
        try:
            again = self.reading.prepare(self.writer, forms)
        except MigrationError:
            pass
        else:
            comparisons = compare_tables(self.reading.connection, self.writer, again.tables)
            if all(comparison.equal for comparison in comparisons):
                return comparisons
        as_moved = [replace(table, plain=None, odd_rows=max(1, table.source_rows)) for table in prepared.tables]
        comparisons = compare_tables(self.reading.connection, self.writer, as_moved)
        if all(comparison.equal for comparison in comparisons):
            return comparisons
        problems = []
        for table, comparison in zip(prepared.tables, comparisons, strict=True):
            mapping = table.plan.mapping
            fix = "Look at computed of the table in the inventory" if mapping.computed else CHANGE_IT
            for pair in comparison.differences:
                what = (
                    f"{pair['key']}: {pair['column']} would read as {pair['source']}, "
                    f"and PostgreSQL holds {pair['target']}"
                )
                problems.append(Problem(f"{self.frozen}: {table.plan.source.name}", what, fix))
        raise MigrationError(
            f"What PostgreSQL holds of {self.reading.group.name} cannot be said in the old schema.", problems
        )
