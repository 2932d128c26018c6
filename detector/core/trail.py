"""The last position of each principal: their last two steps on the first axes of the reference, and their last
request."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from detector.core.rows import Grouping, Rows
from detector.core.tested import last_of

_AXES = 16
_REQUESTED = 2
WIDTH = 2 * _AXES + _REQUESTED
"""The size of the state: the last point, the step that led to it, and the specification requested with it."""

Points = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Trail:
    """For each of n queries: ``step`` float32 (n, 16), from its principal's query before, and ``step_before``, that
    query's own step; NaN where there are not as many. ``specification`` float32 (n, 2), the accuracy and latency
    requested, and that of the query before; NaN for none."""

    step: Points
    step_before: Points
    specification: Points
    specification_before: Points


def follow(rows: Rows, points: Points, before: Points) -> tuple[Trail, Points]:
    """Returns the trail of ``rows`` at ``points`` (n, k), where each slot's state was ``before`` (slots, 34); and the
    state after them."""
    grouping = rows.by_slot
    now = np.zeros((len(rows), _AXES + _REQUESTED), np.float32)
    now[:, : min(points.shape[1], _AXES)] = points[:, :_AXES]
    now[:, _AXES:] = rows.column("specification", np.nan).reshape(len(rows), -1)
    now = now[grouping.order]
    remembered = np.concatenate((before[:, :_AXES], before[:, 2 * _AXES :]), axis=1)
    last = _shifted(now, grouping, remembered)
    step = now[:, :_AXES] - last[:, :_AXES]
    step_before = _shifted(step, grouping, before[:, _AXES : 2 * _AXES])
    columns = np.concatenate((step, step_before, now[:, _AXES:], last[:, _AXES:]), axis=1)
    ended, stepped = last_of(grouping, now), last_of(grouping, step)
    after = np.concatenate((ended[:, :_AXES], stepped, ended[:, _AXES:]), axis=1)
    columns = _scattered(grouping, columns)
    edges = pairwise((0, _AXES, 2 * _AXES, 2 * _AXES + _REQUESTED, columns.shape[1]))
    return Trail(*(columns[:, start:end] for start, end in edges)), after


def _shifted(rows: Points, grouping: Grouping, before: Points) -> Points:
    """Returns each row's predecessor within its group."""
    shifted = np.empty_like(rows)
    shifted[1:] = rows[:-1]
    shifted[grouping.starts] = before
    return shifted


def _scattered(grouping: Grouping, ordered: Points) -> Points:
    scattered = np.empty_like(ordered)
    scattered[grouping.order] = ordered
    return scattered
