"""Measures: scores of single queries, and their registry. A new one is a function next to its family and an entry at
the end.

Content: how unlike honest queries a query is. Outputs: answers that honest queries seldom get. Structure: how a query
follows from the principal's own earlier ones. Protocol: how a query is put. ``suspicion`` averages the scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Family
from detector.core.loops.compiled import allocating, compiled
from detector.core.neighbours.blends import LEAST_RECOMBINED, LEAST_SPANNED
from detector.core.neighbours.history import Views
from detector.core.reference import synthetic as synthetic_queries
from detector.core.reference.reference import Reference, log_margins
from detector.core.state.arrays import Array
from detector.core.state.rows import StepRows

_AXES = 16
_REQUESTED = 2
_MEAN = 2 * _AXES + _REQUESTED
WIDTH = _MEAN + synthetic_queries.WIDTH
"""The size of the state: the last point, the step that led to it, the specification requested with it, and the mean of
the queries."""

Clock = Literal["effective", "each", "near"]
"""How a query counts in the averages: by its novelty to the principal, one per query, or only if it is near an own
earlier one."""
Floats = NDArray[np.float64]
Points = NDArray[np.float32]


class Trail(NamedTuple):
    """For each of n queries: ``step`` float32 (n, 16), from its principal's query before, and ``step_before``, that
    query's own step; NaN where there are not as many. ``specification`` float32 (n, 2), the accuracy and latency
    requested, and that of the query before; NaN for none. ``synthetic`` float64 (n,): the log-odds of
    ``reference.synthetic``, or NaN."""

    step: Points
    step_before: Points
    specification: Points
    specification_before: Points
    synthetic: Floats


def update_trail(rows: StepRows, slot: NDArray[np.int64], views: Views, state: Points) -> Trail:
    """Returns the trail of ``rows``, which belong to ``slot`` int64 (n,) each, and updates ``state`` float32 (slots,
    69) in place."""
    count = len(rows)
    step, step_before = np.empty((2, count, _AXES), np.float32)
    requested, requested_before = np.empty((2, count, _REQUESTED), np.float32)
    requested[:] = rows.column("specification", np.float32(np.nan)).reshape(count, -1)
    trail = Trail(step, step_before, requested, requested_before, _log_odds(slot, views, state[:, _MEAN:]))
    _update_trail(slot, np.ascontiguousarray(views.projection.points), state, trail)
    return trail


def _log_odds(slot: NDArray[np.int64], views: Views, state: Points) -> Floats:
    weights = views.reference.synthetic
    if weights is None:
        return np.full(len(slot), np.nan)
    return weights.log_odds(slot, views.projection, views.repeats, state)


@compiled
def _update_trail(slot: NDArray[np.int64], points: Points, state: Points, trail: Trail) -> None:
    """Row after row, moves the slot's ``state`` on. Axes that the points do not have stay at 0."""
    axes = min(points.shape[1], _AXES)
    for row in range(len(slot)):
        last_state = state[slot[row]]
        for axis in range(_AXES):
            now = points[row, axis] if axis < axes else np.float32(0)
            trail.step[row, axis] = now - last_state[axis]
            trail.step_before[row, axis] = last_state[_AXES + axis]
            last_state[_AXES + axis] = trail.step[row, axis]
            last_state[axis] = now
        for at in range(_REQUESTED):
            trail.specification_before[row, at] = last_state[2 * _AXES + at]
            last_state[2 * _AXES + at] = trail.specification[row, at]


