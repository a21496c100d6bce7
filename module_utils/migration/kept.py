"""The snapshot of the last run, kept so that the next one need move only what differs.

It lies beside the work directory's other private files, mode 0600, until the group is cut over.
The ledger names it by a token, so a file that a killed run left behind is never taken for it.
"""

from __future__ import annotations

import hashlib
import os
import pkgutil
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .plan import TablePlan
from .snapshot import Snapshot

# Whatever decides how a value is moved or compared: kept rows are only good as long as it is the same.
_DECIDING = (
    "canonical", "convert", "duplicates", "plain_rows", "plan", "policies", "prepare", "selection", "server_forms",
    "source", "verify",
)  # fmt: skip


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
    for name in _DECIDING:
        found.update(pkgutil.get_data(__package__ or "", f"{name}.py") or b"")
    for plan in plans:
        found.update(repr(replace(plan, filtered_rows=0)).encode())
    return found.hexdigest()


def _prefix(group_name: str) -> str:
    """Return how the names of a group's files begin; a group may have any name."""
    return f"kept-{hashlib.sha256(group_name.encode()).hexdigest()[:16]}-"


def _path(work_directory: Path, group_name: str, token: str) -> Path:
    return work_directory / f"{_prefix(group_name)}{token}.db"
