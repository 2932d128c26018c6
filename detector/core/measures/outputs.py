"""Measures of outputs: answers that honest queries seldom get."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.measures.base import Floats, Measure, MeasureInput, rank
from detector.core.state.arrays import Array


def _surprise(queries: MeasureInput) -> Floats:
    """Returns the total variation between the probabilities and the mean of those of the three nearest reference rows;
    for labels the share of the three with another label; for scores the difference to their mean over the range of
    all."""
    reference, rows = queries.reference, queries.views.neighbours.rows
    if reference.output_kind == "none":
        return np.full(len(rows), np.nan)
    if reference.output_kind == "label":
        other = (reference.outputs[rows, 0] != queries.outputs).mean(axis=1)
        return np.where(np.isnan(queries.outputs[:, 0]), np.nan, other)
    apart: Floats = np.empty(len(rows))
    _differ(np.ascontiguousarray(queries.outputs), reference.outputs, rows, apart)
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
    score=_surprise,
)
"""``surprise``: the difference of the answer from the model's answers to the nearest honest queries. Adversarial inputs
look like one class and get another; foreign images get any."""


def _low_margin(queries: MeasureInput) -> Floats:
    """Returns -ln of the share of honest queries with a lower top-two log-margin."""
    return np.asarray(-np.log(queries.margin_rank))


LOW_MARGIN = Measure(
    name="low_margin",
    family="outputs",
    about="answers of low confidence",
    unit="-ln share",
    clock="effective",
    between=0.15,
    within=0.5,
    score=_low_margin,
)
"""``low_margin``: answers with less confidence than honest queries get: queries near the decision boundary, or off the
data."""


def _high_margin(queries: MeasureInput) -> Floats:
    """Returns -ln of the share of honest queries with a higher top-two log-margin."""
    return np.asarray(-np.log(1.0 - queries.margin_rank))


HIGH_MARGIN = Measure(
    name="high_margin",
    family="outputs",
    about="answers of unusually high confidence",
    unit="-ln share",
    clock="effective",
    between=0.15,
    within=0.5,
    score=_high_margin,
)
"""``high_margin``: answers with more confidence than honest queries get: inputs far from the data, inversion of a
class."""


def _hardness(queries: MeasureInput) -> Floats:
    """Returns -ln of the share of honest queries that are harder; NaN where the query or the reference has no
    hardness."""
    if not len(queries.reference.hardness):
        return np.full(len(queries.rows), np.nan)
    hardness = queries.rows.column("hardness", np.nan).astype(np.float64)
    return np.asarray(-np.log(1.0 - rank(hardness, queries.reference.hardness)))


HARDNESS = Measure(
    name="hardness",
    family="outputs",
    about="queries that the model learned late",
    unit="-ln share",
    clock="effective",
    between=0.15,
    within=0.5,
    score=_hardness,
)
"""``hardness``: queries that the model learned late (HODA; Sadeghzadeh et al.), where the log carries it.

``low_margin`` and ``high_margin`` are the stand-in for logs that do not."""


_LEAP_MOST = 3.0
_LEAP_LEAST = 0.05


def _leaps(queries: MeasureInput) -> Floats:
    """Returns the distance of the answer from that to the nearest own earlier query, over the step from it as a share
    of the distance to the nearest reference row, 3 at most. Answers of one class are as far apart as their largest
    probabilities, those of two classes at least as far as these add up to more than one; scores are taken over their
    range."""
    now, before = queries.rows.said.astype(np.float64), queries.views.own.said.astype(np.float64)
    apart = np.abs(now - before) / queries.reference.range
    if queries.reference.output_kind != "score":
        other = queries.views.own.distance < queries.views.grown
        apart = np.where(other, np.maximum(apart, now + before - 1), apart)
    known = np.where(np.isnan(queries.outputs[:, 0]), np.nan, apart)
    return np.asarray(np.minimum(known / np.maximum(queries.nearness, _LEAP_LEAST), _LEAP_MOST))


LEAPS = Measure(
    name="leaps",
    family="outputs",
    about="answers that change far over a small step",
    unit="probability a share of the way",
    clock="near",
    between=0.05,
    within=0.15,
    score=_leaps,
)
"""``leaps``: answers that change far over a small step. Between near honest queries the outputs are nearly equal;
adversarial examples are made to change the answer, and a walk along a boundary crosses it."""
