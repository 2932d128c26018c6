"""Measures of protocol: how a query is put."""

from __future__ import annotations

import numpy as np

from detector.core.measures.base import Floats, Measure, Sight


def _missing_features(sight: Sight) -> Floats:
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
    score=_missing_features,
)
"""``missing_features``: queries that leave features out, as top-down path finding does to reach the nodes above a
leaf."""


def _specification_changes(sight: Sight) -> Floats:
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
    score=_specification_changes,
)
"""``specification_changes``: queries that request another accuracy or latency than the one before. Fingerprinting a
model zoo (PSML) sweeps through its cells; a client has one specification, or few."""
