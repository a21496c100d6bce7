"""How each column of each table is converted: decided here, before a single value is touched.

The target's type drives; the declared SQLite type decides nothing. Planning finds what is wrong
with the mapping itself (tables, columns, units); wrong values are found by :mod:`.engine.prepare.prepare`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...core.errors import TABLE_SQL, MigrationError, Problem
from ...core.estate import REFUSE, ColumnOptions, Group, TableMapping
from ...postgres.catalog import ForeignKey, TargetColumn, TargetTable
from ...sqlite.tables import SourceTable, VirtualTable, count_rows, quote_name, read_virtual_tables
from .epoch_units import epoch_units
from .id_namespaces import with_namespaces
from .ids_in_texts import IdsInTexts
from .inverse import inverse_problems
from .selection import half_surrogates, select

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


@dataclass(frozen=True)
class IdSpelling:
    """How all UUIDs of one kind stand in a file, if not as PostgreSQL writes them."""

    hyphens: bool
    capitals: bool


@dataclass(frozen=True)
class ColumnPlan:
    """How one column is converted.

    :param kind: one of the values of :data:`KINDS`, or ``other``.
    :param type_name: PostgreSQL's name of the target type.
    :param max_length: longest text in characters, None if unbounded.
    :param precision: most digits of a numeric, all of them counted; None if unbounded.
    :param scale: most digits after the point: of a numeric, or of the seconds of a time; None if
        unbounded for a numeric, 6 for a time without a modifier. Negative for ``numeric(3, -2)``.
    :param namespace: for a uuid: which table's ids these are, or the column's own name if nothing says so.
    :param text_ids: for a uuid: whether an id that is none may become one, in the namespace.
    :param records_ids: whether this column's ids that are not written as PostgreSQL writes a UUID go
        into the id map (those of a foreign key are already there from the table that it references).
    :param epoch_unit: unit of the numbers in a time column, None if it holds none.
    :param spelling: for a uuid in a rollback: how one that is not in the id map is written, None as by PostgreSQL.
    :param sequence: the sequence that gives out the next values, quoted for SQL; None if there is none.
    :param ids: the ids that are rewritten where they stand in a text or in JSON, None if none are.
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
    sequence: str | None = None
    text_ids: bool = True
    spelling: IdSpelling | None = None
    ids: IdsInTexts | None = None


@dataclass(frozen=True)
class ForeignKeyPlan:
    """A foreign key of the target in the source's terms; both tables belong to the group.

    :param relation: what stands after FROM for the rows that refer, see :attr:`.SourceTable.relation`.
    :param referenced_relation: the same for the rows that are referred to.
    :param emptied: the columns that 'orphan: set_null' sets to NULL; empty if it cannot be.
    :param note: why 'orphan: set_null' cannot be, if the inventory asks for it.
    """

    foreign_key: ForeignKey
    source: str
    columns: tuple[str, ...]
    referenced_source: str
    referenced_columns: tuple[str, ...]
    answer: str
    relation: str
    referenced_relation: str
    emptied: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class TablePlan:
    """How one table is moved.

    :param source: the source table, or the part of it that the inventory selects.
    :param kept: source columns without a target, whose values go into the ledger.
    :param generated: columns that both sides generate: never loaded, but equal if all is well.
    :param filtered_rows: source rows that the inventory's ``row_filter`` leaves behind.
    """

    mapping: TableMapping
    source: SourceTable
    target: TargetTable
    columns: tuple[ColumnPlan, ...]
    kept: tuple[ColumnOptions, ...]
    foreign_keys: tuple[ForeignKeyPlan, ...]
    generated: tuple[ColumnPlan, ...] = ()
    filtered_rows: int = 0

    @property
    def compared(self) -> tuple[ColumnPlan, ...]:
        """Return the columns that must be equal on both sides: those loaded, and those that both sides generate."""
        return self.columns + self.generated

    @property
    def has_secrets(self) -> bool:
        """Return whether any of its columns is marked secret: then no server message is shown."""
        return bool(self.secret_columns)

    @property
    def secret_columns(self) -> frozenset[str]:
        """Return the source columns whose values are never shown."""
        marked = {name for name, option in self.mapping.columns.items() if option.secret}
        return frozenset(marked | {column.source for column in self.columns if column.options.secret})

    @property
    def read_columns(self) -> tuple[str, ...]:
        """Return the source columns that are read: those converted, then those kept."""
        return tuple(column.source for column in self.columns) + tuple(option.name for option in self.kept)


