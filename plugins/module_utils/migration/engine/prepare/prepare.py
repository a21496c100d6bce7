"""Sorts out which rows are plain, and converts all others once, into private files that COPY reads as they are.

Nothing is written to the target here, so every violation can be found and listed first.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ...core.errors import MigrationError, RowsRefused
from ...core.estate import REFUSE, Group
from ...sqlite.tables import Value, quote_name, show, shown_key
from ..convert.refusals import Refused
from ..convert.server_text import ServerForms
from ..plan.planner import ForeignKeyPlan, TablePlan
from .advice import Advice
from .copy_file import Spool
from .duplicates import (
    Rejected,
    doubled_keys,
    doubled_spellings,
    rejected_duplicates,
    rejects_duplicates,
    row_of,
    unique_keys,
)
from .fast_path import count_plain_rows, id_blocks, plain_rows
from .on_disk import MissingValues
from .server_refusals import Refusals, ServerRefusal
from .table import PreparedTable, TableWork, server_converter
from .violations import SHOWN_KEYS, Violations


@dataclass
class Prepared:
    """A whole group, converted, with the files for the ledger."""

    tables: list[PreparedTable]
    id_map: Path
    rejects: Path
    originals: Path


def prepare(
    group: Group,
    snapshot: sqlite3.Connection,
    plans: Sequence[TablePlan],
    directory: Path,
    forms: ServerForms,
    spool: bool = True,
    exact: bool = False,
    only: Mapping[str, str] | None = None,
    refusals: Refusals | None = None,
    ask_server: Callable[[Prepared], Mapping[str, Mapping[str, ServerRefusal]]] | None = None,
) -> Prepared:
    """Sort out the plain rows of every table of a group, and convert all others.

    :param directory: a private directory for the files.
    :param forms: answers for types that only the server knows.
    :param spool: write the tables' files; without them only the findings are returned.
    :param exact: take no row for plain, so that every violation is found before PostgreSQL sees one.
    :param only: by source table, SQL that chooses the rows to convert; tables not named are left out.
    :param refusals: what PostgreSQL refused when the rows were loaded.
    :param ask_server: returns which of the converted rows PostgreSQL refuses.
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
    known_refusals: dict[str, dict[str, list[ServerRefusal]]] = {
        table: {key: list(found) for key, found in by_key.items()} for table, by_key in (refusals or {}).items()
    }
    while True:
        known = {table: len(rows) for table, rows in rejected_rows.items()}
        once = _Preparation(
            group,
            snapshot,
            plans,
            directory,
            forms,
            spool,
            exact,
            only,
            duplicates,
            known_refusals,
            ask_server is not None,
        )
        prepared, violations, seen = once.run(rejected_rows)
        rejected_rows = seen
        refers_to_unseen = any(
            len(seen.get(key.referenced_source, ())) > known.get(key.referenced_source, 0)
            and not _comes_before(plans, key.referenced_source, plan.source.name)
            for plan in plans
            for key in plan.foreign_keys
        )
        if refers_to_unseen:
            continue
        if ask_server is None or not _added(known_refusals, ask_server(prepared), once):
            break
    advise = Advice(snapshot, plans, partial(server_converter, forms)).for_violation if exact else None
    problems = violations.problems(advise)
    if problems:
        refused = MigrationError if exact else RowsRefused
        raise refused(f"Cutover group {group.name} holds values that its target cannot.", problems)
    return prepared


