"""The quarantine: files out of everybody's reach but root's, a tombstone where each was, and the way back.

A move is one exchange of two names: the tombstone comes where the file was in the moment in which the file
goes, so no old program ever finds the name free and creates an empty database there. What the exchange has
really moved is looked at afterwards; if it is not the planned file, it goes back at once.

A tombstone is a directory: SQLite cannot open one, not even as root, and better-sqlite3 fails as soon as it
opens it. It belongs to root, holds a README, and is immutable where the file system can do that.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import open_files, safe_paths
from .errors import MigrationError, Problem
from .safe_paths import changed, identify

FILE, COMPANION, SYMLINK = "file", "companion", "symlink"
README = "README"
_DIRECTORY_NAME = ".sqlite-migration-quarantine"
_ATTEMPTS = 100


@dataclass(frozen=True)
class Move:
    """One entry of a directory that goes into quarantine.

    :param kind: :data:`FILE`, :data:`COMPANION` (what SQLite keeps beside it) or :data:`SYMLINK`.
    :param directory: the directory it is in, symlinks resolved, and that directory's inode.
    :param sha256: of a file's content; ``target`` is what a symlink says.
    :param place: its name in the quarantine.
    """

    kind: str
    directory: str
    directory_inode: int
    name: str
    inode: int
    place: str
    size: int = 0
    sha256: str = ""
    target: str = ""

    @property
    def path(self) -> str:
        """Return the path of the entry."""
        return f"{self.directory.rstrip('/')}/{self.name}"

    def as_dict(self) -> dict[str, Any]:
        """Return the move as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Move:
        """Return the move that plain data of :meth:`as_dict` describe."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


def choose_directory(directory: str, preferred: str) -> str:
    """Return a directory for a quarantine on the same file system as a directory, root's alone.

    :param preferred: taken if it is on that file system; else one at the top of the file system.
    """
    if _device_of(preferred) == os.stat(directory).st_dev:
        return preferred
    top = Path(directory)
    while not os.path.ismount(top):
        top = top.parent
    return str(top / _DIRECTORY_NAME)


def _device_of(path: str) -> int:
    """Return the device of a directory, or of the nearest one above it that is there."""
    candidate = Path(path)
    while not candidate.exists():
        candidate = candidate.parent
    return candidate.stat().st_dev


@contextmanager
def _opened(where: str) -> Iterator[int]:
    """Give a descriptor of the quarantine of one file, made if it is missing."""
    with safe_paths.private_directory(Path(where).parent), safe_paths.private_directory(where) as descriptor:
        yield descriptor


def move_in(moves: Sequence[Move], where: str, readme: str) -> bool:
    """Bring every entry into quarantine that is not there yet, and return whether anything was moved.

    :param where: the private directory of this file.
    :param readme: what a tombstone says.
    :raises Changed: if an entry is not the planned one; then it is where it was.
    :raises MigrationError: if a process has the file open, or the file system cannot do it.
    """
    moved = False
    with _opened(where) as quarantine:
        for entry in moves:
            if _is_in(quarantine, entry):
                _fence(quarantine, entry)
                with safe_paths.open_directory(entry.directory, entry.directory_inode) as directory:
                    _guard_tombstone(directory, entry)
                continue
            with safe_paths.open_directory(entry.directory, entry.directory_inode) as directory:
                if os.fstat(directory).st_dev != os.fstat(quarantine).st_dev:
                    raise _impossible(entry.path, f"{where} is not on its file system")
                if entry.kind == COMPANION:
                    _move_companion(directory, quarantine, entry)
                else:
                    _exchange_for_tombstone(directory, quarantine, entry, where, readme)
            moved = True
    return moved


def _is_in(quarantine: int, entry: Move) -> bool:
    """Return whether an entry is in quarantine already."""
    found = identify(quarantine, entry.place)
    return found is not None and found.kind != "directory" and found.inode == entry.inode


def _require_planned(directory: int, entry: Move) -> None:
    """Raise unless an entry of an open directory is the planned one, with its content."""
    found = identify(directory, entry.name)
    if found is None:
        raise changed(entry.path, "it is gone")
    if entry.kind == SYMLINK:
        if found.kind != "symlink" or found.target != entry.target:
            what = f"it leads to {found.target}" if found.kind == "symlink" else "it is no symlink any more"
            raise changed(entry.path, f"{what}, not to {entry.target}")
        return
    if found.kind != "file" or found.inode != entry.inode:
        raise changed(entry.path, f"another {found.kind} stands at this path")
    if found.device != os.fstat(directory).st_dev:
        raise changed(entry.path, "something is mounted there")
    if found.links != 1:
        raise changed(entry.path, f"it has {found.links} names (hard links), of which the plan knows one")
    with safe_paths.open_file(directory, entry.name, entry.path, entry.inode) as file:
        if safe_paths.sha256_of(file) != entry.sha256:
            raise changed(entry.path, "its content is no longer what the plan names")


def _exchange_for_tombstone(directory: int, quarantine: int, entry: Move, where: str, readme: str) -> None:
    """Let an entry and a tombstone change places, and put it back if it turns out to be another one."""
    _require_planned(directory, entry)
    _make_tombstone(quarantine, entry.place, readme)
    tombstone = identify(quarantine, entry.place)
    if entry.kind == FILE:
        # An immutable file cannot be renamed. Through its descriptor no other file can lose its fence.
        with safe_paths.open_file(directory, entry.name, entry.path, entry.inode) as file:
            fenced = safe_paths.is_immutable(file)
            safe_paths.set_immutable(file, False)
            try:
                _exchange(directory, quarantine, entry)
            except BaseException:
                safe_paths.set_immutable(file, fenced)
                raise
    else:
        _exchange(directory, quarantine, entry)
    try:
        _require_moved(quarantine, entry, where)
    except BaseException:
        _put_back(directory, quarantine, entry, None if tombstone is None else tombstone.inode)
        raise
    _fence(quarantine, entry)
    _guard_tombstone(directory, entry)
    safe_paths.synchronise(quarantine)
    safe_paths.synchronise(directory)


def _exchange(directory: int, quarantine: int, entry: Move) -> None:
    """Exchange an entry and its tombstone.

    :raises MigrationError: if the file system cannot do so.
    """
    try:
        safe_paths.exchange(quarantine, entry.place, directory, entry.name)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EPERM):
            raise changed(entry.path, f"it cannot be moved: {error.strerror}") from None
        raise _impossible(entry.path, f"its file system cannot exchange two names: {error.strerror}") from None


def _require_moved(quarantine: int, entry: Move, where: str) -> None:
    """Raise unless what lies in the quarantine now is the planned entry, unchanged, and open nowhere."""
    found = identify(quarantine, entry.place)
    wanted = "symlink" if entry.kind == SYMLINK else "file"
    if found is None or found.kind != wanted or found.target != entry.target:
        raise changed(entry.path, "it was exchanged in the moment of its move")
    if entry.kind == SYMLINK:
        return
    if found.inode != entry.inode or found.links != 1:
        raise changed(entry.path, "it was exchanged in the moment of its move")
    holders = open_files.find_holders(f"{where}/{entry.place}")
    if holders:
        names = ", ".join(f"process {holder.pid} ({holder.command})" for holder in holders)
        raise MigrationError(
            f"{entry.path} is in use.", [Problem(entry.path, f"it is open in {names}", "Stop it, then run again")]
        )
    with safe_paths.open_file(quarantine, entry.place, entry.path, entry.inode) as file:
        if safe_paths.sha256_of(file) != entry.sha256:
            raise changed(entry.path, "it was written to in the moment of its move")


def _put_back(directory: int, quarantine: int, entry: Move, tombstone: int | None) -> None:
    """Bring back what was moved although it was not the planned entry; nothing of anybody's is destroyed."""
    there = identify(directory, entry.name)
    if there is not None and there.kind == "directory" and there.inode == tombstone:
        with suppress(OSError):
            safe_paths.exchange(quarantine, entry.place, directory, entry.name)
            back = identify(quarantine, entry.place)
            if back is not None and back.inode == tombstone:
                _remove_tombstone(quarantine, entry.place)
                return
    # Somebody has put another entry in its place meanwhile: it comes beside it.
    for number in range(_ATTEMPTS):
        with suppress(FileExistsError):
            name = entry.name if number == 0 else f"{entry.name}.put-back-{number}"
            safe_paths.move(quarantine, entry.place, directory, name)
            return


