"""Links between accounts: how each query follows from the nearest recent query of another account.

A thief who splits an attack over accounts splits its structure too: a step from one query to the next becomes a
difference between two accounts. So the measures of structure are applied to that difference. Equal queries are left
out, as many accounts send the examples of the documentation, or score the same public file.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from detector.core.measures import FEW_CHANGES, count_changes, of_one_size
from detector.core.reference.reference import Reference, ReferenceIndex
from detector.core.reference.standards import VOLUMES, Spread
from detector.core.state.arrays import Array
from detector.groups.recent import BYTES, RecentQueries

LINKS = ("foreign_one_feature", "foreign_sign_steps", "foreign_crossings")
"""The measures of a link: at most two features differ; over half of the differences have one magnitude; the other
account got another class though the query is near. Nearness alone is no sign: it grows with the traffic."""

_CHANGE = 1e-4
_NEAR = 0.5
_EPSILON = 1e-9
Rows = NDArray[np.float32]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

WINDOW = int(VOLUMES[-1])
ALWAYS = 8
"""The first queries of an account in each 256 that are linked in any cell."""
SHARE = 16
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


class Linker:
    """Links queries to one model version with the recent ones of other accounts, ``nbytes`` of them at most."""

    def __init__(self, reference: Reference, nbytes: int = BYTES) -> None:
        self._reference = reference
        self.recent = RecentQueries(reference, nbytes)
        self._limits = (_CHANGE * reference.seen.spread).astype(np.float32)

    @property
    def nbytes(self) -> int:
        return self.recent.nbytes

    def link(self, features: Rows, points: Rows, cells: Array, account: Array, label: Array) -> Links:
        """Returns the links of queries, in stream order, and remembers them; see ``RecentQueries.nearest``."""
        found = self.recent.nearest(features, points, cells, account, label)
        return Links(self._measured(found.step, found.distance, label != found.label), found.partner)

    def _measured(self, step: Rows, distance: Floats, crossed: NDArray[np.bool_]) -> Floats:
        reference = self._reference
        known = np.isfinite(distance)
        changes, signs = np.empty(len(step), np.int64), np.zeros(len(step))
        count_changes(step, self._limits, changes)
        of_one_size(step, self._limits, reference, signs)
        near = np.where(known, distance, np.inf) / max(reference.median_distance, _EPSILON)
        columns = (
            changes <= FEW_CHANGES,
            signs,
            crossed & (near < _NEAR),
        )
        return np.where(known[:, None], np.column_stack(columns).astype(np.float64), 0.0)


def linkable(index: ReferenceIndex, features: Rows) -> tuple[Rows, Rows, Array]:
    """Returns what ``Linker.link`` needs of plain ``features`` float32 (n, d), as the engine hands it over."""
    scaled = index.scaled(features)
    projection = index.reference.embedding.project(scaled)
    return scaled, with_residual(projection.points, projection.residual), index.nearest(projection).cells


def with_residual(points: Rows, residual: Floats) -> Rows:
    """Returns float32 (n, k + 1): ``points`` (n, k) and ``residual`` (n,)."""
    return np.column_stack((points, residual.astype(np.float32)))


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
