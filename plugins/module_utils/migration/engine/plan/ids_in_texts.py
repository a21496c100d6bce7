"""Ids that stand inside texts and JSON, to which no foreign key leads."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

# Hexadecimal digits of a hash, which stands beside each id in the ledger.
_DIGITS = 32


class IdsInTexts:
    """The ids that a column of texts or JSON may hold, each as it stands in the file with the UUID that it becomes.

    A plan is known by its ``repr``, which is another one for other ids.

    :ivar pairs: all of them, in order.
    :ivar new_ids: old id → UUID, of those that are certain in both directions.
    :ivar old_ids: the same, UUID → old id.
    :ivar unclear: the old ids that are not certain: one stands for two UUIDs, or one UUID has two old ids.
    :ivar uuids: every UUID that an old id becomes, certain or not.
    :ivar digest: a hash of all pairs.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Tell the certain ids from the others, once: there may be a million."""
        self.pairs = tuple(sorted(set(pairs)))
        of_old, of_new = Counter(old for old, _ in self.pairs), Counter(new for _, new in self.pairs)
        self.new_ids = {old: new for old, new in self.pairs if of_old[old] == of_new[new] == 1}
        self.old_ids = {new: old for old, new in self.new_ids.items()}
        self.unclear = frozenset(of_old.keys() - self.new_ids.keys())
        self.uuids = frozenset(of_new)
        found = hashlib.sha256()
        for old, new in self.pairs:
            found.update(f"{len(old)} {old} {new}\n".encode("utf-8", "surrogatepass"))
        self.digest = found.hexdigest()[:_DIGITS]

    def __repr__(self) -> str:
        """Return a short text."""
        return f"IdsInTexts({self.digest})"


class AsWritten(str):
    """A text in which an old id is what was written, no id that became a UUID: a service has written it since."""
