"""Which values of each feature the reference holds: thieves make up numbers that no customer ever sends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array

_BINS = 256
_MOST_VALUES = 200
"""A feature with more distinct values than this is continuous: only what lies outside its range is unseen."""
_TOLERANCE = 1e-5
"""Of a feature's range: values nearer than this are the same."""


@dataclass(frozen=True, slots=True, eq=False)
class SeenValues:
    """``low`` and ``spread`` float32 (d,): where each feature's range begins and how wide it is; ``only`` float32
    (d, 256): the one value seen in each bin of that range, NaN where none was seen, inf where any will do."""

    low: NDArray[np.float32]
    spread: NDArray[np.float32]
    only: NDArray[np.float32]

    @classmethod
    def of(cls, rows: NDArray[np.float32], spread: NDArray[np.float32]) -> SeenValues:
        """Of the reference ``rows`` (m, d), whose features range over ``spread`` (d,), all positive."""
        low = rows.min(axis=0)
        seen = cls(low, spread, np.full((rows.shape[1], _BINS), np.nan, np.float32))
        for feature in range(rows.shape[1]):
            seen.only[feature] = _only(np.unique(rows[:, feature]), float(low[feature]), float(spread[feature]))
        return seen

    def unseen(self, rows: NDArray[np.float32]) -> NDArray[np.int64]:
        """int64 (n,): how many features of each row have a value that was never seen."""
        place = (rows - self.low) / self.spread
        outside = (place < -_TOLERANCE) | (place > 1 + _TOLERANCE)
        bins = np.clip(place, 0, 1) * (_BINS - 1)
        only = np.take_along_axis(self.only.T, bins.astype(np.int16).astype(np.int64), axis=0)
        known = np.isinf(only) | (np.abs(rows - only) <= _TOLERANCE * self.spread)
        doubtful = np.flatnonzero(~(known | outside))
        doubtful = doubtful[_at_border(bins.ravel()[doubtful])]
        if len(doubtful):
            row, feature = np.unravel_index(doubtful, bins.shape)
            known[row, feature] = self._beside(rows[row, feature], bins[row, feature], feature)
        return np.asarray((outside | ~known).sum(axis=1), np.int64)

    def _beside(self, values: NDArray[np.float32], bins: NDArray[np.float32], feature: Array) -> NDArray[np.bool_]:
        """bool (n,): which ``values`` of ``feature`` were seen in the bin across the border they lie at: where values
        are multiples of a bin, rounding may put the same one on either side."""
        border = np.rint(bins)
        only = self.only[feature, np.where(bins < border, border, np.maximum(border - 1, 0)).astype(np.int64)]
        seen: NDArray[np.bool_] = np.isinf(only) | (np.abs(values - only) <= _TOLERANCE * self.spread[feature])
        return seen

    def to_record(self) -> dict[str, Any]:
        continuous = np.isinf(self.only).all(axis=1)
        return {"low": self.low, "spread": self.spread, "continuous": continuous, "only": self.only[~continuous]}

    @classmethod
    def from_record(cls, record: dict[str, Array]) -> SeenValues:
        only = np.full((len(record["low"]), _BINS), np.inf, np.float32)
        only[~record["continuous"]] = record["only"]
        return cls(record["low"], record["spread"], only)


def _at_border(bins: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(np.abs(bins - np.rint(bins)) <= _TOLERANCE * (_BINS - 1))


def _only(values: NDArray[np.float32], low: float, spread: float) -> NDArray[np.float32]:
    """float32 (256,): a row of ``only`` for a feature with these distinct ``values``."""
    if len(values) > _MOST_VALUES:
        return np.full(_BINS, np.inf, np.float32)
    bins = (np.clip((values - np.float32(low)) / np.float32(spread), 0, 1) * (_BINS - 1)).astype(np.int64)
    only = np.full(_BINS, np.nan, np.float32)
    only[bins] = values
    only[np.flatnonzero(np.bincount(bins, minlength=_BINS) > 1)] = np.inf
    return only
