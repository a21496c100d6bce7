"""Converts the rows of one table that are not plain, in one pass, by the policies of the inventory."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.estate import POLICIES, REFUSE, Group
from ...sqlite.tables import Value, read_rows, row_key, show, shown_key, to_json, to_json_text
from ..convert.policies import KEEP, SET_NULL, becomes, repair, repair_name
from ..convert.refusals import TOO_LONG_ROW, Convert, Note, Refused
from ..convert.server_text import ServerForms
from ..convert.values import converter, is_duration_number
from ..plan.planner import ColumnPlan, ForeignKeyPlan, TablePlan
from .copy_file import PIECE, Spool
from .fast_path import PlainRows
from .on_disk import Changes, MissingValues
from .server_refusals import EMPTIED, HALF_KEY, REJECTED, ServerRefusal
from .violations import Violations

_SHOWN_VALUES = 50
# Bytes of a line of COPY: PostgreSQL allocates less than 1 GB at once, some of it for itself.
LONGEST_LINE = 2**30 - 2**16
# Bytes of a text in jsonb, less those that name its kind.
LONGEST_ORIGINAL = 2**28 - 2**10
# Value of a foreign key → that of its row, which SQLite finds and whose spelling is another.
Respelled = Mapping[tuple[Value, ...], tuple[Value, ...]]


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
    :param keys: the keys of the rows in the file, line by line; None if nobody asked for them.
    :param only: SQL over the source's columns that chose the rows, None for all.
    """

    plan: TablePlan
    plain: PlainRows | None = None
    odd_rows: int = 0
    source_rows: int = 0
    rows: int = 0
    rejected: dict[str, str] = field(default_factory=dict)
    rejects: list[tuple[str, str]] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)
    conversions: Counter[tuple[str, str]] = field(default_factory=Counter)
    kept: dict[str, Counter[str | None]] = field(default_factory=dict)
    spool: Path | None = None
    keys: Path | None = None
    only: str | None = None

    @property
    def odd_condition(self) -> str | None:
        """Return the SQL that chooses the rows that are not plain, None for all rows."""
        return self.only if self.plain is None else f"({self.plain.odd})"


