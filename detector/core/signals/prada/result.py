"""The result of a test of nearest-neighbour distances for the rows of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Evidence
from detector.core.state.arrays import Array

WARM_UP = 100
"""A test needs more than this many distances after outlier rejection."""


@dataclass(frozen=True, slots=True)
class Tested:
    """As of each row, in stream order: ``statistic`` W float64 (n,), NaN before the first test, and ``alarm`` bool
    (n,). ``evidence`` at rows where an alarm rises; ``delta``: the change of state. ``repeats`` bool (n,): rows that
    are known to repeat an earlier query, where the test looks for them."""

    statistic: NDArray[np.float64]
    alarm: NDArray[np.bool_]
    evidence: dict[int, tuple[Evidence, ...]]
    delta: dict[str, Array]
    figures: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    repeats: NDArray[np.bool_] | None = None
