"""The reference: honest rows that queries are compared with, and the model's outputs for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.profile.nearest_rows import NearestRows
from detector.core.profile.projection import Embedding, Placed
from detector.core.profile.ranges import FARTHEST, scale_and_ranges
from detector.core.profile.seen_values import SeenValues
from detector.core.state.arrays import Array, plain

ROWS = 1_000
"""The most rows that queries are compared with."""
NEAREST = 3
"""The number of nearest rows that predict the output for a query."""

_RANKS = 1_000
_SAME = 1e-3
"""Rows closer than this share of the median nearest-neighbour distance count as duplicates."""
_LEAST_PROBABILITY = 1e-6
_LEAST_RANGE = 1e-9
_LARGEST = 1e30
"""Features are clipped to this before they are scaled."""
_FAR = 1_000.0
"""Features are clipped to this many ranges from honest ones. Beyond that all honest queries are equally far, and next
to such a distance the steps between a thief's own queries would look like no steps at all."""


@dataclass(frozen=True, eq=False)
class Honest:
    """The queries of one honest account: ``features`` float32 (n, d) and ``outputs`` float32 (n, k), in order;
    ``hardness`` float32 (n,) where the log carries it."""

    features: NDArray[np.float32]
    outputs: NDArray[np.float32]
    hardness: NDArray[np.float32] | None = None

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """uint64 (n,): hashes, the same for equal rows of any account."""
        rows = np.ascontiguousarray(self.features) + np.float32(0)  # -0 becomes 0
        return np.frombuffer(b"".join(blake2b(row, digest_size=8).digest() for row in rows), np.uint64)

    @cached_property
    def ranked(self) -> NDArray[np.int64]:
        """int64 (m,): the first position of each distinct row, in an order that depends only on the rows of the
        account."""
        keys, first = np.unique(self.keys, return_index=True)
        whole = _stirred(np.bitwise_xor.reduce(_stirred(keys), keepdims=True))
        return first[np.argsort(_stirred(keys ^ whole), kind="stable")]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """For each of n queries: ``distance`` float64 (n,) to the nearest reference row other than itself, and ``rows``
    int64 (n, 3): the three nearest."""

    distance: NDArray[np.float64]
    rows: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Reference:
    """``scale`` float32 (d,): features are divided by it first. ``points`` and ``beside``: m rows as projected by
    ``embedding``, with their ``outputs`` float32 (m, k) of ``output_kind``. ``margins`` float64 (q,), ascending: the
    margins of honest queries. ``usual``: the median distance from a row to the nearest other."""

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
    def of(cls, accounts: Sequence[Honest], output_kind: str, offered: Sequence[Array] | None = None) -> Reference:
        """Returns the reference of honest ``accounts``: distinct rows of each in equal shares, 1,000 in all at most.
        The rows themselves decide which. ``offered``: for each account the positions that may be taken, preferred ones
        first; all by default."""
        taken = shares([own.ranked for own in accounts] if offered is None else offered, ROWS)
        chosen = [(account, np.sort(at)) for account, at in zip(accounts, taken, strict=True) if len(at)]
        rows = np.concatenate([account.features[at] for account, at in chosen]).clip(-_LARGEST, _LARGEST)
        outputs = np.concatenate([account.outputs[at] for account, at in chosen])
        owner = np.repeat(np.arange(len(chosen)), [len(at) for _, at in chosen])
        scale, low, spread = scale_and_ranges(rows, owner)
        keys = np.concatenate([account.keys[at] for account, at in chosen])
        once = np.sort(np.unique(keys, return_index=True)[1])
        rows, outputs = (rows[once] / scale).astype(np.float32), outputs[once]
        embedding = Embedding.fit(rows)
        placed = embedding.place(rows)
        margin = _spaced(margins(outputs, output_kind))
        seen = SeenValues.of(rows, low, spread)
        hard = _spaced(np.concatenate([np.empty(0), *(own.hardness for own in accounts if own.hardness is not None)]))
        bare = cls(scale, embedding, seen, placed.points, placed.beside, outputs, output_kind, margin, hard, 0.0)
        usual = ReferenceIndex(bare).nearest(placed).distance
        return replace(bare, usual=float(np.median(usual)))

    @property
    def dimension(self) -> int:
        return len(self.scale)

    @cached_property
    def range(self) -> float:
        """The range of outputs: that of the reference for scores, 1 for probabilities and labels."""
        return max(float(np.ptp(self.outputs)), _LEAST_RANGE) if self.output_kind == "score" else 1.0

    def to_record(self) -> dict[str, Any]:
        names = ("scale", "points", "beside", "outputs", "output_kind", "margins", "hardness", "usual")
        parts = {"embedding": self.embedding.to_record(), "seen": self.seen.to_record()}
        return {name: getattr(self, name) for name in names} | parts

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Reference:
        embedding, seen = Embedding.from_record(record["embedding"]), SeenValues.from_record(record["seen"])
        arrays = {name: plain(part) for name, part in record.items() if isinstance(part, np.ndarray)}
        return cls(**record | arrays | {"embedding": embedding, "seen": seen})


