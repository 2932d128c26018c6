"""Retraining: from labels alone, and better with queries nearer to the boundary."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.attackers import ATTACKS, NewAttacker
from detector.lab.attackers.attacker import Attacker, Knowledge
from detector.lab.attackers.retraining import opposite_pairs
from tests.lab.coarser import LabelOnly
from tests.lab.sklearn_cases import SklearnCase, logistic, moons, softmax
from tests.lab.thieves import robbed

UNIFORM, LINES, ADAPTIVE, RBF_SVM = (
    ATTACKS[name]
    for name in ("uniform retraining", "line-search retraining", "adaptive retraining", "rbf-svm retraining")
)
EACH = pytest.mark.parametrize("new", [UNIFORM, LINES, ADAPTIVE, RBF_SVM], ids=["uniform", "lines", "adaptive", "rbf"])
SEEDS = range(3)


def mean_agreements(of: SklearnCase, new: NewAttacker, budget: int) -> NDArray[np.float64]:
    """1 - R_test and 1 - R_unif, the mean over three seeds."""
    served = LabelOnly(of.victim)
    clones = [robbed(of, new, budget, served=served, seed=seed) for seed in SEEDS]
    return np.asarray(np.mean([of.agreements(clone) for clone in clones], axis=0))


def margins(of: SklearnCase, asked: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(np.abs(of.victim.model.decision_function(asked.astype(np.float64))))


def rounds(of: SklearnCase, attacker: Attacker) -> list[NDArray[np.float32]]:
    batches = []
    while len(batch := attacker.next_batch()):
        batches.append(batch)
        attacker.observe(batch, of.victim.answer(batch))
    return batches


@pytest.mark.parametrize("seed", SEEDS)
def test_adaptive_retraining_copies_a_linear_model(seed: int) -> None:
    clone = robbed(logistic(), ADAPTIVE, 60 * 31, served=LabelOnly(logistic().victim), seed=seed)
    assert min(logistic().agreements(clone)) > 0.98


def test_on_a_linear_model_lines_beat_uniform_inputs_and_adaptive_ones_do_best() -> None:
    uniform, lines, adaptive = (mean_agreements(logistic(), new, 30 * 31) for new in (UNIFORM, LINES, ADAPTIVE))
    assert uniform[0] < lines[0] < adaptive[0]
    assert uniform[1] < lines[1] < adaptive[1]


def test_on_a_softmax_lines_do_not_help_but_asking_near_the_boundary_does() -> None:
    uniform, lines, adaptive = (mean_agreements(softmax("wine"), new, 30 * 14)[1] for new in (UNIFORM, LINES, ADAPTIVE))
    assert lines < uniform < adaptive
    assert adaptive > 0.99


@pytest.mark.parametrize("new", [UNIFORM, LINES, ADAPTIVE], ids=["uniform", "lines", "adaptive"])
def test_more_queries_give_a_better_clone(new: NewAttacker) -> None:
    few, many = (mean_agreements(softmax("wine"), new, share * 14) for share in (3, 30))
    assert (many > few).all()


def test_an_rbf_svm_is_copied_by_its_kind_the_better_with_more_queries_and_not_by_a_linear_model() -> None:
    few, many, linear = (
        moons().agreements(robbed(moons(), new, budget))
        for new, budget in ((RBF_SVM, 20), (RBF_SVM, 200), (ADAPTIVE, 200))
    )
    assert min(many) > 0.98
    assert max(few) < 0.98
    assert max(linear) < 0.92


def test_the_same_clone_costs_many_times_what_probabilities_cost() -> None:
    solved = robbed(logistic(), ATTACKS["equation solving"], 31)
    assert min(logistic().agreements(solved)) == 1
    assert mean_agreements(logistic(), ADAPTIVE, 10 * 31).min() < 0.98


def test_adaptive_rounds_come_ever_nearer_to_the_boundary_in_equal_shares_of_the_budget() -> None:
    batches = rounds(logistic(), ADAPTIVE(logistic().knowledge, 1_000, 0))
    assert [len(batch) for batch in batches] == [100] * 10
    first, second, *_, last = (np.median(margins(logistic(), batch)) for batch in batches)
    assert last < second < first
    assert last < first / 5


def test_a_line_is_halved_until_its_ends_are_near() -> None:
    drawn, *halves = rounds(logistic(), LINES(logistic().knowledge, 130, 1))
    assert len(drawn) == 20
    assert 1 <= len(halves[0]) == len(halves[9]) <= 10
    labels = logistic().victim.answer(drawn).labels
    assert set(labels) == {0, 1}
    last = halves[9]
    assert np.median(margins(logistic(), last)) < np.median(margins(logistic(), halves[0])) / 20


def test_pairs_have_different_labels_and_there_are_none_of_one() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 2, 1, 0])
    one, other = opposite_pairs(labels, 50, rng)
    assert len(one) == 50
    assert (labels[one] != labels[other]).all()
    assert len(opposite_pairs(np.zeros(5, np.int64), 50, rng)[0]) == 0


@EACH
def test_the_same_seed_asks_the_same_and_another_one_other_things(new: NewAttacker) -> None:
    first, again, other = (np.concatenate(rounds(moons(), new(moons().knowledge, 30, seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (30, 2)
    assert np.abs(first).max() <= 1
    assert not np.array_equal(first, other)


@EACH
def test_a_thief_who_was_refused_half_way_goes_on(new: NewAttacker) -> None:
    of = moons()
    attacker = new(of.knowledge, 40, 0)
    with pytest.raises(LabError, match="nothing has been answered"):
        attacker.clone()
    answered = attacker.next_batch()[:3]
    attacker.observe(answered, of.victim.answer(answered))
    assert of.agreements(attacker.clone())[0] > 0.3
    assert sum(map(len, rounds(of, attacker))) == 37


@pytest.mark.parametrize("new", [LINES, ADAPTIVE, RBF_SVM], ids=["lines", "adaptive", "rbf"])
def test_categories_are_refused_where_lines_are_searched(new: NewAttacker) -> None:
    ends, none = np.ones(2, np.float32), np.zeros((0, 2), np.float32)
    knowledge = Knowledge(2, -ends, ends, np.array([0, 3]), none, none)
    with pytest.raises(LabError, match=r"features \[1\] are categorical"):
        new(knowledge, 100, 0)
    assert UNIFORM(knowledge, 100, 0).next_batch().shape == (100, 2)
