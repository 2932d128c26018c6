"""The nearest vector of a list, exactly. Of several at one distance it is the same one in whatever order they came."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from detector.core.compiled import compiled
from detector.core.neighbours.gaps import LEAST32, UNIT32, exact, gap
from detector.core.neighbours.store import COUNT, FIELDS, NONE, START, Arena

Matrix = NDArray[np.float32]


@compiled
def nearest_in_list(
    arena: Arena,
    lists: NDArray[np.int64],
    place: int,
    queries: Matrix,
    points: Matrix,
    at: int,
    projected: bool,
    gaps: NDArray[np.float32],
    bound: float,
    nearest: int,
) -> tuple[float, int]:
    """Returns the distance to the nearest vector and its row, given that row ``nearest`` (-1 for none) is at the
    distance ``bound``. The list is the ``place % 2``-th of pool ``place // 2``. If ``projected``, vectors
    whose projections are farther than the bound from that of the query, in ``points`` (n, p), are left out."""
    start = lists[place // 2, place % 2 * FIELDS + START]
    count = lists[place // 2, place % 2 * FIELDS + COUNT]
    dimension = queries.shape[1]
    # A float32 sum of d squares is off by at most (d + 2) units; the difference and the square add two.
    slack = 1.0 + 2 * (dimension + 8) * UNIT32
    least = dimension * LEAST32
    length = 0.0
    for j in range(points.shape[1]):
        length += np.float64(points[at, j]) * np.float64(points[at, j])
    length = sqrt(length)
    limit = bound * bound * slack + least
    reach = _reach(limit, length)
    for i in range(count):
        if projected and gap(arena.points, start + i, points, at) > reach:
            gaps[i] = inf
            continue
        gaps[i] = gap(arena.rows, start + i, queries, at)
        within = np.float64(gaps[i]) * slack + least
        if within < limit:
            limit = within
            reach = _reach(limit, length)
    for i in range(count):
        if gaps[i] <= limit:
            distance = exact(arena.rows, start + i, queries, at)
            if distance < bound or (distance == bound and (nearest == NONE or _precedes(arena, start + i, nearest))):
                bound, nearest = distance, start + i
    return bound, nearest


@compiled
def _reach(limit: float, length: float) -> float:
    """Returns the squared distance of projections beyond which no vector is within the squared distance ``limit`` of a
    query whose projection is ``length`` long: each was rounded by a share of its own length."""
    distance = sqrt(limit)
    reach = distance + 64 * UNIT32 * (2 * length + distance)
    return reach * reach * (1.0 + 64 * UNIT32) + 64 * LEAST32


@compiled
def _precedes(arena: Arena, row: int, other: int) -> bool:
    """Returns whether the note and the vector of ``row`` come before those of ``other``, compared by their bytes."""
    first, second = arena.notes[row : row + 1].view(np.uint32)[0], arena.notes[other : other + 1].view(np.uint32)[0]
    if first != second:
        return bool(_swapped(first) < _swapped(second))
    for j in range(arena.words.shape[1]):
        first, second = arena.words[row, j], arena.words[other, j]
        if first != second:
            return bool(_swapped(first) < _swapped(second))
    return False


@compiled
def _swapped(word: np.uint32) -> int:
    value = int(word)
    return ((value & 0xFF) << 24) | ((value & 0xFF00) << 8) | ((value >> 8) & 0xFF00) | (value >> 24)