class ReferenceIndex:
    """Finds the nearest rows of a reference."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._plain = bool((reference.scale == 1).all())
        self._nearest = NearestRows(reference.points, reference.beside)
        self._least, self._most = reference.seen.within(_FAR, FARTHEST)
        self._near_all = float(self._least.max()), float(self._most.min())

    def scaled(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns ``features`` (n, d) scaled for comparison; those of another dimension unchanged."""
        if features.shape[1] != self.reference.dimension:
            return features
        if self._plain:
            inside = features.min() >= self._near_all[0] and features.max() <= self._near_all[1]
            return features if inside else np.clip(features, self._least, self._most)
        scaled = np.clip(features, -_LARGEST, _LARGEST)
        scaled /= self.reference.scale
        return np.clip(scaled, self._least, self._most, out=scaled)

    def nearest(self, placed: Placed) -> Neighbours:
        """Returns the neighbours of projected rows. A reference row is no neighbour of an equal query.

        Exact except among rows at the same distance to six digits, of which the first is taken.
        """
        same = _SAME * self.reference.usual
        return Neighbours(*self._nearest(placed.points, placed.beside, same, NEAREST))


def margins(outputs: NDArray[np.float32], output_kind: str) -> NDArray[np.float64]:
    """Returns float64 (n,): the logarithm of the largest probability over the second largest; NaN for other outputs."""
    if output_kind != "probabilities" or outputs.shape[1] < 2:
        return np.full(len(outputs), np.nan)
    return log_margins(np.partition(outputs, -2, axis=1)[:, -2:])


def log_margins(top: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns float64 (n,): the logarithm of the second of ``top`` (n, 2) over the first."""
    logs = np.log(np.maximum(top.astype(np.float64), _LEAST_PROBABILITY))
    return np.asarray(logs[:, 1] - logs[:, 0])


def _spaced(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns float64 (q,), ascending: the ``values`` at evenly spaced ranks, 1,000 at most, without NaN."""
    known = np.sort(values[~np.isnan(values)]).astype(np.float64)
    return known[np.linspace(0, len(known) - 1, min(_RANKS, len(known))).astype(np.int64)]


def shares(offered: Sequence[Array], room: int) -> list[Array]:
    """Returns, from the front of each of ``offered``, an equal share of ``room``; what shorter ones leave over is
    shared among the rest."""
    taken = list(offered)
    order = sorted(range(len(offered)), key=lambda at: len(offered[at]))
    for left, at in zip(range(len(order), 0, -1), order, strict=True):
        taken[at] = offered[at][: room // left]
        room -= len(taken[at])
    return taken


def _stirred(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Returns ``keys``, each mapped to another that looks random (the finaliser of SplitMix64, Steele 2014)."""
    mixed = np.asarray(keys + np.uint64(0x9E3779B97F4A7C15))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
