"""A network with one hidden layer, written out in numpy, and its training: what victims with and without a defence are.

Written out because the defences change the loss and the inputs of training, which scikit-learn's perceptron hides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from detector.lab.attackers.adam import Adam, Array
from detector.lab.attackers.network import softmax

Rows = NDArray[np.int64]

HIDDEN = 32
_BATCH = 32
LEARNING_RATE = 3e-3
UPDATES = 2_000
"""Steps of training, about, whatever the data set's size."""


def one_hot(labels: NDArray[np.int64], classes: int) -> Array:
    """Float64 (n, k), 1 at each label."""
    return np.eye(classes)[labels]


class Network:
    """ReLU network d -> ``hidden`` -> k; ``parameters`` are the weights and bias of each layer."""

    def __init__(self, dimension: int, classes: int, rng: np.random.Generator, hidden: int = HIDDEN) -> None:
        self.parameters: list[Array] = [
            rng.normal(0, np.sqrt(2 / dimension), (dimension, hidden)),
            np.zeros(hidden),
            rng.normal(0, np.sqrt(1 / hidden), (hidden, classes)),
            np.zeros(classes),
        ]

    def logits(self, columns: Array) -> Array:
        """What softmax makes probabilities of: (n, k) for ``columns`` (n, d)."""
        return self._hidden(columns) @ self.parameters[2] + self.parameters[3]

    def probabilities(self, columns: Array) -> Array:
        return softmax(self.logits(columns))

    def gradients(self, columns: Array, by_logit: Array) -> list[Array]:
        """Of a loss by each parameter, given its gradient ``by_logit`` (n, k)."""
        hidden = self._hidden(columns)
        by_hidden = (by_logit @ self.parameters[2].T) * (hidden > 0)
        return [columns.T @ by_hidden, by_hidden.sum(axis=0), hidden.T @ by_logit, by_logit.sum(axis=0)]

    def input_gradient(self, columns: Array, by_logit: Array) -> Array:
        """Of a loss by each input (n, d), given its gradient ``by_logit`` (n, k)."""
        by_hidden = (by_logit @ self.parameters[2].T) * (self._hidden(columns) > 0)
        back: Array = by_hidden @ self.parameters[0].T
        return back

    def _hidden(self, columns: Array) -> Array:
        active: Array = np.maximum(columns @ self.parameters[0] + self.parameters[1], 0)
        return active


def batches(count: int, rng: np.random.Generator, updates: int = UPDATES) -> Iterator[Rows]:
    """Row numbers of about ``updates`` batches of 32, all ``count`` rows in a new order each time round."""
    a_round = max(1, count // _BATCH)
    for _ in range(-(-updates // a_round)):
        yield from np.array_split(rng.permutation(count), a_round)


def unchanged(columns: Array, _rows: Rows) -> Array:
    return columns


def fit(
    network: Network,
    columns: Array,
    by_logit: Callable[[Array, Rows], Array],
    rng: np.random.Generator,
    disturbed: Callable[[Array, Rows], Array] = unchanged,
) -> None:
    """Trains ``network`` on ``columns`` (n, d).

    ``by_logit``: each row's loss by its logits, given the logits (m, k) of a batch and its row numbers (m,).
    ``disturbed``: what is shown instead of a batch, given the batch (m, d) and its row numbers.
    """
    adam = Adam(network.parameters, LEARNING_RATE)
    for rows in batches(len(columns), rng):
        shown = disturbed(columns[rows], rows)
        adam.step(network.gradients(shown, by_logit(network.logits(shown), rows) / len(rows)))


def cross_entropy(targets: Array) -> Callable[[Array, Rows], Array]:
    """The loss of the classes' probabilities against ``targets`` (n, k), by the logits."""
    return lambda logits, rows: softmax(logits) - targets[rows]
