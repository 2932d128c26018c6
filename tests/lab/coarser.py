"""APIs that return coarser answers than their model gives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers, Victim
from detector.lab.networks import Array, one_hot

Features = NDArray[np.float32]


class Rounded:
    """Returns probabilities to ``digits`` decimals only, the plainest defence with ``LabelOnly`` (Tramèr et al. 2016,
    section 7). Rows are not made to sum to 1 again, as published.

    ``probabilities`` are still the model's own, by which clones are judged. Nodes of trees are not returned.
    """

    def __init__(self, victim: Victim, digits: int) -> None:
        self._victim = victim
        self._digits = digits
        self.output_kind: OutputKind = victim.output_kind

    def answer(self, features: Features) -> Answers:
        return Answers(self._victim.answer(features).probabilities.round(self._digits))

    def probabilities(self, features: Features) -> Array:
        return self._victim.probabilities(features)


class LabelOnly:
    """Returns the likeliest class, as a row that is 1 there, and nothing else.

    ``probabilities`` are still the model's own, by which clones are judged.
    """

    output_kind: OutputKind = "label"

    def __init__(self, victim: Victim) -> None:
        self._victim = victim

    def answer(self, features: Features) -> Answers:
        answers = self._victim.answer(features)
        return Answers(one_hot(answers.labels, answers.probabilities.shape[1]))

    def probabilities(self, features: Features) -> Array:
        return self._victim.probabilities(features)
