"""``suspicion``: all measures of a principal together, against the honest accounts of the profile (``standards``).

The only signal that raises alarms where there is a profile. Its statistic is D, the deviation that no honest account
explains; its score is D over the profile's threshold. It also weighs the scores of earlier signals in the registry.

Scores of single queries become scores of a principal, in standard deviations of honest accounts: the averages of each
measure, then the scores of other signals, then ``change`` and the ``extremes``, in nats.

Averages are quotients of decayed sums, over several memories at once, on clocks that advance by a weight per query.
With weight w, a sum S becomes S e^(-w/s) + w v at a query that scores v, where s is the memory. The same sum of v = 1
is the weight so far, and the quotient is an exponentially weighted mean of about the last s queries. Thirty frames of a
video, each of little weight, count as a few queries.

``change`` is how far a principal's queries have moved from their earlier ones: the average of a content measure over
the last 32 queries, less that over the last 512, in the least standard deviations of such averages; the largest over
the content measures. Thieves often begin with natural inputs. But honest users change their tools too, so ``change`` is
capped below any threshold and never decides alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Evidence, Family
from detector.core.configuration import EngineConfig
from detector.core.loops.compiled import compiled
from detector.core.measures import MEASURES, WIDTH, Clock, Measure, MeasureInput, update_trail
from detector.core.neighbours.history import Views
from detector.core.profile import Profile
from detector.core.reference.standards import PRIOR, Spread, Standards, Tails
from detector.core.signals.base import Delta, Proposal, SlotState
from detector.core.signals.extremes import EXTREMES, TailScales, add_extremes, extremes_score
from detector.core.state.arrays import Array
from detector.core.state.rows import StepRows

CHANGE = "change"
FOLLOWING = (CHANGE, *EXTREMES)
"""The columns of standards after those of measures and other signals."""
NOTABLE = 2.0
"""A family of measures counts if its contribution to an account's D is at least this."""

FAMILIES: dict[str, Family] = {name: source.family for name, source in MEASURES.items()} | {
    "prada": "structure",
    "margin": "outputs",
    CHANGE: "content",
    **{name: source.family for name, source in EXTREMES.items()},
}
"""The family of each column of standards."""

CLOCKS: tuple[Clock, ...] = ("effective", "each", "near")
MEMORIES = np.array((8.0, 32.0, 128.0, 512.0))
"""In queries of weight 1."""
DEPTH = len(MEMORIES)

_RATES = -1.0 / MEMORIES  # powers of two, so that a product is the quotient to the bit
_AFTER_ONE = np.array([math.exp(rate) for rate in _RATES.tolist()])
_FAST, _SLOW = 1, 3
"""The memories that are compared."""
_MOST_CHANGE = 3.0
_MOST_STATE = 2.0
"""The most that another signal counts, in deviations: honest habits reach the same values as thieves."""
_CLIP = 8.0
"""A query's score is clipped to this many standard deviations of a single query, about the mean."""
_SHOWN = 4
"""The most measures that are named as evidence. Those that add only rounding are left out."""
_LEAST_ADDED = 1e-9

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class MeasuredQueries(NamedTuple):
    """Contiguous float64 arrays about n queries: ``values`` (n, j) of the measures, ``weights`` (n, clocks), and
    ``others`` (n, f), the scores of other signals."""

    values: Floats
    weights: Floats
    others: Floats


Listener = Callable[[StepRows, Floats, Floats, Floats], None]
"""Is called for each step, with its rows and the arrays of ``MeasuredQueries``."""


