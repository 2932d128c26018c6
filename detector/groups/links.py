"""Links between accounts: how each query follows from the nearest recent query of another account.

A thief who splits an attack over accounts splits its structure too: a step from one query to the next becomes a
difference between two accounts. So the measures of structure are applied to that difference. Equal queries are left
out, as many accounts send the examples of the documentation, or score the same public file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.measures import FEW_CHANGES, count_changes, of_one_size, sign_stride
from detector.core.reference.reference import HonestQueries, Reference, ReferenceIndex
from detector.core.reference.standards import Spread
from detector.core.state.arrays import Array

LINKS = ("foreign_one_feature", "foreign_sign_steps", "foreign_crossings")
"""The measures of a link: at most two features differ; over half of the differences have one magnitude; the other
account got another class though the query is near. Nearness is none: the more traffic, the nearer is the nearest."""

BYTES = 33_554_432
"""The most bytes of recent queries of one model version."""
_MOST_ROWS = 32_768
_CHANGE = 1e-4
_DUPLICATE = 1e-3
_NEAR = 0.5
_LEAST = 1e-9
_NOBODY = -1
_FIRST_AXES = 8
_PROBES = 4
_MOST_SOUGHT = 512
"""The most queries of a cell that a query is compared with, the latest: a thief may send all of theirs to one cell."""

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Links:
    """Of n queries: ``values`` float64 (n, 3), those of ``LINKS``, and ``partner`` int64 (n,), the other account; 0 and
    -1 without any."""

    values: Floats
    partner: Array


class RecentQueries:
    """The latest queries of all accounts to one model version, as many as fit into 32 MiB and 32,768 at most."""

    def __init__(self, index: ReferenceIndex) -> None:
        reference = index.reference
        self._index = index
        room = max(min(_MOST_ROWS, BYTES // (4 * reference.dimension)), 1)
        self._limits = (_CHANGE * reference.seen.spread).astype(np.float32)
        cells = np.ascontiguousarray(reference.points[:, :_FIRST_AXES].T)
        self._kept = _Kept(
            np.empty((room, reference.dimension), np.float32),
            np.empty((room, reference.points.shape[1] + 1), np.float32),
            np.full((room, 2), _NOBODY, np.int64),
            np.full(room, -1, np.int64),
            np.full(cells.shape[1], -1, np.int64),
            cells,
        )
        self._count = 0

    def link(self, features: Rows, account: Array, label: Array) -> Links:
        """Returns the links of queries with plain ``features`` float32 (n, d), in stream order, and remembers them.
        ``account`` and ``label`` int64 (n,): numbers of the sender and of the predicted class."""
        reference = self._index.reference
        scaled = np.ascontiguousarray(self._index.scaled(features))
        projected = reference.embedding.project(scaled)
        points = np.column_stack((projected.points, projected.residual.astype(np.float32)))
        step = np.zeros_like(scaled)
        distance, other = np.full(len(scaled), np.inf), np.full((len(scaled), 2), _NOBODY, np.int64)
        whose, same = np.column_stack((account, label)), _DUPLICATE * reference.median_distance
        self._count = _link(scaled, points, whose, self._kept, self._count, same, step, distance, other)
        return Links(self._measured(step, distance, label != other[:, 1]), other[:, 0])

    def _measured(self, step: Rows, distance: Floats, crossed: NDArray[np.bool_]) -> Floats:
        reference = self._index.reference
        known = np.isfinite(distance)
        changes, signs = np.empty(len(step), np.int64), np.zeros(len(step))
        count_changes(step, self._limits, changes)
        of_one_size(step, self._limits, reference.scale, sign_stride(reference.dimension), signs)
        near = np.where(known, distance, np.inf) / max(reference.median_distance, _LEAST)
        columns = (
            changes <= FEW_CHANGES,
            signs,
            crossed & (near < _NEAR),
        )
        return np.where(known[:, None], np.column_stack(columns).astype(np.float64), 0.0)


class _Kept(NamedTuple):
    """The latest queries, in a ring: ``features`` float32 (w, d); ``points`` float32 (w, k + 1), their projection and
    residual; ``whose`` int64 (w, 2): account and label; ``older`` int64 (w,): the number of the query before in the
    same cell. ``newest`` int64 (c,): the number of the last query of each cell, or -1; ``cells`` float32 (k, c): their
    centres, the reference's rows on the first axes."""

    features: Rows
    points: Rows
    whose: Array
    older: Array
    newest: Array
    cells: Rows


def warm_links() -> None:
    """Calls the loops once, with the types of real traffic, so that later calls find them compiled."""
    rows = np.random.default_rng(0).random((64, 4), dtype=np.float32)
    reference = Reference.of([HonestQueries(rows, rows[:, :2])], "probabilities")
    RecentQueries(ReferenceIndex(reference)).link(rows, np.arange(64) % 4, np.arange(64) % 2)


