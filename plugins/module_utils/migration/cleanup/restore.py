"""Brings files back from the quarantine, until the deletion: for files that an operator names, or whose plan failed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from ..core import ledger
from ..core.decide import Cleanup, decide
from ..core.errors import MigrationError, Problem
from ..core.group_detail import changes
from ..host import safe_paths, write_protection
from ..quarantine import archive, move_out
from ..quarantine import place as quarantine_place
from ..quarantine.entry import FILE
from . import soak
from .records import CONFIRMED, DELETED, DELETING, QUARANTINED, SOURCE, FileRecord, forget_file, read_files
from .run import Estate


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
            done = [f"{record.path}: would be brought back from {record.quarantine}" for record in records]
            return {
                **estate.plan(),
                "changed": bool(done),
                "done": done,
                "lines": done or ["Nothing is in quarantine."],
            }
        for record in records:
            with estate.collecting(record.path):
                withdraw(estate, record.path)
                estate.done.append(f"{record.path}: brought back from {record.quarantine}")
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


def withdraw(estate: Estate, path: str) -> None:
    """Bring back what was moved of a file, and forget the plan for it.

    :raises MigrationError: if it cannot go back; then the ledger still knows it.
    """
    record = read_files(estate.connection)[path]
    estate.connection.rollback()
    # The archive comes before the first move.
    if record.facts.get("archive"):
        complete = record.step == QUARANTINED
        move_out.move_back(record.moves, record.quarantine, record.quarantine_inode, complete)
    if record.kind == SOURCE:
        _back_to_live(estate, record)
    forget_file(estate.connection, record.path)
    estate.connection.commit()
    quarantine_place.remove(record.quarantine)


def _back_to_live(estate: Estate, record: FileRecord) -> None:
    """Take the ledger's step back to ``live``, with the file write-protected again."""
    group = estate.group(record.group)
    found = decide(ledger.read_group(estate.connection, group.name, group.source_path)).cleanup
    if found not in (Cleanup.ARCHIVE, Cleanup.REMOVE):
        # It is on SQLite again, and needs its file without write protection.
        return
    main = next(move for move in record.moves if move.kind == FILE)
    with (
        suppress(safe_paths.Changed),
        safe_paths.open_directory(main.directory, main.directory_inode) as directory,
        safe_paths.open_file(directory, main.name, main.path, main.inode) as file,
    ):
        # The daily check compares the times of the file: nothing is written that is so already.
        write_protection.protect(file)
    if found is Cleanup.REMOVE:
        # The soak begins anew: whoever brings a file back has a doubt.
        detail = changes(restored_at=datetime.now(UTC))
        ledger.take_step(estate.connection, group.name, "restore", group.source_path, detail=detail)
