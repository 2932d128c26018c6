"""APIs that say less than their model knows: the two plainest defences (Tramèr et al. 2016, section 7)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers, Victim


class Rounded:
    """Says probabilities to ``digits`` decimals only. Rows are not made to sum to 1 again, as published.

    ``probabilities`` are still the model's own, by which clones are judged. Nodes of trees are not told.
    """

    def __init__(self, victim: Victim, digits: int) -> None:
        self._victim = victim
        self._digits = digits

    @property
    def output_kind(self) -> OutputKind:
        return self._victim.output_kind

    def answer(self, features: NDArray[np.float32]) -> Answers:
        return Answers(self._victim.answer(features).probabilities.round(self._digits))

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._victim.probabilities(features)


class LabelOnly:
    """Says the likeliest class, as a row that is 1 there, and nothing else.

    ``probabilities`` are still the model's own, by which clones are judged.
    """

    output_kind: OutputKind = "label"

    def __init__(self, victim: Victim) -> None:
        self._victim = victim

    def answer(self, features: NDArray[np.float32]) -> Answers:
        said = self._victim.answer(features)
        return Answers(np.eye(said.probabilities.shape[1])[said.labels])

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._victim.probabilities(features)
