"""Every data set is what ``Dataset`` promises."""

from __future__ import annotations

import numpy as np
import pytest

from detector.lab.data import Dataset
from detector.lab.datasets import DATASETS

LOADED: dict[str, Dataset] = {}

ROWS = {
    "credit": 4_000,
    "breast cancer": 569,
    "categorical": 3_000,
    "digits": 1_797,
    "iris": 149,
    "linear": 2_000,
    "wine": 178,
}
"""Of all four sets. Iris has one flower twice."""


@pytest.fixture(params=sorted(DATASETS))
def dataset(request: pytest.FixtureRequest) -> Dataset:
    """Each loaded once."""
    name: str = request.param
    if name not in LOADED:
        LOADED[name] = DATASETS[name]()
    return LOADED[name]


def parts(dataset: Dataset) -> tuple[np.ndarray, ...]:
    return tuple(part.features for part in (dataset.training, dataset.honest, dataset.thief, dataset.test))


def test_the_four_sets_hold_all_rows_and_share_none(dataset: Dataset) -> None:
    rows = np.concatenate(parts(dataset))
    assert rows.dtype == np.float32
    assert len(np.unique(rows, axis=0)) == len(rows) == ROWS.get(dataset.name, 5_000)
    assert min(len(part) for part in parts(dataset)) >= 14


def test_every_class_is_in_every_set_that_needs_labels(dataset: Dataset) -> None:
    for examples in (dataset.training, dataset.honest, dataset.test):
        assert examples.labels.dtype == np.int64
        assert len(examples.labels) == len(examples)
        assert set(examples.labels) == set(range(dataset.classes))


def test_features_lie_in_their_ranges_and_categories_are_whole_numbers(dataset: Dataset) -> None:
    rows = np.concatenate(parts(dataset))
    assert dataset.low.dtype == dataset.high.dtype == np.float32
    assert len(dataset.low) == len(dataset.high) == len(dataset.categories) == rows.shape[1]
    assert (rows >= dataset.low).all() and (rows <= dataset.high).all()
    for feature in np.flatnonzero(dataset.categories):
        assert set(rows[:, feature]) == set(range(dataset.categories[feature]))
        assert (dataset.low[feature], dataset.high[feature]) == (0, dataset.categories[feature] - 1)


def test_images_are_square_and_tables_are_scaled_to_their_ranges(dataset: Dataset) -> None:
    if dataset.side is not None:
        assert dataset.dimension == dataset.side**2
        return
    rows, continuous = np.concatenate(parts(dataset)), dataset.categories == 0
    np.testing.assert_array_equal(rows.min(axis=0)[continuous], -1)
    np.testing.assert_array_equal(rows.max(axis=0)[continuous], 1)


@pytest.mark.parametrize("name", ["categorical", "iris", "linear"])
def test_a_data_set_is_the_same_every_time(name: str) -> None:
    for one, two in zip(parts(DATASETS[name]()), parts(DATASETS[name]()), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_data_set_is_known_by_its_name(dataset: Dataset) -> None:
    assert LOADED[dataset.name] is dataset
