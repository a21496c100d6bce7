"""One file of the cleanup plan, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..quarantine.entry import Move

# What would become of it.
ABSENT = "absent"
ARCHIVE = "archive, then move into quarantine"
DELETE = "delete from quarantine"
DONE = "deleted"
KEEP = "keep"


@dataclass
class Entry:
    """One file of the plan.

    :param kind: ``source`` of a cutover group, or ``legacy``.
    :param path: as the inventory names it; ``resolved`` is the file behind it.
    :param action: what cleanup would do once every condition is met.
    :param rows: rows of each table; None if it could not be read.
    :param links: each symlink that the inventory names, and where it leads now.
    :param moves: what would go into quarantine, or lies there.
    :param unmet: why not yet, one sentence each.
    :param may_go_at: the earliest time, if nothing interrupts the soak; None if unknown.
    """

    kind: str
    name: str
    path: str
    resolved: str = ""
    inode: int = 0
    action: str = ARCHIVE
    size_bytes: int = 0
    companions: dict[str, int] = field(default_factory=dict)
    sha256: str = ""
    rows: dict[str, int] | None = None
    links: list[dict[str, str]] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    quarantine: str = ""
    archive: str = ""
    unmet: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    may_go_at: str | None = None

    @property
    def ready(self) -> bool:
        """Return whether a confirmed run would act on it now."""
        return self.action in (ARCHIVE, DELETE) and not self.unmet

    def keep(self, reason: str) -> None:
        """Leave the file where it is, whatever else is found."""
        self.action = KEEP
        self.unmet.append(reason)

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as plain data."""
        return {
            **self.__dict__,
            "moves": [move.as_dict() for move in self.moves],
            "ready": self.ready,
            "total_rows": sum(self.rows.values()) if self.rows is not None else None,
        }
