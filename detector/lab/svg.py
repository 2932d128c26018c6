"""Pieces of an SVG picture; ``kind`` is what its style sheet calls them."""

from __future__ import annotations

from collections.abc import Sequence

from detector.runtime.text import html_text

Point = tuple[float, float]


def path(points: Sequence[Point], kind: str) -> str:
    """A line through ``points``; nothing for fewer than two."""
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path class="{kind}" d="M{steps}"/>' if len(points) > 1 else ""


def circle(centre: Point, radius: float) -> str:
    return f'<circle cx="{centre[0]:.1f}" cy="{centre[1]:.1f}" r="{radius}"/>'


def text(words: str, place: Point, kind: str = "", anchor: str = "start") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{place[0]:.1f}" y="{place[1]:.1f}" text-anchor="{anchor}">{html_text(words)}</text>'
