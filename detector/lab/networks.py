"""Networks with one hidden layer, their gradients, and Adam: the parts of clones, victims and generators.

Written in numpy because scikit-learn's perceptron learns from labels only, and hides its loss and its gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

Loss = Callable[[Array, Rows], Array]
"""(logits (m, k) of a batch, its row numbers (m,)) -> the gradient (m, k) of each row's loss by its logits."""

LEARNING_RATE = 3e-3
HIDDEN = 32
BATCH = 32

_DECAY_MEAN, _DECAY_SQUARE = 0.9, 0.999


class Adam:
    """Lowers a loss by changing ``parameters`` in place, each by about ``rate`` per step (Kingma and Ba, ICLR 2015)."""

    def __init__(self, parameters: Sequence[Array], rate: float = LEARNING_RATE) -> None:
        self._rate = rate
        self._parameters = parameters
        self._means = [np.zeros_like(parameter) for parameter in parameters]
        self._squares = [np.zeros_like(parameter) for parameter in parameters]
        self._steps = 0

    def step(self, gradients: Sequence[Array]) -> None:
        """Takes one step against ``gradients`` of the loss, which have the order and shapes of the parameters."""
        self._steps += 1
        bias_mean = 1 - _DECAY_MEAN**self._steps
        bias_square = 1 - _DECAY_SQUARE**self._steps
        for value, mean, square, gradient in zip(self._parameters, self._means, self._squares, gradients, strict=True):
            mean[:] += (1 - _DECAY_MEAN) * (gradient - mean)
            square[:] += (1 - _DECAY_SQUARE) * (gradient**2 - square)
            value[:] -= self._rate * (mean / bias_mean) / (np.sqrt(square / bias_square) + 1e-8)


class Network:
    """ReLU network d -> ``hidden`` -> k with a softmax, trained by Adam at ``rate``. Best with features in 0 to 1.

    The latent features of a row are the output of the hidden layer, (hidden,); its logits are the input of the softmax,
    (k,). ``output_spread``: the standard deviation of the first weights of the output, by default sqrt(1 / hidden).
    ``rng`` draws the first weights and the order of the rows in training.
    """

    def __init__(
        self,
        dimension: int,
        classes: int,
        rng: np.random.Generator,
        hidden: int = HIDDEN,
        *,
        output_spread: float | None = None,
        rate: float = LEARNING_RATE,
    ) -> None:
        self._rng = rng
        spread = np.sqrt(1 / hidden) if output_spread is None else output_spread
        self._parameters: list[Array] = [
            rng.normal(0, np.sqrt(2 / dimension), (dimension, hidden)),
            np.zeros(hidden),
            rng.normal(0, spread, (hidden, classes)),
            np.zeros(classes),
        ]
        self._optimiser = Adam(self._parameters, rate)

    def latent(self, features: Array) -> Array:
        """Returns float64 (n, hidden)."""
        active: Array = np.maximum(features @ self._parameters[0] + self._parameters[1], 0)
        return active

    def logits(self, features: Array) -> Array:
        """Returns float64 (n, k)."""
        return self.logits_of(self.latent(features))

    def logits_of(self, latent: Array) -> Array:
        """Returns the logits (n, k) of rows with these ``latent`` features (n, hidden)."""
        return latent @ self._parameters[2] + self._parameters[3]

    def probabilities(self, features: NDArray[np.floating]) -> Array:
        """Returns class probabilities (n, k)."""
        return softmax(self.logits(np.asarray(features, np.float64)))

    def input_gradient(self, features: Array, by_logit: Array) -> Array:
        """Returns the gradient (n, d) of a loss by ``features``, given its gradient ``by_logit`` (n, k)."""
        return self._by_latent(self.latent(features), by_logit) @ self._parameters[0].T

    def latent_gradient(self, features: Array, by_latent: Array) -> Array:
        """Returns the gradient (n, d) of a loss by ``features``, given its gradient ``by_latent`` (n, hidden)."""
        through: Array = by_latent * (self.latent(features) > 0)
        return through @ self._parameters[0].T

    def loss_gradient(self, features: Array, targets: Array) -> Array:
        """Returns the gradient (n, d) by ``features`` of each row's cross-entropy of ``targets`` (n, k)."""
        return self.input_gradient(features, self.probabilities(features) - targets)

    def probability_gradient(self, features: Array, classes: Rows) -> Array:
        """Returns the gradient (n, d) by ``features`` of each row's probability of its class in ``classes`` (n,)."""
        output = self.probabilities(features)
        rows = np.arange(len(features))
        chosen = output[rows, classes][:, None]
        by_logit = -output * chosen
        by_logit[rows, classes] += chosen[:, 0]
        return self.input_gradient(features, by_logit)

    def step(self, features: Array, latent: Array, by_logit: Array) -> None:
        """Takes one step down a loss, given its gradient ``by_logit`` (n, k) at ``features`` with these ``latent``."""
        by_latent = self._by_latent(latent, by_logit)
        self._optimiser.step([features.T @ by_latent, by_latent.sum(axis=0), latent.T @ by_logit, by_logit.sum(axis=0)])

    def fit(
        self, features: Array, loss: Loss, epochs: int, disturbed: Callable[[Array, Rows], Array] | None = None
    ) -> None:
        """Trains on ``features`` (n, d).

        ``disturbed`` returns the rows to show instead of a batch, given the batch (m, d) and its row numbers (m,).
        """
        for rows in batches(len(features), epochs, self._rng):
            batch = features[rows] if disturbed is None else disturbed(features[rows], rows)
            latent = self.latent(batch)
            self.step(batch, latent, loss(self.logits_of(latent), rows) / len(rows))

    def _by_latent(self, latent: Array, by_logit: Array) -> Array:
        through: Array = (by_logit @ self._parameters[2].T) * (latent > 0)
        return through


def batches(count: int, epochs: int, rng: np.random.Generator) -> Iterator[Rows]:
    """Yields the row numbers of batches of about 32; each epoch has all ``count`` rows in a new order."""
    for _ in range(epochs):
        yield from np.array_split(rng.permutation(count), max(1, count // BATCH))


def cross_entropy(targets: Array) -> Loss:
    """Returns the cross-entropy of the ``targets`` (n, k)."""
    return lambda logits, rows: softmax(logits) - targets[rows]


def minimum(
    loss: Callable[[Array], tuple[float, Array]],
    start: Array,
    options: Mapping[str, float],
    bounds: tuple[Array, Array] | None = None,
) -> tuple[Array, float]:
    """Returns where ``loss`` is least and its value there, by L-BFGS-B from ``start``, of any shape.

    ``loss`` also returns its gradient, of that shape; ``bounds`` too have it; ``options`` are those of scipy's method.
    """
    from scipy.optimize import Bounds, minimize

    def flat(point: Array) -> tuple[float, Array]:
        value, gradient = loss(point.reshape(start.shape))
        return value, gradient.ravel()

    box = bounds and Bounds(*(bound.ravel() for bound in bounds))
    end = minimize(flat, start.ravel(), jac=True, method="L-BFGS-B", bounds=box, options=dict(options))
    return end.x.reshape(start.shape), float(end.fun)


def softmax(logits: Array) -> Array:
    """Returns the probabilities (n, k) of ``logits`` (n, k)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def one_hot(labels: Rows, classes: int) -> Array:
    """Returns float64 (n, k), 1 at each of ``labels`` (n,)."""
    return np.eye(classes)[labels]
