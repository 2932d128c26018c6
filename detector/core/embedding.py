"""Where queries are compared with the reference: on its principal axes, with what lies off them kept apart.

Distances of 784 features cost a dozen times those of 32, and natural data lie near few axes. What lies off the axes
of one row is taken as independent of what lies off them of another, so that both add to their distance.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

AXES = 32
"""At most so many principal axes."""

_RIDGE = 1e-3
"""Of the mean variance of a feature: added to each axis, lest an axis without spread decide alone."""
_LEAST = 1e-12


@dataclass(frozen=True, slots=True)
class Placed:
    """Rows on the axes: ``points`` float32 (n, k), and ``beside`` float64 (n,), how far they lie off the axes."""

    points: NDArray[np.float32]
    beside: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """``centre`` float64 (d,); ``axes`` float64 (d, k), orthonormal; ``variance`` float64 (k,) along each and
    ``variance_beside`` off all of them, in squared feature units."""

    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    variance: NDArray[np.float64]
    variance_beside: float

    @classmethod
    def fit(cls, rows: NDArray[np.float32]) -> Embedding:
        """The principal axes of ``rows`` (m, d), 32 at most."""
        from scipy.linalg import eigh

        count, dimension = rows.shape
        centre = rows.mean(axis=0, dtype=np.float64)
        centred = rows - centre
        covariance = centred.T @ centred / count
        kept = min(AXES, count, dimension)
        variance, axes = eigh(covariance, subset_by_index=(dimension - kept, dimension - 1))
        total = max(float(np.trace(covariance)), _LEAST)
        ridge = _RIDGE * total / dimension
        variance = np.maximum(variance[::-1], 0.0)
        beside = max(total - float(variance.sum()), ridge)
        return cls(centre, np.ascontiguousarray(axes[:, ::-1]), variance + ridge, beside)

    @property
    def dimension(self) -> int:
        return len(self.centre)

    def place(self, rows: NDArray[np.float32]) -> Placed:
        """``rows`` (n, d) on the axes."""
        centred = rows - self.centre
        points = centred @ self.axes
        squared = np.einsum("ij,ij->i", centred, centred) - np.einsum("ij,ij->i", points, points)
        # Matrix products round differently for other numbers of rows; in single precision that is seen no more.
        beside = np.sqrt(np.maximum(squared, 0.0)).astype(np.float32)
        return Placed(points.astype(np.float32), beside.astype(np.float64))

    def outlyingness(self, placed: Placed) -> NDArray[np.float64]:
        """float64 (n,): the logarithm of the squared Mahalanobis distance to the centre, a feature (Mahalanobis 1936).

        What lies off the axes weighs half as much as all axes together, however many features it has.
        """
        along = (placed.points.astype(np.float64) ** 2 / self.variance).sum(axis=1)
        beside = placed.beside**2 / self.variance_beside
        share = len(self.variance) / 2 if self.dimension > len(self.variance) else 0.0
        return np.asarray(np.log((along + share * beside + _LEAST) / self.dimension))

    def to_record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Embedding:
        return cls(**record)