class PlanRefused(MigrationError):
    """The mapping is wrong somewhere.

    :param plans: those of the tables whose values can be looked at all the same.
    """

    def __init__(self, summary: str, problems: Iterable[Problem], plans: Sequence[TablePlan]) -> None:
        super().__init__(summary, problems)
        self.plans = plans

    def __str__(self) -> str:
        """Return the message with the problems that were found since."""
        return self.message()


def plan_group(
    group: Group,
    snapshot: sqlite3.Connection,
    sources: Mapping[str, SourceTable],
    targets: Mapping[str, TargetTable],
    asks: bool = True,
) -> list[TablePlan]:
    """Return the plan of every table of a group, referenced tables before those that refer to them.

    :param asks: whether numbers that may be times in several units are a question. A rehearsal asks; once it has
        decided, or an earlier version has, nothing that comes later may stop at that.
    :raises MigrationError: with every problem of the mapping.
    """
    problems: list[Problem] = []
    file_name = group.source_path
    virtual = {table.name: table for table in read_virtual_tables(snapshot)}
    plans = []
    for mapping in group.tables:
        source, target = sources.get(mapping.source), targets.get(mapping.target)
        if source is None and mapping.source in virtual:
            problems.append(_not_to_be_read(f"{file_name}: table {mapping.source}", virtual[mapping.source]))
        elif source is None:
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
                    f"Correct 'target' under tables in estate_cutover_groups, or add the table to {TABLE_SQL}",
                )
            )
        if source is not None and target is not None:
            where = f"{file_name}: {mapping.source}"
            selected, filtered_rows = select(where, mapping, source, sources, snapshot, problems)
            plan = _plan_table(where, mapping, selected, target, snapshot, problems, asks)
            plans.append(replace(plan, filtered_rows=filtered_rows))
    plans = with_namespaces(plans)
    plans = [replace(plan, foreign_keys=_plan_foreign_keys(plan, plans)) for plan in plans]
    problems.extend(_unmapped_tables(group, snapshot, sources, virtual))
    if problems:
        raise PlanRefused(
            f"Cutover group {group.name} cannot be planned.", problems, _usable(plans, file_name, problems)
        )
    return _in_order_of_references(plans)


def _usable(plans: Sequence[TablePlan], file_name: str, problems: Sequence[Problem]) -> list[TablePlan]:
    """Return the plans whose rows can be found and are those that the inventory means."""
    unsure = [problem.where for problem in problems]
    return _in_order_of_references(
        [
            plan
            for plan in plans
            if plan.source.key
            and not any(
                where.startswith(
                    (f"{file_name}: {plan.source.name}: row_filter", f"{file_name}: {plan.source.name}: computed")
                )
                for where in unsure
            )
        ]
    )


def _not_to_be_read(where: str, table: VirtualTable) -> Problem:
    """Return the problem of a virtual table that is mapped and holds no rows that can be read."""
    if table.derived:
        from_where = table.content or "other tables"
        what = f"it is a virtual table ({table.module}) that shows what {from_where} holds"
        return Problem(where, what, f"Map {from_where} instead" if table.content else "Map those instead")
    if table.holds_rows is None:
        what = f"it is a virtual table ({table.module}) that SQLite cannot read here"
    else:
        what = f"it is a full-text index ({table.module}) that does not keep its texts"
    return Problem(where, what, "It cannot be mapped; list it under 'ignored_tables', and move what the service needs")


