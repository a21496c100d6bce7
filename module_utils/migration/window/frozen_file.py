"""Puts an exported file in the place of the frozen one, in one step, and back again if that has to be undone.

The new file is made in a private directory beside the frozen one, so both are on one file system
and a rename moves it. The frozen file itself stays there under a name of its own until the next
cutover. Whatever a killed run has left is recognised by the files' hashes alone.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core.errors import MigrationError, Problem
from ..core.files import copy_private, sha256_of, sync_directory
from ..host import write_protection

_JOURNALS = ("-wal", "-shm", "-journal")
_ACCESS_LISTS = ("system.posix_acl_access", "system.nfs4_acl")
# A scratch copy or work file of :mod:`.engine.export.export`.
_OF_A_PROCESS = re.compile(r"(?:trial|count|hash)-(\d+)")


def private_directory(source_path: str) -> Path:
    """Return the private directory beside a source, which need not exist."""
    source = Path(os.path.realpath(source_path))
    return source.with_name(f"{source.name}.way-back")


def make_directory(source_path: str) -> Path:
    """Make the private directory, mode 0700.

    :raises MigrationError: if somebody else's file is in its place.
    """
    directory = private_directory(source_path)
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    _require_own(directory.lstat(), source_path)
    return directory


def _require_own(found: os.stat_result, source_path: str) -> None:
    """Refuse a private directory that is none.

    :raises MigrationError: saying so.
    """
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        what = "it is not a directory of ours alone"
        raise MigrationError(
            "The changes cannot be brought back.",
            [Problem(str(private_directory(source_path)), what, "Move it away, then run again")],
        )


def remove_directory(source_path: str) -> None:
    """Remove the private directory if nothing is in it."""
    with suppress(OSError):
        private_directory(source_path).rmdir()


def find_frozen(source_path: str, sha256: str | None, way_back: Mapping[str, Any]) -> Path | None:
    """Return where the file is that was frozen at the cutover; None if it is nowhere.

    :param way_back: what the ledger says of an interrupted way back, or nothing.
    """
    source = Path(os.path.realpath(source_path))
    for path in (source, Path(way_back.get("old_file", source))):
        if path.is_file() and sha256_of(path) == sha256:
            return path
    return None


def name_for_old(source_path: str) -> Path:
    """Return under which name the frozen file will stay."""
    directory = private_directory(source_path)
    return directory / f"frozen-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.db"


def make_copy(source_path: str) -> Path:
    """Return a fresh private copy of the frozen file, in the private directory."""
    copy = make_directory(source_path) / "exported.db"
    _remove_journals(copy)
    copy_private(Path(os.path.realpath(source_path)), copy)
    return copy


def finish_copy(copy: Path, source_path: str, described: Mapping[str, Any]) -> str:
    """Give the copy the owner and mode of the frozen file before its fence, bring it to the disk; return its hash.

    :param described: what was recorded of the file before it was fenced.
    :raises MigrationError: if the copy is not complete by itself.
    """
    source = Path(os.path.realpath(source_path))
    _require_no_rows_beside(copy)
    found = source.stat()
    descriptor = os.open(copy, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fchown(descriptor, found.st_uid, found.st_gid)
        for name in os.listxattr(source):
            # Access lists and security labels, where the file system has them.
            try:
                os.setxattr(descriptor, name, os.getxattr(source, name))
            except OSError:
                if name in _ACCESS_LISTS:
                    raise
        # Behind the access list, which holds the mode of the fence too.
        os.fchmod(descriptor, int(described.get("mode", f"{stat.S_IMODE(found.st_mode):o}"), 8))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return sha256_of(copy)


def swap(copy: Path, source_path: str, old_file: Path, described: Mapping[str, Any]) -> None:
    """Put the copy in the place of the frozen file, which stays under its new name.

    :param old_file: from :func:`name_for_old`; the ledger knows it already.
    """
    source = Path(os.path.realpath(source_path))
    write_protection.remove_fence(source, dict(described))
    _remove_journals(source)
    os.link(source, old_file)
    os.replace(copy, source)
    sync_directory(source.parent)
    sync_directory(old_file.parent)


def _remove_journals(path: Path) -> None:
    """Remove what SQLite left beside a file that holds every row by itself: it belongs to no other one."""
    for suffix in _JOURNALS:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _rows_beside(path: Path) -> list[Path]:
    """Return the logs and journals beside a file that hold something which the file may lack."""
    journals = [Path(f"{path}{suffix}") for suffix in ("-wal", "-journal")]
    return [journal for journal in journals if journal.exists() and journal.stat().st_size]


def _require_no_rows_beside(path: Path) -> None:
    """Refuse a file that is not complete by itself.

    :raises MigrationError: naming what is beside it.
    """
    problems = [
        Problem(str(journal), "it holds rows that the file lacks", "Run again") for journal in _rows_beside(path)
    ]
    if problems:
        raise MigrationError("The exported file is not complete by itself.", problems)


def undo_swap(source_path: str, frozen_sha256: str | None, way_back: Mapping[str, Any]) -> None:
    """Put the frozen file back into its place, whatever a way back has done with it, and fence it again.

    :param way_back: what the ledger says of the way back: ``old_file`` and ``exported_sha256``.
    :raises MigrationError: if neither the frozen file nor the exported one is in the place.
    """
    source = Path(os.path.realpath(source_path))
    old_file = Path(way_back["old_file"]) if "old_file" in way_back else None
    found = sha256_of(source) if source.is_file() else None
    if found != frozen_sha256:
        if (
            old_file is None
            or found not in (None, way_back.get("exported_sha256"))
            or _rows_beside(source)
            or not old_file.is_file()
            or sha256_of(old_file) != frozen_sha256
        ):
            raise MigrationError(
                "The frozen SQLite file cannot be put back into its place.",
                [
                    Problem(
                        str(source),
                        "it is neither the file that was frozen at the cutover nor the one that was to replace it",
                        f"Find out who wrote to it; the frozen file was kept as {old_file or '(nowhere)'}",
                    )
                ],
            )
        _remove_journals(source)
        os.replace(old_file, source)
        sync_directory(source.parent)
    elif old_file is not None and old_file.is_file():
        old_file.unlink()  # another name of the same file
    write_protection.raise_fence(source)
    for name in ("exported.db", *(f"exported.db{suffix}" for suffix in _JOURNALS)):
        (private_directory(source_path) / name).unlink(missing_ok=True)
    shutil.rmtree(private_directory(source_path) / "exported.db.export", ignore_errors=True)
    remove_directory(source_path)


def forget_old(source_path: str, way_back: Mapping[str, Any]) -> None:
    """Remove the frozen file of an earlier cutover, once a later one has been made."""
    if "old_file" in way_back:
        Path(way_back["old_file"]).unlink(missing_ok=True)
        remove_directory(source_path)


def remove_old(source_path: str) -> None:
    """Remove what earlier way backs have left in the private directory, killed ones too.

    :raises MigrationError: if somebody else's directory is in its place.
    """
    # Held open, since the directory around it is the service's, who could put another one in its place.
    descriptor = os.open(make_directory(source_path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _require_own(os.fstat(descriptor), source_path)
        for name in os.listdir(descriptor):
            process = _OF_A_PROCESS.match(name)
            if process is not None and Path(f"/proc/{process[1]}").exists():
                continue  # a dry run, perhaps
            if stat.S_ISDIR(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                shutil.rmtree(name, ignore_errors=True, dir_fd=descriptor)
            else:
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