def _move_companion(directory: int, quarantine: int, entry: Move) -> None:
    """Move what SQLite keeps beside a file; the file's tombstone stands already."""
    _require_planned(directory, entry)
    try:
        safe_paths.move(directory, entry.name, quarantine, entry.place)
    except OSError as error:
        raise changed(entry.path, f"it cannot be moved: {error.strerror}") from None
    found = identify(quarantine, entry.place)
    if found is None or found.kind != "file" or found.inode != entry.inode:
        for number in range(_ATTEMPTS):
            with suppress(FileExistsError):
                name = entry.name if number == 0 else f"{entry.name}.put-back-{number}"
                safe_paths.move(quarantine, entry.place, directory, name)
                break
        raise changed(entry.path, "it was exchanged in the moment of its move")


# ---------------------------------------------------------------- tombstones


def _make_tombstone(quarantine: int, place: str, readme: str) -> None:
    """Make a tombstone in the quarantine, in place of one that a killed run has left there."""
    _remove_tombstone(quarantine, place)
    os.mkdir(place, 0o755, dir_fd=quarantine)
    tombstone = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=quarantine)
    try:
        # Whatever the umask is.
        os.fchmod(tombstone, 0o755)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(README, flags, 0o644, dir_fd=tombstone), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(readme)
        safe_paths.synchronise(tombstone)
    finally:
        os.close(tombstone)


