"""How a backup gets to another host and is read back from there: by rsync, or into a repository of restic."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

from ..core.errors import MigrationError, Problem
from . import store as backup_store
from .settings import CopyTarget, Settings
from .store import Manifest

_LAST_LINES = 3
_BLOCK = 1 << 20
# user:password@ in an address.
_ADDRESS_PASSWORD = re.compile(r"(://[^/@:\s]*):[^/@\s]*@")


def copy(settings: Settings, target: CopyTarget, manifest: Manifest) -> None:
    """Copy a backup, then read back at the target what arrived.

    :raises MigrationError: if it cannot be copied, or arrived otherwise than it left.
    """
    {"rsync": _rsync, "restic": _restic}[target.method](settings.directory / manifest["name"], target, manifest)


def is_there(settings: Settings, target: CopyTarget, manifest: Manifest) -> bool:
    """Return whether the target knows a backup, without reading it.

    :raises MigrationError: if the target does not answer.
    """
    source = settings.directory / manifest["name"]
    return {"rsync": _rsync_knows, "restic": _restic_knows}[target.method](source, target, manifest)


def shown(text: str) -> str:
    """Return a text without the passwords of the addresses in it."""
    return _ADDRESS_PASSWORD.sub(r"\1:***@", text)


def environment(target: CopyTarget) -> dict[str, str]:
    """Return the environment of the copying programs: nothing of the caller's own, and what the settings name.

    Only the user of the backups can read it, so credentials of a repository may stand in it.
    """
    result = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": pwd.getpwuid(os.geteuid()).pw_dir}
    if target.method == "restic":
        result |= {"RESTIC_REPOSITORY": target.target, "RESTIC_PASSWORD_FILE": target.password_file}
        # The private directory that systemd makes for the service.
        if "CACHE_DIRECTORY" in os.environ:
            result["RESTIC_CACHE_DIR"] = os.environ["CACHE_DIRECTORY"]
    return {**result, **target.environment}


# ---------------------------------------------------------------- rsync


def _rsync(source: Path, target: CopyTarget, manifest: Manifest) -> None:
    """Copy by rsync, then let it compare the checksums of both sides."""
    _run(_rsync_command(source, target, "--delay-updates", "--fsync"), target)
    lines = _rsync_differences(source, target, "--checksum")
    if lines:
        _refuse(target, f"{manifest['name']} arrived otherwise than it left: {'; '.join(lines)}")


def _rsync_knows(source: Path, target: CopyTarget, manifest: Manifest) -> bool:
    """Return whether the dump lies at the target, with its size and time."""
    return not any(line.endswith(f"/{backup_store.DUMP}") for line in _rsync_differences(source, target))


def _rsync_differences(source: Path, target: CopyTarget, *options: str) -> list[str]:
    """Return a line for each file that rsync would transfer."""
    output = _run(_rsync_command(source, target, "--dry-run", "--itemize-changes", *options), target)
    # A directory's own time may differ; a file that would be transferred is listed with < or >.
    return [line for line in output.decode("utf-8", "replace").splitlines() if line[:1] in "<>"]


def _rsync_command(source: Path, target: CopyTarget, *options: str) -> list[str]:
    """Return the command that brings a backup's directory to the target."""
    shell = ["--rsh", shlex.join(target.remote_shell)] if target.remote_shell else []
    common = ["--recursive", "--times", "--perms", "--timeout=300", *shell]
    return ["rsync", *common, *options, "--", str(source), f"{target.target.rstrip('/')}/"]


# ---------------------------------------------------------------- restic


