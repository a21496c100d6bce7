"""Copies backups to another host, and reads back there what arrived."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

from ..core.errors import MigrationError, Problem
from . import offsite_methods
from . import store as backup_store
from .settings import Settings

_RECORD = ".copied.json"


def copied(settings: Settings) -> dict[str, str]:
    """Return when each backup was copied and read back, by its name, for the present target."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((settings.directory / _RECORD).read_text(encoding="utf-8"))
        if settings.copy is not None and (record["method"], record["target"]) == (
            settings.copy.method,
            settings.copy.target,
        ):
            return {name: text for name, text in record["backups"].items() if _time(text) is not None}
    return {}


def copy(settings: Settings) -> list[str]:
    """Copy every backup that is not at the target yet, the newest first, and return their names.

    Nothing is ever removed at the target: what may go there, its own administrator decides. Nor is a good copy there
    ever replaced by a file that was damaged here.

    :raises MigrationError: if one could not be copied, arrived otherwise than it left, or is damaged here.
    """
    if settings.copy is None:
        return []
    manifests = backup_store.read_all(settings.directory)
    done = _still_there(settings, manifests)
    names, problems = [], []
    for manifest in reversed(manifests):
        # Again after a drill: the manifest at the target then says that it is verified.
        state = f"{manifest['name']} {manifest['verified']}"
        if done.get(manifest["name"], "").endswith(state):
            continue
        damage = backup_store.file_problems(settings.directory, manifest)
        if damage:
            fix = f"Bring {manifest['name']} back from its copy, or remove its directory"
            problems += [Problem(where, f"{what}, so it was not copied", fix) for where, what in damage]
            continue
        offsite_methods.copy(settings, settings.copy, manifest)
        names.append(manifest["name"])
        done[manifest["name"]] = f"{datetime.now(UTC).isoformat()} {state}"
        _write(settings, {name: done[name] for name in done if name in {entry["name"] for entry in manifests}})
    if problems:
        raise MigrationError("Backups on this host are damaged.", problems)
    return names


def _still_there(settings: Settings, manifests: list[backup_store.Manifest]) -> dict[str, str]:
    """Return what was copied, nothing if the target has lost the newest verified one of it: then all is copied again.

    Of the older ones the target's administrator may have removed some.
    """
    done = copied(settings)
    newest = backup_store.newest_verified([manifest for manifest in manifests if manifest["name"] in done])
    if settings.copy is None or newest is None or offsite_methods.is_there(settings, settings.copy, newest):
        return done
    return {}


def copied_at(settings: Settings, name: str) -> datetime | None:
    """Return when a backup was copied, by this host's clock, or None."""
    text = copied(settings).get(name)
    return None if text is None else _time(text)


def _time(text: str) -> datetime | None:
    """Return the time in the record of a copy, None if there is none."""
    with suppress(ValueError):
        return datetime.fromisoformat(text.partition(" ")[0])
    return None


def _write(settings: Settings, backups: Mapping[str, str]) -> None:
    """Keep what was copied, whole or not at all."""
    record = {
        "method": settings.copy.method if settings.copy else "",
        "target": settings.copy.target if settings.copy else "",
        "backups": dict(backups),
    }
    backup_store.write_json(settings.directory / _RECORD, record)
