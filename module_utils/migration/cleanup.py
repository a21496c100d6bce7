"""Carries out a confirmed cleanup plan, finishes one that was interrupted, and brings files back from quarantine.

Before anything is touched, the ledger holds what was confirmed: so a run after a crash knows what to finish,
and does it for exactly the files of the plan. Each file goes through its steps alone::

    confirmed → archive (proven row by row) → group archived → quarantine and tombstone → quarantined
    quarantined → deleting → delete from quarantine → group removed → deleted

What cannot be finished because a file is another one by now is brought back to where it was, and told.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import archive, cleanup_plan, cleanup_text, driver_package, ledger, quarantine, safe_paths, soak, state
from .cleanup_plan import Settings
from .cleanup_records import (
    CONFIRMED,
    DELETED,
    DELETING,
    LEGACY,
    PACKAGE,
    QUARANTINED,
    SOURCE,
    UNFINISHED,
    FileRecord,
    forget_file,
    read_files,
    recall_plan,
    remember_plan,
    write_file,
)
from .errors import MigrationError, Problem
from .estate import Group
from .quarantine import SYMLINK, Move

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_LOCK_SECONDS = 60.0
_EXPLAIN = "ansible-playbook playbooks/6_cleanup.yml"
README_TEXT = """This directory stands where the SQLite file {path} was.
Its data lives in PostgreSQL. A program that still wants to open the file fails, instead of creating an empty one.
The archive of the file: {archive}
The way back, as long as the file is in quarantine: playbooks/6_cleanup.yml -e sqlite_cleanup_restore_groups={name}
"""


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
    def collecting(self) -> Iterator[None]:
        """Note the problems of an error, so that the other files are not kept waiting."""
        try:
            yield
        except MigrationError as error:
            self.connection.rollback()
            self.problems += error.problems or [Problem("cleanup", error.summary, "Correct this, then run again")]

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
        for record in read_files(estate.connection).values():
            estate.connection.rollback()
            if record.plan_id == confirm and record.step in UNFINISHED and record.kind != PACKAGE:
                with estate.collecting():
                    _go_on(estate, record)
        for record in read_files(estate.connection).values():
            estate.connection.rollback()
            if record.plan_id == confirm and record.step in UNFINISHED and record.kind == PACKAGE:
                with estate.collecting():
                    _remove_driver(estate, record)
        if estate.problems:
            done = f" Done: {'; '.join(estate.done)}." if estate.done else ""
            raise MigrationError(f"Cleanup plan {confirm} could not be carried out as a whole.{done}", estate.problems)
        return {**estate.plan(), "changed": bool(estate.done), "done": estate.done, "lines": list(estate.done)}


def _is_finished(estate: Estate, plan_id: str) -> bool:
    """Return whether a plan was confirmed once, and nothing of it is left to do."""
    steps = [record.step for record in read_files(estate.connection).values() if record.plan_id == plan_id]
    estate.connection.rollback()
    return bool(steps) and not set(steps) & set(UNFINISHED)


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
        problems = [Problem("sqlite_cleanup_confirm", what, f"Use -e sqlite_cleanup_confirm={plan['plan_id']}")]
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
        facts = {"package": {key: package[key] for key in ("path", "directory", "user", "services", "groups")}}
        write_file(estate.connection, FileRecord(package["path"], PACKAGE, "", plan["plan_id"], CONFIRMED, None, facts))
    estate.connection.commit()


def _go_on(estate: Estate, record: FileRecord) -> None:
    """Bring one file to the end of its plan."""
    if record.step == DELETING:
        try:
            _delete(estate, record)
        except MigrationError:
            estate.connection.rollback()
            if not _is_partly_deleted(record.moves, str(record.facts["quarantine"])):
                write_file(estate.connection, replace(record, plan_id=record.quarantined_by, step=QUARANTINED))
                estate.connection.commit()
            raise
        return
    try:
        _quarantine(estate, record)
    except MigrationError:
        estate.connection.rollback()
        _withdraw(estate, record)
        raise


# ---------------------------------------------------------------- into quarantine


def _quarantine(estate: Estate, record: FileRecord) -> None:
    """Archive a file and move it into quarantine.

    :raises MigrationError: if the file, its group or its archive is not as it must be.
    """
    group_record = _require_untouched_group(estate, record)
    where = str(record.facts["quarantine"])
    if not record.facts.get("archive"):
        facts = {
            "plan_id": record.plan_id,
            "kind": record.kind,
            "group": record.group,
            "symlinks": {move.path: move.target for move in record.moves if move.kind == SYMLINK},
            "ledger": {} if group_record is None else _ledger_data(group_record),
        }
        settings = estate.settings
        with _pieces(record.moves, None) as pieces:
            described = archive.make(
                pieces,
                str(record.facts["archive_name"]),
                facts,
                settings.archive_directory,
                settings.work_directory,
            )
        record = replace(record, facts={**record.facts, "archive": described})
        write_file(estate.connection, record)
        if group_record is not None and group_record.state == state.LIVE:
            group = estate.group(record.group)
            ledger.take_step(estate.connection, group.name, "archive", group.source_path, detail={"archive": described})
        estate.connection.commit()
    directory = str(record.facts["archive"]["directory"])
    name = record.group if record.kind == SOURCE else "legacy"
    readme = README_TEXT.format(path=record.path, archive=directory, name=name)
    quarantine.move_in(record.moves, where, readme)
    clock = soak.read_clock(estate.connection)
    facts = {**record.facts, "clock": clock.as_dict(), "quarantined_by": record.plan_id}
    write_file(estate.connection, replace(record, step=QUARANTINED, facts=facts))
    estate.connection.commit()
    estate.done.append(f"{record.path}: archived in {directory}, moved to {where}")


def _require_untouched_group(estate: Estate, record: FileRecord) -> ledger.GroupRecord | None:
    """Return the ledger's record of a file's group, None for a legacy file.

    :raises MigrationError: if the group was rolled back, or was never live.
    """
    if record.kind == LEGACY:
        return None
    group = estate.group(record.group)
    found = ledger.read_group(estate.connection, group.name, group.source_path)
    estate.connection.rollback()
    if found.state not in (state.LIVE, state.ARCHIVED):
        raise MigrationError(
            f"Cutover group {group.name} does not live on PostgreSQL.",
            [Problem(record.path, f"its group is '{found.state}'", state.advice(found.state))],
        )
    main = next(move for move in record.moves if move.kind == quarantine.FILE)
    if main.sha256 != found.frozen_sha256:
        raise safe_paths.changed(record.path, "it is not the file that was frozen at the cutover")
    return found


def _ledger_data(record: ledger.GroupRecord) -> dict[str, Any]:
    """Return what the manifest says of a group's cutover."""
    return {
        "state": record.state,
        "cutover_at": None if record.cutover_at is None else record.cutover_at.isoformat(),
        "frozen_sha256": record.frozen_sha256,
        "rehearsed_at": None if record.rehearsed_at is None else record.rehearsed_at.isoformat(),
    }


