"""Data-set augmentation: natural seeds first, then every round moves all that is known a little further."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from detector.lab.attackers.adam import Array
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.network import CloneNetwork
from detector.lab.attackers.substitute import SubstituteTraining

SEEDS = 100


class Augmentation(SubstituteTraining):
    """Asks ``seeds`` (n, d), then in every round one new input for each known one: the set doubles.

    The new inputs are ``_moved`` by a network trained on all answers so far.
    """

    def __init__(self, knowledge: Knowledge, seeds: NDArray[np.float32], *, budget: int, seed: int) -> None:
        super().__init__(knowledge, budget=budget, seed=seed)
        self._seeds = seeds

    def _round(self) -> NDArray[np.float32]:
        if not len(self._features):
            return self._seeds
        labels = self._answers.argmax(axis=1)
        return self._ranges.features(self._moved(self._network(), self._features, labels))

    @abstractmethod
    def _moved(self, network: CloneNetwork, shares: Array, labels: NDArray[np.int64]) -> Array:
        """New shares (n, d) from the known ``shares`` (n, d), to which the victim gave ``labels`` (n,)."""
