"""Explains the cleanup plan, and carries out a confirmed one, or finishes it where a run was interrupted.

Before anything is touched, the ledger holds what was confirmed: so a run after a crash knows what to finish, and
does it for exactly the files of the plan, each of which goes through its steps (:mod:`.cleanup.steps`) alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..core.commands import playbook
from ..core.errors import MigrationError, Problem
from ..quarantine import place as quarantine_place
from . import driver_package, soak
from . import steps as cleanup_steps
from . import text as cleanup_text
from .records import (
    CONFIRMED,
    DELETED,
    DELETING,
    PACKAGE,
    SOURCE,
    UNFINISHED,
    FileRecord,
    read_files,
    recall_plan,
    remember_plan,
    write_file,
)
from .run import Estate

_EXPLAIN = playbook("6_cleanup")


def explain(estate: Estate, check_mode: bool = False) -> dict[str, Any]:
    """Return the plan. It is kept in the ledger under its id, so that an outdated one can be compared with it."""
    plan = estate.plan()
    if not check_mode and not plan["unfinished"]:
        remember_plan(estate.connection, plan["plan_id"], plan["facts"])
        estate.connection.commit()
    return {**plan, "changed": False, "done": []}


def carry_out(estate: Estate, confirm: str, check_mode: bool = False) -> dict[str, Any]:
    """Carry out the plan of an id, or finish it, and return it with what was done.

    :raises MigrationError: if the id is not that of the present plan, with the difference; or with every
        file that could not be moved, which is then where it was.
    """
    with estate.locked():
        plan = estate.plan()
        if not check_mode:
            _remove_empty_directories(estate)
        if _is_finished(estate, confirm) and plan["plan_id"] != confirm:
            text = f"Plan {confirm} was carried out; nothing of it is left to do."
            return {**plan, "changed": False, "done": [], "lines": [text, "", *plan["lines"]]}
        _require_confirmed(estate, plan, confirm)
        entries = [entry for entry in plan["entries"] if entry["ready"]]
        packages = [package for package in plan["packages"] if package["ready"] or package["unfinished"]]
        if check_mode:
            would = [f"{entry['path']}: would {entry['action']}" for entry in entries]
            would += [f"{package['path']}: would lose {cleanup_text.DRIVER}" for package in packages]
            return {**plan, "changed": bool(would), "done": would, "lines": [*would, "", *plan["lines"]]}
        if not plan["unfinished"]:
            _confirm(estate, plan, entries, packages)
        # The driver goes last: with the last file of those that share a package.
        for wanted in (False, True):
            for record in read_files(estate.connection).values():
                estate.connection.rollback()
                if (record.kind == PACKAGE) is wanted and record.plan_id == confirm and record.step in UNFINISHED:
                    with estate.collecting(record.path):
                        cleanup_steps.go_on(estate, record)
        if estate.problems:
            done = f" Done: {'; '.join(estate.done)}." if estate.done else ""
            raise MigrationError(f"Cleanup plan {confirm} could not be carried out as a whole.{done}", estate.problems)
        return {**estate.plan(), "changed": bool(estate.done), "done": estate.done, "lines": list(estate.done)}


def _is_finished(estate: Estate, plan_id: str) -> bool:
    """Return whether a plan was confirmed once, and nothing of it is left to do."""
    steps = [record.step for record in read_files(estate.connection).values() if record.plan_id == plan_id]
    estate.connection.rollback()
    return bool(steps) and not set(steps) & set(UNFINISHED)


def _remove_empty_directories(estate: Estate) -> None:
    """Remove what a run has left that was killed when nothing else was to be done any more."""
    for record in read_files(estate.connection).values():
        if record.step == DELETED and record.quarantine:
            quarantine_place.remove(record.quarantine)
    estate.connection.rollback()


def _require_confirmed(estate: Estate, plan: Mapping[str, Any], confirm: str) -> None:
    """Raise unless the id is that of the present plan, and something of it is ready."""
    if confirm == plan["plan_id"]:
        ready = [item for item in (*plan["entries"], *plan["packages"]) if item["ready"]]
        if ready or plan["unfinished"]:
            return
        problems = [
            Problem(entry["path"], reason, "Wait or correct this, then run again")
            for entry in plan["entries"]
            for reason in entry["unmet"]
        ]
        raise MigrationError(f"Nothing of cleanup plan {confirm} is ready; nothing was touched.", problems)
    shown = recall_plan(estate.connection, confirm)
    estate.connection.rollback()
    if plan["unfinished"]:
        what = f"plan {plan['plan_id']} was confirmed before, and has to be finished first"
        problems = [
            Problem(
                "sqlite_cleanup_confirm", what, f"Use {playbook('6_cleanup', sqlite_cleanup_confirm=plan['plan_id'])}"
            )
        ]
    elif shown is None:
        fix = f"Read the plan first, without a confirmation: {_EXPLAIN}"
        problems = [Problem("sqlite_cleanup_confirm", f"no plan {confirm[:40]!r} was ever shown", fix)]
    else:
        fix = f"Read the new plan: {_EXPLAIN}"
        problems = [Problem(path, what, fix) for path, what in cleanup_text.difference(shown, plan["facts"])]
    raise MigrationError(
        f"Refused: {confirm[:40]!r} is not the present cleanup plan, which is {plan['plan_id']}; nothing was touched.",
        problems,
    )


def _confirm(
    estate: Estate, plan: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], packages: Sequence[Mapping[str, Any]]
) -> None:
    """Write into the ledger what will be done, before anything is."""
    known = read_files(estate.connection)
    for entry in entries:
        record = known.get(entry["path"])
        if record is not None:
            write_file(estate.connection, replace(record, plan_id=plan["plan_id"], step=DELETING))
            continue
        facts = {"moves": entry["moves"], "quarantine": entry["quarantine"], "archive_name": entry["archive"]}
        path, kind = entry["path"], entry["kind"]
        group = entry["name"] if kind == SOURCE else soak.LEGACY
        write_file(estate.connection, FileRecord(path, kind, group, plan["plan_id"], CONFIRMED, None, facts))
    for package in packages:
        facts = {"package": {key: package[key] for key in driver_package.LASTING}}
        write_file(estate.connection, FileRecord(package["path"], PACKAGE, "", plan["plan_id"], CONFIRMED, None, facts))
    estate.connection.commit()
