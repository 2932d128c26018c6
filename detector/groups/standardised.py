"""Averages of link measures in standard deviations of honest accounts."""

from __future__ import annotations

import numpy as np

from detector.core.reference.standards import Floats, Spread
from detector.core.state.arrays import Array

PRIOR = 4.0
"""The number of ordinary links assumed before an account's first: one link may be a coincidence."""


def sums_at(values: Floats, volumes: Array) -> Floats:
    """Returns float64 (v, m): the sums of the first rows of ``values`` (n, m), as many as each of ``volumes`` that is
    not above n."""
    return np.asarray(np.cumsum(values, axis=0)[volumes[volumes <= len(values)] - 1])


def deviations(sums: Floats, counts: Array, spread: Spread) -> Floats:
    """Returns float64 (v, m): (average - mean) / sqrt(between² + within² / n) of ``sums`` (v, m) of ``counts`` (v,)
    queries, with ``PRIOR`` ordinary ones before them."""
    weight = (counts + PRIOR)[:, None]
    average = (sums + PRIOR * spread.mean) / weight
    return np.asarray((average - spread.mean) / np.sqrt(spread.between**2 + spread.within**2 / weight))
