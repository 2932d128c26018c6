"""Active learning chooses from the pool what the clone does not know yet."""

from __future__ import annotations

import numpy as np
import pytest

from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.public_pool import ROUND
from detector.lab.data import Dataset
from detector.lab.datasets import textures
from detector.lab.victims.digits import DigitsVictim
from tests.lab.thieves import is_seeded, progress

NAMES = ("uncertainty", "k-center")
BUDGET = 1_000


@pytest.fixture(scope="module")
def knowledge(split: Dataset) -> Knowledge:
    return Knowledge.of(split, textures(3_000, 8, seed=0))


@pytest.fixture(scope="module")
def at_random(knowledge: Knowledge, split: Dataset, victim: DigitsVictim) -> float:
    return progress("knockoff random", knowledge, victim, split, BUDGET)[1]


@pytest.mark.parametrize("name", NAMES)
def test_clones_improve_with_queries_and_more_than_by_random_ones(
    name: str, knowledge: Knowledge, at_random: float, split: Dataset, victim: DigitsVictim
) -> None:
    early, late = progress(name, knowledge, victim, split, BUDGET)
    assert early < late
    assert late > 0.9
    assert late > at_random + 0.03


@pytest.mark.parametrize("name", NAMES)
def test_queries_are_seeded(name: str, knowledge: Knowledge, victim: DigitsVictim) -> None:
    assert is_seeded(name, knowledge, victim, 300)


def second_round(name: str, knowledge: Knowledge, victim: DigitsVictim) -> tuple[np.ndarray, np.ndarray]:
    """What the clone thinks of the first round and of the second, which it chose."""
    thief = ATTACKS[name](knowledge, 2 * ROUND, 0)
    first = thief.next_batch()
    thief.observe(first, victim.answer(first))
    clone = thief.clone()
    return clone.probabilities(first), clone.probabilities(thief.next_batch())


def test_uncertainty_asks_where_the_clone_is_least_sure(knowledge: Knowledge, victim: DigitsVictim) -> None:
    _, chosen = second_round("uncertainty", knowledge, victim)
    assert np.median(chosen.max(axis=1)) < 0.5


def test_k_center_asks_what_lies_apart_from_all_that_was_asked(knowledge: Knowledge, victim: DigitsVictim) -> None:
    first, chosen = second_round("k-center", knowledge, victim)
    everything = np.concatenate([first, chosen])
    nearest = [np.delete(np.linalg.norm(everything - row, axis=1), place).min() for place, row in enumerate(everything)]
    assert np.median(nearest[len(first) :]) > 1.5 * np.median(nearest[: len(first)])
