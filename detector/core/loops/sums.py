"""Sums in one fixed order, which a compiled loop forms side by side, with the same bits everywhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled

LANES = 8
_BLOCK = 128


@compiled
def total(values: NDArray[np.float64], count: int) -> float:
    """Returns the sum of the first ``count`` values, and overwrites them: the last half is added to the first."""
    while count > 1:
        half = count // 2
        first, last = values[:half], values[count - half : count]
        for at in range(half):
            first[at] += last[at]
        count -= half
    return float(values[0]) if count else 0.0


@compiled
def mean_of(values: NDArray[np.float64], work: NDArray[np.float64]) -> float:
    """Returns the mean of one or more values. ``work``: room for half of them, and one."""
    count, half = len(values), len(values) // 2
    last = values[count - half :]
    work[half] = values[half]
    for at in range(half):
        work[at] = values[at] + last[at]
    return total(work, count - half) / count


@compiled
def squares_of(values: NDArray[np.float64], mean: float, work: NDArray[np.float64]) -> float:
    """Returns the sum of the squares of deviations from ``mean``. ``work`` as in ``mean_of``."""
    count, half = len(values), len(values) // 2
    last = values[count - half :]
    work[half] = (values[half] - mean) * (values[half] - mean)
    for at in range(half):
        work[at] = (values[at] - mean) * (values[at] - mean) + (last[at] - mean) * (last[at] - mean)
    return total(work, count - half)


@compiled
def pairwise(values: NDArray[np.float64], count: int) -> float:
    """Returns the sum of the first ``count`` values in numpy's order for a power of two of them, zeros included.
    Overwrites them, and up to seven places behind them."""
    end = (count + LANES - 1) // LANES * LANES
    values[count:end] = 0.0
    blocks = (end + _BLOCK - 1) // _BLOCK
    for block in range(blocks):
        values[block] = _lanes(values[block * _BLOCK : min(block * _BLOCK + _BLOCK, end)])
    while blocks > 1:
        for pair in range(blocks // 2):
            values[pair] = values[2 * pair] + values[2 * pair + 1]
        if blocks % 2:
            values[blocks // 2] = values[blocks - 1]
        blocks = (blocks + 1) // 2
    return float(values[0])


@compiled
def _lanes(values: NDArray[np.float64]) -> float:
    a = b = c = d = e = f = g = h = 0.0
    for at in range(0, len(values), LANES):
        a += values[at]
        b += values[at + 1]
        c += values[at + 2]
        d += values[at + 3]
        e += values[at + 4]
        f += values[at + 5]
        g += values[at + 6]
        h += values[at + 7]
    return ((a + b) + (c + d)) + ((e + f) + (g + h))
