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
from detector.core.shadows import Shadow
from detector.core.vectors import VectorLists

_NEVER = 1e38
"""More than any product, and not so much that the sum of both would overflow."""

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
    with their ``shades`` (``Placed.shades``) and the sums of the ``squares`` of these, float64 (n,); ``lists`` int32
    (groups, p): where what the principal asked before is stored. ``bound`` float64 (n,): what is farther off than this
    is not looked for."""

    vectors: NDArray[np.float32]
    shades: NDArray[np.float32]
    squares: Floats
    starts: Array
    lengths: Array
    lists: Array
    bound: Floats


def own_candidates(asked: Asked, store: VectorLists, shadows: Sequence[Shadow | None]) -> tuple[Array, Array]:
    """Row and location, int64 (c,) each, of stored vectors that may be nearest to a query within its bound: none that
    is is left out. ``shadows`` are those of each principal."""
    owner = np.repeat(np.arange(len(shadows)), asked.lengths)
    rows, locations = _shadowed(asked, shadows)
    crowded = np.bincount(owner[rows], minlength=len(shadows)) > MOST_NEAR * asked.lengths
    keep = ~crowded[owner[rows]]
    parts = [(rows[keep], locations[keep])]
    parts += [_multiplied(asked, at, store, shadows[at]) for at in np.flatnonzero(crowded).tolist()]
    scanned = np.array([own is None for own in shadows])[owner] | np.isinf(asked.bound)
    if scanned.any():
        parts.append(_scanned(asked, store, np.flatnonzero(scanned), owner))
    rows, locations = (np.concatenate(column) for column in zip(*parts, strict=True))
    return rows, locations


def _shadowed(asked: Asked, shadows: Sequence[Shadow | None]) -> tuple[Array, Array]:
    """The same of those who have shadows. What may be near is what a product with its shadow leaves below 0."""
    shades = _bounded(asked)
    counts = np.array([0 if own is None else own.count for own in shadows])
    edges = np.concatenate(([0], np.cumsum(asked.lengths * counts)))
    product = np.empty(edges[-1], np.float32)
    held = [(at, own) for at, own in enumerate(shadows) if own is not None]
    for at, own in held:
        run = slice(asked.starts[at], asked.starts[at] + asked.lengths[at])
        into = product[edges[at] : edges[at + 1]].reshape(-1, own.count)
        np.matmul(shades[run], own.columns[:, : own.count], out=into)
    near = np.flatnonzero(product <= 0)
    owner = np.searchsorted(edges, near, side="right") - 1
    row, column = np.divmod(near - edges[owner], counts[owner])
    locations = np.concatenate([own.locations[: own.count] for _, own in held] or [near])
    return row + asked.starts[owner], locations[(np.cumsum(counts) - counts)[owner] + column]


def _bounded(asked: Asked) -> NDArray[np.float32]:
    """float32 (n, k + 3): what shadows are multiplied by: shades, 1, and less what the product comes to at most without
    it if a vector may be as near to the query as its bound. Where there is no bound nothing is."""
    relative, least = relative_error(asked.vectors.shape[1])
    known = np.isfinite(asked.bound)
    bound = np.where(known, asked.bound, 0.0)
    # Rounding may bring the square of a distance off by a share of those of both vectors: |u|^2 stands in the product.
    limit = bound**2 - asked.squares * (1 - 2 * relative) + least
    wide = np.ones((len(asked.shades), asked.shades.shape[1] + 2), np.float32)
    wide[:, :-2], wide[:, -1] = asked.shades, np.where(known, -limit, _NEVER)
    return wide


def _multiplied(asked: Asked, at: int, store: VectorLists, shadow: Shadow | None) -> tuple[Array, Array]:
    """The same of the ``at``-th principal, whose shadows rule out too few, by all features."""
    assert shadow is not None
    run = slice(asked.starts[at], asked.starts[at] + asked.lengths[at])
    locations = shadow.locations[: shadow.count]
    rows, column = near_in(asked.vectors[run], store.gather(locations))
    return rows + asked.starts[at], locations[column]


def _scanned(asked: Asked, store: VectorLists, at: Array, owner: Array) -> tuple[Array, Array]:
    """The same of the queries ``at``, vector by vector."""
    lists = asked.lists[owner[at]]
    sizes = np.where(lists >= 0, store.sizes[lists], 0).sum(axis=1)
    some = np.flatnonzero(sizes > 0)
    rows, locations = scan(store, asked.vectors[at[some]], lists[some], sizes[some])
    return at[some[rows]], locations


def _ranks(vectors: NDArray[np.float32]) -> Floats:
    """float64 (n,): numbers that tell vectors apart by their content alone."""
    weights = np.sin(np.arange(1, vectors.shape[1] + 1, dtype=np.float64))
    return np.asarray((vectors * weights).sum(axis=1))
