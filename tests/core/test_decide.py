"""What is to be done with a group: the whole table of what a ledger can say, walked as it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import state
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.clock import Clock
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.decide import (
    Cleanup,
    Cutover,
    Interrupted,
    Rehearsal,
    Rollback,
    decide,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.group_detail import (
    KEYS,
    GroupDetail,
    Phase,
    changes,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.ledger import GroupRecord

from .test_layout import ENGINE


def records() -> Iterator[GroupRecord]:
    """Yield every record that differs in something on which a decision may depend."""
    for name, phase, proven, protected in product(state.STATES, Phase, (False, True), (False, True)):
        detail = GroupDetail(
            proven=proven,
            rollback={"phase": phase.value} if phase else {},
            file_before={"mode": "0640"} if protected else {},
        )
        yield GroupRecord("g", name, "/g.db", None, None, None, detail)


def name_of(record: GroupRecord) -> str:
    return f"{record.state}-{record.detail.phase.value}-{record.detail.proven}-{bool(record.detail.file_before)}"


every_record = pytest.mark.parametrize("record", list(records()), ids=name_of)


def test_the_table_is_whole() -> None:
    assert len({name_of(record) for record in records()}) == 7 * 5 * 2 * 2


@every_record
def test_no_phase_does_what_the_state_does_not_allow(record: GroupRecord) -> None:
    action = decide(record)
    assert action.on_postgresql == state.is_on_postgresql(record.state)
    assert (action.cutover in (Cutover.MOVE, Cutover.MOVE_AGAIN)) == state.is_allowed(record.state, "freeze")
    assert (action.rehearsal is Rehearsal.LOAD) == state.is_allowed(record.state, "rehearse")
    if action.interrupted is Interrupted.NOTHING:
        assert (action.rollback is Rollback.LEAVE_POSTGRESQL) == state.is_allowed(record.state, "roll_back")
        assert (action.rollback is Rollback.REVERT_CUTOVER) == state.is_allowed(record.state, "thaw")
        assert action.may_archive == state.is_allowed(record.state, "archive")


@every_record
def test_nobody_loads_over_the_store_or_takes_its_file(record: GroupRecord) -> None:
    action = decide(record)
    if action.on_postgresql:
        assert action.rehearsal is Rehearsal.LEAVE_ALONE
        assert action.cutover in (Cutover.FINISH, Cutover.KEEP)
        assert action.rollback in (Rollback.LEAVE_POSTGRESQL, Rollback.REFUSE)
        assert action.interrupted in (Interrupted.NOTHING, Interrupted.UNDO)
    else:
        assert not action.may_archive
        assert not action.frozen_file_in_place
        assert action.rollback not in (Rollback.LEAVE_POSTGRESQL, Rollback.REFUSE)
        assert action.interrupted in (Interrupted.NOTHING, Interrupted.FINISH)
    if action.interrupted is not Interrupted.NOTHING:
        assert not action.may_archive
    if action.interrupted is Interrupted.FINISH:
        assert action.rollback is Rollback.FINISH


@every_record
def test_what_only_describes_the_file_decides_nothing(record: GroupRecord) -> None:
    bare = replace(record, detail=replace(record.detail, file_before={}))
    assert decide(bare) == decide(record)
    if record.state != state.LIVE:
        unproven = replace(record, detail=replace(record.detail, proven=False))
        assert decide(unproven) == decide(record)


@pytest.mark.parametrize(
    ("group_state", "detail", "cutover", "rollback", "interrupted"),
    [
        ("pending", {}, Cutover.NEEDS_REHEARSAL, Rollback.NOTHING, Interrupted.NOTHING),
        ("rehearsed", {}, Cutover.MOVE, Rollback.NOTHING, Interrupted.NOTHING),
        ("frozen", {}, Cutover.MOVE_AGAIN, Rollback.REVERT_CUTOVER, Interrupted.NOTHING),
        ("live", {}, Cutover.FINISH, Rollback.LEAVE_POSTGRESQL, Interrupted.NOTHING),
        ("live", {"proven": True}, Cutover.KEEP, Rollback.LEAVE_POSTGRESQL, Interrupted.NOTHING),
        ("live", {"proven": True, "way_back": {"phase": "open"}},
         Cutover.KEEP, Rollback.LEAVE_POSTGRESQL, Interrupted.UNDO),
        ("live", {"proven": True, "way_back": {"phase": "over"}},
         Cutover.KEEP, Rollback.LEAVE_POSTGRESQL, Interrupted.NOTHING),
        ("rolled_back", {"way_back": {"phase": "committed"}},
         Cutover.NEEDS_REHEARSAL, Rollback.FINISH, Interrupted.FINISH),
        ("rehearsed", {"way_back": {"phase": "committed"}}, Cutover.MOVE, Rollback.FINISH, Interrupted.FINISH),
        ("rolled_back", {"way_back": {"phase": "done"}},
         Cutover.NEEDS_REHEARSAL, Rollback.KEEP_ON_SQLITE, Interrupted.NOTHING),
        ("archived", {"proven": True}, Cutover.KEEP, Rollback.REFUSE, Interrupted.NOTHING),
        ("removed", {}, Cutover.KEEP, Rollback.REFUSE, Interrupted.NOTHING),
    ],
)  # fmt: skip
def test_what_is_done_from_each_state(
    group_state: str, detail: dict[str, Any], cutover: Cutover, rollback: Rollback, interrupted: Interrupted
) -> None:
    action = decide(GroupRecord("g", group_state, "/g.db", None, None, None, GroupDetail.from_ledger(detail)))
    assert (action.cutover, action.rollback, action.interrupted) == (cutover, rollback, interrupted)


def test_what_is_written_is_read_again_under_the_keys_of_every_version() -> None:
    clock = Clock(1.0, 2.0, "boot", 3.0)
    stopped_at = datetime(2026, 1, 2, tzinfo=UTC)
    written = changes(
        loaded={"a.b": {"rows": 1}}, baseline={"token": "t"}, ledger_content={"reject": {}}, rehearsal={"token": "t"},
        file_before={"mode": "0640"}, rewritten_ids={"t": {"v": "hash"}},
        stopped_at=stopped_at, proven=True, checked=True, fingerprint={"a.b": {"rows": 1}}, clock=clock,
        restored_at="then", rollback={"phase": Phase.OPEN}, archive={"directory": "/a"}, own_schemas=("a",),
    )  # fmt: skip
    assert set(written) == set(KEYS.values()) == {
        "loaded", "kept_snapshot", "rehearsal", "fence", "stopped_at", "proven", "fingerprint", "clock", "restored_at",
        "way_back", "archive", "ledger_content", "rewritten_ids", "checked",
        "own_schemas",
    }  # fmt: skip
    read = GroupDetail.from_ledger(written)
    assert (read.stopped_at, read.clock, read.phase, read.proven) == (stopped_at, clock, Phase.OPEN, True)
    assert changes(**{name: getattr(read, name) for name in KEYS}) == written


@pytest.mark.parametrize(
    "data", [None, [], {"way_back": "x", "clock": 1, "stopped_at": 5, "loaded": None, "own_schemas": 1}]
)
def test_what_cannot_be_read_is_as_if_it_were_not_there(data: Any) -> None:
    assert GroupDetail.from_ledger(data) == GroupDetail()


def test_a_phase_that_nobody_knows_asks_for_nothing() -> None:
    assert GroupDetail.from_ledger({"way_back": {"phase": "of a later version"}}).phase is Phase.NONE


def test_a_field_that_does_not_exist_is_not_written() -> None:
    with pytest.raises(KeyError):
        changes(proven_well=True)


# What has a phase do something; what only reports a state is free to name it.
DECIDING = ("engine", "window", "cutover", "rollback", "recovery", "quarantine", "cleanup")
# Where a state is compared all the same → why.
COMPARED = {
    "engine/transfer/migrate.py: REHEARSED": "the step of the ledger is written only where it changes something",
    "rollback/window.py: ROLLED_BACK": "a dump can be compared with the tables only as long as nobody loads them again",
    "cutover/reconcile.py: LIVE": "what a person is told to do",
}


def compared_states() -> set[str]:
    """Return the file and the state of each comparison with a state that a package makes by itself."""
    found = set()
    for path in (path for package in DECIDING for path in (ENGINE / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                found |= {
                    f"{path.relative_to(ENGINE)}: {part.attr}"
                    for part in ast.walk(node)
                    if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "state" and part.attr.isupper()
                }
    return found


def test_nobody_else_decides_by_the_state() -> None:
    assert compared_states() == set(COMPARED)


@every_record
def test_cleanup_goes_on_with_a_file_from_where_it_is(record: GroupRecord) -> None:
    action = decide(record)
    assert (action.cleanup is Cleanup.ARCHIVE) == state.is_allowed(record.state, "archive")
    assert (action.cleanup is Cleanup.REMOVE) == state.is_allowed(record.state, "remove")
    assert (action.cleanup is Cleanup.NOTHING) == (not action.on_postgresql)
    assert not action.may_archive or action.cleanup is Cleanup.ARCHIVE
