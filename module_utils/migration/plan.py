"""How each column of each table is converted: decided here, before a single value is touched.

The target's type drives; the declared SQLite type decides nothing. Planning finds what is wrong
with the mapping itself (tables, columns, units); wrong values are found by :mod:`.prepare`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from .catalog import ForeignKey, TargetColumn, TargetTable
from .errors import MigrationError, Problem
from .estate import EPOCH_UNITS, REFUSE, ColumnOptions, Group, TableMapping
from .source import SourceTable, count_rows, quote_name

INTEGER_RANGES = {"int2": (-(2**15), 2**15 - 1), "int4": (-(2**31), 2**31 - 1), "int8": (-(2**63), 2**63 - 1)}

# PostgreSQL's type name → kind of conversion; other types go through their text input.
KINDS = {
    "text": "text",
    "varchar": "text",
    "bpchar": "char",
    "uuid": "uuid",
    "int2": "integer",
    "int4": "integer",
    "int8": "integer",
    "bool": "boolean",
    "json": "json",
    "jsonb": "json",
    "timestamptz": "timestamp",
    "timestamp": "timestamp",
    "date": "date",
    "time": "time",
    "numeric": "numeric",
    "float8": "double",
    "float4": "real",
    "bytea": "bytes",
}

# A number in a time column means a moment between 1973 and 2286 in exactly one of these units.
# A Julian day in the range is one between the years -58 and 3501.
JULIAN_DAYS = "julian_days"
JULIAN_DAY_OF_1970 = 2_440_587.5
EPOCH_RANGES = {
    "seconds": (1e8, 1e10),
    "milliseconds": (1e11, 1e13),
    "microseconds": (1e14, 1e16),
    JULIAN_DAYS: (1.7e6, 3.0e6),
}
EPOCH_FACTORS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}


@dataclass(frozen=True)
class ColumnPlan:
    """How one column is converted.

    :param kind: one of the values of :data:`KINDS`, or ``other``.
    :param type_name: PostgreSQL's name of the target type.
    :param max_length: longest text in characters, None if unbounded.
    :param precision: most digits of a numeric, all of them counted; None if unbounded.
    :param scale: most digits after the point: of a numeric, or of the seconds of a time; None if
        unbounded for a numeric, 6 for a time without a modifier. Negative for ``numeric(3, -2)``.
    :param namespace: for a uuid: which table's ids these are; None if text ids are not allowed.
    :param records_ids: whether this column's text ids go into the id map (those of a foreign key
        are already there from the table that it references).
    :param epoch_unit: unit of the numbers in a time column, None if it holds none.
    """

    source: str
    target: str
    kind: str
    type_name: str
    display_type: str
    not_null: bool
    options: ColumnOptions
    max_length: int | None = None
    namespace: str | None = None
    records_ids: bool = False
    epoch_unit: str | None = None
    precision: int | None = None
    scale: int | None = None


@dataclass(frozen=True)
class ForeignKeyPlan:
    """A foreign key of the target in the source's terms; both tables belong to the group."""

    foreign_key: ForeignKey
    source: str
    columns: tuple[str, ...]
    referenced_source: str
    referenced_columns: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class TablePlan:
    """How one table is moved.

    :param kept: source columns without a target, whose values go into the ledger.
    """

    mapping: TableMapping
    source: SourceTable
    target: TargetTable
    columns: tuple[ColumnPlan, ...]
    kept: tuple[ColumnOptions, ...]
    foreign_keys: tuple[ForeignKeyPlan, ...]

    @property
    def has_secrets(self) -> bool:
        """Return whether any of its columns is marked secret: then no server message is shown."""
        return bool(self.secret_columns)

    @property
    def secret_columns(self) -> frozenset[str]:
        """Return the source columns whose values are never shown."""
        return frozenset(name for name, option in self.mapping.columns.items() if option.secret)

    @property
    def read_columns(self) -> tuple[str, ...]:
        """Return the source columns that are read: those converted, then those kept."""
        return tuple(column.source for column in self.columns) + tuple(option.name for option in self.kept)


