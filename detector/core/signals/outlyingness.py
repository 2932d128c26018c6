"""``outlyingness``: Mahalanobis distance of a query to the honest ones. What honest queries never vary weighs most in
it: steps along no natural direction, of gradients above all, show however small they are."""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight

_LEAST = 1e-12


def _score(sight: Sight) -> Floats:
    """The logarithm of its square, a feature."""
    return np.asarray(np.log(sight.views.placed.unusual + _LEAST))


OUTLYINGNESS = Measure(
    name="outlyingness",
    family="content",
    about="Mahalanobis distance to the honest queries",
    unit="log squared deviations a feature",
    clock="effective",
    between=0.15,
    within=0.3,
    score=_score,
)
