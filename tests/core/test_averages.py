"""Decayed sums are those of the formula, query after query."""

from __future__ import annotations

from math import exp

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.core.signals.suspicion import DEPTH, MEMORIES, fade
from detector.core.state.arrays import Array

COLUMNS = 5
CLOCKS = 2


def _followed(added: Array, clock: Array, weights: Array, before: Array) -> Array:
    """Returns float64 (n, j, memories): the sums after each of n queries that add ``added`` (n, j)."""
    sums, kept = before.flatten(), np.empty((weights.shape[1], DEPTH))
    after = np.empty((len(added), *before.shape))
    for row in range(len(added)):
        fade(sums, added[row], weights[row], clock, kept)
        after[row] = sums.reshape(before.shape)
    return after


def _loop(added: Array, clock: Array, weights: Array, before: Array) -> Array:
    held, after = before.tolist(), np.empty((len(added), *before.shape))
    for row in range(len(added)):
        for column in range(added.shape[1]):
            for at, memory in enumerate(MEMORIES.tolist()):
                held[column][at] *= exp(-float(weights[row, clock[column]]) / memory)
                held[column][at] += float(added[row, column])
        after[row] = held
    return after


def _made(count: int, seed: int) -> tuple[Array, Array, Array, Array]:
    """What ``count`` queries add, clocks, weights of which some are 0 or 1, and sums before."""
    generator = np.random.default_rng(seed)
    shape = (count, CLOCKS)
    weights = np.where(generator.random(shape) < 0.5, generator.integers(0, 2, shape), generator.random(shape))
    clock = generator.integers(0, CLOCKS, COLUMNS)
    added = generator.normal(0, 3, (count, COLUMNS)) * weights[:, clock]
    return added, clock, weights, generator.normal(0, 20, (COLUMNS, DEPTH))


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 150), seed=st.integers(0, 10_000))
def test_they_are_those_of_the_formula(count: int, seed: int) -> None:
    made = _made(count, seed)
    np.testing.assert_array_equal(_followed(*made), _loop(*made))


def test_with_all_values_one_the_sum_is_the_weight_and_a_mean_stays_within_what_was_seen() -> None:
    _, clock, weights, before = _made(400, 1)
    ones = _followed(weights[:, clock], clock, weights, 0 * before)
    values = np.random.default_rng(2).uniform(4, 5, (400, 1))
    mean = _followed(values * weights[:, clock], clock, weights, 0 * before)[350:] / ones[350:]
    assert ((mean >= 4) & (mean <= 5)).all()
    assert (np.diff(ones.max(axis=(0, 1))) > 0).all()  # the longer the memory, the more is remembered


def test_a_query_of_weight_nought_changes_nothing() -> None:
    none, before = np.zeros((40, 1)), np.full((1, DEPTH), 7.0)
    np.testing.assert_array_equal(_followed(none, np.array([0]), none, before), np.full((40, 1, DEPTH), 7.0))


def test_sums_of_two_who_weigh_their_queries_alike_add_up() -> None:
    added, clock, weights, before = _made(90, 3)
    other = np.random.default_rng(4).normal(0, 2, added.shape) * weights[:, clock]
    apart = _followed(added, clock, weights, before) + _followed(other, clock, weights, 2 * before)
    together = _followed(added + other, clock, weights, 3 * before)
    np.testing.assert_allclose(together, apart, rtol=1e-10, atol=1e-10)
