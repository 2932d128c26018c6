"""The projection of queries on the principal axes of the reference, their residual norms, and their Mahalanobis
distances.

Distances of 784 features cost a dozen times those of 32, and natural data lie near few axes. The residuals of two rows
are taken as independent, so that both add to their distance.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.state.arrays import plain

AXES = 32
"""The most principal axes."""
DIRECTIONS = 32
"""The number of random directions that stand for all where there are more features than ``EXACT``."""
EXACT = 64

_RIDGE = 1e-5
"""A ridge term, as a share of the mean variance of a feature, so that directions without variance do not dominate."""
_LEAST = 1e-12
Rows = NDArray[np.float32]
Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Placed:
    """Projected rows: ``points`` float32 (n, k) on the axes, and ``beside`` float64 (n,), their residual norms.
    ``squares`` float64 (n,): the squared norms of the points. ``unusual`` float64 (n,): the squared Mahalanobis
    distance to the centre (Mahalanobis 1936), per feature."""

    points: Rows
    beside: NDArray[np.float64]
    squares: NDArray[np.float64]
    unusual: NDArray[np.float64]

    def at(self, some: NDArray[np.int64]) -> Placed:
        """Returns the rows ``some``."""
        return Placed(self.points[some], self.beside[some], self.squares[some], self.unusual[some])


@dataclass(frozen=True, eq=False)
class Embedding:
    """``centre`` float64 (d,); ``axes`` float64 (d, k), orthonormal; ``whitening`` float64 (d, r): directions along
    which rows have unit variance on average, so that the mean square along them is the Mahalanobis distance."""

    centre: NDArray[np.float64]
    axes: Matrix
    whitening: Matrix

    @classmethod
    def fit(cls, rows: Rows) -> Embedding:
        """Returns the principal axes of ``rows`` (m, d), 32 at most.

        With more than 64 features, ``whitening`` holds 32 random combinations of all directions, whose mean square is
        right on average (Johnson and Lindenstrauss 1984). The rows seed them: without the rows nobody can choose inputs
        that avoid them.
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

    def place(self, rows: Rows) -> Placed:
        """Returns the projection of ``rows`` (n, d). Each row has the same bits as it would alone."""
        count, axes = len(rows), self.axes.shape[1]
        along, norms = np.zeros((count, self._directions.shape[1])), np.zeros(count)
        _project(plain(rows), self.centre, self._directions, along, norms)
        placed = Placed(np.empty((count, axes), np.float32), np.empty(count), np.empty(count), np.empty(count))
        _settle(along, norms, placed.points, placed.beside, placed.squares, placed.unusual)
        return placed

    @cached_property
    def _directions(self) -> Matrix:
        return np.concatenate((self.axes, self.whitening), axis=1)

    def to_record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Embedding:
        return cls(**{name: plain(part) for name, part in record.items()})


def _principal(centred: Matrix) -> tuple[NDArray[np.float64], Matrix]:
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
def _project(rows: Rows, centre: NDArray[np.float64], directions: Matrix, along: Matrix, norms: Matrix) -> None:
    """Adds to ``along`` (n, k) the products of ``rows`` (n, d), less their ``centre``, with ``directions`` (d, k), and
    to ``norms`` (n,) their squared norms. Eight features at a time, as most of the time goes into reading sums."""
    count, dimension = rows.shape
    whole = dimension - dimension % 8
    for at in range(0, whole, 8):
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
    for at in range(whole, dimension):
        for row in range(count):
            a = rows[row, at] - centre[at]
            norms[row] += a * a
            for lane in range(directions.shape[1]):
                along[row, lane] += a * directions[at, lane]


@compiled
def _settle(
    along: Matrix,
    norms: NDArray[np.float64],
    points: Rows,
    beside: NDArray[np.float64],
    squares: NDArray[np.float64],
    unusual: NDArray[np.float64],
) -> None:
    """Fills the columns of ``Placed`` from the products (n, k) and squared norms (n,) of ``_project``."""
    count, axes = points.shape
    others = along.shape[1] - axes
    for row in range(count):
        sums = 0.0
        for axis in range(axes):
            points[row, axis] = along[row, axis]
            sums += along[row, axis] * along[row, axis]
        squares[row] = sums
        # For rows almost along the axes, further digits are rounding alone.
        beside[row] = np.float32(math.sqrt(max(norms[row] - sums, 0.0)))
        sums = 0.0
        for lane in range(axes, along.shape[1]):
            sums += along[row, lane] * along[row, lane]
        unusual[row] = sums / others
