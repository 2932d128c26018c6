"""The plots of an account over its query number: each an SVG with a title and a caption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np

from detector.core.signals.margin import BLOCKED_AT
from detector.core.signals.shapiro_wilk import CONSTANT_SPREAD
from detector.explain.chart import Floats, Frame, axes, bars, curve, labels, legend, level, mark, svg
from detector.explain.explanation import Explanation, describe, deviations
from detector.explain.words import UNIT, number

_WIDE, _HALF = (800, 250), (400, 190)
_MOST_BINS, _FEWEST_BINS = 40, 8
_COLOURS = {"curve": "blue", "second": "violet"}


@dataclass(frozen=True, slots=True)
class Plot:
    """An SVG with a title and a caption on how to read it."""

    title: str
    svg: str
    caption: str


def suspicion(explanation: Explanation) -> Plot | None:
    """Returns D against the threshold, with all events on record, or None without a profile."""
    if explanation.at_verdict is None:
        return None
    values, threshold = explanation.replay.signals["suspicion"], explanation.at_verdict.threshold
    frame, marks = _with_events(explanation, (0.0, _above(values, threshold)))
    parts = [
        *marks,
        axes(frame, "query number", "D, standard deviations"),
        curve(frame, _queries(explanation), values, "curve"),
        level(frame, threshold, "limit"),
        legend(frame, [(f"threshold {threshold:.1f}", "limit")]),
    ]
    caption = (
        f"D is the deviation that the closest honest account leaves unexplained, summed over all measures, in {UNIT}. "
        "An account is flagged above the threshold, and stays flagged until an operator clears it."
    )
    return _plot("Unexplained deviation D", frame, parts, "D over query number", caption)


def measures(explanation: Explanation) -> list[Plot]:
    """Returns a small plot for each measure that contributes."""
    return [_measure(explanation, name) for name in explanation.main_measures]


def prada_over_time(explanation: Explanation) -> Plot:
    """Returns W against delta."""
    values, delta = explanation.replay.signals["prada"], explanation.config.prada.delta
    low = min(float(np.nanmin(values)) if np.isfinite(values).any() else 1.0, delta) - 0.02
    if explanation.has_profile:
        frame = Frame.of(_HALF, _span(explanation), (low, 1.0))
        marks = [_verdict_mark(explanation, frame)]
    else:
        frame, marks = _with_events(explanation, (low, 1.0))
    parts = [
        *marks,
        axes(frame, "query number", "Shapiro-Wilk W"),
        curve(frame, _queries(explanation), values, "curve"),
        level(frame, delta, "limit"),
        legend(frame, [(f"delta {delta:g}", "limit")]),
    ]
    caption = (
        "W near 1: distances are normally distributed, as for honest accounts. Below delta the account is flagged."
    )
    return _plot("PRADA: W over time", frame, parts, "PRADA's W over query number", caption)


def prada_distances(explanation: Explanation) -> list[Plot]:
    """Returns histograms of the distances that PRADA tests, at the verdict and at the end, with the fitted normal."""
    tested = explanation.replay.distances.items()
    return [_distances(distances, row) for row, distances in tested if len(distances) >= _FEWEST_BINS]


def _distances(distances: Floats, row: int) -> Plot:
    spread = float(distances.std())  # the test leaves outliers out
    tested = distances[np.abs(distances - distances.mean()) < 3 * spread] if spread > 0 else distances
    mean, deviation = float(tested.mean()), float(tested.std())
    edges, heights = _histogram(distances)
    x, fitted = np.linspace(edges[0], edges[-1], 161), np.full(161, np.nan)
    if deviation > CONSTANT_SPREAD * mean:
        density = np.exp(-(((x - mean) / deviation) ** 2) / 2) / (deviation * sqrt(2 * np.pi))
        fitted = density * len(tested) * (edges[1] - edges[0])
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
    label = "Histogram of distances and the fitted normal"
    return _plot(f"PRADA: distances at query {row + 1:,}", frame, parts, label, caption)


def _histogram(distances: Floats) -> tuple[Floats, Floats]:
    low, high = float(distances.min()), float(distances.max())
    if high - low < 1e-9 * max(abs(high), 1e-9):
        low, high = 0.0, 2 * max(high, 1e-9)
    bins = min(max(ceil(2 * sqrt(len(distances))), _FEWEST_BINS), _MOST_BINS)
    heights, edges = np.histogram(distances, bins, (low, high))
    return edges, heights.astype(np.float64)


def margin(explanation: Explanation) -> Plot | None:
    """Returns the share of queries close to the decision boundary, or None if the profile has no margins."""
    lines = [("margin.pooled", "curve", "of all queries"), ("margin.all_leaves", "second", "mean over all leaves")]
    drawn = _signals(explanation, "share of queries", lines, (BLOCKED_AT, 1.0), limit=BLOCKED_AT)
    caption = (
        f"The share of queries closer to the decision boundary than most honest ones{drawn[1]}. "
        f"The published design blocks at {BLOCKED_AT:g}; here it is one measure among others."
    )
    return Plot("Margin ratio", drawn[0], caption) if drawn[0] else None


def exposure(explanation: Explanation) -> Plot | None:
    """Returns how much of the model the answers reveal, or None if the profile has no validation set."""
    lines = [("information_gain", "curve", "a tree trained on the answers"), ("coverage", "second", "cells reached")]
    drawn = _signals(explanation, "percent", lines, (10.0, 100.0))
    caption = (
        f"How much of the model the answers reveal{drawn[1]}, in percent of the owner's validation set. "
        "These are meters: they flag no account."
    )
    return Plot("Exposure", drawn[0], caption) if drawn[0] else None


def _signals(
    explanation: Explanation,
    unit: str,
    lines: Sequence[tuple[str, str, str]],
    top: tuple[float, float],
    limit: float | None = None,
) -> tuple[str, str]:
    """Returns an SVG of the signals of ``lines`` (name, kind, words) that have values, and their colours in words; both
    empty if none has. The axis ends between the two values of ``top``."""
    signals = explanation.replay.signals
    lines = [line for line in lines if np.isfinite(signals[line[0]]).any()]
    if not lines:
        return "", ""
    highest = _above(np.concatenate([signals[name] for name, _, _ in lines]), top[0])
    frame = Frame.of(_HALF, _span(explanation), (0.0, min(highest, top[1])))
    parts = [axes(frame, "query number", unit)]
    parts += [curve(frame, _queries(explanation), signals[name], kind) for name, kind, _ in lines]
    if limit is not None:
        parts += [level(frame, limit, "limit"), legend(frame, [(f"blocks at {limit:g}", "limit")])]
    parts.append(_verdict_mark(explanation, frame))
    label = f"{', '.join(words for _, _, words in lines)}, over query number"
    colours = "; ".join(f"{_COLOURS[kind]}: {words}" for _, kind, words in lines)
    return svg(frame.width, frame.height, parts, label), f" ({colours})"


def _measure(explanation: Explanation, name: str) -> Plot:
    assert explanation.at_verdict is not None
    contribution, values = explanation.at_verdict.of(name), deviations(explanation.replay, name)
    top = _above(values, contribution.closest if np.isfinite(contribution.closest) else 0.0)
    if contribution.largest < 2 * top:
        top = _above(values, contribution.largest)
    frame = Frame.of(_HALF, _span(explanation), (min(float(np.nanmin(values)), 0.0), top))
    entries = [
        (f"closest honest {number(contribution.closest)}", "closest"),
        (f"any honest {number(contribution.largest)}", "largest"),
    ]
    parts = [
        axes(frame, "query number", "standard deviations"),
        level(frame, contribution.closest, "closest"),
        level(frame, contribution.largest, "largest"),
        curve(frame, _queries(explanation), values, "curve"),
        _verdict_mark(explanation, frame),
        legend(frame, entries),
    ]
    return _plot(name, frame, parts, f"{name} over query number", describe(name))


def _plot(title: str, frame: Frame, parts: Sequence[str], label: str, caption: str) -> Plot:
    return Plot(title, svg(frame.width, frame.height, parts, label), caption)


def _with_events(explanation: Explanation, y: tuple[float, float]) -> tuple[Frame, list[str]]:
    """Returns a wide frame with room for the labels of all events, and the labels."""
    marks, span = list(_event_marks(explanation)), _span(explanation)
    lines = labels(Frame.of(_WIDE, span, y), marks)[1]
    frame = Frame.of((_WIDE[0], _WIDE[1] + 16 * lines), span, y, lines_above=lines + 1)
    return frame, labels(frame, marks)[0]


def _event_marks(explanation: Explanation) -> Iterator[tuple[float, str, str]]:
    """Yields the events by query, with one label each."""
    verdict = explanation.replay.verdict
    words: dict[int, list[str]] = {} if verdict is None else {verdict: ["suspect"]}
    for event in explanation.events:
        words.setdefault(event.row, []).append(event.word)
    accused = {event.row for event in explanation.events if event.accuses}
    for row, texts in words.items():
        kind = "verdict" if row == verdict else "accused" if row in accused else "event"
        yield row + 1.0, f"{row + 1:,}: {', '.join(dict.fromkeys(texts))}", kind


def _verdict_mark(explanation: Explanation, frame: Frame) -> str:
    verdict = explanation.replay.verdict
    return "" if verdict is None else mark(frame, verdict + 1.0, "verdict")


def _queries(explanation: Explanation) -> Floats:
    numbers: Floats = np.arange(1.0, len(explanation.replay) + 1)
    return numbers


def _span(explanation: Explanation) -> tuple[float, float]:
    return 0.0, max(float(len(explanation.replay)), 2.0)


def _above(values: Floats, *others: float) -> float:
    """Returns 8 % more than the largest value."""
    return 1.08 * max([*(float(value) for value in values[np.isfinite(values)]), *others, 1e-3])
