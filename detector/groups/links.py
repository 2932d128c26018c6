"""Links between accounts: how each query follows from the nearest recent query of another account.

A thief who splits an attack over accounts splits its structure too: a step from one query to the next becomes a
difference between two accounts. So the measures of structure are applied to that difference. Equal queries are left
out, as many accounts send the examples of the documentation, or score the same public file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled, plain
from detector.core.measures import FEW_CHANGES, count_changes, of_one_size, sign_stride
from detector.core.reference.reference import Reference, ReferenceIndex
from detector.core.reference.standards import VOLUMES, Spread
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
_MOST_SOUGHT = 512
"""The most queries of a cell that a query is compared with, the latest: a thief may send all of theirs to one cell."""

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

WINDOW = int(VOLUMES[-1])
ALWAYS = 16
"""The first queries of an account in each 256 that are linked in any cell."""
SHARE = 8
"""Later queries are linked in one of this number of cells."""
_IS_DUE = np.isin(np.arange(WINDOW) + 1, VOLUMES)


def sampled_cells(reference: Reference) -> Mask:
    """Returns bool (c,): the rows of ``reference`` whose cells are sampled, one of ``SHARE``. The rows decide: only
    someone with all of them can keep out of these cells."""
    count = len(reference.points)
    seed = blake2b(np.ascontiguousarray(reference.points).tobytes(), digest_size=16, person=b"cells").digest()
    order = np.random.default_rng(int.from_bytes(seed, "little")).permutation(count)
    sampled = np.zeros(count, np.bool_)
    sampled[order[: -(-count // SHARE)]] = True
    return sampled


def selected(number: Array, cell: Array, sampled: Mask) -> tuple[Mask, Mask]:
    """Returns bool (n,) twice, of queries that are the ``number``-th, int64 (n,), of their account, from 0, repeats
    left out, and whose nearest reference row is ``cell``, int64 (n,): which are *due*, their account is compared with
    honest ones, and which are *linked*, compared with queries of other accounts. ``sampled``: see ``sampled_cells``.

    All others change nothing of groups. Near queries lie in one cell, so that both ends of a link are linked."""
    place = number % WINDOW
    return _IS_DUE[place], (place < ALWAYS) | sampled[cell]


@dataclass(frozen=True, slots=True)
class Links:
    """Of n queries: ``values`` float64 (n, 3), those of ``LINKS``, and ``partner`` int64 (n,), the other account; 0 and
    -1 without any."""

    values: Floats
    partner: Array


class RecentQueries:
    """The latest queries of all accounts to one model version, as many as fit into 32 MiB and 32,768 at most."""

    def __init__(self, reference: Reference, nbytes: int = BYTES) -> None:
        self._reference = reference
        room = max(min(_MOST_ROWS, nbytes // (4 * reference.dimension)), 1)
        self._limits = (_CHANGE * reference.seen.spread).astype(np.float32)
        self._kept = _Kept(
            np.empty((room, reference.dimension), np.float32),
            np.empty((room, reference.points.shape[1] + 1), np.float32),
            np.full((room, 2), _NOBODY, np.int64),
            np.full(room, -1, np.int64),
            np.full(len(reference.points), -1, np.int64),
        )
        self._count = 0

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self._kept)

    def dump(self) -> dict[str, Any]:
        """Returns the queries that are remembered."""
        held = min(self._count, len(self._kept.features))
        columns = {name: getattr(self._kept, name)[:held] for name in _Kept._fields if name != "newest"}
        return {"count": self._count, "room": len(self._kept.features), "newest": self._kept.newest, **columns}

    def load(self, state: Mapping[str, Any]) -> None:
        """Replaces everything with what ``dump`` returned; forgets all queries if there was other room for them."""
        self._count = 0
        self._kept.newest[:] = -1
        if state["room"] == len(self._kept.features):
            self._count, held = state["count"], len(state["features"])
            for name in _Kept._fields:
                getattr(self._kept, name)[: len(state["newest"]) if name == "newest" else held] = state[name]

    def link(self, features: Rows, points: Rows, cells: Array, account: Array, label: Array) -> Links:
        """Returns the links of queries, in stream order, and remembers them. ``features`` float32 (n, d), scaled;
        ``points`` float32 (n, k + 1), their projection and residual; ``cells`` int64 (n, c), the nearest reference
        rows, nearest first; ``account`` and ``label`` int64 (n,): numbers of the sender and of the predicted class."""
        step = np.zeros_like(features)
        distance, other = np.full(len(features), np.inf), np.full((len(features), 2), _NOBODY, np.int64)
        whose, same = np.column_stack((account, label)), _DUPLICATE * self._reference.median_distance
        rows = plain(features), plain(points), plain(cells)
        self._count = _link(*rows, whose, self._kept, self._count, same, step, distance, other)
        return Links(self._measured(step, distance, label != other[:, 1]), other[:, 0])

    def _measured(self, step: Rows, distance: Floats, crossed: NDArray[np.bool_]) -> Floats:
        reference = self._reference
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
    same cell. ``newest`` int64 (c,): the number of the last query of each cell, or -1."""

    features: Rows
    points: Rows
    whose: Array
    older: Array
    newest: Array


