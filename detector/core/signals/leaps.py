"""``leaps``: answers that change far over a small step. Between honest queries that are near each other the model says
nearly the same; adversarial examples are made to be told something else, and who walks along a boundary steps over it.
"""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight

_MOST = 3.0
_LEAST = 0.05


def _score(sight: Sight) -> Floats:
    """How far the answer is from that to the nearest own earlier query, over how far the query is from it in shares of
    the way to the nearest reference row, 3 at most. Answers of one class are as far apart as their largest
    probabilities, those of two classes at least as far as these add up to more than one; scores by the range of all.
    """
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
