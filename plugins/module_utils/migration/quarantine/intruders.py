"""What an exchange has brought into quarantine although no plan names it, and how it goes out again.

Somebody may exchange a file in the very moment of its move. What comes instead is nobody's to keep: it goes back to
where it was, at once, or in the next run if this one is killed before.
"""

from __future__ import annotations

import os
from contextlib import suppress

from ..host import safe_paths
from ..host.safe_paths import changed, identify
from . import tombstone
from .entry import Move, is_in

_ATTEMPTS = 100


def put_back(directory: int, quarantine: int, entry: Move, where: str) -> None:
    """Bring back what came for an entry; nothing of anybody's is destroyed.

    :raises Changed: if there is no room for it.
    """
    with tombstone.opened(directory, entry.name) as ours:
        if ours is not None:
            inode = os.fstat(ours).st_ino
            safe_paths.set_immutable(ours, False)
            with suppress(OSError):
                safe_paths.exchange(quarantine, entry.place, directory, entry.name)
                back = identify(quarantine, entry.place)
                if back is not None and back.inode == inode:
                    tombstone.remove(quarantine, entry.place)
                    return
    # Somebody has put another entry in its place meanwhile: it comes beside it.
    reason = "its names are taken"
    for number in range(_ATTEMPTS):
        name = entry.name if number == 0 else f"{entry.name}.put-back-{number}"
        try:
            safe_paths.move(quarantine, entry.place, directory, name)
        except FileExistsError:
            continue
        except OSError as error:
            reason = str(error.strerror)
            break
        return
    raise changed(entry.path, f"what was exchanged for it lies in {where}/{entry.place} and cannot go back: {reason}")


def evict(quarantine: int, entry: Move, where: str) -> None:
    """Bring back what a killed run has left at the place of an entry, if it is neither the entry nor our tombstone."""
    if identify(quarantine, entry.place) is None or is_in(quarantine, entry):
        return
    with tombstone.opened(quarantine, entry.place, finished=False) as ours:
        if ours is not None:
            return
    with safe_paths.open_directory(entry.directory, entry.directory_inode) as directory:
        put_back(directory, quarantine, entry, where)
