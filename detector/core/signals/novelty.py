"""``novelty``: the distance of a query to all honest ones. Synthetic inputs and foreign images have a large one."""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight

_LEAST = 1e-6


def _score(sight: Sight) -> Floats:
    """Returns the logarithm of the distance to the nearest reference row."""
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