@dataclass(frozen=True)
class MeasureInput:
    """The input of a measure, for the rows of one step whose model has a profile."""

    rows: StepRows
    views: Views
    trail: Trail

    @property
    def reference(self) -> Reference:
        return self.views.reference

    @cached_property
    def outputs(self) -> NDArray[np.float32]:
        """float32 (n, k): the model's outputs, NaN where they do not have the reference's kind and width."""
        rows, (kind, width) = self.rows, (self.reference.output_kind, self.reference.outputs.shape[1])
        fits = [width > 0 and piece.output_kind == kind and piece.outputs.shape[1] == width for piece in rows.pieces]
        if all(fits):
            return rows.outputs
        outputs = np.full((len(rows), max(width, 1)), np.nan, np.float32)
        if any(fits):
            fitting = np.array(fits)[rows.piece]
            outputs[fitting] = rows.outputs[fitting][:, :width]
        return outputs

    @cached_property
    def margin_rank(self) -> Floats:
        """float64 (n,): the share of honest queries with a lower top-two log-margin (``reference.margins``)."""
        if self.reference.output_kind != "probabilities" or self.outputs.shape[1] < 2:
            return np.full(len(self.rows), np.nan)
        top = np.where(np.isnan(self.outputs[:, :1]), np.float32(np.nan), self.rows.top_two)
        return rank(log_margins(top), self.reference.margins)

    @cached_property
    def limits(self) -> NDArray[np.float32]:
        """float32 (d,): a feature has changed if it differs by more than this."""
        return 1e-4 * self.reference.seen.spread

    @cached_property
    def changes(self) -> NDArray[np.int64]:
        """int64 (n,): the number of features that differ from the nearest own earlier query."""
        changes = np.empty(len(self.rows), np.int64)
        count_changes(self.views.nearest_own.step, self.limits, changes)
        return changes

    @cached_property
    def nearness(self) -> Floats:
        """float64 (n,): distance to the nearest own earlier query over that to the nearest reference row; inf for a
        first query."""
        return np.asarray(self.views.nearest_own.distance / np.maximum(self.views.neighbours.distance, 1e-9))

    @cached_property
    def weights(self) -> dict[Clock, Floats]:
        """float64 (n,) by clock: 0 for repeats, also re-encoded ones, at a nearness of 1e-6 at most. On the effective
        clock a query counts by the square of its nearness; near are queries at less than half of the distance to the
        nearest honest one."""
        each = np.where(self.views.repeats | (self.nearness <= 1e-6), 0.0, 1.0)
        effective = each * np.clip(self.nearness**2, 0.05, 1.0)
        return {"effective": effective, "each": each, "near": np.where(self.nearness < 0.5, each, 0.0)}


@dataclass(frozen=True, slots=True)
class Measure:
    """``score`` returns float64 (n,), higher for thieves, NaN where it has no value. ``clock``: how a query counts.
    ``between`` and ``within``: the lowest standard deviation of honest accounts' averages, and of one account's
    queries, that calibration accepts; ``few``: added to the former, divided by the number of calibration accounts, as a
    few do not show how others differ. ``about``: what it measures, in words, and its ``unit``."""

    name: str
    family: Family
    about: str
    unit: str
    clock: Clock
    between: float
    within: float
    score: Callable[[MeasureInput], Floats]
    few: float = 0.0


def measure(
    family: Family, about: str, unit: str, clock: Clock, floors: tuple[float, float], few: float = 0.0
) -> Callable[[Callable[[MeasureInput], Floats]], Measure]:
    """Makes the decorated function a ``Measure`` of its name; ``floors``: its ``between`` and ``within``."""
    return lambda score: Measure(score.__name__, family, about, unit, clock, *floors, score, few)


def rank(values: Floats, ascending: Array) -> Floats:
    """Returns float64 (n,): the share of ``ascending`` (q,) below each value, ties half, never 0 or 1."""
    if not len(ascending):
        return np.full(len(values), np.nan)
    below = np.searchsorted(ascending, values, "left") + np.searchsorted(ascending, values, "right")
    shares = (below / 2 + 0.5) / (len(ascending) + 1)
    return np.where(np.isnan(values), np.nan, shares)


@compiled
def count_changes(step: NDArray[np.float32], limits: NDArray[np.float32], changes: Array) -> None:
    """Fills ``changes`` (n,) with how many features of each ``step`` (n, d) are beyond ``limits`` (d,)."""
    for row in range(len(step)):
        count = 0
        for feature in range(len(limits)):
            count += abs(step[row, feature]) > limits[feature]
        changes[row] = count


_content = partial(measure, "content", clock="effective", floors=(0.15, 0.3))
_confidence = partial(measure, "outputs", unit="-ln share", clock="effective", floors=(0.15, 0.5))
_steps = partial(measure, "structure", unit="share of queries", clock="each", floors=(0.05, 0.15))


@_content("distance to the nearest honest query", "log feature units")
def novelty(queries: MeasureInput) -> Floats:
    """Returns the logarithm of the distance to the nearest reference row. Synthetic inputs and foreign images have a
    large one."""
    return np.asarray(np.log(queries.views.neighbours.distance + 1e-6))


@_content("feature values that no honest query has", "log2 features")
def unseen_values(queries: MeasureInput) -> Floats:
    """Returns log2(1 + number of features with a value that no honest query has). Random numbers are seldom among the
    values in use."""
    return np.asarray(np.log2(1.0 + queries.reference.seen.count_unseen(queries.rows.features)))


