"""Puts an exported file in the place of the frozen one, in one step, and back again if that has to be undone.

The export works in a directory of root's alone, with private copies. What it has made goes into a private
directory beside the frozen file, so that both are on one file system and a rename moves it. The frozen
file itself stays there under a name of its own until the next cutover. Whatever a killed run has left is
recognised by the files' hashes alone.

The directory around both is the service's, whose user may exchange every name in it at any moment. So
each directory is opened once, through no symlink, and all names are used within its descriptor.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core.errors import MigrationError, Problem
from ..core.estate import Group
from ..core.files import WORK_DIRECTORY, sha256_of_open, synchronise
from ..host import safe_paths, write_protection
from ..host.safe_paths import identify, open_owned, through
from ..sqlite.snapshot import remove_leftovers

_JOURNALS = ("-wal", "-shm", "-journal")
_ACCESS_LISTS = ("system.posix_acl_access", "system.nfs4_acl")
_EXPORTED = "exported.db"
# What rollbacks leave in the private directory, those of earlier versions too: these worked in it.
_OURS = re.compile(r"(?:exported\.db|frozen-|(?:trial|count|hash)-(\d+))")


def private_directory(source_path: str) -> Path:
    """Return the private directory beside a source, which need not exist."""
    source = Path(os.path.realpath(source_path))
    return source.with_name(f"{source.name}.way-back")


def make_directory(source_path: str) -> Path:
    """Make the private directory, mode 0700.

    :raises MigrationError: if somebody else's file is in its place.
    """
    with _opened(source_path, create=True):
        return private_directory(source_path)


def require_own(source_path: str) -> None:
    """Refuse to go on if somebody else's file is in the place of the private directory.

    :raises MigrationError: saying so.
    """
    with suppress(FileNotFoundError), _opened(source_path):
        pass


@contextmanager
def _opened(source_path: str, create: bool = False) -> Iterator[int]:
    """Give the descriptor of the private directory beside a source.

    :raises FileNotFoundError: if there is none.
    :raises MigrationError: if it is not ours alone, or the way to it is being exchanged.
    """
    path = private_directory(source_path)
    with safe_paths.refusing_exchanges(path), safe_paths.open_directory(path.parent) as parent:
        if create:
            with suppress(FileExistsError):
                os.mkdir(path.name, 0o700, dir_fd=parent)
        try:
            descriptor = os.open(path.name, safe_paths.DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            raise
        except OSError:
            raise _not_ours(path) from None
        try:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise _not_ours(path)
            yield descriptor
        finally:
            os.close(descriptor)


def _not_ours(path: Path) -> MigrationError:
    """Return the error for a private directory that is none."""
    what = "it is not a directory of ours alone"
    return MigrationError(
        "The changes cannot be brought back.", [Problem(str(path), what, "Move it away, then run again")]
    )


def remove_directory(source_path: str) -> None:
    """Remove the private directory if nothing is in it."""
    path = private_directory(source_path)
    with suppress(OSError, MigrationError), safe_paths.open_directory(path.parent) as parent:
        os.rmdir(path.name, dir_fd=parent)


@contextmanager
def work_place(where: str | None) -> Iterator[Path]:
    """Give a directory of root's alone for private copies, and remove it at the end with all that is in it.

    :param where: root's directory for work files; :data:`.sqlite.snapshot.WORK_DIRECTORY` if not given.
    :raises MigrationError: if somebody else could exchange it.
    """
    work = Path(where or WORK_DIRECTORY)
    made = not work.exists()
    with safe_paths.private_directory(work, secret=False):
        remove_leftovers(work)
        place = work / f"run-{os.getpid()}-rollback"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(mode=0o700)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if made:
            # A dry run leaves the host as it was.
            with suppress(OSError):
                work.rmdir()


@contextmanager
def _open_frozen(group: Group, sha256: str | None, rollback: Mapping[str, Any]) -> Iterator[tuple[Path, int] | None]:
    """Give path and descriptor of the file that was frozen at the cutover; None if it is nowhere."""
    with ExitStack() as stack:
        found = None
        with suppress(FileNotFoundError):
            # Whoever runs between two steps of a rollback finds its further name in the private directory.
            source = stack.enter_context(open_owned(group.source_path, group.users, links=None))
            found = (source.path, source.descriptor)
        if found is None or sha256_of_open(found[1]) != sha256:
            found = None
            if "old_file" in rollback:
                with suppress(FileNotFoundError):
                    name = Path(rollback["old_file"]).name
                    path = private_directory(group.source_path) / name
                    hidden = stack.enter_context(_opened(group.source_path))
                    if identify(hidden, name) is not None:
                        old = stack.enter_context(safe_paths.open_file(hidden, name, path))
                        found = (path, old) if sha256_of_open(old) == sha256 else None
        yield found


def find_frozen(group: Group, sha256: str | None, rollback: Mapping[str, Any]) -> Path | None:
    """Return where the file is that was frozen at the cutover; None if it is nowhere.

    :param rollback: what the ledger says of an interrupted rollback, or nothing.
    :raises MigrationError: if somebody else's file is in its place.
    """
    with _open_frozen(group, sha256, rollback) as found:
        return None if found is None else found[0]


def copy_frozen(group: Group, sha256: str | None, rollback: Mapping[str, Any], place: Path) -> Path:
    """Return a private copy of the file that was frozen at the cutover, for SQLite, which knows names only.

    :param place: from :func:`work_place`.
    :raises MigrationError: if it is nowhere, or was written to.
    """
    copy = place / "frozen.db"
    copy.unlink(missing_ok=True)
    with _open_frozen(group, sha256, rollback) as found:
        if found is None or safe_paths.copy_to(found[1], copy) != sha256:
            what = "somebody has written to it, or exchanged it, in spite of its write protection"
            raise MigrationError(
                "The changes cannot be brought back.",
                [Problem(group.source_path, what, "Find out who writes to it, and stop that too, then run again")],
            )
    return copy


def name_for_old(source_path: str) -> Path:
    """Return under which name the frozen file will stay."""
    directory = private_directory(source_path)
    return directory / f"frozen-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.db"


def make_copy(frozen: Path) -> Path:
    """Return a fresh copy of a private copy of the frozen file, to be written to, beside it."""
    copy = frozen.with_name(_EXPORTED)
    descriptor = os.open(frozen, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        safe_paths.copy_to(descriptor, copy)
    finally:
        os.close(descriptor)
    return copy


def finish_copy(copy: Path, group: Group, described: Mapping[str, Any]) -> str:
    """Bring the copy beside the frozen file, with its owner and its mode before the write protection; return its hash.

    :param described: what was recorded of the file before it was write-protected.
    :raises MigrationError: if the copy is not complete by itself, or has no room there.
    """
    _require_no_rows_beside(copy)
    with (
        open_owned(group.source_path, group.users) as source,
        _opened(group.source_path, create=True) as hidden,
    ):
        _remove(hidden, _EXPORTED)
        try:
            os.rename(copy, _EXPORTED, dst_dir_fd=hidden)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_into(hidden, copy)
        with safe_paths.open_file(hidden, _EXPORTED, copy) as exported:
            _take_over(exported, source.descriptor, described)
            return sha256_of_open(exported)


def _copy_into(hidden: int, copy: Path) -> None:
    """Copy the exported file into the private directory, which is on another file system.

    :raises MigrationError: if there is no room for it.
    """
    descriptor = os.open(copy, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        safe_paths.copy_to(descriptor, Path(through(hidden)) / _EXPORTED)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        problem = Problem(os.readlink(through(hidden)), "the disk is full", "Free some disk, then run again")
        raise MigrationError("The changes cannot be brought back.", [problem]) from None
    finally:
        os.close(descriptor)


def _take_over(exported: int, frozen: int, described: Mapping[str, Any]) -> None:
    """Give an open file the owner, access list, labels and mode of the frozen one, and bring it to the disk."""
    found = os.fstat(frozen)
    os.fchown(exported, found.st_uid, found.st_gid)
    for name in os.listxattr(frozen):
        # Access lists and security labels, where the file system has them.
        try:
            os.setxattr(exported, name, os.getxattr(frozen, name))
        except OSError:
            if name in _ACCESS_LISTS:
                raise
    # Behind the access list, which holds the mode of the write protection too.
    os.fchmod(exported, int(described.get("mode", f"{stat.S_IMODE(found.st_mode):o}"), 8))
    os.fsync(exported)


def discard_copy(source_path: str) -> None:
    """Remove the exported file, which is the frozen one byte for byte."""
    with _opened(source_path) as hidden:
        _remove(hidden, _EXPORTED)


def swap(group: Group, old_file: Path, described: Mapping[str, Any], inode: int) -> None:
    """Put the exported file in the place of the frozen one, which stays under its new name.

    :param old_file: from :func:`name_for_old`; the ledger knows it already.
    :param inode: of the frozen file.
    :raises MigrationError: if somebody exchanges either of them.
    """
    with (
        open_owned(group.source_path, group.users, inode) as source,
        _opened(group.source_path) as hidden,
        safe_paths.open_file(hidden, _EXPORTED, source.path) as exported,
    ):
        write_protection.unprotect(source.descriptor, dict(described))
        _remove_journals(source.directory, source.name)
        os.link(source.name, old_file.name, src_dir_fd=source.directory, dst_dir_fd=hidden, follow_symlinks=False)
        kept = identify(hidden, old_file.name)
        if kept is None or (kept.kind, kept.inode) != ("file", inode):
            _remove(hidden, old_file.name)
            source.require_same()
        os.replace(_EXPORTED, source.name, src_dir_fd=hidden, dst_dir_fd=source.directory)
        safe_paths.Opened(source.path, source.directory, source.name, exported).require_same()
        synchronise(source.directory)
        synchronise(hidden)


def _remove(directory: int, name: str) -> None:
    """Remove an entry of an open directory, if there is one."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _remove_journals(directory: int, name: str) -> None:
    """Remove what SQLite left beside a file that holds every row by itself: it belongs to no other one."""
    for suffix in _JOURNALS:
        _remove(directory, f"{name}{suffix}")


