"""Fading sums are those of a loop over queries, however the rows are grouped and split."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.core.arrays import Array
from detector.core.averages import MEMORIES, fading_sums
from detector.core.rows import Grouping

COLUMNS = 5
CLOCKS = 2

lengths = st.lists(st.integers(0, 150), min_size=1, max_size=12)


def _loop(lengths: list[int], increments: Array, clock: Array, weights: Array, before: Array) -> Array:
    """Group by group, row by row, column by column, memory by memory."""
    out = np.empty((len(increments), len(MEMORIES), increments.shape[1]))
    row = 0
    for group, length in enumerate(lengths):
        held = before[:, :, group].tolist()
        for _ in range(length):
            for column in range(len(increments)):
                for at, memory in enumerate(MEMORIES.tolist()):
                    held[column][at] *= exp(-float(weights[clock[column], row]) / memory)
                    held[column][at] += float(increments[column, row])
            out[:, :, row] = held
            row += 1
    return out


def _made(lengths: list[int], seed: int) -> tuple[Grouping, Array, Array, Array, Array]:
    """A grouping of ``lengths`` with increments, clocks, weights of which some are 0 or 1, and sums before."""
    generator = np.random.default_rng(seed)
    shape = (CLOCKS, sum(lengths))
    weights = np.where(generator.random(shape) < 0.3, generator.integers(0, 2, shape), 0.0)
    weights = np.where(generator.random(shape) < 0.5, generator.random(shape), weights)
    clock = generator.integers(0, CLOCKS, COLUMNS)
    increments = generator.normal(0, 3, (COLUMNS, shape[1])) * weights[clock]
    before = generator.normal(0, 20, (COLUMNS, len(MEMORIES), len(lengths)))
    group = np.repeat(np.arange(len(lengths)), lengths)
    return Grouping.of(group, len(lengths)), increments, clock, weights, before


@settings(max_examples=25, deadline=None)
@given(lengths=lengths, seed=st.integers(0, 10_000))
def test_they_are_those_of_a_loop(lengths: list[int], seed: int) -> None:
    grouping, increments, clock, weights, before = _made(lengths, seed)
    kept = before.copy()
    sums = fading_sums(grouping, increments, clock, weights, before)
    np.testing.assert_allclose(sums, _loop(lengths, increments, clock, weights, before), rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(before, kept)


@settings(max_examples=25, deadline=None)
@given(lengths=lengths, seed=st.integers(0, 10_000), cuts=st.integers(1, 4))
def test_split_into_several_calls_they_are_the_same(lengths: list[int], seed: int, cuts: int) -> None:
    grouping, increments, clock, weights, before = _made(lengths, seed)
    whole = fading_sums(grouping, increments, clock, weights, before)
    group = np.repeat(np.arange(len(lengths)), lengths)
    call = np.random.default_rng(seed).integers(0, cuts, len(group))
    call = call[np.lexsort((call, group))]  # ascending within each group
    held, parts = before.copy(), np.empty_like(whole)
    for number in range(cuts):
        rows = np.flatnonzero(call == number)
        own = Grouping.of(group[rows], len(lengths))
        parts[:, :, rows] = fading_sums(own, increments[:, rows], clock, weights[:, rows], held)
        held[:, :, group[rows]] = parts[:, :, rows]
    np.testing.assert_allclose(parts, whole, rtol=1e-10, atol=1e-10)


def test_with_all_values_one_the_sum_is_the_weight_and_a_mean_stays_within_what_was_seen() -> None:
    grouping, _, clock, weights, before = _made([400, 3], 1)
    ones = fading_sums(grouping, weights[clock], clock, weights, 0 * before)
    values = np.random.default_rng(2).uniform(4, 5, 403)
    sums = fading_sums(grouping, values * weights[clock], clock, weights, 0 * before)
    mean = sums[:, :, 350:400] / ones[:, :, 350:400]
    assert ((mean >= 4) & (mean <= 5)).all()
    assert (np.diff(ones[:, :, :400].max(axis=(0, 2))) > 0).all()  # the longer the memory, the more is remembered


def test_a_query_of_weight_nought_changes_nothing() -> None:
    grouping = Grouping.of(np.zeros(40, np.int64), 1)
    before = np.full((1, len(MEMORIES), 1), 7.0)
    none = np.zeros((1, 40))
    sums = fading_sums(grouping, none, np.array([0]), none, before)
    np.testing.assert_allclose(sums, 7.0, rtol=1e-12)


def test_a_whole_micro_batch_of_one_principal_loses_no_digits() -> None:
    """1,024 rows at once, whose exponentials reach e^128, after large sums."""
    grouping, increments, clock, weights, _ = _made([1024], 5)
    weights = np.maximum(weights, 0.9)
    before = np.full((COLUMNS, len(MEMORIES), 1), 1e6)
    sums = fading_sums(grouping, increments, clock, weights, before)
    np.testing.assert_allclose(sums, _loop([1024], increments, clock, weights, before), rtol=1e-9, atol=1e-9)


def test_sums_of_two_who_weigh_their_queries_alike_add_up() -> None:
    grouping, increments, clock, weights, before = _made([90], 3)
    other = np.random.default_rng(4).normal(0, 2, increments.shape) * weights[clock]
    apart = fading_sums(grouping, increments, clock, weights, before)
    apart += fading_sums(grouping, other, clock, weights, 2 * before)
    together = fading_sums(grouping, increments + other, clock, weights, 3 * before)
    np.testing.assert_allclose(together, apart, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("groups", [0, 3])
def test_no_rows_are_no_sums(groups: int) -> None:
    grouping = Grouping.of(np.empty(0, np.int64), groups)
    sums = fading_sums(grouping, np.empty((2, 0)), np.array([0, 1]), np.empty((2, 0)), np.empty((2, 4, groups)))
    assert sums.shape == (2, 4, 0)
