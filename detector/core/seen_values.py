"""The values of each feature that occur in the reference. Thieves invent numbers that no customer ever sends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.counts import row_counts

_BINS = 256
_MOST_VALUES = 200
"""A feature with more distinct values than this is continuous: only values outside its range are unseen."""
_TOLERANCE = 1e-5
"""Values nearer than this share of a feature's range are equal."""


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
        few = row_counts(changes) < _MOST_VALUES
        seen.only[~few] = np.inf
        for feature in np.flatnonzero(few).tolist():
            values = ordered[feature, np.append(True, changes[feature])]
            seen.only[feature] = _only(values, float(low[feature]), float(spread[feature]))
        return seen

    def unseen(self, rows: NDArray[np.float32]) -> NDArray[np.int64]:
        """Returns int64 (n,): how many features of each row have a value that was never seen."""
        return row_counts(self.strange(rows))

    def strange(self, rows: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Returns bool (n, d): which values were never seen."""
        least, most = self._range
        strange: NDArray[np.bool_] = (rows < least) | (rows > most)
        if self._discrete.any():
            # Most values of images are the smallest one.
            at = np.flatnonzero((rows != self.low) & self._discrete & ~strange)
            strange.reshape(-1)[at] = self._strange(rows.ravel()[at], at % rows.shape[1])
        return strange

    def _strange(self, values: NDArray[np.float32], feature: Array) -> NDArray[np.bool_]:
        """Returns bool (n,): which ``values``, within the range of their ``feature`` int64 (n,), were never seen."""
        bins = (values - self.low[feature]) / self.spread[feature]
        np.minimum(np.maximum(bins, 0, out=bins), 1, out=bins)
        bins *= _BINS - 1
        strange = ~self._seen(values, feature, bins.astype(np.int64))
        doubtful = np.flatnonzero(strange)
        border = np.rint(bins[doubtful])
        near = np.abs(bins[doubtful] - border) <= _TOLERANCE * (_BINS - 1)
        doubtful, border = doubtful[near], border[near]
        # Where values are multiples of a bin, rounding may put the same one on either side.
        beside = np.where(bins[doubtful] < border, border, np.maximum(border - 1, 0)).astype(np.int64)
        strange[doubtful] = ~self._seen(values[doubtful], feature[doubtful], beside)
        return strange

    def _seen(self, values: NDArray[np.float32], feature: Array, bins: Array) -> NDArray[np.bool_]:
        """Returns bool (n,): which ``values`` were seen in those ``bins`` of their features."""
        only = self.only.ravel().take(feature * _BINS + bins)
        seen: NDArray[np.bool_] = np.abs(values - only) <= _TOLERANCE * self.spread[feature]
        seen |= np.isinf(only)
        return seen

    @cached_property
    def _range(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The smallest and the largest value of each feature that is not outside."""
        return self.within(_TOLERANCE, np.inf)

    def within(self, ranges: float, most: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns float32 (d,) each: the values that lie this many ``ranges`` below and above the range of each
        feature, at most ``most`` from 0."""
        low, spread = self.low.astype(np.float64), self.spread.astype(np.float64)
        bounds = low - ranges * spread, low + (1 + ranges) * spread
        least, greatest = (np.clip(bound, -most, most).astype(np.float32) for bound in bounds)
        return least, greatest

    @cached_property
    def _discrete(self) -> NDArray[np.bool_]:
        """bool (d,): the features that have few values."""
        return np.asarray(~np.isinf(self.only).all(axis=1))

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
