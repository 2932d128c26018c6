"""Charts as SVG: scales, axes, lines, bars and labelled marks. A style sheet sets the colours of the classes.

All functions return SVG as text. ``kind`` is the CSS class of an element; words are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.runtime.text import html_text

Floats = NDArray[np.float64]
Point = tuple[float, float]

_LEFT, _RIGHT, _BOTTOM = 52, 14, 40
_LINE = 16
_CHARACTER = 6.6
"""Height of a line of text and width of a character, in pixels."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps the values ``low`` and ``high`` to the pixels ``start`` and ``end``, by their logarithms with ``log``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Returns the pixel of ``value``; a value beyond an end is at that end."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


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


def svg(width: int, height: int, parts: Iterable[str], label: str, style: str = "") -> str:
    """Returns the picture; ``label`` describes it for screen readers, ``style`` is its own style sheet."""
    own_style = [f"<style>{style}</style>"] if style else []
    body = "\n".join([*own_style, *(part for part in parts if part)])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html_text(label)}">\n{body}\n</svg>'
    )


def text(words: str, at: Point, kind: str = "", anchor: str = "start") -> str:
    """Returns ``words`` with their baseline at ``at``."""
    x, y = at
    return f'<text{_class(kind)} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html_text(words)}</text>'


def line(kind: str, start: Point, end: Point) -> str:
    """Returns a straight line."""
    (x1, y1), (x2, y2) = start, end
    return f'<line{_class(kind)} x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def path(points: Sequence[Point], kind: str) -> str:
    """Returns a line through ``points``, or nothing for fewer than two."""
    return f'<path{_class(kind)} d="{_steps(points)}"/>' if len(points) > 1 else ""


def circle(centre: Point, radius: float) -> str:
    """Returns a circle."""
    return f'<circle cx="{centre[0]:.1f}" cy="{centre[1]:.1f}" r="{radius}"/>'


def axes(frame: Frame, x_label: str, y_label: str) -> str:
    """Returns grid lines with their numbers, and the labels of the axes."""
    across, up = frame.x, frame.y
    parts = []
    for value in ticks(across.low, across.high, frame.width // 90):
        x, words = across.at(value), _number(value)
        below = min(x, frame.width - _CHARACTER * len(words) / 2), up.start + 15
        parts += [line("grid", (x, up.start), (x, up.end)), text(words, below, "soft", "middle")]
    for value in ticks(up.low, up.high, frame.height // 45):
        y = up.at(value)
        parts += [line("grid", (across.start, y), (across.end, y))]
        parts += [text(_number(value), (across.start - 6, y + 4), "soft", "end")]
    parts += [text(x_label, ((across.start + across.end) / 2, frame.height - 6), "soft", "middle")]
    return "\n".join([*parts, text(y_label, (4, up.end - 10), "soft")])


def ticks(low: float, high: float, most: int) -> list[float]:
    """Returns round numbers from ``low`` to ``high``, about ``most`` of them."""
    rough = (high - low) / max(most, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def curve(frame: Frame, x: Floats, y: Floats, kind: str) -> str:
    """Returns a line through the points, broken where ``y`` is NaN."""
    x, y = thinned(x, y, frame.width)
    pieces: list[list[Point]] = [[]]
    for across, up in zip(x.tolist(), y.tolist(), strict=True):
        if math.isnan(up):
            pieces.append([])
        else:
            pieces[-1].append((frame.x.at(across), frame.y.at(up)))
    drawn = "".join(_steps(points if len(points) > 1 else points * 2) for points in pieces if points)
    return f'<path{_class(kind)} d="{drawn}"/>' if drawn else ""


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
    base, across = frame.y.at(0.0), [frame.x.at(edge) for edge in edges.tolist()]
    drawn = []
    for left, right, height in zip(across[:-1], across[1:], heights.tolist(), strict=True):
        width, top = max(right - left - 1, 0.5), frame.y.at(height)
        drawn.append(f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{base - top:.1f}"/>')
    return "".join(drawn)


def level(frame: Frame, value: float, kind: str) -> str:
    """Returns a horizontal line at ``value``, or nothing if it is outside the chart."""
    if not frame.y.low <= value <= frame.y.high:
        return ""
    y = frame.y.at(value)
    return line(kind, (frame.x.start, y), (frame.x.end, y))


def mark(frame: Frame, value: float, kind: str, text_line: int | None = None) -> str:
    """Returns a vertical line at ``value``, up to the top of the plot or to the line of text ``text_line`` above it."""
    x = frame.x.at(value)
    return line(kind, (x, frame.y.start), (x, frame.y.end if text_line is None else _LINE * text_line + 4))


def labels(frame: Frame, marks: Sequence[tuple[float, str, str]]) -> tuple[list[str], int]:
    """Returns the marks with their labels above the plot, without overlap, and the number of text lines they take. A
    mark is (value, words, kind). Call it first to count the lines, then with a frame that has room for them."""
    ends: list[float] = []
    drawn = []
    for value, words, kind in sorted(marks):
        width = _CHARACTER * len(words)
        x = frame.x.at(value)
        left = min(x + 4, frame.width - width)
        row = next((at for at, end in enumerate(ends) if end + 8 < min(x, left)), len(ends))
        ends[row : row + 1] = [left + width]
        drawn.append(mark(frame, value, kind, row) + text(words, (left, _LINE * (row + 1) - 2), kind))
    return drawn, len(ends)


def legend(frame: Frame, entries: Sequence[tuple[str, str]]) -> str:
    """Returns the legend (words, kind of line), above the plot and aligned right."""
    right, drawn = frame.x.end, []
    for words, kind in reversed(entries):
        drawn.append(text(words, (right, frame.y.end - 10), kind, "end"))
        right -= _CHARACTER * len(words) + 14
    return "".join(drawn)


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _steps(points: Iterable[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.6g}"
