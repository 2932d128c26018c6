"""How a micro-batch is taken: in segments between evictions, and in steps within them.

A segment ends where a new principal needs a place that its shard does not have, or after 1,024 rows: near duplicates
cost the square of a segment. A step holds the rows of one model version
and dimension in which no principal crosses a border of its history blocks. So neither bound depends on how the
stream was cut into micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from detector.core.arrays import Array
from detector.core.configuration import EngineConfig
from detector.core.pools import LABEL_LIMIT, Pools
from detector.core.principals import Principals, Shard
from detector.core.rows import Grouping, Rows
from detector.core.stream import Stream

MOST_ROWS = 1_024
_LABELS = 2 * (LABEL_LIMIT + 1)
_SLOT_BITS = 32
_SLOT_MASK = (1 << _SLOT_BITS) - 1


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows ``start`` to ``end`` of a stream: those ``accepted`` and ``refused`` (row numbers), and the ``newcomers``
    (positions of keys, and their dimensions) in order of appearance. ``full``: the shard that needs an eviction for
    what follows, or None."""

    start: int
    end: int
    accepted: Array
    refused: Array
    newcomers: Array
    dimensions: Array
    full: int | None


class Planner:
    """Cuts one stream into segments; asked anew after each, as the principals have changed.

    ``slots`` int64: the slot of each key of the stream, -1 where there is none.
    """

    def __init__(self, stream: Stream, config: EngineConfig, principals: Principals, shards: Sequence[Shard]) -> None:
        self._stream = stream
        self._principals = principals
        self._shards = shards
        self._limit = config.limits.principals
        fixed = [config.dimensions.get(key[0], 0) for key in stream.keys]
        self._fixed = np.array(fixed, dtype=np.int32)
        self.look_up()

    def look_up(self) -> None:
        """Find the slots again, after an eviction."""
        keys, edges = self._stream.keys, self._stream.key_edges
        found: list[int] = []
        for at, shard in enumerate(self._shards):
            found += shard.find(keys[edges[at] : edges[at + 1]])
        self.slots = np.array(found, dtype=np.int64)

    def next(self, start: int) -> Segment:
        """The longest segment from ``start`` that needs no eviction."""
        stream, window = self._stream, slice(start, start + MOST_ROWS)
        key = stream.key[window]
        accepted = stream.dimension[window] == self._expected(start)[key]
        newcomers, first = self._newcomers(key, accepted)
        length, full = len(key), None
        places = self._places(newcomers)
        if places < len(newcomers):
            length, full = int(first[places]), int(stream.shard_of_key[newcomers[places]])
            newcomers, first, accepted = newcomers[:places], first[:places], accepted[:length]
        return Segment(
            start,
            start + length,
            start + np.flatnonzero(accepted),
            start + np.flatnonzero(~accepted),
            newcomers,
            stream.dimension[start + first],
            full,
        )

    def admit(self, segment: Segment) -> None:
        """Give the newcomers of ``segment`` their slots."""
        stream = self._stream
        for at, dimension in zip(segment.newcomers.tolist(), segment.dimensions.tolist(), strict=True):
            shard = self._shards[stream.shard_of_key[at]]
            self.slots[at] = self._principals.add(shard, stream.keys[at], dimension)

    def _newcomers(self, key: Array, accepted: Array) -> tuple[Array, Array]:
        """Of the rows of a window: the keys without a slot in order of appearance, and the row of each one's first."""
        fresh = np.flatnonzero(accepted & (self.slots[key] < 0))
        newcomers, first = np.unique(key[fresh], return_index=True)
        first = fresh[first]
        order = np.argsort(first)
        return newcomers[order], first[order]

    def _places(self, newcomers: Array) -> int:
        """How many of ``newcomers`` there are before the first for whom its shard has no place."""
        if not len(newcomers):
            return 0
        shard = self._stream.shard_of_key[newcomers]
        room = np.array([self._limit - len(own) for own in self._shards])
        rank = np.arange(len(newcomers)) - np.searchsorted(shard, shard)
        without = np.flatnonzero(rank >= room[shard])
        return int(without[0]) if len(without) else len(newcomers)

    def _expected(self, start: int) -> Array:
        """The dimension each key's rows must have: the configured one, else the principal's first."""
        known = self.slots >= 0
        own = self._principals.slots["dimension"][self.slots]
        if not known.all():
            own = np.where(known, own, self._first_dimensions(start))
        fixed = np.where(self._fixed > 0, self._fixed, own)
        return np.where(known & (fixed != own), -1, fixed)

    def _first_dimensions(self, start: int) -> Array:
        """The dimension of each key's first row from ``start``, 0 where it has none."""
        key, dimension = self._stream.key[start:], self._stream.dimension[start:]
        first = np.zeros(len(self._stream.keys), dtype=np.int32)
        first[key[::-1]] = dimension[::-1]
        return first


