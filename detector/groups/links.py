"""Links between accounts: how each query follows from the nearest recent query of another account.

A thief who splits an attack over accounts splits its structure too: a step from one query to the next becomes a
difference between two accounts. So the measures of structure are applied to that difference. Equal queries are left
out, as many accounts send the examples of the documentation, or score the same public file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.measures.base import count_changes
from detector.core.measures.structure import FEW_CHANGES, of_one_size, sign_stride
from detector.core.profile.reference import ReferenceIndex
from detector.core.state.arrays import Array, plain

LINKS = ("foreign_one_feature", "foreign_sign_steps", "foreign_crossings", "foreign_near")
"""The measures of a link: at most two features differ; over half of the differences have one magnitude; the other
account got another class though the query is near; the logarithm of how near, as a share of the usual distance between
honest queries."""

BYTES = 33_554_432
"""The most bytes of recent queries of one model version."""
_MOST_ROWS = 32_768
_CHANGE = 1e-4
_SAME = 1e-3
_NEAR = 0.5
_MOST_NEAR = 5.0
_LEAST = 1e-9
_NOBODY = -1

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Links:
    """Of n queries: ``values`` float64 (n, 4), those of ``LINKS``, and ``partner`` int64 (n,), the other account; 0 and
    -1 without any."""

    values: Floats
    partner: Array


class RecentQueries:
    """The latest queries of all accounts to one model version, as many as fit into 32 MiB and 32,768 at most."""

    def __init__(self, index: ReferenceIndex) -> None:
        reference = index.reference
        self._index = index
        room = max(min(_MOST_ROWS, BYTES // (4 * reference.dimension)), 1)
        self._limits = (_CHANGE * reference.seen.spread).astype(np.float32)
        self._cells = plain(reference.points)
        self._features = np.empty((room, reference.dimension), np.float32)
        self._points = np.empty((room, self._cells.shape[1] + 1), np.float32)
        self._whose = np.full((room, 2), _NOBODY, np.int64)
        self._older = np.full(room, -1, np.int64)
        self._newest = np.full(len(self._cells), -1, np.int64)
        self._count = 0

    def link(self, features: Rows, account: Array, label: Array) -> Links:
        """Returns the links of queries with plain ``features`` float32 (n, d), in stream order, and remembers them.
        ``account`` and ``label`` int64 (n,): numbers of the sender and of the predicted class."""
        reference = self._index.reference
        scaled = plain(self._index.scaled(features))
        projected = reference.embedding.project(scaled)
        points = np.column_stack((projected.points, projected.residual.astype(np.float32)))
        step = np.zeros_like(scaled)
        distance, other = np.full(len(scaled), np.inf), np.full((len(scaled), 2), _NOBODY, np.int64)
        self._count = _link(
            (scaled, points, np.column_stack((account, label))),
            (self._features, self._points, self._whose, self._older, self._newest, self._cells),
            self._count,
            _SAME * reference.median_distance,
            (step, distance, other),
        )
        return Links(self._measured(step, distance, label != other[:, 1]), other[:, 0])

    def _measured(self, step: Rows, distance: Floats, crossed: NDArray[np.bool_]) -> Floats:
        reference = self._index.reference
        known = np.isfinite(distance)
        changes, signs = np.empty(len(step), np.int64), np.zeros(len(step))
        count_changes(step, self._limits, changes)
        of_one_size(step, self._limits, reference.scale, sign_stride(reference.dimension), signs)
        near = np.where(known, distance, np.inf) / max(reference.median_distance, _LEAST)
        columns = (
            changes <= FEW_CHANGES,
            signs,
            crossed & (near < _NEAR),
            np.clip(-np.log(np.minimum(near, 1.0) + _LEAST), 0.0, _MOST_NEAR),
        )
        return np.where(known[:, None], np.column_stack(columns).astype(np.float64), 0.0)


@compiled
def _link(
    queries: tuple[Rows, Rows, Array],
    kept: tuple[Rows, Rows, Array, Array, Array, Rows],
    count: int,
    same: float,
    found: tuple[Rows, Floats, Array],
) -> int:
    """Row after row, finds the nearest recent query of another account that is not equal, and keeps the row.

    A recent query is sought in the two nearest cells, whose queries are chained from the newest on. Distances along the
    axes exclude, those of all features decide. Returns how many rows have been kept so far, with ``count`` before."""
    scaled, points, whose = queries
    features, recent, owner, older, newest, cells = kept
    step, distance, other = found
    room, axes = len(features), cells.shape[1]
    for row in range(len(scaled)):
        first = second = -1
        least = next_least = np.inf
        for cell in range(len(cells)):
            gap = 0.0
            for axis in range(axes):
                side = np.float64(points[row, axis]) - cells[cell, axis]
                gap += side * side
            if gap < least:
                second, next_least, first, least = first, least, cell, gap
            elif gap < next_least:
                second, next_least = cell, gap
        best, chosen = np.inf, -1
        for cell in (first, second):
            at = newest[cell] if cell >= 0 else -1
            while at >= 0 and at >= count - room:
                place = at % room
                at = older[place]
                if owner[place, 0] == whose[row, 0]:
                    continue
                gap = 0.0
                for axis in range(axes + 1):
                    side = np.float64(points[row, axis]) - recent[place, axis]
                    gap += side * side
                if gap >= best:
                    continue
                gap = 0.0
                for feature in range(scaled.shape[1]):
                    side = np.float64(scaled[row, feature]) - features[place, feature]
                    gap += side * side
                if same * same < gap < best:
                    best, chosen = gap, place
        if chosen >= 0:
            distance[row] = math.sqrt(best)
            other[row, 0], other[row, 1] = owner[chosen, 0], owner[chosen, 1]
            for feature in range(scaled.shape[1]):
                step[row, feature] = scaled[row, feature] - features[chosen, feature]
        place = count % room
        features[place], recent[place] = scaled[row], points[row]
        owner[place, 0], owner[place, 1] = whose[row, 0], whose[row, 1]
        older[place], newest[first] = newest[first], count
        count += 1
    return count
