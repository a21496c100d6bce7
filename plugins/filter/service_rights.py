"""The filters that put together what the roles of several services may do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ..module_utils.migration.core.estate import access_of, parse_group, widest_rights


def estate_access(groups: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the services of an estate may do, as the option ``estate_access`` of ``cutover_group``.

    :param groups: ``estate_cutover_groups``.
    :raises MigrationError: listing every mistake in an entry.
    """
    return asdict(access_of(parse_group(group) for group in groups))


class FilterModule:
    """Makes the functions above known as filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"estate_access": estate_access, "widest_rights": widest_rights}
