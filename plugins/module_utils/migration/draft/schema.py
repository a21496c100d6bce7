"""The drafted SQL: one file that makes a schema with every table, its keys, checks, references and indexes.

Whatever SQLite has and PostgreSQL cannot say stands in it as a comment, and is a question to a person.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..core.errors import Problem
from . import expressions
from .defaults import default
from .expressions import Untranslatable, condition, translate
from .names import Namer, column_namer, comment, quote
from .profile import Profile
from .structure import Column, Index, IndexPart, Reference, Table
from .types import Choice

# PostgreSQL's index holds no entry above a third of a page, and this leaves room for its head.
_LONGEST_ENTRY = 2600  # bytes
# Modules whose tables have a column for the row id already.
_ROW_ID_IS_A_COLUMN = frozenset(("rtree", "rtree_i32", "geopoly"))
_BY_HAND = "Write it by hand, or do without it"
_CHANGES_FILE = "Decide in the drafted SQL, where it stands as a comment"


@dataclass(frozen=True)
class DraftedColumn:
    """A column of the draft.

    :param target: its name in PostgreSQL.
    :param expression: what generates it, None for an ordinary column.
    """

    column: Column
    target: str
    choice: Choice
    profile: Profile
    expression: str | None = None


@dataclass(frozen=True)
class DraftedTable:
    """A table of the draft.

    :param target: its name in PostgreSQL without the schema.
    :param columns: by their names in SQLite in lower case; a generated one that cannot be drafted is not among them.
    :param not_generated: what is wrong with those, by name.
    :param row_id: the column that takes the row id of a virtual table, None without one.
    """

    table: Table
    target: str
    rows: int
    columns: Mapping[str, DraftedColumn]
    not_generated: Mapping[str, str]
    row_id: str | None


def name_tables(tables: Sequence[Table]) -> tuple[Namer, dict[str, str]]:
    """Return what names the indexes of the schema, and the name of each table in PostgreSQL."""
    namer = Namer()
    return namer, {table.name: namer.name(table.name, "unnamed_table") for table in tables}


def draft_table(
    table: Table, target: str, rows: int, choices: Mapping[str, Choice], profiles: Mapping[str, Profile]
) -> DraftedTable:
    """Return a table with the names of its columns, and with what generates them.

    :param choices: the type of each ordinary column, by its name.
    :param profiles: what the values of each column are, by its name.
    """
    namer = column_namer()
    names = {column.name: namer.name(column.name, "unnamed") for column in table.columns}
    row_id = None
    if table.module and table.module not in _ROW_ID_IS_A_COLUMN:
        row_id = namer.name("row_id" if "id" in {name.lower() for name in names} else "id", "id")
    drafted = {
        column.name.lower(): DraftedColumn(column, names[column.name], choices[column.name], profiles[column.name])
        for column in table.columns
        if column.generated is None
    }
    known = _named(drafted.values())
    wrong = {}
    generated: dict[str, DraftedColumn] = {}
    for column in table.columns:
        if column.generated is None:
            continue
        try:
            value = translate(column.generated, known, fold_ascii_only=True)
            choice, sql = _generated_type(value)
        except Untranslatable as error:
            wrong[column.name] = str(error)
            continue
        entry = DraftedColumn(column, names[column.name], choice, profiles[column.name], sql)
        generated[column.name.lower()] = entry
    ordered = {
        column.name.lower(): (drafted | generated)[column.name.lower()]
        for column in table.columns
        if column.name.lower() in drafted | generated
    }
    return DraftedTable(table, target, rows, ordered, wrong, row_id)


def _named(columns: Iterable[DraftedColumn]) -> dict[str, expressions.Column]:
    """Return what expressions may name."""
    return {
        entry.column.name.lower(): expressions.Column(
            quote(entry.target), entry.choice.kind, not entry.profile.beyond_ascii, entry.column.collation
        )
        for entry in columns
    }


def _generated_type(value: expressions.Translated) -> tuple[Choice, str]:
    """Return the type of a generated column, and the expression for it: that of the expression decides."""
    types = {expressions.TEXT: "text", expressions.INTEGER: "bigint", expressions.DOUBLE: "double precision"}
    if value.kind == expressions.BOOLEAN:
        as_number = f"CASE {value.sql} WHEN true THEN 1 WHEN false THEN 0 END"
        return Choice("bigint", expressions.INTEGER, "true and false are 1 and 0 in SQLite"), as_number
    if value.kind not in types:
        raise Untranslatable(f"a generated {value.kind} is not translated here")
    return Choice(types[value.kind], value.kind), value.sql


@dataclass
class SchemaWriter:
    """Writes the SQL of all tables.

    :param schema: its name.
    :param tables: every drafted table by its name in SQLite.
    :param namer: gives names to indexes.
    :param questions: what a person has to decide is added here.
    """

    schema: str
    tables: Mapping[str, DraftedTable]
    namer: Namer
    questions: list[Problem]
    _late: list[str] = field(default_factory=list)

    def write(self) -> Iterator[str]:
        """Yield the statements with their comments, referenced tables first."""
        written: set[str] = set()
        for drafted in self._in_order():
            yield from self._table(drafted, written)
            written.add(drafted.table.name)
        yield from self._late

    def _in_order(self) -> list[DraftedTable]:
        """Return the tables with those that others refer to first, as far as there is such an order."""
        remaining, ordered = list(self.tables.values()), []
        while remaining:
            waiting = {drafted.table.name.lower() for drafted in remaining}
            ready = [
                drafted
                for drafted in remaining
                if all(
                    reference.referenced_table.lower() not in waiting - {drafted.table.name.lower()}
                    for reference in drafted.table.references
                )
            ] or remaining[:1]
            ordered += ready
            remaining = [drafted for drafted in remaining if drafted not in ready]
        return ordered

    def _ask(self, where: str, what: str, fix: str) -> None:
        """Note a question to a person."""
        self.questions.append(Problem(where, what, fix))

    # --- tables ---------------------------------------------------------------------------------

    def _table(self, drafted: DraftedTable, written: set[str]) -> Iterator[str]:
        """Yield CREATE TABLE and its indexes."""
        table = drafted.table
        notes = [f"{table.name}: {drafted.rows:,} {'row' if drafted.rows == 1 else 'rows'}", *table.notes]
        if table.module:
            notes.append(
                f"In SQLite a virtual table ({table.module}) that holds rows of its own: here an ordinary table.\n"
                "What searches in it needs an index of PostgreSQL's (tsvector with GIN, or GiST)."
            )
            self._ask(
                table.name,
                f"it is a virtual table ({table.module}), drafted as an ordinary one",
                "Add the index that its searches need, and change the service's queries",
            )
        if not table.key and not table.module:
            notes.append("It has no primary key. The row id of SQLite is not moved.")
        items: list[tuple[list[str], str]] = []
        if drafted.row_id is not None:
            items.append((["The row id of SQLite."], f"{quote(drafted.row_id)} bigint"))
        items += [self._column(drafted, entry) for entry in drafted.columns.values()]
        for name, why in drafted.not_generated.items():
            expression = next(column.generated for column in table.columns if column.name == name)
            notes.append(f"LEFT OUT: the generated column {name} AS ({expression}): {why}.")
            self._ask(f"{table.name}.{name}", f"it is generated by ({expression}), and {why}", _BY_HAND)
        items += self._keys(drafted, notes)
        items += self._checks(drafted, notes)
        items += self._references(drafted, written, notes)
        yield "\n".join(
            [
                *(comment(note) for note in notes),
                f"CREATE TABLE {self._relation(drafted)} (",
                _listed(items),
                ");",
            ]
        )
        for index in table.indexes:
            yield from self._index(drafted, index)
        yield from self._nocase_key(drafted)

    def _relation(self, drafted: DraftedTable) -> str:
        """Return schema and name of a table."""
        return f"{quote(self.schema)}.{quote(drafted.target)}"

    def _column(self, drafted: DraftedTable, entry: DraftedColumn) -> tuple[list[str], str]:
        """Return the comments and the definition of one column."""
        column, choice, table = entry.column, entry.choice, drafted.table
        where = f"{table.name}.{column.name}"
        notes = []
        if entry.target != column.name:
            notes.append(f"{column.name} in SQLite: PostgreSQL does not take this name.")
        if choice.why:
            notes.append(f"{column.declared or 'No type'} in SQLite: {choice.why}.")
        if choice.question is not None:
            notes.append("DECIDE: the mapping lists the policies that answer for it.")
            self._ask(where, *choice.question)
        words = [quote(entry.target), choice.sql]
        if column.collation not in ("BINARY", "NOCASE"):
            notes.append(f"COLLATE {column.collation} in SQLite: here texts are compared as they are.")
            self._ask(where, f"it is compared by {column.collation}", "Choose a collation of PostgreSQL's, or none")
        elif column.collation == "NOCASE" and choice.kind == expressions.TEXT:
            notes.append(
                "COLLATE NOCASE in SQLite: here 'a' = 'A' is false. A query says lower(…) on both sides, or give the\n"
                "column a case-insensitive collation (CREATE COLLATION … provider = icu, deterministic = false)."
            )
        if entry.expression is not None:
            words.append(f"GENERATED ALWAYS AS ({entry.expression}) STORED")
        elif table.numbers_itself == column.name and not any(
            column.name in reference.columns for reference in table.references
        ):
            words.append("GENERATED BY DEFAULT AS IDENTITY")
        elif column.default is not None:
            try:
                value = default(column.default, choice)
            except Untranslatable as error:
                notes.append(f"LEFT OUT: DEFAULT {column.default}: {error}.")
                self._ask(where, f"its default is {column.default}, and {error}", _BY_HAND)
            else:
                words += ["DEFAULT", value] if value is not None else []
        if column.not_null:
            words.append("NOT NULL")
        return notes, " ".join(words)

    # --- keys -----------------------------------------------------------------------------------

    def _keys(self, drafted: DraftedTable, notes: list[str]) -> Iterator[tuple[list[str], str]]:
        """Yield the primary key and the plain unique constraints."""
        table = drafted.table
        if table.key:
            names = self._columns_of(drafted, table.key)
            listed = ", ".join(names)
            if self._too_long(drafted, table.key):
                notes.append(f"LEFT OUT: PRIMARY KEY ({listed}): its values are too long for an index of PostgreSQL's.")
                self._ask(table.name, f"its primary key ({listed}) is too long for an index", _CHANGES_FILE)
            elif table.key_holds_null:
                name = self.namer.name(f"{drafted.target}_key", "key")
                note = "PRIMARY KEY in SQLite, where NULL stands in it: PostgreSQL's takes none."
                yield [note], f"CONSTRAINT {quote(name)} UNIQUE ({listed})"
            else:
                name = self.namer.name(f"{drafted.target}_pkey", "pkey")
                yield [], f"CONSTRAINT {quote(name)} PRIMARY KEY ({listed})"
        for index in table.indexes:
            columns = self._plain_unique(drafted, index)
            if columns is not None and index.constraint:
                listed = ", ".join(self._columns_of(drafted, columns))
                name = self.namer.name("_".join([drafted.target, *columns, "key"]), "key")
                yield [], f"CONSTRAINT {quote(name)} UNIQUE ({listed})"

    def _plain_unique(self, drafted: DraftedTable, index: Index) -> tuple[str, ...] | None:
        """Return the columns of an index if it is drafted as a plain unique key; None if not."""
        columns = tuple(part.column or "" for part in index.parts)
        if (
            not index.unique
            or index.where is not None
            or not all(column.lower() in drafted.columns for column in columns)
        ):
            return None
        folded = any(self._collation(drafted, part) != "BINARY" for part in index.parts)
        if folded and not self._is_referenced(drafted, columns):
            return None
        return None if self._too_long(drafted, columns) else columns

    def _is_referenced(self, drafted: DraftedTable, columns: Sequence[str]) -> bool:
        """Return whether a foreign key refers to these columns."""
        wanted = {column.lower() for column in columns}
        return any(
            reference.referenced_table.lower() == drafted.table.name.lower()
            and {column.lower() for column in reference.referenced_columns} == wanted
            for other in self.tables.values()
            for reference in other.table.references
        )

    def _nocase_key(self, drafted: DraftedTable) -> Iterator[str]:
        """Yield the index that keeps a primary key unique without regard to case, where SQLite does."""
        table = drafted.table
        parts = tuple(
            IndexPart(name, None, drafted.columns[name.lower()].column.collation, False) for name in table.key
        )
        if any(self._collation(drafted, part) == "NOCASE" for part in parts):
            yield from self._index(drafted, Index(f"{table.name}_nocase", True, False, parts, None))

    def _collation(self, drafted: DraftedTable, part: IndexPart) -> str:
        """Return by which collation a part of an index is compared; only texts have one."""
        entry = drafted.columns.get((part.column or "").lower())
        if entry is not None and entry.choice.kind != expressions.TEXT:
            return "BINARY"
        return part.collation

    def _columns_of(self, drafted: DraftedTable, columns: Iterable[str]) -> list[str]:
        """Return columns by their quoted names in PostgreSQL."""
        return [quote(drafted.columns[column.lower()].target) for column in columns]

    def _too_long(self, drafted: DraftedTable, columns: Iterable[str]) -> bool:
        """Return whether values of these columns together are too long for an index."""
        entries = (drafted.columns[column.lower()] for column in columns if column.lower() in drafted.columns)
        return sum(entry.profile.most_bytes or 8 for entry in entries) > _LONGEST_ENTRY

    # --- indexes --------------------------------------------------------------------------------

    def _index(self, drafted: DraftedTable, index: Index) -> Iterator[str]:
        """Yield an index that is no constraint of CREATE TABLE, or the comment that it is left out."""
        table = drafted.table
        folded = any(self._collation(drafted, part) != "BINARY" for part in index.parts)
        if index.constraint and not folded and self._plain_unique(drafted, index) is not None:
            return
        wanted = index.name
        if index.constraint:
            wanted = "_".join([drafted.target, *(part.column or "" for part in index.parts), "key"])
        notes: list[str] = []
        try:
            parts = ", ".join(self._index_part(drafted, part, notes) for part in index.parts)
            where = ""
            if index.where is not None:
                where = f" WHERE {condition(translate(index.where, _named(drafted.columns.values())))}"
            if self._too_long(drafted, (name for part in index.parts for name in part.whole_columns)):
                raise Untranslatable("its values are too long for an index of PostgreSQL's")
        except Untranslatable as error:
            shown = ", ".join(part.column or part.expression or "" for part in index.parts)
            partial = f" WHERE {index.where}" if index.where else ""
            what = f"{'UNIQUE ' if index.unique else ''}INDEX {wanted} ON {table.name} ({shown}){partial}"
            yield comment(f"LEFT OUT: {what}: {error}.")
            self._ask(table.name, f"{what} is left out: {error}", _BY_HAND)
            return
        name = self.namer.name(wanted, "index")
        unique = "UNIQUE " if index.unique else ""
        statement = f"CREATE {unique}INDEX {quote(name)} ON {self._relation(drafted)} ({parts}){where};"
        yield "\n".join([*(comment(note) for note in dict.fromkeys(notes)), statement])

    def _index_part(self, drafted: DraftedTable, part: IndexPart, notes: list[str]) -> str:
        """Return one column or expression of an index."""
        order = " DESC" if part.descending else ""
        if part.expression is not None:
            if part.collation != "BINARY":
                raise Untranslatable(f"an expression is compared by {part.collation}")
            return f"({translate(part.expression, _named(drafted.columns.values())).sql}){order}"
        entry = drafted.columns.get((part.column or "").lower())
        if entry is None:
            raise Untranslatable(f"its column {part.column} is left out")
        collation = self._collation(drafted, part)
        if collation == "BINARY":
            return quote(entry.target) + order
        if collation != "NOCASE":
            raise Untranslatable(f"it is ordered by the collation {collation}")
        notes.append("NOCASE in SQLite, which takes A to Z for a to z: lower() says the same.")
        by_bytes = ' COLLATE "C"' if entry.profile.beyond_ascii else ""
        return f"lower({quote(entry.target)}{by_bytes}){order}"

    # --- checks and references ------------------------------------------------------------------

    def _checks(self, drafted: DraftedTable, notes: list[str]) -> Iterator[tuple[list[str], str]]:
        """Yield the checks that PostgreSQL can make; name the others."""
        known = _named(drafted.columns.values())
        for check in drafted.table.checks:
            try:
                yield [], f"CHECK ({_bare(condition(translate(check, known, fold_ascii_only=True)))})"
            except Untranslatable as error:
                notes.append(f"LEFT OUT: CHECK ({check}): {error}.")
                self._ask(drafted.table.name, f"CHECK ({check}) is left out: {error}", _BY_HAND)

    def _references(
        self, drafted: DraftedTable, written: set[str], notes: list[str]
    ) -> Iterator[tuple[list[str], str]]:
        """Yield the foreign keys that can stand in CREATE TABLE; others follow behind all tables."""
        table = drafted.table
        for reference in table.references:
            shown = f"FOREIGN KEY ({', '.join(reference.columns)}) REFERENCES {reference.referenced_table}"
            referenced, columns, why = self._referenced(drafted, reference)
            if referenced is None:
                notes.append(f"LEFT OUT: {shown}: {why}.")
                self._ask(table.name, f"{shown} is left out: {why}", _BY_HAND)
                continue
            remarks = []
            if reference.orphans:
                what = f"{reference.orphans:,} {'row refers' if reference.orphans == 1 else 'rows refer'} to no row"
                remarks.append(
                    f"DECIDE: {what}. The mapping lists the policies that answer for it; or leave the key out."
                )
                self._ask(
                    f"{table.name}.{reference.columns[0]}",
                    f"{what} of {reference.referenced_table}",
                    "Choose a policy in the mapping, or take the foreign key out of the drafted SQL",
                )
            actions = "".join(
                f" ON {event} {action.upper()}"
                for event, action in (("DELETE", reference.on_delete), ("UPDATE", reference.on_update))
                if action.upper() not in ("NO ACTION", "")
            )
            sql = (
                f"FOREIGN KEY ({', '.join(self._columns_of(drafted, reference.columns))}) "
                f"REFERENCES {self._relation(referenced)} ({', '.join(self._columns_of(referenced, columns))}){actions}"
            )
            if referenced.table.name in written or referenced is drafted:
                yield remarks, sql
            else:
                lines = [comment(remark) for remark in remarks]
                self._late.append("\n".join([*lines, f"ALTER TABLE {self._relation(drafted)} ADD {sql};"]))

    def _referenced(
        self, drafted: DraftedTable, reference: Reference
    ) -> tuple[DraftedTable | None, tuple[str, ...], str]:
        """Return the table and the columns that a foreign key refers to, or None and why PostgreSQL cannot have it."""
        name = reference.referenced_table.lower()
        referenced = next((entry for entry in self.tables.values() if entry.table.name.lower() == name), None)
        if referenced is None:
            return None, (), "there is no such table"
        columns = reference.referenced_columns or referenced.table.key
        if len(columns) != len(reference.columns) or not all(
            column.lower() in referenced.columns for column in columns
        ):
            return None, (), "there are no such columns"
        if not all(column.lower() in drafted.columns for column in reference.columns):
            return None, (), "its own column is left out"
        pairs = zip(reference.columns, columns, strict=True)
        for own, other in pairs:
            types = drafted.columns[own.lower()].choice.sql, referenced.columns[other.lower()].choice.sql
            if types[0] != types[1]:
                return None, (), f"its column is {types[0]}, and the other one {types[1]}"
        wanted = {column.lower() for column in columns}
        keys = [] if self._too_long(referenced, referenced.table.key) else [referenced.table.key]
        plain = (self._plain_unique(referenced, index) for index in referenced.table.indexes)
        keys += [key for key in plain if key is not None]
        if not any({column.lower() for column in key} == wanted and len(key) == len(columns) for key in keys):
            return None, (), f"({', '.join(columns)}) is no unique key of it"
        return referenced, columns, ""


def _bare(sql: str) -> str:
    """Return an expression without the parentheses around all of it."""
    found = expressions.tokens(sql)
    if len(found) > 2 and found[0].text == "(" and expressions.closing(found, 0) == len(found) - 1:
        return sql[1:-1]
    return sql


def _listed(items: Sequence[tuple[list[str], str]]) -> str:
    """Return the parts of CREATE TABLE, each under its comments."""
    lines = []
    for position, (notes, sql) in enumerate(items):
        lines += [comment(note, "  ") for note in notes]
        lines.append(f"  {sql}{',' if position < len(items) - 1 else ''}")
    return "\n".join(lines)