def _rows_beside(directory: int, name: str) -> bool:
    """Return whether a log or journal beside a file holds something which the file may lack."""
    found = (identify(directory, f"{name}{suffix}") for suffix in ("-wal", "-journal"))
    return any(journal is not None and journal.size for journal in found)


def _require_no_rows_beside(path: Path) -> None:
    """Refuse a file that is not complete by itself.

    :raises MigrationError: naming what is beside it.
    """
    journals = [Path(f"{path}{suffix}") for suffix in ("-wal", "-journal")]
    problems = [
        Problem(str(journal), "it holds rows that the file lacks", "Run again")
        for journal in journals
        if journal.exists() and journal.stat().st_size
    ]
    if problems:
        raise MigrationError("The exported file is not complete by itself.", problems)


def undo_swap(group: Group, frozen_sha256: str | None, rollback: Mapping[str, Any]) -> None:
    """Put the frozen file back into its place, whatever a rollback has done with it, and write-protect it again.

    :param rollback: what the ledger says of the rollback: ``old_file`` and ``exported_sha256``.
    :raises MigrationError: if neither the frozen file nor the exported one is in the place.
    """
    path = Path(os.path.realpath(group.source_path))
    old_name = Path(rollback["old_file"]).name if "old_file" in rollback else None
    with safe_paths.refusing_exchanges(path), ExitStack() as stack:
        directory = stack.enter_context(safe_paths.open_directory(path.parent))
        hidden = None
        with suppress(FileNotFoundError):
            hidden = stack.enter_context(_opened(group.source_path))
        if hidden is not None and old_name is not None:
            _forget_further_name(directory, path.name, hidden, old_name)
        found = None
        with suppress(FileNotFoundError), open_owned(group.source_path, group.users) as source:
            found = sha256_of_open(source.descriptor)
        if found != frozen_sha256:
            if (
                hidden is None
                or old_name is None
                or found not in (None, rollback.get("exported_sha256"))
                or _rows_beside(directory, path.name)
                or not _has_hash(hidden, old_name, frozen_sha256)
            ):
                raise _cannot_be_put_back(path, rollback.get("old_file"))
            _remove_journals(directory, path.name)
            os.replace(old_name, path.name, src_dir_fd=hidden, dst_dir_fd=directory)
            synchronise(directory)
        with open_owned(group.source_path, group.users) as source:
            write_protection.protect(source.descriptor)
        if hidden is not None:
            _remove(hidden, _EXPORTED)
            _remove_journals(hidden, _EXPORTED)
    remove_directory(group.source_path)


