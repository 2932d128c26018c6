"""``crossings``: queries near an own earlier one that get another class: adversarial examples, bisection, and other
steps over a decision boundary."""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight

_MOST = 3.0
_LEAST = 1e-9


def _score(sight: Sight) -> Floats:
    """Returns ln(distance to the nearest own earlier query of the same class / that to the nearest of any class), 0..3;
    NaN for the first of a class."""
    same, nearest = sight.views.grown, sight.views.own.distance
    known = np.isfinite(same)
    ratio = np.where(known, same, 1.0) / np.maximum(np.where(known, nearest, 1.0), _LEAST)
    return np.where(known, np.clip(np.log(np.maximum(ratio, _LEAST)), 0.0, _MOST), np.nan)


CROSSINGS = Measure(
    name="crossings",
    family="structure",
    about="another answer than a near own earlier query got",
    unit="log ratio",
    clock="each",
    between=0.05,
    within=0.15,
    score=_score,
)
