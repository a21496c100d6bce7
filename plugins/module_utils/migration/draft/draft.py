"""Drafts the target of one SQLite file: the SQL that makes its tables, the mapping, and what a person has to decide.

The file itself is only read, and only once, into a private snapshot. The result is plain data and text, and a proposal:
the engine trusts none of it, and refuses a value that a drafted type cannot hold as it refuses any other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from ..core.errors import MigrationError, Problem
from ..sqlite.snapshot import snapshot
from ..sqlite.tables import count_rows, open_snapshot, read_virtual_tables
from . import mapping as mappings
from .names import comment, quote
from .profile import Profile, merged, read_profiles
from .schema import DraftedTable, SchemaWriter, draft_table, name_tables
from .structure import Reference, Table, read_left_out, read_shadow_tables, read_structure
from .types import Choice, Place, choose

# A column: its table and its own name, both in lower case.
_Name = tuple[str, str]


@dataclass(frozen=True)
class Draft:
    """What was drafted from one file.

    :param group: the name of the cutover group and of the schema.
    :param sql: one file for ``files/sql``; empty if it is mapped onto tables that are there.
    :param mapping: the entry of ``estate_cutover_groups``.
    :param choices: table → column → what needs an answer, and the answers there are.
    :param questions: what only a person can decide.
    :param tables: for each table ``source``, ``target``, ``rows`` and ``columns``, and for each column ``source``,
        ``target``, ``declared``, ``type``, ``why``, ``values``, ``secret`` and ``generated``. A table that is
        mapped onto one that is there has a ``why``, which is empty if their names are the same.
    :param notes: table → lines of comments for its place in the mapping, also of tables that are not mapped.
    """

    group: str
    sql: str
    mapping: dict[str, Any]
    choices: dict[str, dict[str, list[str]]]
    questions: list[Problem]
    tables: list[dict[str, Any]]
    notes: dict[str, list[str]] = field(default_factory=dict)


def draft(path: str, group: str, work_directory: str | None = None, read_from: str = "", frozen: bool = False) -> Draft:
    """Return the draft for one SQLite file.

    :param path: the file, absolute.
    :param group: a name for the cutover group that is a schema's name too, see :func:`.names.schema_name`.
    :param work_directory: private directory for the snapshot.
    :param read_from: a copy of the file that is read instead of it.
    :param frozen: nobody has the file open, and it has no ``-wal``: nothing may be created beside it.
    :raises MigrationError: if the file cannot be read, or holds no table.
    """
    with (
        snapshot(read_from or path, work_directory, frozen) as copy,
        closing(open_snapshot(copy.path)) as connection,
    ):
        return _draft(connection, path, group)


def _draft(connection: sqlite3.Connection, path: str, group: str) -> Draft:
    """Return the draft for one snapshot."""
    tables = read_structure(connection)
    if not tables:
        problem = Problem(path, "it holds no table", "Name a database that an application has written to")
        raise MigrationError("There is nothing to draft.", [problem])
    profiles = {
        table.name: dict(
            zip(
                (column.name for column in table.columns),
                read_profiles(connection, table.name, [column.name for column in table.columns]),
                strict=True,
            )
        )
        for table in tables
    }
    types = _choose_types(connection, tables, profiles)
    namer, targets = name_tables(tables)
    drafted = {
        table.name: draft_table(
            table, targets[table.name], count_rows(connection, table.name), types[table.name], profiles[table.name]
        )
        for table in tables
    }
    questions: list[Problem] = []
    body = list(SchemaWriter(group, drafted, namer, questions).write())
    left_out, ignored = _left_out(connection, drafted, questions)
    entry = mappings.mapping(group, path, group, drafted.values(), ignored)
    return Draft(
        group=group,
        sql=_sql(path, group, body, left_out),
        mapping=entry,
        choices=mappings.choices(drafted.values()),
        questions=questions,
        tables=[_as_data(group, table, entry) for table in drafted.values()],
    )


def _sql(path: str, group: str, body: Sequence[str], left_out: Sequence[str]) -> str:
    """Return the whole file."""
    head = comment(
        f"Drafted from {path}. A person reads it before it is used.\n"
        "Why a type was chosen stands above its column, where the declared type alone does not say so.\n"
        "LEFT OUT marks what PostgreSQL cannot say as SQLite does, DECIDE what needs a person's decision.\n"
        "Names stand as in SQLite: one with capital letters needs quotes in every query.\n"
        "An integer stands only where all values leave it room to grow, and never for a key:\n"
        "squawk-ignore-file prefer-bigint-over-int"
    )
    return "\n\n".join([head, f"CREATE SCHEMA {quote(group)};", *body, *left_out]) + "\n"


def _as_data(group: str, drafted: DraftedTable, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return one table as plain data."""
    mapped = next(table for table in entry["tables"] if table["source"] == drafted.table.name)
    secret = {name for name, options in mapped.get("columns", {}).items() if options.get("secret")}
    return {
        "source": drafted.table.name,
        "target": f"{group}.{drafted.target}",
        "rows": drafted.rows,
        "columns": [
            {
                "source": column.column.name,
                "target": column.target,
                "declared": column.column.declared,
                "type": column.choice.sql,
                "why": column.choice.why,
                "values": column.profile.values,
                "secret": column.column.name in secret,
                "generated": column.expression is not None,
            }
            for column in drafted.columns.values()
        ],
    }


