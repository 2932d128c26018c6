"""Curves in percent over queries, as SVG: a grid of panels, two in a row, each with its lines named at their ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from detector.explain.chart import Point, path, text

_WIDTH, _HEIGHT = 430, 230
"""Of a panel; its plot is what the margins leave."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 84, 30, 40
_COLOURS = ("#1a6f52", "#2563a8", "#b3261e", "#8250a8")
_APART = 14.0
"""Least distance between the names of two lines."""

_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}.small{font-size:11px;fill:#57606a}.name{font-weight:600}"
    ".grid{stroke:#d8dee4}path{fill:none;stroke-width:2;stroke-linejoin:round}"
    + "".join(f"path.l{at}{{stroke:{colour}}}text.l{at}{{fill:{colour}}}" for at, colour in enumerate(_COLOURS))
)


class Line(NamedTuple):
    """``values`` in percent at ``queries``."""

    name: str
    queries: Sequence[int]
    values: Sequence[float]


class Panel(NamedTuple):
    """Up to four lines under a title."""

    title: str
    lines: Sequence[Line]


def picture(panels: Sequence[Panel], figure: str) -> str:
    """One SVG element about ``figure``. All panels share one logarithmic axis of queries."""
    low = min(line.queries[0] for panel in panels for line in panel.lines)
    high = max(line.queries[-1] for panel in panels for line in panel.lines)
    axis = _Axis(math.log10(low), math.log10(high))
    height = _HEIGHT * math.ceil(len(panels) / 2)
    parts = [
        f'<g transform="translate({_WIDTH * (at % 2)},{_HEIGHT * (at // 2)})">{_panel(panel, axis)}</g>'
        for at, panel in enumerate(panels)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _WIDTH} {height}" role="img" '
        f'aria-label="{figure} in percent over queries">\n<style>{_STYLE}</style>\n'
        '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>"
    )


class _Axis(NamedTuple):
    """Powers of ten at the left and right end."""

    low: float
    high: float

    def point(self, queries: float, percent: float) -> Point:
        share = (math.log10(queries) - self.low) / (self.high - self.low)
        x = _LEFT + share * (_WIDTH - _LEFT - _RIGHT)
        return x, _HEIGHT - _BOTTOM - percent / 100 * (_HEIGHT - _TOP - _BOTTOM)


def _panel(panel: Panel, axis: _Axis) -> str:
    ends = _spread([axis.point(line.queries[-1], line.values[-1])[1] for line in panel.lines])
    parts = [text(panel.title, (_LEFT, 16), "name"), *_grid(axis)]
    for at, (line, end) in enumerate(zip(panel.lines, ends, strict=True)):
        points = [axis.point(queries, value) for queries, value in zip(line.queries, line.values, strict=True)]
        parts += [path(points, f"l{at}"), text(line.name, (_WIDTH - _RIGHT + 6, end + 4), f"l{at}")]
    return "".join(parts)


def _grid(axis: _Axis) -> list[str]:
    """Lines at every quarter and every power of ten, with their numbers."""
    ends = 10**axis.low, 10**axis.high
    parts = []
    for percent in (0, 25, 50, 75, 100):
        (left, y), (right, _) = (axis.point(end, percent) for end in ends)
        parts.append(f'<line class="grid" x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}"/>')
        parts.append(text(f"{percent}%", (left - 6, y + 4), "small", "end"))
    for power in range(math.ceil(axis.low), math.floor(axis.high) + 1):
        x, y = axis.point(10**power, 0)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{y:.1f}"/>')
        parts.append(text(f"{10**power:,}", (x, y + 16), "small", "middle"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return [*parts, text("queries", (middle, _HEIGHT - 6), "small", "middle")]


def _spread(heights: Sequence[float]) -> list[float]:
    """``heights`` moved down where they would overlap, in the same order."""
    spread = list(heights)
    order = sorted(range(len(heights)), key=lambda at: heights[at])
    for above, below in pairwise(order):
        spread[below] = max(spread[below], spread[above] + _APART)
    return spread
