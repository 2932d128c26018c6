"""The nearest of a principal's own earlier queries, of whatever class, exactly.

The distance to the nearest of the same class is known when this is asked: only what is nearer than that is looked for.
Shadows rule out nearly all, and what they leave is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.distances import MOST_NEAR, near_in, relative_error, scan
from detector.core.embedding import Placed
from detector.core.shadows import Shadow
from detector.core.vectors import VectorLists

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Candidates:
    """c vectors of which some may be the nearest to one of the queries: ``row`` int64 (c,), of the query, ``vectors``
    float32 (c, d), how far apart they are, ``gap`` float64 (c,), and the ``notes`` of the vectors float32 (c,)."""

    row: Array
    vectors: NDArray[np.float32]
    gap: Floats
    notes: NDArray[np.float32]

    def joined(self, other: Candidates) -> Candidates:
        names = ("row", "vectors", "gap", "notes")
        return Candidates(*(np.concatenate((getattr(self, name), getattr(other, name))) for name in names))

    def nearest(self, count: int) -> tuple[Floats, Array]:
        """Of each of ``count`` queries the distance to the nearest, float64 (count,), inf where there is none; and
        int64 (m,): the nearest candidates, one for each row that has any, rows ascending. Of several at the same
        distance it is always the same one, however they came in."""
        distance = np.full(count, np.inf)
        np.minimum.at(distance, self.row, self.gap)
        best = np.flatnonzero(self.gap <= distance[self.row])
        ranks = (self.notes[best], _ranks(self.vectors[best])) if len(best) > np.isfinite(distance).sum() else ()
        order = best[np.lexsort((*ranks, self.row[best]))]
        rows = self.row[order]
        return distance, order[np.flatnonzero(np.diff(rows, prepend=-1))]


@dataclass(frozen=True, slots=True)
class Asked:
    """n queries, those of each principal together: from ``starts`` on, ``lengths`` of them. ``vectors`` float32 (n, d),
    as they are ``placed``; ``lists`` int32 (groups, p): where what the principal asked before is stored. ``bound``
    float64 (n,): what is farther off than this is not looked for."""

    vectors: NDArray[np.float32]
    placed: Placed
    starts: Array
    lengths: Array
    lists: Array
    bound: Floats


def own_candidates(asked: Asked, store: VectorLists, shadows: Sequence[Shadow | None]) -> tuple[Array, Array]:
    """Row and location, int64 (c,) each, of stored vectors that may be nearest to a query within its bound: none that
    is is left out. ``shadows`` are those of each principal."""
    shades = _shades(asked.placed)
    limit = _limits(asked)
    scanned = np.isinf(asked.bound)
    parts: list[tuple[Array, Array]] = []
    runs = zip(asked.starts.tolist(), asked.lengths.tolist(), shadows, strict=True)
    for start, length, shadow in runs:
        if shadow is None:
            scanned[start : start + length] = True
            continue
        run = slice(start, start + length)
        near = (shades[run] @ shadow.columns[:, : shadow.count]) <= limit[run, None]
        rows, at = np.divmod(np.flatnonzero(near), shadow.count)
        if len(rows) > MOST_NEAR * length:
            rows, at = near_in(asked.vectors[run], store.gather(shadow.locations[: shadow.count]))
        parts.append((rows + start, shadow.locations[at]))
    if scanned.any():
        parts.append(_scanned(asked, store, np.flatnonzero(scanned)))
    rows, locations = (np.concatenate(column) for column in zip(*parts, strict=True))
    return rows, locations


def _shades(placed: Placed) -> NDArray[np.float32]:
    """float32 (n, k + 2): what the columns of shadows are multiplied by."""
    shades = np.ones((len(placed.points), placed.points.shape[1] + 2), np.float32)
    np.multiply(placed.points, -2, out=shades[:, :-2])
    shades[:, -2] = -2 * placed.beside
    return shades


def _limits(asked: Asked) -> NDArray[np.float32]:
    """float32 (n,): what the product of a query's shadow and a vector's is at most if the one may be as near to the
    other as the query's bound; -inf where there is none."""
    relative, least = relative_error(asked.vectors.shape[1])
    points = asked.placed.points.astype(np.float64)
    squares = np.einsum("ij,ij->i", points, points) + asked.placed.beside**2
    known = np.isfinite(asked.bound)
    bound = np.where(known, asked.bound, 0.0)
    # Rounding may bring the square of a distance off by a share of those of both vectors: |u|^2 stands in the product.
    limit = bound**2 - squares * (1 - 2 * relative) + least
    return np.where(known, limit, -np.inf).astype(np.float32)


def _scanned(asked: Asked, store: VectorLists, at: Array) -> tuple[Array, Array]:
    """The same of the queries ``at``, vector by vector."""
    owner = np.repeat(np.arange(len(asked.starts)), asked.lengths)[at]
    lists = asked.lists[owner]
    sizes = np.where(lists >= 0, store.sizes[lists], 0).sum(axis=1)
    some = np.flatnonzero(sizes > 0)
    rows, locations = scan(store, asked.vectors[at[some]], lists[some], sizes[some])
    return at[some[rows]], locations


def _ranks(vectors: NDArray[np.float32]) -> Floats:
    """float64 (n,): numbers that tell vectors apart by their content alone."""
    weights = np.sin(np.arange(1, vectors.shape[1] + 1, dtype=np.float64))
    return np.asarray((vectors * weights).sum(axis=1))