@compiled
def _link(
    scaled: Rows,
    points: Rows,
    whose: Array,
    kept: _Kept,
    count: int,
    same: float,
    step: Rows,
    distance: Floats,
    other: Array,
) -> int:
    """Row after row, finds the nearest recent query of another account that is not equal, and keeps the row. Fills
    ``step`` (n, d), ``distance`` (n,) and ``other`` (n, 2), its account and label, where there is one.

    Queries are sought in the four nearest cells, among the latest 512 of each. Returns how many have been kept so far,
    with ``count`` before."""
    room, gaps, cells = len(kept.features), np.empty(kept.cells.shape[1], np.float32), np.empty(_PROBES, np.int64)
    for row in range(len(scaled)):
        _nearest_cells(points[row], kept.cells, gaps, cells)
        best, chosen = np.inf, -1
        for cell in cells:
            if cell >= 0:
                newest = kept.newest[cell]
                best, chosen = _nearest(
                    row, scaled, points, whose, kept.features, kept.points, kept.whose, kept.older, newest,
                    count - room, same, best, chosen,
                )  # fmt: skip
        if chosen >= 0:
            distance[row] = math.sqrt(best)
            other[row] = kept.whose[chosen]
            step[row] = scaled[row] - kept.features[chosen]
        place = count % room
        kept.features[place], kept.points[place], kept.whose[place] = scaled[row], points[row], whose[row]
        kept.older[place], kept.newest[cells[0]] = kept.newest[cells[0]], count
        count += 1
    return count


@compiled
def _nearest_cells(point: Rows, cells: Rows, gaps: Rows, found: Array) -> None:
    """Fills ``found`` (p,) with the ``cells`` (k, c), axis by axis, that are nearest to ``point`` on the first axes,
    nearest first; -1 where there are no more. ``gaps`` (c,) is overwritten. Cells lie innermost, as the processor then
    takes several at once."""
    gaps[:], found[:] = 0.0, -1
    for axis in range(len(cells)):
        own = point[axis]
        for cell in range(len(gaps)):
            side = own - cells[axis, cell]
            gaps[cell] += side * side
    last = len(found) - 1
    for cell in range(len(gaps)):
        if found[last] >= 0 and gaps[cell] >= gaps[found[last]]:
            continue
        at = last
        while at > 0 and (found[at - 1] < 0 or gaps[cell] < gaps[found[at - 1]]):
            found[at] = found[at - 1]
            at -= 1
        found[at] = cell


@compiled
def _nearest(
    row: int,
    scaled: Rows,
    points: Rows,
    whose: Array,
    features: Rows,
    recent: Rows,
    owner: Array,
    older: Array,
    at: int,
    oldest: int,
    same: float,
    best: float,
    chosen: int,
) -> tuple[float, int]:
    """Returns the squared distance and the place of the nearest query of another account among those chained from
    ``at`` on, or ``best`` and ``chosen`` if it is no nearer. Distances along the axes exclude; those of all features
    decide."""
    room, left = len(features), _MOST_SOUGHT
    while at >= max(oldest, 0) and left > 0:
        left -= 1
        place = at % room
        at = older[place]
        if owner[place, 0] == whose[row, 0] or _gap(points, row, recent, place, best) >= best:
            continue
        gap = _gap(scaled, row, features, place, best)
        if same * same < gap < best:
            best, chosen = gap, place
    return best, chosen


@compiled
def _gap(rows: Rows, row: int, others: Rows, other: int, most: float) -> float:
    """Returns the squared distance of two rows, or a part of it that is at least ``most``."""
    gap, at = 0.0, 0
    while at < rows.shape[1] and gap < most:
        for column in range(at, min(at + _FIRST_AXES, rows.shape[1])):
            side = np.float64(rows[row, column]) - others[other, column]
            gap += side * side
        at += _FIRST_AXES
    return gap


PRIOR = 4.0
"""The number of ordinary links assumed before an account's first: one link may be a coincidence."""


def sums_at(values: Floats, volumes: Array) -> Floats:
    """Returns float64 (v, m): the sums of the first rows of ``values`` (n, m), as many as each of ``volumes`` that is
    not above n."""
    return np.asarray(np.cumsum(values, axis=0)[volumes[volumes <= len(values)] - 1])


def deviations(sums: Floats, counts: Array, spread: Spread) -> Floats:
    """Returns float64 (v, m): (average - mean) / sqrt(between² + within² / n) of ``sums`` (v, m) of ``counts`` (v,)
    queries, with ``PRIOR`` ordinary ones before them."""
    weight = (counts + PRIOR)[:, None]
    average = (sums + PRIOR * spread.mean) / weight
    return np.asarray((average - spread.mean) / np.sqrt(spread.between**2 + spread.within**2 / weight))
