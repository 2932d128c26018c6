"""Charts as SVG: scales, axes, lines, levels and marks. The page's style sheet sets the colours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.runtime.text import html_text

Floats = NDArray[np.float64]

_LEFT, _RIGHT, _BOTTOM = 52, 14, 40
_LINE = 16
_CHARACTER = 6.6
"""Height of a line of text and width of a character, in pixels."""
_STEPS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps the values ``low`` and ``high`` to the pixels ``start`` and ``end``."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Frame:
    """A chart of ``width`` and ``height`` pixels and its two scales."""

    width: int
    height: int
    x: Scale
    y: Scale

    @classmethod
    def of(cls, size: tuple[int, int], x: tuple[float, float], y: tuple[float, float], lines_above: int = 1) -> Frame:
        """Returns a frame for ``x`` and ``y`` from low to high, with ``lines_above`` lines of text above the plot."""
        width, height = size
        top = lines_above * _LINE + 8
        return cls(width, height, Scale(*x, _LEFT, width - _RIGHT), Scale(*y, height - _BOTTOM, top))


def svg(frame: Frame, parts: Iterable[str], label: str) -> str:
    """Returns the chart; ``label`` describes it for screen readers."""
    body = "\n".join(part for part in parts if part)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {frame.width} {frame.height}" role="img" '
        f'aria-label="{html_text(label)}">\n{body}\n</svg>'
    )


def axes(frame: Frame, x_label: str, y_label: str) -> str:
    """Returns grid lines with their numbers, and the labels of the axes."""
    middle = (frame.x.start + frame.x.end) / 2
    across = [_x_tick(frame, value) for value in ticks(frame.x.low, frame.x.high, frame.width // 90)]
    up = [_y_tick(frame, value) for value in ticks(frame.y.low, frame.y.high, frame.height // 45)]
    names = [
        text(x_label, (middle, frame.height - 6), "soft", "middle"),
        text(y_label, (4, frame.y.end - 10), "soft"),
    ]
    return "\n".join([*across, *up, *names])


def ticks(low: float, high: float, most: int) -> list[float]:
    """Returns round numbers from ``low`` to ``high``, about ``most`` of them."""
    rough = (high - low) / max(most, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in _STEPS if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def curve(frame: Frame, x: Floats, y: Floats, kind: str) -> str:
    """Returns a line through the points, broken where ``y`` is NaN."""
    x, y = thinned(x, y, frame.width)
    pieces: list[list[str]] = [[]]
    for across, up in zip(x.tolist(), y.tolist(), strict=True):
        if math.isnan(up):
            pieces.append([])
        else:
            pieces[-1].append(f"{frame.x.at(across):.1f} {frame.y.at(up):.1f}")
    drawn = "".join("M" + "L".join(points if len(points) > 1 else points * 2) for points in pieces if points)
    return f'<path class="{kind}" d="{drawn}"/>' if drawn else ""


def thinned(x: Floats, y: Floats, columns: int) -> tuple[Floats, Floats]:
    """Returns the lowest and the highest point in each of ``columns``, or all points if they are few."""
    if len(x) <= 2 * columns:
        return x, y
    chosen: set[int] = {0, len(x) - 1}
    for part in np.array_split(np.arange(len(x)), columns):
        known = part[~np.isnan(y[part])]
        chosen.update([int(known[y[known].argmin()]), int(known[y[known].argmax()])] if len(known) else [int(part[0])])
    at = np.array(sorted(chosen))
    return x[at], y[at]


def bars(frame: Frame, edges: Floats, heights: Floats) -> str:
    """Returns one bar between each two neighbouring ``edges``."""
    base = frame.y.at(0.0)
    drawn = []
    for low, high, height in zip(edges[:-1].tolist(), edges[1:].tolist(), heights.tolist(), strict=True):
        left, right, top = frame.x.at(low), frame.x.at(high), frame.y.at(height)
        width = max(right - left - 1, 0.5)
        drawn.append(f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{base - top:.1f}"/>')
    return "".join(drawn)


def level(frame: Frame, value: float, kind: str) -> str:
    """Returns a horizontal line at ``value``, or nothing if it is outside the chart."""
    if not frame.y.low <= value <= frame.y.high:
        return ""
    y = frame.y.at(value)
    return f'<line class="{kind}" x1="{frame.x.start}" y1="{y:.1f}" x2="{frame.x.end}" y2="{y:.1f}"/>'


def mark(frame: Frame, value: float, kind: str, line: float | None = None) -> str:
    """Returns a vertical line at ``value``, up to the top of the plot or to the text ``line`` above it."""
    x = frame.x.at(value)
    top = frame.y.end if line is None else _LINE * line + 4
    return f'<line class="{kind}" x1="{x:.1f}" y1="{frame.y.start:.1f}" x2="{x:.1f}" y2="{top:.1f}"/>'


def labels(frame: Frame, marks: Sequence[tuple[float, str, str]]) -> tuple[list[str], int]:
    """Returns the marks with their labels above the plot, without overlap, and the number of text lines they take. A
    mark is (value, words, kind). Call it first to count the lines, then with a frame that has room for them."""
    ends: list[float] = []
    drawn = []
    for value, words, kind in sorted(marks):
        width = _CHARACTER * len(words)
        x = frame.x.at(value)
        left = min(x + 4, frame.width - width)
        line = next((at for at, end in enumerate(ends) if end + 8 < min(x, left)), len(ends))
        ends[line : line + 1] = [left + width]
        drawn.append(mark(frame, value, kind, line) + text(words, (left, _LINE * (line + 1) - 2), kind))
    return drawn, len(ends)


def keys(frame: Frame, named: Sequence[tuple[str, str]]) -> str:
    """Returns the legend (words, kind of line), above the plot and aligned right."""
    right, drawn = frame.x.end, []
    for words, kind in reversed(named):
        drawn.append(text(words, (right, frame.y.end - 10), kind, "end"))
        right -= _CHARACTER * len(words) + 14
    return "".join(drawn)


def text(words: str, place: tuple[float, float], kind: str = "", anchor: str = "start") -> str:
    named = f' class="{kind}"' if kind else ""
    at = f'x="{place[0]:.1f}" y="{place[1]:.1f}"'
    return f'<text{named} {at} text-anchor="{anchor}">{html_text(words)}</text>'


def _x_tick(frame: Frame, value: float) -> str:
    x = frame.x.at(value)
    line = f'<line class="grid" x1="{x:.1f}" y1="{frame.y.start:.1f}" x2="{x:.1f}" y2="{frame.y.end:.1f}"/>'
    words = _number(value)
    return line + text(words, (min(x, frame.width - _CHARACTER * len(words) / 2), frame.y.start + 15), "soft", "middle")


def _y_tick(frame: Frame, value: float) -> str:
    y = frame.y.at(value)
    line = f'<line class="grid" x1="{frame.x.start}" y1="{y:.1f}" x2="{frame.x.end}" y2="{y:.1f}"/>'
    return line + text(_number(value), (frame.x.start - 6, y + 4), "soft", "end")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.6g}"
