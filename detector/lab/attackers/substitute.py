"""The bases of extractions: all that was answered is a training set, and the clone a model trained on it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from detector.contracts.errors import LabError
from detector.lab.answers import Answers, Classifier
from detector.lab.attackers.attacker import Inputs, Knowledge
from detector.lab.attackers.input_space import InputSpace, ScaledClone
from detector.lab.networks import Array, Network, cross_entropy

SEEDS = 100

_UPDATES = 6_000
"""The product of rows and epochs in a training, about, whatever the size of the training set."""


class Extraction(ABC):
    """An attack whose rounds are chosen by ``_round``; ends after ``budget`` queries.

    ``_features`` float32 (n, d) and ``_answers`` float64 (n, k): everything observed, in order.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        self._knowledge = knowledge
        self._space = InputSpace.of(knowledge)
        self._budget = budget
        self._seed = seed
        self._features = np.empty((0, knowledge.dimension), np.float32)
        self._answers = np.empty((0, knowledge.classes))

    @property
    def _left(self) -> int:
        """The number of queries that may still be made."""
        return self._budget - len(self._features)

    def next_batch(self) -> Inputs:
        return self._round()[: self._left] if self._left > 0 else self._features[:0]

    def observe(self, features: Inputs, answers: Answers) -> None:
        self._features = np.concatenate([self._features, features])
        self._answers = np.concatenate([self._answers, answers.probabilities])

    def clone(self) -> Classifier:
        """Returns a model trained afresh on everything observed. Raises LabError before the first answer."""
        if not len(self._features):
            raise LabError("nothing has been answered yet, so there is nothing to make a clone of")
        return self._trained()

    @abstractmethod
    def _round(self) -> Inputs:
        """Returns the inputs to query next (m, d); those beyond the budget are cut off."""

    @abstractmethod
    def _trained(self) -> Classifier:
        """Returns the clone; there is at least one answer."""

    def _rng(self, *stream: int) -> np.random.Generator:
        """Returns the generator of the round that starts with what is known now."""
        return np.random.default_rng([self._seed, len(self._features), *stream])


class SubstituteTraining(Extraction):
    """Trains a network on shares of the features' ranges."""

    def _shares(self, since: int = 0) -> Array:
        """Returns the shares (n, d) of the features observed after the first ``since``."""
        return self._space.shares(self._features[since:])

    def _trained(self) -> Classifier:
        return ScaledClone(self._space.shares, self._network())

    def _network(self) -> Network:
        network = Network(self._knowledge.dimension, self._knowledge.classes, self._rng())
        network.fit(self._shares(), cross_entropy(self._answers), epochs=max(20, _UPDATES // len(self._features)))
        return network

    def _round_rng(self) -> np.random.Generator:
        return self._rng(1)


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
    if not len(knowledge.natural):
        raise LabError("this attack starts from natural inputs of the victim's kind, and the thief has none")
    return knowledge.natural[np.random.default_rng([seed, 1]).permutation(len(knowledge.natural))[:count]]
