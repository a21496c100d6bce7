"""What cannot be said in the old schema: all of it, before anything is changed."""

from __future__ import annotations

from pathlib import Path

from ...core.errors import MigrationError, Problem
from ...core.estate import Group
from ..prepare.violations import Violation

SHOWN_ROWS = 5
CHANGE_IT = "Change it in PostgreSQL to something that the old schema can hold, or delete the row there, then run again"


class ExportViolations:
    """Collects what cannot be said in the old schema, by place and reason."""

    def __init__(self, frozen: Path) -> None:
        self._frozen = frozen
        self._found: dict[tuple[str, str], Violation] = {}

    def add(self, where: str, what: str, *rows: str, count: int = 1) -> None:
        """Note some rows or values; ``rows`` names the first of them, secrets masked."""
        found = self._found.setdefault((where, what), Violation(where, what=what))
        found.count += count
        found.examples.extend(rows[: SHOWN_ROWS - len(found.examples)])

    def require_none(self, group: Group) -> None:
        """Refuse to go on.

        :raises MigrationError: with one problem for each place and reason.
        """
        problems = [
            Problem(f"{self._frozen}: {found.place}", found.described(), CHANGE_IT) for found in self._found.values()
        ]
        if problems:
            raise MigrationError(f"What PostgreSQL holds of {group.name} cannot be said in the old schema.", problems)