class Suspicion(SlotState):
    """State per slot: the decayed sums of all measures and of all clocks' weights, the evidence of extremes, the trail,
    the tag of the profile, and whether the alarm is on."""

    name: ClassVar[str] = "suspicion"
    version: ClassVar[int] = 1

    def __init__(
        self,
        config: EngineConfig,
        measures: Mapping[str, Measure],
        others: Sequence[str],
        listener: Listener | None = None,
    ) -> None:
        self._measures, self._others, self._listener = list(measures.values()), list(others), listener
        self.figures = (*measures, *others, *FOLLOWING)
        self._scorers = {
            (profile.model, profile.model_version): _ProfileScorer(profile, self.figures, self._measures)
            for profile in config.judging
        }
        super().__init__(
            {
                "sums": (np.float64, 0.0, width(self._measures)),
                "extremes": (np.float64, 0.0, len(EXTREMES)),
                "trail": (np.float32, np.nan, WIDTH),
                "profile": (np.uint64, 0),
                "alarm": (np.bool_, False),
            },
            tag="profile",
        )

    def observe(self, rows: StepRows, views: Views) -> Proposal:
        scorer = self._scorers.get((rows.model, rows.model_version))
        if scorer is None or not views.has_reference:
            return Proposal.empty(len(rows))
        self._begin(rows.slots, scorer.tag)
        slot = rows.slots[rows.slot]
        trail = update_trail(rows, slot, views, self._columns["trail"])
        queries = self._measured(MeasureInput(rows, views, trail))
        if self._listener is not None:
            self._listener(rows, *queries)
        scores = scorer.scales.update(slot, queries, self._columns["sums"], self._columns["extremes"])
        deviation = scorer.standards.unexplained(scores)
        alarm = deviation > scorer.threshold
        risen = np.empty_like(alarm)
        _rise(slot, alarm, self._columns["alarm"], risen)
        rises = np.flatnonzero(risen).tolist()
        return Proposal(
            statistic=deviation,
            score=deviation / scorer.threshold,
            alarm=alarm,
            threshold=scorer.threshold,
            evidence={row: scorer.evidence(scores[row], deviation[row]) for row in rises},
            delta=self._delta(rows.slots, {}),
            figures=dict(zip(self.figures, scores.T, strict=True)),
            families={row: scorer.family(scores[row]) for row in rises},
        )

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None:
        """Applies ``delta``, unless it is of a version with other measures or without extremes: a cold start."""
        expected = {name: self._columns[name].shape[1:] for name in self._logged}
        if expected.items() <= {name: column.shape[1:] for name, column in delta.slots.items()}.items():
            super().apply(slots, pools, delta)

    def dump(self, slots: Array, pools: Array) -> Delta:
        return super().dump(slots, pools) if self._scorers else Delta()

    def nbytes(self, slots: Array | None = None, pools: Array | None = None) -> int:
        return super().nbytes(slots, pools) if self._scorers else 0

    def _measured(self, queries: MeasureInput) -> MeasuredQueries:
        columns = (
            [measure.score(queries) for measure in self._measures],
            [queries.weights[clock] for clock in CLOCKS],
            [queries.views.scores[name] for name in self._others],
        )
        return MeasuredQueries(*(_side_by_side(parts, len(queries.rows)) for parts in columns))


def _side_by_side(columns: Sequence[Floats], count: int) -> Floats:
    """Returns float64 (n, m): ``columns``, float64 (n,) each, row after row; there may be none."""
    matrix = np.empty((count, len(columns)))
    for at, column in enumerate(columns):
        matrix[:, at] = column
    return matrix


class _ProfileScorer:
    """One profile's standards, in the order of this version's measures. ``tag``: a hash of both."""

    def __init__(self, profile: Profile, names: Sequence[str], measures: Sequence[Measure]) -> None:
        rests_on = " ".join((profile.hash, *names)).encode()
        self.tag = np.uint64(int.from_bytes(blake2b(rests_on, digest_size=8).digest(), "big"))
        self._names = names
        self.standards = profile.standards.aligned(names)
        self.scales = Scales.of(measures, self.standards.spread, self.standards.tails)
        self.threshold = self.standards.threshold

    def evidence(self, scores: Floats, deviation: float) -> tuple[Evidence, ...]:
        """Returns D and the measures that add most to it, with the closest honest account's values."""
        added, reached = self.standards.contributions(scores[None])
        first = np.argsort(-added[0], kind="stable")[:_SHOWN]
        most = [
            Evidence(self._names[at], float(scores[at]), "standard deviations", float(reached[0, at]))
            for at in first.tolist()
            if added[0, at] > _LEAST_ADDED
        ]
        return (Evidence("unexplained", float(deviation), "standard deviations", self.threshold), *most)

    def family(self, scores: Floats) -> Family:
        return families_of(self.standards, scores[None])[0]


def families_of(standards: Standards, scores: Floats) -> list[Family]:
    """Returns for each row of ``scores`` float64 (n, j) the family that adds most to D among those that count; content
    only if it alone does. The columns are the measures of ``standards``."""
    added = standards.contributions(scores)[0]
    return [family_of(dict(zip(standards.measures, row, strict=True))) for row in added.tolist()]


def family_of(added: Mapping[str, float]) -> Family:
    """Returns the family that adds most to D, by what measures have ``added``, by name; content only if nothing else
    counts. Links between accounts are structure."""
    total: dict[Family, float] = dict.fromkeys(FAMILIES.values(), 0.0)
    for name, value in added.items():
        total[FAMILIES.get(name, "structure")] += value
    others: list[Family] = [family for family, value in total.items() if family != "content" and value >= NOTABLE]
    return max(others or total, key=lambda family: total[family])


