"""The input space of Tramèr et al. 2016: every feature scaled to [-1, 1], and uniform draws over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.ranges import Ranges

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Space:
    """``categories`` int64 (d,): how many values a categorical feature has, 0 for a continuous one."""

    ranges: Ranges
    categories: NDArray[np.int64]

    @classmethod
    def of(cls, knowledge: Knowledge) -> Space:
        return cls(Ranges.of(knowledge), knowledge.categories)

    @classmethod
    def continuous(cls, knowledge: Knowledge) -> Space:
        """For searches along lines. A categorical feature, with no point between two values, is a LabError."""
        if knowledge.categories.any():
            where = np.flatnonzero(knowledge.categories).tolist()
            raise LabError(f"features {where} are categorical and this attack searches along lines: use another one")
        return cls.of(knowledge)

    @property
    def dimension(self) -> int:
        return len(self.categories)

    def scaled(self, features: NDArray[np.float32]) -> Array:
        """``features`` (n, d) with each range brought to [-1, 1]."""
        return 2 * self.ranges.shares(features) - 1

    def features(self, scaled: Array) -> NDArray[np.float32]:
        """The inputs (n, d) whose ``scaled`` form is given, held within the ranges."""
        return self.ranges.features((scaled + 1) / 2)

    def uniform(self, rows: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """``rows`` inputs (rows, d); a categorical feature takes each of its values equally often."""
        inputs = self.features(rng.uniform(-1, 1, (rows, self.dimension)))
        values = rng.integers(np.maximum(self.categories, 1), size=inputs.shape)
        return np.where(self.categories > 0, values, inputs).astype(np.float32)
