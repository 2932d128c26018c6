"""The toolbox's Knockoff Nets and Copycat CNN as thieves, with the lab's network as the classifier they train."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from art.attacks.extraction import CopycatCNN, KnockoffNets
from art.estimators.classification import BlackBoxClassifier, ClassifierMixin
from art.estimators.estimator import BaseEstimator
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.answers import Answers, Classifier
from detector.lab.attackers.attacker import Dialogue, Inputs, Knowledge
from detector.lab.attackers.input_space import InputSpace, ScaledClone
from detector.lab.attackers.public_pool import ROUND, clusters, pool_of
from detector.lab.independent.calling import QueryVictim, logits, questions_of
from detector.lab.networks import Array, Network, cross_entropy, one_hot

EPOCHS = 20
"""Of the last training: as many as the lab's own clones have from 300 queries on."""


class ThievedNetwork(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The lab's network as a classifier that the toolbox trains. Takes features as the victim does.

    Trains in batches of its own size and ignores the requested size.
    """

    def __init__(self, knowledge: Knowledge, seed: int) -> None:
        super().__init__(model=None, clip_values=None)
        self.nb_classes = knowledge.classes
        self._space = InputSpace.of(knowledge)
        self._network = Network(knowledge.dimension, knowledge.classes, np.random.default_rng([seed, 3]))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self._space.low.shape

    def fit(self, x: NDArray[np.floating], y: Array, *, nb_epochs: int, **_: Any) -> None:
        """Trains on, to probabilities ``y`` (n, k) at features ``x`` (n, d)."""
        self._network.fit(self._shares(x), cross_entropy(y), nb_epochs)

    def predict(self, x: NDArray[np.floating], **_: Any) -> Array:
        """Returns logits (n, k)."""
        return self._network.logits(self._shares(x))

    def clone(self) -> ScaledClone:
        return ScaledClone(self._space.shares, self._network)

    def _shares(self, x: NDArray[np.floating]) -> Array:
        return self._space.shares(np.asarray(x, np.float32))


@dataclass(frozen=True, slots=True)
class _Extraction:
    """``attack`` makes the toolbox's attack on a victim. From answers, ``outputs`` makes the outputs (n, k) of that
    victim, and ``targets`` those (n, k) on which the attack trains. ``actions`` int64 (m,) or None: the cluster of each
    row of the pool, for a bandit that learns which clusters are worth querying.
    """

    attack: Callable[..., Any]
    outputs: Callable[[Answers], Array]
    targets: Callable[[Answers], Array]
    actions: NDArray[np.int64] | None = None

    def run(self, pool: Inputs, budget: int, network: ThievedNetwork, ended: list[bool], query: QueryVictim) -> None:
        """Trains ``network`` with at most ``budget`` queries, and appends to ``ended`` after the last training."""
        victim = BlackBoxClassifier(lambda x: self.outputs(query(x)), network.input_shape, network.nb_classes)
        attack = self.attack(victim, nb_stolen=min(budget, len(pool)), batch_size_query=ROUND, nb_epochs=EPOCHS)
        attack.extract(pool, self.actions, thieved_classifier=network)
        ended.append(True)


class ToolboxExtraction(Dialogue):
    """An extraction of the toolbox from the thief's pool. Its clone is the classifier that was trained.

    Before the attack has ended, the clone is trained as if the last training came now.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int, extraction: _Extraction) -> None:
        pool = pool_of(knowledge)
        self._network = ThievedNetwork(knowledge, seed)
        self._targets_of = extraction.targets
        self._ended: list[bool] = []
        self._features = [pool[:0]]
        self._targets = [np.empty((0, knowledge.classes))]
        run = partial(extraction.run, pool, budget, self._network, self._ended)
        super().__init__(questions_of(run, [seed, 4]), budget)

    def observe(self, features: Inputs, answers: Answers) -> None:
        self._features.append(features)
        self._targets.append(self._targets_of(answers))
        super().observe(features, answers)

    def clone(self) -> Classifier:
        """Raises LabError before the first answer."""
        features = np.concatenate(self._features)
        if not len(features):
            raise LabError("nothing has been answered yet, so there is nothing to make a clone of")
        network = deepcopy(self._network)
        if not self._ended:
            network.fit(features, np.concatenate(self._targets), nb_epochs=EPOCHS)
        return network.clone()


def knockoff_random(knowledge: Knowledge, budget: int, seed: int) -> ToolboxExtraction:
    attack = partial(KnockoffNets, sampling_strategy="random", use_probability=True, verbose=False)
    return ToolboxExtraction(knowledge, budget, seed, _Extraction(attack, _probabilities, _probabilities))


def knockoff_adaptive(knowledge: Knowledge, budget: int, seed: int) -> ToolboxExtraction:
    """The toolbox's bandit wants logits for its rewards, and trains on labels whatever its parameters say."""
    attack = partial(KnockoffNets, sampling_strategy="adaptive", verbose=False)
    return ToolboxExtraction(knowledge, budget, seed, _Extraction(attack, logits, _labels, _clusters(knowledge, seed)))


def copycat(knowledge: Knowledge, budget: int, seed: int) -> ToolboxExtraction:
    return ToolboxExtraction(knowledge, budget, seed, _Extraction(CopycatCNN, _probabilities, _labels))


def _probabilities(answers: Answers) -> Array:
    return answers.probabilities


def _labels(answers: Answers) -> Array:
    return one_hot(answers.labels, answers.probabilities.shape[1])


def _clusters(knowledge: Knowledge, seed: int) -> NDArray[np.int64]:
    """Returns the k-means of each row of the pool, as the lab's own bandit has them."""
    return np.asarray(np.unique(clusters(knowledge, seed).labels_, return_inverse=True)[1], np.int64)
