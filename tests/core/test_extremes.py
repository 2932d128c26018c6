"""A share of extreme queries adds up, however ordinary the others are; a few, or those that are the rule, do not."""

from __future__ import annotations

import numpy as np
import pytest

from detector.core.measures import MEASURES
from detector.core.reference.standards import Spread, Tails
from detector.core.signals import WEIGHED
from detector.core.signals.extremes import EXTREMES
from detector.core.signals.suspicion import CLOCKS, FOLLOWING, MeasuredQueries, Scales, width
from detector.core.state.arrays import Array

NAMES, OWN = list(MEASURES), list(MEASURES.values())
COUNT = len(NAMES)
TAILS = Tails(tuple(NAMES), np.zeros(COUNT), np.full(COUNT, 2.0), np.ones(COUNT))
VERDICT = 5.0


def _evidence(
    name: str, scores: Array, weight: Array | float = 1.0, varied: Array | float = 0.0, others: float = 0.0
) -> Array:
    """Returns the score as of each query of one principal, of which the leading measure has ``scores``, and all other
    measures what is given in ``others`` wherever that is above 0. ``varied``: that of ``one_feature``."""
    values = np.where(scores[:, None] > 0, others, np.zeros((len(scores), COUNT)))
    values[:, NAMES.index(EXTREMES[name].measures[0])] = scores
    values[:, NAMES.index("one_feature")] = varied
    states = np.zeros((len(scores), len(WEIGHED)))
    weights = np.zeros((len(scores), len(CLOCKS))) + np.reshape(weight, (-1, 1))
    columns = COUNT + len(WEIGHED) + len(FOLLOWING)
    spread = Spread(np.zeros(columns), np.ones(columns), np.ones(columns))
    alone, nothing = np.zeros(len(scores), np.int64), (np.zeros((1, width(OWN))), np.zeros((1, len(EXTREMES))))
    found = Scales.of(OWN, spread, TAILS).update(alone, MeasuredQueries(values, weights, states), *nothing)
    at = COUNT + len(WEIGHED) + FOLLOWING.index(name)
    said: Array = found[:, at]
    return said


def _one_in(every: int, count: int, value: float = 9.0) -> Array:
    return np.where(np.arange(count) % every == 0, value, 0.0)


@pytest.mark.parametrize("name", EXTREMES)
def test_one_query_in_eight_is_found_and_one_in_a_hundred_is_not(name: str) -> None:
    assert _evidence(name, _one_in(8, 60)).max() > VERDICT
    assert _evidence(name, _one_in(100, 10_000)).max() < VERDICT


@pytest.mark.parametrize("name", EXTREMES)
def test_two_queries_are_no_evidence_and_neither_are_repeats(name: str) -> None:
    assert _evidence(name, np.full(2, 1e9)).max() < VERDICT
    assert not _evidence(name, np.full(300, 9.0), 0.0).any()


def test_repeats_and_varied_values_take_nothing_away() -> None:
    attack, ordinary = np.full(5, 30.0), np.zeros(400)
    scores, repeats = np.append(attack, ordinary), np.append(np.ones(5), ordinary)
    assert _evidence("extreme_content", scores)[-1] == 0.0
    assert _evidence("extreme_content", scores, repeats)[-1] > VERDICT
    varied = _evidence("extreme_content", scores, varied=np.append(np.zeros(5), ordinary + 1))
    assert varied[-1] > VERDICT
    assert not _evidence("extreme_content", scores, varied=np.ones(405)).any()


def test_what_is_the_rule_is_left_to_the_averages() -> None:
    """After some queries an account that always asks extremes adds no more evidence, but one that asks more extreme
    ones among them does."""
    usual = np.full(200, 3.0)
    assert _evidence("extreme_content", usual)[-1] == 0.0
    assert _evidence("extreme_content", usual + _one_in(8, 200))[-1] > VERDICT


def test_a_new_category_near_honest_queries_is_not_extreme() -> None:
    scores = _one_in(8, 200, 0.5)
    assert not _evidence("extreme_content", scores, others=9.0).any()
