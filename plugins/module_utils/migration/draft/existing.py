"""Drafts the mapping alone, onto tables that the application has made in PostgreSQL itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from ..core.errors import Problem
from ..core.migration_tools import tool_of
from ..postgres.catalog import TargetColumn, TargetTable
from .draft import Draft
from .mapping import flow, scalar
from .matching import PLURAL, match
from .names import quote

# Types into which numbers go only with the unit of their time.
_TIMES = frozenset(("timestamptz", "timestamp", "date", "time"))
# Types by the kind of their values, as they are drafted and as pg_type has them; another type is a kind of its own.
_KINDS = {
    name: kind
    for kind, names in {
        "number": (
            "smallint",
            "int2",
            "integer",
            "int4",
            "bigint",
            "int8",
            "numeric",
            "double precision",
            "float8",
            "float4",
        ),
        "text": ("text", "varchar", "bpchar"),
        "time": ("timestamptz", "timestamp", "date", "time"),
        "JSON": ("jsonb", "json"),
    }.items()
    for name in names
}
# Answers of a draft that hold whatever the type of the target is.
_OF_ANY_TYPE = ("orphan", "nul_character")
_SUGGESTIONS = 3


@dataclass(frozen=True)
class Existing:
    """Tables that are there.

    :param schemas: where they were looked for.
    :param tables: each by ``schema.table``.
    :param rows: how many rows each holds, by the same names.
    :param owners: the role that owns each.
    :param role: the role that the rows are moved as.
    """

    schemas: tuple[str, ...]
    tables: Mapping[str, TargetTable]
    rows: Mapping[str, int]
    owners: Mapping[str, str]
    role: str


def map_onto(drafts: Mapping[str, Draft], existing: Existing) -> dict[str, Draft]:
    """Return the drafts of several files without their SQL, mapped onto tables that are there.

    A table of PostgreSQL is mapped once at most: where tables of two files could be it, a person decides.

    :param drafts: by the names of their groups.
    """
    sources = {
        (group, table["source"]): table["source"]
        for group, drafted in drafts.items()
        for table in drafted.tables
        if _tool(table) is None
    }
    targets = {name: name.partition(".")[2] for name, table in existing.tables.items() if not tool_of_target(table)}
    found = match(sources, targets)
    result = {}
    for group, drafted in drafts.items():
        own = {source: target for (owner, source), target in found.pairs.items() if owner == group}
        disregarded = {source: said for (owner, source), said in found.disregarded.items() if owner == group}
        unsure = {source: candidates for (owner, source), candidates in found.unsure.items() if owner == group}
        result[group] = _Mapper(drafted, existing, own, disregarded, unsure, found.free).draft()
    return result


def tool_of_target(table: TargetTable) -> str | None:
    """Return the tool whose bookkeeping a table of PostgreSQL is, None if it is none that we know."""
    return tool_of(table.name.partition(".")[2], table.columns)


def _tool(table: Mapping[str, Any]) -> str | None:
    """Return the same for a drafted table."""
    return tool_of(table["source"], [column["source"] for column in table["columns"]])


class _Mapper:
    """Maps the tables of one file.

    :param pairs: its tables with their targets.
    :param disregarded: of those whose names are not the same, what the comparison did not look at.
    :param unsure: its tables that could be each of several targets.
    :param free: targets that no table of any file is mapped to.
    """

    def __init__(
        self,
        drafted: Draft,
        existing: Existing,
        pairs: Mapping[str, str],
        disregarded: Mapping[str, str],
        unsure: Mapping[str, Sequence[str]],
        free: Sequence[str],
    ) -> None:
        self._drafted = drafted
        self._existing = existing
        self._pairs = pairs
        self._disregarded = disregarded
        self._unsure = unsure
        self._free = free
        self._entries = {entry["source"]: entry for entry in drafted.mapping["tables"]}
        self._left_behind: list[str] = list(drafted.mapping.get("ignored_tables", ()))
        # What a person decides of a virtual table holds for any target; all else is about the SQL.
        self._questions = [entry for entry in drafted.questions if entry.where in self._left_behind]
        self._notes: dict[str, list[str]] = {}
        self._choices: dict[str, dict[str, list[str]]] = {}

    def draft(self) -> Draft:
        """Return the draft."""
        tables, entries = [], []
        for table in self._drafted.tables:
            tool = _tool(table)
            if tool is not None:
                self._left_behind.append(table["source"])
                note = f"{table['source']} is the bookkeeping of {tool}: PostgreSQL's stays as the tool wrote it there."
                self._notes.setdefault(table["source"], []).append(note)
            elif table["source"] in self._pairs:
                mapped, entry = self._map(table, self._existing.tables[self._pairs[table["source"]]])
                tables.append(mapped)
                entries.append(entry)
            else:
                self._ask_for_target(table)
        mapping = {**self._drafted.mapping, "tables": entries}
        mapping.pop("ignored_tables", None)
        if self._left_behind:
            mapping["ignored_tables"] = self._left_behind
        return replace(
            self._drafted,
            sql="",
            mapping=mapping,
            choices=self._choices,
            questions=self._questions,
            tables=tables,
            notes=self._notes,
        )

    def _ask(self, table: str, where: str, what: str, fix: str, choices: Sequence[str] = ()) -> None:
        """Note a question on a table, with what could be written for it."""
        self._questions.append(Problem(where, what, fix))
        self._notes.setdefault(table, []).extend([f"DECIDE: {where}: {what}. {fix}", *choices])

    # --- tables ---------------------------------------------------------------------------------

    def _ask_for_target(self, table: Mapping[str, Any]) -> None:
        """Note that a table has no target, or could have several."""
        source, rows = table["source"], table["rows"]
        candidates = list(self._unsure.get(source, ()))
        schemas = ", ".join(self._existing.schemas)
        if not rows and not candidates:
            note = f"Table {source} is empty, and no table of {schemas} has that name."
            self._notes.setdefault(source, []).append(note)
            return
        held = _counted(rows, "row")
        what = f"it holds {held}, and no table of {schemas} has that name"
        if candidates:
            what = f"it holds {held}, and its target may be {' or '.join(candidates)}"
            if len(candidates) == 1:
                what += ", which another table could have too"
        else:
            near = {name.partition(".")[2]: name for name in self._free}
            candidates = [near[name] for name in get_close_matches(source, near, _SUGGESTIONS)]
        candidates = candidates or ["SCHEMA.TABLE"]
        lines = [line for name in candidates for line in (f"- source: {scalar(source)}", f"  target: {scalar(name)}")]
        self._ask(source, source, what, "Name its target, or list it under 'ignored_tables' to leave its rows", lines)

    def _map(self, table: Mapping[str, Any], target: TargetTable) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a table as data and its entry of the mapping, with questions on what does not fit."""
        source = table["source"]
        if source in self._disregarded:
            note = f"{source} is matched with {target.name} {self._disregarded[source]}."
            self._notes.setdefault(source, []).append(note)
        self._ask_about_what_is_there(source, target)
        columns = {column["source"]: column for column in table["columns"]}
        found = match({name: name for name in columns}, {name: name for name in target.columns})
        options = dict(self._entries[source].get("columns", {}))
        computed = {
            name: expression
            for name, expression in self._entries[source].get("computed", {}).items()
            if name in target.columns
        }
        pairs, unsure = dict(found.pairs), dict(found.unsure)
        for name, said in found.disregarded.items():
            # Only the kind of their values tells a list of tags from a tag.
            if said == PLURAL and not _of_one_kind(columns[name], target.columns[pairs[name]]):
                unsure[name] = (pairs.pop(name),)
        self._note_columns(source, {name: said for name, said in found.disregarded.items() if name in pairs})
        written, mapped = {}, []
        for name, column in columns.items():
            own = {key: value for key, value in options.get(name, {}).items() if key == "secret"}
            to = target.columns.get(pairs.get(name, ""))
            if to is None or (to.generated and not column["generated"]):
                self._ask_for_column(source, column, target, unsure.get(name, ()), found.free)
            else:
                if to.name != name:
                    own["target"] = to.name
                if to.type_name in _TIMES and "epoch_unit" in options.get(name, {}):
                    own["epoch_unit"] = options[name]["epoch_unit"]
                mapped.append(
                    {**column, "target": to.name, "type": to.display_type, "why": _why(found.disregarded.get(name))}
                )
                self._keep_choices(source, name)
            if own:
                written[name] = own
        self._ask_for_values(source, target, {*pairs.values(), *computed})
        entry: dict[str, Any] = {"source": source, "target": target.name}
        if computed:
            entry["computed"] = computed
        if written:
            entry["columns"] = written
        why = _why(self._disregarded.get(source))
        return {**table, "target": target.name, "columns": mapped, "why": why}, entry

    def _note_columns(self, table: str, disregarded: Mapping[str, str]) -> None:
        """Note which columns have a target whose name is not the same, and what was not looked at."""
        for said in dict.fromkeys(disregarded.values()):
            names = ", ".join(name for name, other in disregarded.items() if other == said)
            self._notes.setdefault(table, []).append(f"Columns matched {said}: {names}.")

    def _ask_about_what_is_there(self, source: str, target: TargetTable) -> None:
        """Note rows of the application's own, and an owner as which nobody can move rows."""
        owner, role = self._existing.owners[target.name], self._existing.role
        sql_name = ".".join(map(quote, target.name.split(".")))
        if owner != role:
            what = f"its target {target.name} belongs to the role {owner}, and rows are moved as {role}"
            fix = f"Let it belong to that role: ALTER TABLE {sql_name} OWNER TO {quote(role)};"
            self._ask(source, source, what, fix)
        rows = self._existing.rows[target.name]
        if rows:
            held = _counted(rows, "row")
            what = f"its target {target.name} holds {held} already, and rows are only moved into an empty table"
            fix = (
                f"If the application has put them there and the file holds them too, empty it: TRUNCATE {sql_name}; "
                "(in one statement with the tables that refer to it). Or list it under 'ignored_tables', which leaves "
                "both as they are. Rows that an earlier run of ours has moved may stay"
            )
            self._ask(source, source, what, fix)

    # --- columns --------------------------------------------------------------------------------

    def _ask_for_column(
        self,
        table: str,
        column: Mapping[str, Any],
        target: TargetTable,
        candidates: Sequence[str],
        free: Sequence[str],
    ) -> None:
        """Note that a column with values has no target, or could have several."""
        if not column["values"] or column["generated"]:
            return
        name = column["source"]
        held = _counted(column["values"], "value")
        what = f"it holds {held}, and {target.name} has no column of that name that takes them"
        if candidates:
            names = [_with_type(column, target.columns[other]) for other in candidates]
            what = f"it holds {held}, and its target may be {' or '.join(names)}"
        possible = [other for other in free if not target.columns[other].generated]
        near = list(candidates) or get_close_matches(name, possible, _SUGGESTIONS) or possible[:_SUGGESTIONS]
        fix = "Name its 'target', or keep its values in the ledger by 'without_target: keep'"
        self._questions.append(Problem(f"{table}.{name}", what, fix))
        lines = [f"DECIDE: {what}. {fix}", *(f"target: {other}" for other in near), "without_target: keep"]
        self._choices.setdefault(table, {}).setdefault(name, []).extend(lines)

    def _keep_choices(self, table: str, column: str) -> None:
        """Take over the answers of the draft that do not depend on the type that it chose."""
        lines = self._drafted.choices.get(table, {}).get(column, ())
        kept = list(_answers_of_any_type(lines))
        if kept:
            fix = "Choose one of the answers that stand as comments there"
            self._questions.append(Problem(f"{table}.{column}", kept[0], fix))
            self._choices.setdefault(table, {}).setdefault(column, []).extend(kept)

    def _ask_for_values(self, table: str, target: TargetTable, filled: set[str]) -> None:
        """Note the columns of the target that need a value and get none."""
        for column in target.columns.values():
            if column.name not in filled and _needs_value(column):
                what = f"the target's column {target.name}.{column.name} needs a value, and no column provides one"
                fix = "Name the 'target' of a column, give the value under 'computed', or give the column a default"
                example = f"computed: {flow({column.name: 'an expression of SQLite'})}"
                self._ask(table, f"{table}.{column.name}", what, fix, [example])