_MEAN, _LOW, _HIGH, _LEAST = range(4)
"""The columns of ``Scales.measures``."""


class Scales(NamedTuple):
    """What the scores of measures, in order, then of other signals, then those ``FOLLOWING``, are scaled by.

    ``clock`` int64 (j + clocks,): see ``clock_of``. ``measures`` float64 (j, 4): the mean, the bounds of a query's
    score, and the least deviation that ``change`` is measured in, infinite where it leaves the measure out. ``lanes``
    (3, j * memories): the mean and the variances between and within accounts, for each sum. ``others`` (f, 2): mean and
    deviation between accounts. ``tails``: those of single queries."""

    clock: Integers
    measures: Floats
    lanes: Floats
    others: Floats
    tails: TailScales

    @classmethod
    def of(cls, measures: Sequence[Measure], spread: Spread, tails: Tails | None) -> Scales:
        of_measures, others = spread.at(slice(len(measures))), spread.at(slice(len(measures), -len(FOLLOWING)))
        reach = _CLIP * np.hypot(of_measures.between, of_measures.within)
        least = [
            math.hypot(measure.between, measure.within / math.sqrt(MEMORIES[_FAST] + PRIOR))
            if measure.family == "content"
            else math.inf
            for measure in measures
        ]
        return cls(
            clock_of(measures),
            np.column_stack((of_measures.mean, of_measures.mean - reach, of_measures.mean + reach, least)),
            np.repeat(np.stack((of_measures.mean, of_measures.between**2, of_measures.within**2)), DEPTH, axis=1),
            np.column_stack((others.mean, others.between)),
            TailScales.of([measure.name for measure in measures], tails),
        )

    def update(self, slot: Integers, queries: MeasuredQueries, sums: Floats, extremes: Floats) -> Floats:
        """Returns float64 (n, j + f + following): the scores as of each of ``queries``, whose slots are ``slot`` int64
        (n,). Updates the contiguous ``sums`` float64 (slots, ``width``) and ``extremes`` float64 (slots, groups) in
        place."""
        scores = np.empty((len(slot), queries.values.shape[1] + queries.others.shape[1] + len(FOLLOWING)))
        count, groups = queries.values.shape[1], extremes.shape[1]
        room = _Room(
            np.empty(len(self.clock)),
            np.empty((len(CLOCKS), DEPTH)),
            np.empty(count * DEPTH),
            np.empty(count * DEPTH),
            np.empty(count),
            np.empty(groups),
            np.empty(groups, np.bool_),
        )
        _update(slot, queries, sums, extremes, self, room, scores)
        return scores


def clock_of(measures: Sequence[Measure]) -> Integers:
    """Returns int64 (j + clocks,): the clock of each sum, of the measures first and then of the clocks' own weights."""
    return np.array([*(CLOCKS.index(measure.clock) for measure in measures), *range(len(CLOCKS))], np.int64)


def width(measures: Sequence[Measure]) -> int:
    """Returns the number of sums per principal."""
    return len(clock_of(measures)) * DEPTH


class _Room(NamedTuple):
    """Room to work in, for one query: what ``_increments``, ``fade``, ``_standardise``, ``_weigh``, ``_average`` and
    ``add_extremes`` set."""

    added: Floats
    kept: Floats
    each: Floats
    weight: Floats
    average: Floats
    reached: Floats
    leads: NDArray[np.bool_]


@compiled
def _update(
    slot: Integers,
    queries: MeasuredQueries,
    sums: Floats,
    extremes: Floats,
    scales: Scales,
    room: _Room,
    scores: Floats,
) -> None:
    """Row after row, adds the query to its slot's sums, and scores them."""
    count, others = len(scales.measures), len(scales.others)
    added, kept, each, weight, average = room.added, room.kept, room.each, room.weight, room.average
    for row in range(len(slot)):
        account_sums, evidence = sums[slot[row]], extremes[slot[row]]
        values, weights = queries.values[row], queries.weights[row]
        _average(account_sums, scales, average)
        add_extremes(values, weights, average, scales.clock, scales.tails, room.reached, room.leads, evidence)
        _increments(values, weights, scales, added)
        fade(account_sums, added, weights, scales.clock, kept)
        _weigh(account_sums, scales.clock, weight)
        _standardise(account_sums, weight, scales.lanes, each)
        for column in range(count):
            most = each[column * DEPTH]
            for memory in range(1, DEPTH):
                most = max(most, each[column * DEPTH + memory])
            scores[row, column] = most
        for at in range(others):
            scores[row, count + at] = _weighed(queries.others[row, at], scales.others[at])
        scores[row, count + others] = _change(account_sums, weight, scales.measures)
        for group in range(len(evidence)):
            scores[row, count + others + 1 + group] = extremes_score(evidence[group])


