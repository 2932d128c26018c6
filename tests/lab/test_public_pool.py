"""Knockoff Nets, Copycat and active learning: clones from the rows of a public pool."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.contracts.errors import LabError
from detector.lab.answers import Answers
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.public_pool import ROUND
from detector.lab.data import Dataset
from detector.lab.victims.digits import DigitsVictim
from tests.lab.textures import textures
from tests.lab.thieves import asked, progress

KNOCKOFFS = ("knockoff random", "knockoff adaptive")
POOL_THIEVES = (*KNOCKOFFS, "copycat", "uncertainty", "k-center")


@pytest.fixture(scope="module")
def knowledge(split: Dataset) -> Knowledge:
    return Knowledge.of(split, textures(2_000, 8, seed=0))


@pytest.mark.parametrize("name", KNOCKOFFS)
def test_knockoff_clones_improve_with_queries(
    name: str, knowledge: Knowledge, split: Dataset, victim: DigitsVictim
) -> None:
    early, late = progress(name, knowledge, victim, split, 1_000)
    assert early < late
    assert late > 0.8


@pytest.mark.parametrize("name", POOL_THIEVES)
def test_each_row_of_the_pool_is_queried_once_and_then_the_attack_ends(
    name: str, knowledge: Knowledge, victim: DigitsVictim
) -> None:
    small = replace(knowledge, pool=knowledge.pool[:250])
    queries = asked(name, small, victim, 1_000)
    assert sorted(map(bytes, queries)) == sorted(map(bytes, small.pool))


@pytest.mark.parametrize("name", POOL_THIEVES)
def test_a_thief_without_a_pool_cannot_start(name: str, knowledge: Knowledge) -> None:
    with pytest.raises(LabError, match="pool"):
        ATTACKS[name](replace(knowledge, pool=knowledge.pool[:0]), 100, 0)


def test_the_bandit_leaves_alone_what_teaches_nothing(split: Dataset, victim: DigitsVictim) -> None:
    """Half of the pool is almost black, and gets always the same unsure answer."""
    dark = 0.02 * textures(1_500, 8, seed=1)
    knowledge = Knowledge.of(split, np.concatenate([textures(1_500, 8, seed=0), dark]))

    def dark_share(name: str) -> float:
        late = asked(name, knowledge, victim, 1_200)[600:]
        return float((late.max(axis=1) <= 0.02).mean())

    assert dark_share("knockoff random") > 0.4
    assert dark_share("knockoff adaptive") < 0.25


@pytest.mark.parametrize("name", KNOCKOFFS)
def test_a_round_may_be_answered_one_by_one(name: str, knowledge: Knowledge, victim: DigitsVictim) -> None:
    thief = ATTACKS[name](knowledge, 300, 3)
    queries = []
    while len(batch := thief.next_batch()):
        answers = victim.answer(batch).probabilities
        for row, answer in zip(batch, answers, strict=True):
            thief.observe(row[None], Answers(answer[None]))
        queries.append(batch)
    assert np.concatenate(queries).tobytes() == asked(name, knowledge, victim, 300, seed=3).tobytes()


@pytest.fixture(scope="module")
def copycat_knowledge(split: Dataset) -> Knowledge:
    return Knowledge.of(split, textures(2_500, 8, seed=0))


def test_copycat_clones_improve_with_queries_but_less_than_with_probabilities(
    copycat_knowledge: Knowledge, split: Dataset, victim: DigitsVictim
) -> None:
    early, late = progress("copycat", copycat_knowledge, victim, split, 2_000)
    assert early < late
    assert late > 0.7
    assert late < progress("knockoff random", copycat_knowledge, victim, split, 2_000)[1] - 0.05


def test_copycat_uses_nothing_but_the_label(copycat_knowledge: Knowledge, split: Dataset, victim: DigitsVictim) -> None:
    told_all, told_labels = (ATTACKS["copycat"](copycat_knowledge, 100, 0) for _ in range(2))
    batch = told_all.next_batch()
    answers = victim.answer(batch)
    told_all.observe(batch, answers)
    told_labels.observe(batch, Answers(np.eye(10)[answers.labels]))
    one, other = (thief.clone().probabilities(split.test.features) for thief in (told_all, told_labels))
    np.testing.assert_array_equal(one, other)


ACTIVE = ("uncertainty", "k-center")
BUDGET = 1_000


@pytest.fixture(scope="module")
def active_knowledge(split: Dataset) -> Knowledge:
    return Knowledge.of(split, textures(3_000, 8, seed=0))


@pytest.fixture(scope="module")
def at_random(active_knowledge: Knowledge, split: Dataset, victim: DigitsVictim) -> float:
    return progress("knockoff random", active_knowledge, victim, split, BUDGET)[1]


@pytest.mark.parametrize("name", ACTIVE)
def test_active_learners_improve_with_queries_and_more_than_by_random_ones(
    name: str, active_knowledge: Knowledge, at_random: float, split: Dataset, victim: DigitsVictim
) -> None:
    early, late = progress(name, active_knowledge, victim, split, BUDGET)
    assert early < late
    assert late > 0.9
    assert late > at_random + 0.03


def second_round(name: str, active_knowledge: Knowledge, victim: DigitsVictim) -> tuple[np.ndarray, np.ndarray]:
    """What the clone thinks of the first round and of the second, which it chose."""
    thief = ATTACKS[name](active_knowledge, 2 * ROUND, 0)
    first = thief.next_batch()
    thief.observe(first, victim.answer(first))
    clone = thief.clone()
    return clone.probabilities(first), clone.probabilities(thief.next_batch())


def test_uncertainty_asks_where_the_clone_is_least_sure(active_knowledge: Knowledge, victim: DigitsVictim) -> None:
    _, chosen = second_round("uncertainty", active_knowledge, victim)
    assert np.median(chosen.max(axis=1)) < 0.5


def test_k_center_asks_what_lies_apart_from_all_that_was_asked(
    active_knowledge: Knowledge, victim: DigitsVictim
) -> None:
    first, chosen = second_round("k-center", active_knowledge, victim)
    everything = np.concatenate([first, chosen])
    nearest = [np.delete(np.linalg.norm(everything - row, axis=1), place).min() for place, row in enumerate(everything)]
    assert np.median(nearest[len(first) :]) > 1.5 * np.median(nearest[: len(first)])
