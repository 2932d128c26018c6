"""Clones are judged over the input space of their data set, whatever its units."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.lab.datasets import DATASETS
from detector.lab.fidelity import Yardstick


class Attentive:
    """Remembers its last queries, and names class 0."""

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        self.asked = features
        return np.tile([1.0, 0, 0], (len(features), 1))


def test_uniform_inputs_span_the_data_set_s_ranges() -> None:
    table, victim = DATASETS["categorical"](), Attentive()
    Yardstick.of(victim, table, seed=0)
    span = table.high - table.low
    assert victim.asked.shape == (4_000, table.dimension)
    assert (victim.asked >= table.low).all() and (victim.asked <= table.high).all()
    assert (victim.asked.min(axis=0) < table.low + 0.01 * span).all()
    assert (victim.asked.max(axis=0) > table.high - 0.01 * span).all()