def _forget_further_name(directory: int, name: str, hidden: int, old_name: str) -> None:
    """Remove the further name of a frozen file that still stands, or stands again, in its place."""
    here, there = identify(directory, name), identify(hidden, old_name)
    if here is not None and there is not None and (here.device, here.inode) == (there.device, there.inode):
        with safe_paths.open_file(hidden, old_name, old_name, there.inode) as frozen:
            # A name of an immutable file cannot be removed.
            safe_paths.set_immutable(frozen, False)
            _remove(hidden, old_name)


def _has_hash(directory: int, name: str, sha256: str | None) -> bool:
    """Return whether a file of an open directory has this hash."""
    if identify(directory, name) is None:
        return False
    with safe_paths.open_file(directory, name, name) as file:
        return sha256_of_open(file) == sha256


def _cannot_be_put_back(path: Path, old_file: str | None) -> MigrationError:
    """Return the error for a place in which an unknown file stands."""
    what = "it is neither the file that was frozen at the cutover nor the one that was to replace it"
    fix = f"Find out who wrote to it; the frozen file was kept as {old_file or '(nowhere)'}"
    return MigrationError("The frozen SQLite file cannot be put back into its place.", [Problem(str(path), what, fix)])


def forget_old(source_path: str, rollback: Mapping[str, Any]) -> None:
    """Remove the frozen file of an earlier cutover, once a later one has been made."""
    if "old_file" in rollback:
        with suppress(FileNotFoundError), _opened(source_path) as hidden:
            _remove(hidden, Path(rollback["old_file"]).name)
        remove_directory(source_path)


def remove_old(source_path: str) -> None:
    """Remove what earlier rollbacks have left in the private directory, killed ones too, and nothing else.

    :raises MigrationError: if somebody else's directory is in its place.
    """
    with suppress(FileNotFoundError), _opened(source_path) as hidden:
        for name in os.listdir(hidden):
            ours = _OURS.match(name)
            if ours is None or (ours[1] is not None and Path(f"/proc/{ours[1]}").exists()):
                continue  # a dry run, perhaps
            if stat.S_ISDIR(os.stat(name, dir_fd=hidden, follow_symlinks=False).st_mode):
                shutil.rmtree(name, ignore_errors=True, dir_fd=hidden)
            else:
                os.unlink(name, dir_fd=hidden)
