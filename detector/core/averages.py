"""Decayed sums of query scores, over several memories at once, on clocks that advance by a weight per query.

With weight w, a sum S becomes S e^(-w/s) + w v at a query that scores v, where s is the memory. The same sum of v = 1
is the weight so far, and the quotient is an exponentially weighted mean of about the last s queries. Thirty frames of a
video, each of little weight, count as a few queries. The sums of two principals add up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.rows import Grouping

MEMORIES = np.array((8.0, 32.0, 128.0, 512.0))
"""In queries of weight 1."""

_BLOCK = 32
"""Rows of a group that are summed at once where there are several: e^(32 / 8) is still small, so that one group costs
the next no precision."""

Floats = NDArray[np.float64]


def fading_sums(grouping: Grouping, increments: Floats, clock: Array, weights: Floats, before: Floats) -> Floats:
    """Returns float64 (j, memories, n): the sums as of each of n rows, of ``increments`` (j, n), of which the i-th
    decay by the ``clock[i]``-th of ``weights`` (clocks, n), from 0 to 1. Rows are in the order of ``grouping``;
    ``before`` (j, memories, groups). A group has at most 1,024 rows, so that its exponentials cannot overflow."""
    lengths = grouping.lengths
    if increments.shape[1] and (len(lengths) == 1 or 0 < lengths.min() <= lengths.max() <= _BLOCK):
        return _block(increments, clock, weights, lengths, before)
    sums = np.empty((*before.shape[:2], increments.shape[1]))
    for group in np.flatnonzero(lengths > _BLOCK).tolist():
        own = slice(grouping.starts[group], grouping.starts[group] + lengths[group])
        part = slice(group, group + 1)
        sums[:, :, own] = _block(increments[:, own], clock, weights[:, own], lengths[part], before[:, :, part])
    short = np.flatnonzero((lengths > 0) & (lengths <= _BLOCK))
    if len(short):
        rows = _ranges(grouping.starts[short], lengths[short])
        sums[:, :, rows] = _block(increments[:, rows], clock, weights[:, rows], lengths[short], before[:, :, short])
    return sums


def _block(increments: Floats, clock: Array, weights: Floats, lengths: Array, start: Floats) -> Floats:
    """The same for short runs, or for one of any length, ``start`` (j, memories, runs); none is empty."""
    first = np.cumsum(lengths) - lengths
    elapsed = np.cumsum(weights, axis=1)
    elapsed -= np.repeat((elapsed - weights)[:, first], lengths, axis=1)
    growth = np.exp(elapsed[:, None] / MEMORIES[:, None])[clock]
    sums = increments[:, None] * growth
    terms = sums[:, :, first]
    np.cumsum(sums, axis=2, out=sums)
    sums -= np.repeat(sums[:, :, first] - terms - start, lengths, axis=2)
    sums /= growth
    return np.asarray(sums)


def _ranges(starts: Array, lengths: Array) -> Array:
    """Returns int64: each start and the integers after it, as many as its length says."""
    ends = np.cumsum(lengths)
    rows: Array = np.arange(ends[-1]) + np.repeat(starts - ends + lengths, lengths)
    return rows
