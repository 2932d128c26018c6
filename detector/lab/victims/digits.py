"""The demo's victim: a small neural network that reads scikit-learn's 8 by 8 handwritten digits."""

from __future__ import annotations

import numpy as np

from detector.lab.data import Dataset, Examples
from detector.lab.victims.tabular import FittedVictim

MODEL = "digits"
MODEL_VERSION = "1"
SIDE = 8
DIMENSION = SIDE * SIDE
CLASSES = 10

_SPLIT_SEED = 20_180_502
_TRAINING, _HONEST, _THIEF = 700, 600, 200


def load_split() -> Dataset:
    """Returns the 1,797 digits in four disjoint sets (700, 600, 200, 297), always the same."""
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


class DigitsVictim(FittedVictim):
    """A perceptron with one hidden layer of 64 units, trained on ``training``; about 97 percent right on unseen digits.

    scikit-learn's training is deterministic on one thread, so that two processes hold the same victim without
    passing a file.
    """

    def __init__(self, training: Examples) -> None:
        from sklearn.neural_network import MLPClassifier
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        network = MLPClassifier((64,), random_state=0, max_iter=1_000, tol=2e-3)
        with threadpool_limits(1):
            network.fit(training.features, training.labels)
        super().__init__(lambda pixels: pixels, lambda pixels: network.predict_proba(pixels).astype(np.float64))
