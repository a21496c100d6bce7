"""Exchanges ids that stand inside texts and JSON: for the UUIDs that they become, and on the rollback back again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

# A string of JSON, and what tells that it names a member.
_JSON_STRING = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"(\s*:)?', re.DOTALL)


def with_other_ids(text: str, kind: str, others: Mapping[str, str]) -> str:
    """Return a text in which each id is another: the text itself, or the strings of its JSON that name no member.

    All else stays letter for letter.

    :param kind: that of the column (:attr:`.plan.planner.ColumnPlan.kind`): only JSON is JSON whatever it begins with.
    """
    if kind != "json":
        if text in others:
            return others[text]
        if not text.startswith(("{", "[")) or not _is_json(text):
            return text
    return "".join(_pieces(text, others))


def _pieces(text: str, others: Mapping[str, str]) -> Iterator[str]:
    """Yield the pieces of a JSON text, ids exchanged."""
    position = 0
    for match in _JSON_STRING.finditer(text):
        content, names_a_member = match.groups()
        if names_a_member:
            continue
        other = others.get(content if "\\" not in content else json.loads(f'"{content}"'))
        if other is not None:
            yield text[position : match.start()]
            yield json.dumps(other, ensure_ascii=False)
            position = match.end()
    yield text[position:]


def _is_json(text: str) -> bool:
    """Return whether a text is JSON."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
