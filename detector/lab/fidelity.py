"""The fidelity of a stolen clone: 1 - R_test, 1 - R_unif, their total-variation forms (Tramèr et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Classifier
from detector.lab.data import Dataset

UNIFORM_ROWS = 4_000


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The agreement of a clone with its victim, each figure 0 to 1 and best at 1, and how many ``queries`` it cost.

    ``test`` and ``uniform``: share of inputs on which both name the same class, over held-out natural inputs and over
    the whole input space. ``tv_test`` and ``tv_uniform``: 1 less the mean of half the sum of the absolute differences
    between the two probability vectors, over the same inputs. ``accuracy``: share of held-out inputs whose true label
    the clone names; None where true labels are not known.
    """

    queries: int
    test: float
    uniform: float
    tv_test: float
    tv_uniform: float
    accuracy: float | None = None


class Yardstick:
    """Measures clones of one victim, which is queried once: on ``test`` (n, d) and on ``uniform`` (m, d), both float32.

    ``labels`` int64 (n,): the true labels of ``test``, or None.
    """

    def __init__(
        self,
        victim: Classifier,
        test: NDArray[np.float32],
        uniform: NDArray[np.float32],
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        self._test, self._uniform, self._labels = test, uniform, labels
        self._on_test = victim.probabilities(test)
        self._on_uniform = victim.probabilities(uniform)

    @classmethod
    def of(cls, victim: Classifier, dataset: Dataset, seed: int, rows: int = UNIFORM_ROWS) -> Yardstick:
        """Returns a yardstick of test rows and of uniform inputs in the features' ranges, at most ``rows`` of each."""
        spread = np.random.default_rng(seed).random((rows, dataset.dimension), dtype=np.float32)
        uniform = dataset.low + spread * (dataset.high - dataset.low)
        return cls(victim, dataset.test.features[:rows], uniform, dataset.test.labels[:rows])

    def measure(self, clone: Classifier, queries: int) -> Fidelity:
        """Returns the fidelity of ``clone``, which cost ``queries``."""
        on_test, on_uniform = clone.probabilities(self._test), clone.probabilities(self._uniform)
        return Fidelity(
            queries,
            test=_agreement(self._on_test, on_test),
            uniform=_agreement(self._on_uniform, on_uniform),
            tv_test=_overlap(self._on_test, on_test),
            tv_uniform=_overlap(self._on_uniform, on_uniform),
            accuracy=None if self._labels is None else float((on_test.argmax(axis=1) == self._labels).mean()),
        )


def agreement(victim: Classifier, clone: Classifier, features: NDArray[np.float32]) -> float:
    """Returns the share of the rows of ``features`` on which both name the same class."""
    return _agreement(victim.probabilities(features), clone.probabilities(features))


def _agreement(victim: NDArray[np.float64], clone: NDArray[np.float64]) -> float:
    return float((victim.argmax(axis=1) == clone.argmax(axis=1)).mean())


def _overlap(victim: NDArray[np.float64], clone: NDArray[np.float64]) -> float:
    return float(1 - 0.5 * np.abs(victim - clone).sum(axis=1).mean())
