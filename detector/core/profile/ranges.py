"""The range of each feature among honest accounts, independent of any single account."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FARTHEST = 1e15
"""Features are clipped to this when they are scaled, so that squares do not overflow."""
_DIGITS = 1e-6
"""The share of a number that single precision can hardly distinguish from zero."""
_EVEN = 10.0
"""Features whose ranges differ by more than this, without the outermost tenths, are scaled to one range."""
_TRIMMED = 0.05
"""The share of the accounts that vary a feature, at least one, that is left out at either end of its range."""
_FEWEST = 4
"""With fewer accounts that vary a feature, none is left out."""
_STRETCHED = 4.0
"""A range that the trimmed accounts would make this many times wider is taken without them."""

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]


def scale_and_ranges(rows: Rows, owner: NDArray[np.int64]) -> tuple[Rows, Rows, Rows]:
    """Returns, float32 (d,) each, the scale of each feature of ``rows`` (n, d), the start of its scaled range, and the
    width of that range. ``owner`` int64 (n,): the account of each row, ascending. A constant feature gets the median
    range; very large features are always scaled."""
    low, width = _ranges(rows, owner)
    moving = width[width > 0]
    usual = float(np.median(moving)) if len(moving) else 1.0
    width = np.where(width > 0, width, usual)
    least, most = np.quantile(moving, (0.1, 0.9)) if len(moving) else (1.0, 1.0)
    scale = width if most > _EVEN * least else np.ones_like(width)
    size = np.abs(rows).max(axis=0).astype(np.float64)
    scale = np.where(size > FARTHEST, np.maximum(width, _DIGITS * size), scale)
    # Divided as rows are, so that the smallest row is not below the start of the range.
    begin = np.divide(low, scale, dtype=np.float32, casting="same_kind")
    return scale.astype(np.float32), begin, (width / scale).astype(np.float32)


def _ranges(rows: Rows, owner: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Returns the start and width of the range of each feature: over all rows, unless few accounts widen it."""
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    lows, highs = (take.reduceat(rows, starts, axis=0).astype(np.float64) for take in (np.minimum, np.maximum))
    low, high = lows.min(axis=0), highs.max(axis=0)
    common = np.median(rows, axis=0)
    vary = (lows < highs) | (lows != common)
    count = vary.sum(axis=0)
    trimmed = np.where(count >= _FEWEST, np.maximum((_TRIMMED * count).astype(np.int64), 1), 0)
    inner_low = _ranked(np.where(vary, lows, np.inf), trimmed)
    inner_high = -_ranked(np.where(vary, -highs, np.inf), trimmed)
    stretched = (inner_high > inner_low) & (high - low > _STRETCHED * (inner_high - inner_low))
    low, high = np.where(stretched, inner_low, low), np.where(stretched, inner_high, high)
    return low, high - low


def _ranked(values: Floats, rank: NDArray[np.int64]) -> Floats:
    """Returns the ``rank``-th smallest value of each column."""
    return np.asarray(np.take_along_axis(np.sort(values, axis=0), rank[None], axis=0)[0])
