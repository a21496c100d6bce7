"""What cannot be said in the old schema: all of it, before anything is changed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ...core.errors import MigrationError, Problem
from ...core.estate import Group

SHOWN_ROWS = 5
CHANGE_IT = "Change it in PostgreSQL to something that the old schema can hold, or delete the row there, then run again"


class Violations:
    """Collects what cannot be said in the old schema, by place and reason."""

    def __init__(self, frozen: Path) -> None:
        self._frozen = frozen
        self._found: dict[tuple[str, str], list[str]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, where: str, what: str, *rows: str, count: int = 1) -> None:
        """Note some rows or values; ``rows`` names the first of them, secrets masked."""
        self._counts[(where, what)] += count
        shown = self._found.setdefault((where, what), [])
        shown.extend(rows[: SHOWN_ROWS - len(shown)])

    def require_none(self, group: Group) -> None:
        """Refuse to go on.

        :raises MigrationError: with one problem for each place and reason.
        """
        problems = []
        for (where, what), rows in self._found.items():
            count = self._counts[(where, what)]
            more = "" if count == len(rows) else f" and {count - len(rows):,} more"
            number = "1 row" if count == 1 else f"{count:,} rows"
            shown = f"{what} ({number}: {'; '.join(rows)}{more})"
            problems.append(Problem(f"{self._frozen}: {where}", shown, CHANGE_IT))
        if problems:
            raise MigrationError(f"What PostgreSQL holds of {group.name} cannot be said in the old schema.", problems)
