"""How the values in columns of times, days and durations are read, for a person to look at before the cutover."""

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


def text_readings(snapshot: sqlite3.Connection, plans: Sequence[TablePlan]) -> list[dict[str, Any]]:
    """Return for each column whose texts are times or days: the zone of those without one, and the first and the last.

    The zone is None where the column's type has none. Each is shown as the text and what it becomes; of a secret column
    neither. First and last are those in the order of their letters, which for texts of one form is that of their times.
    """
    found = []
    for plan in plans:
        columns = [column for column in plan.columns if column.kind in ("timestamp", "date", "time")]
        ends = []
        for name in (quote_name(column.source) for column in columns):
            text = f"CASE WHEN typeof({name}) = 'text' AND {name} <> '' AND {number_in(name)} IS NULL THEN {name} END"
            ends += [f"min({text})", f"max({text})"]
        row = snapshot.execute(f"SELECT {', '.join(ends)} FROM {plan.source.scan}").fetchone() if ends else ()  # noqa: S608 (quoted)
        for number, column in enumerate(columns):
            first, last = row[2 * number : 2 * number + 2]
            if first is not None:
                shown = (
                    ["(secret)"] * 2 if column.options.secret else [_shown(column, value) for value in (first, last)]
                )
                place = f"{plan.source.name}.{column.source}"
                # All other types keep what the text says.
                zone = column.options.time_zone if column.type_name == "timestamptz" else None
                found.append({"column": place, "time_zone": zone, "first": shown[0], "last": shown[1]})
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
    """Return a value and what it becomes."""
    shown = show(value)
    try:
        return f"{shown} = {converter(column, lambda _: None)(value)}"
    except Refused as refused:
        return f"{shown}, which {refused.what}"
