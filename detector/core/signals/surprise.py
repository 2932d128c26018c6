"""``surprise``: what the model said, against what it said of the nearest honest queries. Adversarial inputs look like
one class and are told another; foreign images are told anything."""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight


def _score(sight: Sight) -> Floats:
    """Total variation between the probabilities and the mean of those of the three nearest reference rows; for labels
    the share of the three with another label; for scores the difference to their mean over the range of all."""
    reference, rows = sight.reference, sight.views.neighbours.rows
    near, said = reference.outputs[rows].astype(np.float64), sight.outputs.astype(np.float64)
    if reference.output_kind == "probabilities" and said.shape[1] > 1:
        return np.asarray(np.abs(said - near.mean(axis=1)).sum(axis=1) / 2)
    if reference.output_kind == "label":
        other = (near[:, :, 0] != said).mean(axis=1)
        return np.where(np.isnan(said[:, 0]), np.nan, other)
    return np.asarray(np.abs(said - near.mean(axis=1)).mean(axis=1) / reference.range)


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
