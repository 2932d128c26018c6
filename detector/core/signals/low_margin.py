"""``low_margin``: answers with less confidence than honest queries get: queries near the decision boundary, or off the
data."""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight


def _score(sight: Sight) -> Floats:
    """Returns -ln of the share of honest queries with a lower top-two log-margin."""
    return np.asarray(-np.log(sight.margin_rank))


LOW_MARGIN = Measure(
    name="low_margin",
    family="outputs",
    about="answers that are hardly sure",
    unit="-ln share",
    clock="effective",
    between=0.15,
    within=0.5,
    score=_score,
)
