"""Says whose ids a foreign key holds: those of the very column that it refers to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .planner import ColumnPlan, TablePlan


def with_namespaces(plans: Sequence[TablePlan]) -> list[TablePlan]:
    """Return the plans in which each foreign key's ids are in the namespace of the column that it refers to.

    That is another than the table's own where it refers to a unique column beside the primary key, or to a column
    that is a foreign key itself. What refers to a table of another group keeps the namespace that the catalog, or the
    inventory, says.
    """
    by_target = {plan.target.name: plan for plan in plans}
    return [replace(plan, columns=tuple(_named(plan, column, by_target) for column in plan.columns)) for plan in plans]


def _named(plan: TablePlan, column: ColumnPlan, by_target: Mapping[str, TablePlan]) -> ColumnPlan:
    """Return a column with the namespace of the column at the end of its foreign keys."""
    if column.kind != "uuid":
        return column
    seen: set[tuple[str, str]] = set()
    last_plan, last = plan, column
    while (place := (last_plan.target.name, last.target)) not in seen:
        seen.add(place)
        key = next((key for key in last_plan.target.foreign_keys if last.target in key.columns), None)
        referenced = None if key is None else by_target.get(key.referenced_table)
        if key is None or referenced is None:
            break
        name = key.referenced_columns[key.columns.index(last.target)]
        found = next((each for each in referenced.columns if each.target == name), None)
        if found is None:
            break
        last_plan, last = referenced, found
    return replace(column, namespace=last.namespace, text_ids=last.text_ids)
