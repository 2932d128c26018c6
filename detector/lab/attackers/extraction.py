"""What most extractions share: everything asked and answered is kept, and the clone is made of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.answers import Answers, Classifier
from detector.lab.attackers.space import Space

Array = NDArray[np.float64]

Train = Callable[[Array, Array], Classifier]
"""(features (n, d) scaled to [-1, 1], answered probabilities (n, k)) -> a classifier of features scaled so."""


class ScaledClone:
    """A classifier of scaled features, put behind the scaling."""

    def __init__(self, space: Space, inner: Classifier) -> None:
        self._space = space
        self._inner = inner

    def probabilities(self, features: NDArray[np.float32]) -> Array:
        return self._inner.probabilities(self._space.scaled(features))  # type: ignore[arg-type]


class Extraction(ABC):
    """Asks ``_proposed`` inputs until the ``budget`` is spent or it proposes none; ``train`` makes the clone.

    ``asked`` float32 (n, d) and ``answered`` float64 (n, k): everything so far, in order.
    """

    def __init__(self, space: Space, classes: int, budget: int, train: Train) -> None:
        self._space = space
        self._budget = budget
        self._train = train
        self.asked = np.empty((0, space.dimension), np.float32)
        self.answered = np.empty((0, classes))

    @abstractmethod
    def _proposed(self, left: int) -> NDArray[np.float32]:
        """The inputs to ask next, when ``left`` >= 1 queries may still be made; more than that are cut off."""

    def next_batch(self) -> NDArray[np.float32]:
        left = self._budget - len(self.asked)
        return self._proposed(left)[:left] if left > 0 else self.asked[:0]

    def observe(self, features: NDArray[np.float32], answers: Answers) -> None:
        self.asked = np.concatenate([self.asked, features])
        self.answered = np.concatenate([self.answered, answers.probabilities])

    def clone(self) -> Classifier:
        """Raises LabError before the first answer."""
        if not len(self.asked):
            raise LabError("nothing has been answered yet, so there is nothing to make a clone of")
        return ScaledClone(self._space, self._train(self._space.scaled(self.asked), self.answered))


class UniformExtraction(Extraction):
    """The whole budget at once, uniform over the input space; what was refused is drawn anew."""

    def __init__(self, space: Space, classes: int, budget: int, train: Train, *, seed: int) -> None:
        super().__init__(space, classes, budget, train)
        self._seed = seed

    def _proposed(self, left: int) -> NDArray[np.float32]:
        return self._space.uniform(left, np.random.default_rng([self._seed, len(self.asked)]))