def plan_group(
    group: Group,
    snapshot: sqlite3.Connection,
    sources: Mapping[str, SourceTable],
    targets: Mapping[str, TargetTable],
) -> list[TablePlan]:
    """Return the plan of every table of a group, referenced tables before those that refer to them.

    :raises MigrationError: with every problem of the mapping.
    """
    problems: list[Problem] = []
    file_name = group.source_path
    plans = []
    for mapping in group.tables:
        source, target = sources.get(mapping.source), targets.get(mapping.target)
        if source is None:
            held = ", ".join(sorted(sources)) or "no table at all"
            problems.append(
                Problem(
                    f"{file_name}: table {mapping.source}",
                    f"it is named in the inventory, but the source holds {held}",
                    "Correct 'source' under tables in estate_cutover_groups",
                )
            )
        if target is None:
            problems.append(
                Problem(
                    f"{file_name}: table {mapping.source}",
                    f"its target {mapping.target} does not exist in PostgreSQL",
                    "Correct 'target' under tables in estate_cutover_groups, or add the table to files/sql",
                )
            )
        if source is not None and target is not None:
            plans.append(_plan_table(group, mapping, source, target, snapshot, problems))
    problems.extend(_unmapped_tables(group, snapshot, sources))
    if problems:
        raise MigrationError(f"Cutover group {group.name} cannot be planned.", problems)
    return _in_order_of_references(plans)


def _unmapped_tables(group: Group, snapshot: sqlite3.Connection, sources: Mapping[str, SourceTable]) -> list[Problem]:
    """Return a problem for each source table that holds rows and goes nowhere."""
    known = {mapping.source for mapping in group.tables} | set(group.ignored_tables)
    problems = []
    for name in sorted(set(sources) - known):
        rows = count_rows(snapshot, name)
        if rows:
            problems.append(
                Problem(
                    f"{group.source_path}: table {name}",
                    f"it holds {rows:,} rows and the inventory names no target for it",
                    f"Map it under 'tables' of group {group.name}, or list it under 'ignored_tables'",
                )
            )
    return problems


def _plan_table(
    group: Group,
    mapping: TableMapping,
    source: SourceTable,
    target: TargetTable,
    snapshot: sqlite3.Connection,
    problems: list[Problem],
) -> TablePlan:
    """Return the plan of one table, noting its problems."""
    where = f"{group.source_path}: {mapping.source}"
    for name in mapping.columns:
        if name not in source.column_names:
            problems.append(
                Problem(
                    f"{where}.{name}",
                    "the inventory has options for it, but the source has no such column",
                    f"Its columns are {', '.join(source.column_names)}",
                )
            )
    columns, kept, taken = [], [], set()
    for source_column in source.columns:
        options = mapping.options(source_column.name)
        column = target.columns.get(options.target)
        if column is not None and not column.generated:
            taken.add(column.name)
            columns.append(_plan_column(where, column, options, target, snapshot, source, problems))
        elif source_column.generated or not _holds_data(snapshot, source.name, source_column.name):
            continue
        elif options.policy("without_target") == REFUSE:
            problems.append(
                Problem(
                    f"{where}.{source_column.name}",
                    f"it holds data, and {mapping.target} has no column {options.target}",
                    "Name its column by 'target', or keep its values in the ledger by 'without_target: keep'",
                )
            )
        else:
            kept.append(options)
    for column in target.columns.values():
        if column.name not in taken and column.not_null and not column.has_default and not column.generated:
            problems.append(
                Problem(
                    f"{where}",
                    f"target column {mapping.target}.{column.name} needs a value and no source column provides one",
                    "Name the source column's 'target' in the inventory, or give the column a default in files/sql",
                )
            )
    foreign_keys = _plan_foreign_keys(group, mapping, target, {column.target: column for column in columns})
    return TablePlan(mapping, source, target, tuple(columns), tuple(kept), foreign_keys)


def _plan_column(
    where: str,
    column: TargetColumn,
    options: ColumnOptions,
    target: TargetTable,
    snapshot: sqlite3.Connection,
    source: SourceTable,
    problems: list[Problem],
) -> ColumnPlan:
    """Return the plan of one column."""
    kind = KINDS.get(column.type_name, "other")
    max_length = (
        column.type_modifier - 4 if column.type_name in ("varchar", "bpchar") and column.type_modifier > 4 else None
    )
    precision, scale = _digits(column)
    namespace, records_ids, epoch_unit = None, False, None
    if kind == "uuid":
        referenced = next((key for key in target.foreign_keys if column.name in key.columns), None)
        if referenced is not None:
            namespace = referenced.referenced_table
        elif options.references is not None:
            namespace, records_ids = options.references, True
        elif target.key == (column.name,):
            namespace, records_ids = target.name, True
    elif kind in ("timestamp", "date"):
        epoch_unit = _epoch_unit(f"{where}.{options.name}", snapshot, source.name, options, problems)
    return ColumnPlan(
        source=options.name,
        target=column.name,
        kind=kind,
        type_name=column.type_name,
        display_type=column.display_type,
        not_null=column.not_null,
        options=options,
        max_length=max_length,
        namespace=namespace,
        records_ids=records_ids,
        epoch_unit=epoch_unit,
        precision=precision,
        scale=scale,
    )


