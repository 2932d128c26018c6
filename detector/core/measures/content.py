"""Measures of content and protocol: how unlike honest queries a query is, and how it is put."""

from __future__ import annotations

import numpy as np

from detector.core.measures.base import Floats, Measure, MeasureInput

_NOVELTY_LEAST = 1e-6


def _novelty(queries: MeasureInput) -> Floats:
    """Returns the logarithm of the distance to the nearest reference row."""
    return np.asarray(np.log(queries.views.neighbours.distance + _NOVELTY_LEAST))


NOVELTY = Measure(
    name="novelty",
    family="content",
    about="distance to the nearest honest query",
    unit="log feature units",
    clock="effective",
    between=0.15,
    within=0.3,
    score=_novelty,
)
"""``novelty``: the distance of a query to all honest ones. Synthetic inputs and foreign images have a large one."""


def _unseen_values(queries: MeasureInput) -> Floats:
    """Returns log2(1 + number of such features)."""
    return np.asarray(np.log2(1.0 + queries.reference.seen.unseen(queries.rows.features)))


UNSEEN_VALUES = Measure(
    name="unseen_values",
    family="content",
    about="feature values that no honest query has",
    unit="log2 features",
    clock="effective",
    between=0.15,
    within=0.3,
    score=_unseen_values,
)
"""``unseen_values``: features with a value that no honest query has. Random numbers are seldom among the values in
use."""


_OUTLYING_LEAST = 1e-12


def _outlyingness(queries: MeasureInput) -> Floats:
    """Returns the logarithm of the squared distance per feature."""
    return np.asarray(np.log(queries.views.projection.mahalanobis + _OUTLYING_LEAST))


OUTLYINGNESS = Measure(
    name="outlyingness",
    family="content",
    about="Mahalanobis distance to the honest queries",
    unit="log squared deviations a feature",
    clock="effective",
    between=0.15,
    within=0.3,
    score=_outlyingness,
)
"""``outlyingness``: Mahalanobis distance of a query to the honest ones. Directions without honest variance weigh most:
steps along no natural direction, above all gradient steps, stand out however small they are."""


def _missing_features(queries: MeasureInput) -> Floats:
    """Returns the share of features left out."""
    if all(batch.missing is None for batch in queries.rows.batches):
        return np.zeros(len(queries.rows))
    missing = queries.rows.column("missing", False).reshape(len(queries.rows), -1)
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


def _specification_changes(queries: MeasureInput) -> Floats:
    """Returns 1 where the requested specification differs from that of the principal's query before; NaN where none is
    logged."""
    if np.isnan(queries.trail.specification).all():
        return np.full(len(queries.rows), np.nan)
    changed = (queries.trail.specification != queries.trail.specification_before).any(axis=1)
    known = ~np.isnan(queries.trail.specification).any(axis=1)
    first = np.isnan(queries.trail.specification_before).any(axis=1)
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
