"""The rows of a step, and what the engine can say of each from vectors that it holds once for all signals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.arrays import Array
from detector.core.distances import earlier_pairs, exact, nearest_stored, nearest_vectors
from detector.core.embedding import Placed
from detector.core.history import History
from detector.core.reference import Neighbours, Reference, ReferenceIndex


@dataclass(frozen=True, slots=True)
class Grouping:
    """Rows sorted by group, in stream order within each: ``order`` int64 (n,) of row numbers, then for each
    group its ``starts`` and ``lengths`` in that order."""

    order: Array
    starts: Array
    lengths: Array

    @classmethod
    def of(cls, group: Array, count: int) -> Grouping:
        lengths = np.bincount(group, minlength=count)
        return cls(np.argsort(group, kind="stable"), np.cumsum(lengths) - lengths, lengths)


@dataclass(frozen=True)
class Rows:
    """Queries of one model version and dimension, in stream order, each principal within one history block.

    ``slots`` and ``pools`` int64: those that occur; ``slot`` and ``pool`` int64 (n,) are positions in them.
    ``pool_slot`` gives the position of each pool's slot, ``pool_label`` its class. ``index`` int64 (n,): the
    query's number within its principal. ``features`` float32 (n, d). ``outputs`` float32 (n, k), what the model
    said, NaN to the right where a record had fewer.
    """

    model: str
    model_version: str
    slots: Array
    pools: Array
    slot: Array
    pool: Array
    pool_slot: Array
    pool_label: Array
    index: Array
    features: NDArray[np.float32]
    batches: tuple[QueryBatch, ...]
    batch: Array
    batch_row: Array

    def __len__(self) -> int:
        return len(self.slot)

    @cached_property
    def by_slot(self) -> Grouping:
        return Grouping.of(self.slot, len(self.slots))

    @cached_property
    def by_pool(self) -> Grouping:
        return Grouping.of(self.pool, len(self.pools))

    @cached_property
    def outputs(self) -> NDArray[np.float32]:
        widest = max(batch.outputs.shape[1] for batch in self.batches)
        outputs = np.full((len(self), widest), np.nan, np.float32)
        for at, rows in self._sources():
            values = self.batches[at].outputs
            outputs[rows, : values.shape[1]] = values[self.batch_row[rows]]
        return outputs

    def column(self, name: str, fill: Any) -> Array:
        """An optional column of the queries (``hardness``, ``leaf``...), ``fill`` where it was not logged."""
        like = [getattr(batch, name) for batch in self.batches if getattr(batch, name) is not None]
        shape, dtype = (like[0].shape[1:], like[0].dtype) if like else ((), np.asarray(fill).dtype)
        column = np.full((len(self), *shape), fill, dtype)
        for at, rows in self._sources():
            values = getattr(self.batches[at], name)
            if values is not None:
                column[rows] = values[self.batch_row[rows]]
        return column

    def _sources(self) -> list[tuple[int, Array]]:
        return [(at, np.flatnonzero(self.batch == at)) for at in np.unique(self.batch).tolist()]


@dataclass(frozen=True, slots=True)
class GrowingNeighbours:
    """In the order of ``Rows.by_pool``: ``stored`` float64 (n,), the distance to the nearest vector of the pool's
    growing set before the step, inf if it is empty; and the pairs of rows of one pool in which the earlier, should
    it join, is nearer to the later than that: ``later`` and ``earlier`` int64 (p,), ``distance`` float64 (p,)."""

    stored: NDArray[np.float64]
    later: Array
    earlier: Array
    distance: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OwnNeighbours:
    """Of each of n queries, of the nearest of the principal's own earlier ones: ``distance`` float64 (n,), inf where
    there is none; and the ``step`` from it, float32 (n, d)."""

    distance: NDArray[np.float64]
    step: NDArray[np.float32]


class Views:
    """Computed when first asked for, once for all signals. ``repeats`` bool (n,): queries asked again word for word.
    ``scores``: what the signals before in the registry say of each row, float64 (n,)."""

    def __init__(
        self, rows: Rows, history: History, previous: PreviousQueries, reference: ReferenceIndex | None
    ) -> None:
        self._rows = rows
        self._history = history
        self._previous = previous
        self._reference = reference
        self._joined: NDArray[np.bool_] | None = None
        self.repeats: NDArray[np.bool_] = np.zeros(len(rows), np.bool_)
        self.scores: dict[str, NDArray[np.float64]] = {}

    def settle(self, growing: NDArray[np.bool_], repeats: NDArray[np.bool_] | None) -> None:
        """Say which rows join the growing set and which are asked again word for word: from the signal that owns it to
        those after it in the registry."""
        self._joined = growing
        if repeats is not None:
            self.repeats = repeats

    @property
    def _growing_rows(self) -> NDArray[np.bool_]:
        assert self._joined is not None, "the registry puts the owner of the growing set before those who ask for it"
        return self._joined

    @cached_property
    def grown(self) -> NDArray[np.float64]:
        """float64 (n,): distance to the growing set of the row's own pool as of that row, inf where it was empty.
        For signals after the one that owns the growing set."""
        order, neighbours = self._rows.by_pool.order, self.growing
        joined = self._growing_rows[order][neighbours.earlier]
        nearest = neighbours.stored.copy()
        np.minimum.at(nearest, neighbours.later[joined], neighbours.distance[joined])
        return _scatter(order, nearest)

    @cached_property
    def growing(self) -> GrowingNeighbours:
        """Neighbours in the growing set of the row's own pool, for the signal that decides who joins it."""
        rows, grouping = self._rows, self._rows.by_pool
        lists = self._history.growing_lists(rows.pools)[rows.pool[grouping.order]]
        queries = rows.features[grouping.order]
        stored = nearest_stored(self._history.store(queries.shape[1]), queries, lists)
        return GrowingNeighbours(stored, *earlier_pairs(queries, grouping.starts, grouping.lengths, stored))

    @cached_property
    def history(self) -> NDArray[np.float64]:
        """float64 (n,): distance to the nearest earlier query of the same principal over all classes, inf if none."""
        rows, grouping = self._rows, self._rows.by_slot
        lists = self._history.all_lists(rows.slots)[rows.slot[grouping.order]]
        queries = rows.features[grouping.order]
        nearest = nearest_stored(self._history.store(queries.shape[1]), queries, lists)
        later, _, distance = earlier_pairs(queries, grouping.starts, grouping.lengths, nearest)
        np.minimum.at(nearest, later, distance)
        return _scatter(grouping.order, nearest)

    @cached_property
    def own(self) -> OwnNeighbours:
        """The nearest of the principal's earlier queries that are in a growing set, of whatever class; for signals
        after the one that owns the growing set."""
        rows, grouping, joined = self._rows, self._rows.by_slot, self._growing_rows
        order = grouping.order
        queries = rows.features[order]
        lists = self._history.all_growing_lists(rows.slots)[rows.slot[order]]
        nearest = nearest_vectors(self._history.store(queries.shape[1]), queries, lists)
        bound = np.nextafter(nearest.distance, np.inf)  # a query of this step may be just as near
        later, earlier, gap = earlier_pairs(queries, grouping.starts, grouping.lengths, bound)
        use = joined[order][earlier]
        nearest = nearest.with_pairs(later[use], queries[earlier[use]], gap[use])
        step = queries - nearest.winners()
        return OwnNeighbours(_scatter(order, nearest.distance), _scatter(order, step))

    @cached_property
    def previous(self) -> NDArray[np.float64]:
        """float64 (n,): distance to the same principal's query just before, inf for its first."""
        rows, grouping = self._rows, self._rows.by_slot
        queries = rows.features[grouping.order]
        before, known = np.roll(queries, 1, axis=0), np.ones(len(rows), bool)
        before[grouping.starts], known[grouping.starts] = self._previous.of(rows.slots, queries.shape[1])
        return _scatter(grouping.order, np.where(known, exact(queries, before), np.inf))

    @cached_property
    def placed(self) -> Placed:
        """The rows where the reference is; only for those that have one."""
        return self.reference.embedding.place(self._rows.features)

    @cached_property
    def neighbours(self) -> Neighbours:
        """The nearest reference rows; only for those that have a reference."""
        assert self._reference is not None
        return self._reference.nearest(self.placed)

    @property
    def has_reference(self) -> bool:
        """Whether there is a profile for this model version whose features these are."""
        return self._reference is not None and self._reference.reference.dimension == self._rows.features.shape[1]

    @property
    def reference(self) -> Reference:
        assert self._reference is not None
        return self._reference.reference


