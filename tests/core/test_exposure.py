"""The pure parts of the exposure meters, against lists and recursion."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from detector.contracts.errors import ConfigurationError
from detector.core.exposure import (
    BITMAP_BYTES,
    BITMAP_CELLS,
    BUCKETS,
    FEATURES,
    THRESHOLDS,
    VALIDATION_ROWS,
    Cells,
    QuantileLevels,
    TreeProbe,
    Validation,
    bucket_of,
    entropy,
    first_visits,
    hash_pairs,
    information_gain,
    is_due,
    smallest_of,
    visit,
    visited,
)
from detector.core.exposure import VALIDATION_BYTES as MOST_BYTES
from detector.core.state.arrays import pack, unpack
from tests.core.exposures import DIMENSION, asked, tree, validation


def _entropy(labels: list[int]) -> float:
    return sum(count / len(labels) * math.log2(len(labels) / count) for count in Counter(labels).values())


def _gain(parts: list[int], labels: list[int]) -> float:
    gain = _entropy(labels)
    for part in set(parts):
        own = [label for at, label in enumerate(labels) if parts[at] == part]
        gain -= len(own) / len(labels) * _entropy(own)
    return gain


def _grown(rows: list[list[float]], labels: list[int]) -> list[list[tuple[int, float, bool]]]:
    """The leaves of an entropy tree as lists of (feature, threshold, whether above), grown by trying every split."""
    best: tuple[float, int, float] | None = None
    for feature in range(len(rows[0])):
        values = sorted({row[feature] for row in rows})
        for low, high in pairwise(values):
            threshold = (low + high) / 2
            gain = _gain([int(row[feature] > threshold) for row in rows], labels)
            if gain > (best[0] if best else -1.0) + 1e-12:
                best = gain, feature, threshold
    if len(set(labels)) == 1 or best is None:
        return [[]]
    leaves = []
    for above in (False, True):
        own = [at for at, row in enumerate(rows) if (row[best[1]] > best[2]) == above]
        below = _grown([rows[at] for at in own], [labels[at] for at in own])
        leaves += [[(best[1], best[2], above), *path] for path in below]
    return leaves


def _leaf(leaves: list[list[tuple[int, float, bool]]], row: list[float]) -> int:
    fits = [all((row[feature] > threshold) == above for feature, threshold, above in path) for path in leaves]
    return fits.index(True)


def test_entropy_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5, (20, 4))
    counts[0] = 0
    expected = [_entropy(np.repeat(np.arange(4), count).tolist()) if count.any() else 0.0 for count in counts]
    np.testing.assert_allclose(entropy(counts), expected, atol=1e-12)
    assert entropy(np.array([[1, 1, 1, 1]]))[0] == 2.0


def test_information_gain_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 200)
    for parts in (rng.integers(5, 9, 200), labels + 7, np.zeros(200, int)):
        assert information_gain(parts, labels) == pytest.approx(_gain(parts.tolist(), labels.tolist()), abs=1e-12)


def test_an_exposure_is_what_a_tree_grown_by_trying_everything_knows() -> None:
    own, learned = validation(), asked(5, 30)
    sketch = own.levels.sketch
    taught, known = sketch(learned.features[:, own.levels.columns]), sketch(own.features[:, own.levels.columns])
    leaves = _grown(taught.astype(float).tolist(), learned.labels.tolist())
    parts = [_leaf(leaves, row) for row in known.astype(float).tolist()]
    expected = 100 * _gain(parts, own.labels.tolist()) / _entropy(own.labels.tolist())
    # Splits of equal gain are chosen between by chance, so only nearly the same tree is grown.
    assert TreeProbe(known, own.labels).exposure(taught, learned.labels) == pytest.approx(expected, abs=8)
    assert 40 < expected < 95


def test_knowing_all_of_the_validation_set_is_all_and_one_answer_is_nothing() -> None:
    own = validation()
    known = own.levels.sketch(own.features[:, own.levels.columns])
    examination = TreeProbe(known, own.labels)
    assert examination.exposure(known, own.labels) == pytest.approx(100.0, abs=1.0)
    assert examination.exposure(known, np.zeros(len(known), np.int64)) == 0.0
    assert examination.exposure(known[:0], own.labels[:0]) == 0.0
    assert examination.is_informative
    assert not TreeProbe(known, np.ones(len(known), np.int64)).is_informative


def test_a_fit_is_due_at_20_and_whenever_there_are_eight_times_as_many() -> None:
    assert (np.flatnonzero(is_due(np.arange(6_000))) == [20, 160, 1280]).all()


def test_levels_are_counts_of_thresholds_between_validation_values() -> None:
    features = np.array([[0, 5, 1], [1, 5, 1], [4, 5, 2], [4, 5, 9]], np.float32)
    levels = QuantileLevels.of(features, np.array([0, 1, 0, 1]))
    assert levels.columns.tolist() == [0, 2]
    assert levels.thresholds[:, :3].tolist() == [[0.5, 2.5, np.inf], [1.5, 5.5, np.inf]]
    asked_for = np.array([[-9, 1.5], [0.5, 1.6], [0.6, 99], [np.nan, 5.5]], np.float32)
    np.testing.assert_array_equal(levels.sketch(asked_for)[:, :2], [[0, 0], [0, 15], [15, 30], [0, 15]])
    assert levels.sketch(asked_for).shape == (4, FEATURES) and not levels.sketch(asked_for)[:, 2:].any()


def test_of_many_values_the_thresholds_hold_equal_shares() -> None:
    values = np.random.default_rng(2).standard_normal((1_000, 1)).astype(np.float32) ** 3
    levels = QuantileLevels.of(values, (values[:, 0] > 0).astype(np.int64))
    held = np.bincount(levels.sketch(values)[:, 0], minlength=32)
    assert len(held) == THRESHOLDS + 1 and held.min() >= 29 and held.max() <= 34


def test_the_sixteen_features_are_those_that_tell_of_the_labels() -> None:
    rng = np.random.default_rng(3)
    features = rng.random((400, 40)).astype(np.float32)
    telling = [3, 17, 31, 39]
    labels = (features[:, telling] > 0.5).sum(1)
    levels = QuantileLevels.of(features, labels)
    assert set(telling) <= set(levels.columns.tolist()) and len(levels.columns) == FEATURES


def test_kept_pairs_depend_neither_on_order_nor_on_repeats() -> None:
    rng = np.random.default_rng(4)
    sketches = rng.integers(0, 3, (3_000, FEATURES)).astype(np.uint8)
    labels = rng.integers(-1, 2, 3_000)
    hashes = hash_pairs(sketches, labels, np.uint64(77))
    kept: dict[int, int] = {}
    for number in [int(value) for value in hashes]:
        kept[number % BUCKETS] = min(kept.get(number % BUCKETS, 1 << 64), number)
    for order in (np.arange(3_000), rng.permutation(3_000), rng.integers(0, 3_000, 60_000)):
        found = hashes[order][smallest_of(hashes[order], np.zeros(len(order), np.int64))]
        assert found.tolist() == [kept[at] for at in sorted(kept)]
    assert len(smallest_of(hashes[:0], np.zeros(0, np.int64))) == 0


def test_the_hash_spreads_and_knows_sketch_label_and_key() -> None:
    rng = np.random.default_rng(5)
    sketches = rng.integers(0, 32, (20_000, FEATURES)).astype(np.uint8)
    labels = np.zeros(20_000, np.int64)
    hashes = hash_pairs(sketches, labels, np.uint64(1))
    assert len(np.unique(hashes)) == 20_000
    assert abs(np.bincount(bucket_of(hashes), minlength=BUCKETS) - 20_000 / BUCKETS).max() < 40
    changed = sketches.copy()
    changed[:, 15] ^= 1
    for other in (
        hash_pairs(changed, labels, np.uint64(1)),
        hash_pairs(sketches, labels - 1, np.uint64(1)),
        hash_pairs(sketches, labels, np.uint64(2)),
    ):
        assert not (other == hashes).any()


def test_cells_are_nearest_centres_and_weigh_their_share() -> None:
    own = validation(count=600)
    cells = own.cells
    sketches = own.levels.sketch(own.features[:, own.levels.columns])
    apart = sketches.astype(int)[:, None] - cells.centres.astype(int)[None]
    nearest = (apart**2).sum(2).argmin(1)
    np.testing.assert_array_equal(cells.cell(sketches), nearest)
    np.testing.assert_array_equal(cells.rows, np.bincount(nearest))
    assert cells.rows.sum() == 600 and cells.rows.min() >= 1
    assert 30 < len(cells.rows) <= 75
    one = [int(cells.cell(sketches[at : at + 1])[0]) for at in range(600)]
    assert one == nearest.tolist()


def test_of_one_row_there_is_one_cell() -> None:
    assert Cells.of(np.zeros((1, FEATURES), np.uint8)).rows.tolist() == [1]
    assert Cells.of(np.zeros((90, FEATURES), np.uint8)).rows.tolist() == [90]


def test_bitmaps_are_sets() -> None:
    rng = np.random.default_rng(6)
    row, cell = rng.integers(0, 5, 900), rng.integers(0, BITMAP_CELLS, 900)
    bitmaps = np.zeros((5, BITMAP_BYTES), np.uint8)
    visit(bitmaps, row, cell)
    pairs = set(zip(row.tolist(), cell.tolist(), strict=True))
    assert sorted(pairs) == list(zip(*(own.tolist() for own in visited(bitmaps)), strict=True))


def test_a_visit_is_the_first_once() -> None:
    rng = np.random.default_rng(6)
    row, cell = rng.integers(0, 5, 900), rng.integers(-1, 60, 900)
    bitmaps, first = np.zeros((5, BITMAP_BYTES), np.uint8), np.empty(900, np.bool_)
    first_visits(bitmaps, row[:400], cell[:400], first[:400])
    first_visits(bitmaps, row[400:], cell[400:], first[400:])
    pairs = list(zip(row.tolist(), cell.tolist(), strict=True))
    assert first.tolist() == [pair[1] >= 0 and pair not in pairs[:at] for at, pair in enumerate(pairs)]
    assert set(zip(*(own.tolist() for own in visited(bitmaps)), strict=True)) == {
        pair for pair in pairs if pair[1] >= 0
    }


def test_a_validation_set_comes_back_from_its_record() -> None:
    own = validation()
    back = Validation.from_record(unpack(pack(own)))
    assert back.tag == own.tag
    rows = asked(7, 50).features[:, own.levels.columns]
    np.testing.assert_array_equal(back.levels.sketch(rows), own.levels.sketch(rows))
    np.testing.assert_array_equal(back.cells.cell(back.levels.sketch(rows)), own.cells.cell(own.levels.sketch(rows)))
    assert replace(own, labels=own.labels + 1).tag != own.tag


def test_a_validation_set_is_bounded() -> None:
    rng = np.random.default_rng(8)
    many = rng.random((2_500, 3)).astype(np.float32)
    assert len(Validation.of(many, np.arange(2_500) % 2).features) == VALIDATION_ROWS
    wide = rng.random((300, 2_000)).astype(np.float32)
    kept = Validation.of(wide, np.arange(300) % 2)
    assert kept.features.nbytes <= MOST_BYTES and len(kept.features) == 250
    np.testing.assert_array_equal(kept.features[[0, -1]], wide[[0, -1]])


@pytest.mark.parametrize(
    ("features", "labels", "said"),
    [
        (np.ones((3, 2)), np.zeros(3, int), "dtype float64"),
        (np.ones(3, np.float32), np.zeros(3, int), r"shape \(3,\)"),
        (np.ones((0, 2), np.float32), np.zeros(0, int), "at least one row"),
        (np.ones((3, 2), np.float32), np.zeros(2, int), "3 rows"),
        (np.ones((3, 2), np.float32), np.zeros(3), "whole number"),
        (np.array([[1], [np.nan]], np.float32), np.zeros(2, int), "row 2"),
    ],
)
def test_what_is_no_validation_set_is_refused(features: np.ndarray, labels: np.ndarray, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Validation.of(features, labels)


def test_the_tests_own_tree_reaches_all_its_leaves() -> None:
    assert np.bincount(tree().leaf(asked(9, 300).features), minlength=6).min() > 5
    assert asked(9, 1).features.shape == (1, DIMENSION)
