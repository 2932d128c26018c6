"""The multilayer perceptron of Tramèr et al. 2016 as a clone: one hidden layer of tanh units, fitted by L-BFGS."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.lab.attackers.network import softmax
from detector.lab.attackers.softmax import cross_entropy, summing_to_one

Array = NDArray[np.float64]

HIDDEN = 20
_RESTARTS = 4
_TRIAL_ITERATIONS = 60
_ITERATIONS = 600


class TanhNetwork:
    """softmax(tanh(x A + a) B + b), its k = d h + h + h c + c ``parameters`` in one vector in that order."""

    def __init__(self, dimension: int, classes: int, parameters: Array) -> None:
        cuts = np.cumsum([dimension * HIDDEN, HIDDEN, HIDDEN * classes])
        inward, self._inward_bias, outward, self._outward_bias = np.split(parameters, cuts)
        self._inward = inward.reshape(dimension, HIDDEN)
        self._outward = outward.reshape(HIDDEN, classes)

    def probabilities(self, features: NDArray[np.float32]) -> Array:
        return softmax(self._logits(self._hidden(features.astype(np.float64))))

    def loss(self, features: Array, targets: Array) -> tuple[float, Array]:
        """Cross-entropy of ``targets`` (n, c) probabilities at ``features`` (n, d), and its gradient (k,)."""
        hidden = self._hidden(features)
        logits = self._logits(hidden)
        by_logit = (softmax(logits) - targets) / len(features)
        by_hidden = by_logit @ self._outward.T * (1 - hidden**2)
        parts = (features.T @ by_hidden, by_hidden.sum(axis=0), hidden.T @ by_logit, by_logit.sum(axis=0))
        return cross_entropy(logits, targets), np.concatenate([part.ravel() for part in parts])

    def _hidden(self, features: Array) -> Array:
        return np.tanh(features @ self._inward + self._inward_bias)

    def _logits(self, hidden: Array) -> Array:
        return np.asarray(hidden @ self._outward + self._outward_bias)


def fit_tanh_network(features: Array, probabilities: Array, rng: np.random.Generator) -> TanhNetwork:
    """To ``probabilities`` (n, c) at ``features`` (n, d): four short fits from random starts, then the best goes on."""
    dimension, classes = features.shape[1], probabilities.shape[1]
    targets = summing_to_one(probabilities)

    def loss(parameters: Array) -> tuple[float, Array]:
        return TanhNetwork(dimension, classes, parameters).loss(features, targets)

    starts = [_random_start(dimension, classes, rng) for _ in range(_RESTARTS)]
    trials = [_minimised(loss, start, _TRIAL_ITERATIONS) for start in starts]
    best = min(trials, key=lambda trial: float(trial.fun))
    return TanhNetwork(dimension, classes, _minimised(loss, best.x, _ITERATIONS).x)


def _random_start(dimension: int, classes: int, rng: np.random.Generator) -> Array:
    inward = rng.normal(0, 1 / np.sqrt(dimension), dimension * HIDDEN)
    outward = rng.normal(0, 1 / np.sqrt(HIDDEN), HIDDEN * classes)
    return np.concatenate([inward, np.zeros(HIDDEN), outward, np.zeros(classes)])


def _minimised(loss: Any, start: Array, iterations: int) -> Any:
    from scipy.optimize import minimize

    options = {"maxiter": iterations, "maxfun": 2 * iterations, "gtol": 1e-9, "ftol": 1e-15}
    return minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
