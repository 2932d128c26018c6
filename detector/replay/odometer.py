"""The odometer: an estimate of the fidelity that a clone trained on what an account has seen would have.

It trains small clones on the account's own queries and answers, and looks at how often they name the model's class on
the profile's validation rows. What a thief's clone then has was measured in the lab; see ``_CURVE``. It raises no
alarm: honest accounts learn a model too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind
from detector.core.exposure import Validation
from detector.core.state.arrays import Array

MAX_TRAINING_QUERIES = 512
"""Distinct queries, at most, that clones are trained on, evenly chosen from the account's."""
MAX_VALIDATION_ROWS = 300
"""Validation rows, at most, that they are judged on."""
_MIN_PROBABILITY = 1e-3
"""Probabilities below this count as this."""
_RIDGE = 1e-2
_MIN_QUERIES = 2

_CURVE = np.array(
    [
        (0.0, 0.10, 0.12, 0.27),
        (0.1, 0.10, 0.12, 0.27),
        (0.2, 0.10, 0.13, 0.28),
        (0.3, 0.11, 0.31, 0.52),
        (0.4, 0.23, 0.44, 0.52),
        (0.5, 0.42, 0.52, 0.59),
        (0.6, 0.50, 0.56, 0.65),
        (0.7, 0.61, 0.75, 0.84),
        (0.8, 0.76, 0.84, 0.90),
        (0.9, 0.84, 0.91, 0.96),
        (1.0, 0.88, 0.92, 0.97),
    ]
)
"""Agreement of the small clones, and the fidelity of thieves' clones at it: the tenth of them below, the middle, and
the tenth above. From ``python -m benchmarks.exposure odometer``."""

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reading:
    """The estimated ``fidelity`` of a clone, 0 to 1. Eight of ten clones of the lab were between ``low`` and
    ``high``."""

    fidelity: float
    low: float
    high: float

    @classmethod
    def at(cls, agreement: float) -> Reading:
        """Returns the reading where small clones have this ``agreement``, 0 to 1."""
        low, fidelity, high = (float(np.interp(agreement, _CURVE[:, 0], column)) for column in _CURVE.T[1:])
        return cls(fidelity, low, high)


class Odometer:
    """Reads what the answers of one model version teach, by the ``validation`` set of its profile, with features over
    the ``scale`` float32 (d,) of its reference."""

    def __init__(self, validation: Validation, scale: Rows) -> None:
        self._scale = scale
        count = len(validation.features)
        kept = np.linspace(0, count - 1, min(count, MAX_VALIDATION_ROWS)).astype(np.int64)
        self._rows, self._labels = self._scaled(validation.features[kept]), validation.labels[kept]
        self._centre = self._rows.mean(axis=0)
        spread = ((self._rows - self._centre) ** 2).sum(axis=1)
        self._width = max(float(np.median(spread)), 1e-12)

    def read(self, features: Rows, outputs: NDArray[np.floating], output_kind: OutputKind) -> Reading | None:
        """Returns the reading after queries ``features`` (n, d) with the answers ``outputs`` (n, k); None where nothing
        can be said: for scores, and after fewer than two queries."""
        agreement = self.agreement(features, outputs, output_kind)
        return None if agreement is None else Reading.at(agreement)

    def agreement(self, features: Rows, outputs: NDArray[np.floating], output_kind: OutputKind) -> float | None:
        """Returns the mean agreement, 0 to 1, of four small clones, trained on at most 512 distinct queries; None where
        there is no reading. The clones: the nearest neighbour, and ridge regressions of the log probabilities with a
        linear kernel, a Gaussian one, and both."""
        if features.shape[1] != self._rows.shape[1]:
            return None
        _, first = np.unique(features, axis=0, return_index=True)
        if len(first) < _MIN_QUERIES:
            return None
        chosen = np.sort(first)[np.linspace(0, len(first) - 1, min(len(first), MAX_TRAINING_QUERIES)).astype(np.int64)]
        answers = _answers(outputs[chosen], output_kind, int(self._labels.max()) + 1)
        return None if answers is None else self._trained(self._scaled(features[chosen]), answers)

    def _trained(self, rows: Floats, answers: Floats) -> float:
        distances, *outer = self._kernels(self._rows, rows)
        named = [answers[distances.argmin(axis=1)].argmax(axis=1)]
        logs = np.log(np.maximum(answers, _MIN_PROBABILITY))
        logs -= logs.mean(axis=1, keepdims=True)
        inner = self._kernels(rows, rows)[1:]
        for kernel, to_validation in ((inner[0], outer[0]), (inner[1], outer[1]), (sum(inner), sum(outer))):
            weights = np.linalg.solve(kernel + _RIDGE * np.eye(len(rows)), logs)
            named.append((to_validation @ weights).argmax(axis=1))
        return float(np.mean([labels == self._labels for labels in named]))

    def _scaled(self, features: Rows) -> Floats:
        return features.astype(np.float64) / self._scale

    def _kernels(self, rows: Floats, others: Floats) -> tuple[Floats, Floats, Floats]:
        """Returns the squared distances, and the linear and the Gaussian kernel, (n, m) each."""
        rows, others = rows - self._centre, others - self._centre
        products = rows @ others.T
        squares = (rows**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)
        distances = np.maximum(squares - 2.0 * products, 0.0)
        return distances, products / self._width + 1.0, np.exp(-2.0 * distances / self._width)


def _answers(outputs: Array, output_kind: OutputKind, classes: int) -> Floats | None:
    """Returns probabilities float64 (n, k) of ``outputs``; None for scores, or none. Labels that none of ``classes``
    has are one more class."""
    if output_kind == "label":
        return np.asarray(_class_of(outputs[:, 0], classes)[:, None] == np.arange(classes + 1), np.float64)
    if output_kind != "probabilities":
        return None
    values = outputs.astype(np.float64)
    return np.column_stack((1 - values, values)) if values.shape[1] == 1 else values


def _class_of(labels: Array, classes: int) -> Array:
    """Returns the class of each of ``labels`` (n,), ``classes`` for any other value."""
    return np.asarray(np.where(np.isin(labels, np.arange(classes)), labels, classes))
