"""Where each principal was last: his last two steps on the first axes of the reference, and what he requested."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.core.tested import last_of
from detector.core.views import Grouping, Rows

_AXES = 16
_REQUESTED = 2
WIDTH = 2 * _AXES + _REQUESTED
"""What is remembered: the last point, the step that led to it, and the specification requested with it."""

Points = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Trail:
    """Of each of n queries: ``step`` float32 (n, 16), from its principal's query before, and ``step_before``, that
    one's own; NaN where there are not as many. ``specification`` float32 (n, 2), the accuracy and latency requested,
    and that of the query before; NaN where none was."""

    step: Points
    step_before: Points
    specification: Points
    specification_before: Points


def follow(rows: Rows, points: Points, before: Points) -> tuple[Trail, Points]:
    """The trail of ``rows`` at ``points`` (n, k), where each slot's last was ``before`` (slots, 34); and what to
    remember next."""
    grouping = rows.by_slot
    here = np.zeros((len(rows), _AXES), np.float32)
    here[:, : points.shape[1]] = points[grouping.order, :_AXES]
    asked = _requested(rows)[grouping.order]
    step = here - _shifted(here, grouping, before[:, :_AXES])
    columns = (
        step,
        _shifted(step, grouping, before[:, _AXES : 2 * _AXES]),
        asked,
        _shifted(asked, grouping, before[:, 2 * _AXES :]),
    )
    after = np.concatenate([last_of(grouping, column) for column in (here, step, asked)], axis=1)
    return Trail(*(_scattered(grouping, column) for column in columns)), after


def _requested(rows: Rows) -> Points:
    asked = rows.column("specification", np.nan)
    return np.broadcast_to(asked.reshape(len(rows), -1), (len(rows), _REQUESTED)).astype(np.float32)


def _shifted(rows: Points, grouping: Grouping, before: Points) -> Points:
    """Each row's predecessor within its group."""
    shifted = np.roll(rows, 1, axis=0)
    shifted[grouping.starts] = before
    return shifted


def _scattered(grouping: Grouping, ordered: Points) -> Points:
    scattered = np.empty_like(ordered)
    scattered[grouping.order] = ordered
    return scattered
