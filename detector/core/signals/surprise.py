"""``surprise``: the difference of the answer from the model's answers to the nearest honest queries. Adversarial inputs
look like one class and get another; foreign images get any."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.compiled import compiled
from detector.core.measure import Floats, Measure, Sight


def _score(sight: Sight) -> Floats:
    """Returns the total variation between the probabilities and the mean of those of the three nearest reference rows;
    for labels the share of the three with another label; for scores the difference to their mean over the range of
    all."""
    reference, rows = sight.reference, sight.views.neighbours.rows
    if reference.output_kind == "none":
        return np.full(len(rows), np.nan)
    if reference.output_kind == "label":
        other = (reference.outputs[rows, 0] != sight.outputs).mean(axis=1)
        return np.where(np.isnan(sight.outputs[:, 0]), np.nan, other)
    apart: Floats = np.empty(len(rows))
    _differ(np.ascontiguousarray(sight.outputs), reference.outputs, rows, apart)
    if reference.output_kind == "probabilities" and reference.outputs.shape[1] > 1:
        return np.asarray(apart / 2)
    return np.asarray(apart / reference.outputs.shape[1] / reference.range)


@compiled
def _differ(outputs: NDArray[np.float32], usual: NDArray[np.float32], rows: Array, apart: Floats) -> None:
    """Fills ``apart`` (n,) with the sums of the differences of ``outputs`` (n, k) from the means of the ``rows`` (n, c)
    of ``usual`` (m, k)."""
    count = rows.shape[1]
    for row in range(len(rows)):
        sums = 0.0
        for column in range(outputs.shape[1]):
            near = 0.0
            for at in range(count):
                near += np.float64(usual[rows[row, at], column])
            sums += abs(outputs[row, column] - near / count)
        apart[row] = sums


SURPRISE = Measure(
    name="surprise",
    family="outputs",
    about="answers unlike those to similar honest queries",
    unit="total variation",
    clock="effective",
    between=0.03,
    within=0.05,
    score=_score,
)
