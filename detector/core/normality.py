"""The Shapiro-Wilk W statistic (Royston 1995, algorithm AS R94), for many samples at once and without a p-value.

W = (sum_i a_i y_(i))^2 / sum_i (y_i - mean)^2 with weights a that depend on the sample size alone.
"""

from __future__ import annotations

from functools import lru_cache
from math import acos, exp, log, sqrt
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


_STEP = log(17 / 16)
"""Sample sizes within this of each other, in logarithms, share what their weights are computed from."""

_TERMS = 6
_LARGEST_SHARED = 1 << 14
"""Larger samples have their weights computed from scratch, so that no more than 8 MiB are ever kept."""


def half_weights(count: int) -> NDArray[np.float64]:
    """float64 (count // 2,): the weights of the largest of ``count`` >= 12 values, the very largest first; the
    smallest have the same with a minus. A whole sample's weights are of unit length.

    They depend on ``count`` alone. Up to 16,384 values they are right to 1e-8, W to 1e-10; beyond, to rounding.
    """
    if count > _LARGEST_SHARED:
        return _scaled(_medians(count, 0.08 * (count + 0.25)), count)
    block, place = divmod(log(count) / _STEP, 1.0)
    series = np.cos(np.arange(_TERMS) * acos(2.0 * place - 1.0))
    return _scaled(series @ _expanded(int(block))[:, : count // 2], count)


@lru_cache(maxsize=256)
def _expanded(block: int) -> NDArray[np.float64]:
    """float64 (terms, n): expected order statistics of normal samples of all sizes of a block, as Chebyshev series
    in the logarithm of the size. From one size to the next they hardly change."""
    angle = (np.arange(_TERMS) + 0.5) * np.pi / _TERMS
    sizes = np.exp(_STEP * (block + 0.5 + 0.5 * np.cos(angle)))
    largest, middle = exp(_STEP * (block + 1)), exp(_STEP * (block + 0.5))
    nodes = np.array([_medians(size, 0.08 * (middle + 0.25), int(largest) // 2) for size in sizes.tolist()])
    transform = np.cos(np.outer(np.arange(_TERMS), angle)) * (2.0 / _TERMS)
    transform[0] /= 2.0
    expanded: NDArray[np.float64] = transform @ nodes
    return expanded


def _scaled(medians: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Weights from the expected order statistics of a normal sample: all in proportion but the two outermost."""
    square = 2.0 * float((medians * medians).sum())
    outer, inner = medians[:2].tolist()
    root = 1.0 / sqrt(count)
    first = _polynomial(_LARGEST, root) + outer / sqrt(square)
    second = _polynomial(_SECOND, root) + inner / sqrt(square)
    rest = square - 2.0 * outer * outer - 2.0 * inner * inner
    medians /= sqrt(rest / (1.0 - 2.0 * first * first - 2.0 * second * second))
    medians[:2] = first, second
    medians.setflags(write=False)
    return medians


def _medians(size: float, border: float, count: int | None = None) -> NDArray[np.float64]:
    """float64 (count,): the largest expected order statistics of a normal sample, by default its upper half.

    Quantiles by Beasley and Springer's AS 111, which AS R94 and so scipy's W rest on: the exact ones move W by some
    1e-9. It has one formula for ranks up to ``border``, 0.08 of the sample, and one for the others.
    """
    p = (np.arange(1, (int(size) // 2 if count is None else count) + 1) - 0.375) / (size + 0.25)
    tail = int(border + 0.375)
    root = np.sqrt(-np.log(p[:tail]))
    q = 0.5 - p[tail:]
    r = q * q
    return np.concatenate(
        (
            _polynomial(_TAIL[0], root) / _polynomial(_TAIL[1], root),
            q * _polynomial(_CENTRE[0], r) / _polynomial(_CENTRE[1], r),
        )
    )


def _polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    value = coefficients[-1] * x
    for coefficient in coefficients[-2:0:-1]:
        value += coefficient
        value *= x
    value += coefficients[0]
    return value


def statistic(ascending: NDArray[np.float64]) -> float:
    """W of one sorted sample of 12 or more values that is not constant."""
    half = half_weights(len(ascending))
    numerator = float(half @ (ascending[: -len(half) - 1 : -1] - ascending[: len(half)]))
    deviation = ascending - np.add.reduce(ascending) / len(ascending)
    return numerator * numerator / float(deviation @ deviation)


@lru_cache(maxsize=4)
def weight_table(largest: int) -> NDArray[np.float64]:
    """float64 (largest + 1, largest): row n holds the weights of a sample of n, then zeros; none below 12."""
    table = np.zeros((largest + 1, largest))
    for count in range(12, largest + 1):
        half = _scaled(_medians(count, 0.08 * (count + 0.25)), count)
        row = table[count, :count]
        row[: len(half)], row[count - len(half) :] = -half, half[::-1]
        row /= sqrt(float((row * row).sum()))  # to the last bit: state logs hold statistics that rest on it
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
