"""Cuts a micro-batch into segments between evictions, and these into steps.

A segment ends before a new principal that finds no free slot in its shard, before a principal's dimension changes,
or after 1,024 rows. A step holds the rows of one judging version and dimension. So these bounds do not depend on the
micro-batches.

How many features a principal's queries have, where neither a setting nor a profile says: as most of their own.

Each slot has a candidate and its votes (Boyer and Moore's majority vote, with a cap): a query of that dimension adds a
vote and is judged, another takes one away and is not. Once no votes are left the next query that differs becomes
the candidate, and the slot's history begins anew. A candidate that came by the k-th change starts with 2^k votes, so
that nobody can change to and fro for long. The majority is the principal's own: a partition sees only a part of a
model's traffic, and a group of accounts could outvote the honest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.configuration import EngineConfig
from detector.core.pipeline.store import State
from detector.core.profile.profile import ProfileMatcher
from detector.core.state.arrays import Array
from detector.core.state.principals import LABEL_LIMIT, MOST_VOTES, Key, PrincipalKey, Principals, Shard
from detector.core.state.rows import StepRows, positions


class FlatBatch:
    """One micro-batch of each shard, in order of shards: ``pieces`` of plain queries, and their repairs by shard
    (``repaired``).

    ``keys``: those that occur, with the judging version (``ProfileMatcher.judged_as``, or the query's own without one).
    Shard i has the keys ``key_edges[i]`` to ``key_edges[i + 1]`` and the rows ``edges[i]`` to ``edges[i + 1]``.
    ``first_piece`` int64: the first piece of each key. Per row: ``shard``, ``key`` (position in ``keys``), ``piece``
    and ``piece_row`` (its source), ``fits`` (whether a profile matches or the model has none), ``dimension`` and
    ``space`` (position in ``spaces``, each a (model, judging version, dimension)).
    """

    def __init__(self, batches: Sequence[Sequence[QueryBatch]], fitting: ProfileMatcher) -> None:
        owned = [(at, piece) for at, batch in enumerate(batches) for piece in batch if len(piece)]
        self.repaired = [Counter[str]() for _ in batches]
        self.pieces = tuple(fitting.plain(piece, self.repaired[at]) for at, piece in owned)
        self._judged_as = [fitting.judged_as(piece) for _, piece in owned]
        self._spaces: dict[tuple[str, str, int], int] = {}
        self._numbers: list[dict[Key, int]] = [{} for _ in batches]
        self._new_keys: list[int] = []
        self._matrices: dict[int, tuple[NDArray[np.float32], Array]] = {}
        lengths = [len(piece) for piece in self.pieces]
        self.key = _joined([self._key_index(at, number) for number, (at, _) in enumerate(owned)], np.int32)
        self.piece = np.repeat(np.arange(len(self.pieces)), lengths)
        self.piece_row = _joined([np.arange(length) for length in lengths], np.int64)
        self.space_of_piece = np.array([self._space(number) for number in range(len(self.pieces))], dtype=np.int64)
        self.spaces = list(self._spaces)
        self.space = self.space_of_piece[self.piece]
        self.fits = np.array([version is not None for version in self._judged_as], dtype=np.bool_)[self.piece]
        self.dimension = np.array([piece.dimension for piece in self.pieces], dtype=np.int32)[self.piece]
        self.shard = np.array([at for at, _ in owned], dtype=np.int64)[self.piece]
        self.first_piece = np.repeat(np.arange(len(self.pieces)), self._new_keys)
        self.keys: list[Key] = list(chain.from_iterable(self._numbers))
        keys_of = list(map(len, self._numbers))
        self.shard_of_key = np.repeat(np.arange(len(batches)), keys_of)
        self.edges: list[int] = np.searchsorted(self.shard, np.arange(len(batches) + 1)).tolist()
        self.key_edges: list[int] = [0, *accumulate(keys_of)]

    def __len__(self) -> int:
        return len(self.key)

    @cached_property
    def label(self) -> Array:
        """int64 (n,): the predicted classes, see ``labels_of``."""
        return _joined([labels_of(piece) for piece in self.pieces], np.int64)

    def features(self, space: int, rows: Array) -> NDArray[np.float32]:
        """Returns float32 (m, d): the features of ``rows``, all of one space."""
        pieces = np.flatnonzero(self.space_of_piece == space)
        if len(pieces) == 1:
            matrix, at = self.pieces[int(pieces[0])].features, self.piece_row[rows]
        else:
            matrix, start = self._matrix(space)
            at = start[self.piece[rows]] + self.piece_row[rows]
        chosen: NDArray[np.float32] = matrix if len(at) == len(matrix) else matrix[at]
        return chosen

    def _matrix(self, space: int) -> tuple[NDArray[np.float32], Array]:
        if space not in self._matrices:
            pieces = np.flatnonzero(self.space_of_piece == space).tolist()
            start = np.zeros(len(self.pieces), np.int64)
            start[pieces] = np.cumsum([0] + [len(self.pieces[at]) for at in pieces[:-1]])
            self._matrices[space] = np.concatenate([self.pieces[at].features for at in pieces]), start
        return self._matrices[space]

    def version(self, row: int) -> str:
        """Returns the model version of the query in ``row``."""
        return self.pieces[int(self.piece[row])].model_version

    def _key_index(self, shard: int, number: int) -> Array:
        piece = self.pieces[number]
        used = np.flatnonzero(np.bincount(piece.principal_index, minlength=len(piece.principals)))
        numbers = np.full(len(piece.principals), -1, np.int32)
        model, version, _ = self._space_key(number)
        known, principals = self._numbers[shard], piece.principals
        before = len(known)
        found = [known.setdefault((model, version, principals[at]), len(known)) for at in used.tolist()]
        self._new_keys.append(len(known) - before)
        numbers[used] = np.array(found) + sum(map(len, self._numbers[:shard]))
        return numbers[piece.principal_index]

    def _space(self, number: int) -> int:
        return self._spaces.setdefault(self._space_key(number), len(self._spaces))

    def _space_key(self, number: int) -> tuple[str, str, int]:
        piece, judged_as = self.pieces[number], self._judged_as[number]
        return piece.model, piece.model_version if judged_as is None else judged_as, piece.dimension


def labels_of(piece: QueryBatch) -> Array:
    """Returns the predicted classes, int64 (n,): argmax of probabilities, the label itself, 0 for a score."""
    labels: Array = np.zeros(len(piece), np.int64)
    if piece.output_kind == "probabilities":
        labels = piece.outputs.argmax(1)
    elif piece.output_kind == "label":
        labels = np.clip(piece.outputs[:, 0].astype(np.float64), -LABEL_LIMIT, LABEL_LIMIT).astype(np.int64)
    return labels


def _joined(parts: list[Array], dtype: type) -> Array:
    return np.concatenate([*parts, np.empty(0, dtype)]) if len(parts) != 1 else parts[0]


MOST_ROWS = 1_024


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows ``start`` to ``end`` of a stream. ``accepted``, ``refused``: row numbers. ``newcomers``: positions of new
    keys in order of appearance; ``first``: their first rows. ``votes``: the state of the dimension votes after the
    segment. ``full``: the shard that needs an eviction before the next segment, or None."""

    start: int
    end: int
    accepted: Array
    refused: Array
    newcomers: Array
    first: Array
    votes: Mapping[int, Vote]
    full: int | None


class Planner:
    """Cuts one stream into segments. Each call depends on the principals after the previous segment.

    ``slots`` int64: the slot of each key of the stream, -1 if it has none. ``names``: the full names of the states.
    ``name_of`` int64: the position in ``names`` of each key; if all versions share one state, the name has the version
    of its slot.
    """

    def __init__(
        self, stream: FlatBatch, config: EngineConfig, fitting: ProfileMatcher, state: State, shards: Sequence[Shard]
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
        self.names: list[PrincipalKey] = [
            known[slot] if slot >= 0 else self._name_of_newcomer(at) for at, slot in enumerate(self.slots.tolist())
        ]
        self.name_of = np.arange(len(self.names))

    def _name_of_newcomer(self, at: int) -> PrincipalKey:
        model, version, principal = self._stream.keys[at]
        own = version or self._stream.pieces[int(self._stream.first_piece[at])].model_version
        return PrincipalKey(model, own, principal)

    def look_up(self) -> None:
        """Looks up the slots again after an eviction."""
        keys, edges = self._stream.keys, self._stream.key_edges
        found: list[int] = []
        for at, shard in enumerate(self._shards):
            found += self._state.principals.find(shard, keys[edges[at] : edges[at + 1]])
        self.slots = np.array(found, dtype=np.int64)
        held = self._state.principals.slots["dimension"][self.slots]
        self._outdated = np.flatnonzero((self.slots >= 0) & (self._fixed > 0) & (held != self._fixed))

    def next(self, start: int) -> Segment:
        """Returns the longest segment from ``start`` with evictions and changes of dimension only before its start."""
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
        """Gives the newcomers of ``segment`` their slots, and resets principals whose dimension changed."""
        stream, principals = self._stream, self._state.principals
        for at, row in zip(segment.newcomers.tolist(), segment.first.tolist(), strict=True):
            model, version, principal = stream.keys[at]
            name = PrincipalKey(model, version or stream.version(row), principal)
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
        """Counts dimension votes of keys with queries of several dimensions, and corrects ``accepted``. Returns where
        the segment must end, and the votes up to there."""
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
        """Returns the keys of a window without a slot, in order of appearance, and the first row of each."""
        fresh = np.flatnonzero(accepted & (self.slots[key] < 0))
        newcomers, first = np.unique(key[fresh], return_index=True)
        first = fresh[first]
        order = np.argsort(first)
        return newcomers[order], first[order]

    def _places(self, newcomers: Array) -> int:
        """Returns how many of ``newcomers`` precede the first one that finds no free slot in its shard."""
        if not len(newcomers):
            return 0
        shard = self._stream.shard_of_key[newcomers]
        room = np.array([self._limit - len(own) for own in self._shards])
        rank = np.arange(len(newcomers)) - np.searchsorted(shard, shard)
        without = np.flatnonzero(rank >= room[shard])
        return int(without[0]) if len(without) else len(newcomers)

    def _expected(self, start: int) -> Array:
        """Returns the dimension that each key's rows must have: that of the setting or profile, else of the slot, else
        of the first row."""
        own = self._state.principals.slots["dimension"][self.slots]
        known = self.slots >= 0
        if not known.all():
            own = np.where(known, own, self._first_dimensions(start))
        return np.where(self._fixed > 0, self._fixed, own)

    def _first_dimensions(self, start: int) -> Array:
        """Returns the dimension of each key's first row from ``start``, 0 for a key without rows."""
        key, dimension = self._stream.key[start:], self._stream.dimension[start:]
        first = np.zeros(len(self._stream.keys), dtype=np.int32)
        first[key[::-1]] = dimension[::-1]
        return first


@dataclass(frozen=True, slots=True)
class Numbered:
    """Accepted rows with their positions. ``rows`` int64 (n,): rows of the stream. ``slots``: the slots that occur, by
    shard; ``slot`` int64 (n,): positions in ``slots``. ``index``, ``block`` int64 (n,): the number of the query within
    its principal, and its history block. ``shard`` int64 (n,). ``edges``: the start of each shard in ``slots``, and
    the end."""

    rows: Array
    slots: Array
    slot: Array
    index: Array
    block: Array
    shard: Array
    edges: list[int]

    @classmethod
    def of(
        cls, stream: FlatBatch, rows: Array, slot_of_key: Array, principals: Principals, config: EngineConfig
    ) -> Numbered:
        keys, slot, rank = positions(stream.key[rows].astype(np.int64), len(slot_of_key))
        slots = slot_of_key[keys]
        edges = np.searchsorted(stream.shard_of_key[keys], np.arange(len(stream.edges))).tolist()
        index = principals.slots["queries"][slots][slot] + rank
        if config.mode == "compatible":
            block = np.zeros(len(rows), np.int64)
        else:
            block = index // config.limits.block_rows(principals.slots["dimension"][slots])[slot]
        return cls(rows, slots, slot, index, block, stream.shard[rows], edges)

    def steps(self, space: Array) -> Iterator[Array]:
        """Yields positions in ``rows`` for each step, ordered by ``space``."""
        if (space == space[0]).all():
            yield np.arange(len(space))
            return
        for number in np.unique(space).tolist():
            yield np.flatnonzero(space == number)


def rows_of_step(stream: FlatBatch, numbered: Numbered, at: Array, state: State) -> tuple[StepRows, Array]:
    """Returns the rows at positions ``at`` of ``numbered``, and int64: the positions of their slots in its
    ``slots``."""
    rows = numbered.rows[at]
    place, slot, _ = positions(numbered.slot[at], len(numbered.slots))
    slots = numbered.slots[place]
    own = state.pools.find_or_add(slots[slot], stream.label[rows])
    pools, pool_slot, pool = state.pools.grouped(own, slot, len(slots))
    space = int(stream.space[rows[0]])
    model, version, _ = stream.spaces[space]
    step = StepRows(
        model=model,
        model_version=version,
        slots=slots,
        pools=pools,
        slot=slot,
        pool=pool,
        pool_slot=pool_slot,
        pool_label=state.pools.columns["label"][pools],
        index=numbered.index[at],
        block=numbered.block[at],
        features=stream.features(space, rows),
        batches=stream.pieces,
        batch=stream.piece[rows],
        batch_row=stream.piece_row[rows],
    )
    return step, place


@dataclass(slots=True)
class Vote:
    """The candidate ``dimension`` of one slot, its ``votes`` and how often it changed."""

    dimension: int
    votes: int
    flips: int

    def take(self, dimension: int) -> bool:
        """Count a query that does not change the candidate; whether it is judged."""
        if dimension == self.dimension:
            self.votes = min(self.votes + 1, MOST_VOTES)
            return True
        self.votes -= 1
        return False

    def changes(self, dimension: int) -> bool:
        """Whether a query of ``dimension`` becomes the candidate."""
        return self.votes == 0 and dimension != self.dimension

    def change(self, dimension: int) -> None:
        self.flips = min(self.flips + 1, MOST_VOTES.bit_length() - 1)
        self.dimension, self.votes = dimension, 1 << self.flips


def poll(votes: dict[int, Vote], rows: Array, key: Array, dimension: Array, judged: Array) -> int | None:
    """Count queries of ``key`` and ``dimension`` int64 (n,), at ``rows`` of a segment, in ``votes`` by key, and write
    into ``judged`` bool (n,) which are. Stops at the first row where a candidate would change and gives it, as that is
    done at the start of a segment; None where there is no such row."""
    asked: list[tuple[int, int, int]] = np.stack((rows, key, dimension), axis=1).tolist()
    for at, (row, own, features) in enumerate(asked):
        vote = votes.get(own)
        if vote is None:
            votes[own], judged[at] = Vote(features, 1, 0), True
        elif not vote.changes(features):
            judged[at] = vote.take(features)
        elif row == 0:
            vote.change(features)
            judged[at] = True
        else:
            return row
    return None
