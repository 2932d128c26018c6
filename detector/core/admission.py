"""Which queries join the growing set of their pool: sequential within a pool, so processed in waves.

Wave w holds the w-th query of every pool of the step, so that all pools in a wave differ and everything is an array
operation. Once few pools have queries left, each is finished on its own in plain floats, which round alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.rows import Grouping
from detector.core.views import GrowingNeighbours

_NARROW = 24
"""Waves with no more pools than this are not worth array operations."""

_DOUBT = 1e-9

Recompute = Callable[[int, list[float]], float]
"""(position of the pool, distances admitted to it in this step) -> its threshold by the reference's formula."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Per pool: ``threshold`` T float64, ``count`` int64 of admitted distances with the leading 0 of the first
    vector, and their Welford ``mean`` and ``squares`` float64. T = max(T, mean - population deviation)."""

    threshold: Array
    count: Array
    mean: Array
    squares: Array

    def take(self, pools: Array) -> Thresholds:
        return Thresholds(*(getattr(self, name)[pools] for name in self.__slots__))

    def put(self, pools: Array, values: Thresholds) -> None:
        for name in self.__slots__:
            getattr(self, name)[pools] = getattr(values, name)


@dataclass(frozen=True, slots=True)
class Admission:
    """In the order of ``Rows.by_pool``: ``distance`` float64 (n,) to the growing set as of the row, inf where it
    was empty, and ``admitted`` bool (n,). ``after``: the thresholds of the step's pools."""

    distance: NDArray[np.float64]
    admitted: NDArray[np.bool_]
    after: Thresholds


