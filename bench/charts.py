"""Draws the plots of the benchmark's report as SVG. Pure functions: figures in, the text of a file out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH = 760
_LABELS = 190
_VALUES = 110
_ROW = 30
_TOP = 46
_FONT = "font-family='system-ui, sans-serif' font-size='13'"
_TEXT, _QUIET, _GRID = "#1f2328", "#59636e", "#d8dee4"
HIGHLIGHT, PLAIN = "#0969da", "#afb8c1"
STEP_COLOURS = ("#0969da", "#1a7f37", "#bf8700", "#8250df", "#0a7ea4", "#57606a", "#bc4c00")


@dataclass(frozen=True)
class Bar:
    """One horizontal bar.

    :param text: what stands at its end.
    """

    label: str
    value: float
    text: str
    highlighted: bool = False


@dataclass(frozen=True)
class StackedBar:
    """One horizontal bar of several parts, each a name with its value."""

    label: str
    parts: dict[str, float]
    text: str


@dataclass(frozen=True)
class Point:
    """One point of a log-log plot; both coordinates are above 0."""

    x: float
    y: float
    text: str


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Return horizontal bars on one linear scale that begins at 0."""
    scale = (WIDTH - _LABELS - _VALUES) / max(bar.value for bar in bars)
    parts = []
    for number, bar in enumerate(bars):
        top = _TOP + number * _ROW
        length = max(1.0, bar.value * scale)
        parts.append(_label(bar.label, top))
        parts.append(_rectangle(_LABELS, top + 5, length, HIGHLIGHT if bar.highlighted else PLAIN))
        parts.append(_text(_LABELS + length + 6, top + 20, bar.text, _QUIET))
    return _picture(title, _TOP + len(bars) * _ROW + 8, parts)


def stacked_chart(title: str, bars: Sequence[StackedBar]) -> str:
    """Return horizontal bars of parts on one linear scale, with a legend of the parts."""
    names = list(dict.fromkeys(name for bar in bars for name in bar.parts))
    colours = {name: STEP_COLOURS[number % len(STEP_COLOURS)] for number, name in enumerate(names)}
    scale = (WIDTH - _LABELS - _VALUES) / max(sum(bar.parts.values()) for bar in bars)
    parts = []
    for number, bar in enumerate(bars):
        top, left = _TOP + number * _ROW, float(_LABELS)
        parts.append(_label(bar.label, top))
        for name, value in bar.parts.items():
            parts.append(_rectangle(left, top + 5, value * scale, colours[name]))
            left += value * scale
        parts.append(_text(left + 6, top + 20, bar.text, _QUIET))
    legend = _TOP + len(bars) * _ROW + 12
    left = float(_LABELS)
    for name in names:
        parts.append(f"<rect x='{left:.1f}' y='{legend}' width='12' height='12' fill='{colours[name]}'/>")
        parts.append(_text(left + 17, legend + 11, name, _QUIET))
        left += 34 + 8 * len(name)
    return _picture(title, legend + 26, parts)


def log_log_chart(title: str, x_title: str, points: Sequence[Point]) -> str:
    """Return points on two logarithmic scales, joined, with a dashed line of linear growth through the last point."""
    left, right, top, bottom = 70.0, WIDTH - 130.0, float(_TOP), _TOP + 250.0
    x_low, x_high = _decades([point.x for point in points])
    y_low, y_high = _decades([point.y for point in points])

    def across(x: float) -> float:
        return left + (math.log10(x) - x_low) / (x_high - x_low) * (right - left)

    def up(y: float) -> float:
        return bottom - (math.log10(y) - y_low) / (y_high - y_low) * (bottom - top)

    parts = []
    for decade in range(x_low, x_high + 1):
        x = across(10.0**decade)
        parts.append(_line(x, top, x, bottom, _GRID))
        parts.append(_text(x, bottom + 18, f"{10**decade:,}", _QUIET, anchor="middle"))
    for decade in range(y_low, y_high + 1):
        y = up(10.0**decade)
        parts.append(_line(left, y, right, y, _GRID))
        parts.append(_text(left - 8, y + 4, f"{10.0**decade:,g}", _QUIET, anchor="end"))
    parts.append(_text((left + right) / 2, bottom + 38, x_title, _QUIET, anchor="middle"))
    # The line of linear growth, as far as it stays inside.
    last = points[-1]
    x_start = max(10.0**x_low, last.x * 10.0**y_low / last.y)
    parts.append(_line(across(x_start), up(last.y * x_start / last.x), across(last.x), up(last.y), _QUIET, "5 4"))
    for before, after in pairwise(points):
        parts.append(_line(across(before.x), up(before.y), across(after.x), up(after.y), HIGHLIGHT))
    for point in points:
        parts.append(f"<circle cx='{across(point.x):.1f}' cy='{up(point.y):.1f}' r='4' fill='{HIGHLIGHT}'/>")
        parts.append(_text(across(point.x) + 9, up(point.y) + 14, point.text, _TEXT))
    return _picture(title, bottom + 50, parts)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten below the least and above the greatest value."""
    low = math.floor(math.log10(min(values)))
    return low, max(low + 1, math.ceil(math.log10(max(values))))


def _picture(title: str, height: float, parts: Sequence[str]) -> str:
    """Return a whole SVG file on white, so that it reads on any page."""
    return "\n".join(
        [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0f}' width='{WIDTH}' "
            f"height='{height:.0f}' role='img' {_FONT}>",
            f"<title>{escape(title)}</title>",
            f"<rect width='{WIDTH}' height='{height:.0f}' fill='#ffffff'/>",
            f"<text x='12' y='26' fill='{_TEXT}' font-weight='600' font-size='15'>{escape(title)}</text>",
            *parts,
            "</svg>",
            "",
        ]
    )


def _label(text: str, top: float) -> str:
    """Return the name of a bar, to its left."""
    return _text(_LABELS - 10, top + 20, text, _TEXT, anchor="end")


def _text(x: float, y: float, text: str, colour: str, anchor: str = "start") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' fill='{colour}' text-anchor='{anchor}'>{escape(text)}</text>"


def _rectangle(x: float, y: float, width: float, colour: str) -> str:
    return f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='20' fill='{colour}'/>"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dashes: str = "none") -> str:
    return (
        f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}' "
        f"stroke-width='{1 if colour == _GRID else 2}' stroke-dasharray='{dashes}'/>"
    )
