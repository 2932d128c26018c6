"""The features of queries as they were sent, whatever scale ``Rows.features`` has: thresholds are compared exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.views import Rows


def sent(rows: Rows, columns: Array | slice = slice(None)) -> NDArray[np.float32]:
    """float32 (n, m): the chosen ``columns`` of all rows; features that were left out are 0."""
    if len(rows.batches) == 1:
        return rows.batches[0].features[rows.batch_row][:, columns]
    return np.concatenate([_of_batch(rows, at, columns) for at in np.unique(rows.batch).tolist()])[_places(rows.batch)]


def missing(rows: Rows) -> NDArray[np.bool_] | None:
    """bool (n, d): which were left out; None if none were."""
    if all(batch.missing is None for batch in rows.batches):
        return None
    absent = np.zeros(rows.features.shape, np.bool_)
    for at in np.unique(rows.batch).tolist():
        logged, own = rows.batches[at].missing, rows.batch == at
        if logged is not None:
            absent[own] = logged[rows.batch_row[own]]
    return absent if absent.any() else None


def _of_batch(rows: Rows, at: int, columns: Array | slice) -> NDArray[np.float32]:
    return np.asarray(rows.batches[at].features[rows.batch_row[rows.batch == at]][:, columns])


def _places(batch: Array) -> Array:
    """Where each row went when rows were put together batch by batch."""
    places = np.empty(len(batch), np.int64)
    places[np.argsort(batch, kind="stable")] = np.arange(len(batch))
    return places
