"""How a micro-batch is taken: in segments between evictions, and in steps within them.

A segment ends where a new principal needs a place that its shard does not have, where a principal's dimension
changes, or after 1,024 rows: near duplicates cost the square of a segment. A step holds the rows of one judging version
and dimension in which no principal crosses a border of its history blocks. So none of these bounds depends on how the
stream was cut into micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detector.core.arrays import Array
from detector.core.configuration import EngineConfig
from detector.core.fitting import Fitting
from detector.core.pools import LABEL_LIMIT, MOST_POOLS, OVERFLOW, Pools
from detector.core.principals import Principals, Shard
from detector.core.rows import Grouping, Rows
from detector.core.state import State
from detector.core.stream import Stream
from detector.core.voting import Vote, poll

MOST_ROWS = 1_024
_LABELS = 2 * (LABEL_LIMIT + 1)
_SLOT_BITS = 32
_SLOT_MASK = (1 << _SLOT_BITS) - 1


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows ``start`` to ``end`` of a stream: those ``accepted`` and ``refused`` (row numbers), and the first rows of
    ``newcomers`` (positions of keys), in order of appearance. ``votes``: of the keys with queries of several
    dimensions, after the segment. ``full``: the shard that needs an eviction for what follows, or None."""

    start: int
    end: int
    accepted: Array
    refused: Array
    newcomers: Array
    first: Array
    votes: Mapping[int, Vote]
    full: int | None


class Planner:
    """Cuts one stream into segments; asked anew after each, as the principals have changed.

    ``slots`` int64: the slot of each key of the stream, -1 where there is none. ``names``: whose state that is, for
    ``name_of`` int64, the current one of each key: where any version is judged by one state, the version of its slot.
    """

    def __init__(
        self, stream: Stream, config: EngineConfig, fitting: Fitting, state: State, shards: Sequence[Shard]
    ) -> None:
        self._stream = stream
        self._state = state
        self._shards = shards
        self._limit = config.limits.principals
        fixed = [
            config.dimensions.get(model, 0) or fitting.dimension(model, version)
            for model, version, _ in map(stream.spaces.__getitem__, stream.space_of_piece.tolist())
        ]
        self._fixed = np.array(fixed, dtype=np.int32)[stream.first_piece]
        self._all_fit = bool(stream.fits.all())
        self.look_up()
        known = state.principals.key_of
        self.names = [known.get(slot, key) for slot, key in zip(self.slots.tolist(), stream.keys, strict=True)]
        for at in np.flatnonzero(self.slots < 0).tolist():
            model, version, principal = stream.keys[at]
            self.names[at] = model, version or stream.pieces[int(stream.first_piece[at])].model_version, principal
        self.name_of = np.arange(len(self.names))

    def look_up(self) -> None:
        """Find the slots again, after an eviction."""
        keys, edges = self._stream.keys, self._stream.key_edges
        found: list[int] = []
        for at, shard in enumerate(self._shards):
            found += self._state.principals.find(shard, keys[edges[at] : edges[at + 1]])
        self.slots = np.array(found, dtype=np.int64)
        held = self._state.principals.slots["dimension"][self.slots]
        self._outdated = np.flatnonzero((self.slots >= 0) & (self._fixed > 0) & (held != self._fixed))

    def next(self, start: int) -> Segment:
        """The longest segment from ``start`` that needs no eviction and no change of a dimension but at its start."""
        stream, window = self._stream, slice(start, start + MOST_ROWS)
        key = stream.key[window]
        votes: dict[int, Vote] = {}
        accepted = stream.dimension[window] == self._expected(start)[key]
        if not self._all_fit:
            accepted &= stream.fits[window]
        newcomers, first = self._newcomers(key, accepted)
        length, full = len(key), None
        places = self._places(newcomers)
        if places < len(newcomers):
            length, full = int(first[places]), int(stream.shard_of_key[newcomers[places]])
        if not accepted[:length].all():
            end, votes = self._poll(start, key[:length], accepted)
            length, full = (end, None) if end < length else (length, full)
        here = first < length
        accepted = accepted[:length]
        return Segment(
            start,
            start + length,
            start + np.flatnonzero(accepted),
            start + np.flatnonzero(~accepted),
            newcomers[here],
            start + first[here],
            votes,
            full,
        )

    def admit(self, segment: Segment) -> None:
        """Give the newcomers of ``segment`` their slots, and begin those anew whose dimension is another now."""
        stream, principals = self._stream, self._state.principals
        for at, row in zip(segment.newcomers.tolist(), segment.first.tolist(), strict=True):
            model, version, principal = stream.keys[at]
            name = model, version or stream.version(row), principal
            self.slots[at] = principals.add(self._shards[stream.shard_of_key[at]], name, int(stream.dimension[row]))
            if name != self.names[self.name_of[at]]:
                self.name_of[at] = len(self.names)
                self.names.append(name)
        self._begin_anew(segment)

    def _begin_anew(self, segment: Segment) -> None:
        held, dimensions = self._state.principals.slots["dimension"], {}
        for at, vote in segment.votes.items():
            if held[self.slots[at]] != vote.dimension:
                dimensions[int(self.slots[at])] = vote.dimension
        if len(self._outdated):
            judged = np.isin(self._outdated, self._stream.key[segment.accepted])
            own = self._outdated[judged]
            dimensions.update(zip(self.slots[own].tolist(), self._fixed[own].tolist(), strict=True))
            self._outdated = self._outdated[~judged]
        if dimensions:
            self._state.begin_anew(np.array(list(dimensions)), np.array(list(dimensions.values())))

    def _poll(self, start: int, key: Array, accepted: Array) -> tuple[int, dict[int, Vote]]:
        """Let the keys with queries of several dimensions vote; ``accepted`` is corrected. Gives where the segment must
        end, and their votes by then."""
        stream, columns = self._stream, self._state.principals.slots
        free = stream.fits[start : start + len(key)] & (self._fixed[key] == 0)
        contested = np.unique(key[free & ~accepted[: len(key)]])
        votes = {
            at: Vote(*(int(columns[name][slot]) for name in ("dimension", "votes", "flips")))
            for at, slot in zip(contested.tolist(), self.slots[contested].tolist(), strict=True)
            if slot >= 0
        }
        rows = np.flatnonzero(free & np.isin(key, contested))
        judged = accepted[rows]
        end = poll(votes, rows, key[rows], stream.dimension[start + rows], judged)
        accepted[rows] = judged
        return (len(key) if end is None else end), votes

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
        """The dimension each key's rows must have: the setting's or the profile's, else the slot's, else that of the
        first."""
        own = self._state.principals.slots["dimension"][self.slots]
        known = self.slots >= 0
        if not known.all():
            own = np.where(known, own, self._first_dimensions(start))
        return np.where(self._fixed > 0, self._fixed, own)

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


