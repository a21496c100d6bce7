"""What is to be done with a cutover group: the one place that decides it, from the ledger's record alone.

The run asks it, and so does its check mode, so that the two cannot drift apart. Which step a state allows at all is
said by :mod:`.core.state`; here stands what each phase does with a group, an interrupted one among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from . import state
from .group_detail import Phase
from .ledger import GroupRecord


class Interrupted(Enum):
    """What an interrupted rollback asks for, before anything else is done with the group."""

    NOTHING = "nothing"
    # PostgreSQL is the store: the frozen file goes back into its place, the services are started on PostgreSQL.
    UNDO = "undo"
    # SQLite is the store, and its file is in place: the services are started there.
    FINISH = "finish"


class Rehearsal(Enum):
    """What a rehearsal does with a group."""

    LOAD = "load"
    # A cutover was interrupted, and the next one finishes or undoes it.
    LEAVE_TO_CUTOVER = "leave to the cutover"
    # PostgreSQL is the store: nobody loads over its rows.
    LEAVE_ALONE = "leave alone"


class Cutover(Enum):
    """What a cutover does with a group."""

    NEEDS_REHEARSAL = "needs a rehearsal"
    MOVE = "move"
    # A cutover was interrupted before PostgreSQL became the store: the window is gone through again.
    MOVE_AGAIN = "move again"
    # A cutover was interrupted behind that: nobody has seen the services healthy yet.
    FINISH = "finish"
    KEEP = "keep"


class Rollback(Enum):
    """What a rollback does with a group."""

    # It has never moved.
    NOTHING = "nothing"
    # A cutover was interrupted before PostgreSQL became the store.
    REVERT_CUTOVER = "revert the cutover"
    LEAVE_POSTGRESQL = "leave PostgreSQL"
    # A rollback was interrupted behind its commit.
    FINISH = "finish"
    KEEP_ON_SQLITE = "keep on SQLite"
    # Its file is in quarantine, or gone.
    REFUSE = "refuse"


class Cleanup(Enum):
    """What is left to be done with the frozen file of a group."""

    # SQLite is the store, or may become it again.
    NOTHING = "nothing"
    # It lies where the services had it.
    ARCHIVE = "archive"
    # It is in quarantine, with an archive of it.
    REMOVE = "remove"
    DONE = "done"


@dataclass(frozen=True)
class Action:
    """What each phase does with one group.

    :param on_postgresql: whether PostgreSQL is the store.
    :param frozen_file_in_place: whether the frozen file lies where the services had it, write-protected.
    :param may_archive: whether cleanup may take that file away.
    """

    interrupted: Interrupted
    rehearsal: Rehearsal
    cutover: Cutover
    rollback: Rollback
    cleanup: Cleanup
    on_postgresql: bool
    frozen_file_in_place: bool
    may_archive: bool

    @property
    def window_is_open(self) -> bool:
        """Return whether a cutover or a rollback has begun and is neither finished nor undone."""
        return self.cutover in (Cutover.MOVE_AGAIN, Cutover.FINISH) or self.interrupted is not Interrupted.NOTHING


_CLEANUPS = {
    state.LIVE: Cleanup.ARCHIVE,
    state.ARCHIVED: Cleanup.REMOVE,
    state.REMOVED: Cleanup.DONE,
}


def decide(record: GroupRecord) -> Action:
    """Return what is to be done with a group."""
    on_postgresql = state.is_on_postgresql(record.state)
    interrupted = _interrupted(record, on_postgresql)
    return Action(
        interrupted=interrupted,
        rehearsal=_rehearsal(record.state, on_postgresql),
        cutover=_cutover(record, on_postgresql),
        rollback=_rollback(record.state, interrupted),
        cleanup=_CLEANUPS.get(record.state, Cleanup.NOTHING),
        on_postgresql=on_postgresql,
        frozen_file_in_place=record.state == state.LIVE,
        may_archive=state.is_allowed(record.state, "archive") and interrupted is Interrupted.NOTHING,
    )


def _interrupted(record: GroupRecord, on_postgresql: bool) -> Interrupted:
    """Return what an interrupted rollback means; the state says which store its commit has left."""
    if record.detail.phase is Phase.OPEN and record.state == state.LIVE:
        return Interrupted.UNDO
    if record.detail.phase is Phase.COMMITTED and not on_postgresql:
        return Interrupted.FINISH
    return Interrupted.NOTHING


def _rehearsal(group_state: str, on_postgresql: bool) -> Rehearsal:
    if on_postgresql:
        return Rehearsal.LEAVE_ALONE
    return Rehearsal.LEAVE_TO_CUTOVER if group_state == state.FROZEN else Rehearsal.LOAD


def _cutover(record: GroupRecord, on_postgresql: bool) -> Cutover:
    if on_postgresql:
        # Behind the archive nothing of the cutover can be undone any more.
        unproven = record.state == state.LIVE and not record.detail.proven
        return Cutover.FINISH if unproven else Cutover.KEEP
    if record.state == state.FROZEN:
        return Cutover.MOVE_AGAIN
    return Cutover.MOVE if state.is_allowed(record.state, "freeze") else Cutover.NEEDS_REHEARSAL


def _rollback(group_state: str, interrupted: Interrupted) -> Rollback:
    if interrupted is Interrupted.FINISH:
        return Rollback.FINISH
    return {
        state.FROZEN: Rollback.REVERT_CUTOVER,
        state.LIVE: Rollback.LEAVE_POSTGRESQL,
        state.ARCHIVED: Rollback.REFUSE,
        state.REMOVED: Rollback.REFUSE,
        state.ROLLED_BACK: Rollback.KEEP_ON_SQLITE,
    }.get(group_state, Rollback.NOTHING)
