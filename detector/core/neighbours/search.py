"""The nearest vectors of some lists, exactly. Of several at one distance it is the same one in any order of theirs.

All lists of a query are searched in one call: a call with arrays costs as much as twenty vectors.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.neighbours.gaps import LEAST32, UNIT32, exact, gap
from detector.core.neighbours.store import LANES, NONE, Arena

Matrix = NDArray[np.float32]


class Scratch(NamedTuple):
    """The lists to search, ``runs`` int64 (m, 2): first row and number of rows. Of one list: the vectors ``near`` int64
    to a query, by row, and their squared distances ``gaps`` float32; and the squared distances of all projections to
    its projection, ``bounds`` float32, which begin with the first row of the group that the list begins in."""

    runs: NDArray[np.int64]
    near: NDArray[np.int64]
    gaps: NDArray[np.float32]
    bounds: NDArray[np.float32]

    @classmethod
    def of(cls, rows: int, runs: int) -> Scratch:
        """Returns scratch for ``runs`` lists of at most ``rows`` each."""
        near, gaps = np.empty(rows, np.int64), np.empty(rows, np.float32)
        return cls(np.empty((runs, 2), np.int64), near, gaps, np.empty(rows + 2 * LANES, np.float32))


@compiled
def nearest_of(
    arena: Arena,
    queries: Matrix,
    points: Matrix,
    length: float,
    at: int,
    scratch: Scratch,
    alike: int,
    total: int,
) -> tuple[float, float, int]:
    """Returns the distance to the nearest vector of the first ``alike`` lists, that of all ``total``, and the row of
    the latter; inf and -1 for none. Vectors whose projections are farther from that of the query, in ``points`` (n, p)
    and ``length`` long, than the nearest so far are left out, unless ``length`` is negative."""
    rows, columns, runs = arena.rows, arena.points, scratch.runs
    near, gaps, bounds = scratch.near, scratch.gaps, scratch.bounds
    # A float32 sum of d squares is off by at most (d + 2) units; the difference and the square add two.
    slack, least = 1.0 + 2 * (queries.shape[1] + 8) * UNIT32, queries.shape[1] * LEAST32
    bound, nearest, of_alike = inf, NONE, inf
    for run in range(total):
        if run == alike:
            of_alike = bound
        start, count, number = runs[run, 0], runs[run, 1], 0
        shift = start % LANES
        if length >= 0:
            _bound_all(columns, start - shift, shift + count, points, at, bounds)
        limit = bound * bound * slack + least
        reach = _reach(limit, length)
        for row in range(start, start + count):
            if length >= 0 and bounds[shift + row - start] > reach:
                continue
            squared = gap(rows, row, queries, at)
            if squared <= limit:
                near[number], gaps[number] = row, squared
                number += 1
                within = np.float64(squared) * slack + least
                if within < limit:
                    limit, reach = within, _reach(within, length)
        for candidate in range(number):
            if gaps[candidate] <= limit:
                bound, nearest = _nearer(arena, near[candidate], queries, at, bound, nearest)
    return (of_alike if alike < total else bound), bound, nearest


@compiled
def _bound_all(
    columns: NDArray[np.float32], start: int, count: int, points: Matrix, at: int, bounds: NDArray[np.float32]
) -> None:
    """Sets ``bounds`` to the squared distances of projections to the ``at``-th query, from row ``start`` on, which a
    group begins with, whole groups at a time: lane beside lane, as the processor does several at once."""
    for group in range((count + LANES - 1) // LANES):
        bound = bounds[group * LANES : group * LANES + LANES]
        for lane in range(LANES):
            bound[lane] = np.float32(0.0)
        for axis in range(points.shape[1]):
            query, column = points[at, axis], columns[start // LANES + group, axis]
            for lane in range(LANES):
                step = column[lane] - query
                bound[lane] += step * step


@compiled
def _nearer(arena: Arena, row: int, queries: Matrix, at: int, bound: float, nearest: int) -> tuple[float, int]:
    distance = exact(arena.rows, row, queries, at)
    if distance < bound or (distance == bound and (nearest == NONE or _precedes(arena, row, nearest))):
        return distance, row
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