@_content("Mahalanobis distance to the honest queries", "log squared deviations a feature")
def outlyingness(queries: MeasureInput) -> Floats:
    """Returns the logarithm of the squared Mahalanobis distance per feature. Directions without honest variance weigh
    most: steps along no natural direction, above all gradient steps, stand out however small they are."""
    return np.asarray(np.log(queries.views.projection.mahalanobis + 1e-12))


@measure("content", "queries that look synthetic", "log-odds", "effective", floors=(0.1, 0.8), few=6.0)
def synthetic(queries: MeasureInput) -> Floats:
    """Returns the log-odds that the query is synthetic, by how far it lies from the mean of the account's earlier
    queries, and in which directions (``reference.synthetic``): crossovers, noisy copies, samples of a density. The
    queries of a noisy sensor look the same, if no calibration account has one."""
    return queries.trail.synthetic


@measure("protocol", "features left out", "share of features", "each", floors=(0.05, 0.1))
def missing_features(queries: MeasureInput) -> Floats:
    """Returns the share of features left out, as top-down path finding does to reach the nodes above a leaf."""
    missing = queries.rows.missing
    return np.zeros(len(queries.rows)) if missing is None else np.asarray(missing.mean(axis=1))


@measure("protocol", "requests for another model of the zoo", "share of queries", "each", floors=(0.05, 0.15))
def specification_changes(queries: MeasureInput) -> Floats:
    """Returns 1 where the requested accuracy or latency differs from that of the principal's previous query; NaN where
    none is logged. Fingerprinting a model zoo (PSML) sweeps through its cells; a client has one or a few."""
    now, before = queries.trail.specification, queries.trail.specification_before
    changed = (now != before).any(axis=1) & ~np.isnan(before).any(axis=1)
    return np.where(np.isnan(now).any(axis=1), np.nan, changed.astype(np.float64))


@measure(
    "outputs", "answers unlike those to similar honest queries", "total variation", "effective", floors=(0.03, 0.05)
)
def surprise(queries: MeasureInput) -> Floats:
    """Returns the total variation between the probabilities and the mean of those of the three nearest reference rows;
    for labels the share of the three with another label; for scores the difference to their mean over the range of all.
    Adversarial inputs look like one class and get another; foreign images get any."""
    reference, rows = queries.reference, queries.views.neighbours.rows
    if reference.output_kind == "none":
        return np.full(len(rows), np.nan)
    if reference.output_kind == "label":
        other = (reference.outputs[rows, 0] != queries.outputs).mean(axis=1)
        return np.where(np.isnan(queries.outputs[:, 0]), np.nan, other)
    difference: Floats = np.empty(len(rows))
    _sum_differences(np.ascontiguousarray(queries.outputs), reference.outputs, rows, difference)
    if reference.output_kind == "probabilities" and reference.outputs.shape[1] > 1:
        return np.asarray(difference / 2)
    return np.asarray(difference / reference.outputs.shape[1] / reference.range)


@compiled
def _sum_differences(
    outputs: NDArray[np.float32], honest: NDArray[np.float32], rows: Array, difference: Floats
) -> None:
    """Fills ``difference`` (n,) with the sums of the differences of ``outputs`` (n, k) from the means of the ``rows``
    (n, c) of ``honest`` (m, k)."""
    count = rows.shape[1]
    for row in range(len(rows)):
        sums = 0.0
        for column in range(outputs.shape[1]):
            near = 0.0
            for at in range(count):
                near += np.float64(honest[rows[row, at], column])
            sums += abs(outputs[row, column] - near / count)
        difference[row] = sums


@_confidence("answers of low confidence")
def low_margin(queries: MeasureInput) -> Floats:
    """-ln of the share of honest queries with a lower top-two log-margin: queries near the decision boundary, or off
    the data."""
    return np.asarray(-np.log(queries.margin_rank))


@_confidence("answers of unusually high confidence")
def high_margin(queries: MeasureInput) -> Floats:
    """-ln of the share of honest queries with a higher top-two log-margin: inputs far from the data, inversion of a
    class."""
    return np.asarray(-np.log(1.0 - queries.margin_rank))


@_confidence("queries that the model learned late")
def hardness(queries: MeasureInput) -> Floats:
    """-ln of the share of honest queries that the model learned later (HODA; Sadeghzadeh et al.); NaN where the query
    or the reference has no hardness. ``low_margin`` and ``high_margin`` stand in for it."""
    if not len(queries.reference.hardness):
        return np.full(len(queries.rows), np.nan)
    hardness = queries.rows.column("hardness", np.nan).astype(np.float64)
    return np.asarray(-np.log(1.0 - rank(hardness, queries.reference.hardness)))


