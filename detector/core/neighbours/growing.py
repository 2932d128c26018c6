"""The growing sets of PRADA, row after row: the nearest own query, whether the row joins, and what its set learns.

Principals are independent of each other, and without a profile their pools are too: rows of one are taken together, so
that what they are compared with stays in the processor's cache.

A query joins the set of its pool if it is farther from it than the threshold T = max(T, mean - deviation) of the
distances that joined before (Juuti et al. 2019); the first counts as distance 0.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.neighbours.search import Scratch, nearest_of
from detector.core.neighbours.store import COUNT, FIELDS, LANES, NONE, START, Arena, drop, room_for

DONE, LACKS_ROOM, DOUBTFUL = 0, 1, 2
"""Why a call ended: all rows were taken, the arena must grow by that many rows, or rounding could decide a row."""
_DOUBT = 1e-9

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Matrix = NDArray[np.float32]
Recompute = Callable[[int, list[float]], float]
"""(position of the pool, distances that joined it in this step) -> its threshold by the reference's formula."""


class Thresholds(NamedTuple):
    """By pool: T (``threshold``) float64, ``number`` int64 of the distances that joined, and their Welford ``mean`` and
    ``squares`` float64."""

    threshold: Floats
    number: Integers
    mean: Floats
    squares: Floats


class Chains(NamedTuple):
    """By pool, its ``lists`` int64 (pools, 2 * fields) by parity of the block, and the ``following`` pool of the same
    slot int32, -1 for none. By slot, its ``first`` pool int32, and the ``block`` int64 that it is in."""

    lists: Integers
    following: NDArray[np.int32]
    first: NDArray[np.int32]
    block: Integers


class SearchQueries(NamedTuple):
    """n queries in stream order: ``features`` float32 (n, d); projections ``points`` float32 (n, p), and how long they
    are, ``length`` float64 (n,), -1 for none; what the model ``said`` float32 (n,); the ``slot`` of the principal, the
    ``pool`` and the ``block``, int64 (n,); and the ``order`` int64 (n,) in which rows are taken."""

    features: Matrix
    points: Matrix
    length: Floats
    said: Matrix
    slot: Integers
    pool: Integers
    block: Integers
    order: Integers


class SearchResults(NamedTuple):
    """``grown`` float64 (n,): the distance to the growing set as of the row, inf where it was empty; ``joined`` bool
    (n,). ``distance`` float64 (n,): that to the nearest own query of any class, ``step`` float32 (n, d) from it, the
    query itself where there is none, and what the model ``said`` to it, float32 (n,), NaN where unknown."""

    grown: Floats
    joined: NDArray[np.bool_]
    distance: Floats
    step: Matrix
    said: Matrix


@compiled
def grow(
    arena: Arena,
    chains: Chains,
    thresholds: Thresholds,
    asked: SearchQueries,
    found: SearchResults,
    scratch: Scratch,
    first: int,
    settled: int,
    exactly: bool,
    judged: bool,
) -> tuple[int, int, int]:
    """Takes rows from the ``first`` on in their order. Returns why it ended, the place before which, and how many rows
    of room it lacks. With ``exactly`` it ends before a row whose distance is within 1e-9 of T, unless that is at place
    ``settled``. The
    nearest query of any class is looked for if the rows are ``judged`` by a profile."""
    for place in range(first, len(asked.order)):
        i = asked.order[place]
        pool = asked.pool[i]
        turn(arena, chains, asked.slot[i], asked.block[i])
        alike, total = _gather(chains, asked.slot[i], pool, judged, scratch.runs)
        distance, of_any, nearest = nearest_of(
            arena, asked.features, asked.points, asked.length[i], i, scratch, alike, total
        )
        threshold = thresholds.threshold[pool]
        doubtful = distance > 0 and abs(distance - threshold) <= _DOUBT * (distance + threshold) < inf
        if exactly and doubtful and place != settled:
            return DOUBTFUL, place, 0
        if judged:
            _note(arena, asked, found, i, of_any, nearest)
        joins = distance == inf or distance > threshold
        if joins:
            lacking = room_for(arena, chains.lists, pool, asked.block[i] % 2)
            if lacking:
                return LACKS_ROOM, place, lacking
            _add(arena, chains.lists, asked, i)
            _learn(thresholds, pool, distance)
        found.grown[i] = distance
        found.joined[i] = joins
    return DONE, len(asked.order), 0


@compiled
def turn(arena: Arena, chains: Chains, slot: int, block: int) -> None:
    """Moves a slot on to ``block``, if that is later, and drops its vectors from before the block before."""
    behind = block - chains.block[slot]
    if behind <= 0:
        return
    pool = int(chains.first[slot])
    while pool != NONE:
        drop(arena, chains.lists, pool, block % 2)
        if behind > 1:
            drop(arena, chains.lists, pool, 1 - block % 2)
        pool = int(chains.following[pool])
    chains.block[slot] = block


@compiled
def _gather(chains: Chains, slot: int, pool: int, judged: bool, runs: NDArray[np.int64]) -> tuple[int, int]:
    """Writes the lists of ``pool``, and if ``judged`` then those of the slot's other pools, to ``runs`` (m, 2), empty
    ones left out. Returns how many are of ``pool``, and how many there are."""
    alike = _write(chains, pool, runs, 0)
    if not judged:
        return alike, alike
    total, other = alike, int(chains.first[slot])
    while other != NONE:
        if other != pool:
            total = _write(chains, other, runs, total)
        other = int(chains.following[other])
    return alike, total


@compiled
def _write(chains: Chains, pool: int, runs: NDArray[np.int64], total: int) -> int:
    for at in (0, FIELDS):
        if chains.lists[pool, at + COUNT]:
            runs[total, 0], runs[total, 1] = chains.lists[pool, at + START], chains.lists[pool, at + COUNT]
            total += 1
    return total


@compiled
def _note(arena: Arena, asked: SearchQueries, found: SearchResults, i: int, distance: float, nearest: int) -> None:
    found.distance[i] = distance
    found.step[i] = asked.features[i]
    if nearest != NONE:
        found.step[i] -= arena.rows[nearest]
        found.said[i] = arena.notes[nearest]


@compiled
def _add(arena: Arena, lists: Integers, asked: SearchQueries, i: int) -> None:
    at = asked.block[i] % 2 * FIELDS
    pool = asked.pool[i]
    row = lists[pool, at + START] + lists[pool, at + COUNT]
    arena.rows[row] = asked.features[i]
    arena.notes[row] = asked.said[i]
    for axis in range(asked.points.shape[1]):
        arena.points[row // LANES, axis, row % LANES] = asked.points[i, axis]
    lists[pool, at + COUNT] += 1


@compiled
def _learn(thresholds: Thresholds, pool: int, distance: float) -> None:
    if distance == inf:
        thresholds.number[pool] = max(thresholds.number[pool], 1)
        return
    thresholds.number[pool] += 1
    count = thresholds.number[pool]
    step = distance - thresholds.mean[pool]
    thresholds.mean[pool] += step / count
    thresholds.squares[pool] += step * (distance - thresholds.mean[pool])
    candidate = thresholds.mean[pool] - sqrt(thresholds.squares[pool] / count)
    thresholds.threshold[pool] = max(thresholds.threshold[pool], candidate)
