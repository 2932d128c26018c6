"""Features on the scales in which thieves train and take their steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.attackers.attacker import Inputs, Knowledge, Labels
from detector.lab.networks import Array, one_hot


@dataclass(frozen=True, slots=True)
class InputSpace:
    """The ranges of the features. *Shares* are 0 at the low and 1 at the high end of each; *scaled* features are -1 and
    1 there (Tramèr et al. 2016).

    ``low`` and ``span`` float64 (d,), a span of 1 where a feature never changes. ``categories`` int64 (d,): how many
    values a categorical feature has, 0 for a continuous one.
    """

    low: Array
    span: Array
    categories: Labels

    @classmethod
    def of(cls, knowledge: Knowledge) -> InputSpace:
        low = knowledge.low.astype(np.float64)
        span = knowledge.high.astype(np.float64) - low
        return cls(low, np.where(span > 0, span, 1.0), knowledge.categories)

    @classmethod
    def continuous(cls, knowledge: Knowledge) -> InputSpace:
        """Returns the space for searches along lines. Raises LabError for a categorical feature, which has no point
        between two values."""
        if knowledge.categories.any():
            where = np.flatnonzero(knowledge.categories).tolist()
            raise LabError(f"features {where} are categorical and this attack searches along lines: use another one")
        return cls.of(knowledge)

    @property
    def dimension(self) -> int:
        return len(self.low)

    def shares(self, features: NDArray[np.floating]) -> Array:
        """Returns the shares (n, d) of ``features`` (n, d)."""
        return np.asarray((features - self.low) / self.span)

    def features(self, shares: Array) -> Inputs:
        """Returns the inputs (n, d) at ``shares`` (n, d), within the ranges and with whole categories."""
        features = self.low + np.clip(shares, 0, 1) * self.span
        return np.where(self.categories > 0, np.rint(features), features).astype(np.float32)

    def scaled(self, features: Inputs) -> Array:
        """Returns ``features`` (n, d) with each range brought to [-1, 1]."""
        return 2 * self.shares(features) - 1

    def from_scaled(self, scaled: Array) -> Inputs:
        """Returns the inputs (n, d) whose ``scaled`` form is given, within the ranges."""
        return self.features((scaled + 1) / 2)

    def uniform(self, rows: int, rng: np.random.Generator) -> Inputs:
        """Returns ``rows`` random inputs (rows, d); a categorical feature takes each of its values equally often."""
        inputs = self.from_scaled(rng.uniform(-1, 1, (rows, self.dimension)))
        values = rng.integers(np.maximum(self.categories, 1), size=inputs.shape)
        return np.where(self.categories > 0, values, inputs).astype(np.float32)


class Model(Protocol):
    """Class probabilities (n, k) of rescaled features float64 (n, d)."""

    def probabilities(self, features: Array) -> Array: ...


@dataclass(frozen=True, slots=True)
class LabelModel:
    """Gives probability 1 to the class, one of ``classes``, that ``predict`` returns for each row."""

    predict: Callable[[Any], NDArray[np.integer | np.bool_]]
    classes: int

    @classmethod
    def constant(cls, label: int, classes: int) -> LabelModel:
        """Returns the model that gives every row the class ``label``: all that answers of one class teach."""
        return cls(lambda features: np.full(len(features), label), classes)

    def probabilities(self, features: NDArray[np.floating]) -> Array:
        return one_hot(self.predict(features).astype(np.int64), self.classes)


@dataclass(frozen=True, slots=True)
class ScaledClone:
    """A ``model`` of features as ``scale`` returns them, as a classifier of features."""

    scale: Callable[[Inputs], Array]
    model: Model

    def probabilities(self, features: Inputs) -> Array:
        """Returns class probabilities (n, k) of ``features`` (n, d)."""
        return self.model.probabilities(self.scale(features))
