"""What the owner's honest traffic looks like: the rows that queries are compared with, and what the model said of
them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.distances import relative_error
from detector.core.embedding import Embedding, Placed
from detector.core.seen_values import SeenValues

ROWS = 1_000
"""At most so many rows are compared with."""
NEAREST = 3
"""So many of them say what the model should say near a query."""

_RANKS = 1_000
_EVEN = 10.0
"""Features whose ranges differ by more than this, but for the outermost tenths, are brought to one range."""
_SAME = 1e-3
"""Of the usual distance between neighbours: rows nearer than this are one row."""
_LEAST_PROBABILITY = 1e-6
_LEAST_RANGE = 1e-9
FARTHEST = 1e15
"""Features are brought in to this when they are scaled, so that squares do not overflow."""
_LARGEST = 1e30
"""And to this before."""
_DIGITS = 1e-6
"""Of a number: what single precision can hardly tell from nothing."""
_FAR = 1_000.0
"""Features are brought in to so many of their ranges from what honest queries send. Beyond that all honest queries are
equally far, and beside such a distance the steps between a thief's own queries would look like no steps at all."""


@dataclass(frozen=True, slots=True)
class Honest:
    """The queries of one honest account: ``features`` float32 (n, d) and ``outputs`` float32 (n, k), in order;
    ``hardness`` float32 (n,) where the log carries it."""

    features: NDArray[np.float32]
    outputs: NDArray[np.float32]
    hardness: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Of each of n queries: ``distance`` float64 (n,) to the nearest reference row other than itself, ``rows`` int64
    (n, 3): the three nearest."""

    distance: NDArray[np.float64]
    rows: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Reference:
    """``scale`` float32 (d,): features are divided by it before anything else. ``points`` and ``beside``: m rows as the
    ``embedding`` places them, with their ``outputs`` float32 (m, k) of ``output_kind``. ``margins`` float64 (q,),
    ascending: the margins of honest queries. ``usual``: the median distance from a row to the next."""

    scale: NDArray[np.float32]
    embedding: Embedding
    seen: SeenValues
    points: NDArray[np.float32]
    beside: NDArray[np.float64]
    outputs: NDArray[np.float32]
    output_kind: str
    margins: NDArray[np.float64]
    hardness: NDArray[np.float64]
    usual: float

    @classmethod
    def of(cls, accounts: list[Honest], output_kind: str, rng: np.random.Generator) -> Reference:
        """From the queries of honest ``accounts``: distinct rows of each in equal shares, 1,000 in all at most."""
        chosen = list(_chosen(accounts, rng))
        rows = np.concatenate([account.features[at] for account, at in chosen]).clip(-_LARGEST, _LARGEST)
        outputs = np.concatenate([account.outputs[at] for account, at in chosen])
        once = np.sort(np.unique(rows, axis=0, return_index=True)[1])
        rows, outputs = rows[once], outputs[once]
        scale, spread = _scale_and_spread(rows)
        rows = (rows / scale).astype(np.float32)
        embedding = Embedding.fit(rows)
        placed = embedding.place(rows)
        margin = _spaced(margins(outputs, output_kind))
        seen = SeenValues.of(rows, spread)
        hard = _spaced(np.concatenate([np.empty(0), *(own.hardness for own in accounts if own.hardness is not None)]))
        bare = cls(scale, embedding, seen, placed.points, placed.beside, outputs, output_kind, margin, hard, 0.0)
        usual = ReferenceIndex(bare).nearest(placed).distance
        return replace(bare, usual=float(np.median(usual)))

    @property
    def dimension(self) -> int:
        return len(self.scale)

    @cached_property
    def range(self) -> float:
        """Over how much outputs range: that of the reference's for scores, 1 for probabilities and labels."""
        return max(float(np.ptp(self.outputs)), _LEAST_RANGE) if self.output_kind == "score" else 1.0

    def to_record(self) -> dict[str, Any]:
        names = ("scale", "points", "beside", "outputs", "output_kind", "margins", "hardness", "usual")
        parts = {"embedding": self.embedding.to_record(), "seen": self.seen.to_record()}
        return {name: getattr(self, name) for name in names} | parts

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Reference:
        embedding, seen = Embedding.from_record(record["embedding"]), SeenValues.from_record(record["seen"])
        return cls(**record | {"embedding": embedding, "seen": seen})


