"""The Shapiro-Wilk W statistic (Royston 1995, algorithm AS R94), for many samples at once and without a p-value.

W = (sum_i a_i y_(i))^2 / sum_i (y_i - mean)^2 with weights a that depend on the sample size alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST = (0.0, 0.221157, -0.147981, -2.071190, 4.434685, -2.706056)
_SECOND = (0.0, 0.042981, -0.293762, -1.752461, 5.682633, -3.582633)
_CENTRE = (
    (2.50662823884, -18.61500062529, 41.39119773534, -25.44106049637),
    (1.0, -8.47351093090, 23.08336743743, -21.06224101826, 3.13082909833),
)
_TAIL = ((-2.78718931138, -2.29796479134, 4.85014127135, 2.32121276858), (1.0, 3.54388924762, 1.63706781897))
CONSTANT = 1e-9
"""A sample whose deviation is below this share of its mean has no shape to test."""


@lru_cache(maxsize=4096)
def weights(count: int) -> NDArray[np.float64]:
    """float64 (count,): a_i for ascending values, of unit length; ``count`` is at least 12."""
    half = count // 2
    medians = _lower_quantiles((np.arange(1, half + 1) - 0.375) / (count + 0.25))
    square = 2.0 * float((medians**2).sum())
    root = 1.0 / np.sqrt(count)
    first = _polynomial(_LARGEST, root) - medians[0] / np.sqrt(square)
    second = _polynomial(_SECOND, root) - medians[1] / np.sqrt(square)
    scale = np.sqrt((square - 2.0 * medians[0] ** 2 - 2.0 * medians[1] ** 2) / (1.0 - 2.0 * first**2 - 2.0 * second**2))
    tail = -medians / scale
    tail[:2] = first, second
    a = np.zeros(count)
    a[:half] = -tail
    a[count - half :] = tail[::-1]
    a /= np.sqrt((a * a).sum())
    a.setflags(write=False)
    return a


def _lower_quantiles(p: NDArray[Any]) -> NDArray[np.float64]:
    """Normal quantiles of ``p`` <= 0.5 by Beasley and Springer's AS 111, which AS R94 and so scipy's W rest on:
    the exact ones move W by some 1e-9."""
    q = p - 0.5
    r = q * q
    centre = q * _polynomial(_CENTRE[0], r) / _polynomial(_CENTRE[1], r)
    r = np.sqrt(-np.log(p))
    tail = -_polynomial(_TAIL[0], r) / _polynomial(_TAIL[1], r)
    quantiles: NDArray[np.float64] = np.where(q >= -0.42, centre, tail)
    return quantiles


def _polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    value = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def statistic(ascending: NDArray[np.float64]) -> float:
    """W of one sorted sample that is not constant."""
    deviation = ascending - ascending.sum() / len(ascending)
    numerator = (weights(len(ascending)) * deviation).sum()
    deviation *= deviation
    return float(numerator * numerator / deviation.sum())


@lru_cache(maxsize=4)
def weight_table(largest: int) -> NDArray[np.float64]:
    """float64 (largest + 1, largest): row n holds the weights of a sample of n, then zeros; none below 12."""
    table = np.zeros((largest + 1, largest))
    for count in range(12, largest + 1):
        table[count, :count] = weights.__wrapped__(count)
    table.setflags(write=False)
    return table


def rejected_statistics(ascending: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """W of each row of (m, w) sorted samples, filled up with inf, after dropping what lies three deviations or
    more from its mean; and how many values were left. W is NaN where they are (nearly) all the same.
    """
    rows, width = ascending.shape
    real = np.isfinite(ascending)
    count = real.sum(1)
    deviation = np.where(real, ascending, 0.0)
    mean = deviation.sum(1) / np.maximum(count, 1)
    deviation -= mean[:, None]
    spread = np.sqrt(np.where(real, deviation * deviation, 0.0).sum(1) / np.maximum(count, 1))
    kept = real & (np.abs(deviation) < 3.0 * spread[:, None])
    left = kept.sum(1)
    deviation = np.where(kept, deviation, 0.0)
    centre = deviation.sum(1) / np.maximum(left, 1)
    deviation -= np.where(kept, centre[:, None], 0.0)
    squares = (deviation * deviation).sum(1)
    numerator = (deviation * _aligned_weights(kept, left, width)).sum(1)
    testable = (left >= 12) & (squares > left * (CONSTANT * (mean + centre)) ** 2)
    w = np.full(rows, np.nan)
    np.divide(numerator * numerator, squares, out=w, where=testable)
    return w, left


def _aligned_weights(kept: NDArray[np.bool_], left: NDArray[np.int64], width: int) -> NDArray[np.float64]:
    """The weights of each row's sample, shifted to where its kept values, which are consecutive, begin."""
    begin = kept.argmax(1)
    column = np.clip(np.arange(width) - begin[:, None], 0, width - 1)
    aligned: NDArray[np.float64] = weight_table(width).take(left[:, None] * width + column)
    return aligned
