"""``one_feature``: queries that differ from an own earlier one in one or two features: path finding, finite
differences, what-if."""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight

_MOST = 2


def _score(sight: Sight) -> Floats:
    """Returns 1 where at most two features differ from the nearest own earlier query; two, since one-hot categories
    change in pairs."""
    few = (sight.changes <= _MOST) & np.isfinite(sight.views.own.distance)
    return np.asarray(few, np.float64)


ONE_FEATURE = Measure(
    name="one_feature",
    family="structure",
    about="queries that change one or two features",
    unit="share of queries",
    clock="each",
    between=0.05,
    within=0.15,
    score=_score,
)