class TableWork:
    """The conversion of one table: one pass over its rows."""

    def __init__(
        self,
        group: Group,
        plan: TablePlan,
        violations: Violations,
        id_map: Spool,
        rejects: Spool,
        originals: Spool,
        forms: ServerForms,
    ) -> None:
        self._group = group
        self._plan = plan
        self._violations = violations
        self._id_map = id_map
        self._rejects = rejects
        self._originals = originals
        self._forms = forms
        self.missing: list[MissingValues | None] = []
        self.respelled: list[Respelled] = []
        self.duplicates: Mapping[str, str] = {}
        self.refusals: Mapping[str, Sequence[ServerRefusal]] = {}
        self.keys: Spool | None = None
        self.wrong_rows: set[str] = set()
        self.prepared = PreparedTable(plan)

    def run(self, snapshot: sqlite3.Connection, lines: Spool) -> list[dict[str, Value]]:
        """Convert every row that is not plain and return the values of those that were rejected."""
        plan, prepared = self._plan, self.prepared
        converters = [self._converter(column) for column in plan.columns]
        count = len(plan.columns)
        positions = {column.source: index for index, column in enumerate(plan.columns)}
        checks = [
            (key, [positions[name] for name in key.columns], missing, respelled)
            for key, missing, respelled in zip(plan.foreign_keys, self.missing, self.respelled, strict=True)
            if missing or respelled
        ]
        recorded = [index for index, column in enumerate(plan.columns) if column.records_ids]
        large = {index for index, column in enumerate(plan.columns) if column.kind == "bytes"}
        may_be_huge = file_size(snapshot) > LONGEST_LINE // 2  # a byte takes two digits
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
            if self.refusals:
                reason, emptied = self._answer_server(values, row)
                rejection = rejection or reason
                nulled |= emptied
            fields: list[str | bytes | None] = []
            for index, convert in enumerate(converters):
                value = values[index]
                if index in large and isinstance(value, bytes) and len(value) > PIECE:
                    # In hexadecimal it would be held at twice its size, and copied.
                    fields.append(value)
                    continue
                try:
                    fields.append(None if index in nulled else convert(value))
                except Refused as refused:
                    text, reason = self._apply_policy(plan.columns[index], convert, values[index], refused, row)
                    rejection = rejection or reason
                    fields.append(text)
            if may_be_huge and rejection is None:
                self._shorten(fields, values, row)
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
            if self.keys is not None:
                self.keys.write((self._key(row),))
            prepared.rows += 1
        return rejected_rows

    def _shorten(self, fields: list[str | bytes | None], values: Sequence[Value], row: Sequence[Value]) -> None:
        """Answer for a row that is longer than PostgreSQL reads one: empty its longest values, if a policy says so.

        The ledger has to hold them, and can never hold such a row as a whole.
        """
        while sum(sizes := [_size_of_field(field) for field in fields]) > LONGEST_LINE:
            index = sizes.index(max(sizes))
            column = self._plan.columns[index]
            what = f"{TOO_LONG_ROW} ({LONGEST_LINE:,} bytes, two for each of a BLOB)"
            refused = Refused("unconvertible", what)
            can_be_emptied = sizes[index] <= LONGEST_ORIGINAL and not column.not_null
            if can_be_emptied and column.options.policy(refused.policy) == SET_NULL:
                self._apply_policy(column, _as_it_is, values[index], refused, row)
            else:
                self._violate(column, refused, values[index], row, [SET_NULL] if can_be_emptied else [])
            fields[index] = None

    def _converter(self, column: ColumnPlan) -> Convert:
        """Return the function that converts one column; for other types the server is asked too."""
        return server_converter(self._forms, self._plan, column, self._noter(column))

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
        checks: Sequence[tuple[ForeignKeyPlan, list[int], MissingValues | None, Respelled]],
        values: list[Value],
        row: Sequence[Value],
    ) -> tuple[str | None, set[int]]:
        """Answer for the foreign keys of a row: the reason to reject it, and the columns set to NULL.

        Values that 'orphan: as_parent' answers for are put in place in ``values``.
        """
        nulled: set[int] = set()
        rejection = None
        for key, positions, missing, respelled in checks:
            found = tuple(values[index] for index in positions)
            parent = respelled.get(found)
            if parent is None and (missing is None or found not in missing):
                continue
            what = f"refers to a row of {key.referenced_source} that "
            what += "does not exist" if parent is None else "is spelled otherwise there"
            name = "+".join(key.columns)
            if key.answer == "reject":
                rejection = f"{name} {what}"
            elif key.answer == SET_NULL and key.emptied:
                for index in positions:
                    source = self._plan.columns[index].source
                    if source in key.emptied:
                        self._remember(source, SET_NULL, f"{name} {what}", values[index], row)
                        nulled.add(index)
                self.prepared.conversions[(name, "orphan to NULL, original kept in the ledger")] += 1
            elif key.answer == "as_parent" and parent is not None:
                for index, value in zip(positions, parent, strict=True):
                    if isinstance(value, str) and value != values[index]:
                        source = self._plan.columns[index].source
                        self._remember(source, becomes(value), f"{name} {what}", values[index], row)
                        values[index] = value
                self.prepared.conversions[(name, "orphan: as_parent, original kept in the ledger")] += 1
            else:
                secret = any(self._plan.columns[index].options.secret for index in positions)
                shown = ", ".join(show(value) for value in found)
                if self.keys is not None:
                    self.wrong_rows.add(self._key(row))
                answers = (["as_parent"] if parent is not None else []) + ([SET_NULL] if key.emptied else [])
                self._violations.add(
                    self._plan.source.name,
                    name,
                    Refused("orphan", what),
                    self._shown_key(row),
                    None if secret else shown,
                    [*answers, "reject"],
                    key.note,
                )
        return rejection, nulled

    def _answer_server(self, values: Sequence[Value], row: Sequence[Value]) -> tuple[str | None, set[int]]:
        """Answer for what PostgreSQL refuses in a row: the reason to reject it, and the columns set to NULL."""
        rejection = None
        nulled: set[int] = set()
        columns = {column.source: (index, column) for index, column in enumerate(self._plan.columns)}
        for refusal in self.refusals.get(self._key(row), ()):
            concerned = [columns[name] for name in refusal.columns if name in columns]
            if refusal.policy in (REJECTED, EMPTIED):
                # The reason as it stands in the ledger names the column.
                rejection = refusal.what if refusal.policy == REJECTED else rejection
                emptied, reason = concerned if refusal.policy == EMPTIED else [], refusal.what
            else:
                answers = {column.options.policy(refusal.policy) for _, column in concerned}
                free = [entry for entry in concerned if not entry[1].not_null]
                emptied = [entry for entry in free if entry[1].options.policy(refusal.policy) == SET_NULL]
                if HALF_KEY in refusal.what and emptied:
                    # The whole key or nothing.
                    emptied = (
                        [entry for entry in concerned if values[entry[0]] is not None] if free == concerned else []
                    )
                name = "+".join(refusal.columns)
                reason = f"{name} {refusal.what}"
                if "reject" in answers:
                    rejection = reason
                elif not emptied:
                    known = POLICIES.get(refusal.policy, ()) if concerned else ()
                    helps = [answer for answer in known if answer == "reject" or (answer == SET_NULL and free)]
                    secret = any(column.options.secret for _, column in concerned)
                    shown = (
                        None if secret or not concerned else ", ".join(show(values[index]) for index, _ in concerned)
                    )
                    refused = Refused(refusal.policy, refusal.what)
                    table = self._plan.source.name
                    self._violations.add(table, name, refused, self._shown_key(row), shown, helps)
            for index, column in emptied:
                self._remember(column.source, SET_NULL, reason, values[index], row)
                nulled.add(index)
                conversion = f"{refusal.policy}: {SET_NULL}, original kept in the ledger"
                self.prepared.conversions[(column.source, conversion)] += 1
        return rejection, nulled

    def _apply_policy(
        self, column: ColumnPlan, convert: Any, value: Value, refused: Refused, row: Sequence[Value]
    ) -> tuple[str | None, str | None]:
        """Return the text to load and None, or None and the reason to reject the row."""
        original = value
        for _ in range(8):  # a repaired value may need another policy, but never endlessly
            answer = column.options.policy(refused.policy)
            if answer == "reject":
                return None, f"{column.source} {refused.of_this_value}"
            if answer == REFUSE or (answer == SET_NULL and column.not_null):
                break
            name = repair_name(refused.policy, answer, column)
            value = repair(value, name, column.scale)
            self._remember(column.source, name, f"{column.source} {refused.of_this_value}", original, row)
            self.prepared.conversions[(column.source, f"{refused.policy}: {answer}, original kept in the ledger")] += 1
            if answer == SET_NULL:
                return None, None
            if answer == KEEP:
                return refused.text, None
            try:
                return convert(value), None
            except Refused as again:
                refused = again
        answers = [
            answer for answer in POLICIES.get(refused.policy, ()) if _helps(answer, column, convert, value, refused)
        ]
        self._violate(column, refused, original, row, answers)
        return None, None

    def _violate(
        self, column: ColumnPlan, refused: Refused, original: Value, row: Sequence[Value], answers: Sequence[str]
    ) -> None:
        """Note a value for which no policy answers.

        :param answers: those that would.
        """
        if self.keys is not None:
            self.wrong_rows.add(self._key(row))
        shown = None if column.options.secret or original is None else show(original)
        self._violations.add(self._plan.source.name, column.source, refused, self._shown_key(row), shown, answers)

    def _remember(self, column: str, answer: str, reason: str, original: Value, row: Sequence[Value]) -> None:
        """Keep a value that a policy changes, and how it was changed."""
        key = self._key(row)
        changes = self.prepared.changes.get(key, {})
        first = column not in changes
        self.prepared.changes[key] = {**changes, column: (*changes.get(column, ()), answer)}
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


