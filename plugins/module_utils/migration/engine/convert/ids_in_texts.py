"""Exchanges ids that stand inside texts and JSON: for the UUIDs that they become, and on the rollback back again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from json import decoder
from typing import Any, cast

_BLANKS = " \t\r\n"


def with_other_ids(text: str, kind: str, others: Mapping[str, str]) -> str:
    """Return a text in which each id is another: the text itself, or the strings of its JSON that name no member.

    All else stays letter for letter.

    :param kind: that of the column (:attr:`.plan.planner.ColumnPlan.kind`): only JSON is JSON whatever it begins with.
    """
    if kind != "json" and text in others:
        return others[text]
    pieces, done = [], 0
    for start, end, content, names_a_member in _strings(text, kind):
        if content in others and not names_a_member:
            pieces += [text[done:start], json.dumps(others[content], ensure_ascii=False)]
            done = end
    return "".join([*pieces, text[done:]]) if pieces else text


def texts_in(text: str, kind: str) -> Iterator[tuple[str, bool]]:
    """Yield a text itself, or the strings of its JSON, each with whether it names a member."""
    if kind != "json":
        yield text, False
    for _, _, content, names_a_member in _strings(text, kind):
        yield content, names_a_member


def _strings(text: str, kind: str) -> Iterator[tuple[int, int, str, bool]]:
    """Yield where each string of a JSON text begins and ends, what it says, and whether it names a member."""
    if kind != "json" and not (text.lstrip(_BLANKS)[:1] in ("{", "[") and _is_json(text)):
        return
    start = text.find('"')
    while start >= 0:
        content, end = cast(Any, decoder).scanstring(text, start + 1)
        behind = end
        while text[behind : behind + 1] in (" ", "\t", "\r", "\n"):
            behind += 1
        yield start, end, content, text[behind : behind + 1] == ":"
        start = text.find('"', end)


def _is_json(text: str) -> bool:
    """Return whether a text is JSON; its objects are dropped as soon as they are read."""
    try:
        json.loads(text, object_pairs_hook=lambda _: None, parse_int=len, parse_float=len)
    except (ValueError, RecursionError):
        return False
    return True
