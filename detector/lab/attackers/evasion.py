"""What evasions share: own inputs, turned one after another until they pass for another class."""

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
    """Asks about his own inputs, in an order drawn by ``seed``, until the budget is spent or all were tried.

    ``originals`` float64 (n, d): they, in shares of the ranges, in that order. ``found``: for the row of each that the
    victim was made to name otherwise, the nearest such input (d,) so far. Categorical features are a LabError.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        self._ranges = Space.continuous(knowledge).ranges
        self._rng = np.random.default_rng([seed, 0])
        self.originals = self._ranges.shares(knowledge.own[self._rng.permutation(len(knowledge.own))])
        self.found: dict[int, Array] = {}
        self._dialogue = Dialogue(self._questions(), budget)

    @abstractmethod
    def _turn(self, row: int) -> Questions:
        """Asks about the original in ``row``, and puts what it finds in ``found``."""

    def next_batch(self) -> NDArray[np.float32]:
        return self._dialogue.next_batch()

    def observe(self, features: NDArray[np.float32], answers: Answers) -> None:
        self._dialogue.observe(features, answers)

    def clone(self) -> Classifier:
        """Raises LabError: an evasion steals nothing."""
        raise LabError("an evasion makes no clone; what it made is in `found`")

    def distances(self) -> Array:
        """Of each input in ``found`` from its original, Euclidean, in shares of the ranges."""
        moved = [found - self.originals[row] for row, found in self.found.items()]
        return np.asarray(np.linalg.norm(np.reshape(moved, (len(moved), self.originals.shape[1])), axis=1))

    def _questions(self) -> Questions:
        for row in range(len(self.originals)):
            yield from self._turn(row)