def _added(
    known: dict[str, dict[str, list[ServerRefusal]]],
    found: Mapping[str, Mapping[str, ServerRefusal]],
    once: _Preparation,
) -> bool:
    """Add what PostgreSQL refuses to what is known of that; return whether there was anything new.

    :param once: the pass whose rows were tried. Where we have found a violation ourselves, nothing is added: the row
        was tried without the value in question, or the key is known to be double.
    """
    added = False
    for table, by_key in found.items():
        for key, refusal in by_key.items():
            refusals = known.setdefault(table, {}).setdefault(key, [])
            is_tried_without = key in once.wrong_rows.get(table, ()) and refusal.policy != "orphan"
            is_doubled = refusal.policy == "duplicate" and (table, frozenset(refusal.columns)) in once.doubled_keys
            if refusal not in refusals and not is_tried_without and not is_doubled:
                refusals.append(refusal)
                added = True
    return added


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
    refusals: Refusals
    with_keys: bool
    wrong_rows: dict[str, set[str]] = field(default_factory=dict)
    doubled_keys: set[tuple[str, frozenset[str]]] = field(default_factory=set)

    def run(
        self, rejected_before: dict[str, list[dict[str, Value]]]
    ) -> tuple[Prepared, Violations, dict[str, list[dict[str, Value]]]]:
        """Prepare every table, given the rows that are known to be rejected."""
        violations = Violations(self.group.source_path)
        files = [Spool(self.directory / f"{name}.copy") for name in ("id_map", "reject", "original_value")]
        id_map, rejects, originals = files
        rejected_rows = dict(rejected_before)
        tables = []
        doubled = {plan.source.name for plan in self.plans if rejects_duplicates(plan)}
        if self.exact:
            _find_spellings(self.snapshot, self.plans, self.duplicates, violations)
        for number, plan in enumerate(self.plans):
            if self.only is not None and plan.source.name not in self.only:
                continue
            if self.exact:
                # Otherwise PostgreSQL's own constraints find them, for all rows at once.
                doubled_columns = _find_duplicates(self.snapshot, plan, self.duplicates, violations)
                self.doubled_keys.update((plan.source.name, columns) for columns in doubled_columns)
            work = TableWork(self.group, plan, violations, id_map, rejects, originals, self.forms)
            work.duplicates = self.duplicates[plan.source.name]
            work.refusals = self.refusals.get(plan.source.name, {})
            work.missing = [
                missing_values(self.snapshot, key, rejected_rows, key.referenced_source in doubled)
                if self.exact or key.answer != REFUSE or rejected_rows.get(key.referenced_source)
                else None
                for key in plan.foreign_keys
            ]
            work.respelled = [respelled_values(self.snapshot, key) for key in plan.foreign_keys]
            if self.only is not None:
                work.prepared.only = self.only[plan.source.name]
            elif any(work.respelled) or work.refusals:
                pass  # which of them are, only a join tells
            elif not self.exact and not work.duplicates and not self._refers_to_rejected(plan, rejected_rows, doubled):
                self._sort_out(work, id_map)
            lines = Spool(self.directory / f"{number:03d}.copy", self.spool)
            if self.with_keys:
                work.keys = Spool(self.directory / f"{number:03d}.keys")
                work.prepared.keys = work.keys.path
            if work.prepared.plain is None or work.prepared.odd_rows:
                rejected_rows[plan.source.name] = work.run(self.snapshot, lines)
            lines.close()
            if work.keys is not None:
                work.keys.close()
            self.wrong_rows[plan.source.name] = work.wrong_rows
            work.prepared.spool = lines.path if self.spool else None
            tables.append(work.prepared)
        for file in files:
            file.close()
        return Prepared(tables, id_map.path, rejects.path, originals.path), violations, rejected_rows

    @staticmethod
    def _refers_to_rejected(
        plan: TablePlan, rejected_rows: Mapping[str, Sequence[Mapping[str, Value]]], doubled: set[str]
    ) -> bool:
        """Return whether a row may be an orphan for another reason than that SQLite has no such row."""
        return any(
            rejected_rows.get(key.referenced_source) or key.referenced_source in doubled for key in plan.foreign_keys
        )

    def _sort_out(self, work: TableWork, id_map: Spool) -> None:
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
) -> MissingValues:
    """Return the values of a foreign key whose row is missing from the source or was rejected.

    :param doubled: whether several rows may hold a value, of which one arrives.
    """
    columns = [quote_name(name) for name in key.columns]
    condition = " AND ".join(
        f"p.{quote_name(parent)} = c.{name}" for parent, name in zip(key.referenced_columns, columns, strict=True)
    )
    not_null = " AND ".join(f"c.{name} IS NOT NULL" for name in columns)
    rows = snapshot.execute(
        f"SELECT {', '.join(f'c.{name}' for name in columns)} FROM {key.relation} c "  # noqa: S608 (quoted)
        f"WHERE {not_null} AND NOT EXISTS "
        f"(SELECT 1 FROM {key.referenced_relation} p WHERE {condition})"
    )
    missing = MissingValues(len(columns), rows)
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
    missing.update(values for values, count in rejected.items() if count >= held.get(values, 1))
    return missing


