"""Every victim learns, is the same twice, and answers as ``Victim`` promises."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from detector.contracts.errors import LabError
from detector.lab.answers import Victim
from detector.lab.data import Dataset
from detector.lab.datasets import DATASETS
from detector.lab.victims import HARDENED, VICTIMS, NewVictim, neural, tabular
from detector.lab.victims.convolution import Convolution
from detector.lab.victims.tabular import ColumnEncoder, TreeVictim
from tests.lab.coarser import LabelOnly, Rounded

ACCURACY = {
    "adversarial training": 0.9,
    "convolutional network": 0.94,
    "decision tree": 0.7,
    "gradient boosting": 0.9,
    "defensive distillation": 0.9,
    "diverse ensemble": 0.9,
    "label smoothing": 0.92,
    "logistic regression": 0.9,
    "logit squeezing": 0.92,
    "multilayer perceptron": 0.92,
    "random forest": 0.9,
    "support vector machine": 0.95,
}
"""On unseen digits, at least."""

UNDEFENDED_ON_TABLES = sorted(set(VICTIMS) - set(HARDENED) - {"convolutional network"})


def accuracy(victim: Victim, dataset: Dataset) -> float:
    return float((victim.answer(dataset.test.features).labels == dataset.test.labels).mean())


def test_every_victim_has_an_accuracy_to_reach() -> None:
    assert set(ACCURACY) == set(VICTIMS)


@pytest.mark.parametrize("name", sorted(VICTIMS))
def test_a_victim_reads_digits_it_never_saw(name: str, trained: dict[str, Victim], split: Dataset) -> None:
    assert accuracy(trained[name], split) >= ACCURACY[name]


@pytest.mark.parametrize("name", sorted(VICTIMS))
def test_answers_are_probabilities_in_float64(name: str, trained: dict[str, Victim], split: Dataset) -> None:
    victim = trained[name]
    rows = np.concatenate([split.test.features, np.random.default_rng(0).random((50, 64), dtype=np.float32)])
    said = victim.answer(rows).probabilities
    assert victim.output_kind == "probabilities"
    assert said.dtype == np.float64
    assert said.shape == (len(rows), 10)
    assert (said >= 0).all()
    np.testing.assert_allclose(said.sum(axis=1), 1, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(said, victim.probabilities(rows))


@pytest.mark.parametrize("name", sorted(VICTIMS))
def test_the_same_seed_trains_the_same_victim(name: str, trained: dict[str, Victim], split: Dataset) -> None:
    rows = split.test.features
    again = VICTIMS[name](split, 0).answer(rows).probabilities
    np.testing.assert_array_equal(again, trained[name].answer(rows).probabilities)


@pytest.mark.parametrize("new", [tabular.forest, neural.perceptron])
def test_another_seed_trains_another_victim(new: NewVictim, split: Dataset) -> None:
    one, other = (new(split, seed).answer(split.test.features).probabilities for seed in (3, 4))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("name", sorted(set(VICTIMS) - {"decision tree"}))
def test_only_trees_answer_when_a_feature_is_left_out(name: str, trained: dict[str, Victim], split: Dataset) -> None:
    row = split.test.features[:1].copy()
    row[0, 5] = np.nan
    with pytest.raises(LabError, match="needs every feature"):
        trained[name].answer(row)
    with pytest.raises(LabError, match="64 features"):
        trained[name].answer(row[:, :7])


@pytest.mark.parametrize("name", UNDEFENDED_ON_TABLES)
def test_tables_with_categories_are_learned(name: str) -> None:
    table = DATASETS["categorical"]()
    assert accuracy(VICTIMS[name](table, 0), table) > 0.6


def test_a_convolution_needs_images() -> None:
    with pytest.raises(LabError, match="iris is a table"):
        VICTIMS["convolutional network"](DATASETS["iris"](), 0)


def test_the_gradient_of_the_convolution_is_that_of_its_loss() -> None:
    rng = np.random.default_rng(0)
    network = Convolution(8, 3, rng)
    pixels, targets = rng.random((4, 64)), np.eye(3)[[0, 2, 1, 0]]
    for parameter, gradient in zip(network.parameters, network.gradients(pixels, targets), strict=True):
        place = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        losses = []
        for moved in (1e-6, -1e-6):
            parameter[place] += moved
            losses.append(-np.log((network.probabilities(pixels) * targets).sum(axis=1)).mean())
            parameter[place] -= moved
        assert gradient[place] == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-4)


def test_a_category_becomes_one_column_a_value() -> None:
    columns = ColumnEncoder(np.array([0, 3]))
    rows = np.array([[0.5, 2], [-1, 0.4], [1, 9]], np.float32)
    np.testing.assert_array_equal(columns(rows), [[0.5, 0, 0, 1], [-1, 1, 0, 0], [1, 0, 0, 1]])


def test_a_rounded_api_says_two_digits_and_is_judged_by_all_of_them(trained: dict[str, Victim], split: Dataset) -> None:
    victim, rows = trained["logistic regression"], split.test.features
    rounded = Rounded(victim, 2)
    hundredfold = rounded.answer(rows).probabilities * 100
    np.testing.assert_allclose(hundredfold, hundredfold.round(), atol=1e-9)
    np.testing.assert_allclose(hundredfold / 100, victim.probabilities(rows), rtol=0, atol=0.005 + 1e-9)
    np.testing.assert_array_equal(rounded.probabilities(rows), victim.probabilities(rows))
    assert rounded.output_kind == "probabilities"


def test_a_label_only_api_says_which_class_and_not_which_node(trained: dict[str, Victim], split: Dataset) -> None:
    victim, rows = trained["decision tree"], split.test.features
    assert victim.answer(rows).leaf is not None
    silent = LabelOnly(victim)
    said = silent.answer(rows)
    assert silent.output_kind == "label"
    assert said.leaf is None and said.missing_feature is None
    np.testing.assert_array_equal(said.labels, victim.answer(rows).labels)
    np.testing.assert_array_equal(np.sort(said.probabilities, axis=1)[:, -2:], [[0, 1]] * len(rows))
    np.testing.assert_array_equal(silent.probabilities(rows), victim.probabilities(rows))


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