@dataclass(frozen=True, slots=True)
class Numbered:
    """Accepted rows with their place: ``rows`` int64 (n,) in the stream; ``slots``, those that occur, by shard;
    ``slot`` int64 (n,), positions in them; ``index`` and ``block`` int64 (n,), the query's number within its
    principal and the history block that falls in. ``shard`` int64 (n,), and ``edges``: where the slots of each
    shard begin, and the end."""

    rows: Array
    slots: Array
    slot: Array
    index: Array
    block: Array
    shard: Array
    edges: list[int]

    @classmethod
    def of(
        cls, stream: Stream, rows: Array, slot_of_row: Array, principals: Principals, config: EngineConfig
    ) -> Numbered:
        shard = stream.shard[rows]
        ordered, slot = np.unique((shard << _SLOT_BITS) | slot_of_row, return_inverse=True)
        slots = ordered & _SLOT_MASK
        edges = np.searchsorted(ordered, np.arange(len(stream.edges)) << _SLOT_BITS).tolist()
        grouping = Grouping.of(slot, len(slots))
        rank = np.empty(len(rows), np.int64)
        rank[grouping.order] = np.arange(len(rows)) - np.repeat(grouping.starts, grouping.lengths)
        index = principals.slots["queries"][slots][slot] + rank
        block = index // cls._block_rows(slots, principals, config)[slot]
        return cls(rows, slots, slot, index, block, shard, edges)

    @staticmethod
    def _block_rows(slots: Array, principals: Principals, config: EngineConfig) -> Array:
        if config.mode == "compatible":
            return np.full(len(slots), np.iinfo(np.int64).max)
        dimensions, place = np.unique(principals.slots["dimension"][slots], return_inverse=True)
        sizes = np.array([config.limits.block_rows(dimension) for dimension in dimensions.tolist()], dtype=np.int64)
        return sizes[place]

    def steps(self, space: Array) -> Iterator[Array]:
        """Positions in ``rows`` of each step, by how many borders lie behind it in this segment, then by space."""
        first = np.full(len(self.slots), np.iinfo(np.int64).max)
        np.minimum.at(first, self.slot, self.block)
        step = (self.block - first[self.slot]) * (int(space.max()) + 1) + space
        if (step == step[0]).all():
            yield np.arange(len(step))
            return
        for number in np.unique(step).tolist():
            yield np.flatnonzero(step == number)


def rows_of_step(stream: Stream, numbered: Numbered, at: Array, pools: Pools) -> tuple[Rows, Array]:
    """The rows at positions ``at`` of ``numbered``, and int64: the positions of their slots in its ``slots``."""
    rows = numbered.rows[at]
    place, slot = np.unique(numbered.slot[at], return_inverse=True)
    cells, pool = np.unique(slot * _LABELS + (stream.label[rows] + LABEL_LIMIT), return_inverse=True)
    pool_slot, pool_label = cells // _LABELS, cells % _LABELS - LABEL_LIMIT
    slots = numbered.slots[place]
    space = int(stream.space[rows[0]])
    model, version, _ = stream.spaces[space]
    step = Rows(
        model=model,
        model_version=version,
        slots=slots,
        pools=pools.find_or_add(slots[pool_slot], pool_label),
        slot=slot,
        pool=pool,
        pool_slot=pool_slot,
        pool_label=pool_label,
        index=numbered.index[at],
        features=stream.features(space, rows),
        batches=stream.pieces,
        batch=stream.piece[rows],
        batch_row=stream.piece_row[rows],
    )
    return step, place
