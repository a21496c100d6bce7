"""What a cleanup works on: the estate, its ledger, and what was done or went wrong so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core import ledger
from ..core.errors import MigrationError, Problem
from ..core.estate import Group
from . import plan as cleanup_plan
from .conditions import Settings

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_LOCK_SECONDS = 60.0


@dataclass
class Estate:
    """What is cleaned up.

    :param legacy_files: files that no service uses any longer.
    """

    connection: Connection
    groups: Sequence[Group]
    legacy_files: Sequence[str]
    settings: Settings
    done: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @contextmanager
    def collecting(self, path: str) -> Iterator[None]:
        """Note the problems of an error with one file, so that the other files are not kept waiting."""
        try:
            yield
        except MigrationError as error:
            self.connection.rollback()
            self.problems += error.problems or [Problem(path, error.summary, "Correct this, then run again")]
        except OSError as error:
            self.connection.rollback()
            what = f"the system refuses: {error.strerror}"
            self.problems.append(Problem(path, what, "Correct this, then run again"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep away every other cleanup, cutover, rollback and check of these groups."""
        with ExitStack() as stack:
            stack.enter_context(ledger.locked(self.connection, "cleanup", _LOCK_SECONDS))
            for group in self.groups:
                stack.enter_context(ledger.locked(self.connection, f"group {group.name}", _LOCK_SECONDS))
            yield

    def group(self, name: str) -> Group:
        """Return the group of a name.

        :raises MigrationError: if the estate has none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        problem = Problem(f"cutover group {name}", "the estate does not have it", "Correct estate_cutover_groups")
        raise MigrationError("A file belongs to no cutover group.", [problem])

    def plan(self) -> dict[str, Any]:
        """Return the plan as it is now."""
        plan = cleanup_plan.make_plan(self.connection, self.groups, self.legacy_files, self.settings)
        self.connection.rollback()
        return plan
