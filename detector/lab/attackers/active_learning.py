"""Active learning over a pool (ActiveThief: Pal, Gupta, Shukla, Kanade, Shevade and Ganapathy, AAAI 2020)."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from detector.lab.attackers.adam import Array
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.pool import PoolThief

_TINY = 1e-12


class ActiveLearning(PoolThief):
    """A random round first. In later rounds, what the clone thinks of the rows that are left decides."""

    def _chosen(self, count: int) -> NDArray[np.int64]:
        if not len(self._features):
            return super()._chosen(count)
        left = np.flatnonzero(self._left)
        network = self._network()
        outputs = network.probabilities(self._ranges.shares(self._knowledge.pool[left]))
        return left[self._preferred(outputs, network.probabilities(self._features), count)]

    @abstractmethod
    def _preferred(self, outputs: Array, known: Array, count: int) -> NDArray[np.int64]:
        """Which ``count`` of the clone's ``outputs`` (m, k) to ask for; ``known`` (n, k) are of what was asked."""


class Uncertainty(ActiveLearning):
    """Asks the rows of which the clone's answers have the greatest entropy."""

    def _preferred(self, outputs: Array, known: Array, count: int) -> NDArray[np.int64]:
        entropy = -(outputs * np.log(outputs + _TINY)).sum(axis=1)
        return np.argsort(-entropy, kind="stable")[:count]


class KCenter(ActiveLearning):
    """Asks, one after another, the row of which the clone's answer lies farthest from all that were asked."""

    def _preferred(self, outputs: Array, known: Array, count: int) -> NDArray[np.int64]:
        from scipy.spatial.distance import cdist

        nearest = cdist(outputs, known, "sqeuclidean").min(axis=1)
        chosen = np.empty(count, dtype=np.int64)
        for place in range(count):
            chosen[place] = nearest.argmax()
            nearest = np.minimum(nearest, ((outputs - outputs[chosen[place]]) ** 2).sum(axis=1))
            nearest[chosen[: place + 1]] = -1
        return chosen


def uncertainty(knowledge: Knowledge, budget: int, seed: int) -> Uncertainty:
    return Uncertainty(knowledge, budget=budget, seed=seed)


def k_center(knowledge: Knowledge, budget: int, seed: int) -> KCenter:
    return KCenter(knowledge, budget=budget, seed=seed)
