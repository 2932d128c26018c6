"""Model inversion (Fredrikson, Jha and Ristenpart, CCS 2015), black-box by numerical gradients (Tramèr et al. 2016)."""

from __future__ import annotations

import numpy as np

from detector.lab.attackers.attacker import Dialogue, Inputs, Knowledge, Labels, Questions
from detector.lab.attackers.input_space import InputSpace, LabelModel
from detector.lab.networks import Array

CONFIDENCE = 0.99
STEP = 0.02
STEPS = 100
DIFFERENCE = 0.01

_NOISE = 0.01


class ModelInversion(Dialogue):
    """Climbs to an input that the victim is sure of, for one class after another.

    From about the middle of the range it takes steps of length ``STEP`` * sqrt(d), in shares of the ranges, up the
    gradient of the class's probability: 2 d queries per step. A class is done at ``CONFIDENCE``, where the gradient
    vanishes, or after ``STEPS``. ``recovered`` float64 (k, d): the latest input of each class, in shares; a class not
    begun is in the middle of the range. Raises LabError for categorical features.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        self._space = InputSpace.continuous(knowledge)
        rng = np.random.default_rng([seed, 0])
        noise = rng.uniform(-_NOISE, _NOISE, (knowledge.classes, knowledge.dimension))
        self.recovered: Array = 0.5 + noise
        super().__init__(self._climb(), budget)

    def clone(self) -> LabelModel:
        """Returns the classifier that names the class whose recovered input is nearest."""
        space, recovered = self._space, self.recovered

        def nearest(features: Inputs) -> Labels:
            distances = (recovered**2).sum(axis=1) - 2 * space.shares(features) @ recovered.T
            return np.asarray(distances.argmin(axis=1))

        return LabelModel(nearest, len(recovered))

    def _climb(self) -> Questions:
        for label in range(len(self.recovered)):
            for _ in range(STEPS):
                around = neighbours(self.recovered[label])
                chances = (yield self._space.features(around)).probabilities[:, label]
                slope = gradient(around, chances)
                steepness = np.linalg.norm(slope)
                if chances.mean() >= CONFIDENCE or steepness == 0:
                    break
                move = STEP * np.sqrt(len(slope)) * slope / steepness
                self.recovered[label] = np.clip(self.recovered[label] + move, 0, 1)


def neighbours(shares: Array) -> Array:
    """Returns the 2 d inputs (2d, d), in [0, 1], that are ``DIFFERENCE`` above, then below ``shares`` (d,) in one
    feature."""
    steps = DIFFERENCE * np.eye(len(shares))
    return np.asarray(np.clip(np.concatenate([shares + steps, shares - steps]), 0, 1))


def gradient(around: Array, values: Array) -> Array:
    """Returns the two-sided differences (d,) of a function with ``values`` (2d,) at the inputs ``around`` (2d, d)."""
    above, below = np.split(values, 2)
    points_above, points_below = np.split(around, 2)
    return (above - below) / np.diagonal(points_above - points_below)
