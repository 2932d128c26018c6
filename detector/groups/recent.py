"""The recent queries of all accounts to one model version, and the nearest of them to a query, in bounded memory.

Queries with the same two nearest reference rows are kept together, in pages of 32: the latest 1,024 at most. A query
is compared with those kept for each pair of its own four nearest reference rows, as a near query has two of them. Once
memory is full the page that was begun first is overwritten. Within a page the leading axes stand side by side, and then
the features query by query: 16 bits along each axis exclude nearly all queries, page by page, with few bytes read, and
double precision on all features decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import allocating, compiled, plain
from detector.core.reference.reference import Reference
from detector.core.state.arrays import Array

BYTES = 33_554_432
"""The most bytes of recent queries of one model version."""
MOST_SOUGHT = 1_024
"""The most queries that are kept together, the latest: a thief may send all of theirs to one place."""
NOBODY = -1
_LANES = 32
_AXES = 8
_MOST_AXES = 32
_MOST_PAGES = MOST_SOUGHT // _LANES
_PAGES_A_BUCKET = 2
_DUPLICATE = 1e-3
_ROUNDING = np.float32(1 + 1e-5)
_HALF_STEP = 0.51
"""How far a coordinate may be from its whole number, with the rounding of single precision."""
_REACH, _FARTHEST = 16.0, 32_767
"""Coordinates of 16 bits reach this many times as far as any of the reference; farther ones count as that far."""
_EPSILON = 1e-9
_NONE = -1
_HASH_MULTIPLIER = 2_654_435_761

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]
Short = NDArray[np.int32]
Coordinates = NDArray[np.int16]


class Nearest(NamedTuple):
    """Of n queries, the nearest recent query of another account that is not equal: ``step`` float32 (n, d), from there
    to the query; ``distance`` float64 (n,), inf without any; ``partner`` and ``label`` int64 (n,), that account, -1
    without any, and that query's label."""

    step: Rows
    distance: Floats
    partner: Array
    label: Array


class RecentQueries:
    """The latest queries of all accounts, in ``nbytes`` bytes, scaled and projected as for ``reference``."""

    def __init__(self, reference: Reference, nbytes: int = BYTES) -> None:
        self._same = _DUPLICATE * reference.median_distance
        reach = _REACH * max(float(np.abs(reference.points).max()), float(reference.residual.max()), _EPSILON)
        self._unit = reach / _FARTHEST
        self._pages = _Pages.of(reference.dimension, _width(reference.points.shape[1]), nbytes)

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self._pages)

    def __len__(self) -> int:
        return int(self._pages.filled.sum())

    def dump(self) -> dict[str, Any]:
        """Returns all pages in use, and their order."""
        used = np.flatnonzero(self._pages.bucket != _NONE)
        columns = {name: getattr(self._pages, name) for name in _Pages._fields}
        return columns | {"used": used} | {name: columns[name][used] for name in _ROWS}

    def load(self, state: Mapping[str, Any]) -> None:
        """Replaces everything with what ``dump`` returned; forgets all queries if there was other room for them."""
        pages = self._pages
        same = all(len(state[name]) == len(getattr(pages, name)) for name in ("bucket", "newest"))
        if same and all(_alike(state.get(name), getattr(pages, name)) for name in _ROWS):
            for name in _Pages._fields:
                getattr(pages, name)[state["used"] if name in _ROWS else ...] = state[name]

    def nearest(self, features: Rows, points: Rows, cells: Array, account: Array, label: Array) -> Nearest:
        """Returns the nearest queries to those given, in stream order, and remembers them. ``features`` float32 (n, d),
        scaled; ``points`` float32 (n, k + 1), their projection and residual; ``cells`` int64 (n, c), the nearest
        reference rows, nearest first; ``account`` and ``label`` int64 (n,): numbers of the sender and the class.

        A query that equals a recent one of another account is not remembered once more."""
        count, width = len(features), self._pages.leading.shape[1]
        found = Nearest(np.zeros_like(features), np.full(count, np.inf), np.full(count, NOBODY), np.full(count, NOBODY))
        leading = np.zeros((count, width), np.float32)
        axes = min(points.shape[1], width) - 1
        leading[:, 0], leading[:, 1 : axes + 1] = points[:, -1], points[:, :axes]
        leading = np.clip(leading / np.float32(self._unit), -_FARTHEST, _FARTHEST)
        whose = np.column_stack((account, label)).astype(np.int32)
        _search(plain(features), leading, plain(cells), whose, self._pages, self._unit, self._same**2, found)
        return found