def with_refusals(drafted: Draft, refused: Sequence[Problem]) -> Draft:
    """Return a draft with what the engine has refused when it was tried: as comments where the answers go.

    :param refused: each at ``table``, ``table.column`` or what lies in them.
    """
    choices = mappings.with_refusals(drafted.choices, drafted.tables, refused)
    places = {f"{table['source']}.{column['source']}" for table in drafted.tables for column in table["columns"]}
    notes = {table: list(lines) for table, lines in drafted.notes.items()}
    questions = list(drafted.questions)
    for problem in refused:
        if problem.where.partition("+")[0] not in places:
            # It is about a table as a whole.
            names = [table["source"] for table in drafted.tables if problem.where.startswith(table["source"])]
            notes.setdefault(max(names, key=len, default=""), []).append(f"DECIDE: {problem}")
        # The values themselves stand beside the answers alone.
        what = "the engine refuses values of it, as it found when it tried the draft"
        fix = "Choose one of the answers that stand as comments there in the mapping, or correct the SQL"
        question = Problem(problem.where, what, fix)
        if question not in questions:
            questions.append(question)
    return replace(drafted, choices=choices, questions=questions, notes=notes)


# --- types --------------------------------------------------------------------------------------


def _choose_types(
    connection: sqlite3.Connection, tables: Sequence[Table], profiles: Mapping[str, Mapping[str, Profile]]
) -> dict[str, dict[str, Choice]]:
    """Return the type of each ordinary column. Columns that a foreign key ties to each other get the same one."""
    by_name = {table.name.lower(): table for table in tables}
    ties = _tied_columns(tables, by_name)
    keys = {(table.name.lower(), name.lower()) for table in tables for name in table.key} | set(ties)
    unique = keys | {
        (table.name.lower(), name)
        for table in tables
        for index in table.indexes
        if index.unique
        for part in index.parts
        for name in part.names
    }
    primary = {(table.name.lower(), table.key[0].lower()) for table in tables if len(table.key) == 1}
    primary -= {(table.name.lower(), name.lower()) for table in tables if table.key_holds_null for name in table.key}
    referenced = {pair[1] for table in tables for entry in table.references for pair in _pairs(table, entry, by_name)}
    # What an application declares DATE may hold times all the same: then it does so where no value is yet.
    days_hold_times = any(
        profiles[table.name][column.name].times
        for table in tables
        for column in table.columns
        if column.generated is None and column.declared.upper() == "DATE"
    )
    result: dict[str, dict[str, Choice]] = {table.name: {} for table in tables}
    done: dict[_Name, Choice] = {}
    for table in tables:
        for column in table.columns:
            if column.generated is not None:
                continue
            name = (table.name.lower(), column.name.lower())
            if name not in done:
                group = [name, *(other for other in ties.get(name, ()) if other != name)]
                named = [_find(by_name, *entry) for entry in group]
                chosen = choose(
                    connection,
                    [Place(owner.source, own) for owner, own in named],
                    column.declared,
                    merged(profiles[owner.name][own] for owner, own in named),
                    is_key=any(entry in keys for entry in group),
                    is_unique=any(entry in unique for entry in group),
                    of_primary_keys=all(entry in primary or entry not in referenced for entry in group),
                    of_row_ids=any(owner.numbers_itself == own for owner, own in named),
                    days_hold_times=days_hold_times,
                )
                done.update((entry, chosen) for entry in group)
            chosen = done[name]
            if chosen.question is not None and not _concerns(chosen, profiles[table.name][column.name]):
                # Another column of the same keys holds these values.
                chosen = replace(chosen, question=None, policies=())
            result[table.name][column.name] = chosen
    return result


