"""One entry of a directory that goes into quarantine: what the plan knows of it, and whether it still is the one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..core.errors import MigrationError, Problem
from ..core.files import sha256_of_open
from ..host import open_files, safe_paths
from ..host.safe_paths import changed, identify

FILE, COMPANION, SYMLINK = "file", "companion", "symlink"


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


def is_in(quarantine: int, entry: Move) -> bool:
    """Return whether an entry is in quarantine already."""
    found = identify(quarantine, entry.place)
    return found is not None and found.kind == kind_of(entry) and found.inode == entry.inode


def kind_of(entry: Move) -> str:
    """Return what an entry is, in the words of :class:`.host.safe_paths.Identity`."""
    return "symlink" if entry.kind == SYMLINK else "file"


def require_planned(directory: int, entry: Move) -> None:
    """Raise unless an entry of an open directory is the planned one, with its content."""
    found = identify(directory, entry.name)
    if found is None:
        raise changed(entry.path, "it is gone")
    if entry.kind == SYMLINK:
        if found.kind != "symlink" or found.target != entry.target:
            what = f"it leads to {found.target}" if found.kind == "symlink" else "it is no symlink any more"
            raise changed(entry.path, f"{what}, not to {entry.target}")
        if found.inode != entry.inode:
            raise changed(entry.path, "it is another symlink")
        return
    if found.kind != "file":
        raise changed(entry.path, f"another {found.kind} stands at this path")
    with safe_paths.open_file(directory, entry.name, entry.path, entry.inode) as file:
        links = os.fstat(file).st_nlink
        if links != 1:
            raise changed(entry.path, f"it has {links} names (hard links), of which the plan knows one")
        if safe_paths.mount_of(file) != safe_paths.mount_of(directory):
            raise changed(entry.path, "something is mounted there")
        if sha256_of_open(file) != entry.sha256:
            raise changed(entry.path, "its content is no longer what the plan names")


def require_moved(quarantine: int, entry: Move, where: str) -> None:
    """Raise unless what lies in the quarantine now is the planned entry, unchanged, and open nowhere."""
    found = identify(quarantine, entry.place)
    if found is None or found.kind != kind_of(entry) or found.target != entry.target or found.inode != entry.inode:
        raise changed(entry.path, "it was exchanged in the moment of its move")
    if entry.kind == SYMLINK:
        return
    if found.links != 1:
        raise changed(entry.path, "it was given a further name (hard link) in the moment of its move")
    holders = open_files.find_holders(f"{where}/{entry.place}")
    if holders:
        names = ", ".join(f"process {holder.pid} ({holder.command})" for holder in holders)
        raise MigrationError(
            f"{entry.path} is in use.", [Problem(entry.path, f"it is open in {names}", "Stop it, then run again")]
        )
    with safe_paths.open_file(quarantine, entry.place, entry.path, entry.inode) as file:
        if sha256_of_open(file) != entry.sha256:
            raise changed(entry.path, "it was written to in the moment of its move")


def protect(quarantine: int, entry: Move) -> None:
    """Set the write protection of a file in quarantine again."""
    if entry.kind == FILE:
        with safe_paths.open_file(quarantine, entry.place, entry.path, entry.inode) as file:
            safe_paths.set_immutable(file, True)
