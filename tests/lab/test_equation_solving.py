"""Equation solving: exact with as many queries as the model has parameters, and much dearer behind coarser answers."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from detector.contracts.errors import LabError
from detector.lab.answers import Answers, Classifier, Victim
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.equation_solving import HIDDEN, TanhNetwork
from tests.lab.coarser import LabelOnly, Rounded
from tests.lab.sklearn_cases import SklearnCase, logistic, perceptron, softmax
from tests.lab.thieves import robbed

SOLVING = ATTACKS["equation solving"]
SOLVING_MLP = ATTACKS["equation solving mlp"]

TABLES = pytest.mark.parametrize("table", ["wine", "iris", "digits"])


@cache
def perceptron_clone(share: float, served: Victim | None = None) -> Classifier:
    """After ``share`` queries for each of the perceptron's parameters, d h + h + h c + c of them."""
    parameters = 13 * HIDDEN + HIDDEN + HIDDEN * 3 + 3
    return robbed(perceptron(), SOLVING_MLP, int(share * parameters), served=served)


def unknowns(of: SklearnCase) -> int:
    """Parameters of the model by what the thief knows: d + 1, or c(d + 1) of more than two classes."""
    classes, dimension = of.knowledge.classes, of.knowledge.dimension
    return dimension + 1 if classes == 2 else classes * (dimension + 1)


@pytest.mark.parametrize("seed", range(3))
def test_a_logistic_model_is_recovered_exactly_with_d_plus_1_queries(seed: int) -> None:
    clone = robbed(logistic(), SOLVING, 31, seed=seed)
    assert logistic().agreements(clone) == (1, 1)
    assert max(logistic().variations(clone)) < 1e-9


def test_one_equation_less_does_not_do() -> None:
    clone = robbed(logistic(), SOLVING, 30)
    assert min(logistic().agreements(clone)) < 1
    assert min(logistic().variations(clone)) > 1e-3


@TABLES
def test_a_softmax_is_recovered_with_as_many_queries_as_parameters(table: str) -> None:
    of = softmax(table)
    clone = robbed(of, SOLVING, unknowns(of))
    assert min(of.agreements(clone)) > 0.999
    assert max(of.variations(clone)) < 1e-7


def test_behind_two_digits_it_takes_ten_times_the_queries() -> None:
    of = logistic()
    few, many = (robbed(of, SOLVING, budget, served=Rounded(of.victim, 2)) for budget in (31, 310))
    assert max(of.agreements(few)) < 0.97
    assert min(of.agreements(many)) > 0.98
    assert max(of.variations(many)) < min(of.variations(few))


@TABLES
def test_the_coarser_the_answers_the_worse_the_clone(table: str) -> None:
    of = softmax(table)
    answering = (of.victim, Rounded(of.victim, 4), Rounded(of.victim, 2), LabelOnly(of.victim))
    variations = [of.variations(robbed(of, SOLVING, unknowns(of), served=served))[1] for served in answering]
    assert variations == sorted(variations)
    assert variations[0] < 1e-9
    assert variations[1] > 1e-5
    assert variations[2] > 1e-3
    assert variations[3] > 0.2


def test_labels_alone_give_no_equations() -> None:
    of = logistic()
    assert min(of.agreements(robbed(of, SOLVING, 31, served=LabelOnly(of.victim)))) < 0.8
    assert min(of.agreements(robbed(of, SOLVING, 310, served=LabelOnly(of.victim)))) < 0.95


def test_a_perceptron_is_learned_the_better_the_more_queries_per_parameter() -> None:
    of, clones = perceptron(), [perceptron_clone(share) for share in (0.25, 1, 2)]
    uniform = [of.agreements(clone)[1] for clone in clones]
    assert uniform == sorted(uniform)
    assert uniform[0] < 0.98
    assert uniform[-1] > 0.995
    assert max(of.variations(clones[-1])) < 0.01
    assert of.agreements(clones[-1])[0] > 0.98


def test_a_perceptron_behind_rounding_or_labels_costs_more() -> None:
    of = perceptron()
    coarser = [perceptron_clone(1, Rounded(of.victim, 2)), perceptron_clone(1, LabelOnly(of.victim))]
    exact, rounded, label = (of.variations(clone)[1] for clone in (perceptron_clone(1), *coarser))
    assert exact < rounded < label
    assert label > 10 * exact


def test_the_gradient_of_the_networks_loss_is_right() -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(6, 2)), rng.dirichlet(np.ones(3), 6)
    parameters = rng.normal(size=2 * HIDDEN + HIDDEN + HIDDEN * 3 + 3)
    gradient = TanhNetwork(2, 3, parameters).loss(features, targets)[1]
    for place in range(0, len(parameters), 7):
        nudge = np.zeros_like(parameters)
        nudge[place] = 1e-6
        up = TanhNetwork(2, 3, parameters + nudge).loss(features, targets)[0]
        down = TanhNetwork(2, 3, parameters - nudge).loss(features, targets)[0]
        assert gradient[place] == pytest.approx((up - down) / 2e-6, abs=1e-6)


def test_it_asks_the_whole_budget_at_once_and_uniformly_over_the_ranges() -> None:
    low, high = np.array([0, -5, 0], np.float32), np.array([1, 45, 2], np.float32)
    knowledge = Knowledge(2, low, high, np.array([0, 0, 3]), np.empty((0, 3), np.float32), np.empty((0, 3), np.float32))
    attacker = SOLVING(knowledge, 3_000, 0)
    batch = attacker.next_batch()
    assert batch.shape == (3_000, 3)
    assert batch.dtype == np.float32
    assert (batch >= low).all() and (batch <= high).all()
    np.testing.assert_allclose(batch.mean(axis=0), (low + high) / 2, rtol=0.05)
    np.testing.assert_allclose(np.unique(batch[:, 2], return_counts=True)[1] / 3_000, 1 / 3, atol=0.04)


def test_the_same_seed_asks_the_same_and_another_one_other_things() -> None:
    first, again, other = (SOLVING(logistic().knowledge, 31, seed).next_batch() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_was_refused_is_asked_anew_and_the_clone_is_made_of_the_rest() -> None:
    of = logistic()
    attacker = SOLVING(of.knowledge, 31, 0)
    first = attacker.next_batch()[:20]
    attacker.observe(first, of.victim.answer(first))
    assert min(of.agreements(attacker.clone())) < 1
    rest = attacker.next_batch()
    assert len(rest) == 11
    attacker.observe(rest, of.victim.answer(rest))
    assert not len(attacker.next_batch())
    assert of.agreements(attacker.clone()) == (1, 1)


def test_there_is_no_clone_before_the_first_answer() -> None:
    attacker = SOLVING(logistic().knowledge, 31, 0)
    with pytest.raises(LabError, match="nothing has been answered"):
        attacker.clone()
    attacker.observe(np.zeros((1, 30), np.float32), Answers(np.array([[0.25, 0.75]])))
    assert attacker.clone().probabilities(np.zeros((1, 30), np.float32))[0] == pytest.approx([0.25, 0.75])