def _remove_tombstone(quarantine: int, place: str) -> None:
    """Remove a tombstone from the quarantine, if there is one."""
    found = identify(quarantine, place)
    if found is None or found.kind != "directory":
        return
    tombstone = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=quarantine)
    try:
        safe_paths.set_immutable(tombstone, False)
        with suppress(FileNotFoundError):
            os.unlink(README, dir_fd=tombstone)
    finally:
        os.close(tombstone)
    os.rmdir(place, dir_fd=quarantine)


def is_tombstone(directory: int, name: str) -> bool:
    """Return whether an entry of an open directory is a tombstone: a directory of ours with a README in it."""
    found = identify(directory, name)
    if found is None or found.kind != "directory" or found.owner != os.geteuid():
        return False
    try:
        tombstone = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except OSError:
        return False
    try:
        status = os.fstat(tombstone)
        return status.st_uid == os.geteuid() and os.listdir(tombstone) == [README]
    finally:
        os.close(tombstone)


def _guard_tombstone(directory: int, entry: Move) -> None:
    """Make a tombstone immutable, so that the directory's owner cannot rename it away.

    :raises Changed: if there is none.
    """
    if entry.kind == COMPANION:
        return
    if not is_tombstone(directory, entry.name):
        raise changed(entry.path, "its tombstone is gone: an old program could create an empty database there")
    with suppress(OSError):
        tombstone = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            safe_paths.set_immutable(tombstone, True)
        finally:
            os.close(tombstone)


def _fence(quarantine: int, entry: Move) -> None:
    """Put up the fence of a file in quarantine again."""
    if entry.kind == FILE:
        with safe_paths.open_file(quarantine, entry.place, entry.path, entry.inode) as file:
            safe_paths.set_immutable(file, True)


# ---------------------------------------------------------------- what comes after


def inspect(moves: Sequence[Move], where: str) -> list[str]:
    """Return what is wrong with a file in quarantine and with its tombstones, one sentence each; changes nothing."""
    wrong = []
    try:
        with safe_paths.private_directory(where, create=False) as quarantine:
            for entry in moves:
                wrong += _inspect(quarantine, entry, where)
    except MigrationError as error:
        wrong += [str(problem) for problem in error.problems]
    return wrong


