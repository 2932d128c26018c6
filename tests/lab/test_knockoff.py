"""Knockoff Nets: what a public pool tells of the victim, at random or chosen by a bandit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.contracts.errors import LabError
from detector.lab.answers import Answers
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.data import Dataset
from detector.lab.datasets import textures
from detector.lab.victims.digits import DigitsVictim
from tests.lab.thieves import asked, is_seeded, progress

NAMES = ("knockoff random", "knockoff adaptive")
POOL_THIEVES = (*NAMES, "copycat", "uncertainty", "k-center")


@pytest.fixture(scope="module")
def knowledge(split: Dataset) -> Knowledge:
    return Knowledge.of(split, textures(2_000, 8, seed=0))


@pytest.mark.parametrize("name", NAMES)
def test_clones_improve_with_queries(name: str, knowledge: Knowledge, split: Dataset, victim: DigitsVictim) -> None:
    early, late = progress(name, knowledge, victim, split, 1_000)
    assert early < late
    assert late > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_queries_are_seeded(name: str, knowledge: Knowledge, victim: DigitsVictim) -> None:
    assert is_seeded(name, knowledge, victim, 300)


@pytest.mark.parametrize("name", POOL_THIEVES)
def test_each_row_of_the_pool_is_asked_once_and_then_he_ends(
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


@pytest.mark.parametrize("name", NAMES)
def test_a_round_may_be_answered_one_by_one(name: str, knowledge: Knowledge, victim: DigitsVictim) -> None:
    thief = ATTACKS[name](knowledge, 300, 3)
    queries = []
    while len(batch := thief.next_batch()):
        answers = victim.answer(batch).probabilities
        for row, answer in zip(batch, answers, strict=True):
            thief.observe(row[None], Answers(answer[None]))
        queries.append(batch)
    assert np.concatenate(queries).tobytes() == asked(name, knowledge, victim, 300, seed=3).tobytes()
