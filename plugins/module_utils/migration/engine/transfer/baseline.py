"""The snapshot of the last run, kept so that the next one need move only what differs.

It lies beside the work directory's other private files, mode 0600, until the group is cut over.
The ledger names it by a token, so a file that a killed run left behind is never taken for it.
"""

from __future__ import annotations

import hashlib
import os
import pkgutil
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from ...sqlite.snapshot import Snapshot
from ..plan.planner import TablePlan

# The code of these packages decides how a value is read, moved or compared: a baseline is only good as long as none
# of it has changed. Every module that runs the engine ships all of them: ``tests/engine/transfer/test_baseline.py``.
_DECIDING = ("sqlite", "engine.plan", "engine.convert", "engine.prepare", "engine.proof")


def keep(snapshot: Snapshot, group_name: str) -> str:
    """Keep a snapshot beyond its run and return its token. :func:`forget_others` makes it the only one.

    :raises OSError: if the file cannot be linked.
    """
    token = secrets.token_hex(8)
    os.link(snapshot.path, _path(snapshot.directory.parent, group_name, token))
    return token


def find(work_directory: Path, group_name: str, token: str | None) -> Path | None:
    """Return the kept snapshot that the ledger names, if it is still there."""
    if token is None:
        return None
    path = _path(work_directory, group_name, token)
    return path if path.is_file() else None


def forget_others(work_directory: Path, group_name: str, token: str | None) -> None:
    """Remove the kept snapshots of a group but the one that the ledger names now."""
    name = None if token is None else _path(work_directory, group_name, token).name
    for path in work_directory.glob(f"{_prefix(group_name)}*.db"):
        if path.name != name:
            path.unlink(missing_ok=True)


def digest(plans: Sequence[TablePlan]) -> str:
    """Return a hash of all that decides how a group's values are moved, apart from the values themselves."""
    found = hashlib.sha256()
    for name, content in deciding_files():
        found.update(f"{name}\0{len(content)}\0".encode() + content)
    for plan in plans:
        found.update(repr(replace(plan, filtered_rows=0)).encode())
    return found.hexdigest()


def deciding_files() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file that decides how a value is moved, in a fixed order."""
    root = (__package__ or "").rsplit(".", 2)[0]
    for name in _DECIDING:
        package = import_module(f"{root}.{name}")
        for module in sorted(found.name for found in pkgutil.iter_modules(package.__path__)):
            yield f"{name}.{module}", pkgutil.get_data(package.__name__, f"{module}.py") or b""


def _prefix(group_name: str) -> str:
    """Return how the names of a group's files begin; a group may have any name."""
    return f"kept-{hashlib.sha256(group_name.encode()).hexdigest()[:16]}-"


def _path(work_directory: Path, group_name: str, token: str) -> Path:
    return work_directory / f"{_prefix(group_name)}{token}.db"
