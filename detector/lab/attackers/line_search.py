"""Line-search retraining (Tramèr, Zhang, Juels, Reiter and Ristenpart, USENIX Security 2016, section 6)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Answers
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.dialogue import Dialogue, Questions
from detector.lab.attackers.extraction import Extraction
from detector.lab.attackers.label_models import softmax_of_labels
from detector.lab.attackers.lines import halved, middle_of, opposite_pairs
from detector.lab.attackers.space import Space

_CLOSE = 1e-3
"""A search ends when its two ends are nearer than this times sqrt(d), features being scaled to [-1, 1]."""
_PAIRS = 10
_DRAWN = 20


class LineSearchRetraining(Extraction):
    """Asks 20 uniform inputs, then searches 10 lines between those with different labels, and so on anew.

    The lines of a round advance together. Every answer trains the clone, a softmax regression.
    """

    def __init__(self, space: Space, classes: int, budget: int, *, seed: int) -> None:
        super().__init__(space, classes, budget, softmax_of_labels)
        self._rng = np.random.default_rng([seed, 0])
        self._dialogue = Dialogue(self._questions(), budget)

    def _proposed(self, left: int) -> NDArray[np.float32]:
        return self._dialogue.next_batch()

    def observe(self, features: NDArray[np.float32], answers: Answers) -> None:
        super().observe(features, answers)
        self._dialogue.observe(features, answers)

    def _questions(self) -> Questions:
        while True:
            drawn = self._space.uniform(_DRAWN, self._rng)
            labels = (yield drawn).labels
            one, other = opposite_pairs(labels, _PAIRS, self._rng)
            if len(one):
                yield from self._search(drawn[one], drawn[other], labels[one])

    def _search(self, one: NDArray[np.float32], other: NDArray[np.float32], labels: NDArray[np.int64]) -> Questions:
        """Halves the segments ``one`` to ``other`` (n, d), ``labels`` (n,) those of ``one``, until all are short."""
        while self._longest(one, other) > _CLOSE:
            middle = middle_of(one, other)
            one, other = halved(one, other, middle, (yield middle).labels == labels)

    def _longest(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        gaps = np.linalg.norm(self._space.scaled(one) - self._space.scaled(other), axis=1)
        return float(gaps.max() / np.sqrt(self._space.dimension))


def new(knowledge: Knowledge, budget: int, seed: int) -> LineSearchRetraining:
    """Categorical features are a LabError."""
    return LineSearchRetraining(Space.continuous(knowledge), knowledge.classes, budget, seed=seed)
