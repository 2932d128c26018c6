"""Records what the model server told a thief of the demo."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Answers, Classifier
from detector.lab.attackers.attacker import Attacker


class Diary:
    """Wraps ``thief`` and records the leaf of each answered query, where the server returns it."""

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
        """Returns how many distinct leaves the first ``queries`` answers showed; by default, all answers."""
        return len(set(self._leaves[:queries]))
