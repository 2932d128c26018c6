"""Scores follow their definition query by query, in the same bits however the stream is cut, compiled or not."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.core.loops.compiled import SWITCH
from detector.core.measures import MEASURES
from detector.core.reference.standards import MAX_CONTRIBUTION, PRIOR, Spread, Tails, unexplained
from detector.core.signals import WEIGHED
from detector.core.signals.suspicion import CLOCKS, DEPTH, FOLLOWING, MEMORIES, MeasuredQueries, Scales, width
from detector.core.state.arrays import Array

OWN = list(MEASURES.values())
NAMES = list(MEASURES)
CONTENT = [name for name, measure in MEASURES.items() if measure.family == "content"]
COUNT = len(OWN)
COLUMNS = COUNT + len(WEIGHED) + len(FOLLOWING)
TAILS = Tails(tuple(MEASURES), np.zeros(COUNT), np.linspace(2, 5, COUNT), np.linspace(1, 2, COUNT))


@dataclass(frozen=True)
class Stream:
    """MeasuredQueries of several principals: ``slot`` int64 (n,) says whose each is."""

    spread: Spread
    exemplars: Array
    slot: Array
    queries: MeasuredQueries

    @classmethod
    def of(cls, seed: int, count: int = 120, principals: int = 3) -> Stream:
        """Values rise; some are absent and some extreme. Many weights are 0 or 1."""
        rng = np.random.default_rng(seed)
        spread = Spread(rng.normal(size=COLUMNS), rng.uniform(0.1, 2, COLUMNS), rng.uniform(0.1, 2, COLUMNS))
        values = spread.mean[:COUNT] + rng.normal(np.linspace(-1, 12, count)[:, None], 2, (count, COUNT))
        values = np.where(rng.random(values.shape) < 0.1, rng.choice([nan, 1e9, -1e9], values.shape), values)
        values[:, NAMES.index("one_feature")] *= rng.random(count) < 0.1
        weights = np.where(rng.random((count, 3)) < 0.5, rng.integers(0, 2, (count, 3)), rng.random((count, 3)))
        states = np.where(rng.random((count, 2)) < 0.2, nan, rng.normal(0, 4, (count, 2)))
        exemplars = np.concatenate((np.zeros((1, COLUMNS)), rng.exponential(1, (6, COLUMNS))))
        return cls(spread, exemplars, rng.integers(0, principals, count), MeasuredQueries(values, weights, states))

    def scored(self, cuts: list[int]) -> tuple[Array, Array]:
        """Returns the scores and D after each query, in calls that end at ``cuts``; each has only slots that occur."""
        count, scoring = int(self.slot.max()) + 1, Scales.of(OWN, self.spread, TAILS)
        held, extremes = np.zeros((count, width(OWN))), np.zeros((count, 3))
        parts = []
        for own in np.split(np.arange(len(self.slot)), cuts):
            slots, slot = np.unique(self.slot[own], return_inverse=True)
            sums, evidence = held[slots], extremes[slots]
            parts.append(scoring.update(slot, MeasuredQueries(*(part[own] for part in self.queries)), sums, evidence))
            held[slots], extremes[slots] = sums, evidence
        scores = np.concatenate(parts)
        return scores, unexplained(scores, self.exemplars)[0]


class Oracle:
    """One principal, one query at a time."""

    def __init__(self, spread: Spread) -> None:
        self._of, self._states = spread.at(slice(COUNT)), spread.at(slice(COUNT, -len(FOLLOWING)))
        self._evidence = np.zeros(3)
        self._total, self._weight = np.zeros((COUNT, DEPTH)), np.zeros((COUNT, DEPTH))

    def query(self, values: Array, weights: Array, states: Array) -> Array:
        own = self._of
        self._add_extremes(values, weights)
        reach = 8 * np.hypot(own.between, own.within)
        values = np.where(np.isnan(values), own.mean, np.clip(values, own.mean - reach, own.mean + reach))
        weight = weights[[CLOCKS.index(measure.clock) for measure in OWN]][:, None]
        self._total = self._total * np.exp(-weight / MEMORIES) + weight * values[:, None]
        self._weight = self._weight * np.exp(-weight / MEMORIES) + weight
        queries = self._weight + PRIOR
        average = (self._total + PRIOR * own.mean[:, None]) / queries
        deviation = np.sqrt(own.between[:, None] ** 2 + own.within[:, None] ** 2 / queries)
        z = ((average - own.mean[:, None]) / deviation).max(axis=1)
        others = np.minimum(np.nan_to_num((states - self._states.mean) / self._states.between), 2.0)
        return np.concatenate((z, others, [self._change(average)], np.maximum(self._evidence - 4, 0)))

    def _add_extremes(self, values: Array, weights: Array) -> None:
        average = (self._total[:, 1] + PRIOR * TAILS.mean) / (self._weight[:, 1] + PRIOR)
        shift = np.maximum(average - TAILS.mean, 0) * np.array([name != "sign_steps" for name in NAMES])
        beyond = (values - shift - TAILS.start) / TAILS.excess
        counts = weights[[CLOCKS.index(measure.clock) for measure in OWN]] > 0
        beyond = np.where(np.isnan(values) | ~counts, 0, np.clip(beyond, 0, 20))
        if values[NAMES.index("one_feature")] > 0:
            return
        for group, names in enumerate(
            (["novelty", "unseen_values", "outlyingness"], ["interpolation"], ["sign_steps"])
        ):
            own, at = beyond[[NAMES.index(name) for name in names]], NAMES.index(names[0])
            extreme = values[at] > TAILS.start[at] and counts[at] and own.sum() > 0
            ratio = np.exp(own.sum() / 1.2 * 3 / 4) / 4 / (0.03 if group else 0.05) if extreme else 0.0
            nats = min(np.log(15 / 16 + ratio / 16), 3.5)
            self._evidence[group] = np.clip(self._evidence[group] + weights[0] * nats, 0, 24)

    @staticmethod
    def _change(average: Array) -> float:
        risen = [
            (average[at, 1] - average[at, 3]) / np.hypot(own.between, own.within / np.sqrt(32 + PRIOR))
            for at, own in enumerate(OWN)
            if own.family == "content"
        ]
        return float(np.clip(max(risen), 0, 3))


@pytest.mark.parametrize("seed", range(4))
def test_scores_and_d_are_those_of_the_formulas(seed: int) -> None:
    stream = Stream.of(seed)
    scores, left = stream.scored([])
    oracles = [Oracle(stream.spread) for _ in range(3)]
    for row, slot in enumerate(stream.slot.tolist()):
        wanted = oracles[slot].query(*(part[row] for part in stream.queries))
        np.testing.assert_allclose(scores[row], wanted, rtol=1e-9, atol=1e-9)
        beside = np.clip(wanted - stream.exemplars, 0, MAX_CONTRIBUTION).sum(axis=1)
        assert left[row] == pytest.approx(beside.min(), rel=1e-9, abs=1e-9)


def test_the_streams_reach_what_they_are_for() -> None:
    """Scores are on both sides of 0, and those with a cap reach it."""
    scores = np.concatenate([Stream.of(seed).scored([])[0] for seed in range(4)])
    assert (scores.max(axis=0) > 0).all() and (scores.min(axis=0) <= 0).all()
    assert scores.max(axis=0)[COUNT:-2].tolist() == [2.0, 2.0, 3.0, 20.0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, 119), max_size=12, unique=True).map(sorted))
def test_any_cut_gives_the_same_bits(seed: int, cuts: list[int]) -> None:
    stream = Stream.of(seed)
    for whole, same in zip(stream.scored([]), stream.scored(cuts), strict=True):
        assert whole.tobytes() == same.tobytes()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_each_principal_is_scored_as_if_alone(seed: int) -> None:
    stream = Stream.of(seed)
    scores, left = stream.scored([])
    for slot in range(3):
        own = stream.slot == slot
        alone = Stream(
            stream.spread, stream.exemplars, stream.slot[own], MeasuredQueries(*(p[own] for p in stream.queries))
        )
        assert alone.scored([])[0].tobytes() == scores[own].tobytes()
        assert alone.scored([])[1].tobytes() == left[own].tobytes()


def _bits() -> str:
    return "".join(part.tobytes().hex() for seed in range(3) for part in Stream.of(seed, 40).scored([7, 8]))


def test_the_plain_source_gives_the_same_bits() -> None:
    source = "from tests.core.test_scoring import _bits; print(_bits())"
    plain = subprocess.run(
        [sys.executable, "-c", source],
        env=os.environ | {SWITCH: "off"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert plain.stdout.strip() == _bits()


def _queries(count: int, **columns: float | Array) -> MeasuredQueries:
    """Ordinary queries of weight 1, but for the ``columns`` named."""
    values, states = np.zeros((count, COUNT)), np.zeros((count, len(WEIGHED)))
    for name, column in columns.items():
        if name in NAMES:
            values[:, NAMES.index(name)] = column
        else:
            states[:, WEIGHED.index(name)] = column
    return MeasuredQueries(values, np.ones((count, len(CLOCKS))), states)


def _scored(queries: MeasuredQueries, between: float = 5.0, within: float = 5.0) -> Array:
    """As of each query of one principal, where honest accounts average 0."""
    spread = Spread(np.zeros(COLUMNS), np.full(COLUMNS, between), np.full(COLUMNS, within))
    alone = np.zeros(len(queries.values), np.int64)
    return Scales.of(OWN, spread, TAILS).update(alone, queries, np.zeros((1, width(OWN))), np.zeros((1, 3)))


def test_scores_of_single_queries_are_brought_in_to_eight_deviations() -> None:
    for side in (-1, 1):
        extreme, edge = (_scored(_queries(1, novelty=side * value), 3.0, 4.0) for value in (1e9, 8 * 5.0))
        np.testing.assert_array_equal(extreme, edge)
    assert _scored(_queries(1, novelty=39.9), 3.0, 4.0)[0, 0] < edge[0, 0]


def test_who_asked_nothing_of_weight_is_ordinary() -> None:
    queries = _queries(5, novelty=9.0)._replace(weights=np.zeros((5, len(CLOCKS))))
    assert not _scored(queries).any()


def test_states_are_in_deviations_between_accounts_none_is_ordinary_and_two_is_the_most() -> None:
    said = np.array([1.0, nan, -6.0, 1e9, inf, -inf])
    scores = _scored(_queries(6, prada=said), 2.0)[:, COUNT]
    np.testing.assert_array_equal(scores, [0.5, 0.0, -3.0, 2.0, 2.0, -inf])
    assert unexplained(_scored(_queries(6, prada=said)), np.zeros((1, COLUMNS)))[0][5] == 0


def _change(scores: Array, name: str = CONTENT[0]) -> Array:
    """As of each query of one who scores ``scores``, in least deviations of a single query, at the measure ``name``."""
    deviation = np.hypot(MEASURES[name].between, MEASURES[name].within)
    said: Array = _scored(_queries(len(scores), **{name: scores * deviation}))[:, COUNT + len(WEIGHED)]
    return said


def _steps(before: float, after: float) -> Array:
    return np.repeat([before, after], [200, 100])


@pytest.mark.parametrize("name", CONTENT)
def test_it_rises_with_what_is_asked_and_fades_as_that_becomes_the_rule(name: str) -> None:
    said = _change(np.repeat([0.0, 1.0], [200, 700]), name)
    assert (said[:200] == 0).all()
    assert said[205] < said[220] and said[220] > 0.5
    assert said[-1] < said[300] / 2


def test_who_becomes_more_ordinary_does_not_change() -> None:
    assert (_change(_steps(1.0, 0.0))[205:] == 0).all()


def test_it_counts_for_three_at_most() -> None:
    said = _change(_steps(0.0, 7.0))
    assert said.max() == 3.0
    assert 0 < _change(_steps(0.0, 0.5)).max() < 3.0


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CONTENT])
def test_only_what_is_asked_counts(name: str) -> None:
    assert (_change(_steps(0.0, 7.0), name) == 0).all()
