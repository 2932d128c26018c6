"""A softmax regression that reproduces given probabilities: the clone of equation solving and of retraining.

Two classes are the logistic case: the log-ratio of the two probabilities is the logit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.lab.attackers.network import softmax

Array = NDArray[np.float64]

_ITERATIONS = 500


class SoftmaxRegression:
    """softmax([x, 1] W), ``weights`` W (d + 1, k)."""

    def __init__(self, weights: Array) -> None:
        self._weights = weights

    def probabilities(self, features: NDArray[np.float32]) -> Array:
        return softmax(_with_one(features) @ self._weights)


def fit_softmax(features: Array, probabilities: Array) -> SoftmaxRegression:
    """Solves log(p_j / p_0) = (w_j - w_0) x + b_j - b_0, which exact answers of d + 1 inputs determine.

    Where answers are rounded or only labels, the solution is the start from which L-BFGS lowers the cross-entropy;
    after exact answers it ends at once, because nothing is left to lower. ``features`` (n, d) should be of order 1;
    ``probabilities`` (n, k).
    """
    from scipy.optimize import minimize

    inputs, probabilities = _with_one(features), summing_to_one(probabilities)
    start = _solved(inputs, probabilities)

    def loss(flat: Array) -> tuple[float, Array]:
        logits = inputs @ flat.reshape(start.shape)
        by_logit = softmax(logits) - probabilities
        return cross_entropy(logits, probabilities), (inputs.T @ by_logit).ravel() / len(inputs)

    options = {"maxiter": _ITERATIONS, "gtol": 1e-9, "ftol": 1e-15}
    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    return SoftmaxRegression(found.x.reshape(start.shape))


def summing_to_one(probabilities: Array) -> Array:
    """Rounded rows do not, and the cross-entropy of such a row has no minimum."""
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


def cross_entropy(logits: Array, probabilities: Array) -> float:
    """Mean over the rows of -sum p log softmax(logits)."""
    from scipy.special import logsumexp

    return float((logsumexp(logits, axis=1) - (probabilities * logits).sum(axis=1)).mean())


def _solved(inputs: Array, probabilities: Array) -> Array:
    """Weights (d + 1, k), those of class 0 being 0, by least squares over the rows in which no class has 0."""
    rows = (probabilities > 0).all(axis=1)
    logarithms = np.log(probabilities[rows])
    weights: Array = np.linalg.lstsq(inputs[rows], logarithms - logarithms[:, :1])[0]
    return weights


def _with_one(features: NDArray[np.floating]) -> Array:
    return np.column_stack([features.astype(np.float64), np.ones(len(features))])
