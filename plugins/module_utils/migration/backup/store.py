"""The backups on disk: one directory each, with a manifest; and their rows in the ledger.

A backup becomes visible by one rename, when it is complete and on the disk. Nothing is ever removed that its own
manifest does not name. The disk is the truth: :func:`reconcile` makes the ledger say the same.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.connection import Json
from ..core.errors import MigrationError, Problem
from ..core.files import sha256_of_open, sync_directory

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

DUMP = "database.dump"
ROLES = "roles.sql"
MANIFEST = "manifest.json"
_NEW = ".new"
PARTIAL_PREFIX = ".partial-"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*-\d{8}T\d{6}Z")

Manifest = dict[str, Any]


def new_name(database: str, taken_at: datetime) -> str:
    """Return the name of a backup: the database's, as far as it suits a file, and the time in UTC."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', database).lstrip('.-') or 'database'}-{taken_at:%Y%m%dT%H%M%SZ}"


@contextmanager
def locked(directory: Path, wait_seconds: float) -> Iterator[None]:
    """Let one run at a time work on this directory. The lock ends with the process, however that ends.

    :raises MigrationError: if another run holds it for longer than ``wait_seconds``.
    """
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(descriptor, 100, 0).decode("utf-8", "replace").strip() or "another process"
                    raise MigrationError(
                        "Another run of the backup program is at work.",
                        [
                            Problem(
                                str(directory), f"{holder} holds its lock", "Wait until it has ended, then run again"
                            )
                        ],
                    ) from None
                time.sleep(0.2)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def read_all(directory: Path) -> list[Manifest]:
    """Return the manifests of all backups, the first taken first. What is no backup of ours is passed over.

    Numbers tell the order, not times: a backup taken while a clock was wrong would otherwise be the newest for long.
    """
    manifests = []
    for entry in directory.iterdir() if directory.is_dir() else ():
        if _NAME.fullmatch(entry.name) and not entry.is_symlink():
            with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
                manifests.append(_read(entry))
    return sorted(manifests, key=lambda manifest: (manifest.get("number", 0), taken_at(manifest), manifest["name"]))


def next_number(directory: Path) -> int:
    """Return the number of a backup to be taken. The caller holds the lock of the directory."""
    return max((int(manifest.get("number", 0)) for manifest in read_all(directory)), default=0) + 1


def read_one(directory: Path, name: str) -> Manifest:
    """Return the manifest of a named backup.

    :raises MigrationError: if there is none, listing those that there are.
    """
    manifests = {manifest["name"]: manifest for manifest in read_all(directory)}
    if name not in manifests:
        known = ", ".join(manifests) or "there is none"
        raise MigrationError(
            "There is no such backup.",
            [Problem(str(directory / name), "is no complete backup", f"Backups here: {known}")],
        )
    return manifests[name]


def _read(path: Path) -> Manifest:
    """Return the manifest in a backup's directory, if it belongs there."""
    manifest: Manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    # Also whatever the commands rely on, so that they need not ask.
    used = (manifest["files"][DUMP]["sha256"], bytes_on_disk(manifest), rows(manifest), manifest["seconds"])
    int(manifest.get("number", 0))
    times = [taken_at(manifest), *([_verified_at(manifest)] if manifest["verified"] else [])]
    if manifest["name"] != path.name or None in used or any(time.tzinfo is None for time in times):
        raise ValueError("not the manifest of this directory")
    return manifest


def taken_at(manifest: Manifest) -> datetime:
    """Return when a backup's snapshot was taken, by the server's clock."""
    return datetime.fromisoformat(manifest["taken_at"])


def _verified_at(manifest: Manifest) -> datetime:
    """Return when a verified backup was proven, by the server's clock."""
    return datetime.fromisoformat(manifest["verified"]["at"])


def rows(manifest: Manifest) -> int:
    """Return the rows of all tables in a backup."""
    return sum(table["rows"] for table in manifest["tables"].values())


def bytes_on_disk(manifest: Manifest) -> int:
    """Return the size of a backup's files in bytes."""
    return sum(file["bytes"] for file in manifest["files"].values())


def newest_verified(manifests: Sequence[Manifest]) -> Manifest | None:
    """Return the newest backup that was proven to restore, of manifests in their order."""
    return next((manifest for manifest in reversed(manifests) if manifest["verified"]), None)


def incomplete_files(directory: Path, manifest: Manifest) -> list[tuple[str, str]]:
    """Return which files of a backup are missing or of another size than its manifest says; reads none of them."""
    problems = []
    for file, expected in manifest["files"].items():
        path = directory / manifest["name"] / file
        if not path.is_file() or path.stat().st_size != expected["bytes"]:
            problems.append((str(path), f"is missing, or its size is not {expected['bytes']} bytes"))
    return problems


def is_proven(directory: Path, manifest: Manifest) -> bool:
    """Return whether a backup was proven to restore and is still all there."""
    return bool(manifest["verified"]) and not incomplete_files(directory, manifest)


