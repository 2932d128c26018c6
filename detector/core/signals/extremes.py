"""Extremes: evidence that a share of a principal's queries is not honest, however ordinary the others are.

An average hides one query of an attack among seven others. So for each group of measures the evidence of single queries
is added up, in nats of likelihood. A query without extremes takes a little away, and there is never less than none:

    S = max(0, S + weight * log(1 - share + share * ratio)),

the CUSUM of Page (1954), here for a ``share`` of one query in sixteen. ``ratio`` is that of the likelihoods of its
extremes for thieves and for honest accounts. A value is extreme beyond the ``start`` of the measure's tail, which at
most 3 percent of honest queries exceed, or 5 in measures of content; their excess is exponential there, and that of
thieves four times as long. One query counts 3.5 nats at most, so that few bad rows are no theft, and S ends at 24.
Repeats have no weight, and near repeats little.

An account whose usual queries are extreme has large averages already. So the values count from its own average over the
last 32 queries, where that is above the mean of honest accounts; the first measure of a group decides from the mean
itself whether a query is extreme at all. Steps of one size count as they are: a thief's are all alike. A query that
changes one or two features of an earlier one counts neither way: tools that vary one value try values that nobody else
has.
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

_BEYOND = 0.03


class Extreme(NamedTuple):
    """``measures`` whose extremes are added up where the first is extreme. ``beyond``: the share of honest queries
    beyond the start of a tail, at most. ``shifted``: whether values count from the account's average."""

    family: Family
    measures: tuple[str, ...]
    beyond: float = _BEYOND
    shifted: bool = True


EXTREMES = {
    # A new category is extreme in the latter two, and yet near honest queries.
    "extreme_content": Extreme("content", ("novelty", "unseen_values", "outlyingness"), beyond=0.05),
    "extreme_interpolation": Extreme("structure", ("interpolation",)),
    "extreme_steps": Extreme("structure", ("sign_steps",), shifted=False),
}

_SHARE = 1 / 16
"""The share of a thief's queries that is taken to be extreme."""
_LONGER = 4.0
"""A thief's tail is taken to be this many times as long as the honest one."""
_SEVERAL = 1.2
"""Excesses in several measures at once are added up, and divided by this."""
_RATE = (1 - 1 / _LONGER) / _SEVERAL
_NO_EXTREME_NATS = math.log(1 - _SHARE)
_MAX_NATS, _MAX_EVIDENCE = 3.5, 24.0
"""The most that one query adds, and the most that the sum holds."""
_HONEST_NATS = 4.0
"""Honest accounts reach this many nats."""
_MAX_EXCESS = 20.0
"""Larger excesses, in mean excesses of the honest tail, count as this one."""

Floats = NDArray[np.float64]


def beyond_of(measure: str) -> float:
    """Returns the share of honest queries beyond the start of the tail of ``measure``, at most."""
    return next((extreme.beyond for extreme in EXTREMES.values() if measure in extreme.measures), _BEYOND)


class TailScales(NamedTuple):
    """By measure: the position of its group in ``EXTREMES`` int64 (j,), -1 for none; whether it ``leads`` that and
    whether it is ``shifted``, bool (j,); and ``tail`` float64 (3, j): mean, start and mean excess. ``beyond`` float64
    (groups,): see ``Extreme``. ``varied``: the column of ``one_feature``, -1 for none."""

    group: NDArray[np.int64]
    leads: NDArray[np.bool_]
    shifted: NDArray[np.bool_]
    tail: Floats
    beyond: Floats
    varied: int

    @classmethod
    def of(cls, names: Sequence[str], tails: Tails | None) -> TailScales:
        """Returns those of measures ``names``; without ``tails`` none is in a group."""
        known = tails.measures if tails else ()
        group, leads, shifted = np.full(len(names), -1), np.zeros(len(names), np.bool_), np.zeros(len(names), np.bool_)
        tail = np.zeros((3, len(names)))
        for number, extreme in enumerate(EXTREMES.values()):
            for name in extreme.measures:
                if tails is not None and name in known and name in names:
                    column, at = names.index(name), known.index(name)
                    group[column], leads[column], shifted[column] = number, name == extreme.measures[0], extreme.shifted
                    tail[:, column] = tails.mean[at], tails.start[at], tails.excess[at]
        beyond = np.array([extreme.beyond for extreme in EXTREMES.values()])
        return cls(group, leads, shifted, tail, beyond, names.index("one_feature") if "one_feature" in names else -1)


@compiled
def add_extremes(
    values: Floats,
    weights: Floats,
    average: Floats,
    clock: NDArray[np.int64],
    scales: TailScales,
    reached: Floats,
    leads: NDArray[np.bool_],
    evidence: Floats,
) -> None:
    """Adds one query to the ``evidence`` (groups,) of its account, in place. ``values`` (j,), each on its ``clock`` of
    ``weights`` (clocks,), and the account's ``average`` of each before (j,). ``reached`` and ``leads`` (groups,) are
    room to work in."""
    if scales.varied >= 0 and values[scales.varied] > 0:
        return
    for group in range(len(evidence)):
        reached[group], leads[group] = 0.0, False
    for column in range(len(values)):
        group = scales.group[column]
        if group < 0 or math.isnan(values[column]) or weights[clock[column]] == 0.0:
            continue
        mean, start, excess = scales.tail[0, column], scales.tail[1, column], scales.tail[2, column]
        shift = max(average[column] - mean, 0.0) if scales.shifted[column] else 0.0
        beyond = (values[column] - shift - start) / excess
        if beyond > 0:
            reached[group] += min(beyond, _MAX_EXCESS)
        leads[group] |= scales.leads[column] and values[column] > start
    for group in range(len(evidence)):
        nats = _NO_EXTREME_NATS
        if leads[group] and reached[group] > 0:
            ratio = math.exp(_RATE * reached[group]) / (scales.beyond[group] * _LONGER)
            nats = min(math.log(1 - _SHARE + _SHARE * ratio), _MAX_NATS)
        evidence[group] = min(max(evidence[group] + weights[0] * nats, 0.0), _MAX_EVIDENCE)


@compiled
def extremes_score(evidence: float) -> float:
    """Returns by how many nats the ``evidence`` exceeds that of ordinary honest accounts."""
    return max(evidence - _HONEST_NATS, 0.0)
