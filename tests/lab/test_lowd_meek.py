"""Lowd-Meek: a linear model from its labels alone, one line search a dimension."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers, Victim
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Attacker, Knowledge, run_offline
from tests.lab.coarser import LabelOnly
from tests.lab.sklearn_cases import logistic, thief_of
from tests.lab.thieves import robbed

LOWD_MEEK = ATTACKS["lowd-meek"]
EQUATION_SOLVING = ATTACKS["equation solving"]
MOST = 5_650  # what the dearest of Tramèr's models took


class Plane:
    """Class 1 where ``weights`` x > ``threshold``."""

    output_kind: OutputKind = "label"

    def __init__(self, weights: list[float], threshold: float) -> None:
        self.weights, self.threshold = np.array(weights), threshold

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        positive = features @ self.weights > self.threshold
        return np.column_stack([~positive, positive]).astype(np.float64)

    def answer(self, features: NDArray[np.float32]) -> Answers:
        return Answers(self.probabilities(features))


def questions(attacker: Attacker, victim: Victim) -> NDArray[np.float32]:
    asked = []
    while len(batch := attacker.next_batch()):
        asked.append(batch)
        attacker.observe(batch, victim.answer(batch))
    return np.concatenate(asked)


@pytest.mark.parametrize("seed", range(3))
def test_a_linear_model_is_copied_from_labels_alone(seed: int) -> None:
    of = logistic()
    attacker = LOWD_MEEK(of.knowledge, MOST, seed)
    queries = run_offline(attacker, LabelOnly(of.victim))
    assert min(of.agreements(attacker.clone())) > 0.98
    assert 20 * 30 < queries < 30 * 31


def test_it_takes_over_ten_times_the_queries_of_equation_solving() -> None:
    of = logistic()
    solved = robbed(of, EQUATION_SOLVING, 31)
    searched = robbed(of, LOWD_MEEK, 10 * 31, served=LabelOnly(of.victim))
    assert of.agreements(solved) == (1, 1)
    assert min(of.agreements(searched)) < 0.98


def test_a_weight_that_is_found_counts_from_then_on() -> None:
    victim = Plane([1.0, -0.5, 0.25, 2.0], 0.1)
    knowledge = thief_of(np.zeros((0, 4), np.float32), 2)
    inputs = np.random.default_rng(5).uniform(-1, 1, (5_000, 4)).astype(np.float32)
    right = []
    for budget in (30, 60, 200):
        attacker = LOWD_MEEK(knowledge, budget, 0)
        run_offline(attacker, victim)
        found = attacker.clone().probabilities(inputs).argmax(axis=1)
        right.append((found == victim.probabilities(inputs).argmax(axis=1)).mean())
    assert right == sorted(right)
    assert right[0] < 0.9
    assert right[-1] > 0.999


def test_weights_of_very_different_size_and_of_none_are_told_apart_in_any_range() -> None:
    weights = [3.0, 0.0, -0.01, 0.0002]
    low, high = np.array([0, 0, -50, 1_000], np.float32), np.array([1, 1, 50, 9_000], np.float32)
    none = np.zeros((0, 4), np.float32)
    attacker = LOWD_MEEK(Knowledge(2, low, high, np.zeros(4, np.int64), none, none), MOST, 0)
    victim = Plane(weights, 2.5)
    asked = questions(attacker, victim)
    assert (asked >= low).all() and (asked <= high).all()
    inputs = np.random.default_rng(5).uniform(low, high, (10_000, 4)).astype(np.float32)
    same = attacker.clone().probabilities(inputs).argmax(axis=1) == victim.probabilities(inputs).argmax(axis=1)
    assert same.mean() > 0.999


def test_it_mostly_changes_one_feature_between_one_question_and_the_next() -> None:
    of = logistic()
    asked = questions(LOWD_MEEK(of.knowledge, MOST, 0), LabelOnly(of.victim))
    changed = (np.diff(asked, axis=0) != 0).sum(axis=1)
    assert (changed <= 3).mean() > 0.95
    assert (changed == 1).mean() > 0.85


def test_the_clone_of_one_label_names_it() -> None:
    attacker = LOWD_MEEK(thief_of(np.zeros((0, 4), np.float32), 2), 5, 0)
    with pytest.raises(LabError, match="nothing has been answered"):
        attacker.clone()
    assert len(questions(attacker, Plane([1.0, 0, 0, 0], -9))) == 5
    assert attacker.clone().probabilities(np.zeros((3, 4), np.float32)).argmax(axis=1).tolist() == [1, 1, 1]


def test_the_same_seed_asks_the_same_and_another_one_other_things() -> None:
    victim = LabelOnly(logistic().victim)
    first, again, other = (questions(LOWD_MEEK(logistic().knowledge, 90, seed), victim) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_more_than_two_classes_and_categories_are_refused() -> None:
    none = np.zeros((0, 2), np.float32)
    with pytest.raises(LabError, match="two classes, not of 3"):
        LOWD_MEEK(thief_of(none, 3), 100, 0)
    ends = np.ones(2, np.float32)
    with pytest.raises(LabError, match=r"features \[1\] are categorical"):
        LOWD_MEEK(Knowledge(2, -ends, ends, np.array([0, 4]), none, none), 100, 0)
