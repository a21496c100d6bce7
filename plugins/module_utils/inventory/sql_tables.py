"""Which tables and columns SQL files declare, as far as their text tells it: no server is asked."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..migration.postgres.schema_files import split_statements

_NAME = r'((?:"[^"]+"|[\w$]+)(?:\s*\.\s*(?:"[^"]+"|[\w$]+))?)'
_CREATE = re.compile(rf"create\s+(?:unlogged\s+)?table\s+(?:if\s+not\s+exists\s+)?{_NAME}\s*\(", re.IGNORECASE)
# What also makes a table, or one with columns that the statement does not list.
_CREATE_OTHERWISE = re.compile(
    rf"create\s+(?:or\s+replace\s+)?(?:unlogged\s+|foreign\s+|materialized\s+|recursive\s+)*(?:table|view)\s+"
    rf"(?:if\s+not\s+exists\s+)?{_NAME}",
    re.IGNORECASE,
)
_ALTER = re.compile(rf"alter\s+table\s+(?:if\s+exists\s+)?(?:only\s+)?{_NAME}\s+(.*)", re.IGNORECASE | re.DOTALL)
_ADD_COLUMN = re.compile(r'add\s+(?:column\s+)?(?:if\s+not\s+exists\s+)?("[^"]+"|[\w$]+)', re.IGNORECASE)
# Words with which an entry begins that is no column.
_NO_COLUMN = {"constraint", "primary", "unique", "foreign", "check", "exclude"}
# A statement that may make or rename anything, or that says where names without a schema belong.
_ANYTHING = re.compile(
    r"(do|call|execute|import|select(?!\s+pg_catalog\.(set_config|setval)\b)|set\s+(local\s+|session\s+)?search_path"
    r"|alter\s+\w+\s.*\b(rename|set\s+schema))\b",
    re.IGNORECASE | re.DOTALL,
)


def read_tables(files: Iterable[str]) -> dict[str, set[str] | None] | None:
    """Return ``schema.table`` → its columns, None for a table whose columns the text does not list.

    :param files: the texts of the files, in their order.
    :returns: None if the files hold a statement that may make anything.
    """
    tables: dict[str, set[str] | None] = {}
    for statement in (statement for content in files for statement in split_statements(content)):
        code = statement.code
        if (found := _CREATE.match(code)) is not None:
            body, rest = _inside(code, found.end())
            entries = [_first_word(entry) for entry in body]
            listed = "like" not in entries and not re.match(r"\s*(inherits|as)\b", rest, re.IGNORECASE)
            columns = {_unquoted(word) for word in entries if word not in _NO_COLUMN}
            tables[_plain(found[1])] = columns if listed else None
        elif (found := _CREATE_OTHERWISE.match(code)) is not None:
            tables[_plain(found[1])] = None
        elif _ANYTHING.match(code):
            return None
        elif (found := _ALTER.match(code)) is not None:
            present = tables.get(_plain(found[1]))
            for action in _inside(f"{found[2].rstrip(';')})", 0)[0]:
                added = _ADD_COLUMN.match(action)
                if present is not None and added is not None and added[1].lower() not in _NO_COLUMN:
                    present.add(_unquoted(added[1]))
    return tables


def _inside(code: str, start: int) -> tuple[list[str], str]:
    """Return the entries between commas from ``start`` to the parenthesis that ends them, and what follows it."""
    entries, depth, begin = list[str](), 0, start
    for token in re.compile(r"""'(?:[^']|'')*'|"[^"]*"|[(),]""").finditer(code, start):
        if token[0] == "(":
            depth += 1
        elif token[0] == ")" and depth == 0:
            return [*entries, code[begin : token.start()].strip()], code[token.end() :]
        elif token[0] == ")":
            depth -= 1
        elif token[0] == "," and depth == 0:
            entries.append(code[begin : token.start()].strip())
            begin = token.end()
    return entries, ""


def _first_word(entry: str) -> str:
    """Return the name that an entry begins with, as it is written but in lower case where it is not quoted."""
    found = re.match(r'"[^"]+"|[\w$]+', entry)
    if found is None:
        return ""
    return found[0] if found[0].startswith('"') else found[0].lower()


def _unquoted(name: str) -> str:
    """Return a name as the server keeps it."""
    return name[1:-1] if name.startswith('"') else name.lower()


def _plain(name: str) -> str:
    """Return the name of a table with its schema, as the server keeps it."""
    parts = [_unquoted(part.strip()) for part in re.findall(r'"[^"]+"|[\w$]+', name)]
    return ".".join(parts if len(parts) == 2 else ["public", *parts])