@contextmanager
def _pieces(moves: Sequence[Move], where: str | None) -> Iterator[list[archive.Piece]]:
    """Give the pieces of a database, as they lie where they were, or in quarantine.

    :param where: the private directory of its quarantine.
    """
    with ExitStack() as stack:
        pieces = []
        for move in moves:
            if move.kind == SYMLINK:
                continue
            suffix = move.place.removeprefix("database")
            if where is None:
                directory = stack.enter_context(safe_paths.open_directory(move.directory, move.directory_inode))
                name = move.name
            else:
                directory = stack.enter_context(safe_paths.private_directory(where, create=False))
                name = move.place
            pieces.append(archive.Piece(suffix, directory, name, move.path, move.inode, move.sha256))
        yield pieces


def _withdraw(estate: Estate, record: FileRecord) -> None:
    """Bring back what was moved of a file whose plan cannot be carried out, and forget the plan for it."""
    quarantine.move_back(record.moves, str(record.facts["quarantine"]))
    if record.kind == SOURCE:
        _back_to_live(estate, record)
    forget_file(estate.connection, record.path)
    estate.connection.commit()


def _back_to_live(estate: Estate, record: FileRecord) -> None:
    """Take the ledger's step back to ``live``, with the fence of the file up again."""
    group = estate.group(record.group)
    found = ledger.read_group(estate.connection, group.name, group.source_path).state
    if found not in (state.LIVE, state.ARCHIVED):
        # It is on SQLite again, and needs its file without a fence.
        return
    main = next(move for move in record.moves if move.kind == quarantine.FILE)
    with (
        suppress(safe_paths.Changed),
        safe_paths.open_directory(main.directory, main.directory_inode) as directory,
        safe_paths.open_file(directory, main.name, main.path, main.inode) as file,
    ):
        if not safe_paths.set_immutable(file, True):
            os.fchmod(file, 0o444)
    if found == state.ARCHIVED:
        # The soak begins anew: whoever brings a file back has a doubt.
        detail = {soak.RESTORED_AT: datetime.now(UTC).isoformat()}
        ledger.take_step(estate.connection, group.name, "restore", group.source_path, detail=detail)


# ---------------------------------------------------------------- for good