def _unmapped_tables(
    group: Group,
    snapshot: sqlite3.Connection,
    sources: Mapping[str, SourceTable],
    virtual: Mapping[str, VirtualTable],
) -> list[Problem]:
    """Return a problem for each source table that holds rows, may be their only place, and goes nowhere."""
    known = {mapping.source for mapping in group.tables} | set(group.ignored_tables)
    problems = []
    for name in sorted({*sources, *virtual} - known):
        where = f"{group.source_path}: table {name}"
        table = virtual.get(name)
        if table is not None and not table.readable:
            if not table.derived and table.holds_rows is not False:
                problem = _not_to_be_read(where, table)
                problems.append(replace(problem, fix=f"List it under 'ignored_tables' of group {group.name}"))
            continue
        rows = count_rows(snapshot, name)
        if rows:
            kind = "" if table is None else f"is a virtual table ({table.module}) that "
            problems.append(
                Problem(
                    where,
                    f"it {kind}holds {rows:,} rows and the inventory names no target for it",
                    f"Map it under 'tables' of group {group.name}, or list it under 'ignored_tables'",
                )
            )
    return problems


def _plan_table(
    where: str,
    mapping: TableMapping,
    source: SourceTable,
    target: TargetTable,
    snapshot: sqlite3.Connection,
    problems: list[Problem],
    asks: bool,
) -> TablePlan:
    """Return the plan of one table without its foreign keys, noting its problems."""
    if not source.key:
        problems.append(
            Problem(
                where,
                "it has no primary key without NULL, and its columns rowid, _rowid_ and oid hide the row id",
                "Give the table a primary key, or rename one of these columns in the source",
            )
        )
    computed_names = {*mapping.computed, *(name for name, _ in source.computed)}
    for name in mapping.columns:
        if name not in source.column_names and name not in computed_names:
            problems.append(
                Problem(
                    f"{where}.{name}",
                    "the inventory has options for it, but the source has no such column",
                    f"Its columns are {', '.join(source.column_names)}",
                )
            )
    columns, generated, kept = _computed_columns(where, mapping, source, target, problems), [], []
    for source_column in source.columns:
        options = mapping.options(source_column.name)
        column = _target_column(options, target)
        computed = column is not None and column.name in mapping.computed
        if column is not None and not column.generated and not computed:
            columns.append(_plan_column(where, column, options, target, problems))
        elif source_column.generated:
            if column is not None and column.generated:
                generated.append(_plan_column(where, column, options, target, problems))
        elif not _holds_data(snapshot, source, source_column.name):
            continue
        elif options.policy("without_target") == REFUSE:
            problems.append(_without_target(f"{where}.{source_column.name}", options, target, column, computed))
        else:
            kept.append(options)
    problems.extend(_named_twice(where, target, columns))
    if not any(problem.where.startswith(f"{where}: computed") for problem in problems):
        problems.extend(inverse_problems(where, mapping, source, snapshot))
    taken = {column.target for column in columns}
    for column in target.columns.values():
        if column.name not in taken and column.not_null and not column.has_default and not column.generated:
            problems.append(
                Problem(
                    f"{where}",
                    f"target column {mapping.target}.{column.name} needs a value and no source column provides one",
                    "Name the source column's 'target' or a value under 'computed' in the inventory, "
                    f"or give the column a default in {TABLE_SQL}",
                )
            )
    names = [column.source for column in columns] + [option.name for option in kept]
    secret = {name for name, option in mapping.columns.items() if option.secret}
    problems.extend(half_surrogates(where, snapshot, source, names, secret))
    units = epoch_units(where, snapshot, source, [*columns, *generated], problems, asks)
    return TablePlan(
        mapping,
        source,
        target,
        tuple(replace(column, epoch_unit=units.get(column.source)) for column in columns),
        tuple(kept),
        (),
        tuple(replace(column, epoch_unit=units.get(column.source)) for column in generated),
    )


