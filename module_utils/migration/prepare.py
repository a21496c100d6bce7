"""Sorts out which rows are plain, and converts all others once, into private files that COPY reads as they are.

Nothing is written to the target here, so every offender can be found and listed first.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from .convert import Convert, Refused, converter
from .duplicates import (
    Rejected,
    doubled_keys,
    doubled_spellings,
    rejected_duplicates,
    rejects_duplicates,
    row_of,
    unique_keys,
)
from .errors import MigrationError, Problem, RowsRefused
from .estate import REFUSE, Group
from .plain_rows import PlainRows, count_plain_rows, id_blocks, plain_rows
from .plan import ColumnPlan, ForeignKeyPlan, TablePlan
from .policies import SET_NULL, repair, repair_name
from .server_forms import ServerForms
from .source import (
    Value,
    quote_name,
    read_rows,
    row_key,
    show,
    shown_key,
    to_json,
    to_json_text,
)

_ESCAPES = {ord("\\"): "\\\\", ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"}
_PIECE = 1 << 20  # characters
_SHOWN_KEYS = 5
_SHOWN_VALUES = 50

_FIXES = {
    "orphan": "Repair the row, or set 'orphan: set_null' or 'orphan: reject' for the column",
    "invalid_json": "Repair the value, or set 'invalid_json' for the column: as_json_string, set_null or reject",
    "nul_character": "Repair the value, or set 'nul_character: remove' or 'nul_character: reject' for the column",
    "invalid_utf8": "Repair the value, or set 'invalid_utf8: replace' or 'invalid_utf8: reject' for the column",
    "empty_string": "Repair the value, or set 'empty_string: set_null' or 'empty_string: reject' for the column",
    "fraction": "Repair the value, or set 'fraction: round' or 'fraction: reject' for the column",
    "null_value": "Repair the value, or set 'null_value: reject' for the column",
    "unconvertible": "Repair the value, or set 'unconvertible: set_null' or 'unconvertible: reject' for the column",
    "out_of_range": "Repair the value, or set 'out_of_range: set_null' or 'out_of_range: reject' for the column",
    "sub_microsecond": "Repair the value, or set 'sub_microsecond' for the column: round, truncate, set_null or reject",
    "duplicate": "Repair the rows, or set 'duplicate: reject' for the column: all but the first are rejected",
    "spelling": "Write it the same way in every row of the source",
}


@dataclass
class PreparedTable:
    """One table, converted.

    :param plain: its plain rows, which are not in the file; None if every row went through Python.
    :param odd_rows: rows that went through Python.
    :param rows: rows to load, those rejected not among them.
    :param rejected: key → reason of each rejected row.
    :param rejects: the same for a person, secrets masked.
    :param changes: key → column → the policies' answers, in the order they were applied.
    :param conversions: (column, conversion) → number of values.
    :param kept: column without a target → value as shown → number of rows; None for a secret.
    :param spool: the file to COPY, None when nothing was written.
    :param only: SQL over the source's columns that chose the rows, None for all.
    """

    plan: TablePlan
    plain: PlainRows | None = None
    odd_rows: int = 0
    source_rows: int = 0
    rows: int = 0
    rejected: dict[str, str] = field(default_factory=dict)
    rejects: list[tuple[str, str]] = field(default_factory=list)
    changes: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    conversions: Counter[tuple[str, str]] = field(default_factory=Counter)
    kept: dict[str, Counter[str | None]] = field(default_factory=dict)
    spool: Path | None = None
    only: str | None = None

    @property
    def odd_condition(self) -> str | None:
        """Return the SQL that chooses the rows that are not plain, None for all rows."""
        return self.only if self.plain is None else f"({self.plain.odd})"


@dataclass
class Prepared:
    """A whole group, converted, with the files for the ledger."""

    tables: list[PreparedTable]
    id_map: Path
    rejects: Path
    originals: Path


class _Spool:
    """A private file of COPY lines."""

    def __init__(self, path: Path, wanted: bool = True) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        if wanted:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._file = os.fdopen(descriptor, "wb", buffering=1 << 20)

    def write(self, fields: Iterable[str | bytes | None]) -> None:
        """Write one line; a large value goes in pieces, so that it is never copied whole.

        :param fields: texts as PostgreSQL parses them; bytes for a bytea as it is.
        """
        if self._file is None:
            return
        separator = b""
        for text in fields:
            self._file.write(separator)
            separator = b"\t"
            if text is None:
                self._file.write(b"\\N")
            elif isinstance(text, bytes):
                self._file.write(b"\\\\x")
                for start in range(0, len(text), _PIECE):
                    self._file.write(text[start : start + _PIECE].hex().encode())
            else:
                for start in range(0, len(text), _PIECE):
                    self._file.write(text[start : start + _PIECE].translate(_ESCAPES).encode())
        self._file.write(b"\n")

    def write_lines(self, lines: bytes) -> None:
        """Write lines that are escaped already."""
        if self._file is not None:
            self._file.write(lines)

    def close(self) -> None:
        """Flush and close the file."""
        if self._file is not None:
            self._file.close()


class _Offenders:
    """Collects the values that stop the run, by column and reason."""

    def __init__(self, file_name: str) -> None:
        self._file_name = file_name
        self._found: dict[tuple[str, str, str], list[str]] = {}
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def add(self, table: str, columns: str, refused: Refused, key: str, shown: str | None) -> None:
        """Note one value; ``shown`` is None for a secret."""
        entry = (f"{table}.{columns}", refused.policy, refused.what)
        self._counts[entry] += 1
        examples = self._found.setdefault(entry, [])
        if len(examples) < _SHOWN_KEYS:
            examples.append(key if shown is None else f"{key}: {shown}")

    def problems(self) -> list[Problem]:
        """Return one problem for each column and reason."""
        problems = []
        for (column, policy, what), examples in self._found.items():
            count = self._counts[(column, policy, what)]
            more = "" if count == len(examples) else f" and {count - len(examples):,} more"
            rows = "1 row" if count == 1 else f"{count:,} rows"
            problems.append(
                Problem(f"{self._file_name}: {column}", f"{what} ({rows}: {'; '.join(examples)}{more})", _FIXES[policy])
            )
        return problems


def prepare(
    group: Group,
    snapshot: sqlite3.Connection,
    plans: Sequence[TablePlan],
    directory: Path,
    forms: ServerForms,
    spool: bool = True,
    exact: bool = False,
    only: Mapping[str, str] | None = None,
) -> Prepared:
    """Sort out the plain rows of every table of a group, and convert all others.

    :param directory: a private directory for the files.
    :param forms: answers for types that only the server knows.
    :param spool: write the tables' files; without them only the findings are returned.
    :param exact: take no row for plain, so that every offender is found before PostgreSQL sees one.
    :param only: by source table, SQL that chooses the rows to convert; tables not named are left out.
    :raises MigrationError: with every value that no policy answers for; :class:`.RowsRefused` with
        only some of them unless ``exact``.
    """
    # A rejected row orphans the rows that refer to it, which may lie in a table before it (a
    # cycle) or in its own: then everything is converted again with what is now known.
    rejected_rows: dict[str, list[dict[str, Value]]] = {}
    duplicates: dict[str, dict[str, str]] = {}
    for plan in plans:
        if only is not None and rejects_duplicates(plan):
            # A row that goes lets one stay that is not among the chosen ones.
            raise RowsRefused(f"Which rows of {plan.source.name} are duplicates depends on all of its rows.")
        duplicates[plan.source.name] = rejected_duplicates(snapshot, plan)
    while True:
        known = {table: len(rows) for table, rows in rejected_rows.items()}
        once = _Preparation(group, snapshot, plans, directory, forms, spool, exact, only, duplicates)
        prepared, offenders, seen = once.run(rejected_rows)
        rejected_rows = seen
        refers_to_unseen = any(
            len(seen.get(key.referenced_source, ())) > known.get(key.referenced_source, 0)
            and not _comes_before(plans, key.referenced_source, plan.source.name)
            for plan in plans
            for key in plan.foreign_keys
        )
        if not refers_to_unseen:
            break
    problems = offenders.problems()
    if problems:
        refused = MigrationError if exact else RowsRefused
        raise refused(f"Cutover group {group.name} holds values that its target cannot.", problems)
    return prepared


def _comes_before(plans: Sequence[TablePlan], first: str, second: str) -> bool:
    """Return whether one source table is converted before another."""
    names = [plan.source.name for plan in plans]
    return names.index(first) < names.index(second)


@dataclass
class _Preparation:
    """One pass over all tables; the fields are the arguments of :func:`prepare`."""

    group: Group
    snapshot: sqlite3.Connection
    plans: Sequence[TablePlan]
    directory: Path
    forms: ServerForms
    spool: bool
    exact: bool
    only: Mapping[str, str] | None
    duplicates: Rejected

    def run(
        self, rejected_before: dict[str, list[dict[str, Value]]]
    ) -> tuple[Prepared, _Offenders, dict[str, list[dict[str, Value]]]]:
        """Prepare every table, given the rows that are known to be rejected."""
        offenders = _Offenders(self.group.source_path)
        files = [_Spool(self.directory / f"{name}.copy") for name in ("id_map", "reject", "original_value")]
        id_map, rejects, originals = files
        rejected_rows = dict(rejected_before)
        tables = []
        doubled = {plan.source.name for plan in self.plans if rejects_duplicates(plan)}
        if self.exact:
            _find_spellings(self.snapshot, self.plans, self.duplicates, offenders)
        for number, plan in enumerate(self.plans):
            if self.only is not None and plan.source.name not in self.only:
                continue
            if self.exact:
                # Otherwise PostgreSQL's own constraints find them, for all rows at once.
                _find_duplicates(self.snapshot, plan, self.duplicates, offenders)
            work = _TableWork(self.group, plan, offenders, id_map, rejects, originals, self.forms)
            work.duplicates = self.duplicates[plan.source.name]
            work.missing = [
                missing_values(self.snapshot, key, rejected_rows, key.referenced_source in doubled)
                if self.exact or key.answer != REFUSE or rejected_rows.get(key.referenced_source)
                else set()
                for key in plan.foreign_keys
            ]
            if self.only is not None:
                work.prepared.only = self.only[plan.source.name]
            elif not self.exact and not work.duplicates and not self._refers_to_rejected(plan, rejected_rows, doubled):
                self._sort_out(work, id_map)
            lines = _Spool(self.directory / f"{number:03d}.copy", self.spool)
            if work.prepared.plain is None or work.prepared.odd_rows:
                rejected_rows[plan.source.name] = work.run(self.snapshot, lines)
            lines.close()
            work.prepared.spool = lines.path if self.spool else None
            tables.append(work.prepared)
        for file in files:
            file.close()
        return Prepared(tables, id_map.path, rejects.path, originals.path), offenders, rejected_rows

    @staticmethod
    def _refers_to_rejected(
        plan: TablePlan, rejected_rows: Mapping[str, Sequence[Mapping[str, Value]]], doubled: set[str]
    ) -> bool:
        """Return whether a row may be an orphan for another reason than that SQLite has no such row."""
        return any(
            rejected_rows.get(key.referenced_source) or key.referenced_source in doubled for key in plan.foreign_keys
        )

    def _sort_out(self, work: _TableWork, id_map: _Spool) -> None:
        """Find the plain rows of a table, count what becomes of them, and note their ids."""
        prepared = work.prepared
        keys = zip(prepared.plan.foreign_keys, work.missing, strict=True)
        plain = plain_rows(prepared.plan, [key for key, missing in keys if missing])
        if plain is None:
            return
        rows, plain_count, conversions = count_plain_rows(self.snapshot, plain)
        prepared.plain = plain
        prepared.source_rows = prepared.rows = plain_count
        prepared.odd_rows = rows - plain_count
        prepared.conversions.update(conversions)
        for block in id_blocks(self.snapshot, plain, prepared.odd_rows == 0):
            id_map.write_lines(block)


def missing_values(
    snapshot: sqlite3.Connection, key: ForeignKeyPlan, rejected_rows: dict[str, list[dict[str, Value]]], doubled: bool
) -> set[tuple[Value, ...]]:
    """Return the values of a foreign key whose row is missing from the source or was rejected.

    :param doubled: whether several rows may hold a value, of which one arrives.
    """
    columns = [quote_name(name) for name in key.columns]
    condition = " AND ".join(
        f"p.{quote_name(parent)} = c.{name}" for parent, name in zip(key.referenced_columns, columns, strict=True)
    )
    not_null = " AND ".join(f"c.{name} IS NOT NULL" for name in columns)
    rows = snapshot.execute(
        f"SELECT DISTINCT {', '.join(f'c.{name}' for name in columns)} FROM {key.relation} c "  # noqa: S608 (quoted)
        f"WHERE {not_null} AND NOT EXISTS "
        f"(SELECT 1 FROM {key.referenced_relation} p WHERE {condition})"
    )
    missing = {tuple(row) for row in rows}
    rejected = Counter(
        tuple(row.get(name) for name in key.referenced_columns) for row in rejected_rows.get(key.referenced_source, ())
    )
    held: dict[tuple[Value, ...], int] = {}
    if doubled and rejected:
        names = ", ".join(f"{quote_name(name)} COLLATE BINARY" for name in key.referenced_columns)
        found = snapshot.execute(
            f"SELECT {names}, count(*) FROM {key.referenced_relation} GROUP BY {names} HAVING count(*) > 1"  # noqa: S608
        )
        held = {tuple(values): count for *values, count in found}
    return missing | {values for values, count in rejected.items() if count >= held.get(values, 1)}


def _find_duplicates(snapshot: sqlite3.Connection, plan: TablePlan, rejected: Rejected, offenders: _Offenders) -> None:
    """Note the keys that the target allows once and the source holds twice."""
    for unique in unique_keys(plan):
        if unique.answer != REFUSE:
            continue
        secret = any(column.options.secret for column in unique.columns)
        for values, count in doubled_keys(snapshot, plan, unique, rejected):
            pairs = zip(unique.columns, values, strict=True)
            shown = ", ".join(f"{column.source}={show(value)}" for column, value in pairs)
            offenders.add(
                plan.source.name,
                "+".join(column.source for column in unique.columns),
                Refused("duplicate", "holds the same key more than once"),
                "a secret value" if secret else shown,
                f"{count} times",
            )


def _find_spellings(
    snapshot: sqlite3.Connection, plans: Sequence[TablePlan], rejected: Rejected, offenders: _Offenders
) -> None:
    """Note the UUIDs that stand in the source in two ways, of which the id map could keep but one."""
    for number, found in enumerate(doubled_spellings(snapshot, plans, rejected)):
        plan, column = found.columns[0]
        others = "".join(f", also in {other.source.name}.{name.source}" for other, name in found.columns[1:])
        refused = Refused("spelling", f"holds a UUID in more than one spelling{others}")
        places = []
        for spelling in (found.first, found.second) if number < _SHOWN_KEYS else ():
            place = row_of(snapshot, found, spelling)
            if place is not None:
                there, name, row = place
                table = "" if there is plan else f"{there.source.name} "
                shown = "a secret value" if name.options.secret else show(spelling)
                places.append(f"{table}{shown_key(there.source, row, there.secret_columns)}: {shown}")
        offenders.add(plan.source.name, column.source, refused, " and ".join(places), None)


class _TableWork:
    """The conversion of one table: one pass over its rows."""

    def __init__(
        self,
        group: Group,
        plan: TablePlan,
        offenders: _Offenders,
        id_map: _Spool,
        rejects: _Spool,
        originals: _Spool,
        forms: ServerForms,
    ) -> None:
        self._group = group
        self._plan = plan
        self._offenders = offenders
        self._id_map = id_map
        self._rejects = rejects
        self._originals = originals
        self._forms = forms
        self.missing: list[set[tuple[Value, ...]]] = []
        self.duplicates: Mapping[str, str] = {}
        self.prepared = PreparedTable(plan)

    def run(self, snapshot: sqlite3.Connection, lines: _Spool) -> list[dict[str, Value]]:
        """Convert every row that is not plain and return the values of those that were rejected."""
        plan, prepared = self._plan, self.prepared
        converters = [self._converter(column) for column in plan.columns]
        count = len(plan.columns)
        positions = {column.source: index for index, column in enumerate(plan.columns)}
        checks = [
            (key, [positions[name] for name in key.columns], missing)
            for key, missing in zip(plan.foreign_keys, self.missing, strict=True)
            if missing
        ]
        recorded = [index for index, column in enumerate(plan.columns) if column.records_ids]
        large = {index for index, column in enumerate(plan.columns) if column.kind == "bytes"}
        rejected_rows = []
        read = plan.read_columns
        rows = read_rows(snapshot, plan.source, read, prepared.odd_condition)
        prepared.odd_rows = 0
        for row in (row for block in self._forms.learned(plan, rows) for row in block):
            prepared.odd_rows += 1
            prepared.source_rows += 1
            duplicate = self.duplicates.get(self._key(row)) if self.duplicates else None
            if duplicate is not None:
                self._reject(row, duplicate)
                rejected_rows.append(dict(zip(read, row, strict=False)))
                continue
            values = list(row[:count])
            rejection, nulled = self._check_references(checks, values, row)
            fields: list[str | bytes | None] = []
            for index, convert in enumerate(converters):
                value = values[index]
                if index in large and isinstance(value, bytes) and len(value) > _PIECE:
                    # In hexadecimal it would be held at twice its size, and copied.
                    fields.append(value)
                    continue
                try:
                    fields.append(None if index in nulled else convert(value))
                except Refused as refused:
                    text, reason = self._apply_policy(plan.columns[index], convert, values[index], refused, row)
                    rejection = rejection or reason
                    fields.append(text)
            if rejection is not None:
                self._reject(row, rejection)
                rejected_rows.append(dict(zip(read, row, strict=False)))
                continue
            for index in recorded:
                value, new_id = values[index], fields[index]
                if value is not None and new_id is not None and value != new_id:
                    old_id = value if isinstance(value, str) else repr(value)
                    self._id_map.write((plan.columns[index].namespace, old_id, new_id))
            for position, option in enumerate(plan.kept):
                self._keep(option.name, option.secret, row[count + position], row)
            lines.write(fields)
            prepared.rows += 1
        return rejected_rows

    def _converter(self, column: ColumnPlan) -> Convert:
        """Return the function that converts one column; for other types the server is asked too."""
        convert = converter(column, self._noter(column))
        if column.kind != "other":
            return convert

        def checked(value: Value) -> str | None:
            text = convert(value)
            if text is not None and not self._forms.accepts(self._plan, column, text):
                raise Refused("unconvertible", f"holds text that is no value of type {column.display_type}")
            return text

        return checked

    def _noter(self, column: ColumnPlan) -> Any:
        """Return the function that counts the conversions of one column."""

        def note(conversion: str) -> None:
            self.prepared.conversions[(column.source, conversion)] += 1

        return note

    def _key(self, row: Sequence[Value]) -> str:
        """Return the key of a row as text, for the ledger."""
        return row_key(self._plan.source, row[len(self._plan.read_columns) :])

    def _shown_key(self, row: Sequence[Value]) -> str:
        """Return the key of a row as text, for a person: secrets masked."""
        return shown_key(self._plan.source, row[len(self._plan.read_columns) :], self._plan.secret_columns)

    def _check_references(
        self,
        checks: Sequence[tuple[ForeignKeyPlan, list[int], set[tuple[Value, ...]]]],
        values: list[Value],
        row: Sequence[Value],
    ) -> tuple[str | None, set[int]]:
        """Answer for the foreign keys of a row: the reason to reject it, and the columns set to NULL."""
        nulled: set[int] = set()
        rejection = None
        for key, positions, missing in checks:
            if tuple(values[index] for index in positions) not in missing:
                continue
            what = f"refers to a row of {key.referenced_source} that does not exist"
            name = "+".join(key.columns)
            answer = key.answer
            can_be_null = not any(self._plan.columns[index].not_null for index in positions)
            if answer == "reject":
                rejection = f"{name} {what}"
            elif answer == SET_NULL and can_be_null:
                for index in positions:
                    self._remember(self._plan.columns[index].source, SET_NULL, f"{name} {what}", values[index], row)
                    nulled.add(index)
                self.prepared.conversions[(name, "orphan to NULL, original kept in the ledger")] += 1
            else:
                secret = any(self._plan.columns[index].options.secret for index in positions)
                shown = ", ".join(show(values[index]) for index in positions)
                self._offenders.add(
                    self._plan.source.name,
                    name,
                    Refused("orphan", what),
                    self._shown_key(row),
                    None if secret else shown,
                )
        return rejection, nulled

    def _apply_policy(
        self, column: ColumnPlan, convert: Any, value: Value, refused: Refused, row: Sequence[Value]
    ) -> tuple[str | None, str | None]:
        """Return the text to load and None, or None and the reason to reject the row."""
        original = value
        for _ in range(8):  # a repaired value may need another policy, but never endlessly
            answer = column.options.policy(refused.policy)
            if answer == "reject":
                return None, f"{column.source} {refused.what}"
            if answer == REFUSE or (answer == SET_NULL and column.not_null):
                break
            name = repair_name(refused.policy, answer, column)
            value = repair(value, name, column.scale)
            self._remember(column.source, name, f"{column.source} {refused.what}", original, row)
            self.prepared.conversions[(column.source, f"{refused.policy}: {answer}, original kept in the ledger")] += 1
            if answer == SET_NULL:
                return None, None
            try:
                return convert(value), None
            except Refused as again:
                refused = again
        shown = None if column.options.secret or original is None else show(original)
        self._offenders.add(self._plan.source.name, column.source, refused, self._shown_key(row), shown)
        return None, None

    def _remember(self, column: str, answer: str, reason: str, original: Value, row: Sequence[Value]) -> None:
        """Keep a value that a policy changes, and how it was changed."""
        key = self._key(row)
        changes = self.prepared.changes.setdefault(key, {})
        first = column not in changes
        changes[column] = (*changes.get(column, ()), answer)
        if first:
            self._write_original(key, column, reason, original)

    def _keep(self, column: str, secret: bool, value: Value, row: Sequence[Value]) -> None:
        """Keep a value whose column has no target."""
        if value is None:
            return
        counter = self.prepared.kept.setdefault(column, Counter())
        shown = None if secret else show(value)
        counter[shown if shown in counter or len(counter) < _SHOWN_VALUES else "other values"] += 1
        self._write_original(self._key(row), column, "the target has no such column", value)

    def _write_original(self, key: str, column: str, reason: str, value: Value) -> None:
        """Write one line for ``migration.original_value``."""
        self._originals.write(
            (self._group.name, self._plan.source.name, key, column, reason, to_json_text(to_json(value)))
        )

    def _reject(self, row: Sequence[Value], reason: str) -> None:
        """Write one line for ``migration.reject``, with the row's exact values."""
        key = self._key(row)
        self.prepared.rejected[key] = reason
        self.prepared.rejects.append((self._shown_key(row), reason))
        self.prepared.changes.pop(key, None)
        values = {name: to_json(value) for name, value in zip(self._plan.read_columns, row, strict=False)}
        self._rejects.write((self._group.name, self._plan.source.name, key, reason, to_json_text(values)))