def _inspect(quarantine: int, entry: Move, where: str) -> list[str]:
    """Return what is wrong with one entry in quarantine."""
    wrong = []
    if not _is_in(quarantine, entry):
        return [f"{where}/{entry.place} is not there, or another file"]
    if entry.kind != SYMLINK:
        try:
            with safe_paths.open_file(quarantine, entry.place, f"{where}/{entry.place}", entry.inode) as file:
                if safe_paths.sha256_of(file) != entry.sha256:
                    wrong.append(f"{where}/{entry.place} is no longer what was moved there")
        except MigrationError as error:
            wrong += [str(problem) for problem in error.problems]
    if entry.kind != COMPANION:
        try:
            with safe_paths.open_directory(entry.directory, entry.directory_inode) as directory:
                if not is_tombstone(directory, entry.name):
                    wrong.append(f"the tombstone at {entry.path} is gone")
        except MigrationError:
            wrong.append(f"the directory {entry.directory} is another one, and the tombstone in it is gone")
    return wrong


def move_back(moves: Sequence[Move], where: str) -> bool:
    """Bring every entry back to where it was, and return whether anything was moved. A run after a crash goes on.

    :raises Changed: if something else stands there by now, or the directory is another one.
    """
    moved = False
    with _opened(where) as quarantine:
        # The file comes last: until then its tombstone keeps old programs away from what is beside it.
        for entry in sorted(moves, key=lambda entry: entry.kind == FILE):
            if not _is_in(quarantine, entry):
                _remove_tombstone(quarantine, entry.place)
                continue
            with safe_paths.open_directory(entry.directory, entry.directory_inode) as directory:
                _return(directory, quarantine, entry)
            moved = True
    _remove_directory(where)
    return moved


def _return(directory: int, quarantine: int, entry: Move) -> None:
    """Bring one entry back."""
    if entry.kind == FILE:
        with safe_paths.open_file(quarantine, entry.place, entry.path, entry.inode) as file:
            safe_paths.set_immutable(file, False)
    there = identify(directory, entry.name)
    if there is not None and not is_tombstone(directory, entry.name):
        _fence(quarantine, entry)
        raise changed(entry.path, f"a {there.kind} that is no tombstone stands where it was")
    if there is None:
        safe_paths.move(quarantine, entry.place, directory, entry.name)
    else:
        tombstone = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            safe_paths.set_immutable(tombstone, False)
        finally:
            os.close(tombstone)
        safe_paths.exchange(quarantine, entry.place, directory, entry.name)
        back = identify(quarantine, entry.place)
        if back is None or back.inode != there.inode:
            # Somebody exchanged the tombstone in this moment: what came instead goes back to where it was.
            safe_paths.exchange(quarantine, entry.place, directory, entry.name)
            _fence(quarantine, entry)
            raise changed(entry.path, "its tombstone was exchanged in the moment of the move")
        _remove_tombstone(quarantine, entry.place)
    safe_paths.synchronise(directory)


def delete(moves: Sequence[Move], where: str) -> bool:
    """Delete what lies in quarantine for good, and return whether anything was there. Tombstones stay.

    :raises Changed: if a file is not the one that was moved there.
    """
    deleted = False
    with _opened(where) as quarantine:
        for entry in moves:
            found = identify(quarantine, entry.place)
            if found is None:
                continue
            if not _is_in(quarantine, entry):
                raise changed(f"{where}/{entry.place}", "it is not what was moved there")
            if entry.kind == FILE:
                with safe_paths.open_file(quarantine, entry.place, entry.path, entry.inode) as file:
                    if safe_paths.sha256_of(file) != entry.sha256:
                        raise changed(f"{where}/{entry.place}", "it is no longer what was moved there")
                    safe_paths.set_immutable(file, False)
            os.unlink(entry.place, dir_fd=quarantine)
            deleted = True
        safe_paths.synchronise(quarantine)
    _remove_directory(where)
    return deleted


def _remove_directory(where: str) -> None:
    """Remove the empty directory of one file, and the quarantine itself if it was the last."""
    path = Path(where)
    for directory in (path, path.parent):
        with suppress(OSError, MigrationError), safe_paths.private_directory(directory.parent, create=False) as parent:
            os.rmdir(directory.name, dir_fd=parent)


def _impossible(path: str, what: str) -> MigrationError:
    """Return the error for a file system on which a quarantine cannot be."""
    fix = "Set sqlite_cleanup_quarantine_directory to a directory of root's on the same file system"
    return MigrationError(f"{path} cannot be moved into quarantine.", [Problem(path, what, fix)])
