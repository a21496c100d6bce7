"""The journal: every write that was asked for, and what became of it.

One JSON object a line. A write has two lines of the same number: ``intent``, synced to the disk before the request is
sent, and one of

- ``acknowledged``: the service answered that it is done; the answer is kept,
- ``rejected``: the service answered that it will not do it (status 4xx),
- ``refused``: nobody listened, so nothing was sent,
- ``unknown``: the answer was lost or said that the service failed. The write is there or it is not, but whole.

An intent without a second line is as good as unknown: the writer was killed.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CREATE, UPDATE, DELETE = "create", "update", "delete"
_OUTCOMES = ("acknowledged", "rejected", "refused", "unknown")


class Journal:
    """Appends to a journal. Several threads may use it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._lock = threading.Lock()

    def append(self, **entry: Any) -> None:
        """Add one line and return when it is on the disk."""
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            os.write(self._file, line)
            os.fsync(self._file)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal; a last line that a crash has cut off is left out."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@dataclass
class Row:
    """What the journal knows of one row.

    :param present: the last acknowledged answer; None if the row is acknowledged to be gone, or was never there.
    :param identifier: its id, if an answer ever told it.
    :param possible: the bodies of unknown writes since: each may have happened, or not. None is a removal.
    """

    kind: str
    key: str
    present: dict[str, Any] | None = None
    identifier: str | None = None
    possible: list[dict[str, Any] | None] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)

    @property
    def certain(self) -> bool:
        """Return whether it is known what the store must hold."""
        return not self.possible


@dataclass
class State:
    """What the store in use must hold, by the journal.

    :param rows: by kind and natural key.
    :param rejected: the writes that a service refused to do, though the journal says that it must be able to.
    :param outcomes: how many writes ended how.
    """

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    rejected: list[str] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)

    def of_kind(self, kind: str) -> Iterator[Row]:
        """Yield the rows of one kind."""
        return (row for row in self.rows.values() if row.kind == kind)


def replay(entries: Iterable[dict[str, Any]]) -> State:
    """Return what the store must hold after these entries."""
    state = State()
    open_intents: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry["event"] == "intent":
            open_intents[entry["number"]] = entry
        elif entry["event"] in _OUTCOMES:
            _apply(state, open_intents.pop(entry["number"]), entry)
    for intent in open_intents.values():
        _apply(state, intent, {"event": "unknown"})
    return state


def _apply(state: State, intent: dict[str, Any], outcome: dict[str, Any]) -> None:
    """Take one write into account."""
    event = outcome["event"]
    state.outcomes[event] = state.outcomes.get(event, 0) + 1
    row = state.rows.setdefault((intent["kind"], intent["key"]), Row(intent["kind"], intent["key"]))
    row.numbers.append(intent["number"])
    if event == "acknowledged":
        row.possible = []
        row.present = None if intent["operation"] == DELETE else outcome["answer"]
        if row.present is not None:
            row.identifier = row.present["id"]
    elif event == "unknown":
        row.possible.append(None if intent["operation"] == DELETE else intent["body"])
    elif event == "rejected":
        state.rejected.append(
            f"{intent['at']}: {intent['operation']} of {row.kind} {row.key} got status {outcome['status']}: "
            f"{outcome['answer']}"
        )


def outages(entries: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return, for each service, when its clients got no answer: ``from``, ``until``, ``seconds`` and ``failed``."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        if entry["event"] == "outage":
            kept = {key: entry[key] for key in ("from", "until", "seconds", "failed")}
            found.setdefault(entry["service"], []).append(kept)
    return found