def respelled_values(snapshot: sqlite3.Connection, key: ForeignKeyPlan) -> dict[tuple[Value, ...], tuple[Value, ...]]:
    """Return the values of a foreign key that only a collation takes for those of a row, with these: 'usd', 'USD'."""
    collated = snapshot.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ? AND sql LIKE '%collate%'",
        (key.referenced_source,),
    ).fetchone()
    if collated is None:
        return {}
    pairs = [
        (f"c.{quote_name(name)}", f"p.{quote_name(parent)}")
        for name, parent in zip(key.columns, key.referenced_columns, strict=True)
    ]
    found = snapshot.execute(
        f"SELECT DISTINCT {', '.join(f'{child} COLLATE BINARY' for child, _ in pairs)}, "  # noqa: S608 (quoted)
        f"{', '.join(parent for _, parent in pairs)} FROM {key.relation} c JOIN {key.referenced_relation} p "
        f"ON {' AND '.join(f'{parent} = {child}' for child, parent in pairs)} "
        f"WHERE {' OR '.join(_differ(child, parent) for child, parent in pairs)}"
    )
    count = len(pairs)
    result = {tuple(row[:count]): tuple(row[count:]) for row in found}
    exact = _exact_matches(snapshot, key, pairs) if result else set()
    return {value: parent for value, parent in result.items() if value not in exact}


def _differ(one: str, other: str) -> str:
    """Return the SQL that is true for two texts of different bytes."""
    return f"(typeof({one}) = 'text' AND typeof({other}) = 'text' AND {one} <> {other} COLLATE BINARY)"


def _exact_matches(
    snapshot: sqlite3.Connection, key: ForeignKeyPlan, pairs: Sequence[tuple[str, str]]
) -> set[tuple[Value, ...]]:
    """Return the values of a foreign key that are also those of a row byte for byte, beside others alike."""
    found = snapshot.execute(
        f"SELECT DISTINCT {', '.join(f'{child} COLLATE BINARY' for child, _ in pairs)} "  # noqa: S608 (quoted)
        f"FROM {key.relation} c JOIN {key.referenced_relation} p "
        f"ON {' AND '.join(f'{parent} = {child}' for child, parent in pairs)} "
        f"WHERE NOT ({' OR '.join(_differ(child, parent) for child, parent in pairs)})"
    )
    return {tuple(row) for row in found}


def _find_duplicates(
    snapshot: sqlite3.Connection, plan: TablePlan, rejected: Rejected, violations: Violations
) -> set[frozenset[str]]:
    """Note the keys that the target allows once and the source holds twice, and return the columns of those keys."""
    found = set()
    for unique in unique_keys(plan):
        if unique.answer != REFUSE:
            continue
        secret = any(column.options.secret for column in unique.columns)
        for values, count in doubled_keys(snapshot, plan, unique, rejected):
            found.add(frozenset(column.source for column in unique.columns))
            pairs = zip(unique.columns, values, strict=True)
            shown = ", ".join(f"{column.source}={show(value)}" for column, value in pairs)
            violations.add(
                plan.source.name,
                "+".join(column.source for column in unique.columns),
                Refused("duplicate", "holds the same key more than once"),
                "a secret value" if secret else shown,
                f"{count} times",
                {"reject": count - 1},
            )
    return found


def _find_spellings(
    snapshot: sqlite3.Connection, plans: Sequence[TablePlan], rejected: Rejected, violations: Violations
) -> None:
    """Note the UUIDs that stand in the source in two ways, of which the id map could keep but one."""
    for number, found in enumerate(doubled_spellings(snapshot, plans, rejected)):
        plan, column = found.columns[0]
        others = "".join(f", also in {other.source.name}.{name.source}" for other, name in found.columns[1:])
        refused = Refused("spelling", f"holds a UUID in more than one spelling{others}")
        places = []
        for spelling in (found.first, found.second) if number < SHOWN_KEYS else ():
            place = row_of(snapshot, found, spelling)
            if place is not None:
                there, name, row = place
                table = "" if there is plan else f"{there.source.name} "
                shown = "a secret value" if name.options.secret else show(spelling)
                places.append(f"{table}{shown_key(there.source, row, there.secret_columns)}: {shown}")
        violations.add(plan.source.name, column.source, refused, " and ".join(places), None)
