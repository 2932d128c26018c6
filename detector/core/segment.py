"""How a micro-batch is taken: in segments between evictions, and in steps within them.

A segment ends where a new principal needs a place that is not there, or after 1,024 rows: near duplicates cost the
square of a segment. A step holds the rows of one model version
and dimension in which no principal crosses a border of its history blocks. So neither bound depends on how the
stream was cut into micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from detector.core.arrays import Array
from detector.core.configuration import EngineConfig
from detector.core.pools import LABEL_LIMIT, Pools
from detector.core.principals import Principals
from detector.core.stream import Stream
from detector.core.views import Grouping, Rows

MOST_ROWS = 1_024
_LABELS = 2 * (LABEL_LIMIT + 1)


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows ``start`` to ``end`` of a stream: those ``accepted`` and ``refused`` (row numbers), and the ``newcomers``
    (positions of keys, and their dimensions) in order of appearance. ``full``: what follows needs an eviction."""

    start: int
    end: int
    accepted: Array
    refused: Array
    newcomers: Array
    dimensions: Array
    full: bool


class Planner:
    """Cuts one stream into segments; asked anew after each, as the principals have changed."""

    def __init__(self, stream: Stream, config: EngineConfig, principals: Principals) -> None:
        self._stream = stream
        self._principals = principals
        self._limit = config.limits.principals
        fixed = [config.dimensions.get(key[0], 0) for key in stream.keys]
        self._fixed = np.array(fixed, dtype=np.int32)

    def slots(self) -> Array:
        """int64: the slot of each key of the stream, -1 where there is none."""
        known = self._principals.slot_of
        return np.array([known.get(key, -1) for key in self._stream.keys], dtype=np.int64)

    def next(self, start: int) -> Segment:
        """The longest segment from ``start`` that needs no eviction."""
        window = slice(start, start + MOST_ROWS)
        key, slots = self._stream.key[window], self.slots()
        accepted = self._stream.dimension[window] == self._expected(start, slots)[key]
        fresh = np.flatnonzero(accepted & (slots[key] < 0))
        newcomers, first = np.unique(key[fresh], return_index=True)
        first = fresh[first]
        order = np.argsort(first)
        newcomers, first = newcomers[order], first[order]
        room = self._limit - len(self._principals)
        full = len(first) > room
        length = int(first[room]) if full else len(key)
        newcomers, first = newcomers[: max(room, 0)], first[: max(room, 0)]
        taken = accepted[:length]
        return Segment(
            start,
            start + length,
            start + np.flatnonzero(taken),
            start + np.flatnonzero(~taken),
            newcomers,
            self._stream.dimension[start + first],
            full,
        )

    def _expected(self, start: int, slots: Array) -> Array:
        """The dimension each key's rows must have: the configured one, else the principal's first."""
        first = self._first_dimensions(start)
        own = np.where(slots >= 0, self._principals.slots["dimension"][slots] if len(self._principals) else 0, first)
        fixed = np.where(self._fixed > 0, self._fixed, own)
        return np.where((slots >= 0) & (fixed != own), -1, fixed)

    def _first_dimensions(self, start: int) -> Array:
        """The dimension of each key's first row from ``start``, 0 where it has none."""
        key, dimension = self._stream.key[start:], self._stream.dimension[start:]
        first = np.zeros(len(self._stream.keys), dtype=np.int32)
        first[key[::-1]] = dimension[::-1]
        return first


@dataclass(frozen=True, slots=True)
class Numbered:
    """Accepted rows with their place: ``rows`` int64 (n,) in the stream; ``slots``, those that occur; ``slot`` int64
    (n,), positions in them; ``index`` and ``block`` int64 (n,), the query's number within its principal and the
    history block that falls in."""

    rows: Array
    slots: Array
    slot: Array
    index: Array
    block: Array

    @classmethod
    def of(cls, rows: Array, slot_of_row: Array, principals: Principals, config: EngineConfig) -> Numbered:
        slots, slot = np.unique(slot_of_row, return_inverse=True)
        grouping = Grouping.of(slot, len(slots))
        rank = np.empty(len(rows), np.int64)
        rank[grouping.order] = np.arange(len(rows)) - np.repeat(grouping.starts, grouping.lengths)
        index = principals.slots["queries"][slots][slot] + rank
        return cls(rows, slots, slot, index, index // cls._block_rows(slots, principals, config)[slot])

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
