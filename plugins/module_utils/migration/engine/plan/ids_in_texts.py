"""Ids that stand inside texts and JSON, to which no foreign key leads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from ...core.errors import Problem


@dataclass(frozen=True, repr=False)
class IdsInTexts:
    """The ids that a column of texts or JSON may hold: as they stand in the file → the UUIDs that they become."""

    new_ids: Mapping[str, str]

    def __repr__(self) -> str:
        """Return a short text that is another one for other ids: a plan is known by its ``repr``."""
        found = hashlib.sha256(repr(sorted(self.new_ids.items())).encode("utf-8", "surrogatepass"))
        return f"IdsInTexts({found.hexdigest()})"


def not_rewritable(where: str, display_type: str) -> Problem:
    """Return the problem of a column that is told to rewrite ids and holds no texts."""
    what = f"'rewrite_ids_of' is for texts and JSON, and its target is {display_type}"
    return Problem(where, what, "Leave it out; for a column of UUIDs name 'references'")
