"""What all learned victims but trees share: how rows become columns of numbers, and how the model answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers
from detector.lab.data import Dataset

Array = NDArray[np.float64]


class Columns:
    """Continuous features as they are, then one column for each value of each categorical feature.

    ``categories`` int64 (d,) as in ``Dataset``. A categorical feature between two values counts as the nearest.
    """

    def __init__(self, categories: NDArray[np.int64]) -> None:
        self._categories = categories
        self._continuous = categories == 0

    def __call__(self, features: NDArray[np.float32]) -> Array:
        """``features`` (n, d) as columns float64 (n, e). Raises LabError where one is left out, or d is another."""
        if features.ndim != 2 or features.shape[1] != len(self._categories):
            raise LabError(f"a row has {len(self._categories)} features; the rows given are {features.shape}")
        if np.isnan(features).any():
            raise LabError("this victim needs every feature; only trees answer when some are left out")
        hot = [self._hot(features[:, at], self._categories[at]) for at in np.flatnonzero(self._categories)]
        return np.concatenate([features[:, self._continuous].astype(np.float64), *hot], axis=1)

    def _hot(self, values: NDArray[np.float32], count: int) -> Array:
        nearest = np.clip(np.rint(values), 0, count - 1)
        hot: Array = (nearest[:, None] == np.arange(count)).astype(np.float64)
        return hot


class Learned:
    """A model behind an API. ``predict``: columns float64 (n, e) to class probabilities float64 (n, k)."""

    output_kind: OutputKind = "probabilities"

    def __init__(self, columns: Columns, predict: Callable[[Array], Array]) -> None:
        self._columns = columns
        self._predict = predict

    @classmethod
    def of(cls, dataset: Dataset, predict: Callable[[Array], Array]) -> Learned:
        return cls(Columns(dataset.categories), predict)

    def answer(self, features: NDArray[np.float32]) -> Answers:
        return Answers(self.probabilities(features))

    def probabilities(self, features: NDArray[np.float32]) -> Array:
        """Class probabilities (n, k) of ``features`` (n, d). Raises LabError if any is NaN."""
        return self._predict(self._columns(features))
