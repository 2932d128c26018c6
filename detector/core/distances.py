"""Exact nearest neighbours: approximate arithmetic may exclude candidates by a proven bound, but never choose one.

All distances that this module returns are ``sqrt(sum((a - b)**2))`` in float64 of float32 inputs, summed row by row,
which gives the same bits however many rows are computed at once.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.vectors import VectorLists

_PORTION_ELEMENTS = 1 << 16
"""Exact distances are computed for this many features at once, which fit in one core's cache."""
_FEW = 8
"""Groups up to this size have all their pairs computed directly."""
_HEAVY_QUERIES = 4
_HEAVY_ELEMENTS = 1 << 17
"""Features that a scan would have to read per query, above which a matrix product is faster."""
MOST_NEAR = 8
"""Where a matrix product leaves more candidates per query than this, another method is used."""
_MOST_PRODUCTS = 2
"""More lists than this are copied together before they are multiplied."""
_TILE_ELEMENTS = 1 << 20
"""Groups are multiplied together while the squares of their rows come to no more features than this."""
_UNIT32 = 2.0**-24
_TINY32 = 2.0**-126
_LARGE = 1e30
"""Products above this are formed in float64, so that they cannot overflow."""


def exact(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns float64 (n,): Euclidean distances between the rows of two (n, d) arrays."""
    return _in_portions(left.shape, lambda some: (left[some], right[some]))


def exact_between(
    left: NDArray[np.float32], left_at: Array, right: NDArray[np.float32], right_at: Array
) -> NDArray[np.float64]:
    """Returns float64 (n,): distances between the rows of ``left`` at ``left_at`` and those of ``right`` at
    ``right_at``."""
    return _in_portions((len(left_at), left.shape[1]), lambda some: (left[left_at[some]], right[right_at[some]]))


def exact_stored(queries: NDArray[np.float32], row: Array, store: VectorLists, locations: Array) -> NDArray[np.float64]:
    """Returns float64 (n,): distances between the ``queries`` at ``row`` and the vectors stored at ``locations``."""
    shape = len(row), queries.shape[1]
    return _in_portions(shape, lambda some: (queries[row[some]], store.gather(locations[some])))


def _in_portions(shape: tuple[int, ...], rows: Callable[[slice], tuple[Array, Array]]) -> NDArray[np.float64]:
    """Returns the distances of n pairs of d features, ``shape`` (n, d); ``rows`` returns the two sides of a slice of
    them."""
    count, dimension = shape
    step = max(_PORTION_ELEMENTS // max(dimension, 1), 1)
    parts = [_exact(*rows(slice(at, at + step))) for at in range(0, max(count, 1), step)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _exact(left: Array, right: Array) -> NDArray[np.float64]:
    # A repeated row, read with stride 0, would otherwise stay transposed, and transposed sums round differently.
    difference = left.astype(np.float64, order="C")
    difference -= right
    difference *= difference
    distances: NDArray[np.float64] = np.sqrt(difference.sum(1))
    return distances


def nearest_stored(store: VectorLists, queries: NDArray[np.float32], lists: Array) -> NDArray[np.float64]:
    """Returns float64 (n,): the distance from each query to the nearest vector of the lists in its row of ``lists`` (n,
    p; -1 for none), inf where they are all empty. Rows that search the same lists should be neighbours."""
    found = np.full(len(queries), np.inf)
    sizes = np.where(lists >= 0, store.sizes[lists], 0).sum(1)
    pending = sizes > 0
    runs = _heavy_runs(lists, sizes, store.dimension)
    if runs:
        rows, vectors = _by_products(store, queries, lists, runs)
        np.minimum.at(found, rows, exact(queries[rows], vectors))
        pending &= np.isinf(found)
    at = np.flatnonzero(pending)
    if len(at):
        rows, locations = scan(store, queries[at], lists[at], sizes[at])
        np.minimum.at(found, at[rows], exact_stored(queries, at[rows], store, locations))
    return found


def _heavy_runs(lists: Array, sizes: Array, dimension: int) -> list[slice]:
    """Returns runs of rows that search the same lists, where a matrix product pays off."""
    if len(lists) < _HEAVY_QUERIES or len(lists) * int(sizes.max()) * dimension < _HEAVY_ELEMENTS:
        return []
    change = np.flatnonzero((lists[1:] != lists[:-1]).any(1)) + 1
    starts = np.concatenate(([0], change))
    lengths = np.diff(np.concatenate((starts, [len(lists)])))
    heavy = (lengths >= _HEAVY_QUERIES) & (lengths * sizes[starts] * dimension >= _HEAVY_ELEMENTS)
    found = zip(starts[heavy].tolist(), lengths[heavy].tolist(), strict=True)
    return [slice(start, start + length) for start, length in found]


def scan(store: VectorLists, queries: NDArray[np.float32], lists: Array, sizes: Array) -> tuple[Array, Array]:
    """Returns row and location, int64 each, of vectors that may be nearest to a query over its ``lists`` (n, p), which
    hold ``sizes`` (n,), none 0. FAISS names four candidates for each; all that its rounding cannot separate from the
    best are returned."""
    squared, locations = store.nearest(queries, lists)
    # A float32 sum of d squares is off by at most (d + 2) units; the difference and the square add two.
    slack = 2 * (store.dimension + 8) * _UNIT32
    limit = squared[:, :1].astype(np.float64) * (1 + slack) + store.dimension * _TINY32
    candidate = (squared <= limit) & (locations >= 0)
    open_ended = (candidate.all(1) & (sizes > squared.shape[1])) | (locations[:, 0] < 0)
    candidate[open_ended] = False
    rows = np.flatnonzero(candidate) // squared.shape[1]
    parts = [(rows, locations[candidate])]
    parts += [_whole(store, queries[row], lists[row], row) for row in np.flatnonzero(open_ended).tolist()]
    if len(parts) == 1:
        return parts[0]
    rows, found = (np.concatenate(column) for column in zip(*parts, strict=True))
    return rows, found


def _whole(store: VectorLists, query: Array, lists: Array, row: int) -> tuple[Array, Array]:
    """Returns all vectors of ``lists`` that are nearest to ``query``, in the form of ``scan``."""
    locations, _ = store.locations(lists[lists >= 0])
    vectors = store.gather(locations)
    gap = exact(np.broadcast_to(query, vectors.shape), vectors)
    best = np.flatnonzero(gap == gap.min())
    return np.full(len(best), row), locations[best]


def _by_products(store: VectorLists, queries: Array, lists: Array, runs: list[slice]) -> tuple[Array, Array]:
    """Returns (row of ``queries``, vector): the vectors that may be nearest to each query of these runs, each of which
    searches the same lists. Drops runs for which rounding leaves too many candidates."""
    squares = _squares(queries)
    parts: list[tuple[Array, Array]] = [(np.empty(0, np.int64), queries[:0])]
    for run in runs:
        numbers = [number for number in lists[run.start].tolist() if number >= 0 and store.sizes[number]]
        stored = [(own := store.view(number), store.squares(number, own)) for number in numbers]
        if len(stored) > _MOST_PRODUCTS:
            stored = [(np.concatenate([own for own, _ in stored]), np.concatenate([own for _, own in stored]))]
        vectors = [own for own, _ in stored]
        near, most = _near(queries[run], squares[run], stored), MOST_NEAR * (run.stop - run.start)
        if most < sum(len(rows) for rows, _ in near) and sum(own.size for own in vectors) <= _TILE_ELEMENTS:
            vectors = [np.concatenate(vectors)]
            near = [near_in(queries[run], vectors[0])]
        if sum(len(rows) for rows, _ in near) <= most:
            parts += [(rows + run.start, own[at]) for (rows, at), own in zip(near, vectors, strict=True)]
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([vectors for _, vectors in parts])


def _near(queries: Array, squares: Array, stored: list[tuple[Array, Array]]) -> list[tuple[Array, Array]]:
    """Returns, for each part of ``stored`` (vectors, their squared norms), the pairs (query, vector) that may be
    nearest over all parts. ``squares`` (n,) are the squared norms of the queries."""
    if max(float(own.max()) for _, own in stored) + float(squares.max()) > _LARGE:
        queries = queries.astype(np.float64)
        squares = _squares(queries)
        stored = [(wide := vectors.astype(np.float64), _squares(wide)) for vectors, _ in stored]
    relative, least = relative_error(queries.shape[1])
    doubled = queries * queries.dtype.type(-2)
    limits, lowers, row = [], [], np.arange(len(queries))
    for vectors, own in stored:
        lower = doubled @ vectors.T
        lower += own * (1 - relative)
        best = lower.argmin(1)
        limits.append(lower[row, best] + own[best] * (2 * relative))
        lowers.append(lower)
    limit = np.minimum.reduce(limits) + (squares * (2 * relative) + 2 * least)
    return [_places(lower <= limit[:, None]) for lower in lowers]


def near_in(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> tuple[Array, Array]:
    """Returns the pairs (query, vector) that may be nearest: positions int64 (p,) both. Measures from one of the
    queries, so that crowded vectors far from the origin stay distinct."""
    queries, vectors = _seen_from(queries[len(queries) // 2], queries, vectors)
    return _near(queries, _squares(queries), [(vectors, _squares(vectors))])[0]


def _seen_from(centre: Array, *parts: Array) -> list[Array]:
    """Returns the rows of ``parts`` less ``centre``, which single precision rounds by one unit of each difference; in
    float64 if some are large."""
    largest = max(max(float(rows.max(initial=0)), -float(rows.min(initial=0))) for rows in parts)
    dtype = np.float64 if largest**2 > _LARGE else centre.dtype
    return [rows.astype(dtype) - centre.astype(dtype) for rows in parts]


def _places(chosen: Array) -> tuple[Array, Array]:
    """Returns row and column of each True of a matrix; faster than ``nonzero`` where they are few."""
    return np.divmod(np.flatnonzero(chosen), chosen.shape[1])


def relative_error(dimension: int) -> tuple[float, float]:
    """Returns the error bound of a squared distance |a|^2 - 2 ab + |b|^2: the first times |a|^2 + |b|^2, plus the
    second.

    A float32 dot product of length d is off by at most about d units of |a| |b| (Higham 2002, 3.1), and so are the
    squared norms; 2 |a| |b| is at most |a|^2 + |b|^2. Doubled for safety.
    """
    return 4 * (dimension + 16) * _UNIT32, 4 * dimension * _TINY32


def _squares(rows: Array) -> Array:
    squares: Array = np.einsum("ij,ij->i", rows, rows)
    return squares


def earlier_pairs(
    queries: NDArray[np.float32],
    starts: Array,
    lengths: Array,
    bound: NDArray[np.float64],
) -> tuple[Array, Array, NDArray[np.float64]]:
    """Returns pairs of rows of one group in which the earlier may be nearer to the later than ``bound`` of the later.

    Groups are runs of rows (``starts``, ``lengths``). Returns (later, earlier, exact distance), including every pair
    within the bound.
    """
    several = lengths > 1
    small = several & (lengths <= _FEW)
    parts = [_all_pairs(starts[small], lengths[small])] if small.any() else []
    large = several & ~small
    parts += _near_pairs(queries, starts[large], lengths[large], bound)
    if not parts:
        none = np.empty(0, np.int64)
        return none, none, np.empty(0)
    later, earlier = (np.concatenate(column) for column in zip(*parts, strict=True))
    distances = exact_between(queries, later, queries, earlier)
    use = distances < bound[later]
    return later[use], earlier[use], distances[use]


def _all_pairs(starts: Array, lengths: Array) -> tuple[Array, Array]:
    rank = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    first = np.repeat(starts, lengths)
    later = np.repeat(first + rank, rank)
    step = np.arange(len(later)) - np.repeat(np.cumsum(rank) - rank, rank)
    return later, np.repeat(first, rank) + step


def _near_pairs(queries: Array, starts: Array, lengths: Array, bound: Array) -> list[tuple[Array, Array]]:
    """Returns the pairs (later, earlier) of each group that products cannot exclude."""
    most = isqrt(_TILE_ELEMENTS // queries.shape[1])
    pairs, first = [], 0
    ends = np.cumsum(lengths)
    while first < len(lengths):
        behind = int(ends[first] - lengths[first])
        last = max(int(ends.searchsorted(behind + most, side="right")), first + 1)
        pairs.append(_near_in_tile(queries, starts[first:last], lengths[first:last], bound))
        first = last
    return pairs


def _near_in_tile(queries: Array, starts: Array, lengths: Array, bound: Array) -> tuple[Array, Array]:
    """The same for some groups at once; most products are of different groups, and dropped."""
    before = np.cumsum(lengths) - lengths
    at = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
    own, first = queries[at], np.repeat(before, lengths)
    later, earlier = _near_among(own, first, bound[at])
    if len(later) > MOST_NEAR * len(own):
        [own] = _seen_from(own[len(own) // 2], own)
        later, earlier = _near_among(own, first, bound[at])
    return at[later], at[earlier]


def _near_among(rows: Array, first: Array, bound: Array) -> tuple[Array, Array]:
    """Returns pairs (later, earlier) of ``rows``, where the earlier starts at ``first`` int64 (n,) of the later, that a
    product cannot exclude from being nearer than ``bound`` of the later."""
    squares = _squares(rows)
    if 2 * float(squares.max()) > _LARGE:
        rows = rows.astype(np.float64)
        squares = _squares(rows)
    relative, least = relative_error(rows.shape[1])
    limit = bound * bound - squares.astype(np.float64) * (1 - relative) + least
    greatest = np.finfo(rows.dtype).max
    limit = np.where(bound > 0, np.minimum(limit, greatest), -greatest).astype(rows.dtype)
    lower = (rows * rows.dtype.type(-2)) @ rows.T
    lower += squares * (1 - relative)
    later, earlier = _places(lower <= limit[:, None])
    use = (earlier < later) & (earlier >= first[later])
    return later[use], earlier[use]