def rows_of_step(stream: Stream, numbered: Numbered, at: Array, state: State) -> tuple[Rows, Array]:
    """The rows at positions ``at`` of ``numbered``, and int64: the positions of their slots in its ``slots``."""
    rows = numbered.rows[at]
    place, slot = np.unique(numbered.slot[at], return_inverse=True)
    slots = numbered.slots[place]
    cell = slot * _LABELS + (stream.label[rows] + LABEL_LIMIT)
    cells, pool = np.unique(cell, return_inverse=True)
    held = np.bincount(cells // _LABELS, minlength=len(slots)) + state.principals.slots["pools"][slots]
    if held.max() > MOST_POOLS:
        _merge_labels(cell, slots, np.flatnonzero(held > MOST_POOLS), state.pools)
        cells, pool = np.unique(cell, return_inverse=True)
    pool_slot, pool_label = cells // _LABELS, cells % _LABELS - LABEL_LIMIT
    space = int(stream.space[rows[0]])
    model, version, _ = stream.spaces[space]
    step = Rows(
        model=model,
        model_version=version,
        slots=slots,
        pools=state.pools.find_or_add(slots[pool_slot], pool_label),
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


def _merge_labels(cell: Array, slots: Array, crowded: Array, pools: Pools) -> None:
    """Let the rows of ``crowded`` positions in ``slots`` share one label where theirs find no room for a pool."""
    for at in crowded.tolist():
        rows = np.flatnonzero(cell // _LABELS == at)
        labels, first, own = np.unique(cell[rows] % _LABELS - LABEL_LIMIT, return_index=True, return_inverse=True)
        in_order = labels[np.argsort(first)].tolist()
        merged = np.isin(labels, pools.surplus(int(slots[at]), in_order))
        cell[rows[merged[own]]] = at * _LABELS + OVERFLOW + LABEL_LIMIT