def _delete(estate: Estate, record: FileRecord) -> None:
    """Delete a file from quarantine for good, after its archive was read back once more."""
    where = str(record.facts["quarantine"])
    described = record.facts["archive"]
    settings = estate.settings
    # After a crash nothing may be left to compare with; it was compared before the first file was deleted.
    if not _is_partly_deleted(record.moves, where):
        name = Path(str(described["directory"])).name
        with _pieces(record.moves, where) as pieces:
            found = archive.make(
                pieces, name, {}, str(Path(str(described["directory"])).parent), settings.work_directory
            )
        if found["archive_sha256"] != described["archive_sha256"]:
            raise safe_paths.changed(str(described["directory"]), "it is not the archive that was made of the file")
    archive.require_intact(described)
    quarantine.delete(record.moves, where)
    if record.kind == SOURCE:
        group = estate.group(record.group)
        if ledger.read_group(estate.connection, group.name, group.source_path).state == state.ARCHIVED:
            ledger.take_step(estate.connection, group.name, "remove", group.source_path)
    write_file(estate.connection, replace(record, step=DELETED))
    estate.connection.commit()
    estate.done.append(f"{record.path}: deleted; its archive stays in {described['directory']}")


def _is_partly_deleted(moves: Sequence[Move], where: str) -> bool:
    """Return whether a killed run has begun to delete."""
    if not os.path.isdir(where):
        return True
    with safe_paths.private_directory(where, create=False) as directory:
        return any(safe_paths.identify(directory, move.place) is None for move in moves)


def _remove_driver(estate: Estate, record: FileRecord) -> None:
    """Remove the driver from a package, if the files of all groups that share it are gone."""
    package = record.facts["package"]
    waiting = [name for name in package["groups"] if ledger.read_group(estate.connection, name).state != state.REMOVED]
    estate.connection.rollback()
    if waiting:
        forget_file(estate.connection, record.path)
        estate.connection.commit()
        return
    try:
        removed = driver_package.remove(package)
    except MigrationError:
        # It can be tried again under a plan of its own, and keeps nothing else waiting.
        forget_file(estate.connection, record.path)
        estate.connection.commit()
        raise
    if removed:
        estate.done.append(f"{record.path}: {cleanup_text.DRIVER} removed")
    write_file(estate.connection, replace(record, step=DELETED))
    estate.connection.commit()


# ---------------------------------------------------------------- the way back


def restore(estate: Estate, names: Sequence[str], check_mode: bool = False) -> dict[str, Any]:
    """Bring the files of groups back from quarantine, to where they were; the archives stay.

    :param names: names of groups, or ``legacy`` for the legacy files.
    :raises MigrationError: if a name is unknown, a file is deleted already, or something else stands in its place.
    """
    known = [group.name for group in estate.groups]
    unknown = [name for name in names if name not in (*known, "legacy")]
    if unknown:
        fix = f"Name one of: {', '.join((*known, 'legacy'))}"
        problems = [Problem("sqlite_cleanup_restore_groups", f"there is no group {name!r}", fix) for name in unknown]
        raise MigrationError("Nothing was brought back.", problems)
    wanted = {soak.LEGACY if name == "legacy" else name for name in names}
    with estate.locked():
        records = [record for record in read_files(estate.connection).values() if record.group in wanted]
        estate.connection.rollback()
        _refuse_deleted(records)
        records = [record for record in records if record.step in (CONFIRMED, QUARANTINED)]
        if check_mode:
            done = [f"{record.path}: would be brought back from {record.facts['quarantine']}" for record in records]
            return {
                **estate.plan(),
                "changed": bool(done),
                "done": done,
                "lines": done or ["Nothing is in quarantine."],
            }
        for record in records:
            with estate.collecting():
                _withdraw(estate, record)
                estate.done.append(f"{record.path}: brought back from {record.facts['quarantine']}")
        if estate.problems:
            raise MigrationError("Not every file could be brought back.", estate.problems)
        lines = list(estate.done) or ["Nothing is in quarantine."]
        return {**estate.plan(), "changed": bool(estate.done), "done": estate.done, "lines": lines}


def _refuse_deleted(records: Sequence[FileRecord]) -> None:
    """Raise if a source to bring back is deleted: its archive is all there is."""
    problems = [
        Problem(
            record.path,
            "it was deleted from quarantine, or its deletion has begun",
            f"Unpack its archive by hand: {record.facts['archive']['directory']}/{archive.SNAPSHOT}",
        )
        for record in records
        if record.step in (DELETING, DELETED) and record.kind == SOURCE
    ]
    if problems:
        raise MigrationError("Nothing was brought back.", problems)
