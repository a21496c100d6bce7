"""What may be shown or kept of a task: text without control characters, and nothing that Ansible hides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "What it says is hidden, because it may hold a secret (no_log)."
_SILENT = "It gives no message. Run it again with -v to see all of its result."
_COLLECTION = "swarm.sqlite_to_postgresql."
_DEBUG = {"debug", "ansible.builtin.debug", "ansible.legacy.debug"}
_PROGRESS = re.compile(r"  \[(?P<host>[^\]]+)\] (?P<text>[^\n]+)")


def printable(text: str) -> str:
    """Return a text with everything that a terminal obeys replaced, but for the ends of its lines and tabs."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


def progress_message(host: str, text: str) -> str:
    """Return the line in which an action plugin tells how far its module is on a host."""
    return f"  [{host}] {text}"


def read_progress(message: str) -> tuple[str, str] | None:
    """Return the host and the text of a line made by :func:`progress_message`, None for any other message."""
    match = _PROGRESS.fullmatch(message)
    return (match["host"], match["text"]) if match else None


def is_hidden(result: Mapping[str, Any]) -> bool:
    """Return whether Ansible hides a result."""
    return bool(result.get("_ansible_no_log")) or "censored" in result


def lines_of(value: Any) -> list[str]:
    """Return the lines of a ``msg``: a text, or a list of texts. Anything else has none."""
    texts = value if isinstance(value, list) else [value]
    return [
        line.rstrip()
        for text in texts
        if isinstance(text, str)
        for line in printable(text).splitlines()
        if line.strip()
    ]


def told_to_a_person(action: str, result: Mapping[str, Any]) -> list[str]:
    """Return what a task that did not fail tells a person: the message of a debug task, or of a change by our modules.

    :param action: full name of the module or action, or its short one.
    :param result: of the task, or of one item of its loop.
    """
    if is_hidden(result) or "results" in result:
        return []
    if action in _DEBUG or (action.startswith(_COLLECTION) and result.get("changed")):
        return lines_of(result.get("msg"))
    return []


def is_debug(action: str) -> bool:
    """Return whether an action only shows a message."""
    return action in _DEBUG


def failure_lines(result: Mapping[str, Any]) -> list[str]:
    """Return why a task failed, as text."""
    return [HIDDEN] if is_hidden(result) else lines_of(result.get("msg")) or [_SILENT]


def item_label(result: Mapping[str, Any]) -> str:
    """Return the label of a loop's item if it is a short text, else an empty one."""
    label = result.get("_ansible_item_label", result.get("item"))
    is_short = isinstance(label, str | int) and len(str(label)) <= 80
    return printable(str(label)).replace("\n", " ") if is_short and not is_hidden(result) else ""
