"""The last two steps of each principal, on the first axes of the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.core.tested import last_of
from detector.core.views import Grouping

_AXES = 16
WIDTH = 2 * _AXES
"""What is remembered: the last point, and the step that led to it."""

Points = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Trail:
    """Of each of n queries: ``step`` float32 (n, 16), from its principal's query before, and ``step_before``, that
    one's own; NaN where there are not as many."""

    step: Points
    step_before: Points


def follow(grouping: Grouping, points: Points, before: Points) -> tuple[Trail, Points]:
    """The trail of rows at ``points`` (n, k), where each group's last was ``before`` (groups, 32); and what to
    remember next."""
    order = grouping.order
    here = np.zeros((len(points), _AXES), np.float32)
    here[:, : points.shape[1]] = points[order, :_AXES]
    step = here - _shifted(here, grouping, before[:, :_AXES])
    step_before = _shifted(step, grouping, before[:, _AXES:])
    after = np.concatenate((last_of(grouping, here), last_of(grouping, step)), axis=1)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return Trail(step[back], step_before[back]), after


def _shifted(rows: Points, grouping: Grouping, before: Points) -> Points:
    """Each row's predecessor within its group."""
    shifted = np.roll(rows, 1, axis=0)
    shifted[grouping.starts] = before
    return shifted
