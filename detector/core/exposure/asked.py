"""The features of queries as they were sent, unscaled: thresholds are compared exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.state.arrays import Array
from detector.core.state.rows import StepRows


def sent(rows: StepRows, columns: Array | None = None) -> NDArray[np.float32]:
    """float32 (n, m): the chosen ``columns`` int64 (m,) of all rows, or all; features that were left out are 0."""
    width = rows.features.shape[1] if columns is None else len(columns)
    features = np.empty((len(rows), width), np.float32)
    for at, own in rows.sources:
        logged, asked = rows.batches[at].features, rows.batch_row[own]
        features[own] = logged[asked] if columns is None else logged[asked[:, None], columns]
    return features


def missing(rows: StepRows) -> NDArray[np.bool_] | None:
    """bool (n, d): which were left out; None if none were."""
    if all(batch.missing is None for batch in rows.batches):
        return None
    absent = np.zeros(rows.features.shape, np.bool_)
    for at, own in rows.sources:
        logged = rows.batches[at].missing
        if logged is not None:
            absent[own] = logged[rows.batch_row[own]]
    return absent if absent.any() else None
