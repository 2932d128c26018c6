"""The values of each feature that occur in the reference. Thieves invent numbers that no customer ever sends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.state.arrays import Array, plain

_BINS = 256
_MOST_VALUES = 200
"""A feature with more distinct values than this is continuous: only values outside its range are unseen."""
_TOLERANCE = 1e-5
"""Values nearer than this share of a feature's range are equal."""
_NONE, _ALL, _LAST = np.float32(0), np.float32(1), np.float32(_BINS - 1)
_SAME, _NEAR = np.float32(_TOLERANCE), np.float32(_TOLERANCE * (_BINS - 1))


@dataclass(frozen=True, eq=False)
class SeenValues:
    """``low`` and ``spread`` float32 (d,): start and width of each feature's range; ``only`` float32 (d, 256): the one
    value seen in each bin of that range, NaN where none was seen, inf where any value counts as seen."""

    low: NDArray[np.float32]
    spread: NDArray[np.float32]
    only: NDArray[np.float32]

    @classmethod
    def of(cls, rows: NDArray[np.float32], low: NDArray[np.float32], spread: NDArray[np.float32]) -> SeenValues:
        """Returns the values of the reference ``rows`` (m, d), whose features range over ``spread`` (d,), all positive,
        from ``low`` on. Values outside count as never seen."""
        seen = cls(low, spread, np.full((rows.shape[1], _BINS), np.nan, np.float32))
        ordered = np.sort(rows, axis=0).T
        changes = np.diff(ordered, axis=1) > 0
        few = _row_counts(changes) < _MOST_VALUES
        seen.only[~few] = np.inf
        for feature in np.flatnonzero(few).tolist():
            values = ordered[feature, np.append(True, changes[feature])]
            seen.only[feature] = _only(values, float(low[feature]), float(spread[feature]))
        return seen

    def unseen(self, rows: NDArray[np.float32]) -> NDArray[np.int64]:
        """Returns int64 (n,): how many features of each row have a value that was never seen."""
        return _row_counts(self.strange(rows))

    def strange(self, rows: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Returns bool (n, d): which values were never seen."""
        strange = np.empty(rows.shape, np.bool_)
        _mark(plain(rows), self._ranges, self._discrete, self._few, strange)
        return strange

    def within(self, ranges: float, most: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns float32 (d,) each: the values that lie this many ``ranges`` below and above the range of each
        feature, at most ``most`` from 0."""
        low, spread = self.low.astype(np.float64), self.spread.astype(np.float64)
        bounds = low - ranges * spread, low + (1 + ranges) * spread
        least, greatest = (np.clip(bound, -most, most).astype(np.float32) for bound in bounds)
        return least, greatest

    @cached_property
    def _ranges(self) -> NDArray[np.float32]:
        """float32 (4, d): the start and the width of the range of each feature, the smallest and the largest value that
        is not outside."""
        return np.stack((self.low, self.spread, *self.within(_TOLERANCE, np.inf)))

    @cached_property
    def _discrete(self) -> Array:
        """int64 (c,): the features that have few values."""
        return np.flatnonzero(~np.isinf(self.only).all(axis=1))

    @cached_property
    def _few(self) -> NDArray[np.float32]:
        """float32 (c, 256): their values."""
        return self.only[self._discrete]

    def to_record(self) -> dict[str, Any]:
        continuous = np.isinf(self.only).all(axis=1)
        return {"low": self.low, "spread": self.spread, "continuous": continuous, "only": self.only[~continuous]}

    @classmethod
    def from_record(cls, record: dict[str, Array]) -> SeenValues:
        only = np.full((len(record["low"]), _BINS), np.inf, np.float32)
        only[~record["continuous"]] = record["only"]
        return cls(record["low"], record["spread"], only)


def _only(values: NDArray[np.float32], low: float, spread: float) -> NDArray[np.float32]:
    """float32 (256,): a row of ``only`` for a feature with these few distinct ``values``."""
    bins = (np.clip((values - np.float32(low)) / np.float32(spread), 0, 1) * (_BINS - 1)).astype(np.int64)
    only = np.full(_BINS, np.nan, np.float32)
    only[bins] = values
    only[np.flatnonzero(np.bincount(bins, minlength=_BINS) > 1)] = np.inf
    return only


@compiled
def _mark(
    rows: NDArray[np.float32],
    ranges: NDArray[np.float32],
    discrete: Array,
    few: NDArray[np.float32],
    strange: NDArray[np.bool_],
) -> None:
    """Fills ``strange`` (n, d): values outside the ``ranges`` (4, d), and those of the features ``discrete`` (c,)
    that are not among the ``few`` (c, 256)."""
    low, spread = ranges[0], ranges[1]
    for row in range(len(rows)):
        for feature in range(ranges.shape[1]):
            value = rows[row, feature]
            strange[row, feature] = (value < ranges[2, feature]) | (value > ranges[3, feature])
        for at in range(len(discrete)):
            feature = discrete[at]
            value = rows[row, feature]
            # Most values of images are the smallest one.
            if value != low[feature] and not strange[row, feature]:
                strange[row, feature] = not _is_seen(value, low[feature], spread[feature], few, at)


@compiled
def _is_seen(value: np.float32, low: np.float32, spread: np.float32, few: NDArray[np.float32], at: int) -> bool:
    """Returns whether ``value`` was seen in its bin of row ``at`` of ``few``, or, on the border of two bins, in
    the other one: where values are multiples of a bin, rounding may put the same value on either side."""
    place = min(max((value - low) / spread, _NONE), _ALL) * _LAST
    equal, inside = _SAME * spread, int(place)
    if np.isinf(few[at, inside]) or abs(value - few[at, inside]) <= equal:
        return True
    border = np.rint(place)
    if abs(place - border) > _NEAR:
        return False
    beside = int(border) if place < border else max(int(border) - 1, 0)
    return bool(np.isinf(few[at, beside]) or abs(value - few[at, beside]) <= equal)


def _row_counts(rows: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns int64 (n,) of ``rows`` bool (n, k); several times faster than a sum, which casts each entry."""
    counts: NDArray[np.int64] = np.bitwise_count(np.packbits(rows, axis=1)).sum(axis=1, dtype=np.int64)
    return counts
