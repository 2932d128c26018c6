"""``tiny_steps``: steps far smaller than honest ones: finite differences, the last steps of a bisection."""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight

_TINY = 0.01


def _score(sight: Sight) -> Floats:
    """Returns 1 where the nearest own earlier query is a hundred times nearer than the nearest reference row."""
    return np.asarray(sight.nearness < _TINY, np.float64)


TINY_STEPS = Measure(
    name="tiny_steps",
    family="structure",
    about="steps much smaller than honest ones",
    unit="share of queries",
    clock="each",
    between=0.05,
    within=0.15,
    score=_score,
)
