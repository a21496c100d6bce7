"""How a file spells the UUIDs of each kind of id, so that new ones come back as the service looks for them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...sqlite.tables import quote_name
from ..plan.planner import ColumnPlan, IdSpelling, TablePlan
from ..prepare.duplicates import is_any_uuid, is_uuid_without_hyphens


def with_spellings(source: sqlite3.Connection, plans: Sequence[TablePlan]) -> list[TablePlan]:
    """Return the plans with the spelling of their ids, where all ids of a namespace have one that is not PostgreSQL's.

    :param source: the frozen file.
    """
    found: dict[str, list[bool]] = {}
    for plan in plans:
        for column in plan.columns:
            if column.kind == "uuid" and column.namespace is not None:
                signs = found.setdefault(column.namespace, [False] * 4)
                found[column.namespace] = [a or b for a, b in zip(signs, _signs(source, plan, column), strict=True)]
    spellings = {}
    for namespace, (hyphens, no_hyphens, small, capital) in found.items():
        if not (hyphens and no_hyphens) and not (small and capital) and (no_hyphens or capital):
            spellings[namespace] = IdSpelling(hyphens=not no_hyphens, capitals=capital)
    return [
        replace(
            plan,
            columns=tuple(replace(column, spelling=_spelling_of(column, spellings)) for column in plan.columns),
        )
        for plan in plans
    ]


def _spelling_of(column: ColumnPlan, spellings: Mapping[str, IdSpelling]) -> IdSpelling | None:
    """Return the spelling of a column of UUIDs, and for one with ids in texts that of any table of the group."""
    if column.kind == "uuid":
        return spellings.get(column.namespace or "")
    return next(iter(spellings.values()), None) if column.ids is not None else None


def _signs(source: sqlite3.Connection, plan: TablePlan, column: ColumnPlan) -> list[bool]:
    """Return what the UUIDs of a column hold: hyphens, none, small letters, capital letters."""
    name = quote_name(column.source)
    short = is_uuid_without_hyphens(name)
    row = source.execute(
        f"SELECT max(NOT {short}), max({short}), max({name} GLOB '*[a-f]*'), max({name} GLOB '*[A-F]*') "  # noqa: S608
        f"FROM {plan.source.scan} WHERE {is_any_uuid(name)}"
    ).fetchone()
    return [bool(sign) for sign in row]
