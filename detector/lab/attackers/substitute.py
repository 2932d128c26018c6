"""The base of substitute-training thieves: a growing training set, and a network trained on it as clone."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.answers import Answers, Classifier
from detector.lab.attackers.adam import Array
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.network import CloneNetwork
from detector.lab.attackers.ranges import RangedClone, Ranges

_UPDATES = 6_000
"""Rows shown to the clone in training are about this many batches of work whatever the data set's size."""


class SubstituteTraining(ABC):
    """An attack whose rounds are chosen by ``_round``; ends after ``budget`` queries.

    Everything observed lies in ``_features`` (n, d), shares of the features' ranges, and ``_answers`` (n, k).
    """

    def __init__(self, knowledge: Knowledge, *, budget: int, seed: int) -> None:
        self._knowledge = knowledge
        self._ranges = Ranges.of(knowledge)
        self._budget = budget
        self._seed = seed
        self._features = np.empty((0, knowledge.dimension))
        self._answers = np.empty((0, knowledge.classes))

    def next_batch(self) -> NDArray[np.float32]:
        left = self._budget - len(self._features)
        if left <= 0:
            return np.empty((0, self._knowledge.dimension), np.float32)
        return self._round()[:left]

    def observe(self, features: NDArray[np.float32], answers: Answers) -> None:
        self._features = np.concatenate([self._features, self._ranges.shares(features)])
        self._answers = np.concatenate([self._answers, answers.probabilities])

    def clone(self) -> Classifier:
        """A network trained afresh on everything observed, the same for the same answers."""
        return RangedClone(self._ranges, self._network())

    @abstractmethod
    def _round(self) -> NDArray[np.float32]:
        """Returns the inputs to query next (m, d), more than the budget allows if need be."""

    def _network(self) -> CloneNetwork:
        known = len(self._features)
        rng = np.random.default_rng([self._seed, known])
        network = CloneNetwork(self._knowledge.dimension, self._knowledge.classes, rng)
        network.fit(self._features, self._answers, epochs=max(20, _UPDATES // known))
        return network

    def _draws(self) -> np.random.Generator:
        """The generator of the round that starts with what is known now."""
        return np.random.default_rng([self._seed, len(self._features), 1])


def natural_seeds(knowledge: Knowledge, count: int, seed: int) -> NDArray[np.float32]:
    """Returns up to ``count`` of the thief's own inputs, drawn by ``seed``. Raises LabError if there are none."""
    if not len(knowledge.own):
        raise LabError("this attack starts from natural inputs of the victim's kind, and the thief has none")
    return knowledge.own[np.random.default_rng([seed, 1]).permutation(len(knowledge.own))[:count]]


def one_hot(labels: NDArray[np.int64], classes: int) -> Array:
    """(n, k): 1 at each of ``labels`` (n,)."""
    return np.eye(classes)[labels]
