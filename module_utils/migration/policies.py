"""What the named policies do to a value that its column cannot hold as it is.

Every value that a policy changes is kept, as it was, in ``migration.original_value``.
"""

from __future__ import annotations

import json
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

from .source import Value

SET_NULL = "set_null"


def repair(value: Value, answer: str, scale: int | None = None) -> Value:
    """Return the value that the policy's answer puts in place of ``value``.

    :param answer: an answer of :data:`.estate.POLICIES` that is neither ``refuse`` nor ``reject``.
    :param scale: digits after the point that ``round`` keeps: those of the target column
        (:attr:`.plan.ColumnPlan.scale`), none if not given.
    """
    if answer == SET_NULL:
        return None
    if answer == "as_json_string":
        return json.dumps(value, ensure_ascii=False)
    if answer == "round" and isinstance(value, (int, float, str)):
        return _rounded(value, scale or 0)
    if answer == "replace" and isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if answer == "remove" and isinstance(value, str):
        return value.replace("\x00", "") if "\x00" in value else _without_nul(value)
    raise ValueError(f"no such answer: {answer}")


def _rounded(value: int | float | str, scale: int) -> Value:
    """Return a number rounded half away from zero, as PostgreSQL's numeric rounds, and never as a double."""
    exact = Decimal(value if isinstance(value, str) else repr(value))
    digits = Context(prec=max(exact.adjusted() + 1 + scale, 0) + 2)
    rounded = exact.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, digits)
    return int(rounded) if scale <= 0 else format(rounded, "f")


def _without_nul(text: str) -> str:
    """Return a JSON text without U+0000 in any of its strings, numbers left as they are written."""

    def clean(item: Any) -> Any:
        if isinstance(item, _Number):
            return item
        if isinstance(item, str):
            return item.replace("\x00", "")
        if isinstance(item, list):
            return [clean(entry) for entry in item]
        if isinstance(item, dict):
            return {clean(key): clean(entry) for key, entry in item.items()}
        return item

    return _write(clean(json.loads(text, parse_float=_Number, parse_int=_Number)))


class _Number(str):
    """A number still as its text, so that it is written back digit for digit."""


def _write(item: Any) -> str:
    """Return plain data as JSON text; numbers are written as they were read."""
    if isinstance(item, _Number):
        return str(item)
    if isinstance(item, list):
        return "[" + ",".join(_write(entry) for entry in item) + "]"
    if isinstance(item, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_write(entry)}" for key, entry in item.items()) + "}"
    return json.dumps(item, ensure_ascii=False)
