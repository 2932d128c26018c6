"""The base of evasions: changes own inputs one after another until the victim gives them another class."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.answers import Answers, Classifier
from detector.lab.attackers.adam import Array
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.dialogue import Dialogue, Questions
from detector.lab.attackers.space import Space


class Evasion(ABC):
    """Queries the thief's own inputs, in an order drawn by ``seed``, until the budget is spent or all were tried.

    ``originals`` float64 (n, d): the inputs, in shares of the ranges, in that order. ``found``: by row, for each input
    with another class found, the nearest such input (d,) so far. Raises LabError for categorical features.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        self._ranges = Space.continuous(knowledge).ranges
        self._rng = np.random.default_rng([seed, 0])
        self.originals = self._ranges.shares(knowledge.own[self._rng.permutation(len(knowledge.own))])
        self.found: dict[int, Array] = {}
        self._dialogue = Dialogue(self._questions(), budget)

    @abstractmethod
    def _turn(self, row: int) -> Questions:
        """Queries around the original in ``row``, and puts what it finds in ``found``."""

    def next_batch(self) -> NDArray[np.float32]:
        return self._dialogue.next_batch()

    def observe(self, features: NDArray[np.float32], answers: Answers) -> None:
        self._dialogue.observe(features, answers)

    def clone(self) -> Classifier:
        """Raises LabError: an evasion steals nothing."""
        raise LabError("an evasion makes no clone; what it made is in `found`")

    def distances(self) -> Array:
        """Returns the distance of each input in ``found`` from its original, Euclidean, in shares of the ranges."""
        moved = [found - self.originals[row] for row, found in self.found.items()]
        return np.asarray(np.linalg.norm(np.reshape(moved, (len(moved), self.originals.shape[1])), axis=1))

    def _questions(self) -> Questions:
        for row in range(len(self.originals)):
            yield from self._turn(row)
