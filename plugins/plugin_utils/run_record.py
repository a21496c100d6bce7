"""The record that a run of ansible-playbook keeps of itself: one JSON object a line, added as it happens.

A run that is killed leaves all that it had written. Its file is locked for as long as the run lives, so a record
without an end whose file nobody has locked is that of a run that was interrupted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DIRECTORY = "runs"
RUNNING, PASSED, FAILED, STOPPED = "running", "passed", "failed", "stopped"

_VARIABLES_BESIDE_A_FILE = ("group_vars", "host_vars")


class RunRecord:
    """Writes one record.

    :param reports: directory that holds the records of all runs in ``runs/``; it is made if need be.
    :param limit: hosts that the run is limited to; it is part of the file's name.
    :raises OSError: if the file cannot be made.
    """

    def __init__(self, reports: Path, limit: str) -> None:
        directory = reports / DIRECTORY
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self.path = directory / f"{now}-{re.sub('[^A-Za-z0-9_.-]+', '-', limit)[:60]}.jsonl"
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Ansible's workers outlive a run that is killed, and must not hold its lock.
        os.register_at_fork(after_in_child=self._close)

    def add(self, event: str, **details: Any) -> None:
        """Add an event.

        :raises OSError: if it cannot be written.
        """
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"event": event, "at": at, **details}, ensure_ascii=False) + "\n"
        os.write(self._descriptor, line.encode("utf-8", errors="replace"))

    def _close(self) -> None:
        os.close(self._descriptor)


@dataclass
class Run:
    """What a record says of its run.

    :param verdict: one of the four constants of this module.
    :param seconds: from its first event to its last.
    :param started: by host, the last task that the host has begun.
    :param downtimes: host, cutover group and seconds of each time that services were down.
    :param failures: host, task and message.
    :param totals: by host, the counts of Ansible; empty before the end.
    :param gates: by host of a protected environment, what let the run change it: tree, plan, evidence or override.
    :param overrides: the reason of an override, and what it has overridden in any phase; empty if nothing was.
    :param named: what the command has named with ``-e`` of what goes back: groups, rows to lose, a backup.
    :param went_back: by host and cutover group, how a group went back to SQLite.
    :param whole: of a run of all of ``site.yml`` that is no dry one ``tree``, its digest, and ``extra_variables``, the
        names of what was given with ``-e``.
    :param arrived: by host and cutover group, the state and the tables that were last seen.
    """

    path: Path
    verdict: str = STOPPED
    begun: str = ""
    seconds: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)
    started: dict[str, str] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    downtimes: list[tuple[str, str, float]] = field(default_factory=list)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    totals: dict[str, Any] = field(default_factory=dict)
    gates: dict[str, dict[str, Any]] = field(default_factory=dict)
    overrides: dict[str, list[str]] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    went_back: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    whole: dict[str, Any] = field(default_factory=dict)
    arrived: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)


def read(path: Path) -> Run:
    """Return what a record says. A line that was not written whole is left out.

    :raises OSError: if it cannot be read.
    """
    run = Run(path)
    last = ""
    with path.open(encoding="utf-8", errors="replace") as file:
        for event in _events(file):
            last = str(event["event"])
            _apply(event, run)
        if last != "end":
            run.verdict = STOPPED if last == "stopped" or _lock_is_free(file.fileno()) else RUNNING
    return run


def read_all(reports: Path) -> list[Run]:
    """Return the runs whose records can be read, the newest first."""
    runs = []
    for path in sorted((reports / DIRECTORY).glob("*.jsonl"), reverse=True):
        try:
            runs.append(read(path))
        except OSError:
            continue
    return runs


def unchanged(
    runs: Iterable[Run], digest: str, hosts: Collection[str], allowed_variables: Collection[str]
) -> list[str]:
    """Return when each run began, in ISO 8601, that was of the whole tree and passed without changing anything.

    :param digest: of the tree.
    :param hosts: the hosts that it must have been on.
    :param allowed_variables: what ``-e`` may have set.
    """
    return [
        run.begun
        for run in runs
        if run.verdict == PASSED
        and run.whole.get("tree") == digest
        and set(run.whole["extra_variables"]) <= set(allowed_variables)
        and all(run.totals.get(host, {}).get("changed") == 0 for host in hosts)
    ]


def digest_of_inventory(sources: Iterable[str]) -> str:
    """Return the SHA-256 of all files of an inventory, with the variables beside them.

    :param sources: as they follow ``-i``; a list of hosts stands for itself.
    """
    digest = hashlib.sha256()
    for source in sources:
        path = Path(source)
        if "," in source or not path.exists():
            digest.update(f"{source}\0".encode())
            continue
        roots = [path] if path.is_dir() else [path, *(path.parent / name for name in _VARIABLES_BESIDE_A_FILE)]
        for root in roots:
            for file in _files_below(root):
                name = file.relative_to(path.parent).as_posix()
                content = hashlib.sha256(_content(file)).hexdigest()
                digest.update(f"{name}\0{content}\0".encode())
    return digest.hexdigest()


def _events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event and "at" in event:
            yield event


def _apply(event: Mapping[str, Any], run: Run) -> None:
    """Add what an event says to a run."""
    run.begun = run.begun or event["at"]
    try:
        run.seconds = (datetime.fromisoformat(event["at"]) - datetime.fromisoformat(run.begun)).total_seconds()
    except ValueError:
        pass
    host, task = str(event.get("host", "")), str(event.get("task", ""))
    match event["event"]:
        case "begin":
            run.about = dict(event)
        case "task":
            run.started[host] = task
        case "changed":
            run.changed[host] = run.changed.get(host, 0) + 1
        case "downtime":
            run.downtimes.append((host, str(event.get("group")), float(event.get("seconds") or 0.0)))
        case "gate":
            # What takes something back has neither plan nor evidence: those of a phase before it in the command count.
            if not (event.get("goes_back") and host in run.gates):
                run.gates[host] = {name: value for name, value in event.items() if name not in ("event", "at", "host")}
            _add_override(event.get("override"), run)
        case "override":
            _add_override(event, run)
        case "named":
            run.named = dict(event.get("variables") or {})
        case "went_back":
            run.went_back[host, str(event.get("group"))] = {
                name: value for name, value in event.items() if name != "event"
            }
        case "whole":
            run.whole = {"tree": event.get("tree"), "extra_variables": event.get("extra_variables") or []}
        case "arrived":
            told = {name: value for name, value in event.items() if name != "event"}
            run.arrived[host, str(event.get("group"))] = told
        case "failed":
            run.failures.append((host, task, str(event.get("message", ""))))
        case "end":
            run.verdict = str(event.get("verdict", FAILED))
            run.totals = dict(event.get("hosts") or {})


def _add_override(told: Any, run: Run) -> None:
    """Add what a phase has overridden: a later phase has nothing to say of it."""
    if isinstance(told, Mapping):
        problems = run.overrides.setdefault(str(told.get("reason")), [])
        problems += [problem for problem in map(str, told.get("passed_over") or ()) if problem not in problems]


def _lock_is_free(descriptor: int) -> bool:
    """Return whether nobody holds the lock of an open file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _files_below(root: Path) -> list[Path]:
    """Return the files of a directory and those below it, or the file itself, without those that are hidden."""
    if root.is_file():
        return [root]
    return sorted(
        Path(directory, name)
        for directory, _, names in os.walk(root)
        for name in names
        if not any(part.startswith(".") for part in (*Path(directory).relative_to(root).parts, name))
    )


def _content(path: Path) -> bytes:
    """Return the content of a file, or nothing if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
