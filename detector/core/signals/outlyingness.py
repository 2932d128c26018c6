"""``outlyingness``: Mahalanobis distance of a query to the honest ones. Directions without honest variance weigh most:
steps along no natural direction, above all gradient steps, stand out however small they are."""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight

_LEAST = 1e-12


def _score(sight: Sight) -> Floats:
    """Returns the logarithm of the squared distance per feature."""
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
