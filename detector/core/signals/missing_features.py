"""``missing_features``: queries that leave features out, as top-down path finding does to reach the nodes above a
leaf."""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight


def _score(sight: Sight) -> Floats:
    """Returns the share of features left out."""
    if all(batch.missing is None for batch in sight.rows.batches):
        return np.zeros(len(sight.rows))
    missing = sight.rows.column("missing", False).reshape(len(sight.rows), -1)
    return np.asarray(missing.mean(axis=1), np.float64)


MISSING_FEATURES = Measure(
    name="missing_features",
    family="protocol",
    about="features left out",
    unit="share of features",
    clock="each",
    between=0.05,
    within=0.1,
    score=_score,
)
