"""Distances between rows: exact ones, and approximate ones that exclude rows by a proven bound.

An exact distance is ``sqrt(sum((a - b)**2))`` in float64 of float32 rows, summed as numpy sums a contiguous row: by
halves down to runs of 128, each in eight partial sums. So distances are those of the published PRADA agent, to the bit.
"""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import allocating, approximate, compiled

UNIT32, LEAST32 = 2.0**-24, 2.0**-126

_RUN = 128
_DEEPEST = 40
_LARGEST32 = 2.0**127

Matrix = NDArray[np.float32]


@compiled
def exact(rows: Matrix, at: int, others: Matrix, other: int) -> float:
    """Returns the distance between row ``at`` of ``rows`` (n, d) and row ``other`` of ``others`` (m, d)."""
    if rows.shape[1] <= _RUN:
        return sqrt(_run(rows[at], others[other]))
    return sqrt(_by_halves(rows[at], others[other]))


@allocating
def _by_halves(row: Matrix, other: Matrix) -> float:
    """Returns the sum of squares over a tree of halves. At each depth, the sum of the left half waits in ``sums`` for
    the right one, which is the run of ``length`` from ``start`` on; bits of ``right`` say where that is under way."""
    sums, start, length = np.empty(_DEEPEST), np.empty(_DEEPEST, np.int64), np.empty(_DEEPEST, np.int64)
    first, count, depth, right = 0, len(row), 0, 0
    while True:
        while count > _RUN:
            half = count // 2
            half -= half % 8
            depth += 1
            start[depth], length[depth] = first + half, count - half
            right &= ~(1 << depth)
            count = half
        total = _run(row[first : first + count], other[first : first + count])
        while depth and right >> depth & 1:
            total = sums[depth] + total
            depth -= 1
        if not depth:
            return total
        sums[depth] = total
        right |= 1 << depth
        first, count = start[depth], length[depth]


@compiled
def _run(row: Matrix, other: Matrix) -> float:
    count = len(row)
    in_eights = count - count % 8
    total = 0.0
    if in_eights:
        a = b = c = d = e = f = g = h = 0.0
        for j in range(0, in_eights, 8):
            a += (np.float64(row[j]) - np.float64(other[j])) ** 2
            b += (np.float64(row[j + 1]) - np.float64(other[j + 1])) ** 2
            c += (np.float64(row[j + 2]) - np.float64(other[j + 2])) ** 2
            d += (np.float64(row[j + 3]) - np.float64(other[j + 3])) ** 2
            e += (np.float64(row[j + 4]) - np.float64(other[j + 4])) ** 2
            f += (np.float64(row[j + 5]) - np.float64(other[j + 5])) ** 2
            g += (np.float64(row[j + 6]) - np.float64(other[j + 6])) ** 2
            h += (np.float64(row[j + 7]) - np.float64(other[j + 7])) ** 2
        total = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for j in range(in_eights, count):
        total += (np.float64(row[j]) - np.float64(other[j])) ** 2
    return total


@approximate
def gap(rows: Matrix, at: int, others: Matrix, other: int) -> np.float32:
    """Returns the squared distance of two rows, off as ``within`` says."""
    total = np.float32(0.0)
    for j in range(rows.shape[1]):
        step = rows[at, j] - others[other, j]
        total += step * step
    return total


@approximate
def gaps(
    rows: Matrix, at: int, others: Matrix, a: int, b: int, c: int, d: int
) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Returns ``gap`` of row ``at`` and each of four others: most of the time goes into reading the row."""
    p = q = r = s = np.float32(0.0)
    for j in range(rows.shape[1]):
        value = rows[at, j]
        first, second, third, fourth = (
            others[a, j] - value,
            others[b, j] - value,
            others[c, j] - value,
            others[d, j] - value,
        )
        p, q, r, s = p + first * first, q + second * second, r + third * third, s + fourth * fourth
    return p, q, r, s


@compiled
def within(squared: float, dimension: int) -> float:
    """Returns what ``gap`` may be of a vector that is no farther than one with ``squared``: a sum of d squares in
    single precision is off by at most (d + 2) units, and the difference and the square add two. Returns inf where such
    sums may be infinite, and exclude nothing."""
    most = squared * (1.0 + 2 * (dimension + 8) * UNIT32) + dimension * LEAST32
    return most if most < _LARGEST32 else inf
