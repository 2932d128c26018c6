"""Shared views: what signals need to know about the rows of a step from vectors that the engine stores once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.distances import earlier_pairs, exact_stored, nearest_stored
from detector.core.embedding import Placed
from detector.core.history import History
from detector.core.own_search import Asked, Candidates, among, scanned, search
from detector.core.reference import Neighbours, Reference, ReferenceIndex
from detector.core.rows import Rows
from detector.core.shadows import Shadow
from detector.core.vectors import OFFSET_BITS

Pairs = tuple[Array, Array, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class GrowingNeighbours:
    """In the order of ``Rows.by_pool``: ``stored`` float64 (n,), the distance to the nearest vector of the pool's
    growing set before the step, inf if it is empty; and the pairs of rows of one pool in which the earlier, if it
    joins, is at most that far from the later: ``later`` and ``earlier`` int64 (p,), ``distance`` float64 (p,)."""

    stored: NDArray[np.float64]
    later: Array
    earlier: Array
    distance: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OwnNeighbours:
    """For each of n queries, about the nearest of the principal's own earlier ones: ``distance`` float64 (n,), inf
    where there is none; the ``step`` from it, float32 (n, d); and the model's answer to it (``Rows.said``), ``said``
    float32 (n,), NaN where unknown."""

    distance: NDArray[np.float64]
    step: NDArray[np.float32]
    said: NDArray[np.float32]


class Views:
    """Views of a step. Each is computed once, on first use. ``repeats`` bool (n,): queries equal to an earlier one.
    ``scores``: those of the earlier signals in the registry for each row, float64 (n,)."""

    def __init__(self, rows: Rows, history: History, reference: ReferenceIndex | None) -> None:
        self._rows = rows
        self._history = history
        self._reference = reference
        self._joined: NDArray[np.bool_] | None = None
        self.repeats: NDArray[np.bool_] = np.zeros(len(rows), np.bool_)
        self.scores: dict[str, NDArray[np.float64]] = {}

    def settle(self, growing: NDArray[np.bool_], repeats: NDArray[np.bool_] | None) -> None:
        """Sets which rows join the growing set and which repeat an earlier query; called by the signal that owns the
        growing set, for the signals after it in the registry."""
        self._joined = growing
        if repeats is not None:
            self.repeats = repeats

    @property
    def _growing_rows(self) -> NDArray[np.bool_]:
        assert self._joined is not None, "the registry puts the owner of the growing set before those who ask for it"
        return self._joined

    @cached_property
    def grown(self) -> NDArray[np.float64]:
        """float64 (n,): distance to the growing set of the row's own pool as of that row, inf where it was empty. For
        signals after the one that owns the growing set."""
        order, neighbours = self._rows.by_pool.order, self.growing
        joined = self._growing_rows[order][neighbours.earlier]
        nearest = neighbours.stored.copy()
        np.minimum.at(nearest, neighbours.later[joined], neighbours.distance[joined])
        return _scatter(order, nearest)

    @cached_property
    def growing(self) -> GrowingNeighbours:
        """Neighbours in the growing set of the row's own pool, for the signal that decides which rows join it."""
        rows, grouping = self._rows, self._rows.by_pool
        queries, stored = rows.features[grouping.order], self._alike[grouping.order]
        if not self.has_reference:
            return GrowingNeighbours(stored, *earlier_pairs(queries, grouping.starts, grouping.lengths, stored))
        # Without stored vectors of the class, every earlier row of the step is a candidate.
        pairs, first = self._alike_pairs(), np.isinf(stored[grouping.starts])
        if first.any():
            fresh = earlier_pairs(queries, grouping.starts[first], grouping.lengths[first], stored)
            pairs = _joined(pairs, fresh)
        return GrowingNeighbours(stored, *pairs)

    @cached_property
    def own(self) -> OwnNeighbours:
        """The nearest of the principal's earlier queries that are in a growing set, of any class; for signals after the
        one that owns the growing set, and only for rows that have a reference."""
        rows, order = self._rows, self._rows.by_slot.order
        candidates = self._stored().joined(self._asked_before())
        distance, nearest = candidates.nearest(len(rows), self._content)
        row = order[candidates.row[nearest]]
        step, said = rows.features.copy(), np.full(len(rows), np.nan, np.float32)
        vectors, said[row] = self._content(candidates.where[nearest])
        step[row] -= vectors
        return OwnNeighbours(_scatter(order, distance), step, said)

    @cached_property
    def _alike(self) -> NDArray[np.float64]:
        """float64 (n,): the distance of each row to the nearest vector of its pool from before the step, inf if there
        is none."""
        rows, order = self._rows, self._rows.by_pool.order
        nearest = np.full(len(rows), np.inf)
        lists = self._history.lists(rows.pools)[rows.pool]
        if self.has_reference:
            found, row = self._found, rows.by_slot.order[self._found.row]
            alike = (lists[row] == (found.where >> OFFSET_BITS)[:, None]).any(axis=1)
            np.minimum.at(nearest, row[alike], found.gap[alike])
        left = order[np.isinf(nearest[order])]
        if len(left):
            store = self._history.store(rows.features.shape[1])
            nearest[left] = nearest_stored(store, rows.features[left], lists[left])
        return nearest

    @cached_property
    def _shadows(self) -> tuple[list[Shadow | None], Array]:
        return self._history.shadows(self._rows.slots, self.reference.embedding)

    @cached_property
    def _asked(self) -> Asked:
        rows, grouping = self._rows, self._rows.by_slot
        order = grouping.order
        labels = rows.pool_label[rows.pool[order]]
        return Asked(rows.features[order], self.placed.at(order), labels, grouping.starts, grouping.lengths)

    def shadows_of(self, kept: Array) -> NDArray[np.float32] | None:
        """Returns float32 (h, m): the columns of the shadows (``Shadow``) of the rows ``kept`` int64 (m,); None without
        a reference."""
        if not self.has_reference:
            return None
        return self._asked.columns[:, _scatter(self._rows.by_slot.order, np.arange(len(self._rows)))[kept]]

    @cached_property
    def _found(self) -> Candidates:
        """Stored vectors near to rows, in the order of ``Rows.by_slot``."""
        return search(self._asked, self._history.store(self._rows.features.shape[1]), self._shadows[0])

    def _stored(self) -> Candidates:
        """Vectors of earlier steps that may be nearest, in the order of ``Rows.by_slot``."""
        asked, lists = self._asked, self._shadows[1]
        store = self._history.store(asked.vectors.shape[1])
        without = (lists >= 0).any(axis=1)
        if not without.any():
            return self._found
        few = np.flatnonzero(np.repeat(without, asked.lengths))
        row, locations = scanned(asked, store, few, lists[self._rows.slot[self._rows.by_slot.order[few]]])
        gap = exact_stored(asked.vectors, row, store, locations)
        return self._found.joined(Candidates(row, locations, gap))

    @cached_property
    def _pairs(self) -> Pairs:
        """Later and earlier row, in the order of ``Rows.by_slot``, and distance, of rows of one principal that are no
        farther apart than the later is from its pool's vectors of before the step; the later is not ``_open``."""
        return among(self._asked, np.where(self._open, np.nan, self._alike)[self._rows.by_slot.order])

    @cached_property
    def _open(self) -> NDArray[np.bool_]:
        """bool (n,): rows whose neighbours in the step are searched once it is known which rows join the growing set:
        those with an empty class history, or with an exact duplicate."""
        return np.asarray(np.isinf(self._alike) | (self._alike == 0))

    def _alike_pairs(self) -> Pairs:
        """The ``_pairs`` that are of one pool, in the order of ``Rows.by_pool``."""
        rows, order = self._rows, self._rows.by_slot.order
        later, earlier, gap = self._pairs
        pool = rows.pool[order]
        use = pool[later] == pool[earlier]
        place = _scatter(rows.by_pool.order, np.arange(len(rows)))[order]
        return place[later[use]], place[earlier[use]], gap[use]

    def _asked_before(self) -> Candidates:
        """Rows of this step that may be nearest to later ones of it, in the order of ``Rows.by_slot``."""
        order = self._rows.by_slot.order
        later, earlier, gap = self._pairs
        joined = self._growing_rows[order]
        if self._open.any():
            more = among(self._asked, np.where(self._open, self.grown, np.nan)[order], joined)
            later, earlier, gap = _joined(self._pairs, more)
        use = joined[earlier]
        return Candidates(later[use], -1 - earlier[use], gap[use])

    def _content(self, where: Array) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the vectors float32 (n, d) and the notes float32 (n,) of candidates (``Candidates.where``)."""
        asked, inside = self._asked.vectors, where < 0
        store, row = self._history.store(asked.shape[1]), -1 - where[inside]
        vectors, notes = np.empty((len(where), asked.shape[1]), np.float32), np.empty(len(where), np.float32)
        vectors[inside], notes[inside] = asked[row], self._rows.said[self._rows.by_slot.order[row]]
        vectors[~inside], notes[~inside] = store.gather(where[~inside]), store.notes(where[~inside])
        return vectors, notes

    @cached_property
    def placed(self) -> Placed:
        """The projection of the rows on the reference; only for rows that have one."""
        return self.reference.embedding.place(self._rows.features)

    @cached_property
    def neighbours(self) -> Neighbours:
        """The nearest reference rows; only for those that have a reference."""
        assert self._reference is not None
        return self._reference.nearest(self.placed)

    @property
    def has_reference(self) -> bool:
        """Whether there is a profile for this model version with features of this dimension."""
        return self._reference is not None and self._reference.reference.dimension == self._rows.features.shape[1]

    @property
    def reference(self) -> Reference:
        assert self._reference is not None
        return self._reference.reference


def _joined(pairs: Pairs, more: Pairs) -> Pairs:
    later, earlier, distance = (np.concatenate(column) for column in zip(pairs, more, strict=True))
    return later, earlier, distance


def _scatter(order: Array, values: Array) -> Array:
    scattered = np.empty_like(values)
    scattered[order] = values
    return scattered
