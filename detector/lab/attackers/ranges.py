"""Features as shares of their ranges, in which thieves train and take their steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.lab.attackers.adam import Array
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.network import CloneNetwork


@dataclass(frozen=True, slots=True)
class Ranges:
    """``low`` and ``span`` float64 (d,), a span of 1 where a feature never changes; ``discrete`` bool (d,)."""

    low: Array
    span: Array
    discrete: NDArray[np.bool_]

    @classmethod
    def of(cls, knowledge: Knowledge) -> Ranges:
        low = knowledge.low.astype(np.float64)
        span = knowledge.high.astype(np.float64) - low
        return cls(low, np.where(span > 0, span, 1.0), knowledge.categories > 0)

    def shares(self, features: NDArray[np.float32]) -> Array:
        """``features`` (n, d), where 0 is the low and 1 the high end of each range."""
        return (features - self.low) / self.span

    def features(self, shares: Array) -> NDArray[np.float32]:
        """What the victim can be asked for ``shares`` (n, d): those beyond an end lie at it, categories are whole."""
        features = self.low + np.clip(shares, 0, 1) * self.span
        return np.where(self.discrete, np.rint(features), features).astype(np.float32)


@dataclass(frozen=True, slots=True)
class RangedClone:
    """A network that was trained on shares of ranges, as a classifier of features."""

    ranges: Ranges
    network: CloneNetwork

    def probabilities(self, features: NDArray[np.float32]) -> Array:
        """Class probabilities (n, k) of ``features`` (n, d)."""
        return self.network.probabilities(self.ranges.shares(features))
