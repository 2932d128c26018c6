"""Finds the nearest of a principal's own earlier queries, of the same class and of any class, exactly.

Shadows name a vector that is likely the nearest of the class; its distance is an upper bound. Vectors whose shadows are
farther than the bound are excluded, and the others are compared exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.distances import MOST_NEAR, earlier_pairs, exact_between, exact_stored, near_in, relative_error, scan
from detector.core.embedding import Placed
from detector.core.shadows import BITS, Shadow, columns_of, signs
from detector.core.vectors import VectorLists

_LIKELY = 16
"""The number of axes that predict which vectors are near."""
_FEW_OF = 4
"""Break-even: one product over all stored vectors costs about as much as one in this many exact distances."""
_NEVER = 1e38
"""More than any product, and small enough that the sum of both cannot overflow."""

Floats = NDArray[np.float64]
Content = Callable[[Array], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Returns the vectors (n, d) and the notes (n,) at some ``where`` (n,)."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """c vectors, some of which may be the nearest to one of the queries: ``row`` int64 (c,), of the query; ``where``
    int64 (c,), the location in the store, or -1 less the row of an earlier query of the step; and the distance ``gap``
    float64 (c,)."""

    row: Array
    where: Array
    gap: Floats

    def joined(self, *others: Candidates) -> Candidates:
        every = (self, *others)
        return Candidates(*(np.concatenate([getattr(own, name) for own in every]) for name in ("row", "where", "gap")))

    def nearest(self, count: int, content: Content) -> tuple[Floats, Array]:
        """Returns, for each of ``count`` queries, the distance to the nearest, float64 (count,), inf where there is
        none; and int64 (m,): the nearest candidates, one for each row that has any, rows ascending. Of several at the
        same distance it is always the same one, by its ``content``, in whatever order they came."""
        distance = np.full(count, np.inf)
        np.minimum.at(distance, self.row, self.gap)
        best = np.flatnonzero(self.gap <= distance[self.row])
        several = len(best) > np.isfinite(distance).sum()
        ranks = (_ranks(self.where[best], content),) if several else ()
        order = best[np.lexsort((*ranks, self.row[best]))]
        rows = self.row[order]
        first = np.ones(len(rows), np.bool_)
        np.not_equal(rows[1:], rows[:-1], out=first[1:])
        return distance, order[first]


@dataclass(frozen=True)
class Asked:
    """n queries, grouped by principal: from ``starts`` on, ``lengths`` of them. ``vectors`` float32 (n, d), ``placed``:
    their projections on the reference, and ``labels`` int64 (n,), the model's answers."""

    vectors: NDArray[np.float32]
    placed: Placed
    labels: Array
    starts: Array
    lengths: Array

    def run(self, at: int) -> slice:
        """Returns the queries of the ``at``-th principal."""
        start = int(self.starts[at])
        return slice(start, start + int(self.lengths[at]))

    @cached_property
    def squares(self) -> Floats:
        """float64 (n,): squared distances to the centre of the reference."""
        return self.placed.squares + self.placed.beside**2

    @cached_property
    def columns(self) -> NDArray[np.float32]:
        """The columns of their shadows, for when the queries are stored."""
        return columns_of(self.placed, self.labels, self.vectors.shape[1])


def search(asked: Asked, store: VectorLists, shadows: Sequence[Shadow | None]) -> Candidates:
    """Returns the candidates in ``store`` that the principals' ``shadows`` find near the queries; none for principals
    without shadows. They include the nearest vector of any class and, if there is one, the nearest of the query's own
    class."""
    held = {at: own for at, own in enumerate(shadows) if own is not None}
    products = _Products(asked, {at: (own.columns[:, : own.count], own.locations) for at, own in held.items()})
    reached = _reached(asked, store, held, products)
    row, locations = products.within(reached)
    owner = np.repeat(np.arange(len(shadows)), asked.lengths)
    stored = np.array([0 if own is None else own.count for own in shadows])
    crowded = np.bincount(owner[row], minlength=len(shadows)) > MOST_NEAR * asked.lengths + stored // _FEW_OF
    keep = ~crowded[owner[row]]
    near = _computed(asked, store, row[keep], locations[keep], reached)
    return near.joined(*(_whole(asked, store, at, held[at]) for at in np.flatnonzero(crowded).tolist()))


def among(asked: Asked, bound: Floats, some: NDArray[np.bool_] | None = None) -> tuple[Array, Array, Floats]:
    """Returns later and earlier query, int64 (p,) each, and the distance, of pairs of one principal that are no farther
    apart than ``bound`` float64 (n,) of the later; NaN for none. Pairs whose earlier query is not one of ``some``, bool
    (n,), may be left out."""
    groups = np.logical_or.reduceat(~np.isnan(bound), asked.starts) & (asked.lengths > 1)
    runs = {at: asked.run(at) for at in np.flatnonzero(groups).tolist()}
    own = {at: (asked.columns[:, run], np.arange(run.start, run.stop)) for at, run in runs.items()}
    if some is not None:
        chosen = {at: some[run] for at, run in runs.items() if some[run].any()}
        own = {at: (own[at][0][:, those], own[at][1][those]) for at, those in chosen.items()}
    later, earlier = _Products(asked, own).within(bound)
    before = earlier < later
    later, earlier = later[before], earlier[before]
    if len(later) > MOST_NEAR * len(bound):
        within = np.where(np.isnan(bound), 0.0, np.nextafter(bound, np.inf))
        return earlier_pairs(asked.vectors, asked.starts[groups], asked.lengths[groups], within)
    gap = exact_between(asked.vectors, later, asked.vectors, earlier)
    use = gap <= bound[later]
    return later[use], earlier[use], gap[use]


