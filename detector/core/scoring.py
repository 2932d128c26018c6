"""Turns scores of single queries into scores of a principal, in standard deviations of honest accounts.

The columns are the averages of each measure, then the states of other signals, then ``change``.

``change`` is how far a principal's queries have moved from their earlier ones: the average of a content measure over
the last 32 queries, less that over the last 512, in the least standard deviations of such averages; the largest over
the content measures. Thieves often begin with natural inputs. But honest users change their tools too, so ``change`` is
capped below any threshold and never decides alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detector.core.averages import MEMORIES, fading_sums
from detector.core.measure import Clock, Measure
from detector.core.rows import Grouping
from detector.core.standards import PRIOR, Spread

CHANGE = "change"
CLOCKS: tuple[Clock, ...] = ("effective", "each", "near")

_FAST, _SLOW = 1, 3
"""The memories that are compared."""
_MOST_CHANGE = 3.0
_MOST_STATE = 2.0
"""The most that another signal counts, in deviations: honest habits reach the same values as thieves."""

Floats = NDArray[np.float64]


class Scoring:
    """Scores ``measures``, in order, then the states of other signals, then ``change``, by ``spread``. ``clock`` int64
    (j + clocks,): the clock of each sum, measures first and then the clocks' own weights. Arrays are columns first, so
    that one operation on a measure covers all queries."""

    def __init__(self, measures: Sequence[Measure], spread: Spread) -> None:
        self.clock = clock_of(measures)
        self._count = len(measures)
        self._own = spread.at(slice(self._count))
        self._states = spread.at(slice(self._count, -1))
        self._content = [at for at, own in enumerate(measures) if own.family == "content"]
        least = [(measures[at].between, measures[at].within) for at in self._content]
        between, within = np.array(least, np.float64).reshape(-1, 2).T
        self._least = np.hypot(between, within / np.sqrt(MEMORIES[_FAST] + PRIOR))

    def follow(
        self, grouping: Grouping, values: Floats, weights: Floats, states: Floats, before: Floats
    ) -> tuple[Floats, Floats]:
        """Returns float64 (n, j + f + 1): the scores as of each of n queries with ``values`` (j, n), ``weights``
        (clocks, n) and ``states`` (f, n); and (groups, ``width``): the sums after the last query of each group, which
        were ``before``."""
        values, weights, states = (part[:, grouping.order] for part in (values, weights, states))
        increments = self._increments(values, weights)
        start = before.T.reshape(len(increments), len(MEMORIES), -1)
        sums = fading_sums(grouping, increments, self.clock, weights, start)
        ordered = self._scores(sums, states)
        scores = np.empty_like(ordered)
        scores[:, grouping.order] = ordered
        last = sums[:, :, grouping.starts + grouping.lengths - 1]
        return scores.T, last.reshape(-1, len(before)).T.copy()

    def _increments(self, values: Floats, weights: Floats) -> Floats:
        """Returns float64 (j + clocks, n): what n queries with ``values`` (j, n) and ``weights`` (clocks, n) add to the
        sums. NaN counts as ordinary, extremes are clipped."""
        settled = self._own.clip(values)
        np.copyto(settled, self._own.mean[:, None], where=np.isnan(settled))
        settled *= weights[self.clock[: self._count]]
        return np.concatenate((settled, weights))

    def _scores(self, sums: Floats, states: Floats) -> Floats:
        """Returns float64 (j + f + 1, n) from decayed ``sums`` (j + clocks, memories, n) and the other signals'
        ``states`` (f, n)."""
        total, weight = sums[: self._count], (sums[self._count :] + PRIOR)[self.clock[: self._count]]
        others = np.minimum(self._states.of_states(states), _MOST_STATE)
        return np.concatenate((self._own.standardised(total, weight), others, self._change(total, weight)))

    def _change(self, total: Floats, weight: Floats) -> Floats:
        """float64 (1, n)."""
        if not self._content:
            return np.zeros((1, total.shape[2]))
        own = (self._content, slice(_FAST, _SLOW + 1, _SLOW - _FAST))
        mean = self._own.mean[self._content][:, None, None]
        averages = (total[own] - mean * (weight[own] - PRIOR)) / weight[own]
        risen: Floats = ((averages[:, 0] - averages[:, 1]) / self._least[:, None]).max(axis=0)
        return np.clip(risen, 0.0, _MOST_CHANGE)[None]


def clock_of(measures: Sequence[Measure]) -> NDArray[np.int64]:
    """int64 (j + clocks,): see ``Scoring``."""
    return np.array([*(CLOCKS.index(own.clock) for own in measures), *range(len(CLOCKS))], np.int64)


def width(measures: Sequence[Measure]) -> int:
    """Returns the number of sums per principal."""
    return len(clock_of(measures)) * len(MEMORIES)