def _as_it_is(value: Value) -> str | None:
    """Stand for the conversion of a value that no policy but set_null can answer for."""
    raise Refused("unconvertible", "")  # the message has been said


def _size_of_field(field: str | bytes | None) -> int:
    """Return the bytes that a field takes in a line of COPY, its separator among them."""
    if field is None:
        return 3
    if isinstance(field, bytes):
        return 2 * len(field) + 4
    escaped = sum(field.count(character) for character in "\\\t\n\r")
    return (len(field) if field.isascii() else len(field.encode())) + escaped + 1


def server_converter(forms: ServerForms, plan: TablePlan, column: ColumnPlan, note: Note = lambda _: None) -> Convert:
    """Return the function that converts one column; for types that only the server knows it is asked too."""
    convert = converter(column, note)
    if column.kind != "other":
        return convert

    def checked(value: Value) -> str | None:
        text = convert(value)
        if text is None or (column.type_name == "interval" and is_duration_number(value)):
            return text  # a number needs no answer of the server
        if not forms.accepts(plan, column, text):
            limit = forms.limit(plan, column, text)
            if limit:
                raise Refused("unconvertible", f"holds text beyond a limit of type {column.display_type} ({limit})")
            raise Refused("unconvertible", f"holds text that is no value of type {column.display_type}")
        if forms.moves(plan, column, text):
            raise Refused("unconvertible", f"holds text that {column.display_type} reads otherwise on another day")
        if not forms.keeps(plan, column, text):
            what = f"holds a value that {column.display_type} writes otherwise and may lose something of"
            raise Refused("rewritten", what, text)
        return text

    return checked


def file_size(snapshot: sqlite3.Connection) -> int:
    """Return the bytes of a source's pages: no value of it is longer."""
    (pages,), (size,) = (snapshot.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    return int(pages) * int(size)


def _helps(answer: str, column: ColumnPlan, convert: Convert, value: Value, refused: Refused) -> bool:
    """Return whether a policy's answer would let a refused value pass."""
    if answer == REFUSE or (answer == SET_NULL and column.not_null):
        return False
    if answer in ("reject", SET_NULL, KEEP):
        return True
    try:
        convert(repair(value, repair_name(refused.policy, answer, column), column.scale))
    except Refused as again:
        return again.policy != refused.policy and column.options.policy(again.policy) != REFUSE
    except (ValueError, ArithmeticError):
        return False
    return True
