"""``sign_steps``: steps from the nearest own earlier query whose entries share one magnitude, such as steps along the
sign of a gradient (FGSM, Jacobian augmentation)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.compiled import compiled
from detector.core.measure import Floats, Measure, Sight

_FEATURES = 128
_FEWEST = 5
_EQUAL = 1e-3
_LESS, _MORE = np.float32(1 - _EQUAL), np.float32(1 + _EQUAL)
_BEYOND = np.int32(4 * _EQUAL * 2**23)
"""The bits of two numbers of single precision that differ by ``_EQUAL`` differ by less than this, as integers."""


def _score(sight: Sight) -> Floats:
    """Returns 1 where at least five features changed and over half of them by the median magnitude, to a thousandth.
    With many features, about 128 evenly spaced ones are compared."""
    every = -(-sight.reference.dimension // _FEATURES)
    score = np.zeros(len(sight.rows))
    _of_one_size(sight.views.own.step, sight.limits, sight.reference.scale, every, score)
    return np.where(np.isfinite(sight.views.own.distance), score, 0.0)


@compiled
def _of_one_size(
    step: NDArray[np.float32], limits: NDArray[np.float32], scale: NDArray[np.float32], every: int, score: Floats
) -> None:
    """Sets ``score`` (n,) to 1 where over half of the features that changed, and at least five, changed by one size."""
    sizes = np.zeros(len(limits), np.float32)
    for row in range(len(step)):
        count = 0
        for feature in range(0, len(limits), every):
            size = abs(step[row, feature])
            sizes[count] = size * scale[feature]
            count += size > limits[feature]
        if count >= _FEWEST and _mostly_equal(sizes[:count]):
            score[row] = 1.0


@compiled
def _mostly_equal(sizes: NDArray[np.float32]) -> bool:
    """Returns whether over half of ``sizes`` (k,), positive, are equal to their lower median. Their bits are in the
    order of the numbers, so that halving a range finds the median, and mostly shows early that no half is near it."""
    bits, half = sizes.view(np.int32), (len(sizes) + 1) // 2
    low, high = bits[0], bits[0]
    for at in range(len(bits)):
        low, high = min(low, bits[at]), max(high, bits[at])
    while low < high:
        middle = np.int32(low + (high - low) // 2)
        below, near, least, most = 0, 0, low - _BEYOND, high + _BEYOND
        for at in range(len(bits)):
            below += bits[at] <= middle
            near += (bits[at] >= least) & (bits[at] <= most)
        if 2 * near <= len(sizes):
            return False
        if below >= half:
            high = middle
        else:
            low = np.int32(middle + 1)
    median = np.array([low], np.int32).view(np.float32)[0]
    equal = 0
    for at in range(len(sizes)):
        equal += (sizes[at] >= median * _LESS) & (sizes[at] <= median * _MORE)
    return bool(2 * equal > len(sizes))


SIGN_STEPS = Measure(
    name="sign_steps",
    family="structure",
    about="many features changed by one magnitude from an earlier query",
    unit="share of queries",
    clock="each",
    between=0.05,
    within=0.15,
    score=_score,
)
