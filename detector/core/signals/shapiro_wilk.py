"""The Shapiro-Wilk W statistic (Royston 1995, algorithm AS R94), without a p-value.

W = (sum_i a_i y_(i))^2 / sum_i (y_i - mean)^2 with weights a that depend on the sample size alone.
"""

from __future__ import annotations

from functools import lru_cache
from math import log, nan, sqrt

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled

WARM_UP = 100
"""A test needs more than this many distances after outlier rejection."""
CONSTANT_SPREAD = 1e-9
"""A sample whose deviation is below this share of its mean has no shape to test."""


@compiled
def half_weights(count: int, half: NDArray[np.float64], work: NDArray[np.float64]) -> None:
    """Writes to ``half`` the weights of the ``count // 2`` largest of ``count`` >= 12 values, the very largest first;
    the smallest have the same with a minus. A whole sample's weights are of unit length."""
    medians, step = half[: count // 2], 1.0 / (count + 0.25)
    tail = int(0.08 * (count + 0.25) + 0.375)
    _outer_medians(medians[:tail], step)
    _inner_medians(medians[tail:], tail, step)
    for at in range(len(medians)):
        work[at] = medians[at] * medians[at]
    square, outer, inner = 2.0 * total(work, len(medians)), medians[0], medians[1]
    x = 1.0 / sqrt(count)
    first = _largest(x) + outer / sqrt(square)
    second = _next_largest(x) + inner / sqrt(square)
    rest = square - 2.0 * outer * outer - 2.0 * inner * inner
    scale = 1.0 / sqrt(rest / (1.0 - 2.0 * first * first - 2.0 * second * second))
    for at in range(len(medians)):
        medians[at] *= scale
    medians[0], medians[1] = first, second


@compiled
def _outer_medians(medians: NDArray[np.float64], step: float) -> None:
    """The largest 8 % of the expected order statistics of a normal sample. Quantiles by Beasley and Springer's AS 111,
    which AS R94 and so scipy's W rest on: the exact ones move W by some 1e-9."""
    for at in range(len(medians)):
        x = sqrt(-log((at + 0.625) * step))
        above = ((2.32121276858 * x + 4.85014127135) * x - 2.29796479134) * x - 2.78718931138
        medians[at] = above / ((1.63706781897 * x + 3.54388924762) * x + 1.0)


@compiled
def _inner_medians(medians: NDArray[np.float64], tail: int, step: float) -> None:
    """Those after the ``tail`` largest, down to the middle."""
    for at in range(len(medians)):
        q = 0.5 - (at + (tail + 0.625)) * step
        r = q * q
        above = ((-25.44106049637 * r + 41.39119773534) * r - 18.61500062529) * r + 2.50662823884
        below = (((3.13082909833 * r - 21.06224101826) * r + 23.08336743743) * r - 8.4735109309) * r + 1.0
        medians[at] = q * above / below


@compiled
def _largest(x: float) -> float:
    return ((((-2.706056 * x + 4.434685) * x - 2.07119) * x - 0.147981) * x + 0.221157) * x


@compiled
def _next_largest(x: float) -> float:
    return ((((-3.582633 * x + 5.682633) * x - 1.752461) * x - 0.293762) * x + 0.042981) * x


@compiled
def statistic(ascending: NDArray[np.float64], half: NDArray[np.float64], work: NDArray[np.float64]) -> float:
    """Returns W of a sorted sample of 12 or more values with its weights, NaN if they are (nearly) all the same.
    ``work``: room for half as many, and one."""
    count, mean = len(ascending), mean_of(ascending, work)
    squares = squares_of(ascending, mean, work)
    if not squares > count * (CONSTANT_SPREAD * mean) * (CONSTANT_SPREAD * mean):
        return nan
    descending = ascending[::-1]
    for at in range(count // 2):
        work[at] = half[at] * (descending[at] - ascending[at])
    numerator = total(work, count // 2)
    return numerator * numerator / squares


@lru_cache(maxsize=4)
def weight_table(largest: int) -> NDArray[np.float64]:
    """float64 (largest + 1, largest // 2): row n begins with the ``half_weights`` of n values; none below 12."""
    table, work = np.zeros((largest + 1, largest // 2)), np.empty(largest // 2)
    for count in range(12, largest + 1):
        half_weights(count, table[count], work)
    table.setflags(write=False)
    return table


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
