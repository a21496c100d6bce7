"""Drafts on the controller. One that is there is never written to again: a person may have edited it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import MigrationError, Problem
from .render import FACTS_FILE
from .returned import require_draft


@dataclass(frozen=True)
class Written:
    """What became of a draft.

    :param directory: where the newest one stands.
    :param changed: whether it was written by this run, or would be.
    :param differences: what is new (``+``) or gone (``-``) since the one before it; empty if it is the first.
    """

    directory: str
    changed: bool
    differences: tuple[str, ...]


def write(directory: str, files: Mapping[str, str], check_mode: bool = False) -> Written:
    """Write a draft unless the newest one says the same of the host, and tell what has changed since that.

    :param directory: of the first draft; a later one stands beside it, with a number at its end.
    :param files: name → text.
    :raises MigrationError: if somebody else may write to the directory that holds the drafts, or these are no draft.
    """
    files = require_draft(files)
    newest, free = _places(Path(directory))
    differences: tuple[str, ...] = ()
    if newest is not None:
        differences = tuple(_differences((newest / FACTS_FILE).read_text(encoding="utf-8"), files[FACTS_FILE]))
        if not differences:
            return Written(str(newest), False, ())
    if not check_mode:
        # A half written draft has no facts: it is no draft, and the next run takes its place beside it.
        _require_ours(free.parent)
        free.mkdir(mode=0o700)
        for name, text in sorted(files.items(), key=lambda entry: entry[0] == FACTS_FILE):
            path = free / name
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
    return Written(str(free), True, differences)


def _places(first: Path) -> tuple[Path | None, Path]:
    """Return the newest draft that is there, None if there is none, and the place of the next one."""
    newest, number, place = None, 1, first
    while os.path.lexists(place):
        if (place / FACTS_FILE).is_file():
            newest = place
        number += 1
        place = first.with_name(f"{first.name}-{number}")
    return newest, place


def _differences(before: str, now: str) -> list[str]:
    """Return the lines that are gone and those that are new."""
    old, new = set(before.splitlines()), set(now.splitlines())
    return [*(f"- {line}" for line in sorted(old - new)), *(f"+ {line}" for line in sorted(new - old))]


def _require_ours(directory: Path) -> None:
    """Make the directory that holds the drafts.

    :raises MigrationError: if somebody else may write to it.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = directory.stat()
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    if status.st_uid not in (0, os.geteuid()) or shared:
        fix = "Name a directory of your own as discovery_draft_directory"
        problem = Problem(str(directory), "somebody else may write to it", fix)
        raise MigrationError("The draft was not written.", [problem])
