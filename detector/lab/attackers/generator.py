"""A small generator of inputs for data-free extraction."""

from __future__ import annotations

import numpy as np

from detector.lab.attackers.adam import Adam, Array

_NOISE = 64
_HIDDEN = 64
_LEARNING_RATE = 3e-2
_CONTRAST = 3.0
"""How far the first outputs spread before the logistic; at 1 they are all grey, and no class but a few is ever met."""


class Generator:
    """Normal noise (64,) -> 64 ReLU -> d logistic units: inputs as shares of the features' ranges."""

    def __init__(self, dimension: int, rng: np.random.Generator) -> None:
        self._parameters = [
            rng.normal(0, np.sqrt(2 / _NOISE), (_NOISE, _HIDDEN)),
            np.zeros(_HIDDEN),
            rng.normal(0, _CONTRAST * np.sqrt(2 / _HIDDEN), (_HIDDEN, dimension)),
            np.zeros(dimension),
        ]
        self._optimiser = Adam(self._parameters, _LEARNING_RATE)

    def noise(self, count: int, rng: np.random.Generator) -> Array:
        """(count, 64)."""
        return rng.normal(size=(count, _NOISE))

    def shares(self, noise: Array) -> Array:
        """(n, d) in 0 to 1, of ``noise`` (n, 64)."""
        return self._forward(noise)[1]

    def improve(self, noise: Array, by_shares: Array) -> None:
        """One step up what changes by ``by_shares`` (n, d) with the shares of ``noise`` (n, 64)."""
        hidden, shares = self._forward(noise)
        by_output = -by_shares * shares * (1 - shares) / len(noise)
        by_hidden = (by_output @ self._parameters[2].T) * (hidden > 0)
        gradients = [noise.T @ by_hidden, by_hidden.sum(axis=0), hidden.T @ by_output, by_output.sum(axis=0)]
        self._optimiser.step(gradients)

    def _forward(self, noise: Array) -> tuple[Array, Array]:
        in_weights, in_bias, out_weights, out_bias = self._parameters
        hidden = np.maximum(noise @ in_weights + in_bias, 0)
        return hidden, 1 / (1 + np.exp(-(hidden @ out_weights + out_bias)))
