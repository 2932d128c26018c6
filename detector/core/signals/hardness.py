"""``hardness``: queries that the model learned late (HODA; Sadeghzadeh et al.), where the log carries it.

``low_margin`` and ``high_margin`` are the stand-in for logs that do not.
"""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight, rank


def _score(sight: Sight) -> Floats:
    """Returns -ln of the share of honest queries that are harder; NaN where the query or the reference has no
    hardness."""
    if not len(sight.reference.hardness):
        return np.full(len(sight.rows), np.nan)
    hardness = sight.rows.column("hardness", np.nan).astype(np.float64)
    return np.asarray(-np.log(1.0 - rank(hardness, sight.reference.hardness)))


HARDNESS = Measure(
    name="hardness",
    family="outputs",
    about="queries that the model learned late",
    unit="-ln share",
    clock="effective",
    between=0.15,
    within=0.5,
    score=_score,
)
