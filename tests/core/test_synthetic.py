"""Synthetic queries are told from natural ones, and another device from a thief."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.core.profile import Profile
from detector.core.reference.reference import HonestQueries, Reference, ReferenceIndex
from detector.core.reference.synthetic import WIDTH
from tests.core.profiles import standards

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]
SIZES = (6, 40, 150)
OF_ONE = 80


def _account(seed: int, dimension: int) -> Rows:
    """Rows of few strong directions, and a category in two columns."""
    rng, strong = np.random.default_rng([seed, 1]), np.random.default_rng(dimension).normal(0, 1, (3, dimension))
    rows = rng.normal(0, 1, (OF_ONE, 3)) @ strong + 0.3 * rng.standard_normal((OF_ONE, dimension))
    rows[:, 0] = rng.integers(0, 2, OF_ONE)
    rows[:, 1] = 1 - rows[:, 0]
    return rows.astype(np.float32)


def _reference(dimension: int, seeds: range = range(20)) -> Reference:
    accounts = [_account(seed, dimension) for seed in seeds]
    return Reference.of([HonestQueries(rows, np.ones((OF_ONE, 1), np.float32)) for rows in accounts], "score")


def _odds(reference: Reference, rows: Rows) -> Floats:
    """The log-odds of one account's queries."""
    assert reference.synthetic is not None
    state = np.full((1, WIDTH), np.nan, np.float32)
    projection = reference.embedding.project(ReferenceIndex(reference).scaled(rows))
    slot, repeats = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_)
    return reference.synthetic.log_odds(slot, projection, repeats, state)


def _crossed(rows: Rows) -> Rows:
    rng = np.random.default_rng(7)
    made = rows[rng.integers(len(rows), size=rows.shape), np.arange(rows.shape[1])]
    made[:, :2] = rows[:, :2]
    return np.asarray(made)


def _noisy(rows: Rows) -> Rows:
    made = rows + 0.7 * rows.std(axis=0) * np.random.default_rng(8).standard_normal(rows.shape)
    made[:, :2] = rows[:, :2]
    return np.asarray(made, np.float32)


@pytest.mark.parametrize("dimension", SIZES)
@pytest.mark.parametrize("made", [_crossed, _noisy])
def test_what_is_made_of_own_rows_looks_synthetic(dimension: int, made: Callable[[Rows], Rows]) -> None:
    reference, own = _reference(dimension), _account(99, dimension)
    natural, synthetic = (_odds(reference, rows)[4:].mean() for rows in (own, made(own)))
    usual = [_odds(reference, _account(seed, dimension))[4:].mean() for seed in range(50, 60)]
    assert synthetic > 2 * max(*usual, natural) and synthetic > natural + 0.2


@pytest.mark.parametrize("dimension", SIZES)
def test_another_device_does_not(dimension: int) -> None:
    """All its rows are moved by the same, ten deviations and more, in features that no honest row varies so far."""
    reference, rows = _reference(dimension), _account(99, dimension)
    moved = rows + np.where(np.arange(dimension) < 2, 0, 3 * rows.std(axis=0)).astype(np.float32)
    assert _odds(reference, moved)[20:].mean() < _odds(reference, rows)[20:].mean() + 0.2


def test_one_row_of_nonsense_does_not_spoil_what_follows() -> None:
    reference, rows = _reference(6), _account(99, 6)
    after = rows.copy()
    after[[0, 30]] = 1e6
    assert _odds(reference, after)[31:].mean() < _odds(reference, rows)[31:].mean() + 0.05


def test_it_has_no_value_before_the_fifth_query_and_stays_in_bounds() -> None:
    odds = _odds(_reference(6), _account(3, 6) * np.float32(50))
    assert np.isnan(odds[:4]).all() and (odds[4:] >= 0).all() and odds[4:].max() == 6


def test_its_weights_are_none_below_zero_and_depend_on_the_rows_alone() -> None:
    weights, again, other = (_reference(40, seeds).synthetic for seeds in (range(20), range(20), range(20, 40)))
    assert weights is not None and again is not None and other is not None
    assert (weights.weight >= 0).all() and weights.weight.max() > 0
    np.testing.assert_array_equal(weights.weight, again.weight)
    assert not np.array_equal(weights.weight, other.weight)


def test_accounts_of_a_few_queries_teach_nothing_and_older_profiles_have_none() -> None:
    few = HonestQueries(_account(1, 6)[:9], np.ones((9, 1), np.float32))
    reference = Reference.of([few, few, few], "score")
    assert reference.synthetic is None
    assert Profile.from_bytes(Profile("credit", "1", reference, standards()).to_bytes()).reference.synthetic is None


def test_a_profile_keeps_them() -> None:
    reference = _reference(6)
    kept = Profile.from_bytes(Profile("credit", "1", reference, standards()).to_bytes()).reference
    np.testing.assert_array_equal(_odds(kept, _account(5, 6)), _odds(reference, _account(5, 6)))
