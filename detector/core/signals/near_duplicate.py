"""``near_duplicate``: queries closer to the principal's own earlier ones than honest queries are to each other:
bisection, finite differences, gradient steps."""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight

_MOST = 5.0
_LEAST = 1e-9


def _score(sight: Sight) -> Floats:
    """Returns -ln(distance to the nearest own earlier query / distance to the nearest reference row), clipped to
    0..5."""
    return np.asarray(np.clip(-np.log(sight.nearness + _LEAST), 0.0, _MOST))


NEAR_DUPLICATE = Measure(
    name="near_duplicate",
    family="structure",
    about="nearness to own earlier queries",
    unit="log ratio",
    clock="each",
    between=0.25,
    within=0.5,
    score=_score,
)
