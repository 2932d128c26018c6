"""What a thief of the demo was told, kept beside him."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Answers, Classifier
from detector.lab.attackers.attacker import Attacker


class Diary:
    """``thief``, and the leaves at which his queries ended, where the service tells."""

    def __init__(self, thief: Attacker) -> None:
        self._thief = thief
        self._leaves: list[int] = []

    def next_batch(self) -> NDArray[np.float32]:
        return self._thief.next_batch()

    def observe(self, features: NDArray[np.float32], answers: Answers) -> None:
        if answers.leaf is not None:
            self._leaves += answers.leaf.tolist()
        self._thief.observe(features, answers)

    def clone(self) -> Classifier:
        return self._thief.clone()

    def leaves(self, queries: int | None = None) -> int:
        """How many leaves he had seen after so many answers, or after all."""
        return len(set(self._leaves[:queries]))
