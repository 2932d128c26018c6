"""The projection of queries on the principal axes of the reference, their residual norms, and their Mahalanobis
distances.

Distances of 784 features cost a dozen times those of 32, and natural data lie near few axes. The residuals of two rows
are taken as independent, so that both add to their distance.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        """Returns the projection of ``rows`` (n, d)."""
        centred = rows.astype(np.float64)
        centred -= self.centre
        along = centred @ self._all
        points, white = along[:, : self.axes.shape[1]], along[:, self.axes.shape[1] :]
        squares = np.einsum("ij,ij->i", points, points)
        # Matrix products round differently for other numbers of rows; single precision hides that.
        squared = np.einsum("ij,ij->i", centred, centred) - squares
        beside = np.sqrt(np.maximum(squared, 0.0)).astype(np.float32)
        unusual = np.einsum("ij,ij->i", white, white) / white.shape[1]
        return Placed(points.astype(np.float32), beside.astype(np.float64), squares, unusual)

    @cached_property
    def _all(self) -> Matrix:
        return np.concatenate((self.axes, self.whitening), axis=1)

    def to_record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Embedding:
        return cls(**record)


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
