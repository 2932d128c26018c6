"""How good a stolen clone is: agreement with the victim's label (1 - R_test and 1 - R_unif of Tramèr et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Classifier

UNIFORM_ROWS = 4_000


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Share of inputs, 0 to 1, on which clone and victim name the same class, and what the clone cost.

    ``test`` over held-out natural inputs, ``uniform`` over the whole input space [0, 1]^d.
    """

    queries: int
    test: float
    uniform: float


def agreement(victim: Classifier, clone: Classifier, features: NDArray[np.float32]) -> float:
    """Share of the rows of ``features`` on which both name the same class."""
    theirs = clone.probabilities(features).argmax(axis=1)
    return float((victim.probabilities(features).argmax(axis=1) == theirs).mean())


def measure(victim: Classifier, clone: Classifier, test: NDArray[np.float32], queries: int, seed: int) -> Fidelity:
    """Fidelity on ``test`` (n, d) and on 4,000 uniform inputs drawn by ``seed``."""
    rng = np.random.default_rng(seed)
    uniform = rng.random((UNIFORM_ROWS, test.shape[1]), dtype=np.float32)
    return Fidelity(queries, agreement(victim, clone, test), agreement(victim, clone, uniform))
