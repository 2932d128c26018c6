"""Measures of content and protocol: how unlike honest queries a query is, and how it is put."""

from __future__ import annotations

import numpy as np

from detector.core.measures.base import Floats, MeasureInput, measure


@measure("content", "distance to the nearest honest query", "log feature units", "effective", between=0.15, within=0.3)
def novelty(queries: MeasureInput) -> Floats:
    """The logarithm of the distance to the nearest reference row. Synthetic inputs and foreign images have a large
    one."""
    return np.asarray(np.log(queries.views.neighbours.distance + 1e-6))


@measure("content", "feature values that no honest query has", "log2 features", "effective", between=0.15, within=0.3)
def unseen_values(queries: MeasureInput) -> Floats:
    """log2(1 + number of features with a value that no honest query has). Random numbers are seldom among the values in
    use."""
    return np.asarray(np.log2(1.0 + queries.reference.seen.count_unseen(queries.rows.features)))


@measure(
    "content",
    "Mahalanobis distance to the honest queries",
    "log squared deviations a feature",
    "effective",
    between=0.15,
    within=0.3,
)
def outlyingness(queries: MeasureInput) -> Floats:
    """The logarithm of the squared Mahalanobis distance per feature. Directions without honest variance weigh most:
    steps along no natural direction, above all gradient steps, stand out however small they are."""
    return np.asarray(np.log(queries.views.projection.mahalanobis + 1e-12))


@measure("protocol", "features left out", "share of features", "each", between=0.05, within=0.1)
def missing_features(queries: MeasureInput) -> Floats:
    """The share of features left out, as top-down path finding does to reach the nodes above a leaf."""
    if all(batch.missing is None for batch in queries.rows.batches):
        return np.zeros(len(queries.rows))
    missing = queries.rows.column("missing", False).reshape(len(queries.rows), -1)
    return np.asarray(missing.mean(axis=1), np.float64)


@measure("protocol", "requests for another model of the zoo", "share of queries", "each", between=0.05, within=0.15)
def specification_changes(queries: MeasureInput) -> Floats:
    """1 where the requested accuracy or latency differs from that of the principal's query before; NaN where none is
    logged. Fingerprinting a model zoo (PSML) sweeps through its cells; a client has one specification, or few."""
    now, before = queries.trail.specification, queries.trail.specification_before
    changed = (now != before).any(axis=1) & ~np.isnan(before).any(axis=1)
    return np.where(np.isnan(now).any(axis=1), np.nan, changed.astype(np.float64))
