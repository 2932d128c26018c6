"""The nearest rows of a reference to queries. Single precision excludes nearly all rows; double precision decides."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.compiled import approximate, compiled

CANDIDATES = 4
"""The number of rows that are compared exactly, one more than are found: one may be the query itself."""

_TILE = 32
_LANES = 32
_BLOCK = 4 * _LANES
"""This many rows of the reference are read again for each query of a tile, as they fit into the nearest cache."""
_AXES = 8
"""Axes that are added up together, as most of the time goes into reading sums."""
_UNIT = 2.0**-24
_TINY = 1e-40

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]


class Stored(NamedTuple):
    """The m rows of a reference for ``nearest_rows``: ``columns`` float32 (b, k, 128), block by block, axis by axis;
    ``squares`` float32 (b, 128), the squares beside the axes, infinite where there is no row; ``points`` float32 (m, k)
    and ``beside`` float64 (m,). k is a multiple of 8."""

    columns: Rows
    squares: Rows
    points: Rows
    beside: Floats

    @classmethod
    def of(cls, points: Rows, beside: Floats) -> Stored:
        """Returns the rows ``points`` (m, j) and ``beside`` (m,)."""
        count, blocks, wide = len(points), -(-len(points) // _BLOCK), _whole(points.shape[1])
        rows, squares = np.zeros((blocks * _BLOCK, wide), np.float32), np.full(blocks * _BLOCK, np.inf, np.float32)
        rows[:count, : points.shape[1]], squares[:count] = points, beside**2
        columns = np.ascontiguousarray(rows.reshape(blocks, _BLOCK, wide).transpose(0, 2, 1))
        return cls(columns, squares.reshape(blocks, _BLOCK), rows[:count].copy(), beside.copy())


class _Best(NamedTuple):
    """The nearest rows so far of one query: ``keys`` float32 (4,), ascending, their squared distances; ``gaps`` float64
    (4,), those along the axes; ``chosen`` int64 (4,). ``least`` float32 (32,): the least distance in each lane."""

    keys: Rows
    gaps: Floats
    chosen: Array
    least: Rows


def _whole(axes: int) -> int:
    return -(-axes // _AXES) * _AXES


def nearest_rows(points: Rows, beside: Floats, stored: Stored, same: float, count: int) -> tuple[Floats, Array]:
    """Returns, of queries at ``points`` (n, j) and ``beside`` (n,), the distance float64 (n,) to the nearest row, 0 if
    there is none, and the ``count`` nearest rows, int64 (n, count), nearest first.

    Exact except among rows at the same distance to six digits, of which the first is taken. A row within ``same`` of
    the query is not counted, and comes last.
    """
    wide = np.zeros((len(points), stored.points.shape[1]), np.float32)
    wide[:, : points.shape[1]] = points
    distance, found = np.empty(len(points)), np.empty((len(points), min(count, len(stored.beside))), np.int64)
    _search(wide, beside, stored, same, distance, found)
    return distance, found


@compiled
def _search(points: Rows, beside: Floats, stored: Stored, same: float, distance: Floats, found: Array) -> None:
    """Fills ``distance`` (n,) and ``found`` (n, c) for ``points`` (n, k)."""
    near = np.empty((_TILE, *stored.squares.shape), np.float32)
    lanes = near.reshape(_TILE, -1, _LANES)
    best = _Best(
        np.empty(CANDIDATES, np.float32),
        np.empty(CANDIDATES),
        np.empty(CANDIDATES, np.int64),
        np.empty(_LANES, np.float32),
    )
    count = min(CANDIDATES, len(stored.beside))
    for start in range(0, len(points), _TILE):
        end = min(start + _TILE, len(points))
        _approach(points[start:end], stored.columns, stored.squares, near)
        for row in range(start, end):
            _choose(points[row], stored, lanes[row - start], best)
            _rank(beside[row], stored.beside, same, count, best)
            distance[row] = best.gaps[0] if best.gaps[0] < np.inf else 0.0
            found[row] = best.chosen[: found.shape[1]]


@approximate
def _approach(points: Rows, columns: Rows, squares: Rows, near: Rows) -> None:
    """Fills ``near`` (n, b, 128) with the squared distances from ``points`` (n, k) to ``columns`` (b, k, 128), plus
    ``squares`` (b, 128), to within k + 8 units of single precision, whatever the order of the sums, as no term is
    negative (Higham 2002, 3.1)."""
    for block in range(len(squares)):
        for row in range(len(points)):
            near[row, block] = squares[block]
        for at in range(0, points.shape[1], _AXES):
            for row in range(len(points)):
                p, q, r, s = points[row, at], points[row, at + 1], points[row, at + 2], points[row, at + 3]
                t, u, v, w = points[row, at + 4], points[row, at + 5], points[row, at + 6], points[row, at + 7]
                for lane in range(squares.shape[1]):
                    a = p - columns[block, at, lane]
                    b = q - columns[block, at + 1, lane]
                    c = r - columns[block, at + 2, lane]
                    d = s - columns[block, at + 3, lane]
                    e = t - columns[block, at + 4, lane]
                    f = u - columns[block, at + 5, lane]
                    g = v - columns[block, at + 6, lane]
                    h = w - columns[block, at + 7, lane]
                    near[row, block, lane] += a * a + b * b + c * c + d * d + e * e + f * f + g * g + h * h


@compiled
def _choose(point: Rows, stored: Stored, near: Rows, best: _Best) -> None:
    """Fills ``best`` with the rows nearest to ``point`` (k,), whose approximate squared distances are ``near`` (l, 32).
    Of rows whose exact ones are equal in single precision, the first are taken."""
    best.keys[:], best.gaps[:], best.chosen[:] = np.inf, np.inf, 0
    bound = np.float32(_fourth(near, best.least) * (1 + 8 * (len(point) + 8) * _UNIT) + _TINY)
    for lane in range(_LANES):
        if best.least[lane] > bound:
            continue
        for line in range(len(near)):
            row = line * _LANES + lane
            if near[line, lane] <= bound and row < len(stored.beside):
                gap, off = _gap(point, stored.points[row]), stored.beside[row]
                _insert(np.float32(gap + off * off), gap, row, best)


@compiled
def _fourth(near: Rows, least: Rows) -> float:
    """Fills ``least`` (32,) with the least of ``near`` (l, 32) in each lane, and returns the fourth of them, which four
    of all do not exceed."""
    lanes = len(least)  # Not a constant, which would be unrolled instead of vectorised.
    least[:] = np.inf
    for at in range(0, len(near), 4):
        for lane in range(lanes):
            one, two = min(near[at, lane], near[at + 1, lane]), min(near[at + 2, lane], near[at + 3, lane])
            least[lane] = min(least[lane], min(one, two))  # noqa: PLW3301 (three are not vectorised)
    one = two = three = four = np.float32(np.inf)
    for lane in range(lanes):
        four = min(four, least[lane])
        if four < three:
            three, four = four, three
        if three < two:
            two, three = three, two
        if two < one:
            one, two = two, one
    return float(four)


@compiled
def _gap(point: Rows, other: Rows) -> float:
    """Returns the squared distance of two points (k,)."""
    even, odd = 0.0, 0.0
    for axis in range(0, len(point), 2):
        one = np.float64(other[axis]) - np.float64(point[axis])
        two = np.float64(other[axis + 1]) - np.float64(point[axis + 1])
        even += one * one
        odd += two * two
    return even + odd


@compiled
def _insert(key: Any, gap: float, row: int, best: _Best) -> None:
    """Inserts a row in the order of keys, float32, then of rows, and drops the last."""
    keys, gaps, chosen = best.keys, best.gaps, best.chosen
    at = CANDIDATES
    while at > 0 and (key < keys[at - 1] or (key == keys[at - 1] and row < chosen[at - 1])):
        at -= 1
    for back in range(CANDIDATES - 1, at, -1):
        keys[back], gaps[back], chosen[back] = keys[back - 1], gaps[back - 1], chosen[back - 1]
    if at < CANDIDATES:
        keys[at], gaps[at], chosen[at] = key, gap, row


@compiled
def _rank(beside: float, others: Floats, same: float, count: int, best: _Best) -> None:
    """Turns the first ``count`` gaps into distances, infinite within ``same``, and sorts by them, then by row."""
    gaps, chosen = best.gaps, best.chosen
    for at in range(count):
        off = others[chosen[at]]
        apart = math.sqrt(gaps[at] + (off - beside) * (off - beside))
        gaps[at] = np.inf if apart <= same else math.sqrt(gaps[at] + off * off + beside * beside)
    for at in range(1, count):
        for back in range(at, 0, -1):
            gap, before = gaps[back], gaps[back - 1]
            if gap < before or (gap == before and chosen[back] < chosen[back - 1]):
                gaps[back], gaps[back - 1] = before, gap
                chosen[back], chosen[back - 1] = chosen[back - 1], chosen[back]
