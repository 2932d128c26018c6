"""The interface of a measure, which scores single queries, and the trail of each principal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.neighbours.history import Views
from detector.core.profile.reference import Reference, log_margins
from detector.core.state.arrays import Array
from detector.core.state.rows import StepRows

_AXES = 16
_REQUESTED = 2
WIDTH = 2 * _AXES + _REQUESTED
"""The size of the state: the last point, the step that led to it, and the specification requested with it."""

Points = NDArray[np.float32]


class Trail(NamedTuple):
    """For each of n queries: ``step`` float32 (n, 16), from its principal's query before, and ``step_before``, that
    query's own step; NaN where there are not as many. ``specification`` float32 (n, 2), the accuracy and latency
    requested, and that of the query before; NaN for none."""

    step: Points
    step_before: Points
    specification: Points
    specification_before: Points


def update_trail(rows: StepRows, slot: NDArray[np.int64], points: Points, state: Points) -> Trail:
    """Returns the trail of ``rows`` at ``points`` float32 (n, k). ``state`` float32 (slots, 34) is updated in place;
    ``slot`` int64 (n,) says whose each row is."""
    count = len(rows)
    step, step_before = np.empty((count, _AXES), np.float32), np.empty((count, _AXES), np.float32)
    requested, requested_before = np.empty((count, _REQUESTED), np.float32), np.empty((count, _REQUESTED), np.float32)
    requested[:] = rows.column("specification", np.float32(np.nan)).reshape(count, -1)
    trail = Trail(step, step_before, requested, requested_before)
    _update_trail(slot, np.ascontiguousarray(points), state, trail)
    return trail


@compiled
def _update_trail(slot: NDArray[np.int64], points: Points, state: Points, trail: Trail) -> None:
    """Row after row, moves the slot's ``state`` on. Axes that the points do not have stay at 0."""
    there = min(points.shape[1], _AXES)
    for row in range(len(slot)):
        held = state[slot[row]]
        for axis in range(_AXES):
            now = points[row, axis] if axis < there else np.float32(0)
            trail.step[row, axis] = now - held[axis]
            trail.step_before[row, axis] = held[_AXES + axis]
            held[_AXES + axis] = trail.step[row, axis]
            held[axis] = now
        for at in range(_REQUESTED):
            trail.specification_before[row, at] = held[2 * _AXES + at]
            held[2 * _AXES + at] = trail.specification[row, at]


Family = Literal["content", "structure", "outputs", "protocol"]
Clock = Literal["effective", "each", "near"]
"""How a query counts in the averages: by its novelty to the principal, one per query, or only if it is near an own
earlier one."""
Floats = NDArray[np.float64]

_NEAR = 0.5
"""A query is near an own earlier one at less than this share of its distance to the nearest honest query."""
_LEAST_WEIGHT = 0.05
_LEAST_DISTANCE = 1e-9
_SAME = 1e-6
"""Relative distance, as a share of that to the nearest honest query, up to which a query is a re-encoded repeat."""
_CHANGE = 1e-4


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
        rows, reference = self.rows, self.reference
        width = reference.outputs.shape[1]
        if not width:
            return np.full((len(rows), 1), np.nan, np.float32)
        fitting = [
            batch.output_kind == reference.output_kind and batch.outputs.shape[1] == width for batch in rows.batches
        ]
        if all(fitting):
            return rows.outputs
        outputs = np.full((len(rows), width), np.nan, np.float32)
        own = np.array(fitting)[rows.batch]
        if own.any():
            outputs[own] = rows.outputs[own][:, :width]
        return outputs

    @cached_property
    def margin_rank(self) -> Floats:
        """float64 (n,): the share of honest queries with a lower top-two log-margin (``reference.margins``)."""
        if self.reference.output_kind != "probabilities" or self.outputs.shape[1] < 2:
            return np.full(len(self.rows), np.nan)
        top = np.where(np.isnan(self.outputs[:, :1]), np.float32(np.nan), self.rows.top)
        return rank(log_margins(top), self.reference.margins)

    @cached_property
    def limits(self) -> NDArray[np.float32]:
        """float32 (d,): a feature has changed if it differs by more than this."""
        return _CHANGE * self.reference.seen.spread

    @cached_property
    def changes(self) -> NDArray[np.int64]:
        """int64 (n,): the number of features that differ from the nearest own earlier query."""
        changes = np.empty(len(self.rows), np.int64)
        _count_changes(self.views.own.step, self.limits, changes)
        return changes

    @cached_property
    def nearness(self) -> Floats:
        """float64 (n,): distance to the nearest own earlier query over that to the nearest reference row; inf for a
        first query."""
        return np.asarray(self.views.own.distance / np.maximum(self.views.neighbours.distance, _LEAST_DISTANCE))

    @cached_property
    def weights(self) -> dict[Clock, Floats]:
        """float64 (n,) by clock: 0 for repeats; on the effective clock a query counts by the square of its nearness."""
        each = np.where(self.views.repeats | (self.nearness <= _SAME), 0.0, 1.0)
        effective = each * np.clip(self.nearness**2, _LEAST_WEIGHT, 1.0)
        return {"effective": effective, "each": each, "near": np.where(self.nearness < _NEAR, each, 0.0)}


@dataclass(frozen=True, slots=True)
class Measure:
    """``score`` returns float64 (n,), higher for thieves, NaN where it has no value. ``clock``: how a query counts.
    ``between`` and ``within``: the lowest standard deviation of honest accounts' averages, and of one account's
    queries, that calibration accepts; ``about``: what it measures, in words, and its ``unit``."""

    name: str
    family: Family
    about: str
    unit: str
    clock: Clock
    between: float
    within: float
    score: Callable[[MeasureInput], Floats]


def rank(values: Floats, ascending: Array) -> Floats:
    """float64 (n,): the share of ``ascending`` (q,) below each value, ties half, never 0 or 1."""
    if not len(ascending):
        return np.full(len(values), np.nan)
    below = np.searchsorted(ascending, values, "left") + np.searchsorted(ascending, values, "right")
    shares = (below / 2 + 0.5) / (len(ascending) + 1)
    return np.where(np.isnan(values), np.nan, shares)


@compiled
def _count_changes(step: NDArray[np.float32], limits: NDArray[np.float32], changes: Array) -> None:
    """Fills ``changes`` (n,) with how many features of each ``step`` (n, d) are beyond ``limits`` (d,)."""
    for row in range(len(step)):
        count = 0
        for feature in range(len(limits)):
            count += abs(step[row, feature]) > limits[feature]
        changes[row] = count
