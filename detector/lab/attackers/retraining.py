"""Retraining from labels (Tramèr, Zhang, Juels, Reiter and Ristenpart, USENIX Security 2016, section 6).

The thief knows the kind of model but gets labels only: it queries, trains a model of that kind on the answers, and
queries again. Uniform inputs are the weakest choice, inputs near the clone's own boundary the best.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Classifier
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.extraction import Extraction, Train, UniformExtraction
from detector.lab.attackers.label_models import rbf_svm_of_labels, softmax_of_labels
from detector.lab.attackers.lines import halved, middle_of, opposite_pairs
from detector.lab.attackers.space import Space

_ROUNDS = 10
_CANDIDATES = 2_000
_HALVINGS = 20


class AdaptiveRetraining(Extraction):
    """Ten equal rounds: the first uniform, each later one near the boundary of the clone trained until then."""

    def __init__(self, space: Space, classes: int, budget: int, train: Train, *, seed: int) -> None:
        super().__init__(space, classes, budget, train)
        self._round = -(-budget // _ROUNDS)
        self._seed = seed

    def _proposed(self, left: int) -> NDArray[np.float32]:
        rng = np.random.default_rng([self._seed, len(self.asked)])
        if not len(self.asked):
            return self._space.uniform(self._round, rng)
        near = _near_boundary(self.clone(), self._space.uniform(_CANDIDATES, rng), self._round, rng)
        return near if len(near) else self._space.uniform(self._round, rng)


def _near_boundary(
    clone: Classifier, candidates: NDArray[np.float32], rows: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Returns inputs (rows, d) on the boundary of ``clone`` between ``candidates``; none if it gives all of those one
    label."""
    labels = clone.probabilities(candidates).argmax(axis=1)
    first, second = opposite_pairs(labels, rows, rng)
    one, other = candidates[first], candidates[second]
    for _ in range(_HALVINGS if len(first) else 0):
        middle = middle_of(one, other)
        same = clone.probabilities(middle).argmax(axis=1) == labels[first]
        one, other = halved(one, other, middle, same)
    return middle_of(one, other)


def new_uniform(knowledge: Knowledge, budget: int, seed: int) -> UniformExtraction:
    """With a softmax regression as clone."""
    return UniformExtraction(Space.of(knowledge), knowledge.classes, budget, softmax_of_labels, seed=seed)


def new_adaptive(knowledge: Knowledge, budget: int, seed: int) -> AdaptiveRetraining:
    """With a softmax regression as clone. Categorical features are a LabError."""
    return AdaptiveRetraining(Space.continuous(knowledge), knowledge.classes, budget, softmax_of_labels, seed=seed)


def new_rbf_svm(knowledge: Knowledge, budget: int, seed: int) -> AdaptiveRetraining:
    """Adaptive, with an RBF SVM as clone. Categorical features are a LabError."""
    return AdaptiveRetraining(Space.continuous(knowledge), knowledge.classes, budget, rbf_svm_of_labels, seed=seed)