@measure(
    "outputs",
    "answers that change far over a small step",
    "probability a share of the way",
    "near",
    floors=(0.05, 0.15),
)
def leaps(queries: MeasureInput) -> Floats:
    """Returns the distance of the answer from that to the nearest own earlier query, over ``nearness``, 3 at most.

    Answers of one class are as far apart as their largest probabilities, those of two classes at least as far as these
    add up to more than one; scores are taken over their range. Between near honest queries the outputs are nearly
    equal; adversarial examples are made to change the answer, and a walk along a boundary crosses it.
    """
    now, before = queries.rows.answer.astype(np.float64), queries.views.nearest_own.answer.astype(np.float64)
    difference = np.abs(now - before) / queries.reference.range
    if queries.reference.output_kind != "score":
        other_class = queries.views.nearest_own.distance < queries.views.nearest_own.grown
        difference = np.where(other_class, np.maximum(difference, now + before - 1), difference)
    known = np.where(np.isnan(queries.outputs[:, 0]), np.nan, difference)
    return np.asarray(np.minimum(known / np.maximum(queries.nearness, 0.05), 3.0))


FEW_CHANGES = 2
"""One feature, or the two columns of a category."""
_SIGN_FEATURES = 128
_SIGN_EQUAL = 1e-3
_SIGN_LESS, _SIGN_MORE = np.float32(1 - _SIGN_EQUAL), np.float32(1 + _SIGN_EQUAL)
_SIGN_BEYOND = np.int32(4 * _SIGN_EQUAL * 2**23)
"""The bits of two numbers of single precision that differ by ``_SIGN_EQUAL`` differ by less than this, as integers."""


@measure("structure", "near-duplicates of the account's earlier queries", "log ratio", "each", floors=(0.25, 0.5))
def near_duplicate(queries: MeasureInput) -> Floats:
    """-ln(``nearness``), clipped to 0..5: bisection, finite differences, gradient steps."""
    return np.asarray(np.clip(-np.log(queries.nearness + 1e-9), 0.0, 5.0))


@_steps("steps much smaller than those of honest accounts")
def tiny_steps(queries: MeasureInput) -> Floats:
    """1 where the nearest own earlier query is a hundred times nearer than the nearest reference row: finite
    differences, the last steps of a bisection."""
    return np.asarray(queries.nearness < 0.01, np.float64)


@_steps("queries that change one or two features")
def one_feature(queries: MeasureInput) -> Floats:
    """1 where at most two features differ from the nearest own earlier query; two, since one-hot categories change in
    pairs: path finding, finite differences, what-if."""
    return np.asarray((queries.changes <= FEW_CHANGES) & np.isfinite(queries.views.nearest_own.distance), np.float64)


@_steps("many features changed by one magnitude from an earlier query")
def sign_steps(queries: MeasureInput) -> Floats:
    """1 where at least five features changed and over half of them by the median magnitude, to a thousandth, and more
    than between honest rows (``fewest_equal``): steps along the sign of a gradient (FGSM, Jacobian augmentation). With
    many features, about 128 evenly spaced ones are compared."""
    score = np.zeros(len(queries.rows))
    of_one_size(queries.views.nearest_own.step, queries.limits, queries.reference, score)
    return np.where(np.isfinite(queries.views.nearest_own.distance), score, 0.0)