class PreviousQueries:
    """The last query of each slot, held only if a signal needs it."""

    def __init__(self) -> None:
        self._vector_of: dict[int, NDArray[np.float32]] = {}

    @property
    def nbytes(self) -> int:
        return sum(vector.nbytes + 150 for vector in self._vector_of.values())

    def of(self, slots: Array, dimension: int) -> tuple[NDArray[np.float32], Array]:
        """float32 (n, d), 0 where unknown, and bool (n,) where known."""
        vectors = np.zeros((len(slots), dimension), np.float32)
        known = np.zeros(len(slots), bool)
        for at, slot in enumerate(slots.tolist()):
            vector = self._vector_of.get(slot)
            if vector is not None:
                vectors[at], known[at] = vector, True
        return vectors, known

    def put(self, slots: Array, vectors: NDArray[np.float32]) -> None:
        for slot, vector in zip(slots.tolist(), vectors, strict=True):
            self._vector_of[slot] = vector.copy()

    def nbytes_of(self, slot: int) -> int:
        return self._vector_of[slot].nbytes + 150 if slot in self._vector_of else 0

    def evict(self, slots: Array) -> None:
        for slot in slots.tolist():
            self._vector_of.pop(slot, None)


def _scatter(order: Array, values: Array) -> Array:
    scattered = np.empty_like(values)
    scattered[order] = values
    return scattered
