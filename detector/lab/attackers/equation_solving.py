"""Equation solving (Tramèr, Zhang, Juels, Reiter and Ristenpart, USENIX Security 2016, section 4.1).

Each answer is a set of equations in the model's parameters: uniform inputs, one batch, nothing adaptive. A logistic
model takes as many as it has parameters, d + 1, a softmax no more than its c(d + 1), a perceptron some times the
k = d h + h + h c + c of its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.extraction import UniformExtraction
from detector.lab.attackers.softmax import fit_softmax
from detector.lab.attackers.space import Space
from detector.lab.attackers.tanh_network import TanhNetwork, fit_tanh_network


def new(knowledge: Knowledge, budget: int, seed: int) -> UniformExtraction:
    """Against logistic and softmax regression."""
    return UniformExtraction(Space.of(knowledge), knowledge.classes, budget, fit_softmax, seed=seed)


def new_mlp(knowledge: Knowledge, budget: int, seed: int) -> UniformExtraction:
    """Against a perceptron with one hidden layer, 20 units as published."""

    def train(features: NDArray[np.float64], probabilities: NDArray[np.float64]) -> TanhNetwork:
        return fit_tanh_network(features, probabilities, np.random.default_rng([seed, len(features)]))

    return UniformExtraction(Space.of(knowledge), knowledge.classes, budget, train, seed=seed)
