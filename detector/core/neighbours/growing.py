"""The growing sets of PRADA, row after row: the nearest own query, whether the row joins, and what its set learns.

A query joins the set of its pool if it is farther from it than the threshold T = max(T, mean - deviation) of the
distances that joined before (Juuti et al. 2019); the first counts as distance 0.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.compiled import compiled
from detector.core.neighbours.search import nearest_in_list
from detector.core.neighbours.store import COUNT, FIELDS, NONE, START, Arena, room_for

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


class Asked(NamedTuple):
    """n queries in stream order: ``features`` float32 (n, d), ``points`` float32 (n, p), what the model ``said``
    float32 (n,), ``pool`` int64 (n,) and the ``parity`` int64 (n,) of its list. ``first_pool`` int64 (n,): the first
    pool of the principal, or -1 where the nearest query of any class is not asked for."""

    features: Matrix
    points: Matrix
    said: Matrix
    pool: Integers
    parity: Integers
    first_pool: Integers


class Found(NamedTuple):
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
    lists: Integers,
    next_pool: NDArray[np.int32],
    thresholds: Thresholds,
    asked: Asked,
    found: Found,
    gaps: Matrix,
    first: int,
    settled: int,
    exactly: bool,
) -> tuple[int, int, int]:
    """Takes rows from ``first`` on. Returns why it ended, the row before which, and how many rows of room it lacks. With
    ``exactly`` it ends before a row whose distance is within 1e-9 of T, unless that is row ``settled``."""
    for i in range(first, len(asked.pool)):
        pool = asked.pool[i]
        distance, nearest = _nearest_of_pool(arena, lists, pool, asked, i, gaps)
        threshold = thresholds.threshold[pool]
        doubtful = distance > 0 and abs(distance - threshold) <= _DOUBT * (distance + threshold) < inf
        if exactly and doubtful and i != settled:
            return DOUBTFUL, i, 0
        joins = distance == inf or distance > threshold
        if joins:
            lacking = room_for(arena, lists, pool, asked.parity[i])
            if lacking:
                return LACKS_ROOM, i, lacking
        if asked.first_pool[i] != NONE:
            _look_among_all(arena, lists, next_pool, asked, found, i, gaps, distance, nearest)
        found.grown[i] = distance
        found.joined[i] = joins
        if joins:
            _add(arena, lists, asked, i)
            _learn(thresholds, pool, distance)
    return DONE, len(asked.pool), 0


@compiled
def _nearest_of_pool(arena: Arena, lists: Integers, pool: int, asked: Asked, i: int, gaps: Matrix) -> tuple[float, int]:
    projected = asked.points.shape[1] > 0 and asked.first_pool[i] != NONE
    distance, nearest = inf, NONE
    for parity in range(2):
        distance, nearest = nearest_in_list(
            arena, lists, 2 * pool + parity, asked.features, asked.points, i, projected, gaps, distance, nearest
        )
    return distance, nearest


@compiled
def _look_among_all(
    arena: Arena,
    lists: Integers,
    next_pool: NDArray[np.int32],
    asked: Asked,
    found: Found,
    i: int,
    gaps: Matrix,
    distance: float,
    nearest: int,
) -> None:
    projected = asked.points.shape[1] > 0
    pool = np.int64(asked.first_pool[i])
    while pool != NONE:
        if pool != asked.pool[i]:
            for parity in range(2):
                distance, nearest = nearest_in_list(
                    arena, lists, 2 * pool + parity, asked.features, asked.points, i, projected, gaps, distance, nearest
                )
        pool = np.int64(next_pool[pool])
    found.distance[i] = distance
    found.step[i] = asked.features[i]
    if nearest != NONE:
        found.step[i] -= arena.rows[nearest]
        found.said[i] = arena.notes[nearest]


@compiled
def _add(arena: Arena, lists: Integers, asked: Asked, i: int) -> None:
    at = asked.parity[i] * FIELDS
    pool = asked.pool[i]
    row = lists[pool, at + START] + lists[pool, at + COUNT]
    arena.rows[row] = asked.features[i]
    arena.notes[row] = asked.said[i]
    arena.points[row] = asked.points[i]
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
