"""``surprise``: the difference of the answer from the model's answers to the nearest honest queries. Adversarial inputs
look like one class and get another; foreign images get any."""

from __future__ import annotations

import numpy as np

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
    near: Floats = np.zeros_like(sight.outputs, np.float64)
    for column in rows.T:
        near += reference.outputs[column]
    apart = np.abs(sight.outputs - near / rows.shape[1]).sum(axis=1)
    if reference.output_kind == "probabilities" and near.shape[1] > 1:
        return np.asarray(apart / 2)
    return np.asarray(apart / near.shape[1] / reference.range)


SURPRISE = Measure(
    name="surprise",
    family="outputs",
    about="what the model said, against near honest queries",
    unit="total variation",
    clock="effective",
    between=0.03,
    within=0.05,
    score=_score,
)