def _concerns(choice: Choice, profile: Profile) -> bool:
    """Return whether a column itself holds values that a question is about."""
    if any(policy.startswith("nul_character") for policy in choice.policies):
        return bool(profile.with_nul)
    if choice.sql == "bigint":
        return profile.integers < profile.values
    return bool(profile.values)


def _find(by_name: Mapping[str, Table], table: str, column: str) -> tuple[Table, str]:
    """Return a table, and a column of it by its own name."""
    found = by_name[table]
    return found, next(entry.name for entry in found.columns if entry.name.lower() == column)


def _tied_columns(tables: Sequence[Table], by_name: Mapping[str, Table]) -> dict[_Name, list[_Name]]:
    """Return for each column of a foreign key all columns that it is tied to, itself among them."""
    ties: dict[_Name, list[_Name]] = {}
    for table in tables:
        for reference in table.references:
            for one, other in _pairs(table, reference, by_name):
                group = [*ties.get(one, [one]), *(name for name in ties.get(other, [other]))]
                group = list(dict.fromkeys(group))
                for name in group:
                    ties[name] = group
    return ties


def _pairs(table: Table, reference: Reference, by_name: Mapping[str, Table]) -> list[tuple[_Name, _Name]]:
    """Return the pairs of columns that a foreign key ties, none if it leads nowhere."""
    referenced = by_name.get(reference.referenced_table.lower())
    if referenced is None:
        return []
    columns = reference.referenced_columns or referenced.key
    known = [
        {column.name.lower() for column in owner.columns if column.generated is None} for owner in (table, referenced)
    ]
    if len(columns) != len(reference.columns):
        return []
    pairs = list(zip(reference.columns, columns, strict=True))
    if not all(own.lower() in known[0] and other.lower() in known[1] for own, other in pairs):
        return []
    return [((table.name.lower(), own.lower()), (referenced.name.lower(), other.lower())) for own, other in pairs]


# --- what is left out ---------------------------------------------------------------------------


def _left_out(
    connection: sqlite3.Connection, drafted: Mapping[str, DraftedTable], questions: list[Problem]
) -> tuple[list[str], list[str]]:
    """Return the comments on everything that is no table of its own, and the tables that are left behind."""
    notes, ignored = [], []
    for virtual in read_virtual_tables(connection):
        if virtual.name in drafted:
            continue
        what = f"LEFT OUT: the virtual table {virtual.name} ({virtual.module})"
        if virtual.derived:
            notes.append(comment(f"{what}: it only shows what {virtual.content or 'other tables'} holds."))
            continue
        why = (
            "SQLite cannot read it here" if virtual.holds_rows is None else "it keeps an index of texts, not the texts"
        )
        notes.append(comment(f"{what}: {why}. The mapping leaves it behind."))
        ignored.append(virtual.name)
        questions.append(
            Problem(
                virtual.name,
                f"it is a virtual table ({virtual.module}) that is left behind: {why}",
                "Make sure that nothing is lost with it, or move what the service needs by hand",
            )
        )
    shadows = read_shadow_tables(connection)
    if shadows:
        # They are no tables of the source to the engine either.
        names = ", ".join(shadows)
        notes.append(comment(f"LEFT OUT: the shadow tables {names}: the inner structure of SQLite's virtual tables."))
    for kind, name, statement in read_left_out(connection):
        notes.append(comment(f"LEFT OUT: the {kind} {name}, which a person writes anew:\n{statement}"))
        questions.append(
            Problem(
                name, f"it is a {kind}, which is not translated", "Write it for PostgreSQL, from its SQL in the draft"
            )
        )
    return notes, ignored
