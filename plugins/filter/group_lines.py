"""Filters that make lines for a person of what a module has done with each cutover group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..module_utils.migration.core.state import is_on_postgresql

# Of more groups only the number is told.
_MOST_NAMED = 6


def untouched_groups(results: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the results of the groups that are on PostgreSQL and with which nothing was done.

    :param results: those of a loop over cutover groups.
    """
    return [result for result in results if not result.get("changed") and is_on_postgresql(str(result.get("state")))]


def group_lines(results: Iterable[Mapping[str, Any]], what: str) -> list[str]:
    """Return the message of each result, and one line for all groups that were not touched.

    :param results: those of a loop over cutover groups, whose item is a group or its name.
    :param what: what is said of the groups that were not touched, behind their names and an "is" or "are".
    """
    told = list(results)
    untouched = untouched_groups(told)
    lines = [str(result["msg"]) for result in told if result not in untouched and "msg" in result]
    items = [result["item"] for result in untouched]
    names = [str(item["name"] if isinstance(item, Mapping) else item) for item in items]
    if len(names) > _MOST_NAMED:
        names = [*names[: _MOST_NAMED - 1], f"{len(names) - _MOST_NAMED + 1} more groups"]
    if not names:
        return lines
    return [*lines, f"{_enumerated(names)} {'is' if len(names) == 1 else 'are'} {what}"]


def _enumerated(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


class FilterModule:
    """The filters that Ansible finds in this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return each filter by its name."""
        return {"group_lines": group_lines, "untouched_groups": untouched_groups}
