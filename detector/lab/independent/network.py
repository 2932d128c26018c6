"""The lab's clone network, as a classifier that the toolbox trains."""

from __future__ import annotations

from typing import Any

import numpy as np
from art.estimators.classification import ClassifierMixin
from art.estimators.estimator import BaseEstimator
from numpy.typing import NDArray

from detector.lab.attackers.adam import Array
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.network import CloneNetwork
from detector.lab.attackers.ranges import RangedClone, Ranges

Features = NDArray[np.float32] | Array


class ThievedNetwork(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Takes features as the victim does. Trains in batches of its own size, whatever size is asked for."""

    def __init__(self, knowledge: Knowledge, seed: int) -> None:
        super().__init__(model=None, clip_values=None)
        self.nb_classes = knowledge.classes
        rng = np.random.default_rng([seed, 3])
        self.clone = RangedClone(Ranges.of(knowledge), CloneNetwork(knowledge.dimension, knowledge.classes, rng))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.clone.ranges.low.shape

    def fit(self, x: Features, y: Array, *, nb_epochs: int, **_: Any) -> None:
        """On from where it stands, to probabilities ``y`` (n, k) at features ``x`` (n, d)."""
        self.clone.network.fit(self._shares(x), y, nb_epochs)

    def predict(self, x: Features, **_: Any) -> Array:
        """Logits (n, k)."""
        return self.clone.network.logits(self._shares(x))

    def _shares(self, x: Features) -> Array:
        return self.clone.ranges.shares(np.asarray(x, np.float32))
