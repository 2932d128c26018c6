"""Measures of structure: how a query follows from the principal's own earlier ones."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.measures.base import Floats, Measure, MeasureInput

_DUPLICATE_MOST = 5.0
_DUPLICATE_LEAST = 1e-9


def _near_duplicate(queries: MeasureInput) -> Floats:
    """Returns -ln(distance to the nearest own earlier query / distance to the nearest reference row), clipped to
    0..5."""
    return np.asarray(np.clip(-np.log(queries.nearness + _DUPLICATE_LEAST), 0.0, _DUPLICATE_MOST))


NEAR_DUPLICATE = Measure(
    name="near_duplicate",
    family="structure",
    about="near-duplicates of the account's earlier queries",
    unit="log ratio",
    clock="each",
    between=0.25,
    within=0.5,
    score=_near_duplicate,
)
"""``near_duplicate``: queries closer to the principal's own earlier ones than honest queries are to each other:
bisection, finite differences, gradient steps."""


_TINY_STEP = 0.01


def _tiny_steps(queries: MeasureInput) -> Floats:
    """Returns 1 where the nearest own earlier query is a hundred times nearer than the nearest reference row."""
    return np.asarray(queries.nearness < _TINY_STEP, np.float64)


TINY_STEPS = Measure(
    name="tiny_steps",
    family="structure",
    about="steps much smaller than those of honest accounts",
    unit="share of queries",
    clock="each",
    between=0.05,
    within=0.15,
    score=_tiny_steps,
)
"""``tiny_steps``: steps far smaller than honest ones: finite differences, the last steps of a bisection."""


_FEATURE_MOST = 2


def _one_feature(queries: MeasureInput) -> Floats:
    """Returns 1 where at most two features differ from the nearest own earlier query; two, since one-hot categories
    change in pairs."""
    few = (queries.changes <= _FEATURE_MOST) & np.isfinite(queries.views.own.distance)
    return np.asarray(few, np.float64)


ONE_FEATURE = Measure(
    name="one_feature",
    family="structure",
    about="queries that change one or two features",
    unit="share of queries",
    clock="each",
    between=0.05,
    within=0.15,
    score=_one_feature,
)
"""``one_feature``: queries that differ from an own earlier one in one or two features: path finding, finite
differences, what-if."""


_SIGN_FEATURES = 128
_SIGN_FEWEST = 5
_SIGN_EQUAL = 1e-3
_SIGN_LESS, _SIGN_MORE = np.float32(1 - _SIGN_EQUAL), np.float32(1 + _SIGN_EQUAL)
_SIGN_BEYOND = np.int32(4 * _SIGN_EQUAL * 2**23)
"""The bits of two numbers of single precision that differ by ``_SIGN_EQUAL`` differ by less than this, as integers."""


def _sign_steps(queries: MeasureInput) -> Floats:
    """Returns 1 where at least five features changed and over half of them by the median magnitude, to a thousandth.
    With many features, about 128 evenly spaced ones are compared."""
    every = -(-queries.reference.dimension // _SIGN_FEATURES)
    score = np.zeros(len(queries.rows))
    _of_one_size(queries.views.own.step, queries.limits, queries.reference.scale, every, score)
    return np.where(np.isfinite(queries.views.own.distance), score, 0.0)


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
        if count >= _SIGN_FEWEST and _mostly_equal(sizes[:count]):
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
        below, near, least, most = 0, 0, low - _SIGN_BEYOND, high + _SIGN_BEYOND
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
        equal += (sizes[at] >= median * _SIGN_LESS) & (sizes[at] <= median * _SIGN_MORE)
    return bool(2 * equal > len(sizes))


SIGN_STEPS = Measure(
    name="sign_steps",
    family="structure",
    about="many features changed by one magnitude from an earlier query",
    unit="share of queries",
    clock="each",
    between=0.05,
    within=0.15,
    score=_sign_steps,
)
"""``sign_steps``: steps from the nearest own earlier query whose entries share one magnitude, such as steps along the
sign of a gradient (FGSM, Jacobian augmentation)."""


_PARALLEL_COSINE = 0.98
_PARALLEL_FEWEST = 3
_PARALLEL_LEAST = 1e-20


def _parallel_steps(queries: MeasureInput) -> Floats:
    """Returns 1 where the cosine of the last two steps is above 0.98 in absolute value; ``one_feature`` covers steps in
    one or two features."""
    parallel = np.zeros(len(queries.rows))
    _compare(np.ascontiguousarray(queries.trail.step), np.ascontiguousarray(queries.trail.step_before), parallel)
    return np.where(queries.changes >= _PARALLEL_FEWEST, parallel, 0.0)


@compiled
def _compare(last: NDArray[np.float32], before: NDArray[np.float32], parallel: Floats) -> None:
    """Sets ``parallel`` (n,) to 1 where the steps ``last`` and ``before`` (n, k) are parallel."""
    for row in range(len(last)):
        product = first = second = 0.0
        for axis in range(last.shape[1]):
            one, other = np.float64(last[row, axis]), np.float64(before[row, axis])
            product += one * other
            first += one * one
            second += other * other
        length = math.sqrt(first * second)
        if abs(product) > _PARALLEL_COSINE * length and length > _PARALLEL_LEAST:
            parallel[row] = 1.0


PARALLEL_STEPS = Measure(
    name="parallel_steps",
    family="structure",
    about="consecutive steps along one line",
    unit="share of queries",
    clock="each",
    between=0.05,
    within=0.15,
    score=_parallel_steps,
)
"""``parallel_steps``: two steps in a row along one line: line search, finite differences along one direction."""


_CROSSING_MOST = 3.0
_CROSSING_LEAST = 1e-9


def _crossings(queries: MeasureInput) -> Floats:
    """Returns ln(distance to the nearest own earlier query of the same class / that to the nearest of any class), 0..3;
    NaN for the first of a class."""
    same, nearest = queries.views.grown, queries.views.own.distance
    known = np.isfinite(same)
    ratio = np.where(known, same, 1.0) / np.maximum(np.where(known, nearest, 1.0), _CROSSING_LEAST)
    return np.where(known, np.clip(np.log(np.maximum(ratio, _CROSSING_LEAST)), 0.0, _CROSSING_MOST), np.nan)


CROSSINGS = Measure(
    name="crossings",
    family="structure",
    about="near-duplicates of earlier queries that get another answer",
    unit="log ratio",
    clock="each",
    between=0.05,
    within=0.15,
    score=_crossings,
)
"""``crossings``: queries near an own earlier one that get another class: adversarial examples, bisection, and other
steps over a decision boundary."""
