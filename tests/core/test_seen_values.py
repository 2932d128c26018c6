"""Unseen values are counted as sets of numbers would count them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.core.reference.reference import SeenValues
from detector.core.state.arrays import pack, unpack

Rows = NDArray[np.float32]


def _of(rows: Rows) -> SeenValues:
    spread = np.ptp(rows, axis=0)
    return SeenValues.of(rows, rows.min(axis=0), np.where(spread > 0, spread, 1).astype(np.float32))


def _by_sets(reference: Rows, asked: Rows) -> list[int]:
    """How many features of each row have no equal in the reference."""
    known = [set(column.tolist()) for column in reference.T]
    return [sum(value not in known[at] for at, value in enumerate(row)) for row in asked.tolist()]


def _grid(generator: np.random.Generator, count: int, steps: list[int]) -> Rows:
    """Feature i has ``steps[i]`` values, evenly spaced."""
    return np.stack([generator.integers(0, most, count) for most in steps], axis=1).astype(np.float32)


def test_among_few_values_each_that_never_was_is_counted() -> None:
    """Each value has a bin to itself: what falls between two is told from both."""
    generator = np.random.default_rng(0)
    reference = _grid(generator, 300, [2, 3, 7, 50, 100])
    asked = _grid(generator, 200, [2, 3, 7, 50, 100]) + generator.choice([0, 0.3, -0.4], (200, 5)).astype(np.float32)
    np.testing.assert_array_equal(_of(reference).count_unseen(asked), _by_sets(reference, asked))
    assert 0 < np.mean(_by_sets(reference, asked)) < 5


def test_gaps_that_were_never_filled_are_counted() -> None:
    reference = np.delete(np.arange(100, dtype=np.float32), np.s_[20:40])[:, None]
    asked = np.arange(-5, 105, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(_of(reference).count_unseen(asked), _by_sets(reference, asked))


def test_of_a_continuous_feature_only_what_lies_outside_is_unseen() -> None:
    generator = np.random.default_rng(1)
    reference = generator.uniform(2, 5, (400, 1)).astype(np.float32)
    low, high = float(reference.min()), float(reference.max())
    asked = np.array([[low - 0.1], [low], [3.33333], [high], [high + 0.1]], np.float32)
    assert _of(reference).count_unseen(asked).tolist() == [1, 0, 0, 0, 1]


def test_where_two_seen_values_share_a_bin_any_near_them_will_do() -> None:
    reference = np.array([[0.0], [0.5], [0.5005], [1.0]], np.float32)
    assert _of(reference).count_unseen(np.array([[0.5002], [0.25]], np.float32)).tolist() == [0, 1]


def test_values_that_differ_by_rounding_are_the_same() -> None:
    reference = np.array([[0.0], [0.1], [0.3], [1.0]], np.float32)
    asked = reference + np.array([[0], [2e-7], [-2e-7], [9e-6]], np.float32)
    assert _of(reference).count_unseen(asked).tolist() == [0, 0, 0, 0]
    assert _of(reference).count_unseen(reference + np.float32(3e-5)).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("side", [-1, 1])
def test_pixels_that_differ_by_rounding_are_the_same(side: int) -> None:
    """Multiples of 1/255 lie where one bin ends and the next begins."""
    levels = np.arange(2, 150) / 255
    reference = np.array([0, *(levels - 1e-6 * side), 1], np.float32)[:, None]
    asked = (levels + 1e-6 * side).astype(np.float32)[:, None]
    assert not _of(reference).count_unseen(asked).any()
    between = (levels + 0.5 / 255).astype(np.float32)[:, None]
    assert _of(reference).count_unseen(between).all()


@pytest.mark.parametrize("value", [0.0, -3.5])
def test_a_feature_that_never_changes_has_one_value(value: float) -> None:
    reference = np.full((20, 1), value, np.float32)
    asked = np.array([[value], [value + 0.01], [value - 0.01], [value + 1]], np.float32)
    assert _of(reference).count_unseen(asked).tolist() == [0, 1, 1, 1]


def test_its_record_brings_it_back() -> None:
    generator = np.random.default_rng(2)
    reference = np.column_stack((generator.random(400), _grid(generator, 400, [2, 9]))).astype(np.float32)
    seen = _of(reference)
    back = SeenValues(**unpack(pack(seen)))
    asked = np.column_stack((generator.normal(0.5, 1, 90), _grid(generator, 90, [3, 12]))).astype(np.float32)
    np.testing.assert_array_equal(back.count_unseen(asked), seen.count_unseen(asked))
    np.testing.assert_array_equal(back.only, seen.only)
    assert len(seen.only) == 2
