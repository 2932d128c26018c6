"""``unseen_values``: features with a value that no honest query has. Random numbers are seldom among the values in
use."""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight


def _score(sight: Sight) -> Floats:
    """Returns log2(1 + number of such features)."""
    return np.asarray(np.log2(1.0 + sight.reference.seen.unseen(sight.rows.features)))


UNSEEN_VALUES = Measure(
    name="unseen_values",
    family="content",
    about="features whose value no honest query has",
    unit="log2 features",
    clock="effective",
    between=0.15,
    within=0.3,
    score=_score,
)
