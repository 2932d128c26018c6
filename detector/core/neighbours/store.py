"""Vectors of one dimension in lists that are contiguous, so that a search reads memory in order.

A list is a block of rows in one arena. A full list moves to a block a quarter larger, and blocks that are given up are
taken again by lists of that size, so that at most a fifth of a list is unused.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.compiled import compiled

NONE = -1
START, COUNT, SIZE = 0, 1, 2
FIELDS = 3
EMPTY = (NONE, 0, NONE)
"""Of each list: the first row of its block, the vectors in it, and the size of the block as a position in SIZES."""

_END = 0xFFFFFFFF
LANES = 64
"""The rows of a group of projections, so that one of a list's first rows may be any of them."""
_MADE, _TAKEN = -2, -1
_GROWTH, _SMALL_GROWTH = 8, 2
"""The arena grows by this part of itself, and while it is small by this one."""
_SMALL = 64 << 20


def _sizes() -> Array:
    sizes = [1]
    while sizes[-1] < 1 << 31:
        sizes.append(sizes[-1] + max(sizes[-1] // 4, 1))
    return np.array(sizes, np.int64)


SIZES = _sizes()


class Arena(NamedTuple):
    """``rows`` float32 (capacity, d) and the same memory as ``words`` uint32; ``notes`` float32 (capacity,), the
    model's answers; ``points`` float32 (capacity / 64, p, 64), projections, by group of rows and lane in it.

    ``free`` int64: the first free block of each size, -1 for none, then how many rows blocks were made of, and how many
    blocks are taken. A free block names the next one in its first word."""

    rows: NDArray[np.float32]
    words: NDArray[np.uint32]
    notes: NDArray[np.float32]
    points: NDArray[np.float32]
    free: NDArray[np.int64]


class VectorStore:
    """``width``: the numbers of a projection that are kept with each vector."""

    def __init__(self, dimension: int, width: int) -> None:
        self.dimension, self.width = dimension, width
        self._rows = np.empty((0, dimension), np.float32)
        self._notes = np.empty(0, np.float32)
        self._points = np.empty((0, width, LANES), np.float32)
        self._free = np.full(len(SIZES) + 2, NONE, np.int64)
        self._free[[_MADE, _TAKEN]] = 0

    @property
    def arena(self) -> Arena:
        """The arrays; valid until ``grow``."""
        return Arena(self._rows, self._rows.view(np.uint32), self._notes, self._points, self._free)

    @property
    def is_empty(self) -> bool:
        """Whether no list has a block."""
        return bool(self._free[_TAKEN] == 0)

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes + self._notes.nbytes + self._points.nbytes

    @property
    def row_bytes(self) -> int:
        """The bytes of one vector with what is kept beside it."""
        return 4 * (self.dimension + 1 + self.width)

    def grow(self, rows: int) -> None:
        """Makes room for a block of this many ``rows``. Nobody may hold an array of the arena meanwhile: the memory
        is extended in place, since a copy would need all of it twice."""
        held = len(self._rows)
        part = _SMALL_GROWTH if self.nbytes < _SMALL else _GROWTH
        capacity = max(int(self._free[_MADE]) + rows, held + held // part)
        capacity = -(-capacity // LANES) * LANES if self.width else capacity
        self._rows.resize((capacity, self.dimension), refcheck=False)
        self._notes.resize(capacity, refcheck=False)
        self._points.resize((-(-capacity // LANES), self.width, LANES), refcheck=False)


@compiled
def room_for(arena: Arena, lists: NDArray[np.int64], pool: int, parity: int) -> int:
    """Sees to it that the list has room for one more vector, and returns 0; or, where the arena has none, the number
    of rows that it lacks."""
    at = parity * FIELDS
    size = lists[pool, at + SIZE]
    count = lists[pool, at + COUNT]
    if size != NONE and count < SIZES[size]:
        return 0
    start = _allocate(arena, size + 1)
    if start == NONE:
        return int(SIZES[size + 1])
    if size != NONE:
        before = lists[pool, at + START]
        arena.rows[start : start + count] = arena.rows[before : before + count]
        arena.notes[start : start + count] = arena.notes[before : before + count]
        _move_points(arena.points, before, start, count)
        _release(arena, before, size)
    lists[pool, at + START] = start
    lists[pool, at + COUNT] = count
    lists[pool, at + SIZE] = size + 1
    return 0


@compiled
def _move_points(points: NDArray[np.float32], before: int, start: int, count: int) -> None:
    for i in range(count if points.shape[1] else 0):
        source, place = before + i, start + i
        for axis in range(points.shape[1]):
            points[place // LANES, axis, place % LANES] = points[source // LANES, axis, source % LANES]


@compiled
def extend(
    arena: Arena,
    lists: NDArray[np.int64],
    pool: NDArray[np.int64],
    block: NDArray[np.int64],
    vectors: NDArray[np.float32],
    notes: NDArray[np.float32],
    first: int,
) -> tuple[int, int]:
    """Adds vectors from ``first`` on; returns which it did not add, and how many rows of room the arena lacks."""
    for i in range(first, len(pool)):
        parity = block[i] % 2
        lacking = room_for(arena, lists, pool[i], parity)
        if lacking:
            return i, lacking
        at = parity * FIELDS
        row = lists[pool[i], at + START] + lists[pool[i], at + COUNT]
        arena.rows[row] = vectors[i]
        arena.notes[row] = notes[i]
        lists[pool[i], at + COUNT] += 1
    return len(pool), 0


@compiled
def drop_all(arena: Arena, lists: NDArray[np.int64], pools: NDArray[np.int64]) -> None:
    """Drops all vectors of ``pools``."""
    for pool in pools:
        drop(arena, lists, pool, 0)
        drop(arena, lists, pool, 1)


@compiled
def drop(arena: Arena, lists: NDArray[np.int64], pool: int, parity: int) -> None:
    """Drops all vectors of a list."""
    at = parity * FIELDS
    if lists[pool, at + SIZE] != NONE:
        _release(arena, lists[pool, at + START], lists[pool, at + SIZE])
    lists[pool, at + COUNT] = 0
    lists[pool, at + SIZE] = NONE


@compiled
def _allocate(arena: Arena, size: int) -> int:
    start = arena.free[size]
    arena.free[_TAKEN] += 1
    if start != NONE:
        following = arena.words[start, 0]
        arena.free[size] = NONE if following == _END else np.int64(following)
        return int(start)
    start = arena.free[_MADE]
    if start + SIZES[size] > len(arena.rows):
        arena.free[_TAKEN] -= 1
        return NONE
    arena.free[_MADE] = start + SIZES[size]
    return int(start)


@compiled
def _release(arena: Arena, start: int, size: int) -> None:
    following = arena.free[size]
    arena.words[start, 0] = _END if following == NONE else np.uint32(following)
    arena.free[size] = start
    arena.free[_TAKEN] -= 1
