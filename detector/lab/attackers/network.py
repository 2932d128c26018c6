"""A clone: one hidden layer, trained on the victim's probabilities, with the input gradient that JBDA needs.

Written out in numpy because scikit-learn's perceptron learns labels only and gives no gradient.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_HIDDEN = 32
_BATCH = 32
_LEARNING_RATE = 3e-3
_DECAY_MEAN, _DECAY_SQUARE = 0.9, 0.999


class CloneNetwork:
    """ReLU network d -> 32 -> k with a softmax, fitted by Adam (Kingma and Ba 2015) to soft labels."""

    def __init__(self, dimension: int, classes: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._parameters: list[Array] = [
            rng.normal(0, np.sqrt(2 / dimension), (dimension, _HIDDEN)),
            np.zeros(_HIDDEN),
            rng.normal(0, np.sqrt(1 / _HIDDEN), (_HIDDEN, classes)),
            np.zeros(classes),
        ]
        self._means = [np.zeros_like(each) for each in self._parameters]
        self._squares = [np.zeros_like(each) for each in self._parameters]
        self._steps = 0

    def fit(self, features: Array, targets: Array, epochs: int) -> None:
        """Cross-entropy of ``targets`` (n, k) probabilities for ``features`` (n, d)."""
        for _ in range(epochs):
            order = self._rng.permutation(len(features))
            for rows in np.array_split(order, max(1, len(order) // _BATCH)):
                self._step(self._gradients(features[rows], targets[rows]))

    def probabilities(self, features: NDArray[np.float32]) -> Array:
        return self._forward(features.astype(np.float64))[1]

    def input_gradient(self, features: Array, classes: NDArray[np.int64]) -> Array:
        """Gradient (n, d) of each row's probability of its class in ``classes`` (n,) by its input."""
        hidden, output = self._forward(features)
        rows = np.arange(len(features))
        chosen = output[rows, classes][:, None]
        by_logit = -output * chosen
        by_logit[rows, classes] += chosen[:, 0]
        return self._back_to_hidden(hidden, by_logit) @ self._parameters[0].T

    def _forward(self, features: Array) -> tuple[Array, Array]:
        in_weights, in_bias, out_weights, out_bias = self._parameters
        hidden = np.maximum(features @ in_weights + in_bias, 0)
        logits = hidden @ out_weights + out_bias
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return hidden, powers / powers.sum(axis=1, keepdims=True)

    def _back_to_hidden(self, hidden: Array, by_logit: Array) -> Array:
        through: Array = (by_logit @ self._parameters[2].T) * (hidden > 0)
        return through

    def _gradients(self, features: Array, targets: Array) -> list[Array]:
        hidden, output = self._forward(features)
        by_logit = (output - targets) / len(features)
        by_hidden = self._back_to_hidden(hidden, by_logit)
        return [features.T @ by_hidden, by_hidden.sum(axis=0), hidden.T @ by_logit, by_logit.sum(axis=0)]

    def _step(self, gradients: list[Array]) -> None:
        self._steps += 1
        bias_mean = 1 - _DECAY_MEAN**self._steps
        bias_square = 1 - _DECAY_SQUARE**self._steps
        for value, mean, square, gradient in zip(self._parameters, self._means, self._squares, gradients, strict=True):
            mean[:] += (1 - _DECAY_MEAN) * (gradient - mean)
            square[:] += (1 - _DECAY_SQUARE) * (gradient**2 - square)
            value[:] -= _LEARNING_RATE * (mean / bias_mean) / (np.sqrt(square / bias_square) + 1e-8)
