"""The base of substitute-training thieves: a growing training set, and a network trained on it as clone."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from detector.contracts.errors import LabError
from detector.lab.answers import Answers, Classifier
from detector.lab.attackers.attacker import Inputs, Knowledge
from detector.lab.attackers.input_space import InputSpace, ScaledClone
from detector.lab.networks import Network, cross_entropy

SEEDS = 100

_UPDATES = 6_000
"""The product of rows and epochs in a training, about, whatever the size of the training set."""


class SubstituteTraining(ABC):
    """An attack whose rounds are chosen by ``_round``; ends after ``budget`` queries.

    Everything observed is in ``_features`` (n, d), shares of the features' ranges, and ``_answers`` (n, k).
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        self._knowledge = knowledge
        self._space = InputSpace.of(knowledge)
        self._budget = budget
        self._seed = seed
        self._features = np.empty((0, knowledge.dimension))
        self._answers = np.empty((0, knowledge.classes))

    def next_batch(self) -> Inputs:
        left = self._budget - len(self._features)
        if left <= 0:
            return np.empty((0, self._knowledge.dimension), np.float32)
        return self._round()[:left]

    def observe(self, features: Inputs, answers: Answers) -> None:
        self._features = np.concatenate([self._features, self._space.shares(features)])
        self._answers = np.concatenate([self._answers, answers.probabilities])

    def clone(self) -> Classifier:
        """Returns a network trained afresh on everything observed, the same for the same answers."""
        return ScaledClone(self._space.shares, self._network())

    @abstractmethod
    def _round(self) -> Inputs:
        """Returns the inputs to query next (m, d); those beyond the budget are cut off."""

    def _network(self) -> Network:
        known = len(self._features)
        rng = np.random.default_rng([self._seed, known])
        network = Network(self._knowledge.dimension, self._knowledge.classes, rng)
        network.fit(self._features, cross_entropy(self._answers), epochs=max(20, _UPDATES // known))
        return network

    def _round_rng(self) -> np.random.Generator:
        """Returns the generator of the round that starts with what is known now."""
        return np.random.default_rng([self._seed, len(self._features), 1])


class SeededTraining(SubstituteTraining):
    """Queries ``seeds`` (n, d) first, by default 100 of the thief's natural inputs."""

    def __init__(self, knowledge: Knowledge, budget: int, seed: int, seeds: Inputs | None = None) -> None:
        super().__init__(knowledge, budget, seed)
        self._seeds = natural_seeds(knowledge, SEEDS, seed) if seeds is None else seeds

    def _round(self) -> Inputs:
        return self._later_round() if len(self._features) else self._seeds

    @abstractmethod
    def _later_round(self) -> Inputs:
        """Returns the inputs (m, d) of a round after the first."""


def natural_seeds(knowledge: Knowledge, count: int, seed: int) -> Inputs:
    """Returns up to ``count`` of the thief's own inputs, drawn by ``seed``. Raises LabError if there are none."""
    if not len(knowledge.own):
        raise LabError("this attack starts from natural inputs of the victim's kind, and the thief has none")
    return knowledge.own[np.random.default_rng([seed, 1]).permutation(len(knowledge.own))[:count]]