def admit(
    neighbours: GrowingNeighbours, pools: Grouping, before: Thresholds, recompute: Recompute | None = None
) -> Admission:
    """Applies the admission rule to a step. ``before`` holds the thresholds of its pools, in its order.

    With ``recompute``, a distance within 1e-9 of the threshold is compared with what that returns.
    """
    work = _Waves(neighbours, pools, before, recompute)
    work.run()
    return Admission(work.distance, work.admitted, work.state)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Plain numbers: the pairs of row r are entries ``first[r]`` to ``first[r + 1]``, each with the ``earlier`` row and
    its ``distance``."""

    first: list[int]
    earlier: list[int]
    distance: list[float]


class _Waves:
    def __init__(
        self, neighbours: GrowingNeighbours, pools: Grouping, before: Thresholds, recompute: Recompute | None
    ) -> None:
        self.distance = neighbours.stored.copy()
        self.admitted = np.zeros(len(self.distance), dtype=bool)
        self.state = before
        self._recompute = recompute
        self._starts, self._lengths = pools.starts, pools.lengths
        self._pairs = neighbours
        rank = np.arange(len(self.distance)) - np.repeat(pools.starts, pools.lengths)
        self._pair_rank = rank[neighbours.earlier]

    def run(self) -> None:
        if len(self._lengths) <= _NARROW:
            self._finish(range(len(self._lengths)), 0)
            return
        widest_first = np.argsort(-self._lengths, kind="stable")
        lengths = self._lengths[widest_first]
        wave, longest = 0, int(lengths[0])
        by_wave = np.argsort(self._pair_rank, kind="stable")
        pair_ends = np.searchsorted(self._pair_rank[by_wave], np.arange(longest), side="right").tolist()
        width = np.searchsorted(-lengths, -np.arange(longest), side="left")
        while wave < longest and width[wave] > _NARROW:
            self._wave(widest_first[: width[wave]], wave)
            self._tell(by_wave[pair_ends[wave - 1] if wave else 0 : pair_ends[wave]])
            wave += 1
        if wave < longest:
            self._finish(widest_first[: width[wave]].tolist(), wave)

    def _wave(self, pools: Array, wave: int) -> None:
        at = self._starts[pools] + wave
        distance, state = self.distance[at], self.state.take(pools)
        empty = np.isinf(distance)
        doubtful = self._doubtful(distance, state.threshold)
        for place in doubtful:
            pool = int(pools[place])
            state.threshold[place] = self._exact_threshold(pool, int(at[place]))
        admitted = empty | (distance > state.threshold)
        self.admitted[at] = admitted
        self.state.put(pools, _learn(state, np.where(empty, 0.0, distance), admitted & ~empty, empty))

    def _doubtful(self, distance: Array, threshold: Array) -> list[int]:
        if self._recompute is None:
            return []
        finite = np.where(np.isfinite(distance), distance, 0.0)
        near = np.abs(finite - threshold) <= _DOUBT * (finite + threshold)
        places: list[int] = np.flatnonzero(near & (finite > 0)).tolist()
        return places

    def _exact_threshold(self, pool: int, at: int) -> float:
        assert self._recompute is not None
        own = slice(int(self._starts[pool]), at)
        joined = self.distance[own][self.admitted[own]]
        return self._recompute(pool, joined[np.isfinite(joined)].tolist())

    def _tell(self, pairs: Array) -> None:
        """Informs later rows of the neighbours that a wave admitted: at most one for each of them."""
        pairs = pairs[self.admitted[self._pairs.earlier[pairs]]]
        later = self._pairs.later[pairs]
        self.distance[later] = np.minimum(self.distance[later], self._pairs.distance[pairs])

    def _finish(self, pools: Iterable[int], wave: int) -> None:
        pairs = self._later_pairs(wave)
        for pool in pools:
            self._finish_pool(pool, wave, pairs)

    def _later_pairs(self, wave: int) -> _Pairs:
        """Possible neighbours among the rows of this wave and later."""
        use = np.flatnonzero(self._pair_rank >= wave)
        use = use[np.argsort(self._pairs.later[use], kind="stable")]
        first = np.searchsorted(self._pairs.later[use], np.arange(len(self.distance) + 1))
        return _Pairs(first.tolist(), self._pairs.earlier[use].tolist(), self._pairs.distance[use].tolist())

    def _finish_pool(self, pool: int, wave: int, pairs: _Pairs) -> None:
        start = int(self._starts[pool]) + wave
        rows = slice(start, int(self._starts[pool] + self._lengths[pool]))
        learner = _Learner(self.state, pool)
        admitted: list[bool] = []
        distances: list[float] = self.distance[rows].tolist()
        for at in range(len(distances)):
            for pair in range(pairs.first[start + at], pairs.first[start + at + 1]):
                if pairs.distance[pair] < distances[at] and admitted[pairs.earlier[pair] - start]:
                    distances[at] = pairs.distance[pair]
            if self._recompute is not None and learner.doubtful(distances[at]):
                self.distance[start : start + at], self.admitted[start : start + at] = distances[:at], admitted
                learner.threshold = self._exact_threshold(pool, start + at)
            admitted.append(learner.learn(distances[at]))
        self.distance[rows], self.admitted[rows] = distances, admitted
        learner.save()


class _Learner:
    """The thresholds of one pool as plain numbers."""

    def __init__(self, state: Thresholds, pool: int) -> None:
        self._state, self._pool = state, pool
        self.threshold, self._count = float(state.threshold[pool]), int(state.count[pool])
        self._mean, self._squares = float(state.mean[pool]), float(state.squares[pool])

    def doubtful(self, distance: float) -> bool:
        return distance > 0 and abs(distance - self.threshold) <= _DOUBT * (distance + self.threshold) < inf

    def learn(self, distance: float) -> bool:
        """Returns whether a query at ``distance`` is admitted; what ``_learn`` does, for one."""
        if distance == inf:
            self._count = max(self._count, 1)
            return True
        if distance <= self.threshold:
            return False
        self._count += 1
        step = distance - self._mean
        self._mean += step / self._count
        self._squares += step * (distance - self._mean)
        self.threshold = max(self.threshold, self._mean - sqrt(self._squares / self._count))
        return True

    def save(self) -> None:
        state, pool = self._state, self._pool
        state.threshold[pool], state.count[pool] = self.threshold, self._count
        state.mean[pool], state.squares[pool] = self._mean, self._squares


def _learn(state: Thresholds, distance: Array, admitted: Array, empty: Array) -> Thresholds:
    """One Welford step for each pool whose query was admitted at a distance; a first vector counts as distance 0."""
    count = np.where(empty, np.maximum(state.count, 1), state.count + admitted)
    step = distance - state.mean
    mean = np.where(admitted, state.mean + step / np.maximum(count, 1), state.mean)
    squares = np.where(admitted, state.squares + step * (distance - mean), state.squares)
    candidate = mean - np.sqrt(squares / np.maximum(count, 1))
    threshold = np.where(admitted, np.maximum(state.threshold, candidate), state.threshold)
    return Thresholds(threshold, count, mean, squares)
