"""The last position of each principal: their last two steps on the first axes of the reference, and their last
request."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
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


def follow(rows: StepRows, slot: NDArray[np.int64], points: Points, state: Points) -> Trail:
    """Returns the trail of ``rows`` at ``points`` float32 (n, k). ``state`` float32 (slots, 34) is updated in place;
    ``slot`` int64 (n,) says whose each row is."""
    count = len(rows)
    step, step_before = np.empty((count, _AXES), np.float32), np.empty((count, _AXES), np.float32)
    requested, requested_before = np.empty((count, _REQUESTED), np.float32), np.empty((count, _REQUESTED), np.float32)
    requested[:] = rows.column("specification", np.float32(np.nan)).reshape(count, -1)
    trail = Trail(step, step_before, requested, requested_before)
    _follow(slot, np.ascontiguousarray(points), state, trail)
    return trail


@compiled
def _follow(slot: NDArray[np.int64], points: Points, state: Points, trail: Trail) -> None:
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