def _counted(number: int, thing: str) -> str:
    """Return a number of things in words."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _of_one_kind(column: Mapping[str, Any], target: TargetColumn) -> bool:
    """Return whether the type that was drafted for a column and that of a target have values of one kind."""
    ours, theirs = column["type"].partition("(")[0], target.type_name
    return bool(_KINDS.get(ours, ours) == _KINDS.get(theirs, theirs))


def _with_type(column: Mapping[str, Any], target: TargetColumn) -> str:
    """Return the name of a column that may be a target, with its type if that has values of another kind."""
    if _of_one_kind(column, target):
        return target.name
    return f"{target.name}, which is {target.display_type} and not {column['type']}"


def _why(disregarded: str | None) -> str:
    """Return why two names belong together, empty if they are the same."""
    return f"matched {disregarded}" if disregarded else ""


def _needs_value(column: TargetColumn) -> bool:
    """Return whether no row can be put in without a value of this column."""
    return column.not_null and not column.has_default and not column.generated


def _answers_of_any_type(lines: Sequence[str]) -> Iterator[str]:
    """Yield of a column's open choices those whose answers are such that hold for any type, with what they answer."""
    described: list[str] = []
    answers: list[str] = []
    for line in [*lines, ""]:
        if line.partition(":")[0] in _OF_ANY_TYPE:
            answers.append(line)
            continue
        if answers:
            yield from (*described[-1:], *answers)
            described, answers = [], []
        described.append(line)
