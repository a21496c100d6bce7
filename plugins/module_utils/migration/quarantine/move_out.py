"""How a file leaves the quarantine: back to where it was, or for good."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..core.errors import MigrationError
from ..core.files import sha256_of_open, synchronise
from ..host import safe_paths
from ..host.safe_paths import changed, identify
from . import intruders, tombstone
from . import place as quarantine_place
from .entry import FILE, Move, is_in, protect


def move_back(moves: Sequence[Move], where: str, inode: int | None, complete: bool) -> bool:
    """Bring every entry back to where it was, and return whether anything was moved. A run after a crash goes on.

    :param inode: of the directory ``where``; None if it is not known.
    :param complete: whether everything was in there once: then the file is there still, or was brought back.
    :raises Changed: if something else stands there by now, a directory is another one, or the file is nowhere.
    """
    main = next(entry for entry in moves if entry.kind == FILE)
    if not quarantine_place.is_there(where, inode):
        _require_at_home(main, where)
        return False
    moved = False
    with quarantine_place.existing(where, inode) as quarantine:
        # The file comes last: until then its tombstone keeps old programs away from what is beside it.
        for entry in sorted(moves, key=lambda entry: entry.kind == FILE):
            if is_in(quarantine, entry):
                with safe_paths.open_directory(entry.directory, entry.directory_inode) as directory:
                    _return(directory, quarantine, entry, where)
                moved = True
                continue
            intruders.evict(quarantine, entry, where)
            tombstone.remove(quarantine, entry.place)
            if complete and entry is main:
                _require_at_home(entry, where)
    return moved


def _require_at_home(entry: Move, where: str) -> None:
    """Raise unless a file that is not in quarantine is where it was."""
    try:
        with safe_paths.open_directory(entry.directory, entry.directory_inode) as directory:
            found = identify(directory, entry.name)
    except MigrationError:
        found = None
    if found is None or found.kind != "file" or found.inode != entry.inode:
        what = f"it is not in {where} and not where it was: is every file system mounted?"
        raise changed(entry.path, what)


def _return(directory: int, quarantine: int, entry: Move, where: str) -> None:
    """Bring one entry back, without its write protection; if that fails, it stays in quarantine with it."""
    if entry.kind == FILE:
        with safe_paths.open_file(quarantine, entry.place, entry.path, entry.inode) as file:
            safe_paths.set_immutable(file, False)
    try:
        _exchange_for_tombstone(directory, quarantine, entry)
    except OSError as error:
        protect(quarantine, entry)
        raise changed(entry.path, f"it cannot go back: {error.strerror}") from None
    except BaseException:
        protect(quarantine, entry)
        raise
    # Somebody may have exchanged the tombstone in this moment: what came instead goes back to where it was.
    intruders.evict(quarantine, entry, where)
    tombstone.remove(quarantine, entry.place)
    synchronise(directory)


def _exchange_for_tombstone(directory: int, quarantine: int, entry: Move) -> None:
    """Let an entry and its tombstone change places again, or bring it back where the name is free.

    :raises Changed: if something else stands there.
    :raises OSError: if it cannot be moved.
    """
    there = identify(directory, entry.name)
    if there is None:
        safe_paths.move(quarantine, entry.place, directory, entry.name)
        return
    with tombstone.opened(directory, entry.name) as standing:
        if standing is None:
            raise changed(entry.path, f"a {there.kind} that is no tombstone stands where it was")
        safe_paths.set_immutable(standing, False)
        safe_paths.exchange(quarantine, entry.place, directory, entry.name)


def is_whole(moves: Sequence[Move], where: str, inode: int | None) -> bool:
    """Return whether everything of a file is in quarantine: nothing of it was deleted."""
    if not quarantine_place.is_there(where, inode):
        return False
    with quarantine_place.existing(where, inode) as quarantine:
        return all(is_in(quarantine, entry) for entry in moves)


def delete(moves: Sequence[Move], where: str, inode: int | None) -> bool:
    """Delete what lies in quarantine for good, and return whether anything was there. Tombstones stay.

    :param inode: of the directory ``where``; None if it is not known.
    :raises Changed: if a file is not the one that was moved there, or the quarantine is not there.
    """
    deleted = False
    with quarantine_place.existing(where, inode) as quarantine:
        for entry in moves:
            if identify(quarantine, entry.place) is None:
                continue
            if not is_in(quarantine, entry):
                raise changed(f"{where}/{entry.place}", "it is not what was moved there")
            if entry.kind == FILE:
                with safe_paths.open_file(quarantine, entry.place, entry.path, entry.inode) as file:
                    if sha256_of_open(file) != entry.sha256:
                        raise changed(f"{where}/{entry.place}", "it is no longer what was moved there")
                    safe_paths.set_immutable(file, False)
            os.unlink(entry.place, dir_fd=quarantine)
            deleted = True
        synchronise(quarantine)
    return deleted