def sign_stride(dimension: int) -> int:
    """Returns the distance between compared features: of many, about 128 are compared."""
    return -(-dimension // _SIGN_FEATURES)


def of_one_size(step: Points, limits: Points, reference: Reference, score: Floats) -> None:
    """Sets ``score`` (n,) to 1 where more features of a ``step`` (n, d) beyond ``limits`` (d,) changed by one size than
    in any honest step by chance."""
    _of_one_size(step, limits, reference.scale, reference.fewest_equal, sign_stride(reference.dimension), score)


@allocating
def _of_one_size(step: Points, limits: Points, scale: Points, fewest: Array, every: int, score: Floats) -> None:
    sizes = np.zeros(len(limits), np.float32)
    for row in range(len(step)):
        count = 0
        for feature in range(0, len(limits), every):
            size = abs(step[row, feature])
            sizes[count] = size * scale[feature]
            count += size > limits[feature]
        if count < len(fewest) and fewest[count] <= count and _count_equal(sizes[:count]) >= fewest[count]:
            score[row] = 1.0


@allocating
def _count_equal(sizes: NDArray[np.float32]) -> int:
    """Returns how many of ``sizes`` (k,), positive, are equal to their lower median, 0 if no more than half. Their bits
    are in the order of the numbers, so that halving a range finds the median, and mostly shows early that no half is
    near it."""
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
            return 0
        if below >= half:
            high = middle
        else:
            low = np.int32(middle + 1)
    median = np.array([low], np.int32).view(np.float32)[0]
    equal = 0
    for at in range(len(sizes)):
        equal += (sizes[at] >= median * _SIGN_LESS) & (sizes[at] <= median * _SIGN_MORE)
    return equal if 2 * equal > len(sizes) else 0


@_steps("consecutive steps along one line")
def parallel_steps(queries: MeasureInput) -> Floats:
    """1 where the cosine of the last two steps is above 0.98 in absolute value: line search, finite differences along
    one direction. ``one_feature`` covers steps in one or two features."""
    parallel = np.zeros(len(queries.rows))
    trail = queries.trail
    _find_parallel(np.ascontiguousarray(trail.step), np.ascontiguousarray(trail.step_before), parallel)
    return np.where(queries.changes > 2, parallel, 0.0)


@compiled
def _find_parallel(last: NDArray[np.float32], before: NDArray[np.float32], parallel: Floats) -> None:
    """Sets ``parallel`` (n,) to 1 where the steps ``last`` and ``before`` (n, k) are parallel."""
    for row in range(len(last)):
        product = first = second = 0.0
        for axis in range(last.shape[1]):
            now, earlier = np.float64(last[row, axis]), np.float64(before[row, axis])
            product += now * earlier
            first += now * now
            second += earlier * earlier
        length = math.sqrt(first * second)
        if abs(product) > 0.98 * length and length > 1e-20:
            parallel[row] = 1.0


@measure(
    "structure", "near-duplicates of earlier queries that get another answer", "log ratio", "each", floors=(0.05, 0.15)
)
def crossings(queries: MeasureInput) -> Floats:
    """ln(distance to the nearest own earlier query of the same class / that to the nearest of any class), 0..3; NaN for
    the first of a class: adversarial examples, bisection, and other steps over a decision boundary."""
    same, nearest = queries.views.nearest_own.grown, queries.views.nearest_own.distance
    known = np.isfinite(same)
    ratio = np.where(known, same, 1.0) / np.maximum(np.where(known, nearest, 1.0), 1e-9)
    return np.where(known, np.clip(np.log(np.maximum(ratio, 1e-9)), 0.0, 3.0), np.nan)


_MOST_BLENDED = 3.0


@measure("structure", "queries put together from values of earlier ones", "log ratio", "each", floors=(0.06, 0.15))
def recombination(queries: MeasureInput) -> Floats:
    """Returns how much more up to three further own queries add to the values that one shares with the query than as
    many honest rows add to it; 0..3. Crossovers of own rows, which lie among honest ones and have honest values. 0 for
    what ``one_feature`` sees, as tools that vary one value do it all the time."""
    blends = queries.views.nearest_own.blends
    return _excess(queries, blends.recombined, np.maximum(blends.recombined_honestly, LEAST_RECOMBINED))


@measure("structure", "queries between two earlier ones", "log ratio", "each", floors=(0.15, 1.5))
def interpolation(queries: MeasureInput) -> Floats:
    """Returns how much nearer a segment from the nearest own query to another comes to the query than one from there to
    an honest row, as a share of the distance to the nearer end; 0..3, and 0 as above. Mixtures of own rows (mixup;
    Zhang et al. 2018). Less for near-duplicates: copies of one image at several contrasts lie on a line too. Single
    ones of honest accounts are extreme, so that the spread within an account is large."""
    blends = queries.views.nearest_own.blends
    excess = _excess(queries, blends.spanned, np.maximum(blends.spanned_honestly, LEAST_SPANNED))
    return np.asarray(excess * np.minimum(4 * queries.nearness, 1.0))


def _excess(queries: MeasureInput, added: Floats, honest: Floats) -> Floats:
    excess = np.clip(added - honest, 0.0, _MOST_BLENDED)
    return np.where(queries.changes > FEW_CHANGES, excess, 0.0)


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        novelty,
        unseen_values,
        outlyingness,
        surprise,
        low_margin,
        high_margin,
        hardness,
        near_duplicate,
        tiny_steps,
        one_feature,
        sign_steps,
        parallel_steps,
        missing_features,
        specification_changes,
        crossings,
        leaps,
        recombination,
        interpolation,
        synthetic,
    )
}
"""In the order of stored averages."""