def _restic(source: Path, target: CopyTarget, manifest: Manifest) -> None:
    """Save into a restic repository, then read every file back and compare its hash."""
    output = _run(_restic_command("backup", "--json", *_snapshot_of(manifest), str(source)), target)
    snapshot = _snapshot_id(output)
    if snapshot is None:
        _refuse(target, f"restic does not say as what it saved {manifest['name']}")
    expected = {file: facts["sha256"] for file, facts in manifest["files"].items()}
    expected[backup_store.MANIFEST] = backup_store.describe_file(source / backup_store.MANIFEST)["sha256"]
    for file, sha256 in expected.items():
        if _digest(_restic_command("dump", "--quiet", snapshot, str(source / file)), target) != sha256:
            _refuse(target, f"{file} of {manifest['name']} cannot be read back as it was saved")


def _restic_knows(source: Path, target: CopyTarget, manifest: Manifest) -> bool:
    """Return whether the repository lists a snapshot of the backup."""
    output = _run(_restic_command("snapshots", "--json", *_snapshot_of(manifest), "--path", str(source)), target)
    # Warnings may stand before it. A repository without a matching snapshot answers null or an empty list.
    lines = output.decode("utf-8", "replace").strip().splitlines() or [""]
    try:
        return bool(json.loads(lines[-1]))
    except ValueError:
        _refuse(target, f"restic does not list its snapshots: {lines[-1][:200]}")


def _restic_command(command: str, *arguments: str) -> list[str]:
    """Return a command of restic, which without a private directory keeps no cache."""
    cache = [] if "CACHE_DIRECTORY" in os.environ else ["--no-cache"]
    return ["restic", *cache, command, *arguments]


def _snapshot_of(manifest: Manifest) -> list[str]:
    """Return the arguments that name a backup's snapshots."""
    return ["--host", socket.gethostname(), "--tag", manifest["name"]]


def _snapshot_id(output: bytes) -> str | None:
    """Return the id of the snapshot that ``restic backup --json`` tells in one of its messages."""
    for line in reversed(output.decode("utf-8", "replace").splitlines()):
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict) and message.get("message_type") == "summary":
            return str(message["snapshot_id"])
    return None


# ---------------------------------------------------------------- programs


def _run(command: Sequence[str], target: CopyTarget) -> bytes:
    """Run a program and return the end of its output.

    :raises MigrationError: with its last words, if it fails or is not installed.
    """
    output = b""
    with _started(command, target, subprocess.STDOUT) as process:
        while process.stdout and (block := process.stdout.read(_BLOCK)):
            output = (output + block)[-_BLOCK:]
    if process.returncode != 0:
        _refuse(target, f"{command[0]}: {_last_words(output) or f'exit code {process.returncode}'}")
    return output


def _digest(command: Sequence[str], target: CopyTarget) -> str:
    """Run a program and return the SHA-256 of its output.

    :raises MigrationError: with its last words, if it fails or is not installed.
    """
    digest = hashlib.sha256()
    with tempfile.TemporaryFile() as errors:
        with _started(command, target, errors) as process:
            while process.stdout and (block := process.stdout.read(_BLOCK)):
                digest.update(block)
        errors.seek(0)
        words = _last_words(errors.read(_BLOCK))
    if process.returncode != 0:
        _refuse(target, f"{command[0]}: {words or f'exit code {process.returncode}'}")
    return digest.hexdigest()


@contextmanager
def _started(command: Sequence[str], target: CopyTarget, errors: int | IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program that asks nobody anything, and wait for its end; end it if the block is left early.

    :raises MigrationError: if it is not installed.
    """
    try:
        process = subprocess.Popen(
            list(command),
            env=environment(target),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    except OSError as error:
        _refuse(target, f"{command[0]}: {error.strerror}")
    with process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def _last_words(output: bytes) -> str:
    """Return the last lines of a program."""
    return " / ".join(output.decode("utf-8", "replace").strip().splitlines()[-_LAST_LINES:])


def _refuse(target: CopyTarget, what: str) -> NoReturn:
    """Raise the error for a copy that failed."""
    fix = "Correct postgres_backup_copy or the target, then start postgres-backup.service"
    raise MigrationError(
        "The backup is complete, but its copy off this host is not.", [Problem(shown(target.target), shown(what), fix)]
    )
