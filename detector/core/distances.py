"""Exact nearest neighbours: approximate arithmetic may rule candidates out by a proven bound, never choose.

All distances that leave this module are ``sqrt(sum((a - b)**2))`` in float64 of float32 inputs, summed row by
row, which gives the same bits however many rows are computed at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.vectors import VectorLists

_CHUNK_ELEMENTS = 1 << 18
_FEW = 12
"""Groups up to this size have all their pairs computed directly."""
_HEAVY_QUERIES = 8
_HEAVY_ELEMENTS = 1 << 15
_UNIT32 = 2.0**-24
_TINY32 = 2.0**-126
_LARGE = 1e30
"""Products above this are formed in float64, lest they overflow."""


def exact(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64 (n,): Euclidean distances between the rows of two (n, d) arrays."""
    rows = max(_CHUNK_ELEMENTS // max(left.shape[1], 1), 1)
    if len(left) <= rows:
        return _exact(left, right)
    parts = [_exact(left[at : at + rows], right[at : at + rows]) for at in range(0, len(left), rows)]
    return np.concatenate(parts)


def _exact(left: Array, right: Array) -> NDArray[np.float64]:
    difference = left.astype(np.float64)
    difference -= right
    difference *= difference
    distances: NDArray[np.float64] = np.sqrt(difference.sum(1))
    return distances


def nearest_stored(store: VectorLists, queries: NDArray[np.float32], lists: Array) -> NDArray[np.float64]:
    """float64 (n,): distance from each query to the nearest vector of the lists in its row of ``lists``
    (n, p; -1 for none), inf where they are all empty. Rows that search the same lists should be neighbours."""
    found = np.full(len(queries), np.inf)
    sizes = np.where(lists >= 0, store.sizes[lists], 0).sum(1)
    pending = sizes > 0
    for rows in _heavy_runs(lists, sizes, store.dimension):
        found[rows] = _by_products(store, queries[rows], lists[rows.start])
        pending[rows] = False
    at = np.flatnonzero(pending)
    if len(at):
        found[at] = _by_scan(store, queries[at], lists[at], sizes[at])
    return found


def _heavy_runs(lists: Array, sizes: Array, dimension: int) -> Iterator[slice]:
    """Runs of rows that search the same lists, where a matrix product pays off."""
    if len(lists) < _HEAVY_QUERIES:
        return
    change = np.flatnonzero((lists[1:] != lists[:-1]).any(1)) + 1
    starts = np.concatenate(([0], change))
    lengths = np.diff(np.concatenate((starts, [len(lists)])))
    heavy = (lengths >= _HEAVY_QUERIES) & (sizes[starts] * dimension >= _HEAVY_ELEMENTS)
    for start, length in zip(starts[heavy].tolist(), lengths[heavy].tolist(), strict=True):
        yield slice(start, start + length)


def _by_scan(store: VectorLists, queries: Array, lists: Array, sizes: Array) -> NDArray[np.float64]:
    """FAISS names four candidates; all that its rounding cannot tell from the best are computed exactly."""
    squared, locations = store.nearest(queries, lists)
    # A float32 sum of d squares is off by at most (d + 2) units; the difference and the square add two.
    slack = 2 * (store.dimension + 8) * _UNIT32
    limit = squared[:, :1].astype(np.float64) * (1 + slack) + store.dimension * _TINY32
    candidate = (squared <= limit) & (locations >= 0)
    rows, columns = np.nonzero(candidate)
    distances = np.full(squared.shape, np.inf)
    distances[rows, columns] = exact(queries[rows], store.gather(locations[rows, columns]))
    found: NDArray[np.float64] = distances.min(1)
    open_ended = (candidate.all(1) & (sizes > squared.shape[1])) | (locations[:, 0] < 0)
    for row in np.flatnonzero(open_ended).tolist():
        found[row] = _whole(store, queries[row], lists[row])
    return found


def _whole(store: VectorLists, query: Array, lists: Array) -> float:
    parts = [store.view(number) for number in lists.tolist() if number >= 0]
    return min(float(exact(np.broadcast_to(query, part.shape), part).min()) for part in parts if len(part))


def _by_products(store: VectorLists, queries: Array, lists: Array) -> NDArray[np.float64]:
    """All queries against the same lists by a matrix product in float32, whose error bound decides which
    pairs are computed exactly."""
    parts = [part for part in (store.view(number) for number in lists.tolist() if number >= 0) if len(part)]
    bounds = [_squared_bounds(queries, part) for part in parts]
    upper = np.minimum.reduce([(middle + error).min(1) for middle, error in bounds])[:, None]
    found = np.full(len(queries), np.inf)
    for part, (middle, error) in zip(parts, bounds, strict=True):
        rows, columns = np.nonzero(~(middle - error > upper))
        np.minimum.at(found, rows, exact(queries[rows], part[columns]))
    return found


def _squared_bounds(left: Array, right: Array) -> tuple[Array, Array]:
    """Squared distances (n, m) as |a|^2 + |b|^2 - 2ab, and a bound on their error.

    A float32 dot product of length d is off by at most about d units of |a| |b| (Higham 2002, 3.1), and so are the
    squared norms; 2 |a| |b| is at most |a|^2 + |b|^2. Doubled for safety.
    """
    if _largest_square(left) + _largest_square(right) > _LARGE:
        left, right = left.astype(np.float64), right.astype(np.float64)
    norms = np.einsum("ij,ij->i", left, left)[:, None] + np.einsum("ij,ij->i", right, right)[None, :]
    error = norms * norms.dtype.type(4 * (left.shape[1] + 16) * _UNIT32)
    error += norms.dtype.type(4 * left.shape[1] * _TINY32)
    products = left @ right.T
    products *= -2
    products += norms
    return products, error


def _largest_square(rows: Array) -> float:
    """An upper bound on the squared norms of ``rows``."""
    largest = max(float(rows.max()), -float(rows.min()))
    return largest * largest * float(rows.shape[1])


def earlier_pairs(
    queries: NDArray[np.float32], starts: Array, lengths: Array, bound: NDArray[np.float64]
) -> tuple[Array, Array, NDArray[np.float64]]:
    """Pairs of rows of one group in which the earlier may be nearer to the later than ``bound`` of the later.

    Groups are runs of rows (``starts``, ``lengths``). Returns (later, earlier, exact distance), no pair within
    the bound left out.
    """
    small = (lengths > 1) & (lengths <= _FEW)
    parts = [_all_pairs(starts[small], lengths[small])]
    large = lengths > _FEW
    for start, length in zip(starts[large].tolist(), lengths[large].tolist(), strict=True):
        near = _near_pairs(queries[start : start + length], bound[start : start + length])
        parts.append((near[0] + start, near[1] + start))
    later, earlier = (np.concatenate(column) for column in zip(*parts, strict=True))
    distances = exact(queries[later], queries[earlier])
    use = distances < bound[later]
    return later[use], earlier[use], distances[use]


def _all_pairs(starts: Array, lengths: Array) -> tuple[Array, Array]:
    rank = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    first = np.repeat(starts, lengths)
    later = np.repeat(first + rank, rank)
    step = np.arange(len(later)) - np.repeat(np.cumsum(rank) - rank, rank)
    return later, np.repeat(first, rank) + step


def _near_pairs(rows: Array, bound: Array) -> tuple[Array, Array]:
    """Pairs (later, earlier) that products cannot rule out."""
    middle, error = _squared_bounds(rows, rows)
    middle -= error
    near = np.tril(~(middle > (bound * bound)[:, None]), -1)
    later, earlier = np.nonzero(near)
    return later, earlier
