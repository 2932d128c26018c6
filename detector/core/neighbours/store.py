"""Vectors of one dimension in lists that are contiguous, so that a search reads memory in order.

A list is a block of rows in one arena. A full list moves to a block about a quarter larger. Its old block is free, and
the next list that needs one of that size takes it. When too much of the arena is free blocks, all lists are moved
together before the arena grows.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import allocating, compiled

_HUGE = 4 << 20
"""From this size on the system may use huge pages, so that a search misses fewer addresses."""


Matrix = NDArray[np.float32]
Lists = NDArray[np.int64]
"""int64 (pools, 2 * FIELDS): of each pool the lists of the even and of the odd blocks."""


class Memory:
    """``floats`` float32 (n,): all of it, zero at first. Pages take no room before they are written to."""

    def __init__(self) -> None:
        self._map: mmap.mmap | None = None

    @property
    def floats(self) -> Matrix:
        """A view; ``grow`` raises BufferError while one exists."""
        return np.empty(0, np.float32) if self._map is None else np.frombuffer(self._map, np.float32)

    def grow(self, floats: int) -> None:
        """Makes it at least ``floats`` long."""
        size = max(4 * floats, mmap.PAGESIZE)
        if self._map is None:
            self._map = _mapped(size)
        elif size > len(self._map):
            self._map = _grown(self._map, size)
        if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)


def _mapped(size: int) -> mmap.mmap:
    # What is behind a shared map would not grow with it.
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _grown(held: mmap.mmap, size: int) -> mmap.mmap:
    try:
        held.resize(size)
    except (SystemError, OSError):  # the system cannot, as macOS
        grown = _mapped(size)
        grown[: len(held)] = held[:]
        held.close()
        return grown
    return held


NONE = -1
START, COUNT, SIZE = 0, 1, 2
FIELDS = 3
EMPTY = (NONE, 0, NONE)
"""Of each list: the first row of its block, the vectors in it, and the size of the block as a position in SIZES."""

_END = 0xFFFFFFFF
LANES = 16
"""The rows of a group of projections, so that one of a list's first rows may be any of them."""
_MADE, _TAKEN = -2, -1
_GROWTH = 8
"""The arena grows by one part in this many."""
_SMALL, _GAPS_OF_SMALL, _GAPS = 64 << 20, 2, 4
"""The arena is sparse when more than one part in this many is free blocks. An arena of fewer than ``_SMALL`` bytes may
have more of them, because moving all lists costs more than the memory is worth."""

