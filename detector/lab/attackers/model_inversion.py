"""Model inversion (Fredrikson, Jha and Ristenpart, CCS 2015), black-box by numerical gradients (Tramèr et al. 2016)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Answers
from detector.lab.attackers.adam import Array
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.dialogue import Dialogue, Questions
from detector.lab.attackers.numerical import gradient, neighbours
from detector.lab.attackers.ranges import Ranges
from detector.lab.attackers.space import Space

CONFIDENCE = 0.99
STEP = 0.02
STEPS = 100
_NOISE = 0.01


class NearestInversion:
    """Names the class whose ``recovered`` input (k, d), in shares of the ranges, is nearest."""

    def __init__(self, ranges: Ranges, recovered: Array) -> None:
        self._ranges = ranges
        self._recovered = recovered

    def probabilities(self, features: NDArray[np.float32]) -> Array:
        """1 at the class named, (n, k), of ``features`` (n, d)."""
        shares = self._ranges.shares(features)
        distances = (self._recovered**2).sum(axis=1) - 2 * shares @ self._recovered.T
        return np.asarray(np.eye(len(self._recovered))[distances.argmin(axis=1)])


class ModelInversion:
    """Climbs to an input that the victim is sure of, for one class after another.

    From about the middle of the range it takes steps of length ``STEP`` * sqrt(d), in shares of the ranges, up the
    gradient of the class's probability: 2 d queries a step. A class is done at ``CONFIDENCE``, where the gradient
    vanishes, or after ``STEPS``. ``recovered`` float64 (k, d): where it stands for each class, in shares.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        self._ranges = Space.continuous(knowledge).ranges
        rng = np.random.default_rng([seed, 0])
        noise = rng.uniform(-_NOISE, _NOISE, (knowledge.classes, knowledge.dimension))
        self.recovered: Array = 0.5 + noise
        self._dialogue = Dialogue(self._questions(), budget)

    def next_batch(self) -> NDArray[np.float32]:
        return self._dialogue.next_batch()

    def observe(self, features: NDArray[np.float32], answers: Answers) -> None:
        self._dialogue.observe(features, answers)

    def clone(self) -> NearestInversion:
        """Judges by the inputs recovered so far; a class not begun is in the middle of the range."""
        return NearestInversion(self._ranges, self.recovered)

    def _questions(self) -> Questions:
        for label in range(len(self.recovered)):
            for _ in range(STEPS):
                around = neighbours(self.recovered[label])
                chances = (yield self._ranges.features(around)).probabilities[:, label]
                slope = gradient(around, chances)
                steepness = np.linalg.norm(slope)
                if chances.mean() >= CONFIDENCE or steepness == 0:
                    break
                move = STEP * np.sqrt(len(slope)) * slope / steepness
                self.recovered[label] = np.clip(self.recovered[label] + move, 0, 1)


def new(knowledge: Knowledge, budget: int, seed: int) -> ModelInversion:
    """Categorical features are a LabError."""
    return ModelInversion(knowledge, budget, seed)
