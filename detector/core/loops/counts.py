"""Counts the True entries of each row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def row_counts(rows: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns int64 (n,) of ``rows`` bool (n, k); several times faster than a sum, which casts each entry."""
    counts: NDArray[np.int64] = np.bitwise_count(np.packbits(rows, axis=1)).sum(axis=1, dtype=np.int64)
    return counts
