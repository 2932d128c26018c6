"""``high_margin``: answers with more confidence than honest queries get: inputs far from the data, inversion of a
class."""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight


def _score(sight: Sight) -> Floats:
    """Returns -ln of the share of honest queries with a higher top-two log-margin."""
    return np.asarray(-np.log(1.0 - sight.margin_rank))


HIGH_MARGIN = Measure(
    name="high_margin",
    family="outputs",
    about="answers that are all too sure",
    unit="-ln share",
    clock="effective",
    between=0.15,
    within=0.5,
    score=_score,
)
