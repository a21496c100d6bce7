"""What cleanup would do, and what keeps it from it: the plan of phase 6 and its id.

Nothing here changes anything. For the source of each cutover group and for each legacy file the plan says what is
there (:mod:`.cleanup.inspect`), what would become of it, and which conditions are not met (:mod:`.cleanup.conditions`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core import ledger, state
from ..core.clock import Clock
from ..core.commands import playbook
from ..core.decide import Cleanup, Interrupted, decide
from ..core.errors import MigrationError, Problem
from ..quarantine import archive, move_in
from ..quarantine.entry import FILE
from . import driver_package, inspect, soak
from . import text as cleanup_text
from .conditions import (
    Present,
    Settings,
    check_every_file,
    check_frozen,
    check_period,
    check_places,
    check_soak,
    look_around,
)
from .entry import ABSENT, ARCHIVE, DELETE, DONE, KEEP, Entry
from .records import CONFIRMED, DELETED, LEGACY, PACKAGE, SOURCE, UNFINISHED, FileRecord

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ..core.estate import Group


def make_plan(
    connection: Connection | None,
    groups: Sequence[Group],
    legacy_files: Sequence[str],
    settings: Settings,
    clock: Clock | None = None,
    unreachable: str = "",
) -> dict[str, Any]:
    """Return what cleanup would do with every file of the estate, and what keeps it from it.

    :param connection: to the ledger; None where there is none yet, as on a bare host in check mode.
    :param clock: the present; read from every clock if not given.
    :param unreachable: why there is no connection.
    :returns: ``plan_id``, ``entries``, ``packages``, ``facts`` (what the id stands for), ``unfinished``, ``lines``.
    :raises MigrationError: if a setting or the path of a legacy file cannot be used.
    """
    _require_valid(legacy_files, settings)
    present = look_around(connection, groups, settings, clock, unreachable)
    sources = {os.path.realpath(group.source_path): group for group in groups}
    unfinished = sorted(file.plan_id for file in present.files.values() if file.step in UNFINISHED)
    entries = []
    for group in groups:
        entry = Entry(SOURCE, group.name, group.source_path)
        entries.append(_planned(entry, partial(_plan_source, entry, group, present)))
    for path in legacy_files:
        entry = Entry(LEGACY, "legacy", path)
        entries.append(_planned(entry, partial(_plan_legacy, entry, sources, groups, present)))
    entries += _forgotten(entries, present)
    if unfinished:
        for entry in entries:
            record = present.files.get(entry.path)
            if record is None or record.step not in UNFINISHED:
                entry.unmet.append(f"plan {unfinished[0]} has to be finished first")
    packages = _plan_packages(groups, entries, present)
    plan_id, facts = cleanup_text.plan_id(entries, packages)
    if unfinished:
        plan_id = unfinished[0]
    return {
        "plan_id": plan_id,
        "facts": facts,
        "unfinished": bool(unfinished),
        "entries": [entry.as_dict() for entry in entries],
        "packages": packages,
        "lines": cleanup_text.lines(entries, packages, plan_id, bool(unfinished)),
    }


def _require_valid(legacy_files: Sequence[str], settings: Settings) -> None:
    """Raise with everything that is wrong with the settings and with the paths of the legacy files."""
    problems = []
    for name in ("soak_days", "quarantine_days"):
        days = getattr(settings, name)
        if not math.isfinite(days) or days < 0:
            problems.append(Problem(f"sqlite_cleanup_{name}", f"it is {days}", "Write a number of days, 0 or more"))
    seen = set()
    for path in legacy_files:
        if not path.startswith("/") or ".." in path.split("/"):
            problems.append(Problem(path, "it is no absolute path free of '..'", "Correct estate_legacy_files"))
        if os.path.normpath(path) in seen:
            problems.append(Problem(path, "it is named twice", "Name each file once in estate_legacy_files"))
        seen.add(os.path.normpath(path))
    if problems:
        raise MigrationError("There is no cleanup plan: its settings cannot be used.", problems)


def _planned(entry: Entry, plan: Callable[[], None]) -> Entry:
    """Return an entry with its plan; what cannot be looked at is kept, and does not keep the others from a plan."""
    try:
        plan()
    except OSError as error:
        entry.keep(f"cannot be looked at: {error.strerror}")
    return entry


def _plan_source(entry: Entry, group: Group, present: Present) -> None:
    """Plan for the source of a cutover group."""
    known = present.files.get(group.source_path)
    record = None
    if present.connection is not None:
        record = ledger.read_group(present.connection, group.name, group.source_path)
    if known is not None:
        _continue(entry, known, record, group, present)
        return
    inspect.locate(entry)
    holders = _read(entry, present)
    inspect.find_links(entry, (group.source_path, *group.aliases))
    if entry.action == ABSENT:
        return
    if record is None:
        entry.unmet.append(f"the ledger cannot be read: {present.unreachable}")
    elif decide(record).interrupted is not Interrupted.NOTHING:
        entry.unmet.append(
            f"a rollback of cutover group {group.name} was interrupted: run "
            f"{playbook('rollback', service_env_rollback_groups=group.name)} again"
        )
    elif not decide(record).may_archive:
        entry.unmet.append(
            f"cutover group {group.name} is '{record.state}', not 'live'. {state.advice(record.state, group.name)}"
        )
    else:
        check_soak(entry, record, present)
        check_frozen(entry, record.frozen_sha256)
        entry.unmet += present.services_failures(group)
    check_every_file(entry, holders, None if record is None else record.cutover_at, present)
    check_places(entry, present.settings)


def _plan_legacy(entry: Entry, sources: dict[str, Group], groups: Sequence[Group], present: Present) -> None:
    """Plan for a file that no service uses any longer."""
    known = present.files.get(entry.path)
    if known is not None:
        _continue(entry, known, None, None, present)
        return
    inspect.locate(entry)
    if entry.action == ABSENT:
        return
    if entry.resolved in sources:
        entry.keep(f"it leads to the source of cutover group {sources[entry.resolved].name}: not a legacy file")
        return
    if entry.resolved and entry.resolved != os.path.normpath(entry.path):
        # The owner of a directory on its way can let it lead to anybody's database.
        entry.keep(f"it is reached through a symlink: name the file itself, {entry.resolved}")
        return
    holders = _read(entry, present)
    if entry.rows and sum(entry.rows.values()):
        held = ", ".join(f"{table} {count:,}" for table, count in entry.rows.items() if count)
        rows = cleanup_text.rows(sum(entry.rows.values()))
        entry.notes.append(f"holds {rows} that no mapping moves ({held}): the archive alone will have them")
    if present.connection is None:
        entry.unmet.append(f"the ledger cannot be read: {present.unreachable}")
    else:
        for group in groups:
            record = ledger.read_group(present.connection, group.name, group.source_path)
            if not decide(record).on_postgresql:
                entry.unmet.append(f"cutover group {group.name} does not live on PostgreSQL yet")
    check_every_file(entry, holders, present.newest_cutover, present)
    check_places(entry, present.settings)


def _read(entry: Entry, present: Present) -> list[str]:
    """Read a located file, if it is one, and return the processes that have it open."""
    if entry.action in (ABSENT, KEEP):
        return []
    return inspect.read(entry, present.settings.quarantine_directory, present.settings.work_directory)


def _continue(
    entry: Entry, known: FileRecord, record: ledger.GroupRecord | None, group: Group | None, present: Present
) -> None:
    """Plan what comes next for a file that cleanup is at work on already."""
    entry.moves = known.moves
    entry.quarantine = known.quarantine
    entry.archive = str(known.facts.get("archive_name", ""))
    described = known.facts.get("archive") or {}
    entry.rows = described.get("tables") if described else None
    main = next((move for move in entry.moves if move.kind == FILE), None)
    if main is not None:
        entry.resolved, entry.inode = main.path, main.inode
        entry.size_bytes, entry.sha256 = main.size, main.sha256
    if known.step == DELETED:
        entry.action = DONE
        entry.notes.append(f"deleted; its archive is {described.get('directory')}")
        return
    if known.step in UNFINISHED:
        entry.action = ARCHIVE if known.step == CONFIRMED else DELETE
        entry.notes.append(f"plan {known.plan_id} was confirmed and is not finished")
        return
    entry.action = DELETE
    entry.notes.append(f"in quarantine: {entry.quarantine}; its archive is {described.get('directory')}")
    entry.unmet += move_in.inspect(entry.moves, entry.quarantine)
    try:
        archive.require_intact(described)
    except (MigrationError, OSError, KeyError) as error:
        entry.unmet.append(f"its archive cannot be relied on: {error}".replace("\n", " "))
    if known.kind == SOURCE and (record is None or decide(record).cleanup is not Cleanup.REMOVE):
        entry.unmet.append(f"cutover group {known.group} is '{record.state if record else 'unknown'}', not 'archived'")
    check_period(
        entry,
        known.group,
        soak.quarantine_period(known.quarantined_by),
        Clock.from_dict(known.facts.get("clock")),
        present.settings.quarantine_days,
        "it has been in quarantine",
        present,
    )
    if group is not None:
        entry.unmet += present.services_failures(group)
    cutover_at = record.cutover_at if record is not None else present.newest_cutover
    check_every_file(entry, [], cutover_at, present)


def _forgotten(entries: Sequence[Entry], present: Present) -> list[Entry]:
    """Return each file that cleanup is at work on and that the inventory does not name any longer."""
    named = {entry.path for entry in entries}
    forgotten = []
    for known in present.files.values():
        if known.path in named or known.kind == PACKAGE or known.step == DELETED:
            continue
        entry = Entry(known.kind, known.group if known.kind == SOURCE else "legacy", known.path)
        _continue(entry, known, None, None, present)
        entry.unmet.append("the inventory does not name it any longer: write it there again")
        forgotten.append(entry)
    return forgotten


def _plan_packages(groups: Sequence[Group], entries: Sequence[Entry], present: Present) -> list[dict[str, Any]]:
    """Return which services still depend on the SQLite driver; it goes with the last file of those that share it."""
    gone = {entry.name for entry in entries if entry.kind == SOURCE and entry.action == DONE}
    going = {entry.name for entry in entries if entry.kind == SOURCE and entry.action == DELETE and entry.ready}
    packages = []
    for package in driver_package.find(groups):
        known = present.files.get(package["path"])
        package["unfinished"] = known is not None and known.kind == PACKAGE and known.step in UNFINISHED
        waiting = [name for name in package["groups"] if name not in gone | going]
        package["ready"] = bool(package["driver"]) and not (waiting or package["by_hand"] or package["loaded"])
        if package["driver"] and waiting:
            package["note"] = f"waits until the files of {', '.join(waiting)} are deleted"
        elif package["driver"] and not package["ready"]:
            package["note"] = package["by_hand"] or package["loaded"]
        packages.append(package)
    return packages
