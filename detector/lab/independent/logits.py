"""What the toolbox is told where it wants logits."""

from __future__ import annotations

import numpy as np

from detector.lab.answers import Answers
from detector.lab.attackers.adam import Array

_LEAST = 1e-12


def logits(answers: Answers) -> Array:
    """The logs (n, k) of the probabilities, which are logits but for a constant in each row; at least log 1e-12."""
    return np.asarray(np.log(np.maximum(answers.probabilities, _LEAST)))
