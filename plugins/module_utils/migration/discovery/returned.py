"""What a host has returned as a draft is only taken if it is one: who owns the host does not own the controller."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..core.errors import MigrationError, Problem
from .render import ESTATE_FILE, FACTS_FILE, PAGE_FILE

# The names that the rendered files have; what is relative and without ".." stays in the directory of the draft.
_NAME = re.compile(
    rf"{re.escape(PAGE_FILE)}|{re.escape(FACTS_FILE)}|{re.escape(ESTATE_FILE)}|sql/[0-9]{{3,6}}_[a-z0-9_]{{1,63}}\.sql"
)
_MOST_BYTES = 64 << 20


def require_draft(files: Any) -> Mapping[str, str]:
    """Return the files of a draft, name → text.

    :param files: what a host has returned.
    :raises MigrationError: if that is no draft.
    """
    problems = list(_problems(files))
    if problems:
        raise MigrationError("The draft was not written.", problems)
    found: Mapping[str, str] = files
    return found


def _problems(files: Any) -> Iterator[Problem]:
    """Yield what no draft has."""
    if not isinstance(files, Mapping):
        yield _no_draft("the draft", "the host returned no files")
        return
    size = 0
    for name, text in files.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            yield _no_draft(ascii(name), "the host returned a file of a name that no draft holds")
            continue
        try:
            size += len(text.encode())
        except (AttributeError, UnicodeEncodeError):
            yield _no_draft(name, "the host returned what is no text")
    for name in (ESTATE_FILE, FACTS_FILE):
        if name not in files:
            yield _no_draft(name, "the host returned a draft without it")
    if size > _MOST_BYTES:
        yield _no_draft("the draft", f"the host returned {size:,} bytes, and no draft has more than {_MOST_BYTES:,}")


def _no_draft(where: str, what: str) -> Problem:
    """Return the problem with what a host has returned."""
    return Problem(where, what, "Find out who changed what runs on that host: no discovery returns this")
