"""A small convolutional network for images: one layer of filters, the strongest of each 2 by 2, then softmax."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from detector.contracts.errors import LabError
from detector.lab.data import Dataset
from detector.lab.networks import Adam, Array, batches, one_hot, softmax
from detector.lab.victims.neural import epochs_of
from detector.lab.victims.tabular import ColumnEncoder, FittedVictim

_KERNEL, _FILTERS = 3, 12
_POOL = 2
_UPDATES = 1_000
_STEPS_ACROSS = 14
"""Larger images than this are read in larger steps, so that training takes seconds."""


class Convolution:
    """3 by 3 filters, ReLU, maximum of 2 by 2, softmax. ``parameters``: filters (9, 12), bias; weights (f, k), bias."""

    def __init__(self, side: int, classes: int, rng: np.random.Generator) -> None:
        self._side = side
        self._stride = max(1, side // _STEPS_ACROSS)
        self._pooled = ((side - _KERNEL) // self._stride + 1) // _POOL
        inputs = self._pooled**2 * _FILTERS
        self.parameters: list[Array] = [
            rng.normal(0, np.sqrt(2) / _KERNEL, (_KERNEL**2, _FILTERS)),
            np.zeros(_FILTERS),
            rng.normal(0, np.sqrt(1 / inputs), (inputs, classes)),
            np.zeros(classes),
        ]

    def probabilities(self, pixels: Array) -> Array:
        """Returns class probabilities (n, k) of ``pixels`` (n, side * side)."""
        return self._output(self._filtered(self._patches(pixels)).max(axis=(2, 4)))

    def gradients(self, pixels: Array, targets: Array) -> list[Array]:
        """Returns the gradients of the mean cross-entropy of ``targets`` (n, k) by each parameter."""
        patches = self._patches(pixels)
        filtered = self._filtered(patches)
        strongest = filtered.max(axis=(2, 4), keepdims=True)
        flat = strongest.reshape(len(pixels), -1)
        by_logit = (self._output(strongest) - targets) / len(pixels)
        by_strongest = (by_logit @ self.parameters[2].T).reshape(strongest.shape)
        by_filtered = (by_strongest * ((filtered == strongest) & (filtered > 0))).reshape(-1, _FILTERS)
        by_filter = patches.reshape(-1, _KERNEL**2).T @ by_filtered
        return [by_filter, by_filtered.sum(axis=0), flat.T @ by_logit, by_logit.sum(axis=0)]

    def _patches(self, pixels: Array) -> Array:
        """Returns the pixels under each filter: (n, pooled, 2, pooled, 2, 9)."""
        images = pixels.reshape(-1, self._side, self._side)
        windows = sliding_window_view(images, (_KERNEL, _KERNEL), axis=(1, 2))[:, :: self._stride, :: self._stride]
        kept = self._pooled * _POOL
        return windows[:, :kept, :kept].reshape(-1, self._pooled, _POOL, self._pooled, _POOL, _KERNEL**2)

    def _filtered(self, patches: Array) -> Array:
        active: Array = np.maximum(patches @ self.parameters[0] + self.parameters[1], 0)
        return active

    def _output(self, strongest: Array) -> Array:
        return softmax(strongest.reshape(len(strongest), -1) @ self.parameters[2] + self.parameters[3])


def new(dataset: Dataset, seed: int) -> FittedVictim:
    """Trains on the labels. Raises LabError for tables."""
    if dataset.side is None:
        raise LabError(f"a convolutional network needs images; {dataset.name} is a table")
    rng = np.random.default_rng([seed, 11])
    network = Convolution(dataset.side, dataset.classes, rng)
    pixels = dataset.training.features.astype(np.float64)
    targets = one_hot(dataset.training.labels, dataset.classes)
    adam = Adam(network.parameters)
    for rows in batches(len(pixels), epochs_of(len(pixels), _UPDATES), rng):
        adam.step(network.gradients(pixels[rows], targets[rows]))
    return FittedVictim(ColumnEncoder(dataset.categories), network.probabilities)
