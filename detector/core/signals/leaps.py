"""``leaps``: answers that change far over a small step. Between near honest queries the outputs are nearly equal;
adversarial examples are made to change the answer, and a walk along a boundary crosses it."""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight

_MOST = 3.0
_LEAST = 0.05


def _score(sight: Sight) -> Floats:
    """Returns the distance of the answer from that to the nearest own earlier query, over the step from it as a share
    of the distance to the nearest reference row, 3 at most. Answers of one class are as far apart as their largest
    probabilities, those of two classes at least as far as these add up to more than one; scores are taken over their
    range."""
    now, before = sight.rows.said.astype(np.float64), sight.views.own.said.astype(np.float64)
    apart = np.abs(now - before) / sight.reference.range
    if sight.reference.output_kind != "score":
        other = sight.views.own.distance < sight.views.grown
        apart = np.where(other, np.maximum(apart, now + before - 1), apart)
    known = np.where(np.isnan(sight.outputs[:, 0]), np.nan, apart)
    return np.asarray(np.minimum(known / np.maximum(sight.nearness, _LEAST), _MOST))


LEAPS = Measure(
    name="leaps",
    family="outputs",
    about="answers that change far over a small step",
    unit="probability a share of the way",
    clock="near",
    between=0.05,
    within=0.15,
    score=_score,
)
