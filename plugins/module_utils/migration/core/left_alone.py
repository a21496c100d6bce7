"""What is said of a cutover group that a rehearsal leaves alone, for one group and for all of them."""

from __future__ import annotations

from typing import Any

from .decide import Rehearsal, decide
from .ledger import GroupRecord


def left_alone(record: GroupRecord) -> dict[str, Any] | None:
    """Return the result of a rehearsal that does nothing with a group; None if the group has to be rehearsed."""
    action = decide(record).rehearsal
    if action is Rehearsal.LOAD:
        return None
    if action is Rehearsal.LEAVE_ALONE:
        msg = f"{record.name} lives on PostgreSQL since {record.cutover_at}; its tables are left alone."
    else:
        msg = f"{record.name} is frozen by an unfinished cutover, which the next phase finishes or undoes."
    return {"changed": False, "state": record.state, "msg": msg}
