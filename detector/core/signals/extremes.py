"""Extremes: evidence that a share of a principal's queries is not honest, however ordinary the others are.

An average hides one query of an attack among seven others. So for each group of measures the evidence of single queries
is added up, in nats of likelihood. A query without extremes takes a little away, and there is never less than none:

    S = max(0, S + weight * log(1 - share + share * ratio)),

the CUSUM of Page (1954), here for a ``share`` of one query in sixteen. ``ratio`` is that of the likelihoods of its
extremes for thieves and for honest accounts. A value is extreme beyond the ``start`` of the measure's tail, which 3
percent of honest queries reach; their excess is exponential there, and that of thieves four times as long. One query
counts 3.5 nats at most, so that few bad rows are no theft, and S ends at 24. Repeats have no weight, and near repeats
little.

An account whose usual queries are extreme has large averages already. So the values count from its own average over the
last 32 queries, where that is above the mean of honest accounts. A query that changes one or two features of an earlier
one counts neither way: tools that vary one value try values that nobody else has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Family
from detector.core.loops.compiled import compiled
from detector.core.reference.standards import Tails

EXTREMES: dict[str, tuple[Family, tuple[str, ...]]] = {
    "extreme_content": ("content", ("novelty", "unseen_values", "outlyingness")),
    "extreme_interpolation": ("structure", ("interpolation",)),
}
"""By name: the family, and the measures whose extremes are added up where the first is extreme: a new category is
extreme in the others, and yet near honest queries."""
BEYOND = 0.03
"""The share of honest queries beyond the start of a tail."""

_SHARE = 1 / 16
_LONGER = 4.0
_SEVERAL = 1.2
"""Excesses in several measures at once are added up, and divided by this."""
_RATE = (1 - 1 / _LONGER) / _SEVERAL
_NONE = math.log(1 - _SHARE)
_MOST = 3.5
_END = 24.0
_ORDINARY = 4.0
"""Honest accounts reach this many nats."""
_FAR = 20.0

Floats = NDArray[np.float64]


class TailScales(NamedTuple):
    """By measure: the position of its group in ``EXTREMES`` int64 (j,), -1 for none; whether it ``leads`` that, bool
    (j,); and float64 (3, j): the mean, the start and the mean excess of the tail. ``varied``: the column of
    ``one_feature``, -1 for none."""

    group: NDArray[np.int64]
    leads: NDArray[np.bool_]
    tail: Floats
    varied: int

    @classmethod
    def of(cls, names: Sequence[str], tails: Tails | None) -> TailScales:
        """Returns those of measures ``names``; without ``tails`` none is in a group."""
        group_of = {name: at for at, (_, members) in enumerate(EXTREMES.values()) for name in members}
        known = tails.measures if tails else ()
        group = [group_of.get(name, -1) if name in known else -1 for name in names]
        columns = np.zeros((3, len(names)))
        if tails is not None:
            at = [known.index(name) if name in known else 0 for name in names]
            columns[:] = tails.mean[at], tails.start[at], tails.excess[at]
        leading = [members[0] for _, members in EXTREMES.values()]
        leads = np.array([name in leading for name in names])
        return cls(
            np.array(group, np.int64),
            leads,
            columns,
            list(names).index("one_feature") if "one_feature" in names else -1,
        )


@compiled
def add_extremes(
    values: Floats, weights: Floats, average: Floats, clock: NDArray[np.int64], scales: TailScales, evidence: Floats
) -> None:
    """Adds one query to the ``evidence`` (groups,) of its account, in place. ``values`` (j,), each on its ``clock`` of
    ``weights`` (clocks,), and the account's ``average`` of each before (j,)."""
    if scales.varied >= 0 and values[scales.varied] > 0:
        return
    reached, leads = np.zeros(len(evidence)), np.zeros(len(evidence), np.bool_)
    for column in range(len(values)):
        group = scales.group[column]
        if group < 0 or math.isnan(values[column]) or weights[clock[column]] == 0.0:
            continue
        mean, start, excess = scales.tail[0, column], scales.tail[1, column], scales.tail[2, column]
        beyond = (values[column] - max(average[column] - mean, 0.0) - start) / excess
        if beyond > 0:
            reached[group] += min(beyond, _FAR)
            leads[group] |= scales.leads[column]
    for group in range(len(evidence)):
        nats = _NONE
        if leads[group]:
            ratio = math.exp(_RATE * reached[group]) / (BEYOND * _LONGER)
            nats = min(math.log(1 - _SHARE + _SHARE * ratio), _MOST)
        evidence[group] = min(max(evidence[group] + weights[0] * nats, 0.0), _END)


@compiled
def extremes_score(evidence: float) -> float:
    """Returns by how many nats the ``evidence`` exceeds that of ordinary honest accounts."""
    return max(evidence - _ORDINARY, 0.0)
