"""The steps that one file of a confirmed plan goes through; each is in the ledger before the next begins.

::

    confirmed → archive (proven row by row) → group archived → quarantine and tombstone → quarantined
    quarantined → deleting → compared once more → delete from quarantine → group removed → deleted

What cannot be finished because a file is another one by now is brought back to where it was, and told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core import ledger, state
from ..core.clock import read_clock
from ..core.commands import playbook
from ..core.decide import Cleanup, decide
from ..core.errors import MigrationError, Problem
from ..core.group_detail import changes
from ..host import safe_paths
from ..quarantine import archive, move_in, move_out
from ..quarantine import place as quarantine_place
from ..quarantine.entry import FILE, SYMLINK, Move
from . import driver_package
from . import restore as cleanup_return
from . import text as cleanup_text
from .records import DELETED, DELETING, LEGACY, PACKAGE, QUARANTINED, SOURCE, FileRecord, forget_file, write_file
from .run import Estate

README_TEXT = """This directory stands where the SQLite file {path} was.
Its data lives in PostgreSQL. A program that still wants to open the file fails, instead of creating an empty one.
The archive of the file: {archive}
To undo this, as long as the file is in quarantine: {command}
"""


def go_on(estate: Estate, record: FileRecord) -> None:
    """Bring one file, or one package, to the end of its plan.

    :raises MigrationError: if that cannot be; then it is where it was, or the plan stays unfinished.
    """
    if record.kind == PACKAGE:
        _remove_driver(estate, record)
    elif record.step == DELETING:
        try:
            _delete(estate, record)
        except (MigrationError, OSError):
            estate.connection.rollback()
            if move_out.is_whole(record.moves, record.quarantine, record.quarantine_inode):
                facts = {key: value for key, value in record.facts.items() if key != "compared"}
                write_file(
                    estate.connection, replace(record, plan_id=record.quarantined_by, step=QUARANTINED, facts=facts)
                )
                estate.connection.commit()
            raise
    else:
        try:
            _quarantine(estate, record)
        except (MigrationError, OSError):
            estate.connection.rollback()
            cleanup_return.withdraw(estate, record.path)
            raise


# ---------------------------------------------------------------- into quarantine


def _quarantine(estate: Estate, record: FileRecord) -> None:
    """Archive a file and move it into quarantine.

    :raises MigrationError: if the file, its group or its archive is not as it must be.
    """
    group_record = _require_untouched_group(estate, record)
    if not record.facts.get("archive"):
        record = _archive(estate, record, group_record)
    directory = str(record.facts["archive"]["directory"])
    name = record.group if record.kind == SOURCE else "legacy"
    command = playbook("6_cleanup", sqlite_cleanup_restore_groups=name)
    readme = README_TEXT.format(path=record.path, archive=directory, command=command)
    # A file system that is not mounted at present must not get another quarantine at the same path.
    with quarantine_place.existing(record.quarantine, record.quarantine_inode):
        move_in.move_in(record.moves, record.quarantine, readme)
    clock = read_clock(estate.connection)
    facts = {**record.facts, "clock": clock.as_dict(), "quarantined_by": record.plan_id}
    write_file(estate.connection, replace(record, step=QUARANTINED, facts=facts))
    estate.connection.commit()
    estate.done.append(f"{record.path}: archived in {directory}, moved to {record.quarantine}")


def _require_untouched_group(estate: Estate, record: FileRecord) -> ledger.GroupRecord | None:
    """Return the ledger's record of a file's group, None for a legacy file.

    :raises MigrationError: if the group was rolled back, or was never live.
    """
    if record.kind == LEGACY:
        return None
    group = estate.group(record.group)
    found = ledger.read_group(estate.connection, group.name, group.source_path)
    estate.connection.rollback()
    if decide(found).cleanup not in (Cleanup.ARCHIVE, Cleanup.REMOVE):
        raise MigrationError(
            f"Cutover group {group.name} does not live on PostgreSQL.",
            [Problem(record.path, f"its group is '{found.state}'", state.advice(found.state, group.name))],
        )
    main = next(move for move in record.moves if move.kind == FILE)
    if main.sha256 != found.frozen_sha256:
        raise safe_paths.changed(record.path, "it is not the file that was frozen at the cutover")
    return found


def _archive(estate: Estate, record: FileRecord, group_record: ledger.GroupRecord | None) -> FileRecord:
    """Make the quarantine and the archive of a file, and return its record with what proves both."""
    main = next(move for move in record.moves if move.kind == FILE)
    inode = quarantine_place.prepare(record.quarantine, main.directory, main.directory_inode, record.path)
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
            pieces, str(record.facts["archive_name"]), facts, settings.archive_directory, settings.work_directory
        )
    record = replace(record, facts={**record.facts, "archive": described, "quarantine_inode": inode})
    write_file(estate.connection, record)
    if group_record is not None and decide(group_record).cleanup is Cleanup.ARCHIVE:
        group = estate.group(record.group)
        ledger.take_step(estate.connection, group.name, "archive", group.source_path, detail=changes(archive=described))
    estate.connection.commit()
    return record


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
                directory = stack.enter_context(quarantine_place.existing(where))
                name = move.place
            pieces.append(archive.Piece(suffix, directory, name, move.path, move.inode, move.sha256))
        yield pieces


# ---------------------------------------------------------------- for good


def _delete(estate: Estate, record: FileRecord) -> None:
    """Delete a file from quarantine for good, after its archive was read back once more."""
    described = record.facts["archive"]
    # After a crash nothing may be left to compare with; it was compared before the first file was deleted.
    if not record.facts.get("compared"):
        _compare(estate, record)
        record = replace(record, facts={**record.facts, "compared": True})
        write_file(estate.connection, record)
        estate.connection.commit()
    archive.require_intact(described)
    move_out.delete(record.moves, record.quarantine, record.quarantine_inode)
    if record.kind == SOURCE:
        group = estate.group(record.group)
        if decide(ledger.read_group(estate.connection, group.name, group.source_path)).cleanup is Cleanup.REMOVE:
            ledger.take_step(estate.connection, group.name, "remove", group.source_path)
    write_file(estate.connection, replace(record, step=DELETED))
    estate.connection.commit()
    quarantine_place.remove(record.quarantine)
    estate.done.append(f"{record.path}: deleted; its archive stays in {described['directory']}")


def _compare(estate: Estate, record: FileRecord) -> None:
    """Raise unless a file in quarantine has, row by row, the content of its archive."""
    path = Path(str(record.facts["archive"]["directory"]))
    with _pieces(record.moves, record.quarantine) as pieces:
        archive.make(pieces, path.name, {}, str(path.parent), estate.settings.work_directory)


def _remove_driver(estate: Estate, record: FileRecord) -> None:
    """Remove the driver from a package, if the files of all groups that share it are gone."""
    package = record.facts["package"]
    waiting = [
        name
        for name in package["groups"]
        if decide(ledger.read_group(estate.connection, name)).cleanup is not Cleanup.DONE
    ]
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
