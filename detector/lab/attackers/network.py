"""A clone: one hidden layer, trained on the victim's probabilities, with the gradients by its input that attacks need.

Written out in numpy because scikit-learn's perceptron learns labels only and gives no gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from detector.lab.attackers.adam import Adam, Array

_HIDDEN = 32
_BATCH = 32
_LEARNING_RATE = 3e-3

LossByLogit = Callable[[Array, Array], Array]
"""(logits (n, k), targets (n, k)) -> the gradient (n, k) of each row's loss by its logits."""


class CloneNetwork:
    """ReLU network d -> 32 -> k with a softmax, fitted by Adam to soft labels. Best with features in 0 to 1.

    A row's logits are what the softmax is taken of, (k,), and its latent features the hidden layer's output, (32,).
    """

    def __init__(self, dimension: int, classes: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._parameters: list[Array] = [
            rng.normal(0, np.sqrt(2 / dimension), (dimension, _HIDDEN)),
            np.zeros(_HIDDEN),
            rng.normal(0, np.sqrt(1 / _HIDDEN), (_HIDDEN, classes)),
            np.zeros(classes),
        ]
        self._optimiser = Adam(self._parameters, _LEARNING_RATE)

    def fit(self, features: Array, targets: Array, epochs: int) -> None:
        """Cross-entropy of ``targets`` (n, k) probabilities for ``features`` (n, d)."""
        self._descend(features, targets, epochs, _cross_entropy_by_logit)

    def fit_logits(self, features: Array, targets: Array, epochs: int) -> None:
        """L1 distance of ``targets`` (n, k) and the logits for ``features`` (n, d), each less its row's mean."""
        self._descend(features, centred(targets), epochs, _distance_by_logit)

    def probabilities(self, features: NDArray[np.float32] | Array) -> Array:
        return self._forward(features.astype(np.float64))[1]

    def logits(self, features: Array) -> Array:
        """(n, k)."""
        return self._logits_of(self.latent(features))

    def latent(self, features: Array) -> Array:
        """(n, 32)."""
        in_weights, in_bias = self._parameters[:2]
        latent: Array = np.maximum(features @ in_weights + in_bias, 0)
        return latent

    def input_gradient(self, features: Array, classes: NDArray[np.int64]) -> Array:
        """Gradient (n, d) of each row's probability of its class in ``classes`` (n,) by its input."""
        hidden, output = self._forward(features)
        rows = np.arange(len(features))
        chosen = output[rows, classes][:, None]
        by_logit = -output * chosen
        by_logit[rows, classes] += chosen[:, 0]
        return self._back_to_hidden(hidden, by_logit) @ self._parameters[0].T

    def loss_gradient(self, features: Array, targets: Array) -> Array:
        """Gradient (n, d) of each row's cross-entropy of ``targets`` (n, k) by its input."""
        return self.logit_gradient(features, self.probabilities(features) - targets)

    def logit_gradient(self, features: Array, by_logit: Array) -> Array:
        """Gradient (n, d) by the input of what changes by ``by_logit`` (n, k) with the logits."""
        return self._back_to_hidden(self.latent(features), by_logit) @ self._parameters[0].T

    def latent_gradient(self, features: Array, by_latent: Array) -> Array:
        """Gradient (n, d) by the input of what changes by ``by_latent`` (n, 32) with the latent features."""
        through: Array = by_latent * (self.latent(features) > 0)
        return through @ self._parameters[0].T

    def _forward(self, features: Array) -> tuple[Array, Array]:
        hidden = self.latent(features)
        return hidden, softmax(self._logits_of(hidden))

    def _logits_of(self, hidden: Array) -> Array:
        out_weights, out_bias = self._parameters[2:]
        return hidden @ out_weights + out_bias

    def _back_to_hidden(self, hidden: Array, by_logit: Array) -> Array:
        through: Array = (by_logit @ self._parameters[2].T) * (hidden > 0)
        return through

    def _descend(self, features: Array, targets: Array, epochs: int, loss_by_logit: LossByLogit) -> None:
        for _ in range(epochs):
            order = self._rng.permutation(len(features))
            for rows in np.array_split(order, max(1, len(order) // _BATCH)):
                self._optimiser.step(self._gradients(features[rows], targets[rows], loss_by_logit))

    def _gradients(self, features: Array, targets: Array, loss_by_logit: LossByLogit) -> list[Array]:
        hidden = self.latent(features)
        by_logit = loss_by_logit(self._logits_of(hidden), targets) / len(features)
        by_hidden = self._back_to_hidden(hidden, by_logit)
        return [features.T @ by_hidden, by_hidden.sum(axis=0), hidden.T @ by_logit, by_logit.sum(axis=0)]


def softmax(logits: Array) -> Array:
    """Probabilities (n, k) of ``logits`` (n, k)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def centred(logits: Array) -> Array:
    """``logits`` (n, k) less each row's mean, which changes no probability."""
    return np.asarray(logits - logits.mean(axis=1, keepdims=True))


def _cross_entropy_by_logit(logits: Array, targets: Array) -> Array:
    return softmax(logits) - targets


def _distance_by_logit(logits: Array, targets: Array) -> Array:
    return centred(np.sign(centred(logits) - targets))
