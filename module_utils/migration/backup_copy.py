"""Copies backups to another host, and reads back there what arrived."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NoReturn

from . import backup_store
from .backup_settings import CopyTarget, Settings
from .errors import MigrationError, Problem

_RECORD = ".copied.json"
_LAST_LINES = 3


def copied(settings: Settings) -> dict[str, str]:
    """Return when each backup was copied and read back, by its name, for the present target."""
    with suppress(OSError, ValueError, KeyError):
        record = json.loads((settings.directory / _RECORD).read_text(encoding="utf-8"))
        if settings.copy is not None and record["target"] == settings.copy.target:
            return dict(record["backups"])
    return {}


def copy(settings: Settings) -> list[str]:
    """Copy every backup that is not at the target yet, the newest first, and return their names.

    Nothing is ever removed at the target: what may go there, its own administrator decides.

    :raises MigrationError: if one could not be copied, or arrived otherwise than it left.
    """
    if settings.copy is None:
        return []
    done = copied(settings)
    manifests = backup_store.read_all(settings.directory)
    names = []
    for manifest in reversed(manifests):
        # Again after a drill: the manifest at the target then says that it is verified.
        state = f"{manifest['name']} {manifest['verified']}"
        if done.get(manifest["name"], "").endswith(state):
            continue
        _METHODS[settings.copy.method](settings, settings.copy, manifest)
        names.append(manifest["name"])
        done[manifest["name"]] = f"{datetime.now(UTC).isoformat()} {state}"
        _write(settings, {name: done[name] for name in done if name in {entry["name"] for entry in manifests}})
    return names


def copied_at(settings: Settings, name: str) -> datetime | None:
    """Return when a backup was copied, by this host's clock, or None."""
    text = copied(settings).get(name)
    return None if text is None else datetime.fromisoformat(text.partition(" ")[0])


def _write(settings: Settings, backups: Mapping[str, str]) -> None:
    """Keep what was copied, whole or not at all."""
    new = settings.directory / f"{_RECORD}.new"
    with suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"target": settings.copy.target if settings.copy else "", "backups": dict(backups)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    new.replace(settings.directory / _RECORD)


def _rsync(settings: Settings, target: CopyTarget, manifest: dict[str, Any]) -> None:
    """Copy by rsync, then let it compare the checksums of both sides."""
    shell = ["--rsh", " ".join(target.remote_shell)] if target.remote_shell else []
    source = str(settings.directory / manifest["name"])
    destination = f"{target.target.rstrip('/')}/"
    common = ["rsync", "--recursive", "--times", "--perms", "--timeout=300", *shell]
    _run([*common, "--delay-updates", "--fsync", "--", source, destination], target)
    different = _run([*common, "--checksum", "--dry-run", "--itemize-changes", "--", source, destination], target)
    # A directory's own time may differ; a file that does not arrive as it left is listed with < or >.
    lines = [line for line in different.decode("utf-8", "replace").splitlines() if line[:1] in "<>"]
    if lines:
        _refuse(target, f"{manifest['name']} arrived otherwise than it left: {'; '.join(lines)}")


def _restic(settings: Settings, target: CopyTarget, manifest: dict[str, Any]) -> None:
    """Save into a restic repository, then read the dump back and compare its hash."""
    source = str(settings.directory / manifest["name"])
    host = ["--host", socket.gethostname()]
    _run(["restic", "backup", "--quiet", *host, "--tag", manifest["name"], source], target)
    file = f"{source}/{backup_store.DUMP}"
    content = _run(["restic", "dump", "--quiet", *host, "--tag", manifest["name"], "latest", file], target, digest=True)
    if content.decode() != manifest["files"][backup_store.DUMP]["sha256"]:
        _refuse(target, f"{manifest['name']} cannot be read back as it was saved")


_METHODS = {"rsync": _rsync, "restic": _restic}


def _run(command: Sequence[str], target: CopyTarget, digest: bool = False) -> bytes:
    """Run a program and return its output, or the SHA-256 of it.

    :raises MigrationError: with its last words, if it fails or is not installed.
    """
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": os.path.expanduser("~")}
    if target.method == "restic":
        environment |= {"RESTIC_REPOSITORY": target.target, "RESTIC_PASSWORD_FILE": target.password_file}
        environment["RESTIC_CACHE_DIR"] = os.environ.get("CACHE_DIRECTORY", "/var/tmp/restic-cache")  # noqa: S108
    try:
        with subprocess.Popen(
            list(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if not digest else subprocess.DEVNULL,
        ) as process:
            output, hashed = b"", hashlib.sha256()
            while process.stdout and (block := process.stdout.read(1 << 20)):
                hashed.update(block)
                output = (output + block)[-(1 << 20) :]
    except OSError as error:
        _refuse(target, f"{command[0]}: {error.strerror}")
    if process.returncode != 0:
        words = " / ".join(output.decode("utf-8", "replace").strip().splitlines()[-_LAST_LINES:])
        _refuse(target, f"{command[0]}: {words if not digest else f'exit code {process.returncode}'}")
    return hashed.hexdigest().encode() if digest else output


def _refuse(target: CopyTarget, what: str) -> NoReturn:
    """Raise the error for a copy that failed."""
    raise MigrationError(
        "The backup is complete, but its copy off this host is not.",
        [
            Problem(
                target.target, what, "Correct postgres_backup_copy or the target, then start postgres-backup.service"
            )
        ],
    )
