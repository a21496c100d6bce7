"""The cleanup plan as text, its id, and the difference between two plans."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..core.commands import playbook
from .entry import ABSENT, DONE

if TYPE_CHECKING:
    from .entry import Entry

DRIVER = "better-sqlite3"


def plan_id(entries: Sequence[Entry], packages: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Return an id that changes as soon as anything that would be done changes, and what it stands for.

    The times are no part of it, only whether they have passed.
    """
    facts: dict[str, Any] = {}
    for entry in entries:
        facts[entry.path] = {
            "would": entry.action,
            "now": entry.ready,
            "group": entry.name,
            "file": entry.resolved,
            "inode": entry.inode,
            "bytes": entry.size_bytes,
            "sha256": entry.sha256,
            "rows": entry.rows,
            # What is shared between readers is made anew whenever one comes, and holds no row.
            "companions": {suffix: size for suffix, size in entry.companions.items() if suffix != "-shm"},
            "symlinks": {link["path"]: link["leads_to"] for link in entry.links},
            "moves": [
                [move.path, move.directory_inode, move.inode, move.sha256]
                for move in entry.moves
                if not move.name.endswith("-shm")
            ],
        }
    for package in packages:
        facts[package["path"]] = {"would": f"remove {DRIVER}", "driver": package["driver"], "now": package["ready"]}
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12], facts


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what has changed from one plan to another, as path and sentence."""
    found = []
    for path in sorted({*before, *now}):
        old, new = before.get(path), now.get(path)
        if old is None or new is None:
            found.append((path, "it is new in the plan" if old is None else "it is not in the plan any more"))
            continue
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                # The moves repeat what the other facts say, in a form that is none for a person.
                if key == "moves" and any(old.get(other) != new.get(other) for other in old if other != "moves"):
                    continue
                found.append((path, f"{key}: then {_shown(old.get(key))}, now {_shown(new.get(key))}"))
    return found


def _shown(value: Any) -> str:
    """Return one fact for a person."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def lines(
    entries: Sequence[Entry], packages: Sequence[Mapping[str, Any]], identifier: str, unfinished: bool
) -> list[str]:
    """Return the plan for a person."""
    waiting = sum(bool(entry.unmet) for entry in entries)
    present = sum(entry.action not in (ABSENT, DONE) for entry in entries)
    ready = sum(entry.ready for entry in entries) + sum(bool(package["ready"]) for package in packages)
    text = [
        f"Cleanup plan {identifier}: an explanation only. Nothing was archived, moved or deleted.",
        f"{present} of {len(entries)} files are there; {waiting} of them must stay for now.",
    ]
    command = playbook("6_cleanup", sqlite_cleanup_confirm=identifier)
    if unfinished:
        text.append(f"A confirmed run was interrupted. Finish it: {command}")
    elif ready:
        text.append(f"To do what is ready ({ready}): {command}")
    for entry in entries:
        text += ["", *_entry_lines(entry)]
    for package in packages:
        if package["driver"]:
            text += ["", f"{package['path']}: {DRIVER} {package['driver']} of {', '.join(package['services'])}"]
            kept = "by hand" if package["by_hand"] and package["note"] == package["by_hand"] else "not yet"
            text.append("  would: be removed by npm" if package["ready"] else f"  {kept}: {package['note']}")
        elif package["note"] not in ("", ABSENT):
            text.append(f"{package['path']}: {package['note']}")
    return text


def _entry_lines(entry: Entry) -> list[str]:
    """Return one file for a person."""
    title = f"{entry.name}: {entry.path}" if entry.kind == "source" else f"legacy file: {entry.path}"
    notes = [f"  note: {note}" for note in entry.notes]
    if entry.action in (ABSENT, DONE):
        return [f"{title}: {entry.action}", *notes]
    text = [title]
    if entry.resolved != entry.path:
        text.append(f"  is a symlink to {entry.resolved}")
    companions = "".join(f", {suffix} {size:,} bytes" for suffix, size in entry.companions.items())
    text.append(f"  size: {entry.size_bytes:,} bytes{companions}; sha256 {entry.sha256 or 'unknown'}")
    if entry.rows is not None:
        listed = ", ".join(f"{table} {count:,}" for table, count in entry.rows.items())
        text.append(f"  holds: {rows(sum(entry.rows.values()))}" + (f" ({listed})" if listed else ", no table"))
    text += [f"  symlink: {link['path']} → {link['leads_to']}" for link in entry.links]
    text += notes
    text.append(f"  would: {entry.action}" + (f", not before {entry.may_go_at}" if entry.may_go_at else ""))
    text += [f"  not yet: {reason}" for reason in entry.unmet]
    return text


def rows(count: int) -> str:
    """Return a number of rows."""
    return "1 row" if count == 1 else f"{count:,} rows"


def age(length: timedelta) -> str:
    """Return an age in the largest unit that tells something."""
    if length >= timedelta(days=1):
        return f"{length / timedelta(days=1):.1f}"
    return f"{max(length, timedelta()) / timedelta(hours=1):.1f} hours"


def moment(time: datetime) -> str:
    """Return a time for a person, in UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