_sizes = [1]
while _sizes[-1] < 1 << 31:
    _sizes.append(_sizes[-1] + max(_sizes[-1] // 4, 1))
SIZES = np.array(_sizes, np.int64)


class Arena(NamedTuple):
    """``rows`` float32 (capacity, d) and the same memory as ``words`` uint32; ``notes`` float32 (capacity,), the
    model's answers; ``points`` float32 (capacity / 16, p, 16), projections, by group of rows and lane in it.

    ``free`` int64: the first free block of each size, -1 for none, then how many rows blocks were made of, and how many
    rows are in blocks that lists have. A free block names the next one in its first word."""

    rows: Matrix
    words: NDArray[np.uint32]
    notes: Matrix
    points: Matrix
    free: NDArray[np.int64]


class VectorStore:
    """``width``: the numbers of a projection that are kept with each vector."""

    def __init__(self, dimension: int, width: int) -> None:
        self.dimension, self.width = dimension, width
        self._capacity = 0
        self._rows, self._notes, self._points = Memory(), Memory(), Memory()
        self._free = np.full(len(SIZES) + 2, NONE, np.int64)
        self._free[[_MADE, _TAKEN]] = 0

    @property
    def arena(self) -> Arena:
        """The arrays, which are views; none may exist when ``grow`` is called."""
        rows = self._rows.floats[: self._capacity * self.dimension].reshape(self._capacity, self.dimension)
        points = self._points.floats[: self._groups * self.width * LANES].reshape(self._groups, self.width, LANES)
        return Arena(rows, rows.view(np.uint32), self._notes.floats[: self._capacity], points, self._free)

    @property
    def is_empty(self) -> bool:
        """Whether no list has a block."""
        return bool(self._free[_TAKEN] == 0)

    @property
    def nbytes(self) -> int:
        return self._capacity * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """The bytes of one vector with its note and projection."""
        return 4 * (self.dimension + 1 + self.width)

    @property
    def is_sparse(self) -> bool:
        """Whether too much of the arena is free blocks."""
        part = _GAPS_OF_SMALL if self.nbytes < _SMALL else _GAPS
        return bool(part * (self._free[_MADE] - self._free[_TAKEN]) > self._free[_MADE])

    def compact(self, lists: Lists, pools: NDArray[np.int64]) -> None:
        """Moves the blocks of ``pools``, which are all that have blocks here, to the start of the arena."""
        at = np.stack((np.repeat(pools, 2), np.tile((0, FIELDS), len(pools))), axis=1)
        at = at[lists[at[:, 0], at[:, 1] + SIZE] != NONE]
        _compact(self.arena, lists, at[np.argsort(lists[at[:, 0], at[:, 1] + START])])

    def has_room(self, rows: int) -> bool:
        """Returns whether a block of this many ``rows`` can be made."""
        return bool(self._free[_MADE] + rows <= self._capacity)

    def grow(self, rows: int) -> None:
        """Makes room for a block of this many ``rows``. No view of the arena may exist."""
        self._capacity = max(int(self._free[_MADE]) + rows, self._capacity + self._capacity // _GROWTH)
        self._rows.grow(self._capacity * self.dimension)
        self._notes.grow(self._capacity)
        self._points.grow(self._groups * self.width * LANES)

    @property
    def _groups(self) -> int:
        return -(-self._capacity // LANES) if self.width else 0


@allocating
def room_for(arena: Arena, lists: Lists, pool: int, parity: int) -> int:
    """Makes room in the list for one more vector and returns 0, or the number of rows that the arena lacks for it."""
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


@allocating
def _compact(arena: Arena, lists: Lists, chosen: NDArray[np.int64]) -> None:
    """Moves the ``chosen`` lists int64 (n, 2), pool and first field, in ascending order of their blocks."""
    made = 0
    for i in range(len(chosen)):
        pool, at = chosen[i]
        before, count = lists[pool, at + START], lists[pool, at + COUNT]
        for row in range(count if made < before else 0):
            arena.rows[made + row] = arena.rows[before + row]
            arena.notes[made + row] = arena.notes[before + row]
        _move_points(arena.points, before, made, count)
        lists[pool, at + START] = made
        made += SIZES[lists[pool, at + SIZE]]
    arena.free[:-2] = NONE
    arena.free[_MADE] = made


@compiled
def _move_points(points: Matrix, before: int, start: int, count: int) -> None:
    for i in range(count if points.shape[1] else 0):
        source, target = before + i, start + i
        for axis in range(points.shape[1]):
            points[target // LANES, axis, target % LANES] = points[source // LANES, axis, source % LANES]


@compiled
def extend(
    arena: Arena,
    lists: Lists,
    pool: NDArray[np.int64],
    block: NDArray[np.int64],
    vectors: Matrix,
    notes: Matrix,
    first: int,
) -> tuple[int, int]:
    """Adds vectors from ``first`` on; returns which it did not add, and how many rows of room the arena lacks."""
    for i in range(first, len(pool)):
        lacking = room_for(arena, lists, pool[i], block[i] % 2)
        if lacking:
            return i, lacking
        push(arena, lists, pool[i], block[i] % 2, vectors[i], notes[i])
    return len(pool), 0


@compiled
def push(arena: Arena, lists: Lists, pool: int, parity: int, vector: Matrix, note: np.float32) -> int:
    """Adds a vector to a list that has room for it, and returns its row."""
    at = parity * FIELDS
    row = int(lists[pool, at + START] + lists[pool, at + COUNT])
    for feature in range(arena.rows.shape[1]):
        arena.rows[row, feature] = vector[feature]
    arena.notes[row] = note
    lists[pool, at + COUNT] += 1
    return row


@compiled
def drop_all(arena: Arena, lists: Lists, pools: NDArray[np.int64]) -> None:
    """Drops all vectors of ``pools``."""
    for pool in pools:
        drop(arena, lists, pool, 0)
        drop(arena, lists, pool, 1)


@compiled
def drop(arena: Arena, lists: Lists, pool: int, parity: int) -> None:
    """Drops all vectors of a list."""
    at = parity * FIELDS
    if lists[pool, at + SIZE] != NONE:
        _release(arena, lists[pool, at + START], lists[pool, at + SIZE])
    lists[pool, at + COUNT] = 0
    lists[pool, at + SIZE] = NONE


@compiled
def _allocate(arena: Arena, size: int) -> int:
    start = arena.free[size]
    arena.free[_TAKEN] += SIZES[size]
    if start != NONE:
        following = arena.words[start, 0]
        arena.free[size] = NONE if following == _END else np.int64(following)
        return int(start)
    start = arena.free[_MADE]
    if start + SIZES[size] > len(arena.rows):
        arena.free[_TAKEN] -= SIZES[size]
        return NONE
    arena.free[_MADE] = start + SIZES[size]
    return int(start)


@compiled
def _release(arena: Arena, start: int, size: int) -> None:
    following = arena.free[size]
    arena.words[start, 0] = _END if following == NONE else np.uint32(following)
    arena.free[size] = start
    arena.free[_TAKEN] -= SIZES[size]