class ReferenceIndex:
    """Finds the nearest rows of a reference."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._plain = bool((reference.scale == 1).all())
        self._rows = reference.points.astype(np.float64)
        squares = (self._rows**2).sum(axis=1) + reference.beside**2
        self._products = np.concatenate((-2 * self._rows.T, squares[None]))
        self._single = self._products.astype(np.float32)
        self._farthest = float(squares.max(initial=0.0))
        self._least, self._most = reference.seen.within(_FAR, FARTHEST)
        self._near_all = float(self._least.max()), float(self._most.min())

    def scaled(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """``features`` (n, d) as they are compared; those of another dimension as they are."""
        if features.shape[1] != self.reference.dimension:
            return features
        with np.errstate(over="ignore"):
            scaled = features if self._plain else features / self.reference.scale
        if scaled.min() >= self._near_all[0] and scaled.max() <= self._near_all[1]:
            return scaled
        scaled = np.clip(features, -_LARGEST, _LARGEST) / self.reference.scale
        return np.clip(scaled, self._least, self._most)

    def nearest(self, placed: Placed) -> Neighbours:
        """The neighbours of rows that the reference's embedding ``placed``; a row of the reference that is a query
        itself is none of its own. Exact but for rows as far away to six digits, of which the first is taken.
        """
        reference, points = self.reference, placed.points.astype(np.float64)
        rows = self._few(placed)
        apart = self._rows[rows]
        apart -= points[:, None]
        along = np.einsum("ijk,ijk->ij", apart, apart)
        beside = reference.beside[rows]
        distance = np.sqrt(along + beside**2 + placed.beside[:, None] ** 2)
        distance[np.sqrt(along + (beside - placed.beside[:, None]) ** 2) <= _SAME * reference.usual] = np.inf
        order = np.argsort(distance, axis=1, kind="stable")[:, :NEAREST]
        order += np.arange(0, rows.size, rows.shape[1])[:, None]
        nearest = distance.ravel()[order[:, 0]]
        return Neighbours(np.where(np.isfinite(nearest), nearest, 0.0), rows.ravel()[order])

    def _few(self, placed: Placed) -> Array:
        """int64 (n, 4), ascending: the rows nearest to those ``placed``, one more than are told of. Products in single
        precision say which, but where the fifth may be as near as the fourth."""
        count, points = NEAREST + 1, placed.points
        if len(self._rows) <= count:
            return np.tile(np.arange(len(self._rows)), (len(points), 1))
        rows, values = _smallest(_with_one(points) @ self._single, count + 1)
        relative, least = relative_error(len(self._single))
        error = relative * (placed.squares + self._farthest) + least
        doubtful = np.flatnonzero(values[:, -1] - values[:, -2] <= 2 * error)
        if len(doubtful):
            squared = _with_one(points[doubtful].astype(np.float64)) @ self._products
            squared += placed.squares[doubtful, None]
            # Rounded to single precision, lest rounding, which differs with n, choose among equals.
            rows[doubtful, :-1] = _smallest(squared.astype(np.float32), count)[0]
        return np.sort(rows[:, :-1], axis=1)


def _with_one(points: Array) -> Array:
    """``points`` (n, k) with a column of ones, (n, k + 1)."""
    wide = np.ones((len(points), points.shape[1] + 1), points.dtype)
    wide[:, :-1] = points
    return wide


def _smallest(values: NDArray[np.float32], count: int) -> tuple[Array, NDArray[np.float64]]:
    """Where each row of ``values`` (n, m) is smallest, int64 (n, count), the first of equals first; and what it is
    there, float64 (n, count). ``values`` are overwritten."""
    row = np.arange(len(values))
    chosen, found = np.empty((len(values), count), np.int64), np.empty((len(values), count))
    for rank in range(count):
        at = chosen[:, rank] = values.argmin(axis=1)
        found[:, rank] = values[row, at]
        values[row, at] = np.inf
    return chosen, found


def margins(outputs: NDArray[np.float32], output_kind: str) -> NDArray[np.float64]:
    """float64 (n,): the logarithm of the largest probability over the second largest; NaN for other outputs."""
    if output_kind != "probabilities" or outputs.shape[1] < 2:
        return np.full(len(outputs), np.nan)
    top = np.partition(outputs, -2, axis=1)[:, -2:].astype(np.float64)
    top = np.log(np.maximum(top, _LEAST_PROBABILITY))
    return np.asarray(top[:, 1] - top[:, 0])


def _spaced(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 (q,), ascending: of ``values``, those at evenly spaced ranks, 1,000 at most; NaN are left out."""
    known = np.sort(values[~np.isnan(values)]).astype(np.float64)
    return known[np.linspace(0, len(known) - 1, min(_RANKS, len(known))).astype(np.int64)]


def _chosen(accounts: list[Honest], rng: np.random.Generator) -> Iterator[tuple[Honest, Array]]:
    """Of each account the positions of rows that become reference: distinct ones, those who asked less first."""
    distinct = [np.sort(np.unique(account.features, axis=0, return_index=True)[1]) for account in accounts]
    room = ROWS
    order = sorted(range(len(accounts)), key=lambda at: len(distinct[at]))
    for left, at in zip(range(len(order), 0, -1), order, strict=True):
        share = min(len(distinct[at]), room // left)
        room -= share
        if share:
            yield accounts[at], np.sort(rng.choice(distinct[at], share, replace=False))


def _scale_and_spread(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What to divide each feature by, float32 (d,), and over how much it ranges then. A feature that never changes in
    ``rows`` is taken to range as the median one does; one that is very large is brought to size in any case."""
    width = np.ptp(rows, axis=0).astype(np.float64)
    moving = width[width > 0]
    usual = float(np.median(moving)) if len(moving) else 1.0
    width = np.where(width > 0, width, usual)
    low, high = np.quantile(moving, (0.1, 0.9)) if len(moving) else (1.0, 1.0)
    scale = width if high > _EVEN * low else np.ones_like(width)
    size = np.abs(rows).max(axis=0).astype(np.float64)
    scale = np.where(size > FARTHEST, np.maximum(width, _DIGITS * size), scale)
    return scale.astype(np.float32), (width / scale).astype(np.float32)