def _computed_columns(
    where: str, mapping: TableMapping, source: SourceTable, target: TargetTable, problems: list[Problem]
) -> list[ColumnPlan]:
    """Return the plans of the columns that the inventory computes."""
    # Nobody can tell which columns an expression shows, so next to a secret it is one too.
    any_secret = any(option.secret for option in mapping.columns.values())
    columns = []
    for (name, _), target_name in zip(source.computed, mapping.computed, strict=True):
        column = target.columns.get(target_name)
        if column is None or column.generated:
            why = "has no such column" if column is None else "generates it itself"
            known = ", ".join(entry.name for entry in target.columns.values() if not entry.generated)
            problems.append(
                Problem(
                    f"{where}: computed: {target_name}",
                    f"{target.name} {why}",
                    f"Its columns are {known}",
                )
            )
            continue
        options = _options_of_computed(mapping, name, target_name)
        options = replace(options, secret=options.secret or any_secret)
        columns.append(_plan_column(where, column, options, target, problems))
    return columns


def _options_of_computed(mapping: TableMapping, name: str, target: str) -> ColumnOptions:
    """Return the options of a computed column.

    They stand under the name that messages show, or under that of its target column. The latter may be the name of a
    source column too, whose values the computed ones replace: what is said of it is said of them, unless it has
    another target.

    :param name: the name that messages show.
    """
    options = mapping.columns.get(name) or mapping.columns.get(target)
    if options is None or (options.name == target and options.target != target):
        options = ColumnOptions(name, target)
    return replace(options, name=name, target=target)


def _target_column(options: ColumnOptions, target: TargetTable) -> TargetColumn | None:
    """Return the target column of a source column.

    SQLite does not tell ``UserName`` from ``username``, and PostgreSQL's DDL writes the latter for
    both: without an exact match, and without a 'target' in the inventory, a column of the same name
    in other letters is taken if there is only one.
    """
    exact = target.columns.get(options.target)
    if exact is not None or options.target != options.name:
        return exact
    alike = [column for name, column in target.columns.items() if name.lower() == options.name.lower()]
    return alike[0] if len(alike) == 1 else None


def _without_target(
    where: str, options: ColumnOptions, target: TargetTable, column: TargetColumn | None, computed: bool
) -> Problem:
    """Return the problem of a source column whose values would go nowhere."""
    fix = "Keep its values in the ledger by 'without_target: keep'"
    if computed:
        return Problem(where, f"it holds data, and the inventory computes {target.name}.{options.target} instead", fix)
    if column is not None:
        return Problem(where, f"it holds data, and {target.name}.{column.name} is generated by PostgreSQL", fix)
    # PostgreSQL cuts a name that is longer than 63 bytes.
    alike = [
        name
        for name in target.columns
        if name.lower().encode() in (found := options.target.lower().encode(), found[:63])
    ]
    also = f", but {' and '.join(alike)}" if alike else ""
    return Problem(
        where,
        f"it holds data, and {target.name} has no column {options.target}{also}",
        "Name its column by 'target', or keep its values in the ledger by 'without_target: keep'",
    )


def _named_twice(where: str, target: TargetTable, columns: list[ColumnPlan]) -> list[Problem]:
    """Return a problem for each target column that two source columns would fill."""
    sources: dict[str, list[str]] = {}
    for column in columns:
        sources.setdefault(column.target, []).append(column.source)
    return [
        Problem(where, f"its columns {' and '.join(names)} all go to {target.name}.{name}", "Name another 'target'")
        for name, names in sources.items()
        if len(names) > 1
    ]


def _plan_column(
    where: str, column: TargetColumn, options: ColumnOptions, target: TargetTable, problems: list[Problem]
) -> ColumnPlan:
    """Return the plan of one column, without the unit of its times."""
    kind = KINDS.get(column.type_name, "other")
    max_length = (
        column.type_modifier - 4 if column.type_name in ("varchar", "bpchar") and column.type_modifier > 4 else None
    )
    precision, scale = _digits(column)
    namespace, records_ids, text_ids = None, False, True
    if kind == "uuid":
        referenced = next((key for key in target.foreign_keys if column.name in key.columns), None)
        if referenced is not None:
            # Those of a table of the group are named as its plan names them: see with_namespaces.
            namespace = options.references or referenced.ids_of[referenced.columns.index(column.name)]
            text_ids = options.references is not None or namespace.count(".") < 2
        elif options.references is not None:
            namespace, records_ids = options.references, True
        elif target.key == (column.name,):
            namespace, records_ids = target.name, True
        else:
            namespace, records_ids, text_ids = f"{target.name}.{column.name}", True, False
    sequence = column.sequence
    if sequence is None and options.sequence is not None:
        sequence = target.sequences.get(options.sequence)
        if sequence is None:
            problems.append(
                Problem(
                    f"{where}.{options.name}",
                    f"its 'sequence' {options.sequence} does not exist in PostgreSQL",
                    f"Correct 'sequence' in the inventory (schema.name), or create it in {TABLE_SQL}",
                )
            )
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
        precision=precision,
        scale=scale,
        sequence=sequence,
        text_ids=text_ids,
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