def scanned(asked: Asked, store: VectorLists, at: Array, lists: Array) -> tuple[Array, Array]:
    """Returns row and location, int64 (c,) each, of stored vectors that may be nearest to the queries ``at``, by a scan
    of their ``lists`` (n, p)."""
    sizes = np.where(lists >= 0, store.sizes[lists], 0).sum(axis=1)
    some = np.flatnonzero(sizes > 0)
    rows, locations = scan(store, asked.vectors[at[some]], lists[some], sizes[some])
    return at[some[rows]], locations


class _Products:
    """Products of queries with columns of vectors of their own principal: ``own`` has, by principal, the columns (h, m)
    and the locations, int64 (m,) at least. All share one buffer."""

    def __init__(self, asked: Asked, own: dict[int, tuple[NDArray[np.float32], Array]]) -> None:
        self._asked, self._own = asked, own
        self._counts = np.zeros(len(asked.lengths), np.int64)
        self._counts[list(own)] = [columns.shape[1] for columns, _ in own.values()]
        self._edges = np.concatenate(([0], np.cumsum(asked.lengths * self._counts)))
        self._product = np.empty(self._edges[-1], np.float32)

    def of(self, at: int, wide: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
        """Returns float32 (n, m): ``wide``, one row per query of the ``at``-th principal, times those ``rows`` of its
        columns."""
        columns, _ = self._own[at]
        into = self._product[self._edges[at] : self._edges[at + 1]].reshape(-1, columns.shape[1])
        return np.matmul(wide[self._asked.run(at)], columns[rows], out=into)

    def within(self, bound: Floats) -> tuple[Array, Array]:
        """Returns query and location of all vectors that may be as near as ``bound``, NaN for none: those whose product
        is 0 or below."""
        wide = _bounded(self._asked, bound)
        for at in self._own:
            self.of(at, wide, slice(BITS, None))
        near = np.flatnonzero(self._product <= 0)
        owner = np.searchsorted(self._edges, near, side="right") - 1
        row, column = np.divmod(near - self._edges[owner], self._counts[owner])
        before = np.cumsum(self._counts) - self._counts
        every = np.concatenate([where[: columns.shape[1]] for columns, where in self._own.values()] or [owner])
        return row + self._asked.starts[owner], every[before[owner] + column]


def _reached(asked: Asked, store: VectorLists, held: dict[int, Shadow], products: _Products) -> Floats:
    """Returns float64 (n,): the distance to one vector that is likely the nearest of the query's label; NaN for
    principals without shadows."""
    farthest, likely = np.zeros(len(asked.labels)), np.full(len(asked.labels), -1, np.int64)
    for at, own in held.items():
        farthest[asked.run(at)] = own.farthest
    wide = _labelled(asked, farthest)
    for at, own in held.items():
        likely[asked.run(at)] = own.locations[products.of(at, wide, slice(wide.shape[1])).argmin(axis=1)]
    known = np.flatnonzero(likely >= 0)
    reached = np.full(len(likely), np.nan)
    reached[known] = exact_stored(asked.vectors, known, store, likely[known])
    return reached


def _labelled(asked: Asked, farthest: Floats) -> NDArray[np.float32]:
    """Returns float32 (n, bits + 1 + 16): rows whose products rank vectors by likely distance. A differing label bit
    adds more than any distance; no square is larger than ``farthest`` (n,)."""
    points = asked.placed.points[:, :_LIKELY]
    wide = np.ones((len(points), BITS + 1 + points.shape[1]), np.float32)
    wide[:, :BITS] = signs(asked.labels) * -(asked.squares + farthest)[:, None]
    wide[:, BITS + 1 :] = points
    return wide


def _bounded(asked: Asked, bound: Floats) -> NDArray[np.float32]:
    """Returns float32 (n, k + 3): rows whose products tell which vectors may be as near as ``bound`` (n,): 1, the
    points and residual norms, and minus the smallest product of a vector as near as that."""
    points = asked.placed.points
    relative, least = relative_error(asked.vectors.shape[1])
    # Rounding errs by a share of the squared norms of both vectors: |u|^2 is part of the product.
    limit = bound**2 - asked.squares * (1 - 2 * relative) + least
    wide = np.ones((len(points), points.shape[1] + 3), np.float32)
    wide[:, 1:-2], wide[:, -2] = points, asked.placed.beside
    wide[:, -1] = np.where(np.isnan(bound), _NEVER, np.maximum(-limit, -_NEVER))
    return wide


def _computed(asked: Asked, store: VectorLists, row: Array, locations: Array, reached: Floats) -> Candidates:
    """Returns the candidates that are within ``reached``."""
    gap = exact_stored(asked.vectors, row, store, locations)
    use = np.flatnonzero(gap <= reached[row])
    return Candidates(row[use], locations[use], gap[use])


def _whole(asked: Asked, store: VectorLists, at: int, own: Shadow) -> Candidates:
    """Returns the nearest of any class of the ``at``-th principal, whose shadows exclude too few, by all features."""
    run, locations = asked.run(at), own.locations[: own.count]
    queries, vectors = asked.vectors[run], store.gather(locations)
    row, column = near_in(queries, vectors)
    gap = exact_between(queries, row, vectors, column)
    least = np.full(len(queries), np.inf)
    np.minimum.at(least, row, gap)
    use = np.flatnonzero(gap <= least[row])
    return Candidates(row[use] + run.start, locations[column[use]], gap[use])


def _ranks(where: Array, content: Content) -> Array:
    """Returns int64 (n,): numbers that distinguish candidates by their content alone."""
    once, place = np.unique(where, return_inverse=True)
    vectors, notes = content(once)
    rows = np.ascontiguousarray(np.column_stack((notes, vectors)))
    ranks: Array = np.unique(rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))), return_inverse=True)[1]
    return ranks.ravel()[place]
