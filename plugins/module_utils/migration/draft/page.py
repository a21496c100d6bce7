"""The page beside a draft: what was drafted, why, and what a person decides, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..core.errors import Problem
from .draft import Draft
from .names import printable

SQL_FILE = "001_{group}.sql"
ESTATE_FILE = "estate.yml"


def render(draft: Draft, source: str, refused: Sequence[Problem] = ()) -> str:
    """Return the page.

    :param source: the file that was drafted from.
    :param refused: what the engine refused when the draft was tried.
    """
    return "\n".join(_lines(draft, source, refused)) + "\n"


def _lines(draft: Draft, source: str, refused: Sequence[Problem]) -> Iterator[str]:
    """Yield the lines."""
    sql_file = SQL_FILE.format(group=draft.group)
    yield f"# A draft for {cell(source)}"
    yield ""
    yield f"- `{sql_file}` makes schema `{draft.group}` with the tables. Each choice that the declared type alone does"
    yield "  not explain has its reason above it."
    yield f"- `{ESTATE_FILE}` maps the tables. It marks columns that look like secrets, and holds the policies that"
    yield "  values need as comments."
    yield ""
    yield "To use them, correct both, give the SQL file the next number in `files/sql/`, copy the entry of the mapping"
    yield "to `inventory/group_vars/all/estate.yml`, and begin with a dry run on a host of dev."
    if draft.questions:
        yield from ("", "## Decisions for a person", "")
        yield from (f"- {cell(str(question))}" for question in draft.questions)
    if refused:
        yield from ("", "## What the engine refused", "")
        yield "The draft was tried. Nothing was loaded, because of these values:"
        yield ""
        yield from (f"- {cell(str(problem))}" for problem in refused)
    yield from ("", "## Tables", "")
    yield from table_lines(draft)


def table_lines(draft: Draft) -> Iterator[str]:
    """Yield the section of each table."""
    for table in draft.tables:
        yield f"### {cell(table['source'])} → {cell(table['target'])}, {table['rows']:,} rows"
        yield ""
        if table.get("why"):
            yield f"{cell(table['why'])}."
            yield ""
        yield "| column | declared | PostgreSQL | values | why |"
        yield "|---|---|---|---|---|"
        for column in table["columns"]:
            marked = " (secret)" if column["secret"] else ""
            cells = (
                cell(column["source"]) + marked,
                cell(column["declared"]),
                cell(column["type"]),
                f"{column['values']:,}",
                cell(column["why"]),
            )
            yield f"| {' | '.join(cells)} |"
        yield ""


def cell(text: str) -> str:
    """Return a text for one line of Markdown, in which nothing of it is markup."""
    shown = printable(text).replace("\n", " ")
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>|#" else sign for sign in shown)
