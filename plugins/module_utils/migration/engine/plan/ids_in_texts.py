"""Ids that stand inside texts and JSON, to which no foreign key leads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...core.errors import Problem

# Hexadecimal digits of a hash, which stands beside each id in the ledger.
_DIGITS = 32


@dataclass(frozen=True, repr=False)
class IdsInTexts:
    """The ids that a column of texts or JSON may hold: as they stand in the file → the UUIDs that they become.

    :param digest: a hash of them; a plan is known by its ``repr``, which is another one for other ids.
    """

    new_ids: Mapping[str, str]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Hash the ids once: there may be a million."""
        found = hashlib.sha256()
        for old, new in sorted(self.new_ids.items()):
            found.update(f"{len(old)} {old} {new}\n".encode("utf-8", "surrogatepass"))
        object.__setattr__(self, "digest", found.hexdigest()[:_DIGITS])

    def __repr__(self) -> str:
        """Return a short text."""
        return f"IdsInTexts({self.digest})"


class AsWritten(str):
    """A text in which an old id is what was written, no id that became a UUID: a service has written it since."""


def not_rewritable(where: str, display_type: str) -> Problem:
    """Return the problem of a column that is told to rewrite ids and holds no texts."""
    what = f"'rewrite_ids_of' is for texts and JSON, and its target is {display_type}"
    return Problem(where, what, "Leave it out; for a column of UUIDs name 'references'")
