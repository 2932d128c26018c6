"""The rows of a step, and what the engine can say of each from vectors that it holds once for all signals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.arrays import Array
from detector.core.distances import earlier_pairs, exact, nearest_stored
from detector.core.embedding import Placed
from detector.core.history import History
from detector.core.own_search import Asked, Candidates, own_candidates
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
        for at, rows in self._sources:
            values = self.batches[at].outputs
            outputs[rows, : values.shape[1]] = values[self.batch_row[rows]]
        return outputs

    @cached_property
    def top(self) -> NDArray[np.float32]:
        """float32 (n, 2): the two largest outputs, ascending; NaN where there are no two."""
        top = np.full((len(self), 2), np.nan, np.float32)
        for at, rows in self._sources:
            outputs = self.batches[at].outputs[self.batch_row[rows]]
            if outputs.shape[1] > 2:
                outputs = np.partition(outputs, -2, axis=1)[:, -2:]
            top[rows, 2 - outputs.shape[1] :] = np.sort(outputs, axis=1)
        return top

    @cached_property
    def said(self) -> NDArray[np.float32]:
        """float32 (n,): what the model said in one number: the largest probability, 1 for a label, or the score."""
        said = self.top[:, 1].copy()
        for at, rows in self._sources:
            if self.batches[at].output_kind == "label":
                said[rows] = 1.0
        return said

    def column(self, name: str, fill: Any) -> Array:
        """An optional column of the queries (``hardness``, ``leaf``...), ``fill`` where it was not logged."""
        like = [getattr(batch, name) for batch in self.batches if getattr(batch, name) is not None]
        shape, dtype = (like[0].shape[1:], like[0].dtype) if like else ((), np.asarray(fill).dtype)
        column = np.full((len(self), *shape), fill, dtype)
        for at, rows in self._sources:
            values = getattr(self.batches[at], name)
            if values is not None:
                column[rows] = values[self.batch_row[rows]]
        return column

    @cached_property
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
    there is none; the ``step`` from it, float32 (n, d); and what the model ``said`` of it (``Rows.said``), float32
    (n,), NaN where that is not known."""

    distance: NDArray[np.float64]
    step: NDArray[np.float32]
    said: NDArray[np.float32]


class Views:
    """Computed when first asked for, once for all signals. ``repeats`` bool (n,): queries asked again word for word.
    ``scores``: what the signals before in the registry say of each row, float64 (n,)."""

    def __init__(self, rows: Rows, history: History, reference: ReferenceIndex | None) -> None:
        self._rows = rows
        self._history = history
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
        lists = self._history.lists(rows.pools)[rows.pool[grouping.order]]
        queries = rows.features[grouping.order]
        stored = nearest_stored(self._history.store(queries.shape[1]), queries, lists)
        return GrowingNeighbours(stored, *earlier_pairs(queries, grouping.starts, grouping.lengths, stored))

    @cached_property
    def own(self) -> OwnNeighbours:
        """The nearest of the principal's earlier queries that are in a growing set, of whatever class; for signals
        after the one that owns the growing set, and only for rows that have a reference."""
        rows, grouping = self._rows, self._rows.by_slot
        order = grouping.order
        candidates = self._stored(order).joined(self._asked_before(order))
        distance, nearest = candidates.nearest(len(rows))
        row = order[candidates.row[nearest]]
        step, said = rows.features.copy(), np.full(len(rows), np.nan, np.float32)
        step[row] -= candidates.vectors[nearest]
        said[row] = candidates.notes[nearest]
        return OwnNeighbours(_scatter(order, distance), step, said)

    @cached_property
    def _by_slot(self) -> NDArray[np.float32]:
        return self._rows.features[self._rows.by_slot.order]

    @cached_property
    def _shades(self) -> NDArray[np.float32]:
        return self.placed.shades()[self._rows.by_slot.order]

    def _stored(self, order: Array) -> Candidates:
        """Vectors of earlier steps that may be nearest, to rows in ``order``."""
        rows, grouping, dimension = self._rows, self._rows.by_slot, self._rows.features.shape[1]
        store, lists = self._history.store(dimension), self._history.all_lists(rows.slots)
        shadows = self._history.shadows(dimension).of(rows.slots, lists, self.reference.embedding)
        squares = (self.placed.squares + self.placed.beside**2)[order]
        runs = (grouping.starts, grouping.lengths)
        asked = Asked(self._by_slot, self._shades, squares, *runs, lists, self.grown[order])
        row, locations = own_candidates(asked, store, shadows)
        found = store.gather(locations)
        return Candidates(row, found, exact(self._by_slot[row], found), store.notes(locations))

    def _asked_before(self, order: Array) -> Candidates:
        """Rows of this step that may be nearest to later ones of it, in ``order``."""
        rows, grouping = self._rows, self._rows.by_slot
        vectors = self._by_slot
        bound = np.nextafter(self.grown[order], np.inf)  # another may be just as near
        later, earlier, gap = earlier_pairs(vectors, grouping.starts, grouping.lengths, bound, self._shades)
        use = self._growing_rows[order][earlier]
        earlier = earlier[use]
        return Candidates(later[use], vectors[earlier], gap[use], rows.said[order][earlier])

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


def _scatter(order: Array, values: Array) -> Array:
    scattered = np.empty_like(values)
    scattered[order] = values
    return scattered
