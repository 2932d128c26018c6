"""``sign_steps``: steps from the nearest own earlier query whose entries share one magnitude, such as steps along the
sign of a gradient (FGSM, Jacobian augmentation)."""

from __future__ import annotations

import numpy as np

from detector.core.counts import row_counts
from detector.core.measure import Floats, Measure, Sight

_FEATURES = 128
_FEWEST = 5
_EQUAL = 1e-3


def _score(sight: Sight) -> Floats:
    """Returns 1 where at least five features changed and over half of them by the median magnitude, to a thousandth.
    With many features, about 128 evenly spaced ones are compared."""
    some = slice(None, None, -(-sight.reference.dimension // _FEATURES))
    changed = sight.changed[:, some]
    count = row_counts(changed)
    size = sight.sizes[:, some] * sight.reference.scale[some]
    if not changed.all():
        size[~changed] = np.inf
    size.sort(axis=1)
    middle = size[np.arange(len(size)), np.maximum(count - 1, 0) // 2][:, None]
    equal = (size >= middle * (1 - _EQUAL)) & (size <= middle * (1 + _EQUAL))
    stepped = (count >= _FEWEST) & (2 * row_counts(equal) > count) & np.isfinite(sight.views.own.distance)
    return np.asarray(stepped, np.float64)


SIGN_STEPS = Measure(
    name="sign_steps",
    family="structure",
    about="steps of one magnitude from an own earlier query",
    unit="share of queries",
    clock="each",
    between=0.05,
    within=0.15,
    score=_score,
)
