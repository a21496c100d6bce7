"""Filters that compare what module ``host_state`` has found on a host with what a role wants there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_ATTRIBUTES = ("kind", "owner", "group", "mode", "sha256")


def differing_files(wanted: Iterable[Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the paths of the wanted files that are missing, or not as they are wanted, in the order of ``wanted``.

    :param wanted: ``path`` of each, and what is wanted of its ``kind``, ``owner``, ``group``, ``mode`` (such as
        ``"0644"``), ``sha256`` or, in place of that, ``content`` (the text). What is left out does not matter.
    :param found: ``files`` as the module returns them.
    """
    return [file["path"] for file in wanted if not _is_as_wanted(file, found.get(file["path"]))]


def _is_as_wanted(wanted: Mapping[str, Any], found: Mapping[str, Any] | None) -> bool:
    """Return whether a file is there and has everything that is wanted of it."""
    if found is None:
        return False
    expected = {name: wanted[name] for name in _ATTRIBUTES if name in wanted}
    if "content" in wanted:
        expected["sha256"] = hashlib.sha256(wanted["content"].encode()).hexdigest()
    return all(found.get(name) == value for name, value in expected.items())


def differing_units(wanted: Mapping[str, Mapping[str, str]], found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the names of the wanted units that have another value of a property, in the order of ``wanted``.

    :param wanted: for each unit the properties that it should have, by their names.
    :param found: ``units`` as the module returns them.
    """
    return [
        name
        for name, properties in wanted.items()
        if any(found.get(name, {}).get(key) != value for key, value in properties.items())
    ]


class FilterModule:
    """The filters that Ansible finds in this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return each filter by its name."""
        return {"differing_files": differing_files, "differing_units": differing_units}