def _holds_data(snapshot: sqlite3.Connection, source: SourceTable, column: str) -> bool:
    """Return whether a column holds any value but NULL."""
    row = snapshot.execute(
        f"SELECT 1 FROM {source.relation} WHERE {quote_name(column)} IS NOT NULL LIMIT 1"  # noqa: S608 (quoted)
    ).fetchone()
    return row is not None


def _plan_foreign_keys(plan: TablePlan, plans: Sequence[TablePlan]) -> tuple[ForeignKeyPlan, ...]:
    """Return the target's foreign keys to tables of the same group, in the source's terms."""
    by_target = {entry.target.name: entry for entry in plans}
    columns = {column.target: column for column in plan.columns}
    result = []
    for key in plan.target.foreign_keys:
        referenced = by_target.get(key.referenced_table)
        parents = {column.target: column for column in referenced.columns} if referenced else {}
        if (
            referenced is None
            or not all(name in columns for name in key.columns)
            or not all(name in parents for name in key.referenced_columns)
            or not all(_is_exact(plan, columns[name]) for name in key.columns)
            or not all(_is_exact(referenced, parents[name]) for name in key.referenced_columns)
        ):
            continue  # PostgreSQL itself checks it when the rows are tried or loaded
        answers = {columns[name].options.policy("orphan") for name in key.columns} - {REFUSE}
        emptied, note = _emptied(key, [columns[name] for name in key.columns])
        result.append(
            ForeignKeyPlan(
                key,
                plan.source.name,
                tuple(columns[name].source for name in key.columns),
                referenced.source.name,
                tuple(parents[name].source for name in key.referenced_columns),
                answers.pop() if len(answers) == 1 else REFUSE,
                plan.source.relation,
                referenced.source.relation,
                emptied,
                note,
            )
        )
    return tuple(result)


def _is_exact(plan: TablePlan, column: ColumnPlan) -> bool:
    """Return whether two values are the same for PostgreSQL only where SQLite takes them for the same.

    Types that only the server knows (citext, inet …) and some collations take others for the same too.
    """
    return column.kind != "other" and plan.target.columns[column.target].deterministic


def _emptied(key: ForeignKey, columns: Sequence[ColumnPlan]) -> tuple[tuple[str, ...], str]:
    """Return the columns of a foreign key that 'orphan: set_null' empties, and why it cannot if it is asked for.

    One column that is NULL is enough for a key without MATCH FULL: the others keep their values.
    """
    asked = [column for column in columns if column.options.policy("orphan") == "set_null"]
    whole = "MATCH FULL" in key.definition
    free = [column for column in columns if not column.not_null]
    if whole and len(free) < len(columns):
        free = []
    emptied = free if whole or not asked else [column for column in free if column in asked]
    if emptied or not asked:
        return tuple(column.source for column in emptied), ""
    fixed = [column.source for column in columns if column.not_null and (whole or column in asked)]
    names = f"{' and '.join(fixed)} {'is' if len(fixed) == 1 else 'are'} NOT NULL in {key.table}"
    why = f"'orphan: set_null' cannot be, for {names}"
    if whole and len(columns) > 1:
        why += ", and with MATCH FULL all columns of the key are set or none"
    elif free:
        why += f"; it can for {' or '.join(column.source for column in free)}"
    return (), why


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
