"""The demo's victim: a small neural network that reads scikit-learn's 8 by 8 handwritten digits."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers
from detector.lab.data import Dataset, Examples

MODEL = "digits"
MODEL_VERSION = "1"
SIDE = 8
DIMENSION = SIDE * SIDE
CLASSES = 10

_SPLIT_SEED = 20_180_502
_TRAINING, _HONEST, _THIEF = 700, 600, 200


def load_split() -> Dataset:
    """The 1,797 digits in four disjoint sets (700, 600, 200, 297), always the same."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(pixels))
    cuts = np.cumsum([_TRAINING, _HONEST, _THIEF])
    training, honest, thief, test = (
        Examples((pixels[rows] / 16.0).astype(np.float32), labels[rows].astype(np.int64))
        for rows in np.split(order, cuts)
    )
    low, high = np.zeros(DIMENSION, np.float32), np.ones(DIMENSION, np.float32)
    return Dataset(MODEL, CLASSES, training, honest, thief, test, low, high, np.zeros(DIMENSION, np.int64), SIDE)


class DigitsVictim:
    """A perceptron with one hidden layer of 64 units, trained on ``training``; about 97 percent right on unseen digits.

    scikit-learn's training is deterministic on one thread, so that two processes hold the same victim without
    passing a file.
    """

    def __init__(self, training: Examples) -> None:
        from sklearn.neural_network import MLPClassifier
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        self._network = MLPClassifier((64,), random_state=0, max_iter=1_000, tol=2e-3)
        with threadpool_limits(1):
            self._network.fit(training.features, training.labels)

    output_kind: OutputKind = "probabilities"

    def answer(self, features: NDArray[np.float32]) -> Answers:
        return Answers(self.probabilities(features))

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities (n, 10) of ``features`` (n, 64)."""
        return cast("NDArray[np.float64]", self._network.predict_proba(features).astype(np.float64))