def _digits(column: TargetColumn) -> tuple[int | None, int | None]:
    """Return a column's precision and scale, see :class:`ColumnPlan`."""
    if column.type_name in ("timestamp", "timestamptz", "time"):
        return None, 6 if column.type_modifier < 0 else column.type_modifier
    if column.type_name != "numeric" or column.type_modifier < 0:
        return None, None
    # As PostgreSQL packs them: 16 bits of precision, then 11 bits of scale with its sign.
    packed = column.type_modifier - 4
    return packed >> 16, ((packed & 0x7FF) ^ 0x400) - 0x400


def _epoch_unit(
    where: str, snapshot: sqlite3.Connection, table: str, options: ColumnOptions, problems: list[Problem]
) -> str | None:
    """Return the unit of the numbers in a time column, decided from all of them together."""
    name = quote_name(options.name)
    smallest, largest = snapshot.execute(
        f"SELECT min(CAST({name} AS REAL)), max(CAST({name} AS REAL)) FROM {quote_name(table)} "  # noqa: S608 (quoted)
        f"WHERE typeof({name}) IN ('integer', 'real') "
        f"OR (typeof({name}) = 'text' AND {name} GLOB '*[0-9]*' AND {name} NOT GLOB '*[^0-9.]*')"
    ).fetchone()
    if smallest is None:
        return None
    if options.epoch_unit is not None:
        return options.epoch_unit
    for unit, (low, high) in EPOCH_RANGES.items():
        if low <= smallest and largest < high:
            return unit
    shown = "" if options.secret else f" from {smallest:.0f} to {largest:.0f}"
    problems.append(
        Problem(
            where,
            f"it holds numbers{shown}, which do not all read as a time in one unit",
            f"Name 'epoch_unit' for the column in the inventory ({', '.join(EPOCH_UNITS)})",
        )
    )
    return None


def _holds_data(snapshot: sqlite3.Connection, table: str, column: str) -> bool:
    """Return whether a column holds any value but NULL."""
    row = snapshot.execute(
        f"SELECT 1 FROM {quote_name(table)} WHERE {quote_name(column)} IS NOT NULL LIMIT 1"  # noqa: S608 (quoted)
    ).fetchone()
    return row is not None


def _plan_foreign_keys(
    group: Group, mapping: TableMapping, target: TargetTable, columns: Mapping[str, ColumnPlan]
) -> tuple[ForeignKeyPlan, ...]:
    """Return the target's foreign keys to tables of the same group, in the source's terms."""
    by_target = {entry.target: entry for entry in group.tables}
    plans = []
    for key in target.foreign_keys:
        referenced = by_target.get(key.referenced_table)
        if referenced is None or not all(name in columns for name in key.columns):
            continue  # PostgreSQL itself checks it when the rows are loaded
        source_names = {entry.target: entry.name for entry in referenced.columns.values()}
        child = tuple(columns[name].source for name in key.columns)
        answers = {columns[name].options.policy("orphan") for name in key.columns} - {REFUSE}
        plans.append(
            ForeignKeyPlan(
                key,
                mapping.source,
                child,
                referenced.source,
                tuple(source_names.get(name, name) for name in key.referenced_columns),
                answers.pop() if len(answers) == 1 else REFUSE,
            )
        )
    return tuple(plans)


def _in_order_of_references(plans: list[TablePlan]) -> list[TablePlan]:
    """Return the plans with referenced tables first; a cycle is left in the inventory's order."""
    remaining, ordered, done = list(plans), [], set()
    names = {plan.target.name for plan in plans}
    while remaining:
        ready = [
            plan
            for plan in remaining
            if all(
                key.referenced_table in done or key.referenced_table not in names or key.referenced_table == key.table
                for key in plan.target.foreign_keys
            )
        ] or remaining[:1]
        for plan in ready:
            ordered.append(plan)
            done.add(plan.target.name)
            remaining.remove(plan)
    return ordered
