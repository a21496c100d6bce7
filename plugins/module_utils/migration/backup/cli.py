"""The backup program, which timers and playbooks run: take, drill, check, copy, list and restore.

``python3 -I sqlite-to-postgresql.pyz backup.cli take``. With ``--json`` the result is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..core import ledger
from ..core.commands import playbook
from ..core.connection import connected, explained
from ..core.errors import MigrationError, Problem
from . import check as backup_check
from . import offsite, offsite_methods, preflight, restore_test
from . import restore as backup_restore
from . import settings as backup_settings
from . import store as backup_store
from . import take as backup_take
from .settings import Settings

# systemd takes this as the level of the message: an error. It tells its services that they write to the journal.
_JOURNAL_ERROR = "<3>" if "JOURNAL_STREAM" in os.environ else ""


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code: 0, 1 for what a person has to look at, 2 for wrong arguments."""
    options = _parser().parse_args(arguments)
    # Ended by systemd or by hand, the program still drops its scratch database.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _end)
    os.umask(0o077)
    try:
        result = _run(options)
    except MigrationError as error:
        return _fail(options, error)
    except OSError as error:
        fix = "Correct its owner, mode or free space, then run again"
        problem = Problem(str(error.filename or "this host"), error.strerror or str(error), fix)
        return _fail(options, MigrationError("A file could not be written or read.", [problem]))
    if options.json:
        print(json.dumps(result))
    else:
        print("\n".join(result["lines"]))
    return 0


def _end(number: int, _frame: Any) -> NoReturn:
    """Leave through every ``finally``."""
    raise SystemExit(128 + number)


def _fail(options: argparse.Namespace, error: MigrationError) -> int:
    """Say what is wrong, for the journal and for a playbook."""
    if options.json:
        print(json.dumps({"failed": True, "changed": False, "msg": error.message(), "problems": error.as_dicts()}))
    else:
        print("\n".join(_JOURNAL_ERROR + line for line in error.message().splitlines()), file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    """Return the description of the arguments."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--settings", type=Path, default=backup_settings.DEFAULT_PATH, help="file of the settings")
    common.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser = argparse.ArgumentParser(
        prog="backup", description="Backups of the database, and the proof that they restore."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, explanation: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=explanation, description=explanation, parents=[common])

    add("take", "Take a backup, remove old ones, copy it off this host.")
    add("drill", "Restore the newest backup into a scratch database and compare.").add_argument("name", nargs="?")
    run = add("run", "Take a backup and drill it at once.")
    run.add_argument("--if-needed", action="store_true", help="only if no verified one is newer than the last cutover")
    run.add_argument("--dry-run", action="store_true", help="only say whether one would be taken")
    add("check", "Fail if there is no verified backup that is young enough.")
    add("copy", "Copy what is not at the target yet.")
    add("list", "List the backups.")
    restore = add("restore", "Restore a backup into a new database, and swap it in when it is proven.")
    restore.add_argument("name")
    restore.add_argument("--dry-run", action="store_true", help="only say what would change")
    restore.add_argument(
        "--trust", action="append", default=[], metavar="ROLE", help="let what this role owns run its code"
    )
    return parser


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Run one command and return its result with ``changed`` and ``lines``."""
    settings = backup_settings.read(options.settings)
    reading: dict[str, Callable[[], dict[str, Any]]] = {
        "check": lambda: _check(settings),
        "list": lambda: _list(settings),
    }
    if options.command in reading:
        return reading[options.command]()
    if options.command == "restore" and options.dry_run:
        return backup_restore.plan(settings, options.name, options.trust)
    if options.command == "run" and (options.if_needed or options.dry_run):
        reason = backup_check.reason_to_take(settings) if options.if_needed else "asked for"
        if reason is None:
            return {"changed": False, "lines": ["A verified backup is newer than the last cutover: nothing to do."]}
        if options.dry_run:
            return {"changed": True, "lines": [f"A backup would be taken and drilled: {reason}."]}
    preflight.require_owner(settings.directory)
    with backup_store.locked(settings.directory, settings.lock_wait_seconds):
        return _run_locked(settings, options)


def _run_locked(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    """Run a command that writes."""
    if options.command == "restore":
        return backup_restore.restore(settings, options.name, options.trust)
    if options.command == "copy":
        return _described(settings, None, [])
    if options.command == "drill":
        manifest = _to_drill(settings, options.name)
        return _described(settings, restore_test.drill(settings, manifest), [])
    # Before too: a disk that old backups have filled must not keep the next one from being taken for ever.
    removed = _prune(settings)
    manifest = backup_take.take(settings)
    if options.command == "run":
        manifest = restore_test.drill(settings, manifest)
    removed += _prune(settings)
    return _described(settings, manifest, removed)


def _prune(settings: Settings) -> list[str]:
    """Remove the backups that may go, and return their names."""
    with explained("removing old backups"), connected(settings.login) as connection:
        ledger.require(connection)
        return backup_store.prune(connection, settings.directory, settings.keep_days, settings.keep_count)


def _to_drill(settings: Settings, name: str | None) -> dict[str, Any]:
    """Return the manifest of the named backup, or of the newest.

    :raises MigrationError: if there is none.
    """
    if name is not None:
        return backup_store.read_one(settings.directory, name)
    manifests = backup_store.read_all(settings.directory)
    if not manifests:
        fix = f"Run {playbook('backup')}, or start postgres-backup.service"
        raise MigrationError("There is no backup yet.", [Problem(str(settings.directory), "holds none", fix)])
    return manifests[-1]


def _described(settings: Settings, manifest: dict[str, Any] | None, removed: list[str]) -> dict[str, Any]:
    """Copy what is not copied yet, and return the result for a person and for a playbook."""
    copied = offsite.copy(settings)
    changed = bool(manifest or removed or copied)
    result: dict[str, Any] = {"changed": changed, "removed": removed, "copied": copied, "lines": []}
    if manifest is not None:
        result |= _summary(manifest)
        result["lines"].append(_line(manifest))
    result["lines"] += [f"Removed old backup {name}." for name in removed]
    result["lines"] += [
        f"Copied {name} to {offsite_methods.shown(settings.copy.target)}." for name in copied if settings.copy
    ]
    return result


def _summary(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what is worth knowing of a backup."""
    return {
        "name": manifest["name"],
        "bytes": backup_store.bytes_on_disk(manifest),
        "tables": len(manifest["tables"]),
        "rows": backup_store.rows(manifest),
        "seconds": manifest["seconds"],
        "verified": manifest["verified"],
        "taken_at": manifest["taken_at"],
    }


def _line(manifest: dict[str, Any]) -> str:
    """Return a backup in one line."""
    proof = "NOT verified yet"
    if manifest["verified"]:
        proof = f"verified by a restore in {manifest['verified']['seconds']} s"
    return (
        f"{manifest['name']}: {backup_store.bytes_on_disk(manifest):,} bytes, {len(manifest['tables'])} tables, "
        f"{backup_store.rows(manifest):,} rows, taken in {manifest['seconds']} s, {proof}"
    )


def _check(settings: Settings) -> dict[str, Any]:
    """Return that all is well."""
    result = backup_check.check(settings)
    line = f"The newest verified backup, {result['newest']}, is {result['age_hours']} hours old."
    return {"changed": False, "lines": [line], **result}


def _list(settings: Settings) -> dict[str, Any]:
    """Return every backup, the newest first."""
    manifests = list(reversed(backup_store.read_all(settings.directory)))
    return {
        "changed": False,
        "backups": [_summary(manifest) for manifest in manifests],
        "lines": [_line(manifest) for manifest in manifests] or ["There is no backup yet."],
    }
