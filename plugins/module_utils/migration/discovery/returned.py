"""What a host has returned as a draft is only taken if it is one: who owns the host does not own the controller."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import yaml

from ..core.errors import MigrationError, Problem
from ..draft.mapping import TEMPLATE
from .render import ESTATE_FILE, ESTATE_KEYS, FACTS_FILE, NO_SQL, NO_SQL_FILE, PAGE_FILE

# The names that the rendered files have; what is relative and without ".." stays in the directory of the draft.
_NAME = re.compile(
    rf"{re.escape(PAGE_FILE)}|{re.escape(FACTS_FILE)}|{re.escape(ESTATE_FILE)}|{re.escape(NO_SQL_FILE)}"
    r"|sql/[0-9]{3,6}_[a-z0-9_]{1,63}\.sql"
)
_MOST_BYTES = 64 << 20
_MOST_PROBLEMS = 20
# Both read the same; the first is there only where PyYAML was built with libyaml.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def require_draft(files: Any) -> Mapping[str, str]:
    """Return the files of a draft, name → text.

    :param files: what a host has returned.
    :raises MigrationError: if that is no draft.
    """
    problems = list(islice(_problems(files), _MOST_PROBLEMS))
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
    if NO_SQL_FILE in files and files[NO_SQL_FILE] != NO_SQL:
        yield _no_draft(NO_SQL_FILE, "the host returned another text than that no SQL is applied")
    if size > _MOST_BYTES:
        yield _no_draft("the draft", f"the host returned {size:,} bytes, and no draft has more than {_MOST_BYTES:,}")
    elif isinstance(estate := files.get(ESTATE_FILE), str):
        yield from estate_problems(estate)


def _no_draft(where: str, what: str) -> Problem:
    """Return the problem with what a host has returned."""
    return Problem(where, what, "Find out who changed what runs on that host: no discovery returns this")


def estate_problems(text: str) -> Iterator[Problem]:
    """Yield what in the inventory of a draft could run on the controller, or set something else than the estate.

    :param text: the content of ``estate.yml``.
    """
    depth, entries = 0, 0
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            elif isinstance(event, yaml.NodeEvent):
                value, tag = (event.value, event.tag) if isinstance(event, yaml.ScalarEvent) else (None, None)
                where = _line(event.start_mark)
                if depth == 0 and not isinstance(event, yaml.MappingStartEvent):
                    yield _no_draft(where, "it is no list of variables")
                # Of the outermost mapping, each second node is a name.
                if depth == 1 and entries % 2 == 0 and value not in ESTATE_KEYS:
                    fix = f"Take it out, and add it after the draft was adopted; a draft has {', '.join(ESTATE_KEYS)}"
                    yield Problem(where, f"it sets {'something else' if value is None else ascii(value)}", fix)
                entries += depth == 1
                if value is not None and tag != "!unsafe" and TEMPLATE.search(value):
                    fix = "Write !unsafe before the text, or add the template after the draft was adopted"
                    yield Problem(where, "it holds a template, which would run on this machine", fix)
                depth += isinstance(event, yaml.CollectionStartEvent)
    except yaml.YAMLError as error:
        what = getattr(error, "problem", None) or "a character is not allowed"
        yield Problem(_line(getattr(error, "problem_mark", None)), f"it is no YAML: {what}", "Correct it there")


def _line(mark: Any) -> str:
    """Return a place in the inventory of a draft."""
    return ESTATE_FILE if mark is None else f"{ESTATE_FILE}, line {mark.line + 1:,}"
