"""Over how much features range among honest accounts, whatever a single account sends."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FARTHEST = 1e15
"""Features are brought in to this when they are scaled, so that squares do not overflow."""
_DIGITS = 1e-6
"""Of a number: what single precision can hardly tell from nothing."""
_EVEN = 10.0
"""Features whose ranges differ by more than this, but for the outermost tenths, are brought to one range."""
_TRIMMED = 0.05
"""This share of the accounts that vary a feature, one at least, has no say in how far up it goes, nor how far down."""
_FEWEST = 4
"""Where fewer accounts vary a feature, all of them have a say."""
_STRETCHED = 4.0
"""A range that the trimmed accounts make this many times wider is taken without them."""

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]


def scale_and_ranges(rows: Rows, owner: NDArray[np.int64]) -> tuple[Rows, Rows, Rows]:
    """What to divide each feature of ``rows`` (n, d) by, where it begins then and over how much it ranges, float32 (d,)
    each. ``owner`` int64 (n,): whose row it is, ascending. A feature that never changes is taken to range as the median
    one does; one that is very large is brought to size in any case."""
    low, width = _ranges(rows, owner)
    moving = width[width > 0]
    usual = float(np.median(moving)) if len(moving) else 1.0
    width = np.where(width > 0, width, usual)
    least, most = np.quantile(moving, (0.1, 0.9)) if len(moving) else (1.0, 1.0)
    scale = width if most > _EVEN * least else np.ones_like(width)
    size = np.abs(rows).max(axis=0).astype(np.float64)
    scale = np.where(size > FARTHEST, np.maximum(width, _DIGITS * size), scale)
    # Divided as rows are, so that the least of them is not below where the range begins.
    begin = np.divide(low, scale, dtype=np.float32, casting="same_kind")
    return scale.astype(np.float32), begin, (width / scale).astype(np.float32)


def _ranges(rows: Rows, owner: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Where each feature begins and how wide it ranges: over all rows, unless few accounts stretch that."""
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
    """The ``rank``-th least of each column."""
    return np.asarray(np.take_along_axis(np.sort(values, axis=0), rank[None], axis=0)[0])