@compiled
def _increments(values: Floats, weights: Floats, scales: Scales, added: Floats) -> None:
    """Sets ``added`` (j + clocks,) to what a query adds to the sums. NaN counts as ordinary, extremes are clipped."""
    count = len(values)
    for column in range(count):
        scale, value = scales.measures[column], values[column]
        value = scale[_MEAN] if math.isnan(value) else min(max(value, scale[_LOW]), scale[_HIGH])
        added[column] = value * weights[scales.clock[column]]
    for at in range(len(weights)):
        added[count + at] = weights[at]


@compiled
def _average(sums: Floats, scales: Scales, average: Floats) -> None:
    """Sets ``average`` (j,) to that of the last 32 queries, with ``PRIOR`` ordinary ones."""
    for column in range(len(average)):
        total = sums[column * DEPTH + _FAST] + scales.tails.tail[0, column] * PRIOR
        average[column] = total / (sums[(len(average) + scales.clock[column]) * DEPTH + _FAST] + PRIOR)


@compiled
def _weigh(sums: Floats, clock: Integers, weight: Floats) -> None:
    """Sets ``weight`` (j * memories,) to the number of queries in each sum, with ``PRIOR`` ordinary ones."""
    count = len(weight) // DEPTH
    for column in range(count):
        clock_sums = (count + clock[column]) * DEPTH
        for memory in range(DEPTH):
            weight[column * DEPTH + memory] = sums[clock_sums + memory] + PRIOR


@compiled
def _standardise(total: Floats, weight: Floats, lanes: Floats, each: Floats) -> None:
    """Sets ``each`` (j * memories,) to (average - mean) / sqrt(between² + within² / queries), from decayed sums. Lane
    by lane, so that the processor divides several at once."""
    mean, between, within = lanes[0], lanes[1], lanes[2]
    for at in range(len(each)):
        gap = total[at] + mean[at] * (PRIOR - weight[at])
        each[at] = gap / math.sqrt((between[at] * weight[at] + within[at]) * weight[at])


@compiled
def _change(total: Floats, weight: Floats, measures: Floats) -> float:
    """Returns ``change``: see the module."""
    most = 0.0
    for column in range(len(measures)):
        mean, least = measures[column, _MEAN], measures[column, _LEAST]
        if least < math.inf:
            fast, slow = column * DEPTH + _FAST, column * DEPTH + _SLOW
            lately = (total[fast] + mean * (PRIOR - weight[fast])) / weight[fast]
            usually = (total[slow] + mean * (PRIOR - weight[slow])) / weight[slow]
            most = max(most, (lately - usually) / least)
    return min(most, _MOST_CHANGE)


@compiled
def _weighed(score: float, spread: Floats) -> float:
    """Returns the ``score`` of another signal in deviations, ``spread`` (mean, between); 0 for NaN."""
    if math.isnan(score):
        return 0.0
    deviation: float = (score - spread[0]) / spread[1]
    return min(deviation, _MOST_STATE)


@compiled
def fade(sums: Floats, added: Floats, weights: Floats, clock: NDArray[np.int64], kept: Floats) -> None:
    """Updates ``sums`` (j * memories,), those of one account, by one query, in place: the j-th ones decay by the
    ``clock[j]``-th of ``weights`` (clocks,), from 0 to 1, and grow by ``added[j]``. ``kept`` (clocks, memories)
    receives what is left of 1."""
    for number in range(len(weights)):
        weight = weights[number]
        for memory in range(DEPTH):
            if weight == 0.0:
                kept[number, memory] = 1.0
            elif weight == 1.0:
                kept[number, memory] = _AFTER_ONE[memory]
            else:
                kept[number, memory] = math.exp(weight * _RATES[memory])
    for column in range(len(added)):
        number = clock[column]
        for memory in range(DEPTH):
            at = column * DEPTH + memory
            sums[at] = sums[at] * kept[number, memory] + added[column]


@compiled
def _rise(
    slot: NDArray[np.int64], alarm: NDArray[np.bool_], is_on: NDArray[np.bool_], risen: NDArray[np.bool_]
) -> None:
    """Row after row, sets ``risen`` where the slot's alarm was off before, and updates ``is_on`` (slots,)."""
    for row in range(len(slot)):
        risen[row] = alarm[row] and not is_on[slot[row]]
        is_on[slot[row]] = alarm[row]
