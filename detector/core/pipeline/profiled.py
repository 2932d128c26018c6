"""What the engine computed on the way to its verdicts, for those who judge the same rows further: groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.neighbours.history import Views
from detector.core.state.arrays import Array
from detector.core.state.rows import StepRows


@dataclass(frozen=True, slots=True)
class ProfiledRows:
    """Rows of a micro-batch that the profile of ``model`` and ``model_version`` judged, n in stream order.

    ``row`` int64 (n,): their positions in the micro-batch. ``number`` int64 (n,): how many queries, repeats left out,
    the principal had sent before. ``repeats`` bool (n,). ``label`` int64 (n,): the predicted class. ``features``
    float32 (n, d), scaled, ``points`` float32 (n, k) and ``residual`` float64 (n,), their projection, and ``cells``
    int64 (n, 4), the nearest rows of the profile's reference, nearest first (``Neighbours``).
    """

    model: str
    model_version: str
    row: Array
    number: Array
    repeats: NDArray[np.bool_]
    label: Array
    features: NDArray[np.float32]
    points: NDArray[np.float32]
    residual: NDArray[np.float64]
    cells: Array

    @classmethod
    def of(cls, rows: StepRows, views: Views, where: Array, sent: Array) -> ProfiledRows:
        """Returns the rows of one step, which are at ``where`` int64 (n,) in the batch. ``sent`` int64 (s,): how many
        queries, repeats left out, each of their slots had sent before."""
        number, projection = np.empty(len(where), np.int64), views.projection
        _number(rows.slot, views.repeats, sent.copy(), number)
        return cls(
            rows.model,
            rows.model_version,
            where,
            number,
            views.repeats,
            rows.pool_label[rows.pool],
            rows.features,
            projection.points,
            projection.residual,
            views.neighbours.cells,
        )

    def divided(self, edges: Sequence[int]) -> list[ProfiledRows]:
        """Returns the rows from each of ``edges`` to the next, which may be none, counted from there."""
        bounds = np.searchsorted(self.row, edges).tolist()
        return [
            self._between(start, end, edge)
            for edge, start, end in zip(edges[:-1], bounds[:-1], bounds[1:], strict=True)
        ]

    def _between(self, start: int, end: int, edge: int) -> ProfiledRows:
        part = slice(start, end)
        return ProfiledRows(
            self.model,
            self.model_version,
            self.row[part] - edge,
            self.number[part],
            self.repeats[part],
            self.label[part],
            self.features[part],
            self.points[part],
            self.residual[part],
            self.cells[part],
        )


@compiled
def _number(slot: Array, repeats: NDArray[np.bool_], sent: Array, number: Array) -> None:
    """Row after row, fills ``number`` (n,) with what its slot has ``sent`` (s,), and counts it."""
    for row in range(len(slot)):
        number[row] = sent[slot[row]]
        sent[slot[row]] += not repeats[row]
