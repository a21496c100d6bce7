"""How the numbers in columns of times, days and durations are read, for a person to look at before the cutover."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from ...sqlite.tables import Value, quote_name, show
from ..convert.refusals import Refused
from ..convert.values import converter
from ..plan.epoch_units import number_in
from ..plan.planner import ColumnPlan, TablePlan


def number_readings(snapshot: sqlite3.Connection, plans: Sequence[TablePlan]) -> list[dict[str, Any]]:
    """Return for each column whose numbers are moments or durations: the unit, and the first and the last of them.

    Each is shown as the number and what it becomes; of a secret column neither.
    """
    found = []
    for plan in plans:
        for column in plan.columns:
            unit = column.epoch_unit or column.options.duration_unit
            ends = list(_ends(snapshot, plan, column)) if unit is not None else []
            if ends:
                shown = ["(secret)"] * 2 if column.options.secret else [_shown(column, value) for value in ends]
                place = f"{plan.source.name}.{column.source}"
                found.append({"column": place, "unit": unit, "first": shown[0], "last": shown[1]})
    return found


def _ends(snapshot: sqlite3.Connection, plan: TablePlan, column: ColumnPlan) -> Iterator[Value]:
    """Yield the value with the smallest number of a column and that with the largest; nothing if it holds none."""
    name = quote_name(column.source)
    for which in ("min", "max"):
        # SQLite takes the other columns from the row of the smallest or largest.
        row = snapshot.execute(
            f"SELECT {name}, {which}({number_in(name)}) AS found FROM {plan.source.scan}"  # noqa: S608 (quoted)
        ).fetchone()
        if row[1] is not None:
            yield row[0]


def _shown(column: ColumnPlan, value: Value) -> str:
    """Return a number, perhaps written as a text, and what it becomes."""
    number = show(value)
    try:
        return f"{number} = {converter(column, lambda _: None)(value)}"
    except Refused as refused:
        return f"{number}, which {refused.what}"