def describe_file(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file, after it is safely on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": sha256_of_open(file.fileno())}


def file_problems(directory: Path, manifest: Manifest) -> list[tuple[str, str]]:
    """Return which files of a backup are not those of its manifest, by their hashes: path and what is wrong."""
    problems = []
    for name, expected in manifest["files"].items():
        path = directory / manifest["name"] / name
        try:
            found = describe_file(path)
        except OSError as error:
            problems.append((str(path), error.strerror or str(error)))
            continue
        if found["bytes"] != expected["bytes"]:
            problems.append((str(path), f"{found['bytes']} bytes, not {expected['bytes']}"))
        elif found != expected:
            problems.append((str(path), "its hash differs from the manifest's"))
    return problems


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write a manifest into a backup's directory, whole or not at all, readable for its owner alone."""
    write_json(directory / MANIFEST, manifest)


def write_json(path: Path, content: Any) -> None:
    """Write a file, whole or not at all, readable for its owner alone, and safely on the disk."""
    new = path.with_name(path.name + _NEW)
    with suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        new.unlink()
        raise
    new.replace(path)
    sync_directory(path.parent)


def remove(directory: Path, names: Sequence[str]) -> None:
    """Remove the named files from a backup's directory, then the directory unless it holds something else."""
    # The manifest goes last: what is left after a crash is still known, and removed by the next run.
    for name in [*(name for name in names if name != MANIFEST), MANIFEST + _NEW, MANIFEST]:
        if Path(name).name == name:
            with suppress(FileNotFoundError):
                (directory / name).unlink()
    with suppress(OSError):
        directory.rmdir()


def remove_partial(directory: Path) -> None:
    """Remove what a killed run left behind: only our files, in directories of our own naming."""
    for entry in directory.iterdir():
        name = entry.name.removeprefix(PARTIAL_PREFIX)
        if name != entry.name and _NAME.fullmatch(name) and entry.is_dir() and not entry.is_symlink():
            remove(entry, (DUMP, ROLES))


def to_prune(
    manifests: Sequence[Manifest], proven: Sequence[str], now: datetime, keep_days: float, keep_count: int
) -> list[Manifest]:
    """Return the backups that may go, of manifests in their order.

    Kept is what is younger than ``keep_days``, the newest ``keep_count`` proven ones however old they are, and the
    newest of all, which waits for its drill. So a clock that jumps ahead removes no more than that leaves.

    :param proven: names of the backups that count, in their order.
    """
    kept = set(proven[-max(keep_count, 1) :]) | {manifest["name"] for manifest in manifests[-1:]}
    oldest = now - timedelta(days=keep_days)
    return [manifest for manifest in manifests if manifest["name"] not in kept and taken_at(manifest) < oldest]


def prune(connection: Connection, directory: Path, keep_days: float, keep_count: int) -> list[str]:
    """Remove the backups that may go and their rows of the ledger; return their names."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now = cursor.fetchall()[0][0]
        removed = []
        manifests = read_all(directory)
        proven = [manifest["name"] for manifest in manifests if is_proven(directory, manifest)]
        for manifest in to_prune(manifests, proven, now, keep_days, keep_count):
            # The row first: the ledger never names a backup that is gone.
            cursor.execute("DELETE FROM migration.backup WHERE name = %s", (manifest["name"],))
            connection.commit()
            remove(directory / manifest["name"], list(manifest["files"]))
            removed.append(manifest["name"])
    return removed


def reconcile(connection: Connection, directory: Path) -> None:
    """Make the ledger's rows of this host's backups say what the disk says, and commit.

    A run that was killed between the two, a directory that somebody removed, and a database that was restored to an
    earlier time all leave them apart.
    """
    host = socket.gethostname()
    manifests = read_all(directory)
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM migration.backup WHERE manifest ->> 'host' = %s AND manifest ->> 'directory' = %s "
            "AND name <> ALL (%s)",
            (host, str(directory), [manifest["name"] for manifest in manifests]),
        )
        for manifest in manifests:
            record(cursor, manifest if is_proven(directory, manifest) else {**manifest, "verified": None})
    connection.commit()


def record(cursor: Any, manifest: Manifest) -> None:
    """Write a backup's row, or make it what the manifest says. The caller commits."""
    verified_at = manifest["verified"]["at"] if manifest["verified"] else None
    # The longest part is for the drill alone, which reads the disk; in the ledger it would be in every later backup.
    kept = {key: value for key, value in manifest.items() if key != "definitions"}
    cursor.execute(
        """
        INSERT INTO migration.backup AS b (name, taken_at, verified_at, sha256, manifest)
        VALUES (%s, %s, %s, %s, %s)
        ON CONFLICT (name) DO UPDATE
        SET taken_at = excluded.taken_at, verified_at = excluded.verified_at,
            sha256 = excluded.sha256, manifest = excluded.manifest
        WHERE (b.taken_at, b.verified_at, b.sha256, b.manifest)
              IS DISTINCT FROM (excluded.taken_at, excluded.verified_at, excluded.sha256, excluded.manifest)
        """,
        (manifest["name"], manifest["taken_at"], verified_at, manifest["files"][DUMP]["sha256"], Json(kept)),
    )
