"""The drawings of the report: rows, downtime and durations as bars, in SVG."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from . import html

_STEPS = ("snapshot", "profile", "compare", "load", "statistics", "verify", "commit")
_STEP_COLOURS = ("--one", "--two", "--three", "--four", "--five", "--six", "--seven")
# The services run again while these steps of a cutover go on.
_AFTER_WINDOW = ("watch", "save")
_WIDTH = 1000
_LABEL_WIDTH = 250
_VALUE_WIDTH = 150


def draw_rows(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return bars with the rows of every table: SQLite above, PostgreSQL below."""
    tables = [table for group in groups for table in group["tables"]]
    if not tables:
        return ""
    most = max(1, *(max(table["source_rows"], table["target_rows"]) for table in tables))
    parts = []
    height = 30
    for number, table in enumerate(tables):
        top = number * height
        counts = f"{table['source_rows']:,}"
        if table["source_rows"] != table["target_rows"]:
            counts = f"{table['source_rows']:,} → {table['target_rows']:,}"
        parts += [
            _svg_text(0, top + 19, str(table["target"])),
            _bar(_LABEL_WIDTH, top + 5, table["source_rows"] / most, 8, "--source"),
            _bar(_LABEL_WIDTH, top + 14, table["target_rows"] / most, 8, "--target"),
            _svg_text(_bar_end(max(table["source_rows"], table["target_rows"]) / most), top + 19, counts, "quiet"),
        ]
    return _figure(
        "<span class='key' style='background:var(--source)'></span>rows in SQLite"
        "<span class='key' style='background:var(--target)'></span>rows in PostgreSQL at the last load",
        f"Rows of {len(tables)} tables in SQLite and in PostgreSQL; the numbers stand in the tables below",
        len(tables) * height,
        parts,
    )


