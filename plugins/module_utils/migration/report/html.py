"""The small pieces of the report's HTML: tables, lists, badges, numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from ..core import state

_LONGEST_LIST = 50


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Return a table of ready HTML cells, or nothing without rows. A head that begins with # is of numbers."""
    if not rows:
        return ""
    head = "".join(
        f"<th scope='col'{' class=number' if name.startswith('#') else ''}>{escape(name.lstrip('#'))}</th>"
        for name in heads
    )
    lines = []
    for row in rows:
        cells = [cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row[1:]]
        lines.append(f"<tr><th scope='row'>{row[0]}</th>{''.join(cells)}</tr>")
    top = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f"<div class='scroll'><table>{top}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def list(entries: Sequence[str], kind: str) -> str:
    """Return a list of plain texts, or nothing if it is empty."""
    if not entries:
        return ""
    shown = [f"<li>{text(entry)}</li>" for entry in entries[:_LONGEST_LIST]]
    if len(entries) > _LONGEST_LIST:
        shown.append(f"<li>and {len(entries) - _LONGEST_LIST} more in report.json</li>")
    return f"<{kind}>{''.join(shown)}</{kind}>"


def text(value: Any) -> str:
    """Return a value as HTML text."""
    return escape(str(value))


def number(value: int) -> str:
    """Return a cell with a number."""
    return number_text(f"{value:,}")


def number_text(text: str) -> str:
    """Return a cell that is aligned as a number."""
    return f"<td class='number'>{escape(text)}</td>"


def badge(text: str, kind: str) -> str:
    """Return a coloured word; the word itself says it without the colour."""
    return f"<span class='badge {kind}'>{escape(text)}</span>"


def state_badge(name: str) -> str:
    """Return the state of a group."""
    return badge(name.replace("_", " "), "good" if state.is_on_postgresql(name) else "wait")


def equal_badge(equal: Sequence[bool]) -> str:
    """Return whether all of the tables are equal."""
    if not equal:
        return "-"
    if all(equal):
        return badge("equal", "good")
    return badge("differs" if len(equal) == 1 else f"{len(equal) - sum(equal)} differ", "bad")


def count(number: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def seconds(seconds: float) -> str:
    """Return a duration for a person."""
    if seconds < 0.0005:
        return "0 s"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def moment(text: str) -> str:
    """Return an ISO time as a person reads it, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def card(heading: str, content: str) -> str:
    """Return a section with a heading, or nothing if it would be empty."""
    return f"<section class='card'><h2>{escape(heading)}</h2>{content}</section>" if content else ""
