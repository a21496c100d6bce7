"""The one error type of the engine: a list of problems that a person can act on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

# Where a table is made and changed: in our SQL files, or by the application itself where it makes its own.
TABLE_SQL = "files/sql (or the application's own migrations)"


@dataclass(frozen=True)
class Problem:
    """One thing that stops a run.

    :param where: the file, table, row, column or variable, for example
        ``registry.db: agents.memory_mb, id 'echo'``.
    :param what: what is wrong there, never with the value of a secret column.
    :param fix: the next step for the operator.
    """

    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        """Return the problem as one line."""
        return f"{self.where}: {self.what}. {self.fix}"


class MigrationError(Exception):
    """Raised before anything was written, or after it was rolled back, with every problem found.

    :param summary: one sentence that says what was refused.
    :param problems: all violations, not only the first.
    """

    def __init__(self, summary: str, problems: Iterable[Problem] = ()) -> None:
        self.summary = summary
        self.problems = list(problems)
        super().__init__(self.message())

    def message(self) -> str:
        """Return the summary and every problem, one to a line."""
        return "\n".join([self.summary, *(f"  - {problem}" for problem in self.problems)])

    def as_dicts(self) -> list[dict[str, str]]:
        """Return the problems as plain data for ``fail_json``."""
        return [asdict(problem) for problem in self.problems]


class Busy(MigrationError):
    """Another run is at work on the same group."""


class RowsRefused(MigrationError):
    """Some rows were refused in a way that does not tell all violations: the exact way finds them all."""
