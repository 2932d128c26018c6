"""The plots of an account over its query number: each an SVG with a title and a caption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from detector.cli.explanation.account import Account
from detector.cli.explanation.chart import Frame, axes, bars, curve, keys, labels, level, mark, svg
from detector.cli.explanation.weighing import about, scores_of
from detector.cli.explanation.words import UNIT, number
from detector.core.signals.margin import BLOCKED_AT
from detector.core.signals.shapiro_wilk import CONSTANT

Floats = NDArray[np.float64]

_WIDE, _HALF = (800, 250), (400, 190)
_MOST_BINS, _FEWEST_BINS = 40, 8
_NUMBER = "query number"


@dataclass(frozen=True, slots=True)
class Plot:
    """An SVG with a title and a caption on how to read it."""

    title: str
    svg: str
    caption: str


def suspicion(account: Account) -> Plot | None:
    """Returns D against the threshold, with all events on record, or None without a profile."""
    then = account.then
    if then is None:
        return None
    values = account.course.signals["suspicion"]
    frame, names = _marked(account, (0.0, _above(values, then.threshold)))
    parts = [
        *names,
        axes(frame, _NUMBER, "D, standard deviations"),
        curve(frame, _queries(account), values, "curve"),
        level(frame, then.threshold, "limit"),
        keys(frame, [(f"threshold {then.threshold:.1f}", "limit")]),
    ]
    caption = (
        f"D is the deviation that the closest honest account leaves unexplained, summed over all measures, in {UNIT}. "
        "An account is flagged above the threshold, and stays flagged until an operator clears it."
    )
    return Plot("Unexplained deviation D", svg(frame, parts, "D over query number"), caption)


def measures(account: Account) -> list[Plot]:
    """Returns a small plot for each measure that contributes."""
    return [_measure(account, name) for name in account.telling]


def prada_over_time(account: Account) -> Plot:
    """Returns W against delta."""
    values, delta = account.course.signals["prada"], account.config.prada.delta
    low = min(float(np.nanmin(values)) if np.isfinite(values).any() else 1.0, delta) - 0.02
    if account.has_profile:
        frame = Frame.of(_HALF, _span(account), (low, 1.0))
        names = [_verdict_mark(account, frame)]
    else:
        frame, names = _marked(account, (low, 1.0))
    parts = [
        *names,
        axes(frame, _NUMBER, "Shapiro-Wilk W"),
        curve(frame, _queries(account), values, "curve"),
        level(frame, delta, "limit"),
        keys(frame, [(f"delta {delta:g}", "limit")]),
    ]
    caption = (
        "W near 1: distances are normally distributed, as for honest accounts. Below delta the account is flagged."
    )
    return Plot("PRADA: W over time", svg(frame, parts, "PRADA's W over query number"), caption)


def prada_distances(account: Account) -> list[Plot]:
    """Returns histograms of the distances that PRADA tests, at the verdict and at the end, with the fitted normal."""
    course = account.course
    return [_distances(own, row) for row, own in course.distances.items() if len(own) >= _FEWEST_BINS]


def _distances(distances: Floats, row: int) -> Plot:
    kept = _kept(distances)
    edges, heights = _histogram(distances)
    mean, deviation = float(kept.mean()), float(kept.std())
    x = np.linspace(edges[0], edges[-1], 161)
    known = deviation > CONSTANT * mean
    fitted = _normal(x, mean, deviation) * len(kept) * (edges[1] - edges[0]) if known else np.full(161, np.nan)
    top = 1.1 * max(float(heights.max()), float(np.nan_to_num(fitted).max()))
    frame = Frame.of(_HALF, (float(edges[0]), float(edges[-1])), (0.0, top))
    parts = [
        axes(frame, "distance to the nearest own earlier query", "queries"),
        bars(frame, edges, heights),
        curve(frame, x, fitted, "fitted"),
    ]
    caption = (
        f"Bars: the {len(distances):,} distances that count at query {row + 1:,}. Line: the normal distribution fitted "
        f"to them, mean {mean:.3g}, deviation {deviation:.3g} feature units."
    )
    title = f"PRADA: distances at query {row + 1:,}"
    return Plot(title, svg(frame, parts, "Histogram of distances and the fitted normal"), caption)


def margin(account: Account) -> Plot | None:
    """Returns the share of queries close to the decision boundary, or None if the profile has no margins."""
    signals = account.course.signals
    shown = [("margin.pooled", "curve", "of all queries"), ("margin.all_leaves", "second", "mean over all leaves")]
    known = [(name, kind, words) for name, kind, words in shown if np.isfinite(signals[name]).any()]
    if not known:
        return None
    top = _above(np.concatenate([signals[name] for name, _, _ in known]), BLOCKED_AT)
    frame = Frame.of(_HALF, _span(account), (0.0, min(top, 1.0)))
    limit = level(frame, BLOCKED_AT, "limit") + keys(frame, [(f"blocks at {BLOCKED_AT:g}", "limit")])
    caption = (
        f"The share of queries closer to the decision boundary than most honest ones{_legend(known)}. "
        f"The published design blocks at {BLOCKED_AT:g}; here it is one measure among others."
    )
    return Plot("Margin ratio", _lines(account, frame, "share of queries", known, limit), caption)


def exposure(account: Account) -> Plot | None:
    """Returns how much of the model the answers reveal, or None if the profile has no validation set."""
    signals = account.course.signals
    shown = [("information_gain", "curve", "a tree trained on the answers"), ("coverage", "second", "cells reached")]
    known = [(name, kind, words) for name, kind, words in shown if np.isfinite(signals[name]).any()]
    if not known:
        return None
    top = min(_above(np.concatenate([signals[name] for name, _, _ in known]), 10.0), 100.0)
    caption = (
        f"How much of the model the answers reveal{_legend(known)}, in percent of the owner's validation set. "
        "These are meters: they flag no account."
    )
    frame = Frame.of(_HALF, _span(account), (0.0, top))
    return Plot("Exposure", _lines(account, frame, "percent", known), caption)


def _lines(account: Account, frame: Frame, unit: str, known: Sequence[tuple[str, str, str]], limit: str = "") -> str:
    """Returns an SVG of signals over query number."""
    lines = [curve(frame, _queries(account), account.course.signals[name], kind) for name, kind, _ in known]
    parts = [axes(frame, _NUMBER, unit), *lines, limit, _verdict_mark(account, frame)]
    return svg(frame, parts, f"{', '.join(words for _, _, words in known)}, over query number")


def _measure(account: Account, name: str) -> Plot:
    then = account.then
    assert then is not None
    part, values = then.part(name), scores_of(account.course, name)
    seen = _above(values, part.likest if np.isfinite(part.likest) else 0.0)
    top = _above(values, part.most) if part.most < 2 * seen else seen
    frame = Frame.of(_HALF, _span(account), (min(float(np.nanmin(values)), 0.0), top))
    legend = [(f"closest honest {number(part.likest)}", "likest"), (f"any honest {number(part.most)}", "most")]
    parts = [
        axes(frame, _NUMBER, "standard deviations"),
        level(frame, part.likest, "likest"),
        level(frame, part.most, "most"),
        curve(frame, _queries(account), values, "curve"),
        _verdict_mark(account, frame),
        keys(frame, legend),
    ]
    return Plot(name, svg(frame, parts, f"{name} over query number"), about(name))


def _marked(account: Account, y: tuple[float, float]) -> tuple[Frame, list[str]]:
    """Returns a wide frame with room for the labels of all events, and the labels."""
    marks = list(_marks(account))
    lines = labels(Frame.of(_WIDE, _span(account), y), marks)[1]
    size = _WIDE[0], _WIDE[1] + 16 * lines
    frame = Frame.of(size, _span(account), y, lines_above=lines + 1)
    return frame, labels(frame, marks)[0]


def _marks(account: Account) -> Iterator[tuple[float, str, str]]:
    """Yields the events by query, with one label each."""
    words: dict[int, list[str]] = {}
    accused: set[int] = set()
    if account.course.verdict is not None:
        words[account.course.verdict] = ["suspect"]
        accused.add(account.course.verdict)
    for moment in account.moments:
        words.setdefault(moment.row, []).append(moment.word)
        if moment.accuses:
            accused.add(moment.row)
    for row, own in words.items():
        kind = "verdict" if row == account.course.verdict else "accused" if row in accused else "moment"
        yield row + 1.0, f"{row + 1:,}: {', '.join(dict.fromkeys(own))}", kind


def _verdict_mark(account: Account, frame: Frame) -> str:
    verdict = account.course.verdict
    return "" if verdict is None else mark(frame, verdict + 1.0, "verdict")


def _queries(account: Account) -> Floats:
    numbers: Floats = np.arange(1.0, len(account.course) + 1)
    return numbers


def _span(account: Account) -> tuple[float, float]:
    return 0.0, max(float(len(account.course)), 2.0)


def _above(values: Floats, *others: float) -> float:
    """Returns 8 % more than the largest value."""
    return 1.08 * max([*(float(value) for value in values[np.isfinite(values)]), *others, 1e-3])


def _kept(distances: Floats) -> Floats:
    """Returns ``distances`` without outliers of three standard deviations or more, as the test does."""
    spread = float(distances.std())
    kept: Floats = distances[np.abs(distances - distances.mean()) < 3 * spread] if spread > 0 else distances
    return kept


def _histogram(distances: Floats) -> tuple[Floats, Floats]:
    low, high = float(distances.min()), float(distances.max())
    if high - low < 1e-9 * max(abs(high), 1e-9):
        low, high = 0.0, 2 * max(high, 1e-9)
    bins = min(max(ceil(2 * sqrt(len(distances))), _FEWEST_BINS), _MOST_BINS)
    heights, edges = np.histogram(distances, bins, (low, high))
    return edges, heights.astype(np.float64)


def _normal(x: Floats, mean: float, deviation: float) -> Floats:
    return np.asarray(np.exp(-(((x - mean) / deviation) ** 2) / 2) / (deviation * sqrt(2 * np.pi)))


def _legend(known: Sequence[tuple[str, str, str]]) -> str:
    colours = {"curve": "blue", "second": "violet"}
    return f" ({'; '.join(f'{colours[kind]}: {words}' for _, kind, words in known)})"