def _width(axes: int) -> int:
    """Returns how many numbers exclude a query: its residual and leading axes, a multiple of 8."""
    return min(-(-(axes + 1) // _AXES) * _AXES, _MOST_AXES)


class _Pages(NamedTuple):
    """``leading`` int16 (p, w, 32): the numbers that exclude, the largest where there is no row; ``features`` float32
    (p, 32, d); ``whose`` int32 (p, 32, 2): account and label.

    Per page, int32 (p,): its ``bucket``, -1 if it is unused; how many rows it is ``filled`` with; the pages ``before``
    and ``after`` it in the order of their beginning, and the ``older`` and ``newer`` ones of its bucket. ``ends`` int32
    (2,): first and last of all. Per bucket, int32 (b,): its ``newest`` and ``oldest`` page, and how many it ``holds``.
    -1 stands for none."""

    leading: Coordinates
    features: Rows
    whose: Short
    bucket: Short
    filled: Short
    before: Short
    after: Short
    older: Short
    newer: Short
    ends: Short
    newest: Short
    oldest: Short
    holds: Short

    @classmethod
    def of(cls, dimension: int, width: int, nbytes: int) -> _Pages:
        """Returns unused pages, as many as fit into ``nbytes``, but one at least."""
        per_page = _LANES * (2 * width + 4 * dimension + 8) + 4 * 6
        buckets = 1 << max((nbytes // per_page // _PAGES_A_BUCKET).bit_length(), 0)
        count = max((nbytes - 4 * (2 + 3 * buckets)) // per_page, 1)
        order, nothing = np.arange(count, dtype=np.int32), np.full(count, _NONE, np.int32)
        return cls(
            np.zeros((count, width, _LANES), np.int16),
            np.zeros((count, _LANES, dimension), np.float32),
            np.zeros((count, _LANES, 2), np.int32),
            nothing.copy(),
            np.zeros(count, np.int32),
            order - np.int32(1),
            np.append(order[1:], np.int32(_NONE)),
            nothing.copy(),
            nothing.copy(),
            np.array([0, count - 1], np.int32),
            np.full(buckets, _NONE, np.int32),
            np.full(buckets, _NONE, np.int32),
            np.zeros(buckets, np.int32),
        )


_ROWS = ("leading", "features", "whose")
"""The columns of pages that hold queries."""


def _alike(rows: Any, expected: NDArray[Any]) -> bool:
    """Returns whether ``rows`` of a dump are such as ``expected``; those of older versions are not."""
    return rows is not None and rows.dtype == expected.dtype and rows.shape[1:] == expected.shape[1:]


@allocating
def _search(
    features: Rows, leading: Rows, cells: Array, whose: Short, kept: _Pages, unit: float, same: float, found: Nearest
) -> None:
    """Row after row, fills ``found`` and keeps the row. ``unit``: that of ``leading``. ``same``: the squared distance
    of equal queries."""
    places = np.empty(cells.shape[1] ** 2, np.int64)
    pages = np.empty(len(places) * _MOST_PAGES, np.int64)
    near, blur = np.empty((len(pages), _LANES), np.float32), _HALF_STEP * math.sqrt(leading.shape[1])
    for row in range(len(features)):
        best, chosen, known, most = math.inf, _NONE, False, np.float32(np.inf)
        count = _find_pages(_find_buckets(row, cells, len(kept.newest), places), places, kept, pages)
        for at in range(count):
            _approach(leading, row, kept.leading, pages[at], 0, near[at])
        for at in range(count):
            page, by_axes = pages[at], near[at]
            if _is_open(leading, row, kept.leading, page, most, by_axes):
                best, chosen, known, most = _nearest(
                    features,
                    row,
                    whose[row, 0],
                    kept.features,
                    kept.whose,
                    page,
                    kept.filled[page],
                    by_axes,
                    blur,
                    unit,
                    same,
                    best,
                    chosen,
                    known,
                    most,
                )
        if chosen >= 0:
            page, lane = chosen // _LANES, chosen % _LANES
            found.distance[row] = math.sqrt(best)
            found.partner[row], found.label[row] = kept.whose[page, lane, 0], kept.whose[page, lane, 1]
            for at in range(features.shape[1]):
                found.step[row, at] = features[row, at] - kept.features[page, lane, at]
        if not known:
            _keep(features, leading, row, whose, places[0], kept)


@compiled
def _find_buckets(row: int, cells: Array, count: int, found: Array) -> int:
    """Fills ``found`` with the buckets, of ``count``, of all pairs of the ``cells`` (n, c) of ``row``, the nearest
    first; returns how many there are."""
    pairs = 0
    for second in range(min(1, cells.shape[1] - 1), cells.shape[1]):
        for first in range(max(second, 1)):
            low, high = min(cells[row, first], cells[row, second]), max(cells[row, first], cells[row, second])
            found[pairs] = (((low << 20) + high) * _HASH_MULTIPLIER >> 20) % count
            pairs += 1
    return pairs


@compiled
def _find_pages(count: int, places: Array, kept: _Pages, pages: Array) -> int:
    """Fills ``pages`` with those of the first ``count`` buckets of ``places``; returns how many there are."""
    found = 0
    for at in range(count):
        page = kept.newest[places[at]]
        while page >= 0:
            pages[found] = page
            found += 1
            page = kept.older[page]
    return found


@compiled
def _is_open(leading: Rows, row: int, kept: Coordinates, page: int, most: np.float32, near: Rows) -> bool:
    """Returns whether any row of ``page`` may be within ``most`` of ``row``; ``near`` (32,) has the squared
    distances along the first axes, and then along more."""
    for axis in range(_AXES, kept.shape[1], _AXES):
        if not _any_within(near, most):
            return False
        _approach(leading, row, kept, page, axis, near)
    return _any_within(near, most)


@compiled
def _approach(leading: Rows, row: int, kept: Coordinates, page: int, first: int, near: Rows) -> None:
    """Adds to ``near`` (32,) the squared distances of ``row`` of ``leading`` (n, w) to the rows of ``page`` along 8
    axes from the ``first`` on; sets them if that is 0."""
    lanes = len(near)  # Not a constant, which would not be vectorised.
    if first == 0:
        for lane in range(lanes):
            near[lane] = np.float32(0)
    for axis in range(first, first + _AXES, 4):
        p, q, r, s = leading[row, axis], leading[row, axis + 1], leading[row, axis + 2], leading[row, axis + 3]
        for lane in range(lanes):
            a, b = p - np.float32(kept[page, axis, lane]), q - np.float32(kept[page, axis + 1, lane])
            c, d = r - np.float32(kept[page, axis + 2, lane]), s - np.float32(kept[page, axis + 3, lane])
            near[lane] += (a * a + b * b) + (c * c + d * d)


@compiled
def _any_within(near: Rows, most: np.float32) -> bool:
    within = 0
    for lane in range(len(near)):
        within += near[lane] <= most
    return within > 0


@compiled
def _nearest(
    rows: Rows,
    row: int,
    account: int,
    features: Rows,
    whose: Short,
    page: int,
    filled: int,
    near: Rows,
    blur: float,
    unit: float,
    same: float,
    best: float,
    chosen: int,
    known: bool,
    most: np.float32,
) -> tuple[float, int, bool, np.float32]:
    """Returns the squared distance of ``row`` to the nearest of the ``filled`` queries on ``page`` of another account,
    and its place, or those given if it is no nearer; whether an equal one is ``known``; and at ``most`` how far such a
    one is in ``near`` (32,): squared distances along some axes in ``unit``, give or take ``blur`` before they are
    squared, which are used up."""
    for lane in range(filled):
        if whose[page, lane, 0] == account:
            near[lane] = np.inf
    for _ in range(filled):
        lane = _least(near, filled)
        if near[lane] == np.inf or near[lane] > most:
            break
        near[lane] = np.inf
        gap = _gap(rows, row, features, page, lane, best)
        if gap <= same:
            known = True
        elif gap < best:
            best, chosen = gap, page * _LANES + lane
            most = np.float32((math.sqrt(best) / unit + blur) ** 2) * _ROUNDING
    return best, chosen, known, most


@compiled
def _least(near: Rows, filled: int) -> int:
    """Returns the first of the least among the first ``filled`` of ``near``."""
    least = 0
    for at in range(1, filled):
        if near[at] < near[least]:
            least = at
    return least


@compiled
def _gap(rows: Rows, row: int, features: Rows, page: int, lane: int, most: float) -> float:
    """Returns the squared distance of ``row`` to one on ``page``, or a part of it that is at least ``most``."""
    gap, at, last = 0.0, 0, rows.shape[1] - 8
    while at <= last and gap < most:
        a = np.float64(rows[row, at]) - features[page, lane, at]
        b = np.float64(rows[row, at + 1]) - features[page, lane, at + 1]
        c = np.float64(rows[row, at + 2]) - features[page, lane, at + 2]
        d = np.float64(rows[row, at + 3]) - features[page, lane, at + 3]
        e = np.float64(rows[row, at + 4]) - features[page, lane, at + 4]
        f = np.float64(rows[row, at + 5]) - features[page, lane, at + 5]
        g = np.float64(rows[row, at + 6]) - features[page, lane, at + 6]
        h = np.float64(rows[row, at + 7]) - features[page, lane, at + 7]
        gap += ((a * a + b * b) + (c * c + d * d)) + ((e * e + f * f) + (g * g + h * h))
        at += 8
    if gap < most:
        for column in range(at, rows.shape[1]):
            side = np.float64(rows[row, column]) - features[page, lane, column]
            gap += side * side
    return gap


@compiled
def _keep(features: Rows, leading: Rows, row: int, whose: Short, bucket: int, kept: _Pages) -> None:
    """Adds ``row`` to the newest page of its bucket, or to a new one."""
    page = kept.newest[bucket]
    if page < 0 or kept.filled[page] == _LANES:
        page = kept.oldest[bucket] if kept.holds[bucket] == _MOST_PAGES else kept.ends[0]
        _leave(page, kept)
        _begin(page, bucket, kept)
    lane = kept.filled[page]
    for axis in range(leading.shape[1]):
        kept.leading[page, axis, lane] = np.int16(round(leading[row, axis]))
    for at in range(features.shape[1]):
        kept.features[page, lane, at] = features[row, at]
    kept.whose[page, lane, 0], kept.whose[page, lane, 1] = whose[row, 0], whose[row, 1]
    kept.filled[page] = lane + 1


@compiled
def _leave(page: int, kept: _Pages) -> None:
    """Takes ``page`` out of its bucket, whose oldest it is, and out of the order of all."""
    bucket = kept.bucket[page]
    if bucket >= 0:
        newer = kept.newer[page]
        kept.oldest[bucket] = newer
        kept.holds[bucket] -= 1
        if newer >= 0:
            kept.older[newer] = _NONE
        else:
            kept.newest[bucket] = _NONE
    before, after = kept.before[page], kept.after[page]
    if before >= 0:
        kept.after[before] = after
    else:
        kept.ends[0] = after
    if after >= 0:
        kept.before[after] = before
    else:
        kept.ends[1] = before


@compiled
def _begin(page: int, bucket: int, kept: _Pages) -> None:
    """Makes ``page``, empty, the newest of its ``bucket`` and of all."""
    last, newest = kept.ends[1], kept.newest[bucket]
    kept.before[page], kept.after[page] = last, _NONE
    kept.ends[1] = page
    if last >= 0:
        kept.after[last] = page
    else:
        kept.ends[0] = page
    kept.older[page], kept.newer[page] = newest, _NONE
    kept.newest[bucket] = page
    kept.holds[bucket] += 1
    if newest >= 0:
        kept.newer[newest] = page
    else:
        kept.oldest[bucket] = page
    kept.bucket[page], kept.filled[page] = bucket, 0
    kept.leading[page] = np.int16(_FARTHEST)
