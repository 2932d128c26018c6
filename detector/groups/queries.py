"""The queries that groups are watched by: what the sender of a partition selects, and the watch receives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.core.calibration.crossfit import COLUMNS
from detector.core.engine import Observation
from detector.core.pipeline.run import ProfiledRows
from detector.core.reference.standards import Floats
from detector.core.state.arrays import Array
from detector.groups.links import Mask, selected, with_residual


@dataclass(frozen=True, slots=True)
class JudgedQueries:
    """Queries of one model version, judged by the engine, not repeats in their account, each *due* or *linked* or both
    (``links.selected``): n in stream order.

    ``principal`` int64 (n,): positions in ``principals``. ``number`` int64 (n,): how many queries, repeats left out,
    the account had sent before, selected or not. ``row`` int64 (n,): the positions of the queries for the caller.

    ``due`` int64 (q,), ascending: positions of those that are due among the n, with ``distance`` float64 (q,), D, and
    ``deviations`` float64 (q, j), those of the measures in ``crossfit.COLUMNS``.

    ``linked`` int64 (m,), ascending: positions of those that are linked, with ``features`` float32 (m, d), scaled;
    ``points`` float32 (m, k + 1), their projection and residual; ``cells`` int64 (m, c), the nearest reference rows,
    nearest first; and ``label`` int64 (m,), the predicted class.
    """

    principals: Sequence[str]
    principal: Array
    number: Array
    row: Array
    due: Array
    distance: Floats
    deviations: Floats
    linked: Array
    features: NDArray[np.float32]
    points: NDArray[np.float32]
    cells: Array
    label: Array

    def __len__(self) -> int:
        return len(self.row)

    def between(self, start: int, end: int) -> JudgedQueries:
        """Returns the queries from ``start`` to ``end``."""
        rows = slice(start, end)
        due, linked = (slice(*np.searchsorted(at, (start, end)).tolist()) for at in (self.due, self.linked))
        return JudgedQueries(
            self.principals,
            self.principal[rows],
            self.number[rows],
            self.row[rows],
            self.due[due] - start,
            self.distance[due],
            self.deviations[due],
            self.linked[linked] - start,
            self.features[linked],
            self.points[linked],
            self.cells[linked],
            self.label[linked],
        )


def selected_queries(parts: Sequence[ProfiledRows], observation: Observation, sampled: Mask) -> JudgedQueries:
    """Returns those rows of ``parts``, of one model version in stream order, that are due or linked; all others change
    nothing of groups. ``sampled``: ``links.sampled_cells`` of the reference. ``row`` counts rows of the micro-batch."""
    number, row = (np.concatenate([getattr(part, name) for part in parts]) for name in ("number", "row"))
    repeats, nearest = (
        np.concatenate([part.repeats for part in parts]),
        np.concatenate([part.cells[:, 0] for part in parts]),
    )
    due, linked = (mask & ~repeats for mask in selected(number, nearest, sampled))
    kept = np.flatnonzero(due | linked)
    row, at_due = row[kept], np.flatnonzero(due[kept])
    used, principal = np.unique(observation.key_index[row], return_inverse=True)
    signals, due_row = observation.signals, row[at_due]
    chosen = np.split(linked, np.cumsum([len(part.row) for part in parts])[:-1])
    features, points, residual, cells, label = (
        np.concatenate([getattr(part, name)[rows] for part, rows in zip(parts, chosen, strict=True)])
        for name in ("features", "points", "residual", "cells", "label")
    )
    return JudgedQueries(
        principals=[observation.keys[at].principal for at in used.tolist()],
        principal=principal,
        number=number[kept],
        row=row,
        due=at_due,
        distance=signals["suspicion"][due_row],
        deviations=np.column_stack([signals[f"suspicion.{name}"][due_row] for name in COLUMNS]),
        linked=np.flatnonzero(linked[kept]),
        features=features,
        points=with_residual(points, residual),
        cells=cells,
        label=label,
    )
