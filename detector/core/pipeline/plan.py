"""Cuts micro-batches into segments between evictions, and these into steps.

A segment ends before a new principal that finds no free slot in its shard, before a principal's dimension changes,
or after 1,024 rows. A step holds the rows of one judging version and dimension. So these bounds do not depend on the
micro-batches.

How many features a principal's queries have is a setting, or comes from the profile, or is what most of their own
queries have. For the last, each slot has a candidate and its votes (Boyer and Moore's majority vote, with a cap): a
query of that dimension adds a vote and is judged, another takes one away and is not. Once no votes are left the next
query that differs becomes the candidate, and the slot's history starts again. A candidate that came by the k-th change
starts with 2^k votes, so that no principal can alternate for long. The majority is the principal's own: a partition
sees only a part of a model's traffic, and a group of accounts could outvote the honest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, compress, repeat

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import BadRow, QueryBatch
from detector.core.pipeline.store import ShardLog, State
from detector.core.profile import ProfileMatcher
from detector.core.state.arrays import Array
from detector.core.state.principals import LABEL_LIMIT, MOST_VOTES, Key, PrincipalKey, Shard
from detector.core.state.rows import StepRows, positions

MOST_ROWS = 1_024
_EVICTED_SHARE = 16
"""At once, one of this number of principals is evicted."""
_NOBODY = PrincipalKey("", "", "")


class FlatBatch:
    """One micro-batch of each shard as flat columns over all rows, in order of shards: ``pieces`` of plain queries, and
    their repairs by shard (``repaired``).

    ``keys``: those that occur, with the judging version (``ProfileMatcher.judged_as``, or the query's own without one).
    Shard i has the keys ``key_edges[i]`` to ``key_edges[i + 1]`` and the rows ``edges[i]`` to ``edges[i + 1]``.
    ``first_piece`` int64: the first piece of each key. Per row: ``shard``, ``key`` (position in ``keys``), ``piece``
    and ``piece_row`` (its source), ``fits`` (whether a profile matches or the model has none), ``dimension`` and
    ``space`` (position in ``spaces``, each a (model, judging version, dimension)).
    """

    def __init__(self, batches: Sequence[Sequence[QueryBatch]], matcher: ProfileMatcher) -> None:
        owned = [(at, piece) for at, batch in enumerate(batches) for piece in batch if len(piece)]
        self.repaired = [Counter[str]() for _ in batches]
        self.pieces = tuple(matcher.plain(piece, self.repaired[at]) for at, piece in owned)
        versions = [matcher.judged_as(piece) for _, piece in owned]
        space_of_piece = [
            (piece.model, piece.model_version if version is None else version, piece.dimension)
            for piece, version in zip(self.pieces, versions, strict=True)
        ]
        self.spaces = list(dict.fromkeys(space_of_piece))
        self.space_of_piece = np.array([self.spaces.index(space) for space in space_of_piece], dtype=np.int64)
        numbers: list[dict[Key, int]] = [{} for _ in batches]
        keys, fresh = [], []
        for (at, _), piece, (model, version, _) in zip(owned, self.pieces, space_of_piece, strict=True):
            before = len(numbers[at])
            keys.append(_key_numbers(piece, model, version, numbers[at]) + sum(map(len, numbers[:at])))
            fresh.append(len(numbers[at]) - before)
        lengths = [len(piece) for piece in self.pieces]
        self.key = _joined(keys, np.int32)
        self.piece = np.repeat(np.arange(len(self.pieces)), lengths)
        self.piece_row = _joined([np.arange(length) for length in lengths], np.int64)
        self.space = self.space_of_piece[self.piece]
        self.fits = np.array([version is not None for version in versions], dtype=np.bool_)[self.piece]
        self.dimension = np.array([piece.dimension for piece in self.pieces], dtype=np.int32)[self.piece]
        self.shard = np.array([at for at, _ in owned], dtype=np.int64)[self.piece]
        self.first_piece = np.repeat(np.arange(len(self.pieces)), fresh)
        self.keys: list[Key] = list(chain.from_iterable(numbers))
        self.key_edges: list[int] = [0, *accumulate(map(len, numbers))]
        self.shard_of_key = np.repeat(np.arange(len(batches)), np.diff(self.key_edges))
        self.edges: list[int] = np.searchsorted(self.shard, np.arange(len(batches) + 1)).tolist()
        self._matrices: dict[int, tuple[NDArray[np.float32], Array]] = {}

    def __len__(self) -> int:
        return len(self.key)

    @cached_property
    def label(self) -> Array:
        """int64 (n,): the predicted classes, see ``labels_of``."""
        return _joined([labels_of(piece) for piece in self.pieces], np.int64)

    def features(self, space: int, rows: Array) -> NDArray[np.float32]:
        """Returns float32 (m, d): the features of ``rows``, all of one space."""
        if space not in self._matrices:
            pieces = np.flatnonzero(self.space_of_piece == space).tolist()
            start = np.zeros(len(self.pieces), np.int64)
            start[pieces] = np.cumsum([0] + [len(self.pieces[at]) for at in pieces[:-1]])
            matrices = [self.pieces[at].features for at in pieces]
            self._matrices[space] = matrices[0] if len(matrices) == 1 else np.concatenate(matrices), start
        matrix, start = self._matrices[space]
        at = start[self.piece[rows]] + self.piece_row[rows]
        return matrix if len(at) == len(matrix) else np.asarray(matrix[at])

    def version(self, row: int) -> str:
        """Returns the model version of the query in ``row``."""
        return self.pieces[int(self.piece[row])].model_version

    def refusal(self, row: int) -> BadRow:
        """Returns why the query in ``row``, as it is numbered in its own micro-batch, was not judged."""
        model, _, principal = self.keys[self.key[row]]
        query = f"{principal!r} sent {self.dimension[row]} features to {model} {self.version(row)}"
        if self.fits[row]:
            reason, detail = "dimension", "which is not what the setting, its profile or most of their queries have"
        else:
            reason, detail = "no-profile", "which has no profile, and none of the model's others fits"
        number = row - self.edges[self.shard[row]]
        return BadRow(number, reason, f"{query}, {detail}", model=model, principal=principal)


def _key_numbers(piece: QueryBatch, model: str, version: str, numbers: dict[Key, int]) -> Array:
    """Returns int32 (n,): the number of each row's key among those of the shard. Adds new keys to ``numbers``."""
    counts = np.bincount(piece.principal_index, minlength=len(piece.principals))
    number = np.full(len(piece.principals), -1, np.int32)
    keys = list(zip(repeat(model), repeat(version), compress(piece.principals, counts.tolist())))
    numbered = dict(zip(keys, range(len(keys)), strict=True))
    if numbers or len(numbered) < len(keys):
        number[counts > 0] = [numbers.setdefault(key, len(numbers)) for key in keys]
    else:  # the usual case, without a loop in Python
        numbers.update(numbered)
        number[counts > 0] = np.arange(len(keys))
    return number[piece.principal_index]


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


@dataclass(slots=True)
class Vote:
    """The candidate ``dimension`` of one slot, its ``votes`` and how often it changed."""

    dimension: int
    votes: int
    flips: int

    def count(self, dimension: int, may_change: bool) -> bool | None:
        """Counts a query. Returns whether it is judged; None, uncounted, if the candidate must change and may not."""
        if dimension == self.dimension:
            self.votes = min(self.votes + 1, MOST_VOTES)
        elif self.votes:
            self.votes -= 1
            return False
        elif may_change:
            self.flips = min(self.flips + 1, MOST_VOTES.bit_length() - 1)
            self.dimension, self.votes = dimension, 1 << self.flips
        else:
            return None
        return True


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows ``start`` to ``end`` of a batch, whose principals have their slots.

    ``rows`` int64 (n,): those to judge. ``slots`` int64 (s,): the slots of these and of ``votes``, by shard, with the
    start of each shard and the end in ``edges``; ``slot`` int64 (n,): positions in them. ``index`` int64 (n,):
    the number of the query within its principal. ``votes``: those that were counted, by
    position of the slot.
    """

    start: int
    end: int
    rows: Array
    slots: Array
    edges: list[int]
    slot: Array
    index: Array
    votes: dict[int, Vote]


class Planner:
    """Cuts one batch into segments, and gives principals their slots: evicts, starts again and refuses.

    ``slots`` int64: the slot of each key of the batch, -1 if it has none. ``names``: the full names of the states.
    ``name_of`` int64: the position in ``names`` of each key; if all versions share one state, the name has the version
    of its slot. ``refused``, ``evicted``: rows and numbers of principals, by shard.
    """

    def __init__(self, batch: FlatBatch, state: State, shards: Sequence[Shard], logs: Sequence[ShardLog]) -> None:
        self._batch, self._state, self._shards, self._logs = batch, state, shards, logs
        fixed = [
            state.config.dimensions.get(model, 0) or state.matcher.dimension(model, version)
            for model, version, _ in map(batch.spaces.__getitem__, batch.space_of_piece.tolist())
        ]
        self._fixed = np.array(fixed, dtype=np.int32)[batch.first_piece]
        self._all_fit = bool(batch.fits.all())
        self._look_up()
        self.names = list(map(state.principals.key_of.get, self.slots.tolist(), repeat(_NOBODY)))
        for at in np.flatnonzero(self.slots < 0).tolist():
            self.names[at] = self._name(at, int(batch.first_piece[at]))
        self.name_of = np.arange(len(self.names))
        self.refused: list[list[BadRow]] = [[] for _ in shards]
        self.evicted = [0] * len(shards)

    def segments(self) -> Iterator[Segment]:
        """Yields the segments, each after the one before was run."""
        start = 0
        while start < len(self._batch):
            end, accepted, votes, full = self._cut(start)
            if end > start:
                yield self._admitted(start, end, accepted, votes)
            if full is not None:
                self._make_room(full)
            start = end

    def steps(self, segment: Segment) -> Iterator[Array]:
        """Yields the positions in ``segment.rows`` of each step, ordered by space."""
        space = self._batch.space[segment.rows]
        if len(space) and (space == space[0]).all():
            yield np.arange(len(space))
            return
        for number in np.unique(space).tolist():
            yield np.flatnonzero(space == number)

    def rows(self, segment: Segment, at: Array) -> tuple[StepRows, Array]:
        """Returns the rows at positions ``at`` of ``segment``, and int64: the positions of their slots in its
        ``slots``."""
        batch, pools, rows = self._batch, self._state.pools, segment.rows[at]
        position, slot, _ = positions(segment.slot[at], len(segment.slots))
        slots = segment.slots[position]
        found = pools.find_or_add(slots[slot], batch.label[rows])
        used, pool_slot, pool = pools.grouped(found, slot, len(slots))
        space = int(batch.space[rows[0]])
        model, version, _ = batch.spaces[space]
        step = StepRows(
            model=model,
            model_version=version,
            slots=slots,
            pools=used,
            slot=slot,
            pool=pool,
            pool_slot=pool_slot,
            pool_label=pools.columns["label"][used],
            index=segment.index[at],
            features=batch.features(space, rows),
            pieces=batch.pieces,
            piece=batch.piece[rows],
            piece_row=batch.piece_row[rows],
        )
        return step, position

    def _cut(self, start: int) -> tuple[int, NDArray[np.bool_], dict[int, Vote], int | None]:
        """Returns the end of the longest segment from ``start`` with evictions and changes of dimension only before its
        start; which of its rows are accepted; the votes by key after it; and the shard that then needs an eviction, or
        None."""
        batch, window = self._batch, slice(start, start + MOST_ROWS)
        key = batch.key[window]
        votes: dict[int, Vote] = {}
        accepted = batch.dimension[window] == self._expected(start)[key]
        if not self._all_fit:
            accepted &= batch.fits[window]
        newcomers, first = self._newcomers(key, accepted)
        length, full = len(key), None
        places = self._places(newcomers)
        if places < len(newcomers):
            length, full = int(first[places]), int(batch.shard_of_key[newcomers[places]])
        if not accepted[:length].all():
            end, votes = self._poll(start, key[:length], accepted)
            length, full = (end, None) if end < length else (length, full)
        return start + length, accepted[:length], votes, full

    def _admitted(self, start: int, end: int, accepted: NDArray[np.bool_], votes: dict[int, Vote]) -> Segment:
        """Gives newcomers their slots, resets principals whose dimension changed, and refuses what is not accepted."""
        batch, state = self._batch, self._state
        rows = start + np.flatnonzero(accepted)
        for at, row in zip(*self._newcomers(batch.key[start:end], accepted), strict=True):
            self._add(int(at), start + int(row))
        self._reset_histories(rows, votes)
        for row in (start + np.flatnonzero(~accepted)).tolist():
            self.refused[batch.shard[row]].append(batch.refusal(row))
        counted = np.array(list(votes), np.int64)
        keys, slot, rank = positions(np.concatenate((batch.key[rows], counted)), len(self.slots))
        slots, count = self.slots[keys], len(rows)
        index = state.principals.slots["queries"][slots][slot] + rank
        edges = np.searchsorted(batch.shard_of_key[keys], np.arange(len(batch.edges))).tolist()
        votes = dict(zip(slot[count:].tolist(), votes.values(), strict=True))
        return Segment(start, end, rows, slots, edges, slot[:count], index[:count], votes)

    def _make_room(self, at: int) -> None:
        principals, shard = self._state.principals, self._shards[at]
        slots = principals.to_forget(shard, max(self._state.config.limits.principals // _EVICTED_SHARE, 1))
        self._logs[at].evicted += principals.keys_of(slots)
        self.evicted[at] += len(slots)
        self._state.evict(shard, slots)
        self._look_up()

    def _look_up(self) -> None:
        """Looks up the slots of all keys."""
        batch, columns = self._batch, self._state.principals.slots
        found: list[int] = []
        for at, shard in enumerate(self._shards):
            found += self._state.principals.find(shard, batch.keys[batch.key_edges[at] : batch.key_edges[at + 1]])
        self.slots = np.array(found, dtype=np.int64)
        dimension = columns["dimension"][self.slots]
        self._outdated = np.flatnonzero((self.slots >= 0) & (self._fixed > 0) & (dimension != self._fixed))

    def _name(self, at: int, piece: int) -> PrincipalKey:
        """Returns the full name of a new state for a key with a query in ``piece``."""
        model, version, principal = self._batch.keys[at]
        return PrincipalKey(model, version or self._batch.pieces[piece].model_version, principal)

    def _add(self, at: int, row: int) -> None:
        """Gives a key its slot, with the version and dimension of its first ``row``."""
        batch, name = self._batch, self._name(at, int(self._batch.piece[row]))
        shard = self._shards[batch.shard_of_key[at]]
        self.slots[at] = self._state.principals.add(shard, name, int(batch.dimension[row]))
        if name != self.names[self.name_of[at]]:
            self.name_of[at] = len(self.names)
            self.names.append(name)

    def _reset_histories(self, rows: Array, votes: dict[int, Vote]) -> None:
        known, dimensions = self._state.principals.slots["dimension"], {}
        for at, vote in votes.items():
            if known[self.slots[at]] != vote.dimension:
                dimensions[int(self.slots[at])] = vote.dimension
        if len(self._outdated):
            judged = np.isin(self._outdated, self._batch.key[rows])
            outdated = self._outdated[judged]
            dimensions.update(zip(self.slots[outdated].tolist(), self._fixed[outdated].tolist(), strict=True))
            self._outdated = self._outdated[~judged]
        if dimensions:
            self._state.reset_history(np.array(list(dimensions)), np.array(list(dimensions.values())))

    def _poll(self, start: int, key: Array, accepted: NDArray[np.bool_]) -> tuple[int, dict[int, Vote]]:
        """Counts dimension votes of keys with queries of several dimensions, and corrects ``accepted``. Returns where
        the segment must end, as a candidate changes only at the start of one, and the votes up to there."""
        batch, columns = self._batch, self._state.principals.slots
        free = batch.fits[start : start + len(key)] & (self._fixed[key] == 0)
        contested = np.unique(key[free & ~accepted[: len(key)]])
        votes = {
            at: Vote(*(int(columns[name][slot]) for name in ("dimension", "votes", "flips")))
            for at, slot in zip(contested.tolist(), self.slots[contested].tolist(), strict=True)
            if slot >= 0
        }
        for row in np.flatnonzero(free & np.isin(key, contested)).tolist():
            at_key, dimension = int(key[row]), int(batch.dimension[start + row])
            vote = votes.setdefault(at_key, Vote(dimension, 0, 0))
            judged = vote.count(dimension, may_change=row == 0)
            if judged is None:
                return row, votes
            accepted[row] = judged
        return len(key), votes

    def _newcomers(self, key: Array, accepted: NDArray[np.bool_]) -> tuple[Array, Array]:
        """Returns the keys without a slot that have accepted rows, in order of appearance, and the first row of
        each."""
        fresh = np.flatnonzero(accepted & (self.slots[key] < 0))
        if not len(fresh):
            return fresh, fresh
        newcomers, first = np.unique(key[fresh], return_index=True)
        order = np.argsort(first)
        return newcomers[order], fresh[first[order]]

    def _places(self, newcomers: Array) -> int:
        """Returns how many of ``newcomers`` precede the first one that finds no free slot in its shard."""
        if not len(newcomers):
            return 0
        home = self._batch.shard_of_key[newcomers]
        room = np.array([self._state.config.limits.principals - len(shard) for shard in self._shards])
        rank = np.arange(len(newcomers)) - np.searchsorted(home, home)
        without = np.flatnonzero(rank >= room[home])
        return int(without[0]) if len(without) else len(newcomers)

    def _expected(self, start: int) -> Array:
        """Returns the dimension that each key's rows must have: that of the setting or profile, else of the slot, else
        of the first row."""
        dimensions = self._state.principals.slots["dimension"][self.slots]
        known = self.slots >= 0
        if not known.all():
            key, dimension = self._batch.key[start:], self._batch.dimension[start:]
            first = np.zeros(len(self._batch.keys), dtype=np.int32)
            first[key[::-1]] = dimension[::-1]
            dimensions = np.where(known, dimensions, first)
        return np.where(self._fixed > 0, self._fixed, dimensions)
