"""Turns scores of single queries into scores of a principal, in standard deviations of honest accounts.

The columns are the averages of each measure, then the states of other signals, then ``change``.

``change`` is how far a principal's queries have moved from their earlier ones: the average of a content measure over
the last 32 queries, less that over the last 512, in the least standard deviations of such averages; the largest over
the content measures. Thieves often begin with natural inputs. But honest users change their tools too, so ``change`` is
capped below any threshold and never decides alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.measures.base import Clock, Measure
from detector.core.profile.standards import PRIOR, Spread
from detector.core.signals.suspicion.averages import DEPTH, MEMORIES, fade

CHANGE = "change"
CLOCKS: tuple[Clock, ...] = ("effective", "each", "near")

_FAST, _SLOW = 1, 3
"""The memories that are compared."""
_MOST_CHANGE = 3.0
_MOST_STATE = 2.0
"""The most that another signal counts, in deviations: honest habits reach the same values as thieves."""
_CLIP = 8.0
"""A query's score is clipped to this many standard deviations of a single query, about the mean."""
_MEAN, _LOW, _HIGH, _LEAST = range(4)
"""The columns of ``_Scales.measures``."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Queries(NamedTuple):
    """Contiguous float64 arrays about n queries: ``values`` (n, j) of the measures, ``weights`` (n, clocks), and
    ``states`` (n, f), the scores of other signals."""

    values: Floats
    weights: Floats
    states: Floats


class _Scales(NamedTuple):
    """``clock`` int64 (j + clocks,): see ``clock_of``. ``measures`` float64 (j, 4): the mean, the bounds of a query's
    score, and the least deviation that ``change`` is measured in, infinite where it leaves the measure out. ``lanes``
    (3, j * memories): the mean and the variances between and within accounts, for each sum. ``states`` (f, 2): mean and
    deviation between accounts."""

    clock: Integers
    measures: Floats
    lanes: Floats
    states: Floats

    @classmethod
    def of(cls, measures: Sequence[Measure], spread: Spread) -> _Scales:
        own, states = spread.at(slice(len(measures))), spread.at(slice(len(measures), -1))
        reach = _CLIP * np.hypot(own.between, own.within)
        least = [
            math.hypot(measure.between, measure.within / math.sqrt(MEMORIES[_FAST] + PRIOR))
            if measure.family == "content"
            else math.inf
            for measure in measures
        ]
        return cls(
            clock_of(measures),
            np.column_stack((own.mean, own.mean - reach, own.mean + reach, least)),
            np.repeat(np.stack((own.mean, own.between**2, own.within**2)), DEPTH, axis=1),
            np.column_stack((states.mean, states.between)),
        )


class Scoring:
    """Scores ``measures``, in order, then the states of other signals, then ``change``, by ``spread``."""

    def __init__(self, measures: Sequence[Measure], spread: Spread) -> None:
        self._scales = _Scales.of(measures, spread)

    def follow(self, slot: Integers, queries: Queries, sums: Floats) -> Floats:
        """Returns float64 (n, j + f + 1): the scores as of each of ``queries``, of which ``slot`` int64 (n,) says whose
        it is. The contiguous ``sums`` float64 (slots, ``width``) are updated in place."""
        scores = np.empty((len(slot), queries.values.shape[1] + queries.states.shape[1] + 1))
        _follow(slot, queries, sums, self._scales, scores)
        return scores


def clock_of(measures: Sequence[Measure]) -> Integers:
    """int64 (j + clocks,): the clock of each sum, of the measures first and then of the clocks' own weights."""
    return np.array([*(CLOCKS.index(own.clock) for own in measures), *range(len(CLOCKS))], np.int64)


def width(measures: Sequence[Measure]) -> int:
    """Returns the number of sums per principal."""
    return len(clock_of(measures)) * DEPTH


@compiled
def _follow(slot: Integers, queries: Queries, sums: Floats, scales: _Scales, scores: Floats) -> None:
    """Row after row, adds the query to its slot's sums, and scores them."""
    count, others = len(scales.measures), len(scales.states)
    added, kept = np.empty(len(scales.clock)), np.empty((len(CLOCKS), DEPTH))
    each, weight = np.empty(count * DEPTH), np.empty(count * DEPTH)
    for row in range(len(slot)):
        held, weights = sums[slot[row]], queries.weights[row]
        _increments(queries.values[row], weights, scales, added)
        fade(held, added, weights, scales.clock, kept)
        _weigh(held, scales.clock, weight)
        _standardise(held, weight, scales.lanes, each)
        for column in range(count):
            most = each[column * DEPTH]
            for memory in range(1, DEPTH):
                most = max(most, each[column * DEPTH + memory])
            scores[row, column] = most
        for at in range(others):
            scores[row, count + at] = _state(queries.states[row, at], scales.states[at])
        scores[row, count + others] = _change(held, weight, scales.measures)


@compiled
def _increments(values: Floats, weights: Floats, scales: _Scales, added: Floats) -> None:
    """Sets ``added`` (j + clocks,) to what a query adds to the sums. NaN counts as ordinary, extremes are clipped."""
    count = len(values)
    for column in range(count):
        scale, value = scales.measures[column], values[column]
        value = scale[_MEAN] if math.isnan(value) else min(max(value, scale[_LOW]), scale[_HIGH])
        added[column] = value * weights[scales.clock[column]]
    for own in range(len(weights)):
        added[count + own] = weights[own]


@compiled
def _weigh(sums: Floats, clock: Integers, weight: Floats) -> None:
    """Sets ``weight`` (j * memories,) to the number of queries in each sum, with ``PRIOR`` ordinary ones."""
    count = len(weight) // DEPTH
    for column in range(count):
        own = (count + clock[column]) * DEPTH
        for memory in range(DEPTH):
            weight[column * DEPTH + memory] = sums[own + memory] + PRIOR


@compiled
def _standardise(total: Floats, weight: Floats, lanes: Floats, each: Floats) -> None:
    """Sets ``each`` (j * memories,) to (average - mean) / sqrt(between² + within² / queries), from decayed sums. Lane
    beside lane, as the processor divides several at once."""
    mean, between, within = lanes[0], lanes[1], lanes[2]
    for at in range(len(each)):
        gap = total[at] + mean[at] * (PRIOR - weight[at])
        each[at] = gap / math.sqrt((between[at] * weight[at] + within[at]) * weight[at])


@compiled
def _change(total: Floats, weight: Floats, measures: Floats) -> float:
    """Returns ``change``: see the module."""
    most = 0.0
    for column in range(len(measures)):
        mean, least = measures[column, _MEAN], measures[column, _LEAST]
        if least < math.inf:
            fast, slow = column * DEPTH + _FAST, column * DEPTH + _SLOW
            lately = (total[fast] + mean * (PRIOR - weight[fast])) / weight[fast]
            usually = (total[slow] + mean * (PRIOR - weight[slow])) / weight[slow]
            most = max(most, (lately - usually) / least)
    return min(most, _MOST_CHANGE)


@compiled
def _state(score: float, spread: Floats) -> float:
    """Returns the ``score`` of another signal in deviations, ``spread`` (mean, between); 0 for NaN."""
    if math.isnan(score):
        return 0.0
    deviation: float = (score - spread[0]) / spread[1]
    return min(deviation, _MOST_STATE)
