"""What path finding steals: for each leaf the inputs that end in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detector.lab.attackers.attacker import Knowledge


@dataclass(frozen=True, slots=True)
class Region:
    """Known inputs of a leaf: each continuous feature in [``low``, ``high``], each categorical one ``allowed``.

    ``low``, ``high`` float32 (d,), not read for categorical features; ``allowed`` bool (d, most categories), not read
    for continuous ones; ``answer`` float64 (k,): what the victim says there.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    allowed: NDArray[np.bool_]
    answer: NDArray[np.float64]

    @classmethod
    def everywhere(cls, knowledge: Knowledge, answer: NDArray[np.float64]) -> Region:
        allowed = np.ones((knowledge.dimension, knowledge.categories.max()), dtype=np.bool_)
        return cls(knowledge.low, knowledge.high, allowed, answer)

    def cut(self, feature: int, values: NDArray[np.float32]) -> Region:
        """That part where ``feature`` lies among ``values``, or between them."""
        low, high, allowed = self.low.copy(), self.high.copy(), self.allowed.copy()
        low[feature], high[feature] = values.min(), values.max()
        allowed[feature] = np.isin(np.arange(allowed.shape[1]), values)
        return replace(self, low=low, high=high, allowed=allowed)


class RegionClone:
    """Answers an input as the nearest region, so that what lies between two is shared evenly.

    Distance is the sum over the features of how far the value is out of bounds, in parts of the feature's range; 1 for
    a category that is not allowed.
    """

    def __init__(self, knowledge: Knowledge, regions: Sequence[Region]) -> None:
        self._regions = regions
        self._range = np.maximum(knowledge.high - knowledge.low, np.finfo(np.float32).tiny)
        self._continuous = np.flatnonzero(knowledge.categories == 0)
        self._categorical = np.flatnonzero(knowledge.categories)

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities (n, k) of ``features`` (n, d)."""
        distances = np.stack([self._distance(features, region) for region in self._regions])
        answers = np.stack([region.answer for region in self._regions])
        return np.asarray(answers[distances.argmin(axis=0)], np.float64)

    def _distance(self, features: NDArray[np.float32], region: Region) -> NDArray[np.float64]:
        beyond = np.maximum(region.low - features, 0) + np.maximum(features - region.high, 0)
        beyond = (beyond / self._range)[:, self._continuous]
        refused = ~region.allowed[self._categorical, features[:, self._categorical].astype(np.int64)]
        return np.asarray(beyond.sum(axis=1, dtype=np.float64) + refused.sum(axis=1))
