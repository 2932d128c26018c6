"""The rows of a step, grouped by principal and class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.loops.compiled import allocating, compiled, plain
from detector.core.state.arrays import Array


class Grouping(NamedTuple):
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
class StepRows:
    """Queries of one model version and dimension, in stream order.

    ``slots`` and ``pools`` int64: those that occur; ``slot`` and ``pool`` int64 (n,) are positions in them.
    ``pool_slot`` gives the position of each pool's slot, ``pool_label`` its class. ``index`` int64 (n,): the
    query's number within its principal. ``features`` float32 (n, d).
    ``outputs`` float32 (n, k), the model's answers, NaN to the right where a record had fewer, or none. ``pieces``:
    what was logged; ``piece`` and ``piece_row`` int64 (n,) are where in it.
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
    pieces: tuple[QueryBatch, ...]
    piece: Array
    piece_row: Array

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
        widest = max(1, *(piece.outputs.shape[1] for piece in self.pieces))
        outputs = np.full((len(self), widest), np.nan, np.float32)
        for at, rows in self.sources:
            values = self.pieces[at].outputs
            outputs[rows, : values.shape[1]] = values[self.piece_row[rows]]
        return outputs

    @cached_property
    def top_two(self) -> NDArray[np.float32]:
        """float32 (n, 2): the two largest outputs, ascending; NaN where there are no two, and for NaN,
        which counts as the largest."""
        top = np.full((len(self), 2), np.nan, np.float32)
        for at, rows in self.sources:
            outputs = plain(self.pieces[at].outputs[self.piece_row[rows]])
            two = np.full((len(outputs), 2), np.nan, np.float32)
            _largest(outputs, two)
            top[rows] = two
        return top

    @cached_property
    def answer(self) -> NDArray[np.float32]:
        """float32 (n,): the model's answer as one number: the largest probability, 1 for a label, or the score."""
        answer = self.top_two[:, 1].copy()
        for at, rows in self.sources:
            if self.pieces[at].output_kind == "label":
                answer[rows] = 1.0
        return answer

    def column(self, name: str, fill: Any) -> Array:
        """Returns an optional column of the queries (``hardness``, ``leaf``...), ``fill`` where it was not logged."""
        like = [getattr(piece, name) for piece in self.pieces if getattr(piece, name) is not None]
        shape, dtype = (like[0].shape[1:], like[0].dtype) if like else ((), np.asarray(fill).dtype)
        column = np.full((len(self), *shape), fill, dtype)
        for at, rows in self.sources:
            values = getattr(self.pieces[at], name)
            if values is not None:
                column[rows] = values[self.piece_row[rows]]
        return column

    def raw_features(self, columns: Array | None = None) -> NDArray[np.float32]:
        """Returns float32 (n, m): the ``columns`` int64 (m,) as they were sent, or all; 0 where left out.

        Thresholds are compared exactly, so that these are used, and not the scaled ``features``.
        """
        width = self.features.shape[1] if columns is None else len(columns)
        features = np.empty((len(self), width), np.float32)
        for at, rows in self.sources:
            logged, source_row = self.pieces[at].features, self.piece_row[rows]
            features[rows] = logged[source_row] if columns is None else logged[source_row[:, None], columns]
        return features

    @cached_property
    def missing(self) -> NDArray[np.bool_] | None:
        """bool (n, d): which features were left out; None if none were."""
        if all(self.pieces[at].missing is None for at, _ in self.sources):
            return None
        absent = np.zeros(self.features.shape, np.bool_)
        for at, rows in self.sources:
            logged = self.pieces[at].missing
            if logged is not None:
                absent[rows] = logged[self.piece_row[rows]]
        return absent if absent.any() else None

    @cached_property
    def sources(self) -> list[tuple[int, Array | slice]]:
        """The pieces that rows are from, by number, and which rows."""
        first = int(self.piece[0])
        if (self.piece == first).all():
            return [(first, slice(None))]
        return [(at, np.flatnonzero(self.piece == at)) for at in np.unique(self.piece).tolist()]


@compiled
def _largest(outputs: NDArray[np.float32], top: NDArray[np.float32]) -> None:
    """Sets ``top`` (n, 2) to the two largest of each of ``outputs`` (n, k), ascending; NaN is larger than all else."""
    width = outputs.shape[1]
    for row in range(len(outputs) if width > 0 else 0):
        first, second = outputs[row, 0], np.float32(-np.inf)
        for at in range(1, width):
            value = outputs[row, at]
            if value > first or (math.isnan(value) and not math.isnan(first)):
                first, second = value, first
            elif value > second or (math.isnan(value) and not math.isnan(second)):
                second = value
        top[row, 1] = first
        if width > 1:
            top[row, 0] = second


_UNUSED = -1

Integers = NDArray[np.int64]


@allocating
def positions(number: Integers, count: int) -> tuple[Integers, Integers, Integers]:
    """Returns, for ``number`` int64 (n,), all below ``count``: those that occur, ascending (m,); the position of each
    row in these (n,); and how many rows before have the same number (n,)."""
    place = np.full(count, _UNUSED, np.int64)
    for value in number:
        place[value] = 0
    used = np.flatnonzero(place + 1)
    for at in range(len(used)):
        place[used[at]] = at
    before = np.zeros(len(used), np.int64)
    position, rank = np.empty(len(number), np.int64), np.empty(len(number), np.int64)
    for row in range(len(number)):
        at = place[number[row]]
        position[row], rank[row] = at, before[at]
        before[at] += 1
    return used, position, rank


@allocating
def grouped(number: Integers, group: Integers, groups: int, place: Integers) -> tuple[Integers, Integers, Integers]:
    """Returns, for rows with a ``number`` and the ``group`` that it belongs to, int64 (n,): the numbers that occur, by
    group and in order of appearance, their groups, both (m,), and the position of each row in these (n,). ``place``
    has room for every number and holds -1 everywhere, afterwards too."""
    size = np.zeros(groups + 1, np.int64)
    for row in range(len(number)):
        if place[number[row]] == _UNUSED:
            place[number[row]] = 0
            size[group[row] + 1] += 1
    start = np.cumsum(size)
    used, owner = np.empty(start[-1], np.int64), np.empty(start[-1], np.int64)
    position = np.empty(len(number), np.int64)
    for row in range(len(number)):
        value = number[row]
        if place[value] == 0:
            at = start[group[row]]
            start[group[row]] += 1
            used[at], owner[at] = value, group[row]
            place[value] = at + 1
        position[row] = place[value] - 1
    for value in used:
        place[value] = _UNUSED
    return used, owner, position
