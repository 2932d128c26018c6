"""The toolbox's Knockoff Nets and Copycat CNN as thieves, with the lab's network as the classifier they train."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from art.attacks.extraction import CopycatCNN, KnockoffNets
from art.estimators.classification import BlackBoxClassifier
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.answers import Answers, Classifier
from detector.lab.attackers.adam import Array
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.dialogue import Dialogue
from detector.lab.attackers.knockoff import CLUSTERS
from detector.lab.attackers.pool import ROUND
from detector.lab.attackers.ranges import Ranges
from detector.lab.attackers.substitute import one_hot
from detector.lab.independent.calling import Ask, questions_of
from detector.lab.independent.logits import logits
from detector.lab.independent.network import ThievedNetwork

EPOCHS = 20
"""Of the last training: as many as the lab's own clones have from 300 queries on."""


@dataclass(frozen=True, slots=True)
class _Extraction:
    """``attack`` makes the toolbox's attack on a victim. ``said``: what that victim is made to say for answers, (n, k);
    ``targets``: what the attack makes of it to train on, (n, k). ``actions`` int64 (m,) or None: the class of each row
    of ``pool``, of which a bandit learns which is worth asking.
    """

    attack: Callable[..., Any]
    said: Callable[[Answers], Array]
    targets: Callable[[Answers], Array]
    actions: NDArray[np.int64] | None = None

    def run(self, pool: NDArray[np.float32], budget: int, network: ThievedNetwork, ended: list[bool], ask: Ask) -> None:
        """Trains ``network`` with at most ``budget`` queries, and says in ``ended`` that the last training is done."""
        victim = BlackBoxClassifier(lambda x: self.said(ask(x)), network.input_shape, network.nb_classes)
        attack = self.attack(victim, nb_stolen=min(budget, len(pool)), batch_size_query=ROUND, nb_epochs=EPOCHS)
        attack.extract(pool, self.actions, thieved_classifier=network)
        ended.append(True)


class Thief:
    """An extraction of the toolbox from the thief's pool. Its clone is the classifier that was trained.

    As long as the attack has not ended, the clone is what it were if the last training came now.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int, extraction: _Extraction) -> None:
        pool = _pool(knowledge)
        self._network = ThievedNetwork(knowledge, seed)
        self._targets = extraction.targets
        self._ended: list[bool] = []
        self._features = [pool[:0]]
        self._answers = [np.empty((0, knowledge.classes))]
        run = partial(extraction.run, pool, budget, self._network, self._ended)
        self._dialogue = Dialogue(questions_of(run, [seed, 4]), budget)

    def next_batch(self) -> NDArray[np.float32]:
        return self._dialogue.next_batch()

    def observe(self, features: NDArray[np.float32], answers: Answers) -> None:
        self._features.append(features)
        self._answers.append(self._targets(answers))
        self._dialogue.observe(features, answers)

    def clone(self) -> Classifier:
        """Raises LabError before the first answer."""
        features = np.concatenate(self._features)
        if not len(features):
            raise LabError("nothing has been answered yet, so there is nothing to make a clone of")
        network = deepcopy(self._network)
        if not self._ended:
            network.fit(features, np.concatenate(self._answers), nb_epochs=EPOCHS)
        return network.clone


def knockoff_random(knowledge: Knowledge, budget: int, seed: int) -> Thief:
    attack = partial(KnockoffNets, sampling_strategy="random", use_probability=True, verbose=False)
    return Thief(knowledge, budget, seed, _Extraction(attack, _probabilities, _probabilities))


def knockoff_adaptive(knowledge: Knowledge, budget: int, seed: int) -> Thief:
    """The toolbox's bandit wants logits for its rewards, and trains on labels whatever it is told."""
    attack = partial(KnockoffNets, sampling_strategy="adaptive", verbose=False)
    return Thief(knowledge, budget, seed, _Extraction(attack, logits, _labels, _clusters(knowledge, seed)))


def copycat(knowledge: Knowledge, budget: int, seed: int) -> Thief:
    return Thief(knowledge, budget, seed, _Extraction(CopycatCNN, _probabilities, _labels))


def _pool(knowledge: Knowledge) -> NDArray[np.float32]:
    if not len(knowledge.pool):
        raise LabError("this attack asks what is in a public pool, and the thief has none")
    return knowledge.pool


def _probabilities(answers: Answers) -> Array:
    return answers.probabilities


def _labels(answers: Answers) -> Array:
    return one_hot(answers.labels, answers.probabilities.shape[1])


def _clusters(knowledge: Knowledge, seed: int) -> NDArray[np.int64]:
    """CLUSTERS of k-means, as the lab's own bandit has; on one thread, as the sums of several come in any order."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    shares = Ranges.of(knowledge).shares(_pool(knowledge))
    means = KMeans(min(CLUSTERS, len(shares)), n_init=1, random_state=np.random.RandomState([seed, 2]))
    with threadpool_limits(1):
        labels = means.fit(shares).labels_
    return np.asarray(np.unique(labels, return_inverse=True)[1], np.int64)
