"""The life of a cutover group, and the one function that decides which step is allowed.

``pending → rehearsed → frozen → live → archived → removed``, and ``rolled_back``.
The state is kept in ``migration.cutover_group``; see :mod:`.core.ledger`.
"""

from __future__ import annotations

from .commands import playbook
from .errors import MigrationError, Problem

PENDING = "pending"
REHEARSED = "rehearsed"
FROZEN = "frozen"
LIVE = "live"
ARCHIVED = "archived"
REMOVED = "removed"
ROLLED_BACK = "rolled_back"
STATES = (PENDING, REHEARSED, FROZEN, LIVE, ARCHIVED, REMOVED, ROLLED_BACK)

# step: (states it may start from, state it leads to)
_STEPS: dict[str, tuple[tuple[str, ...], str]] = {
    "rehearse": ((PENDING, REHEARSED, ROLLED_BACK), REHEARSED),
    "freeze": ((REHEARSED, FROZEN), FROZEN),
    "thaw": ((FROZEN,), REHEARSED),
    # The services are started only after this is committed: from here on PostgreSQL may hold
    # rows that exist nowhere else, and no later run may load over them.
    "go_live": ((FROZEN,), LIVE),
    # The services did not come up and wrote nothing: the group never really moved.
    "abandon": ((LIVE,), REHEARSED),
    "roll_back": ((LIVE,), ROLLED_BACK),
    "archive": ((LIVE,), ARCHIVED),
    # Its file is brought back from the quarantine, to where it was.
    "restore": ((ARCHIVED,), LIVE),
    "remove": ((ARCHIVED,), REMOVED),
}


def advice(state: str, group: str) -> str:
    """Return what an operator does next with a cutover group in this state."""
    return {
        PENDING: f"Rehearse it first: {playbook('3_data_migration')}",
        REHEARSED: f"Cut it over: {playbook('4_service_cutover')}",
        FROZEN: f"Run {playbook('4_service_cutover')} again: it finishes or undoes what was interrupted",
        LIVE: "Its data lives in PostgreSQL; to go back use: "
        f"{playbook('rollback', service_env_rollback_groups=group)}",
        ARCHIVED: "Its SQLite file is in quarantine; bring it back first: "
        f"{playbook('6_cleanup', sqlite_cleanup_restore_groups=group)}",
        REMOVED: "Its SQLite file is gone; restore it from the archive by hand if it is needed",
        ROLLED_BACK: f"Rehearse it again: {playbook('3_data_migration')}",
    }[state]


def is_on_postgresql(state: str) -> bool:
    """Return whether PostgreSQL is the group's store: then no run may load over its tables."""
    return state in (LIVE, ARCHIVED, REMOVED)


def is_allowed(state: str, step: str) -> bool:
    """Return whether ``step`` may be taken from ``state``."""
    return state in _STEPS[step][0]


def next_state(group: str, state: str, step: str) -> str:
    """Return the state that ``step`` leads to.

    :raises MigrationError: if the step is not allowed from ``state``.
    """
    allowed, target = _STEPS[step]
    if state not in allowed:
        raise MigrationError(
            f"Refused to {step.replace('_', ' ')} cutover group {group}.",
            [
                Problem(
                    f"cutover group {group}",
                    f"its state is '{state}', and this step needs {' or '.join(allowed)}",
                    advice(state, group),
                )
            ],
        )
    return target
