"""The report's picture, as SVG: a line an attack, its clone's fidelity over queries, a mark where it was flagged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from detector.lab.evaluation.results import AttackResult
from detector.lab.evaluation.words import group_by_attack, percent
from detector.lab.svg import Point, circle, path, text
from detector.lab.wrappers import PLAIN

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 960, 240, 250, 44, 52
_ROW, _PLOT = 44, 32
"""Height of a line of the picture, and of the plot in it from 0 to 100 percent."""

_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}.small{font-size:11px;fill:#57606a}.name{font-weight:600}"
    ".grid{stroke:#d8dee4}.base{stroke:#8c959f}path{fill:none;stroke-width:2;stroke-linejoin:round}"
    ".missed path,.missed circle{stroke:#b3261e}.caught path,.caught circle{stroke:#1a6f52}"
    ".missed .area{fill:#b3261e}.caught .area{fill:#1a6f52}path.area{stroke:none;opacity:.14}"
    "path.later{stroke-dasharray:2 4;opacity:.7}.caught circle{fill:#1a6f52}.missed circle{fill:#fff;stroke-width:2}"
    "text.missed{fill:#b3261e}text.caught{fill:#1a6f52}"
)


@dataclass(frozen=True, slots=True)
class Axis:
    """Queries on a logarithmic axis from 10**``low`` to 10**``high``, in pixels of the picture."""

    low: int
    high: int

    @classmethod
    def over(cls, runs: Sequence[AttackResult]) -> Axis:
        """Whole powers of ten, so that there is a number at either end."""
        first = min(_first(run) for run in runs)
        last = max(run.sent for run in runs)
        low = math.floor(math.log10(max(first, 1)))
        return cls(low, max(math.ceil(math.log10(last)), low + 1))

    def x(self, queries: float) -> float:
        """Where ``queries`` stand; fewer than the axis begins with stand at its beginning."""
        share = (math.log10(max(queries, 10**self.low)) - self.low) / (self.high - self.low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def worst_runs(results: Iterable[AttackResult]) -> list[AttackResult]:
    """Returns, for each attack, the run that got furthest unseen; missed ones first."""
    worst = [max(runs, key=lambda run: (not run.caught, run.got_unseen)) for runs in group_by_attack(results).values()]
    return sorted(worst, key=lambda run: (run.caught, -run.got_unseen))


def picture(results: Iterable[AttackResult]) -> str:
    """One SVG element; empty without an attack."""
    runs = worst_runs(results)
    if not runs:
        return ""
    axis, height = Axis.over(runs), _TOP + _ROW * len(runs) + _BOTTOM
    lines = [_line(run, axis, _TOP + _ROW * number) for number, run in enumerate(runs)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="Fidelity of the clone over queries, one line an attack">\n<style>{_STYLE}</style>\n'
        + "\n".join([*_axes(axis, _TOP + _ROW * len(runs)), *lines])
        + "\n</svg>"
    )


def _first(run: AttackResult) -> int:
    """Returns the smallest number of queries with anything to draw."""
    return min([run.sent, *(point.queries for point in run.curve[:1]), run.first_verdict or run.sent])


def _axes(axis: Axis, bottom: float) -> list[str]:
    left, right = _LEFT, _WIDTH - _RIGHT
    parts = []
    for power in range(axis.low, axis.high + 1):
        x = axis.x(10.0**power)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom:.1f}"/>')
        parts.append(text(f"{10**power:,}", (x, bottom + 18), "small", "middle"))
    parts.append(text("queries sent", ((left + right) / 2, bottom + 38), anchor="middle"))
    parts.append(text("attack, and where it was tried", (0, 16), "small"))
    parts.append(text("clone agrees with the model, 0 to 100% in each line", (left, 16), "small"))
    parts.append(text("stolen unseen", (right + 16, 16), "small"))
    return parts


def _line(run: AttackResult, axis: Axis, top: float) -> str:
    """Name, curve with its mark, and the outcome of one run."""
    base, kind, right = top + _PLOT, "caught" if run.caught else "missed", _WIDTH - _RIGHT
    name = run.attack if run.wrapper == PLAIN else f"{run.attack}, {run.wrapper}"
    outcome, detail = _outcome(run)
    return (
        f'<g class="{kind}"><line class="base" x1="{_LEFT}" y1="{base}" x2="{right}" y2="{base}"/>'
        + _curve(run, axis, base)
        + text(_short(name), (0, base - 14), "name")
        + text(_short(run.victim), (0, base + 1), "small")
        + text(outcome, (right + 16, base - 14), kind)
        + text(detail, (right + 16, base + 1), "small")
        + "</g>"
    )


def _curve(run: AttackResult, axis: Axis, base: float) -> str:
    """Solid up to the first verdict, dotted from there on; a ring at the end of a run that was missed."""
    points = [(axis.x(point.queries), base - point.test * _PLOT) for point in run.curve]
    if run.first_verdict is None:
        end = points[-1] if points else (axis.x(run.sent), base)
        return _area(points, base) + path(points, "sooner") + circle(end, 3.5)
    got = run.got_at_verdict
    mark = axis.x(run.first_verdict), base - (0 if got is None else got.test) * _PLOT
    before = [*(point for point in points if point[0] < mark[0]), mark]
    after = [point for point in points if point[0] > mark[0]]
    later = after if got is None else [mark, *after]
    return _area(before, base) + path(before, "sooner") + path(later, "later") + circle(mark, 5)


def _outcome(run: AttackResult) -> tuple[str, str]:
    then, end = run.got_at_verdict, run.got_at_end
    verdict = "missed" if run.first_verdict is None else f"caught at query {run.first_verdict:,}"
    if end is None:
        return verdict, f"no clone measured in {run.sent:,} queries"
    if run.first_verdict is None:
        return f"{verdict}: {percent(end.test)}", f"after all {run.sent:,} queries"
    by_then = "no clone yet" if then is None else percent(then.test)
    return f"{verdict}: {by_then}", f"let alone: {percent(end.test)} after {run.sent:,}"


def _short(words: str) -> str:
    return words if len(words) <= 36 else f"{words[:35]}…"


def _area(points: Sequence[Point], base: float) -> str:
    if len(points) < 2:
        return ""
    return path([(points[0][0], base), *points, (points[-1][0], base)], "area")
