"""The nearest own query of the same class, for four queries at a time: of long rows, most of the time goes into reading
them. Rows that join meanwhile are looked at afterwards."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.neighbours.distances import exact, gap, gaps, within
from detector.core.neighbours.store import COUNT, FIELDS, START, Arena

if TYPE_CHECKING:
    from detector.core.neighbours.search import Chains, QueryArrays

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_AHEAD, _WAITING = 4, 32


class Ahead(NamedTuple):
    """What is known of queries to come, of one pool: ``span`` int64 (3,) has the position of the first, that after the
    last, four at most, and how many vectors the current list had. Of each the nearest ``distance`` float64 (4,) so far,
    and of vectors that may be nearer the ``number`` int64 (4,), the rows ``near`` int64 (4, 32), their ``gaps`` float32
    (4, 32) and the ``limit`` float64 (4,) of these."""

    span: Integers
    distance: Floats
    number: Integers
    near: Integers
    gaps: Matrix
    limit: Floats

    @classmethod
    def of(cls) -> Ahead:
        """Returns room for them."""
        near, gaps = np.empty((_AHEAD, _WAITING), np.int64), np.empty((_AHEAD, _WAITING), np.float32)
        return cls(np.empty(3, np.int64), np.empty(_AHEAD), np.empty(_AHEAD, np.int64), near, gaps, np.empty(_AHEAD))


@compiled
def _look_ahead(arena: Arena, chains: Chains, queries: QueryArrays, position: int, ahead: Ahead) -> int:
    """Compares the queries from ``position`` on, if four are of one pool, or else one, with the lists of the pool.
    Returns how many these are."""
    order, features, pool = queries.order, queries.features, queries.pool[queries.order[position]]
    count = 1
    while count < _AHEAD and position + count < len(order) and queries.pool[order[position + count]] == pool:
        count += 1
    count = count if count == _AHEAD else 1
    for k in range(count):
        ahead.distance[k], ahead.number[k], ahead.limit[k] = inf, 0, inf
    for at in (0, FIELDS):
        start = chains.lists[pool, at + START]
        end = start + chains.lists[pool, at + COUNT]
        if count == 1:
            _look_at(arena, start, end, features, order[position], ahead, 0)
        else:
            _look_at_all(arena, start, end, features, order[position : position + count], ahead)
    return count


@compiled
def _look_at(arena: Arena, first: int, end: int, features: Matrix, at: int, ahead: Ahead, k: int) -> None:
    """Compares query ``at``, the ``k``-th of those ahead, with the vectors of rows ``first`` to ``end``."""
    for row in range(first, end):
        squared = gap(arena.rows, row, features, at)
        if squared <= ahead.limit[k]:
            _keep(arena, row, squared, features, at, ahead, k)


@compiled
def _look_at_all(arena: Arena, first: int, end: int, features: Matrix, at: Integers, ahead: Ahead) -> None:
    """Compares the queries ``at`` (4,) with the vectors of rows ``first`` to ``end``."""
    for row in range(first, end):
        a, b, c, d = gaps(arena.rows, row, features, at[0], at[1], at[2], at[3])
        if a <= ahead.limit[0]:
            _keep(arena, row, a, features, at[0], ahead, 0)
        if b <= ahead.limit[1]:
            _keep(arena, row, b, features, at[1], ahead, 1)
        if c <= ahead.limit[2]:
            _keep(arena, row, c, features, at[2], ahead, 2)
        if d <= ahead.limit[3]:
            _keep(arena, row, d, features, at[3], ahead, 3)


@compiled
def _keep(arena: Arena, row: int, squared: np.float32, features: Matrix, at: int, ahead: Ahead, k: int) -> None:
    """Adds a ``row`` that may be nearer to query ``at``, the ``k``-th of those ahead."""
    if ahead.number[k] == _WAITING:
        _decide(arena, features, at, ahead, k)
    ahead.near[k, ahead.number[k]], ahead.gaps[k, ahead.number[k]] = row, squared
    ahead.number[k] += 1
    ahead.limit[k] = min(ahead.limit[k], within(np.float64(squared), features.shape[1]))


@compiled
def _decide(arena: Arena, features: Matrix, at: int, ahead: Ahead, k: int) -> float:
    """Returns the distance to the nearest vector so far."""
    distance = float(ahead.distance[k])
    for candidate in range(ahead.number[k]):
        if ahead.gaps[k, candidate] <= ahead.limit[k]:
            distance = min(distance, exact(arena.rows, ahead.near[k, candidate], features, at))
    ahead.distance[k], ahead.number[k] = distance, 0
    ahead.limit[k] = within(distance * distance, features.shape[1])
    return distance


@compiled
def of_class(arena: Arena, chains: Chains, queries: QueryArrays, position: int, parity: int, ahead: Ahead) -> float:
    """Returns the distance of the query at ``position`` to the nearest vector of its pool, whose current list is that
    of this ``parity``."""
    span, at, pool = ahead.span, queries.order[position], queries.pool[queries.order[position]]
    count = chains.lists[pool, parity * FIELDS + COUNT]
    if position >= span[1]:
        span[0], span[1], span[2] = position, position + _look_ahead(arena, chains, queries, position, ahead), count
    start, k = chains.lists[pool, parity * FIELDS + START], position - span[0]
    _look_at(arena, start + span[2], start + count, queries.features, at, ahead, k)  # those that joined since
    return _decide(arena, queries.features, at, ahead, k)