def draw_downtime(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return for each group that was cut over its window, step by step, and below it what a client saw of it."""
    moved = [group for group in groups if group["cutover"] and group["cutover"].get("downtime_seconds") is not None]
    if not moved:
        return ""
    windows = {str(group["group"]): _window_of(group["cutover"]) for group in moved}
    downtimes = {str(group["group"]): float(group["cutover"]["downtime_seconds"]) for group in moved}
    steps = list(dict.fromkeys(step for window in windows.values() for step in window))
    colours = {step: _STEP_COLOURS[number % len(_STEP_COLOURS)] for number, step in enumerate(steps)}
    longest = max(*downtimes.values(), *(sum(window.values()) for window in windows.values())) or 1.0
    parts = []
    height = 40
    for number, (name, window) in enumerate(windows.items()):
        top = number * height
        seconds = downtimes[name]
        parts += [
            _svg_text(0, top + 22, name),
            *_stacked(window, colours, top + 5, longest),
            _bar(_LABEL_WIDTH, top + 26, seconds / longest, 8, "--target"),
            _svg_text(_bar_end(max(seconds, sum(window.values())) / longest), top + 24, html.seconds(seconds), "quiet"),
        ]
    label = "Downtime: " + "; ".join(f"{name} {html.seconds(seconds)}" for name, seconds in downtimes.items())
    caption = _legend(colours) + (
        "<span class='key' style='background:var(--target)'></span>services down, as a client saw it that asked them "
        "all the time"
    )
    return _figure(caption, label, len(windows) * height, parts) + _render_windows(moved) + _render_answers(moved)


def _window_of(cutover: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of each step of a window until the services were found healthy."""
    return {step["name"]: float(step["seconds"]) for step in cutover["steps"] if step["name"] not in _AFTER_WINDOW}


def _render_windows(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return how long each step of each cutover window took."""
    windows = {
        str(group["group"]): {step["name"]: step["seconds"] for step in group["cutover"]["steps"]} for group in groups
    }
    steps = list(dict.fromkeys(step for window in windows.values() for step in window))
    rows = [
        (
            html.text(f"{step}, after the window" if step in _AFTER_WINDOW else step),
            *(html.number_text(html.seconds(window[step]) if step in window else "-") for window in windows.values()),
        )
        for step in steps
    ]
    for key, title in (("services_seconds", "the services' stop and start"), ("own_seconds", "our own steps")):
        values = [group["cutover"].get(key) for group in groups]
        if any(value is not None for value in values):
            cells = (html.number_text("-" if value is None else html.seconds(value)) for value in values)
            rows.append((f"<strong>{title}</strong>", *cells))
    return html.table(
        ("Step of the window", *(f"#{name}" for name in windows)), rows, "The cutover window, step by step"
    )


def _render_answers(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return what the client saw of each service."""
    rows = [
        (
            html.text(service["name"]),
            html.text(group["group"]),
            html.number_text(html.seconds(service["downtime_seconds"])),
            html.number_text(html.seconds(service["start_seconds"])),
            html.number(service["requests"]),
            html.number(service["requests_failed"]),
        )
        for group in groups
        for service in group["cutover"].get("services") or ()
        if service.get("downtime_seconds") is not None and service.get("start_seconds") is not None
    ]
    heads = ("Service", "Group", "#Down", "#Start until first answer", "#Requests", "#Failed")
    return html.table(heads, rows, "What the client saw: from a service's last answer to its first on PostgreSQL")


def draw_durations(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return a bar for each group, divided into the steps of its last load, and the same as a table."""
    found = dict.fromkeys(step for group in groups for step in group["seconds"] if step != "total")
    steps = [step for step in _STEPS if step in found] + [step for step in found if step not in _STEPS]
    timed = [group for group in groups if group["seconds"]]
    if not steps or not timed:
        return ""
    totals = {group["group"]: sum(group["seconds"].get(step, 0.0) for step in steps) for group in timed}
    longest = max(totals.values()) or 1.0
    colours = {step: _STEP_COLOURS[number % len(_STEP_COLOURS)] for number, step in enumerate(steps)}
    parts = []
    height = 32
    for number, group in enumerate(timed):
        top = number * height
        seconds = {step: group["seconds"].get(step, 0.0) for step in steps}
        total = totals[group["group"]]
        parts.append(_svg_text(0, top + 20, str(group["group"])))
        parts += _stacked(seconds, colours, top + 7, longest)
        parts.append(_svg_text(_bar_end(total / longest), top + 20, html.seconds(total), "quiet"))
    legend = _legend(colours)
    label = "Durations: " + "; ".join(f"{name} {html.seconds(seconds)}" for name, seconds in totals.items())
    rows = [
        (
            html.text(group["group"]),
            html.text(group["loaded_by"]),
            *(html.number_text(html.seconds(group["seconds"].get(step, 0.0))) for step in steps),
        )
        for group in timed
    ]
    return _figure(legend, label, len(timed) * height, parts) + html.table(
        ("Group", "Run", *(f"#{step}" for step in steps)), rows
    )


def _stacked(seconds: Mapping[str, float], colours: Mapping[str, str], top: float, longest: float) -> list[str]:
    """Return a bar that is divided into steps; ``longest`` seconds fill the width."""
    parts = []
    left = float(_LABEL_WIDTH)
    for step, taken in seconds.items():
        width = taken / longest * (_WIDTH - _LABEL_WIDTH - _VALUE_WIDTH)
        if width > 0:
            parts.append(
                f"<rect x='{left:.1f}' y='{top}' width='{max(width - 2, 0.5):.1f}' height='18' rx='2' "
                f"style='fill:var({colours[step]})'>"
                f"<title>{html.text(step)}: {html.seconds(taken)}</title></rect>"
            )
        left += width
    return parts


def _legend(colours: Mapping[str, str]) -> str:
    """Return which colour stands for which step."""
    return "".join(
        f"<span class='key' style='background:var({colour})'></span>{html.text(step)}"
        for step, colour in colours.items()
    )


def _figure(caption: str, label: str, height: int, parts: Iterable[str]) -> str:
    """Return one drawing with its caption; ``label`` is what a screen reader says."""
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f"<svg viewBox='0 0 {_WIDTH} {height}' role='img' aria-label='{escape(label, quote=True)}'>"
        f"<line class='track' x1='{_LABEL_WIDTH - 1}' y1='0' x2='{_LABEL_WIDTH - 1}' y2='{height}'/>"
        + "".join(parts)
        + "</svg></figure>"
    )


def _bar(left: float, top: float, share: float, height: int, colour: str) -> str:
    """Return a bar; what is not zero stays visible."""
    width = share * (_WIDTH - _LABEL_WIDTH - _VALUE_WIDTH)
    if share > 0:
        width = max(width, 2.0)
    return f"<rect x='{left}' y='{top}' width='{width:.1f}' height='{height}' rx='2' style='fill:var({colour})'></rect>"


def _bar_end(share: float) -> float:
    """Return where the label behind a bar begins."""
    return _LABEL_WIDTH + share * (_WIDTH - _LABEL_WIDTH - _VALUE_WIDTH) + 8


def _svg_text(left: float, base: float, text: str, css_class: str = "") -> str:
    """Return a text in a drawing."""
    attribute = f" class='{css_class}'" if css_class else ""
    return f"<text x='{left:.1f}' y='{base:.1f}'{attribute}>{escape(text)}</text>"
