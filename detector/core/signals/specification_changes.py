"""``specification_changes``: queries that request another accuracy or latency than the one before. Fingerprinting a
model zoo (PSML) sweeps through its cells; a client has one specification, or few."""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight


def _score(sight: Sight) -> Floats:
    """Returns 1 where the requested specification differs from that of the principal's query before; NaN where none is
    logged."""
    if np.isnan(sight.trail.specification).all():
        return np.full(len(sight.rows), np.nan)
    changed = (sight.trail.specification != sight.trail.specification_before).any(axis=1)
    known = ~np.isnan(sight.trail.specification).any(axis=1)
    first = np.isnan(sight.trail.specification_before).any(axis=1)
    return np.where(known, np.asarray(changed & ~first, np.float64), np.nan)


SPECIFICATION_CHANGES = Measure(
    name="specification_changes",
    family="protocol",
    about="requests for another model of the zoo",
    unit="share of queries",
    clock="each",
    between=0.05,
    within=0.15,
    score=_score,
)
