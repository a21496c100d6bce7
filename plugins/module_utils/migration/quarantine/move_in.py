"""The quarantine: files out of everybody's reach but root's, and a tombstone where each was.

A move is one exchange of two names: the tombstone comes where the file was in the moment in which the file
goes, so no old program ever finds the name free and creates an empty database there. What the exchange has
really moved is looked at afterwards; if it is not the planned file, it goes back at once.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from ..core.errors import MigrationError
from ..core.files import sha256_of_open, synchronise
from ..host import safe_paths
from ..host.safe_paths import changed
from . import intruders, tombstone
from . import place as quarantine_place
from .entry import COMPANION, FILE, SYMLINK, Move, is_in, protect, require_moved, require_planned


def move_in(moves: Sequence[Move], where: str, readme: str) -> bool:
    """Bring every entry into quarantine that is not there yet, and return whether anything was moved.

    :param where: the private directory of this file.
    :param readme: what a tombstone says.
    :raises Changed: if an entry is not the planned one; then it is where it was.
    :raises MigrationError: if a process has the file open, or the file system cannot do it.
    """
    moved = False
    with quarantine_place.opened(where) as quarantine:
        for entry in moves:
            intruders.evict(quarantine, entry, where)
            with safe_paths.open_directory(entry.directory, entry.directory_inode) as directory:
                if is_in(quarantine, entry):
                    # Moved by a run that was killed, perhaps before it had looked at what it moved.
                    require_moved(quarantine, entry, where)
                    _settle(directory, quarantine, entry)
                    continue
                quarantine_place.require_reach(directory, quarantine, entry.path, where)
                if entry.kind == COMPANION:
                    _move_companion(directory, quarantine, entry, where)
                else:
                    _exchange_for_tombstone(directory, quarantine, entry, where, readme)
            moved = True
    return moved


def _exchange_for_tombstone(directory: int, quarantine: int, entry: Move, where: str, readme: str) -> None:
    """Let an entry and a tombstone change places, and put it back if it turns out to be another one."""
    require_planned(directory, entry)
    tombstone.make(quarantine, entry.place, readme)
    if entry.kind == SYMLINK:
        _exchange(directory, quarantine, entry, where)
    else:
        # An immutable file cannot be renamed. Through its descriptor no other file can lose its write protection.
        with safe_paths.open_file(directory, entry.name, entry.path, entry.inode) as file:
            protected = safe_paths.is_immutable(file)
            safe_paths.set_immutable(file, False)
            try:
                _exchange(directory, quarantine, entry, where)
            except BaseException:
                safe_paths.set_immutable(file, protected)
                raise
    _settle(directory, quarantine, entry)


def _exchange(directory: int, quarantine: int, entry: Move, where: str) -> None:
    """Exchange an entry and its tombstone, look at what has come, and put that back if it is not the entry.

    :raises MigrationError: if the file system cannot do so, or something else has come.
    """
    try:
        safe_paths.exchange(quarantine, entry.place, directory, entry.name)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EPERM):
            raise changed(entry.path, f"it cannot be moved: {error.strerror}") from None
        raise quarantine_place.impossible(
            entry.path, f"its file system cannot exchange two names: {error.strerror}"
        ) from None
    try:
        require_moved(quarantine, entry, where)
    except BaseException:
        intruders.put_back(directory, quarantine, entry, where)
        raise


def _move_companion(directory: int, quarantine: int, entry: Move, where: str) -> None:
    """Move what SQLite keeps beside a file; the file's tombstone stands already."""
    require_planned(directory, entry)
    try:
        safe_paths.move(directory, entry.name, quarantine, entry.place)
    except OSError as error:
        raise changed(entry.path, f"it cannot be moved: {error.strerror}") from None
    try:
        require_moved(quarantine, entry, where)
    except BaseException:
        intruders.put_back(directory, quarantine, entry, where)
        raise
    _settle(directory, quarantine, entry)


def _settle(directory: int, quarantine: int, entry: Move) -> None:
    """Set the write protection of an entry that has come into quarantine and of its tombstone; bring both to the disk.

    :raises Changed: if its tombstone is gone.
    """
    protect(quarantine, entry)
    if entry.kind != COMPANION:
        tombstone.guard(directory, entry.name, entry.path)
    synchronise(quarantine)
    synchronise(directory)


def inspect(moves: Sequence[Move], where: str) -> list[str]:
    """Return what is wrong with a file in quarantine and with its tombstones, one sentence each; changes nothing."""
    wrong = []
    try:
        with quarantine_place.existing(where) as quarantine:
            for entry in moves:
                wrong += _inspect(quarantine, entry, where)
    except MigrationError as error:
        wrong += [str(problem) for problem in error.problems]
    except OSError as error:
        wrong.append(f"{where} cannot be looked at: {error.strerror}")
    return wrong


def _inspect(quarantine: int, entry: Move, where: str) -> list[str]:
    """Return what is wrong with one entry in quarantine."""
    wrong = []
    if not is_in(quarantine, entry):
        return [f"{where}/{entry.place} is not there, or another file"]
    if entry.kind != SYMLINK:
        try:
            with safe_paths.open_file(quarantine, entry.place, f"{where}/{entry.place}", entry.inode) as file:
                if sha256_of_open(file) != entry.sha256:
                    wrong.append(f"{where}/{entry.place} is no longer what was moved there")
        except MigrationError as error:
            wrong += [str(problem) for problem in error.problems]
    if entry.kind != COMPANION:
        try:
            with safe_paths.open_directory(entry.directory, entry.directory_inode) as directory:
                if not tombstone.stands(directory, entry.name):
                    wrong.append(f"the tombstone at {entry.path} is gone")
        except MigrationError:
            wrong.append(f"the directory {entry.directory} is another one, and the tombstone in it is gone")
    return wrong


__all__ = ["COMPANION", "FILE", "SYMLINK", "Move", "inspect", "move_in"]