def linkable(index: ReferenceIndex, features: Rows) -> tuple[Rows, Rows, Array]:
    """Returns what ``RecentQueries.link`` needs of plain ``features`` float32 (n, d), as the engine hands it over."""
    scaled = index.scaled(features)
    projection = index.reference.embedding.project(scaled)
    return scaled, with_residual(projection.points, projection.residual), index.nearest(projection).rows


def with_residual(points: Rows, residual: Floats) -> Rows:
    """Returns float32 (n, k + 1): ``points`` (n, k) and ``residual`` (n,)."""
    return np.column_stack((points, residual.astype(np.float32)))


@compiled
def _link(
    scaled: Rows,
    points: Rows,
    cells: Array,
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

    Queries are sought among the latest 512 of each of the row's ``cells`` (n, c). Returns how many have been kept so
    far, with ``count`` before."""
    room = len(kept.features)
    for row in range(len(scaled)):
        best, chosen = np.inf, -1
        for cell in cells[row]:
            best, chosen = _nearest(
                row, scaled, points, whose, kept.features, kept.points, kept.whose, kept.older, kept.newest[cell],
                count - room, same, best, chosen,
            )  # fmt: skip
        if chosen >= 0:
            distance[row] = math.sqrt(best)
            other[row] = kept.whose[chosen]
            step[row] = scaled[row] - kept.features[chosen]
        place = count % room
        kept.features[place], kept.points[place], kept.whose[place] = scaled[row], points[row], whose[row]
        cell = cells[row, 0]
        kept.older[place], kept.newest[cell] = kept.newest[cell], count
        count += 1
    return count


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


def sums_at(values: Floats, linked: Mask, volumes: Array) -> tuple[Floats, Array]:
    """Returns, of an account whose ``linked`` bool (n,) queries have ``values`` float64 (m, 3), the sums float64 (v, 3)
    and counts int64 (v,) of those among its first queries, as many as each of ``volumes`` (v,), at most n."""
    counts = np.cumsum(linked)[volumes - 1]
    sums = np.concatenate((np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)))
    return sums[counts], counts


def deviations(sums: Floats, counts: Array, spread: Spread) -> Floats:
    """Returns float64 (v, m): (average - mean) / sqrt(between² + within² / n) of ``sums`` (v, m) of ``counts`` (v,)
    linked queries, with ``PRIOR`` ordinary ones before them."""
    weight = (counts + PRIOR)[:, None]
    average = (sums + PRIOR * spread.mean) / weight
    return np.asarray((average - spread.mean) / np.sqrt(spread.between**2 + spread.within**2 / weight))
