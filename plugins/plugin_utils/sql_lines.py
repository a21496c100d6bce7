"""Where the type of a column stands in the SQL files, for refusals of its values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..module_utils.migration.core.errors import Problem

# A name as SQL has it: in quotes, or bare.
_NAME = r'(?:"(?:[^"]|"")*"|\w+)'
_CREATE = re.compile(rf"\s*CREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?({_NAME})\s*\.\s*({_NAME})\s*\(", re.IGNORECASE)
_ALTER = re.compile(
    rf"\s*ALTER\s+TABLE\s+(?:ONLY\s+)?({_NAME})\s*\.\s*({_NAME})\s+ALTER\s+(?:COLUMN\s+)?({_NAME})\s+"
    r"(?:SET\s+DATA\s+)?TYPE\b",
    re.IGNORECASE,
)
_COLUMN = re.compile(rf"\s*(?!(?:CONSTRAINT|PRIMARY|UNIQUE|CHECK|FOREIGN|EXCLUDE|LIKE)\b)({_NAME})\s+\S", re.IGNORECASE)

# Schema, table and column.
_Place = tuple[str, str, str]


def places_of_types(directory: Path) -> dict[_Place, str]:
    """Return for each column that SQL files write on a line of its own ``file, line N``: where it got its type last."""
    return {
        place: f"{file}, line {number}"
        for file in sorted(directory.glob("*.sql"))
        for number, place in _columns_in(file.read_text(encoding="utf-8", errors="replace").split("\n"))
    }


def _columns_in(lines: Sequence[str]) -> Iterator[tuple[int, _Place]]:
    """Yield each line that gives a column its type."""
    table: tuple[str, str] | None = None
    for number, line in enumerate(lines, 1):
        if created := _CREATE.match(line):
            table = _plain(created[1]), _plain(created[2])
        elif altered := _ALTER.match(line):
            yield number, (_plain(altered[1]), _plain(altered[2]), _plain(altered[3]))
        elif line.startswith(")"):
            table = None
        elif table and (column := _COLUMN.match(line)):
            yield number, (*table, _plain(column[1]))


def _plain(name: str) -> str:
    """Return a name of SQL as PostgreSQL takes it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def with_lines(result: Mapping[str, Any], group: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return a module's result in which each refusal of a column's values says where the column got its type.

    :param result: with ``problems``, each as ``where``, ``what`` and ``fix``, and a ``msg`` that holds them.
    :param group: the entry of ``estate_cutover_groups``.
    :param directory: of the SQL files.
    """
    places = places_of_types(directory)
    message, problems = str(result.get("msg", "")), []
    for problem in result["problems"]:
        where = places.get(_place(str(problem["where"]), group) or ("", "", ""))
        named = {**problem, "fix": f"{problem['fix']}. Its type stands in {where}"} if where else problem
        message = message.replace(str(Problem(**problem)), str(Problem(**named)))
        problems.append(named)
    return {**result, "msg": message, "problems": problems}


def _place(where: str, group: Mapping[str, Any]) -> _Place | None:
    """Return the column of PostgreSQL that a refusal is about, None if it is about something else.

    :param where: such as ``app.db: users.name``, or ``app.db: users.name+mail`` of two columns together.
    """
    name = where.rpartition(": ")[2]
    for table in group.get("tables") or ():
        source, _, columns = name.partition(f"{table.get('source')}.")
        if not source and columns:
            column = columns.partition("+")[0]
            options = (table.get("columns") or {}).get(column) or {}
            schema, _, target = str(table.get("target")).partition(".")
            return schema, target, str(options.get("target", column))
    return None
