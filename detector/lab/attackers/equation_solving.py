"""Equation solving (Tramèr, Zhang, Juels, Reiter and Ristenpart, USENIX Security 2016, section 4.1).

Each answer is a set of equations in the model's parameters: uniform inputs, one batch, nothing adaptive. A logistic
model takes as many as it has parameters, d + 1, a softmax no more than its c(d + 1), a perceptron some times the
k = d h + h + h c + c of its own.
"""

from __future__ import annotations

import numpy as np

from detector.lab.answers import Classifier
from detector.lab.attackers.attacker import Inputs
from detector.lab.attackers.input_space import Model, ScaledClone
from detector.lab.attackers.substitute import Extraction
from detector.lab.networks import Array, minimum, softmax

HIDDEN = 20

_ITERATIONS = 500
_RESTARTS = 4
_TRIAL_ITERATIONS = 60
_FINAL_ITERATIONS = 600
_PRECISION = {"gtol": 1e-9, "ftol": 1e-15}


class EquationSolving(Extraction):
    """Against logistic and softmax regression: the whole budget at once; refused queries are replaced by new draws."""

    def _round(self) -> Inputs:
        return self._space.uniform(self._left, self._rng())

    def _trained(self) -> Classifier:
        return ScaledClone(self._space.scaled, self._fitted(self._space.scaled(self._features), self._answers))

    def _fitted(self, features: Array, probabilities: Array) -> Model:
        """Returns a model of ``features`` (n, d), scaled to [-1, 1], with the answers ``probabilities`` (n, k)."""
        return fit_softmax(features, probabilities)


class PerceptronSolving(EquationSolving):
    """Against a perceptron with one hidden layer, 20 tanh units as published."""

    def _fitted(self, features: Array, probabilities: Array) -> Model:
        return fit_tanh_network(features, probabilities, self._rng())


class SoftmaxRegression:
    """softmax([x, 1] W), ``weights`` W (d + 1, k). Two classes are the logistic case."""

    def __init__(self, weights: Array) -> None:
        self._weights = weights

    def probabilities(self, features: Array) -> Array:
        return softmax(_with_one(features) @ self._weights)


def fit_softmax(features: Array, probabilities: Array) -> SoftmaxRegression:
    """Solves log(p_j / p_0) = (w_j - w_0) x + b_j - b_0, which exact answers of d + 1 inputs determine.

    If answers are rounded or labels, L-BFGS lowers the cross-entropy from that solution; after exact answers it ends
    immediately, because nothing is left to lower. ``features`` (n, d) should be of order 1; ``probabilities`` (n, k).
    """
    inputs, probabilities = _with_one(features), _summing_to_one(probabilities)
    start = _solution(inputs, probabilities)

    def loss(weights: Array) -> tuple[float, Array]:
        logits = inputs @ weights
        by_logit = softmax(logits) - probabilities
        return _cross_entropy(logits, probabilities), inputs.T @ by_logit / len(inputs)

    return SoftmaxRegression(minimum(loss, start, {"maxiter": _ITERATIONS, **_PRECISION})[0])


class TanhNetwork:
    """softmax(tanh(x A + a) B + b), its k = d h + h + h c + c ``parameters`` in one vector in that order."""

    def __init__(self, dimension: int, classes: int, parameters: Array) -> None:
        cuts = np.cumsum([dimension * HIDDEN, HIDDEN, HIDDEN * classes])
        inward, self._inward_bias, outward, self._outward_bias = np.split(parameters, cuts)
        self._inward = inward.reshape(dimension, HIDDEN)
        self._outward = outward.reshape(HIDDEN, classes)

    def probabilities(self, features: Array) -> Array:
        return softmax(self._forward(features)[1])

    def loss(self, features: Array, targets: Array) -> tuple[float, Array]:
        """Returns the cross-entropy of ``targets`` (n, c) at ``features`` (n, d), and its gradient (k,)."""
        hidden, logits = self._forward(features)
        by_logit = (softmax(logits) - targets) / len(features)
        by_hidden = by_logit @ self._outward.T * (1 - hidden**2)
        parts = (features.T @ by_hidden, by_hidden.sum(axis=0), hidden.T @ by_logit, by_logit.sum(axis=0))
        return _cross_entropy(logits, targets), np.concatenate([part.ravel() for part in parts])

    def _forward(self, features: Array) -> tuple[Array, Array]:
        hidden = np.tanh(features @ self._inward + self._inward_bias)
        return hidden, hidden @ self._outward + self._outward_bias


def fit_tanh_network(features: Array, probabilities: Array, rng: np.random.Generator) -> TanhNetwork:
    """Fits ``probabilities`` (n, c) at ``features`` (n, d) by L-BFGS: four short fits from random starts, then the best
    one continues."""
    dimension, classes = features.shape[1], probabilities.shape[1]
    targets = _summing_to_one(probabilities)

    def loss(parameters: Array) -> tuple[float, Array]:
        return TanhNetwork(dimension, classes, parameters).loss(features, targets)

    def fitted(start: Array, iterations: int) -> tuple[Array, float]:
        return minimum(loss, start, {"maxiter": iterations, "maxfun": 2 * iterations, **_PRECISION})

    starts = [_random_start(dimension, classes, rng) for _ in range(_RESTARTS)]
    best, _ = min((fitted(start, _TRIAL_ITERATIONS) for start in starts), key=lambda trial: trial[1])
    return TanhNetwork(dimension, classes, fitted(best, _FINAL_ITERATIONS)[0])


def _random_start(dimension: int, classes: int, rng: np.random.Generator) -> Array:
    inward = rng.normal(0, 1 / np.sqrt(dimension), dimension * HIDDEN)
    outward = rng.normal(0, 1 / np.sqrt(HIDDEN), HIDDEN * classes)
    return np.concatenate([inward, np.zeros(HIDDEN), outward, np.zeros(classes)])


def _solution(inputs: Array, probabilities: Array) -> Array:
    """Returns weights (d + 1, k), those of class 0 being 0, by least squares over the rows in which no class has 0."""
    rows = (probabilities > 0).all(axis=1)
    logarithms = np.log(probabilities[rows])
    weights: Array = np.linalg.lstsq(inputs[rows], logarithms - logarithms[:, :1])[0]
    return weights


def _cross_entropy(logits: Array, probabilities: Array) -> float:
    """Returns the mean over the rows of -sum p log softmax(logits)."""
    from scipy.special import logsumexp

    return float((logsumexp(logits, axis=1) - (probabilities * logits).sum(axis=1)).mean())


def _summing_to_one(probabilities: Array) -> Array:
    """Returns rows that sum to 1. Rounded rows do not, and the cross-entropy of such a row has no minimum."""
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


def _with_one(features: Array) -> Array:
    return np.column_stack([features, np.ones(len(features))])
