"""A query as sixteen small numbers: its position among the validation rows in the most informative features.

Both meters use these numbers alone. A principal's tree can only differ where validation rows differ, so thresholds
between them suffice, and state, log and fits stay small however many features there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled, plain
from detector.core.state.arrays import Array

FEATURES = 16
"""The most features used."""
THRESHOLDS = 31
"""The most thresholds per feature."""

Sketches = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Levels:
    """``columns`` int64 (m,): the features used, m at most 16. ``thresholds`` float32 (m, 31), ascending, infinite
    where a feature has fewer."""

    columns: Array
    thresholds: NDArray[np.float32]

    @classmethod
    def of(cls, features: NDArray[np.float32], labels: Array) -> Levels:
        """Returns the levels of the validation ``features`` (v, d) with ``labels`` int64 (v,)."""
        columns = _telling(features, labels)
        thresholds = np.full((len(columns), THRESHOLDS), np.inf, np.float32)
        for own, column in zip(thresholds, columns.tolist(), strict=True):
            between = _thresholds(features[:, column])
            own[: len(between)] = between
        return cls(columns, thresholds)

    def sketch(self, values: NDArray[np.float32]) -> Sketches:
        """Returns uint8 (n, 16): the level of ``values`` (n, m) of the features ``columns``: the number of thresholds
        below, scaled so that the highest level of each feature is about 31. 0 for NaN, and for absent features."""
        levels = np.zeros((len(values), FEATURES), np.uint8)
        _sketch(plain(values), plain(self.thresholds), self._widths, levels)
        return levels

    @cached_property
    def _widths(self) -> NDArray[np.int64]:
        """int64 (m,): what one threshold of each feature counts."""
        widths: NDArray[np.int64] = THRESHOLDS // np.isfinite(self.thresholds).sum(axis=1)
        return widths

    def to_record(self) -> dict[str, Any]:
        return {"columns": self.columns, "thresholds": self.thresholds}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Levels:
        return cls(record["columns"], record["thresholds"])


def _telling(features: NDArray[np.float32], labels: Array) -> Array:
    """Returns the features that matter most to an entropy tree of the labels, then those with most values;
    ascending."""
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(criterion="entropy", random_state=0).fit(features, labels)
    ordered = np.sort(features, axis=0)
    changes = (ordered[1:] > ordered[:-1]).sum(axis=0)
    best = np.lexsort((-changes, -tree.feature_importances_))
    return np.sort(best[changes[best] > 0][:FEATURES]).astype(np.int64)


def _thresholds(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns thresholds halfway between neighbouring values, at least the lower and below the higher: all, or those
    nearest to the 31 quantiles."""
    distinct, counts = np.unique(values, return_counts=True)
    low, high = distinct[:-1], distinct[1:]
    between = low + (high - low) / np.float32(2)
    between = np.where(between < high, between, low)
    if len(between) <= THRESHOLDS:
        return between
    wanted = np.arange(1, THRESHOLDS + 1) * len(values) / (THRESHOLDS + 1)
    nearest = np.searchsorted(np.cumsum(counts)[:-1], wanted)
    return np.asarray(between[np.unique(np.minimum(nearest, len(between) - 1))])


@compiled
def _sketch(
    values: NDArray[np.float32], thresholds: NDArray[np.float32], widths: NDArray[np.int64], levels: Sketches
) -> None:
    for row in range(len(values)):
        for column in range(len(thresholds)):
            below = 0
            for at in range(THRESHOLDS):
                below += values[row, column] > thresholds[column, at]
            levels[row, column] = below * widths[column]
