"""The report's picture, as SVG: a line per attack, its clone's fidelity over queries, a mark where it was flagged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from detector.explain.chart import Point, Scale, circle, line, path, svg, text
from detector.lab.evaluation.results import AttackResult, group_by_attack, percent
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


def worst_runs(results: Iterable[AttackResult]) -> list[AttackResult]:
    """Returns, for each attack, the run with the best clone before a verdict; missed runs first."""
    worst = [
        max(runs, key=lambda result: (not result.caught, result.agreement_unseen))
        for runs in group_by_attack(results).values()
    ]
    return sorted(worst, key=lambda result: (result.caught, -result.agreement_unseen))


def picture(results: Iterable[AttackResult]) -> str:
    """Returns one SVG element, or nothing without an attack."""
    runs = worst_runs(results)
    if not runs:
        return ""
    axis, bottom = query_axis(runs), _TOP + _ROW * len(runs)
    lines = [_row(result, axis, _TOP + _ROW * number) for number, result in enumerate(runs)]
    label = "Fidelity of the clone over queries, one line an attack"
    return svg(_WIDTH, bottom + _BOTTOM, [*_axes(axis, bottom), *lines], label, _STYLE)


def query_axis(runs: Sequence[AttackResult]) -> Scale:
    """Returns a logarithmic axis of queries, from one power of ten to another."""
    low = math.floor(math.log10(max(min(_first(result) for result in runs), 1)))
    high = max(math.ceil(math.log10(max(result.run.sent for result in runs))), low + 1)
    return Scale(10**low, 10**high, _LEFT, _WIDTH - _RIGHT, log=True)


def _first(result: AttackResult) -> int:
    """Returns the smallest number of queries with anything to draw."""
    return min(
        [result.run.sent, *(point.queries for point in result.run.curve[:1]), result.first_verdict or result.run.sent]
    )


def _axes(axis: Scale, bottom: float) -> list[str]:
    parts = []
    for power in range(round(math.log10(axis.low)), round(math.log10(axis.high)) + 1):
        x = axis.at(10**power)
        parts += [line("grid", (x, _TOP - 6), (x, bottom)), text(f"{10**power:,}", (x, bottom + 18), "small", "middle")]
    return [
        *parts,
        text("queries sent", ((axis.start + axis.end) / 2, bottom + 38), anchor="middle"),
        text("attack, and where it was tried", (0, 16), "small"),
        text("clone agrees with the model, 0 to 100% in each line", (axis.start, 16), "small"),
        text("stolen unseen", (axis.end + 16, 16), "small"),
    ]


def _row(result: AttackResult, axis: Scale, top: float) -> str:
    """Returns the name, the curve with its mark, and the outcome of one run."""
    base, kind, right = top + _PLOT, "caught" if result.caught else "missed", axis.end + 16
    name = result.run.attack if result.run.wrapper == PLAIN else f"{result.run.attack}, {result.run.wrapper}"
    outcome, detail = _outcome(result)
    parts = [
        line("base", (axis.start, base), (axis.end, base)),
        _curve(result, axis, base),
        text(_short(name), (0, base - 14), "name"),
        text(_short(result.run.victim), (0, base + 1), "small"),
        text(outcome, (right, base - 14), kind),
        text(detail, (right, base + 1), "small"),
    ]
    return f'<g class="{kind}">{"".join(parts)}</g>'


def _curve(result: AttackResult, axis: Scale, base: float) -> str:
    """Returns a line, solid up to the first verdict and dotted from there on; a ring at the end of a missed run."""
    points = [(axis.at(point.queries), base - point.test * _PLOT) for point in result.run.curve]
    if result.first_verdict is None:
        end = points[-1] if points else (axis.at(result.run.sent), base)
        return _area(points, base) + path(points, "sooner") + circle(end, 3.5)
    agreement = result.clone_at_verdict
    mark = axis.at(result.first_verdict), base - (0 if agreement is None else agreement.test) * _PLOT
    before = [*(point for point in points if point[0] < mark[0]), mark]
    after = [point for point in points if point[0] > mark[0]]
    later = after if agreement is None else [mark, *after]
    return _area(before, base) + path(before, "sooner") + path(later, "later") + circle(mark, 5)


def _area(points: Sequence[Point], base: float) -> str:
    if len(points) < 2:
        return ""
    return path([(points[0][0], base), *points, (points[-1][0], base)], "area")


def _outcome(result: AttackResult) -> tuple[str, str]:
    then, end = result.clone_at_verdict, result.clone_at_end
    verdict = "missed" if result.first_verdict is None else f"caught at query {result.first_verdict:,}"
    if end is None:
        return verdict, f"no clone measured in {result.run.sent:,} queries"
    if result.first_verdict is None:
        return f"{verdict}: {percent(end.test)}", f"after all {result.run.sent:,} queries"
    by_then = "no clone yet" if then is None else percent(then.test)
    return f"{verdict}: {by_then}", f"let alone: {percent(end.test)} after {result.run.sent:,}"


def _short(words: str) -> str:
    return words if len(words) <= 36 else f"{words[:35]}…"
