"""The recent new queries of each principal: the growing sets of the previous and the current block of its queries.

A row belongs to a pool and is held in one of the pool's two lists, by the parity of its block. When a principal enters
a block, the lists of that parity still hold the block before the previous one and are emptied: so what is kept depends
on the principal's own query numbers alone. Rows are queued and reach FAISS before the next search, so that recovery
only copies them. If a signal needs it, each row has a note with the model's output.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.columns import Columns
from detector.core.embedding import Embedding
from detector.core.pools import Pools
from detector.core.shadows import Shadow, Shadows
from detector.core.vectors import VectorLists

QUEUE_BYTES = 256 << 20
"""A longer queue is flushed at once, even in recovery."""

MANY = 1 << 14
"""Features in all vectors of a principal from which on shadows pay off."""

_PARITIES = 2


@dataclass(frozen=True, slots=True)
class HistoryRows:
    """``pool`` int64 (n,), ``block`` int64 (n,), ``vectors`` float32 (n, d), ``notes`` float32 (n,), NaN for none.
    ``columns`` (k, n) of their shadows, if known."""

    pool: Array
    block: Array
    vectors: NDArray[np.float32]
    notes: NDArray[np.float32]
    columns: NDArray[np.float32] | None = None

    def select(self, keep: Array) -> HistoryRows:
        columns = None if self.columns is None else self.columns[:, keep]
        return HistoryRows(self.pool[keep], self.block[keep], self.vectors[keep], self.notes[keep], columns)


class History:
    """The own-history store of all principals of one engine; ``noted``: whether notes are kept."""

    def __init__(self, slots: Columns, pools: Pools, noted: bool = False) -> None:
        self.noted = noted
        self._slots = slots
        self._pools = pools
        self._lists = Columns({"number": (np.int32, -1, _PARITIES)})
        self._stores: dict[int, VectorLists] = {}
        self._shadows: dict[Embedding, Shadows] = {}
        self._queue: list[tuple[int, HistoryRows]] = []
        self._queued_bytes = 0

    @property
    def nbytes(self) -> int:
        vectors = sum(own.nbytes for own in self._stores.values())
        return self._lists.nbytes + self._queued_bytes + vectors + sum(own.nbytes for own in self._shadows.values())

    def store(self, dimension: int) -> VectorLists:
        if dimension not in self._stores:
            self._stores[dimension] = VectorLists(dimension, self.noted)
        return self._stores[dimension]

    def shadows(self, slots: Array, embedding: Embedding) -> tuple[list[Shadow | None], Array]:
        """Returns the shadows of each of ``slots`` that has many vectors, or None; and int32 (n, p): the lists of slots
        without shadows, -1 for no more."""
        if embedding not in self._shadows:
            self._shadows[embedding] = Shadows(embedding)
        shadows = self._shadows[embedding]
        found = shadows.of(slots)
        lacking = np.array([own is None for own in found], np.bool_)
        if not lacking.any():
            return found, np.full((len(slots), 1), -1, np.int32)
        lists = self.all_lists(slots)
        sizes = np.where(lists >= 0, self.store(embedding.dimension).sizes[lists], 0).sum(axis=1)
        for at in np.flatnonzero(lacking & (sizes * embedding.dimension >= MANY)).tolist():
            found[at] = self._shade(shadows, int(slots[at]))
        lists[[own is not None for own in found]] = -1
        return found, lists

    def turn(self, slots: Array, blocks: Array) -> None:
        """Moves ``slots`` on to ``blocks``. Drops rows older than the block before."""
        current = self._slots["block"]
        moved = blocks > current[slots]
        if not moved.any():
            return
        for slot, block in zip(slots[moved].tolist(), blocks[moved].tolist(), strict=True):
            stale = (0, 1) if block - current[slot] > 1 else (block % 2,)
            self._drop(slot, stale)
            current[slot] = block

    def append(self, rows: HistoryRows) -> None:
        """Queues rows of one dimension; the pools exist."""
        if not len(rows.pool):
            return
        self._queue.append((self._pools.births, rows))
        self._queued_bytes += rows.vectors.nbytes + (0 if rows.columns is None else rows.columns.nbytes)
        if self._queued_bytes > QUEUE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Moves queued rows that are still wanted to their lists."""
        queue, self._queue, self._queued_bytes = self._queue, [], 0
        by_dimension: dict[int, list[HistoryRows]] = {}
        for births, rows in queue:
            wanted = self._wanted(births, rows)
            kept = rows if wanted.all() else rows.select(wanted)
            if len(kept.pool):
                by_dimension.setdefault(rows.vectors.shape[1], []).append(kept)
        for dimension, parts in by_dimension.items():
            for rows in parts:
                self._bring(dimension, rows)

    def lists(self, pools: Array) -> Array:
        """Returns int32 (n, 2): the lists of each pool, -1 for none."""
        self._lists.reserve(self._pools.capacity)
        numbers: Array = self._lists["number"][pools]
        return numbers

    def all_lists(self, slots: Array) -> Array:
        """Returns int32 (n, p): the lists of each slot, over all pools. -1 for none comes after the others, and no
        column is empty but a lone first."""
        pools = self._pools.chains(slots)
        numbers = np.where(pools[:, :, None] >= 0, self.lists(pools), -1).reshape(len(slots), -1)
        lists: Array = np.sort(numbers, axis=1)[:, ::-1]
        return lists[:, : max(int((lists >= 0).sum(axis=1).max(initial=0)), 1)]

    def rows_of(self, dimension: int, pools: Array) -> HistoryRows:
        """Returns a copy of every row of ``pools``, which are all of this dimension. Call after ``flush``."""
        store = self.store(dimension)
        pool, parity, locations = self._places(store, pools)
        current = self._slots["block"][self._pools.columns["slot"][pool]]
        block = np.where(current % 2 == parity, current, current - 1)
        return HistoryRows(pool, block, store.gather(locations), store.notes(locations))

    def rows_held(self, dimension: int, pools: Array) -> int:
        """Returns the number of rows of ``pools``, which are all of this dimension."""
        self.flush()
        numbers = self.lists(pools).ravel()
        return int(self.store(dimension).sizes[numbers[numbers >= 0]].sum())

    def evict(self, pools: Array) -> None:
        """Drops all rows of ``pools``, which are all pools of their slots, and stores that nobody uses any more: there
        may be one for each dimension."""
        numbers = self.lists(pools)
        owner = self._pools.columns["slot"][pools]
        dimensions = self._slots["dimension"][owner]
        for dimension in np.unique(dimensions).tolist():
            own = dimensions == dimension
            lists = numbers[own].ravel()
            for shadows in self._shadows.values():
                shadows.forget(np.unique(owner[own]))
            store = self.store(dimension)
            store.release(lists[lists >= 0])
            if store.unused:
                del self._stores[dimension]
        self._lists["number"][pools] = -1

    def _bring(self, dimension: int, rows: HistoryRows) -> None:
        """Adds ``rows`` to their lists, and to the shadows of their slots. Shadows that cannot be extended, because the
        rows come without columns (during recovery), are dropped and rebuilt on demand."""
        store, lists = self.store(dimension), self._list_numbers(dimension, rows)
        slots = self._pools.columns["slot"][rows.pool]
        for own in self._shadows.values():
            if rows.columns is None:
                own.forget(np.unique(slots))
            elif own.dimension == dimension:
                own.append(slots, rows.columns, store.next_locations(lists))
        store.append(lists, rows.vectors, rows.notes)

    def _shade(self, shadows: Shadows, slot: int) -> Shadow | None:
        """Builds the shadows of all vectors of ``slot``, which has none. Returns None if there is no room, or if
        vectors are too large: a log that was written without a profile may hold such."""
        if shadows.full:
            return None
        store = self.store(shadows.dimension)
        pool, _, locations = self._places(store, self._pools.of_slots(np.array([slot])))
        vectors = store.gather(locations)
        if not shadows.fits(vectors):
            return None
        return shadows.make(slot, shadows.columns(self._pools.columns["label"][pool], vectors), locations)

    def _places(self, store: VectorLists, pools: Array) -> tuple[Array, Array, Array]:
        """Returns, of every vector of ``pools``, the pool, the parity of its list and its location, int64 (n,) each."""
        numbers = self.lists(pools)
        at, parity = np.nonzero(numbers >= 0)
        locations, owner = store.locations(numbers[at, parity])
        return pools[at[owner]], parity[owner], locations

    def _wanted(self, births: int, rows: HistoryRows) -> Array:
        """Returns the rows whose pool is the one they were queued for, and whose block is still kept."""
        columns = self._pools.columns
        born = columns["born"][rows.pool]
        alive = (born >= 0) & (born < births)
        current = self._slots["block"][columns["slot"][rows.pool]]
        wanted: Array = alive & (rows.block >= current - 1)
        return wanted

    def _list_numbers(self, dimension: int, rows: HistoryRows) -> Array:
        self._lists.reserve(self._pools.capacity)
        table = self._lists["number"].reshape(-1)
        cell = rows.pool * _PARITIES + rows.block % 2
        missing = np.unique(cell[table[cell] < 0])
        table[missing] = self.store(dimension).allocate(len(missing))
        numbers: Array = table[cell]
        return numbers

    def _drop(self, slot: int, parities: tuple[int, ...]) -> None:
        numbers = self.lists(self._pools.of_slots(np.array([slot])))
        stale = numbers[:, parities].ravel()
        stale = stale[stale >= 0]
        if len(stale):
            dimension = int(self._slots["dimension"][slot])
            for own in self._shadows.values():
                own.drop(slot, stale)
            self.store(dimension).empty(stale)
