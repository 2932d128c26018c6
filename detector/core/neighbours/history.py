"""The recent new queries of each principal: the growing sets of the previous and the current block of them, with the
thresholds of their admission.

A row belongs to a pool and is held in one of the pool's two lists, by the parity of its block. A block ends when it is
full of rows that joined, so that repeats and near repeats, which join nothing, drive out nothing. When a principal
enters a block, the lists of that parity still hold the block before the previous one and are dropped: what is kept
depends on the principal's own queries alone. If a signal needs it, each row has a note with the model's output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled, plain
from detector.core.neighbours.blends import Blends, bench
from detector.core.neighbours.search import (
    DOUBTFUL,
    LACKS_ROOM,
    Chains,
    NearestOwn,
    QueryArrays,
    Recompute,
    SearchBuffers,
    Thresholds,
    advance,
    grow,
)
from detector.core.neighbours.store import COUNT, EMPTY, FIELDS, LANES, NONE, START, VectorStore, drop_all, extend
from detector.core.reference.compared import NOTHING, Compared
from detector.core.reference.projection import Embedding, Projection
from detector.core.reference.reference import Neighbours, Reference, ReferenceIndex
from detector.core.state.arrays import Array
from detector.core.state.columns import ColumnTable
from detector.core.state.principals import MOST_POOLS, Pools
from detector.core.state.rows import StepRows

_PARITIES = 2
_AXES = 7
"""The axes of a projection that are kept with a vector, and one number for the rest of it: eight, as ``search`` reads
them."""
_FEWEST = 32
"""With fewer features than this a projection saves nothing."""
_TOGETHER = 1_024
_THRESHOLDS: dict[str, tuple[Any, ...]] = {
    "threshold": (np.float64, 0.0),
    "count": (np.int64, 0),
    "mean": (np.float64, 0.0),
    "squares": (np.float64, 0.0),
}
"""The columns of ``Thresholds``, by the names that they have in the log."""


@dataclass(frozen=True, slots=True)
class HistoryRows:
    """``pool`` int64 (n,), ``block`` int64 (n,), ``vectors`` float32 (n, d), ``notes`` float32 (n,), NaN for none."""

    pool: Array
    block: Array
    vectors: NDArray[np.float32]
    notes: NDArray[np.float32]


class History:
    """The own-history store of all principals of one engine. ``block_rows``: number of features -> rows in a block;
    ``noted``: whether notes are kept."""

    def __init__(self, slots: ColumnTable, pools: Pools, block_rows: Callable[[int], int], noted: bool = False) -> None:
        self._block_rows = block_rows
        self.noted = noted
        self._slots = slots
        self._pools = pools
        self._thresholds = ColumnTable(_THRESHOLDS)
        self._lists = ColumnTable({"lists": (np.int64, EMPTY * _PARITIES, _PARITIES * FIELDS)})
        self._stores: dict[int, VectorStore] = {}
        self._unprojected = ColumnTable({"vectors": (np.bool_, False)})
        self._buffers = SearchBuffers.of(_PARITIES * (MOST_POOLS + 1))

    @property
    def nbytes(self) -> int:
        return self._lists.nbytes + self._thresholds.nbytes + sum(store.nbytes for store in self._stores.values())

    def row_bytes(self, dimension: int) -> int:
        """Returns the bytes of one row."""
        return self._store(dimension).row_bytes

    def advance(self, slots: Array, blocks: Array) -> None:
        """Moves ``slots`` on to ``blocks``. Drops rows older than the block before."""
        dimensions, chains = self._slots["dimension"][slots], self._chains()
        moved = np.flatnonzero(blocks > chains.block[slots])
        columns = (column[moved].tolist() for column in (slots, blocks, dimensions))
        for slot, block, dimension in zip(*columns, strict=True):
            advance(self._store(dimension).arena, chains, slot, block)

    def admit(self, rows: StepRows, reference: ReferenceIndex | None, recompute: Recompute | None) -> Views:
        """Adds those of ``rows`` to the growing sets that belong to them, and returns the distances to these.

        Finds the nearest own query of any class only with a ``reference``. ``recompute`` makes a threshold exact where
        rounding could decide.
        """
        projection = None
        if reference is not None:
            projection = reference.reference.embedding.project(rows.features)
            self._project_missing(rows.slots, reference.reference.embedding)
        compared = NOTHING if reference is None else reference.reference.compared
        return Views(rows, self._admit(rows, projection, recompute, compared), reference, projection)

    def thresholds_of(self, pools: Array) -> dict[str, Array]:
        """Returns the thresholds of ``pools`` and what they are computed from, by name."""
        self._thresholds.cover(pools)
        return {name: self._thresholds[name][pools] for name in _THRESHOLDS}

    def set_thresholds(self, pools: Array, thresholds: Mapping[str, Array]) -> None:
        """Sets what ``thresholds_of`` returned."""
        self._thresholds.cover(pools)
        for name in _THRESHOLDS:
            self._thresholds[name][pools] = thresholds[name]

    def _admit(
        self, rows: StepRows, projection: Projection | None, recompute: Recompute | None, compared: Compared
    ) -> NearestOwn:
        dimension = rows.features.shape[1]
        self._thresholds.cover(rows.pools)
        thresholds = Thresholds(*(self._thresholds[name] for name in _THRESHOLDS))
        chains, store, block_rows = self._chains(), self._store(dimension), self._block_rows(dimension)
        queries = self._arrays(rows, projection, store.width, block_rows)
        found = _nothing(len(rows), dimension if projection is not None else 0)
        exactly, judged = recompute is not None, projection is not None
        at, settled, table = 0, NONE, bench(compared, dimension)
        while at < len(rows):
            why, at, lacking = grow(
                store.arena,
                chains,
                thresholds,
                queries,
                found,
                self._buffers,
                at,
                settled,
                exactly,
                judged,
                block_rows,
                compared,
                table,
            )
            if why == LACKS_ROOM:
                self._make_room(store, lacking)
            elif why == DOUBTFUL:
                assert recompute is not None
                row = int(queries.order[at])
                pool = int(rows.pool[row])
                joined = (rows.pool[:row] == pool) & found.joined[:row] & np.isfinite(found.grown[:row])
                thresholds.threshold[rows.pools[pool]] = recompute(pool, found.grown[:row][joined].tolist())
                settled = at
        return found

    def append(self, rows: HistoryRows) -> None:
        """Adds rows of one dimension, those of older blocks left out; the pools exist."""
        slots, current = self._pools.columns["slot"][rows.pool], self._slots["block"]
        behind = current[slots] - rows.block
        np.add.at(self._slots["filled"], slots[behind == 0], 1)
        kept = np.flatnonzero(behind < _PARITIES)
        if not len(kept):
            return
        store, lists = self._store(rows.vectors.shape[1]), self._lists_of()
        pool, block = rows.pool[kept].astype(np.int64), rows.block[kept].astype(np.int64)
        vectors, notes = np.ascontiguousarray(rows.vectors[kept]), np.ascontiguousarray(rows.notes[kept])
        at, lacking = 0, 0
        while at < len(pool):
            at, lacking = extend(store.arena, lists, pool, block, vectors, notes, at)
            if lacking:
                self._make_room(store, lacking)
        self._unprojected.reserve(int(slots.max()) + 1)
        self._unprojected["vectors"][slots] = True

    def rows_of(self, dimension: int, pools: Array) -> HistoryRows:
        """Returns a copy of every row of ``pools``, which are all of this dimension."""
        at, parity, locations = self._locations(pools)
        current = self._slots["block"][self._pools.columns["slot"][pools[at]]]
        block = np.where(current % 2 == parity, current, current - 1)
        arena = self._store(dimension).arena
        return HistoryRows(pools[at], block, arena.rows[locations], arena.notes[locations])

    def rows_held(self, pools: Array) -> int:
        """Returns the number of rows of ``pools``."""
        lists = self._lists_of()[pools]
        return int(lists[:, COUNT::FIELDS].sum())

    def evict(self, pools: Array) -> None:
        """Drops all rows of ``pools``, which are all pools of their slots, and stores that are empty then: there may be
        one for each dimension."""
        lists, slots = self._lists_of(), self._pools.columns["slot"][pools]
        dimensions = self._slots["dimension"][slots]
        for dimension in np.unique(dimensions).tolist():
            store = self._store(dimension)
            drop_all(store.arena, lists, pools[dimensions == dimension])
            if store.is_empty:
                del self._stores[dimension]
        self._unprojected.reset(slots)
        self._thresholds.reset(pools)

    def _store(self, dimension: int) -> VectorStore:
        if dimension not in self._stores:
            projected = self.noted and dimension >= _FEWEST
            self._stores[dimension] = VectorStore(dimension, _AXES + 1 if projected else 0)
        return self._stores[dimension]

    def _make_room(self, store: VectorStore, rows: int) -> None:
        if store.is_sparse:
            owner = self._pools.columns["slot"][: self._pools.columns.count]
            of_store = (owner >= 0) & (self._slots["dimension"][owner] == store.dimension)
            store.compact(self._lists_of(), np.flatnonzero(of_store))
        if not store.has_room(rows):
            store.grow(rows)

    def _lists_of(self) -> Array:
        self._lists.reserve(self._pools.columns.count)
        lists: Array = self._lists["lists"]
        return lists

    def _chains(self) -> Chains:
        slots = self._slots
        return Chains(self._lists_of(), self._pools.columns["next"], slots["pool"], slots["block"], slots["filled"])

    def _arrays(self, rows: StepRows, projection: Projection | None, width: int, block_rows: int) -> QueryArrays:
        points, length = np.empty((len(rows), width), np.float32), np.full(len(rows), -1.0)
        if projection is not None and width:
            _truncate(projection.points, projection.residual, points, length)
        return QueryArrays(
            plain(rows.features),
            points,
            length,
            np.ascontiguousarray(rows.answer) if self.noted else np.full(len(rows), np.nan, np.float32),
            rows.slots[rows.slot],
            rows.pools[rows.pool],
            self._order(rows, projection, block_rows),
        )

    def _order(self, rows: StepRows, projection: Projection | None, block_rows: int) -> Array:
        """Returns the order to take rows in: by pool where nothing else matters to them, else by slot."""
        filled = self._slots["filled"][rows.slots] + np.bincount(rows.slot, minlength=len(rows.slots))
        turns = (filled > block_rows).any()
        return (rows.by_slot if turns or projection is not None else rows.by_pool).order

    def _project_missing(self, slots: Array, embedding: Embedding) -> None:
        """Projects the vectors of ``slots`` whose projections are not known: those that came from the log."""
        self._unprojected.reserve(int(slots.max()) + 1)
        without, store = slots[self._unprojected["vectors"][slots]], self._store(embedding.dimension)
        if not len(without) or not store.width:
            return
        arena, width = store.arena, store.width
        _, _, locations = self._locations(self._pools.of_slots(without))
        for at in range(0, len(locations), _TOGETHER):
            some = locations[at : at + _TOGETHER]
            projection, points = embedding.project(arena.rows[some]), np.empty((len(some), width), np.float32)
            _truncate(projection.points, projection.residual, points, np.empty(len(some)))
            arena.points[some // LANES, :, some % LANES] = points
        self._unprojected["vectors"][without] = False

    def _locations(self, pools: Array) -> tuple[Array, Array, Array]:
        """Returns, of every vector of ``pools``, the position in ``pools``, the parity of its list and its row in the
        arena, int64 (n,) each."""
        lists = self._lists_of()[pools].reshape(-1, FIELDS)
        count = lists[:, COUNT]
        owner = np.repeat(np.arange(len(lists)), count)
        offset = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        return owner // _PARITIES, owner % _PARITIES, lists[owner, START] + offset


def _nothing(count: int, dimension: int) -> NearestOwn:
    """Returns the arrays of ``NearestOwn`` before any row."""
    unknown = np.full(count, np.nan, np.float32)
    far, step = np.full(count, np.inf), np.empty((count, dimension), np.float32)
    joined, block = np.zeros(count, np.bool_), np.zeros(count, np.int64)
    return NearestOwn(far, joined, block, far.copy(), step, unknown, Blends.none(count))


@compiled
def _truncate(
    projected: NDArray[np.float32],
    residual: NDArray[np.float64],
    points: NDArray[np.float32],
    length: NDArray[np.float64],
) -> None:
    """Sets ``points`` (n, p) to the first axes of the rows ``projected`` (n, k) and the length of the rest of each, its
    ``residual`` (n,) included, and ``length`` (n,) to theirs. The distance of two of them is at most that of the
    vectors."""
    last, axes = points.shape[1] - 1, projected.shape[1]
    for row in range(len(points)):
        rest, squares = residual[row] * residual[row], 0.0
        for axis in range(last, axes):
            rest += np.float64(projected[row, axis]) * np.float64(projected[row, axis])
        for axis in range(last):
            points[row, axis] = projected[row, axis] if axis < axes else np.float32(0)
        points[row, last] = math.sqrt(rest)
        for axis in range(last + 1):
            squares += np.float64(points[row, axis]) * np.float64(points[row, axis])
        length[row] = math.sqrt(squares)


class Views:
    """What signals need to know about the rows of a step, from vectors that the engine stores once.

    ``nearest_own``: the nearest of the principal's earlier queries that are in a growing set, of the same class and,
    for rows that have a reference, of any class. ``repeats`` bool (n,): queries equal to an earlier one. ``scores``:
    those of the earlier signals in the registry for each row, float64 (n,).
    """

    def __init__(
        self,
        rows: StepRows,
        nearest_own: NearestOwn,
        reference: ReferenceIndex | None,
        projection: Projection | None,
    ) -> None:
        self.nearest_own = nearest_own
        self._features = rows.features
        self._reference = reference
        self._projection = projection
        self.repeats: NDArray[np.bool_] = np.zeros(len(rows), np.bool_)
        self.scores: dict[str, NDArray[np.float64]] = {}

    @property
    def has_reference(self) -> bool:
        """Whether there is a profile for this model version with features of this dimension."""
        return self._reference is not None

    @property
    def reference(self) -> Reference:
        """The reference; only for rows that have one, as for what follows."""
        assert self._reference is not None
        return self._reference.reference

    @property
    def projection(self) -> Projection:
        """The projection of the rows on the reference."""
        assert self._projection is not None
        return self._projection

    @cached_property
    def neighbours(self) -> Neighbours:
        """The nearest reference rows."""
        assert self._reference is not None
        return self._reference.nearest(self.projection)
