"""The projection of queries on the principal axes of the reference, and the nearest reference rows.

Distances of 784 features cost a dozen times those of 32, and natural data lie near few axes. The residuals of two rows
are taken as independent, so that both add to their distance. Single precision excludes nearly all rows; double
precision decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import approximate, compiled, plain
from detector.core.state.arrays import Array

AXES = 32
"""The most principal axes."""
DIRECTIONS = 32
"""The number of random directions that represent all where there are more features than ``EXACT``."""
EXACT = 64

_RIDGE = 1e-5
"""A ridge term, as a share of the mean variance of a feature, so that directions without variance do not dominate."""
_LEAST = 1e-12
Rows = NDArray[np.float32]
Matrix = NDArray[np.float64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Projection:
    """Projected rows: ``points`` float32 (n, k) on the axes, and ``residual`` float64 (n,), their residual norms.
    ``mahalanobis`` float64 (n,): the squared Mahalanobis distance to the centre (Mahalanobis 1936), per feature."""

    points: Rows
    residual: Floats
    mahalanobis: Floats


@dataclass(frozen=True, eq=False)
class Embedding:
    """``centre`` float64 (d,); ``axes`` float64 (d, k), orthonormal; ``whitening`` float64 (d, r): directions along
    which rows have unit variance on average, so that the mean square along them is the Mahalanobis distance."""

    centre: Floats
    axes: Matrix
    whitening: Matrix

    @classmethod
    def fit(cls, rows: Rows) -> Embedding:
        """Returns the principal axes of ``rows`` (m, d), 32 at most.

        With more than 64 features, ``whitening`` holds 32 random combinations of all directions, whose mean square is
        right on average (Johnson and Lindenstrauss 1984). The rows seed them: only someone with the rows can choose
        inputs that avoid them.
        """
        count, dimension = rows.shape
        centre = rows.mean(axis=0, dtype=np.float64)
        variance, axes = _principal(rows - centre)
        ridge = max(_RIDGE * float(variance.sum()) / dimension, _LEAST)
        # Off all axes of the rows the variance is that of the ridge alone.
        scales = 1 / np.sqrt(variance + ridge) - 1 / np.sqrt(ridge)
        mixed = _mixed(rows)
        whitening = axes @ (scales[:, None] * (axes.T @ mixed)) + mixed / np.sqrt(ridge)
        kept = min(AXES, count, dimension)
        return cls(centre, np.ascontiguousarray(axes[:, :kept]), whitening)

    @property
    def dimension(self) -> int:
        return len(self.centre)

    def project(self, rows: Rows) -> Projection:
        """Returns the projection of ``rows`` (n, d). Each row has the same bits as it would alone."""
        count, axes = len(rows), self.axes.shape[1]
        along, norms = np.zeros((count, self._directions.shape[1])), np.zeros(count)
        _project(plain(rows), self.centre, self._directions, along, norms)
        points, residual, mahalanobis = np.empty((count, axes), np.float32), np.empty(count), np.empty(count)
        _settle(along, norms, points, residual, mahalanobis)
        return Projection(points, residual, mahalanobis)

    @cached_property
    def _directions(self) -> Matrix:
        return np.concatenate((self.axes, self.whitening), axis=1)


def _principal(centred: Matrix) -> tuple[Floats, Matrix]:
    """Returns, of ``centred`` rows (m, d), the variance along each of their axes, largest first, and the axes (d,
    k)."""
    from scipy.linalg import eigh, svd

    count, dimension = centred.shape
    if dimension <= 2 * count:
        # Twice as fast, and the loss of precision is far below the ridge.
        variance, axes = eigh(centred.T @ centred / count, check_finite=False, overwrite_a=True)
        return np.maximum(variance[::-1], 0.0), np.ascontiguousarray(axes[:, ::-1])
    _, lengths, axes = svd(centred, full_matrices=False, overwrite_a=True, check_finite=False)
    return lengths**2 / count, np.ascontiguousarray(axes.T)


def _mixed(rows: Rows) -> Matrix:
    """Returns float64 (d, r): the features themselves, or random combinations of many features."""
    dimension = rows.shape[1]
    if dimension <= EXACT:
        return np.eye(dimension)
    seed = blake2b(np.ascontiguousarray(rows).tobytes(), digest_size=16).digest()
    generator = np.random.default_rng(int.from_bytes(seed, "little"))
    return generator.normal(0, 1 / np.sqrt(dimension), (dimension, DIRECTIONS))


@compiled
def _project(rows: Rows, centre: Floats, directions: Matrix, along: Matrix, norms: Matrix) -> None:
    """Adds to ``along`` (n, k) the products of ``rows`` (n, d), less their ``centre``, with ``directions`` (d, k), and
    to ``norms`` (n,) their squared norms. Eight features at a time, as most of the time goes into reading sums."""
    count, dimension = rows.shape
    tail = dimension - dimension % 8
    for at in range(0, tail, 8):
        for row in range(count):
            a, b = rows[row, at] - centre[at], rows[row, at + 1] - centre[at + 1]
            c, d = rows[row, at + 2] - centre[at + 2], rows[row, at + 3] - centre[at + 3]
            e, f = rows[row, at + 4] - centre[at + 4], rows[row, at + 5] - centre[at + 5]
            g, h = rows[row, at + 6] - centre[at + 6], rows[row, at + 7] - centre[at + 7]
            norms[row] += ((a * a + b * b) + (c * c + d * d)) + ((e * e + f * f) + (g * g + h * h))
            for lane in range(directions.shape[1]):
                sums = along[row, lane] + a * directions[at, lane] + b * directions[at + 1, lane]
                sums = sums + c * directions[at + 2, lane] + d * directions[at + 3, lane]
                sums = sums + e * directions[at + 4, lane] + f * directions[at + 5, lane]
                along[row, lane] = sums + g * directions[at + 6, lane] + h * directions[at + 7, lane]
    for at in range(tail, dimension):
        for row in range(count):
            a = rows[row, at] - centre[at]
            norms[row] += a * a
            for lane in range(directions.shape[1]):
                along[row, lane] += a * directions[at, lane]


@compiled
def _settle(along: Matrix, norms: Floats, points: Rows, residual: Floats, mahalanobis: Floats) -> None:
    """Fills the columns of ``Projection`` from the products (n, k) and squared norms (n,) of ``_project``."""
    count, axes = points.shape
    others = along.shape[1] - axes
    for row in range(count):
        sums = 0.0
        for axis in range(axes):
            points[row, axis] = along[row, axis]
            sums += along[row, axis] * along[row, axis]
        # For rows almost along the axes, further digits are rounding alone.
        residual[row] = np.float32(math.sqrt(max(norms[row] - sums, 0.0)))
        sums = 0.0
        for lane in range(axes, along.shape[1]):
            sums += along[row, lane] * along[row, lane]
        mahalanobis[row] = sums / others


CANDIDATES = 4
"""The number of rows that are compared exactly, one more than are found: one may be the query itself."""

_TILE = 16
_LANES = 32
_BLOCK = 4 * _LANES
"""This many rows of the reference are read again for each query of a tile, as they fit into the nearest cache."""
_AXES = 8
"""Axes that are added up together, as most of the time goes into reading sums."""
_UNIT = 2.0**-24
_TINY = 1e-40


class NearestRows:
    """Finds the nearest of m rows, ``points`` float32 (m, j) and ``residual`` float64 (m,)."""

    def __init__(self, points: Rows, residual: Floats) -> None:
        count, blocks = len(points), -(-len(points) // _BLOCK)
        self._rows = _padded(points, residual)
        rows = np.zeros((blocks * _BLOCK, self._rows.shape[1]))
        squares = np.einsum("ij,ij->i", self._rows, self._rows)
        rows[:count, :-1], rows[:count, -1] = self._rows[:, :-1], squares * (1 - 3 * _share(rows.shape[1]))
        rows[count:, -1] = np.inf
        by_axis = rows.reshape(blocks, _BLOCK, -1).transpose(0, 2, 1)
        self._columns = np.ascontiguousarray(by_axis, np.float32)

    def __call__(self, points: Rows, residual: Floats, same: float, count: int) -> tuple[Floats, Array]:
        """Returns, of queries at ``points`` (n, j) and ``residual`` (n,), in single precision, the distance float64
        (n,) to the nearest row, 0 if there is none, and the ``count`` nearest rows, int64 (n, count), nearest first.

        Exact except among rows at the same distance to six digits, of which the first is taken. A row within ``same``
        of the query is not counted, and comes last.
        """
        distance, found = np.empty(len(points)), np.empty((len(points), min(count, len(self._rows))), np.int64)
        near = np.empty((len(self._columns), _TILE, _BLOCK), np.float32)
        queries = _padded(points, residual).astype(np.float32)
        lanes, best = near.reshape(len(near), _TILE, _BLOCK // _LANES, _LANES), _Best.empty()
        _search(queries, 2 * queries, self._columns, self._rows, same, near, lanes, best, distance, found)
        return distance, found


def _padded(points: Rows, residual: Floats) -> Floats:
    """Returns float64 (n, k + 1): ``points`` with axes of 0 up to a multiple of 8, and ``residual``."""
    rows = np.zeros((len(points), -(-points.shape[1] // _AXES) * _AXES + 1))
    rows[:, : points.shape[1]], rows[:, -1] = points, residual
    return rows


class _Best(NamedTuple):
    """The nearest rows so far of one query: ``keys`` float32 (4,), ascending, their squared distances; ``gaps`` float64
    (4,), those along the axes; ``chosen`` int64 (4,). ``least`` float32 (32,): the least distance in each lane."""

    keys: Rows
    gaps: Floats
    chosen: Array
    least: Rows

    @classmethod
    def empty(cls) -> _Best:
        """Returns room for those of one query."""
        least = np.empty(_LANES, np.float32)
        return cls(np.empty(CANDIDATES, np.float32), np.empty(CANDIDATES), np.empty(CANDIDATES, np.int64), least)


@compiled
def _search(
    queries: Rows,
    doubled: Rows,
    columns: Rows,
    reference: Floats,
    same: float,
    near: Rows,
    lanes: Rows,
    best: _Best,
    distance: Floats,
    found: Array,
) -> None:
    """Fills ``distance`` (n,) and ``found`` (n, c) for the rows ``queries`` (n, k + 1), also ``doubled``, compared with
    the rows ``reference`` (m, k + 1). ``columns`` (b, k + 1, 128): the same, block by block, axis by axis; last their
    squared lengths, residuals included, less a share for rounding, infinite where there is no row. ``near`` float32 (b,
    16, 128), the same as ``lanes`` (b, 16, 4, 32), and ``best`` are room to work in."""
    count = min(CANDIDATES, len(reference))
    for start in range(0, len(queries), _TILE):
        end = min(start + _TILE, len(queries))
        _approach(doubled[start:end], columns, near)
        for row in range(start, end):
            _choose(queries[row], reference, lanes, row - start, best)
            _rank(np.float64(queries[row, -1]), reference, same, count, best)
            distance[row] = best.gaps[0] if best.gaps[0] < np.inf else 0.0
            for at in range(found.shape[1]):
                found[row, at] = best.chosen[at]


@approximate
def _approach(queries: Rows, columns: Rows, near: Rows) -> None:
    """Fills ``near`` (b, n, 128) with the last of ``columns`` (b, k + 1, 128) less the products with ``queries``
    (n, k + 1). For queries taken twice these are squared distances but for their own part, see ``_reach``."""
    axes = columns.shape[1] - 1
    for block in range(len(columns)):
        for row in range(len(queries)):
            for lane in range(columns.shape[2]):
                near[block, row, lane] = columns[block, axes, lane]
        for at in range(0, axes, _AXES):
            for row in range(len(queries)):
                p, q, r, s = queries[row, at], queries[row, at + 1], queries[row, at + 2], queries[row, at + 3]
                t, u, v, w = queries[row, at + 4], queries[row, at + 5], queries[row, at + 6], queries[row, at + 7]
                for lane in range(columns.shape[2]):
                    sums = near[block, row, lane] - p * columns[block, at, lane] - q * columns[block, at + 1, lane]
                    sums = sums - r * columns[block, at + 2, lane] - s * columns[block, at + 3, lane]
                    sums = sums - t * columns[block, at + 4, lane] - u * columns[block, at + 5, lane]
                    near[block, row, lane] = sums - v * columns[block, at + 6, lane] - w * columns[block, at + 7, lane]


@compiled
def _share(width: int) -> float:
    """Returns by which share of its terms a sum of ``width`` numbers in single precision may be off, in any order
    (Higham 2002, 3.1)."""
    return (width + 8) * _UNIT


@compiled
def _choose(queries: Rows, reference: Floats, near: Rows, at: int, best: _Best) -> None:
    """Fills ``best`` with the rows of ``reference`` (m, k + 1) nearest to ``queries`` (k + 1,). Their approximate
    squared distances are those ``at`` a position of ``near`` (b, n, 4, 32). Of rows whose exact ones are equal in
    single precision, the first are taken."""
    best.keys[:], best.gaps[:], best.chosen[:] = np.inf, np.inf, 0
    bound = _reach(queries, _fourth(near, at, best.least))
    for lane in range(_LANES):
        if best.least[lane] > bound:
            continue
        for row in range(lane, len(reference), _LANES):
            if near[row // _BLOCK, at, row % _BLOCK // _LANES, lane] <= bound:
                gap, off = _gap(queries, reference[row]), reference[row, -1]
                _insert(np.float32(gap + off * off), gap, row, best)


@compiled
def _reach(query: Rows, fourth: float) -> np.float32:
    """Returns how large the result of ``_approach`` may be for a row that is as near to ``query`` (k + 1,) as another
    with the result ``fourth``.

    Let q be the squared length of the query without its residual, r that of a row with it, and D = r + q - 2 <.,.>
    their squared distance. The last column is r (1 - 3e), e the share of ``_share``. The sum of it and the products is
    off by e (r + 2 sqrt(q r)) <= e (2 r + q) at most: so no result is above D - q + e q. As r <= 2 q + 2 D, none is
    below D - q - e (11 q + 14 D)."""
    share, length = _share(len(query)), 0.0
    for axis in range(len(query) - 1):
        length += np.float64(query[axis]) * np.float64(query[axis])
    farthest = (fourth + length * (1 + 11 * share)) / (1 - 14 * share)
    reach = farthest - length * (1 - share)
    return np.float32(reach + 4 * _UNIT * abs(reach) + _TINY)


@compiled
def _fourth(near: Rows, at: int, least: Rows) -> float:
    """Fills ``least`` (32,) with the least of ``near`` (b, n, 4, 32) ``at`` a place in each lane, and returns the
    fourth of them, which four of all do not exceed."""
    lanes = len(least)  # Not a constant, which would be unrolled instead of vectorised.
    least[:] = np.inf
    for block in range(len(near)):
        for lane in range(lanes):
            first = min(near[block, at, 0, lane], near[block, at, 1, lane])
            second = min(near[block, at, 2, lane], near[block, at, 3, lane])
            least[lane] = min(least[lane], min(first, second))  # noqa: PLW3301 (three are not vectorised)
    first = second = third = fourth = np.float32(np.inf)
    for lane in range(lanes):
        fourth = min(fourth, least[lane])
        if fourth < third:
            third, fourth = fourth, third
        if third < second:
            second, third = third, second
        if second < first:
            first, second = second, first
    return float(fourth)


@compiled
def _gap(query: Rows, row: Floats) -> float:
    """Returns the squared distance of two rows (k + 1,) along the axes."""
    even, odd = 0.0, 0.0
    for axis in range(0, len(query) - 1, 2):
        first, second = row[axis] - query[axis], row[axis + 1] - query[axis + 1]
        even += first * first
        odd += second * second
    return even + odd


@compiled
def _insert(key: Any, gap: float, row: int, best: _Best) -> None:
    """Inserts a row in the order of keys, float32, then of rows, and drops the last."""
    keys, gaps, chosen = best.keys, best.gaps, best.chosen
    at = CANDIDATES
    while at > 0 and (key < keys[at - 1] or (key == keys[at - 1] and row < chosen[at - 1])):
        at -= 1
    for back in range(CANDIDATES - 1, at, -1):
        keys[back], gaps[back], chosen[back] = keys[back - 1], gaps[back - 1], chosen[back - 1]
    if at < CANDIDATES:
        keys[at], gaps[at], chosen[at] = key, gap, row


@compiled
def _rank(residual: float, reference: Floats, same: float, count: int, best: _Best) -> None:
    """Turns the first ``count`` gaps into distances, infinite within ``same``, and sorts by them, then by row."""
    gaps, chosen = best.gaps, best.chosen
    for at in range(count):
        off = reference[chosen[at], -1]
        distance = math.sqrt(gaps[at] + (off - residual) * (off - residual))
        gaps[at] = np.inf if distance <= same else math.sqrt(gaps[at] + off * off + residual * residual)
    for at in range(1, count):
        for back in range(at, 0, -1):
            gap, before = gaps[back], gaps[back - 1]
            if gap < before or (gap == before and chosen[back] < chosen[back - 1]):
                gaps[back], gaps[back - 1] = before, gap
                chosen[back], chosen[back - 1] = chosen[back - 1], chosen[back]
