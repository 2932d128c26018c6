"""Measures of outputs: answers that honest queries seldom get."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.measures.base import Floats, MeasureInput, measure, rank
from detector.core.state.arrays import Array


@measure(
    "outputs",
    "answers unlike those to similar honest queries",
    "total variation",
    "effective",
    between=0.03,
    within=0.05,
)
def surprise(queries: MeasureInput) -> Floats:
    """The total variation between the probabilities and the mean of those of the three nearest reference rows; for
    labels the share of the three with another label; for scores the difference to their mean over the range of all.
    Adversarial inputs look like one class and get another; foreign images get any."""
    reference, rows = queries.reference, queries.views.neighbours.rows
    if reference.output_kind == "none":
        return np.full(len(rows), np.nan)
    if reference.output_kind == "label":
        other = (reference.outputs[rows, 0] != queries.outputs).mean(axis=1)
        return np.where(np.isnan(queries.outputs[:, 0]), np.nan, other)
    apart: Floats = np.empty(len(rows))
    _sum_differences(np.ascontiguousarray(queries.outputs), reference.outputs, rows, apart)
    if reference.output_kind == "probabilities" and reference.outputs.shape[1] > 1:
        return np.asarray(apart / 2)
    return np.asarray(apart / reference.outputs.shape[1] / reference.range)


@compiled
def _sum_differences(outputs: NDArray[np.float32], honest: NDArray[np.float32], rows: Array, apart: Floats) -> None:
    """Fills ``apart`` (n,) with the sums of the differences of ``outputs`` (n, k) from the means of the ``rows`` (n, c)
    of ``honest`` (m, k)."""
    count = rows.shape[1]
    for row in range(len(rows)):
        sums = 0.0
        for column in range(outputs.shape[1]):
            near = 0.0
            for at in range(count):
                near += np.float64(honest[rows[row, at], column])
            sums += abs(outputs[row, column] - near / count)
        apart[row] = sums


@measure("outputs", "answers of low confidence", "-ln share", "effective", between=0.15, within=0.5)
def low_margin(queries: MeasureInput) -> Floats:
    """-ln of the share of honest queries with a lower top-two log-margin: queries near the decision boundary, or off
    the data."""
    return np.asarray(-np.log(queries.margin_rank))


@measure("outputs", "answers of unusually high confidence", "-ln share", "effective", between=0.15, within=0.5)
def high_margin(queries: MeasureInput) -> Floats:
    """-ln of the share of honest queries with a higher top-two log-margin: inputs far from the data, inversion of a
    class."""
    return np.asarray(-np.log(1.0 - queries.margin_rank))


@measure("outputs", "queries that the model learned late", "-ln share", "effective", between=0.15, within=0.5)
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
    between=0.05,
    within=0.15,
)
def leaps(queries: MeasureInput) -> Floats:
    """The distance of the answer from that to the nearest own earlier query, over ``nearness``, 3 at most.

    Answers of one class are as far apart as their largest probabilities, those of two classes at least as far as these
    add up to more than one; scores are taken over their range. Between near honest queries the outputs are nearly
    equal; adversarial examples are made to change the answer, and a walk along a boundary crosses it.
    """
    now, before = queries.rows.said.astype(np.float64), queries.views.own.said.astype(np.float64)
    apart = np.abs(now - before) / queries.reference.range
    if queries.reference.output_kind != "score":
        other_class = queries.views.own.distance < queries.views.own.grown
        apart = np.where(other_class, np.maximum(apart, now + before - 1), apart)
    known = np.where(np.isnan(queries.outputs[:, 0]), np.nan, apart)
    return np.asarray(np.minimum(known / np.maximum(queries.nearness, 0.05), 3.0))
