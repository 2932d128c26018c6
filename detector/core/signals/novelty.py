"""``novelty``: how far a query lies from anything that honest principals asked. Made-up inputs and foreign images
do."""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight

_LEAST = 1e-6


def _score(sight: Sight) -> Floats:
    """The logarithm of the distance to the nearest reference row."""
    return np.asarray(np.log(sight.views.neighbours.distance + _LEAST))


NOVELTY = Measure(
    name="novelty",
    family="content",
    about="distance to the nearest honest query",
    unit="log feature units",
    clock="effective",
    between=0.15,
    within=0.3,
    score=_score,
)
