"""The drafted mapping: one entry of ``estate_cutover_groups``, as data and as the YAML that a person edits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..core.errors import Problem
from ..core.estate import POLICIES
from .names import printable
from .schema import DraftedColumn, DraftedTable
from .types import is_secret

# What YAML reads as something else than this text, or needs quotes for.
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*\Z")
_NOT_TEXT = frozenset(("yes", "no", "on", "off", "true", "false", "null", "y", "n"))
# What Ansible takes for a template: a text that holds one, or begins with settings for templates.
TEMPLATE = re.compile(r"\{[{%#]|\A#jinja2:")

ANSWERS_ARE_COMMENTS = (
    "# where values need a policy, each answer stands as a comment: choose one, and let it take the column's line."
)

# How the engine's advice names a policy and its answers.
_POLICY = re.compile(r"'(\w+)' for the column: ([^;.]*)")

# Table → column → the answers that a person may choose, each as ``policy: answer``, behind what they answer.
Choices = Mapping[str, Mapping[str, Sequence[str]]]
# Table → lines of comments for its place.
Notes = Mapping[str, Sequence[str]]


def mapping(
    group: str, path: str, schema: str, tables: Iterable[DraftedTable], ignored: Sequence[str]
) -> dict[str, Any]:
    """Return the entry as plain data.

    :param ignored: tables that are left behind.
    """
    entry: dict[str, Any] = {"name": group, "source": {"path": path}, "tables": []}
    for drafted in tables:
        columns = {column.column.name: options for column in drafted.columns.values() if (options := _options(column))}
        table: dict[str, Any] = {"source": drafted.table.name, "target": f"{schema}.{drafted.target}"}
        if drafted.row_id is not None:
            table["computed"] = {drafted.row_id: "rowid"}
        if columns:
            table["columns"] = columns
        entry["tables"].append(table)
    if ignored:
        entry["ignored_tables"] = list(ignored)
    entry["services"] = []
    return entry


def _options(column: DraftedColumn) -> dict[str, Any]:
    """Return what the mapping has to say of a column, nothing for most."""
    options: dict[str, Any] = {}
    if column.target != column.column.name:
        options["target"] = column.target
    if is_secret(column.column.name, column.profile):
        options["secret"] = True
    if column.choice.epoch_unit is not None:
        options["epoch_unit"] = column.choice.epoch_unit
    return options


def choices(tables: Iterable[DraftedTable]) -> dict[str, dict[str, list[str]]]:
    """Return the answers that a person may choose where the values need one."""
    result: dict[str, dict[str, list[str]]] = {}
    for drafted in tables:
        columns: dict[str, list[str]] = {}
        for entry in drafted.columns.values():
            if entry.choice.question is not None:
                what, _ = entry.choice.question
                columns.setdefault(entry.column.name, []).extend([what, *entry.choice.policies])
        for reference in drafted.table.references:
            if reference.orphans:
                what = f"{reference.orphans:,} of its rows refer to no row of {reference.referenced_table}"
                lines = [what, "orphan: set_null", "orphan: reject"]
                columns.setdefault(reference.columns[0], []).extend(lines)
        if columns:
            result[drafted.table.name] = columns
    return result


def with_refusals(
    known: Choices, tables: Iterable[Mapping[str, Any]], refused: Iterable[Problem]
) -> dict[str, dict[str, list[str]]]:
    """Return the choices with those that the engine has named when the draft was tried.

    :param tables: as :attr:`.draft.Draft.tables` has them.
    """
    result = {table: {column: list(lines) for column, lines in columns.items()} for table, columns in known.items()}
    places = {(table["source"], column["source"]) for table in tables for column in table["columns"]}
    for problem in refused:
        for table, column in places:
            # A key of several columns is named a+b.
            if not any(
                f": {problem.where}".endswith(f": {table}.{column}{end}") for end in ("", *_key_ends(problem.where))
            ):
                continue
            lines = result.setdefault(table, {}).setdefault(column, [])
            found = [f"{problem.what}. {problem.fix}"]
            for policy, answers in _POLICY.findall(problem.fix):
                found += [f"{policy}: {answer}" for answer in POLICIES.get(policy, ()) if answer in answers]
            lines.extend(line for line in found if line not in lines)
    return result


def _key_ends(where: str) -> list[str]:
    """Return what may follow the first column of a key in the place of a problem."""
    return [where[position:] for position, sign in enumerate(where) if sign == "+"]


def write_estate(estate: str, entry: Mapping[str, Any], open_choices: Choices) -> str:
    """Return the whole ``estate.yml``: the entry, with open choices as comments where their answers go."""
    lines = ["---", f"# Drafted from {printable(str(entry['source']['path']))}. A person reads it before it is used:"]
    lines += [ANSWERS_ARE_COMMENTS, f"estate_name: {scalar(estate)}", "", "estate_cutover_groups:"]
    lines += [*group_lines(entry, open_choices), "    services: []"]
    return "\n".join(lines) + "\n"


def group_lines(entry: Mapping[str, Any], open_choices: Choices, notes: Notes | None = None) -> Iterator[str]:
    """Yield the lines of one entry of ``estate_cutover_groups``, but those of its services."""
    notes = notes or {}
    yield f"  - name: {scalar(entry['name'])}"
    yield "    source:"
    yield f"      path: {scalar(entry['source']['path'])}"
    if entry["source"].get("aliases"):
        yield "      aliases:"
        yield from (f"        - {scalar(alias)}" for alias in entry["source"]["aliases"])
    if entry["source"].get("owner"):
        yield f"      owner: {scalar(entry['source']['owner'])}"
    yield "    tables:" if entry["tables"] else "    tables: []"
    for table in entry["tables"]:
        yield from _note_lines(notes.get(table["source"], ()))
        yield from _table_lines(table, open_choices.get(table["source"], {}))
    mapped = {table["source"] for table in entry["tables"]}
    for name, lines in notes.items():
        if name not in mapped:
            yield from _note_lines(lines)
    if entry.get("ignored_tables"):
        yield "    # Their rows are not moved: see the page beside this file."
        yield f"    ignored_tables: [{', '.join(map(scalar, entry['ignored_tables']))}]"


def _note_lines(lines: Sequence[str]) -> Iterator[str]:
    """Yield comments at the place of a table."""
    yield from (f"      # {_one_line(line)}" for line in lines)


def _one_line(text: str) -> str:
    """Return a text for one line: a name with a line end in it begins no line that reads like a suggestion."""
    return printable(text).replace("\n", " ")


def _table_lines(table: Mapping[str, Any], answers: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the lines of one table."""
    yield f"      - source: {scalar(table['source'])}"
    yield f"        target: {scalar(table['target'])}"
    if "computed" in table:
        yield f"        computed: {flow(table['computed'])}"
    columns = table.get("columns", {})
    if columns or answers:
        yield "        columns:"
    for name in dict.fromkeys((*columns, *answers)):
        if name in columns:
            yield f"          {scalar(name)}: {flow(columns[name])}"
        for line in answers.get(name, ()):
            policy, separator, answer = line.partition(": ")
            if separator and (policy == "target" or (policy in POLICIES and answer in POLICIES[policy])):
                line = f"{scalar(name)}: {flow({**columns.get(name, {}), policy: answer})}"
            yield f"          # {_one_line(line)}"


def flow(options: Mapping[str, Any]) -> str:
    """Return a mapping on one line."""
    return "{" + ", ".join(f"{scalar(key)}: {scalar(value)}" for key, value in options.items()) + "}"


def scalar(value: Any) -> str:
    """Return a text or a boolean as YAML of an inventory, in which no name is a template that Ansible would run."""
    written = quoted(value)
    return f"!unsafe {written}" if TEMPLATE.search(str(value)) else written


def quoted(value: Any) -> str:
    """Return a text or a boolean as YAML, in quotes where it needs them; a template stays one."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if _PLAIN.match(text) and text.lower() not in _NOT_TEXT:
        return text
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in json.dumps(text, ensure_ascii=False))


def _escaped(sign: str) -> str:
    """Return a character that no editor shows as YAML writes it within quotes."""
    return f"\\U{ord(sign):08x}" if ord(sign) > 0xFFFF else f"\\u{ord(sign):04x}"
