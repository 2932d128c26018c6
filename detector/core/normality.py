"""The Shapiro-Wilk W statistic (Royston 1995, algorithm AS R94), for many samples at once and without a p-value.

W = (sum_i a_i y_(i))^2 / sum_i (y_i - mean)^2 with weights a that depend on the sample size alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import sqrt
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


_CHUNK = 1 << 13
"""Weights are computed for about so many values at once, which stay in the cache of one core."""

_KEPT = 1 << 21
"""No more weights than this are remembered (16 MiB)."""


class _Remembered:
    """The weights asked for last, by sample size."""

    def __init__(self) -> None:
        self._of_size: OrderedDict[int, NDArray[np.float64]] = OrderedDict()
        self._values = 0

    def of(self, counts: Sequence[int]) -> list[NDArray[np.float64]]:
        """What ``half_weights`` gives."""
        for chunk in _chunks([count for count in dict.fromkeys(counts) if count not in self._of_size]):
            self._of_size.update(zip(chunk, _new_weights(chunk), strict=True))
            self._values += sum(count // 2 for count in chunk)
        for count in counts:
            self._of_size.move_to_end(count)
        found = [self._of_size[count] for count in counts]
        while self._values > _KEPT:
            self._values -= self._of_size.popitem(last=False)[0] // 2
        return found


_remembered = _Remembered()


def half_weights(counts: Sequence[int]) -> list[NDArray[np.float64]]:
    """For each of ``counts``, all at least 12: float64 (count // 2,), the weights of the largest values, the very
    largest first; the smallest have the same with a minus. A whole sample's weights are of unit length."""
    return _remembered.of(counts)


def _chunks(counts: list[int]) -> Iterator[list[int]]:
    start = values = 0
    for at, count in enumerate(counts):
        if values and values + count // 2 > _CHUNK:
            yield counts[start:at]
            start, values = at, 0
        values += count // 2
    if values:
        yield counts[start:]


def _new_weights(counts: list[int]) -> list[NDArray[np.float64]]:
    halves = [count // 2 for count in counts]
    ranks = np.arange(1, max(halves) + 1) - 0.375
    p = np.concatenate([ranks[:half] / (count + 0.25) for count, half in zip(counts, halves, strict=True)])
    medians = _upper_quantiles(p)
    ends = np.cumsum(halves).tolist()
    return [
        _scaled(medians[end - half : end].copy(), count) for count, half, end in zip(counts, halves, ends, strict=True)
    ]


def _scaled(medians: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Weights from the expected order statistics of a normal sample: all in proportion but the two outermost."""
    square = 2.0 * float(medians @ medians)
    outer, inner = medians[:2].tolist()
    root = 1.0 / sqrt(count)
    first = _polynomial(_LARGEST, root) + outer / sqrt(square)
    second = _polynomial(_SECOND, root) + inner / sqrt(square)
    rest = square - 2.0 * outer * outer - 2.0 * inner * inner
    medians *= sqrt((1.0 - 2.0 * first * first - 2.0 * second * second) / rest)
    medians[:2] = first, second
    medians.setflags(write=False)
    return medians


def _upper_quantiles(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normal quantiles of 1 - ``p``, ``p`` <= 0.5, by Beasley and Springer's AS 111, which AS R94 and so scipy's W
    rest on: the exact ones move W by some 1e-9."""
    q = 0.5 - p
    r = q * q
    quantiles: NDArray[np.float64] = q * _polynomial(_CENTRE[0], r) / _polynomial(_CENTRE[1], r)
    tail = np.flatnonzero(q > 0.42)
    r = np.sqrt(-np.log(p[tail]))
    quantiles[tail] = _polynomial(_TAIL[0], r) / _polynomial(_TAIL[1], r)
    return quantiles


def _polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    value = coefficients[-1] * x
    for coefficient in coefficients[-2:0:-1]:
        value += coefficient
        value *= x
    value += coefficients[0]
    return value


def statistics(samples: Sequence[NDArray[np.float64]]) -> list[float]:
    """W of each of these ascending samples of 12 or more values, none of which is constant."""
    halves = half_weights([len(sample) for sample in samples])
    return [_statistic(sample, half) for sample, half in zip(samples, halves, strict=True)]


def _statistic(ascending: NDArray[np.float64], half: NDArray[np.float64]) -> float:
    numerator = float(half @ (ascending[: -len(half) - 1 : -1] - ascending[: len(half)]))
    deviation = ascending - np.add.reduce(ascending) / len(ascending)
    return numerator * numerator / float(deviation @ deviation)


@lru_cache(maxsize=4)
def weight_table(largest: int) -> NDArray[np.float64]:
    """float64 (largest + 1, largest): row n holds the weights of a sample of n, then zeros; none below 12."""
    table = np.zeros((largest + 1, largest))
    for count in range(12, largest + 1):
        (half,) = _new_weights([count])
        table[count, : len(half)] = -half
        table[count, count - len(half) : count] = half[::-1]
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
