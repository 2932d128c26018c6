"""Jacobian-based dataset augmentation (Papernot, McDaniel, Goodfellow, Jha, Celik and Swami, AsiaCCS 2017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Answers
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.network import CloneNetwork

SEEDS = 100
STEP = 0.1
_UPDATES = 6_000
"""Rows shown to the clone in training are about this many batches of work whatever the data set's size."""


class JacobianAugmentation:
    """Asks natural ``seeds`` (n, d) first; then every round doubles the set.

    Each known x with the victim's label c gives x' = clip(x + ``step`` * sign(dF_c/dx), 0, 1), F the clone
    trained on all answers so far. Ends after ``budget`` queries.
    """

    def __init__(self, seeds: NDArray[np.float32], classes: int, *, budget: int, step: float, seed: int) -> None:
        self._features = np.empty((0, seeds.shape[1]))
        self._answers = np.empty((0, classes))
        self._seeds = seeds
        self._classes = classes
        self._budget = budget
        self._step = step
        self._seed = seed

    def next_batch(self) -> NDArray[np.float32]:
        known = len(self._features)
        batch = self._augmented() if known else self._seeds
        return batch[: self._budget - known]

    def observe(self, features: NDArray[np.float32], answers: Answers) -> None:
        self._features = np.concatenate([self._features, features])
        self._answers = np.concatenate([self._answers, answers.probabilities])

    def clone(self) -> CloneNetwork:
        """A network trained afresh on everything observed, the same for the same answers."""
        rng = np.random.default_rng([self._seed, len(self._features)])
        network = CloneNetwork(self._features.shape[1], self._classes, rng)
        network.fit(self._features, self._answers, epochs=max(20, _UPDATES // len(self._features)))
        return network

    def _augmented(self) -> NDArray[np.float32]:
        gradient = self.clone().input_gradient(self._features, self._answers.argmax(axis=1))
        moved = np.clip(self._features + self._step * np.sign(gradient), 0, 1)
        return moved.astype(np.float32)


def new(knowledge: Knowledge, budget: int, seed: int) -> JacobianAugmentation:
    """With 100 natural inputs of his own and step 0.1 of the range, as in the attack's published code."""
    order = np.random.default_rng([seed, 1]).permutation(len(knowledge.own))
    seeds = knowledge.own[order[:SEEDS]]
    return JacobianAugmentation(seeds, knowledge.classes, budget=budget, step=STEP, seed=seed)
