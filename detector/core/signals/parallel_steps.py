"""``parallel_steps``: two steps in a row along one line: line search, finite differences along one direction."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from detector.core.compiled import compiled
from detector.core.measure import Floats, Measure, Sight

_PARALLEL = 0.98
_FEWEST = 3
_LEAST = 1e-20


def _score(sight: Sight) -> Floats:
    """Returns 1 where the cosine of the last two steps is above 0.98 in absolute value; ``one_feature`` covers steps in
    one or two features."""
    parallel = np.zeros(len(sight.rows))
    _compare(np.ascontiguousarray(sight.trail.step), np.ascontiguousarray(sight.trail.step_before), parallel)
    return np.where(sight.changes >= _FEWEST, parallel, 0.0)


@compiled
def _compare(last: NDArray[np.float32], before: NDArray[np.float32], parallel: Floats) -> None:
    """Sets ``parallel`` (n,) to 1 where the steps ``last`` and ``before`` (n, k) are parallel."""
    for row in range(len(last)):
        product = first = second = 0.0
        for axis in range(last.shape[1]):
            one, other = np.float64(last[row, axis]), np.float64(before[row, axis])
            product += one * other
            first += one * one
            second += other * other
        length = math.sqrt(first * second)
        if abs(product) > _PARALLEL * length and length > _LEAST:
            parallel[row] = 1.0


PARALLEL_STEPS = Measure(
    name="parallel_steps",
    family="structure",
    about="consecutive steps along one line",
    unit="share of queries",
    clock="each",
    between=0.05,
    within=0.15,
    score=_score,
)
