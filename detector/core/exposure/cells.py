"""Cells of the feature space for models that have no leaves: k-means (Lloyd 1982) of the validation rows' levels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.exposure.levels import Sketches
from detector.core.state.arrays import Array

CELLS = 256
"""The most cells; there are also few enough that each has about eight validation rows."""
_ROWS_A_CELL = 8
_ROUNDS = 20
_SEED = 1


@dataclass(frozen=True, eq=False)
class Cells:
    """``centres`` float32 (c, 16), whole numbers, so that no cell depends on how a product of matrices rounds. ``rows``
    int64 (c,): the validation rows in each, at least 1, which give its weight."""

    centres: NDArray[np.float32]
    rows: Array

    @classmethod
    def of(cls, sketches: Sketches) -> Cells:
        """Returns the cells of the levels of the validation rows, uint8 (v, 16)."""
        import faiss

        faiss.omp_set_num_threads(1)
        points = sketches.astype(np.float32)
        count = min(CELLS, max(len(points) // _ROWS_A_CELL, 1), len(np.unique(points, axis=0)))
        kmeans = faiss.Kmeans(points.shape[1], count, niter=_ROUNDS, seed=_SEED, min_points_per_centroid=1)
        kmeans.train(points)
        found: NDArray[np.float32] = np.asarray(kmeans.centroids, np.float32)
        centres = np.unique(found.round(), axis=0)
        every = cls(centres, np.ones(len(centres), np.int64))
        rows = np.bincount(every.cell(sketches), minlength=len(centres))
        return cls(centres[rows > 0], rows[rows > 0])

    @property
    def weights(self) -> NDArray[np.float64]:
        """float64 (c,): w_l = |S_l| / |S|."""
        return np.asarray(self.rows / self.rows.sum())

    def cell(self, sketches: Sketches) -> Array:
        """Returns int64 (n,): the nearest centre to each row of levels uint8 (n, 16), the first of equally near
        ones."""
        nearness = sketches.astype(np.float32) @ self.centres.T - self._half_squares
        return np.asarray(nearness.argmax(axis=1))

    @cached_property
    def _half_squares(self) -> NDArray[np.float32]:
        return np.asarray((self.centres**2).sum(axis=1) / np.float32(2))

    def to_record(self) -> dict[str, Any]:
        return {"centres": self.centres, "rows": self.rows}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Cells:
        return cls(record["centres"], record["rows"])
