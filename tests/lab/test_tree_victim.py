"""A tree answers like scikit-learn's, and inputs with gaps as far as they go."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from detector.lab.data import Dataset
from detector.lab.datasets import DATASETS
from detector.lab.victims.tabular import TreeVictim


@pytest.fixture(scope="module")
def tree(split: Dataset) -> TreeVictim:
    return TreeVictim(split, leaves=12)


def test_whole_inputs_get_the_leaf_and_the_probabilities_that_scikit_learn_gives(
    split: Dataset, tree: TreeVictim
) -> None:
    model = DecisionTreeClassifier(max_leaf_nodes=12, random_state=0)
    model.fit(split.training.features, split.training.labels)
    answers = tree.answer(split.test.features)
    np.testing.assert_allclose(answers.probabilities, model.predict_proba(split.test.features))
    np.testing.assert_array_equal(answers.leaf, model.apply(split.test.features))
    np.testing.assert_array_equal(answers.missing_feature, -1)
    assert tree.leaves == 12


def test_an_input_with_a_gap_ends_where_the_tree_asks_for_it_and_reaches_its_leaf_once_that_is_given(
    split: Dataset, tree: TreeVictim
) -> None:
    whole = split.test.features[:50]
    given = np.full_like(whole, np.nan)
    rows = np.arange(len(whole))
    leaves = tree.answer(whole).leaf
    for _ in range(12):
        answers = tree.answer(given)
        assert answers.missing_feature is not None
        assert np.isnan(given[rows, answers.missing_feature][answers.missing_feature >= 0]).all()
        missing = answers.missing_feature >= 0
        given[rows[missing], answers.missing_feature[missing]] = whole[rows[missing], answers.missing_feature[missing]]
    np.testing.assert_array_equal(answers.leaf, leaves)
    assert np.isnan(given).any(axis=1).all()


def test_with_nothing_given_it_tells_the_shares_of_the_classes_in_training(split: Dataset, tree: TreeVictim) -> None:
    answers = tree.answer(np.full((1, split.dimension), np.nan, dtype=np.float32))
    shares = np.bincount(split.training.labels, minlength=split.classes) / len(split.training)
    np.testing.assert_allclose(answers.probabilities[0], shares)


def test_a_class_that_training_lacked_has_probability_0(split: Dataset) -> None:
    without = split.training.labels != 3
    kept = type(split.training)(split.training.features[without], split.training.labels[without])
    answers = TreeVictim(
        Dataset("x", 10, kept, kept, kept, kept, split.low, split.high, split.categories)
    ).probabilities(split.test.features)
    assert answers.shape[1] == 10
    np.testing.assert_array_equal(answers[:, 3], 0)


def test_the_seed_decides_between_splits_that_are_equally_good() -> None:
    tumours = DATASETS["breast cancer"]()
    first, again, other = (TreeVictim(tumours, seed=seed).probabilities(tumours.test.features) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
