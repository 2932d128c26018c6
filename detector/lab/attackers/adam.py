"""Adam (Kingma and Ba, ICLR 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_DECAY_MEAN, _DECAY_SQUARE = 0.9, 0.999


class Adam:
    """Lowers a loss by changing ``parameters`` in place, each by about ``rate`` a step."""

    def __init__(self, parameters: Sequence[Array], rate: float) -> None:
        self._rate = rate
        self._parameters = parameters
        self._means = [np.zeros_like(each) for each in parameters]
        self._squares = [np.zeros_like(each) for each in parameters]
        self._steps = 0

    def step(self, gradients: Sequence[Array]) -> None:
        """One step against ``gradients``, the loss's by each of the parameters, in their order and shapes."""
        self._steps += 1
        bias_mean = 1 - _DECAY_MEAN**self._steps
        bias_square = 1 - _DECAY_SQUARE**self._steps
        for value, mean, square, gradient in zip(self._parameters, self._means, self._squares, gradients, strict=True):
            mean[:] += (1 - _DECAY_MEAN) * (gradient - mean)
            square[:] += (1 - _DECAY_SQUARE) * (gradient**2 - square)
            value[:] -= self._rate * (mean / bias_mean) / (np.sqrt(square / bias_square) + 1e-8)
