"""Copycat: labels of foreign data."""

from __future__ import annotations

import numpy as np
import pytest

from detector.lab.answers import Answers
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.data import Dataset
from detector.lab.datasets import textures
from detector.lab.victims.digits import DigitsVictim
from tests.lab.thieves import is_seeded, progress


@pytest.fixture(scope="module")
def knowledge(split: Dataset) -> Knowledge:
    return Knowledge.of(split, textures(2_500, 8, seed=0))


def test_clones_improve_with_queries_but_less_than_with_probabilities(
    knowledge: Knowledge, split: Dataset, victim: DigitsVictim
) -> None:
    early, late = progress("copycat", knowledge, victim, split, 2_000)
    assert early < late
    assert late > 0.7
    assert late < progress("knockoff random", knowledge, victim, split, 2_000)[1] - 0.05


def test_queries_are_seeded(knowledge: Knowledge, victim: DigitsVictim) -> None:
    assert is_seeded("copycat", knowledge, victim, 300)


def test_nothing_but_the_label_is_used(knowledge: Knowledge, split: Dataset, victim: DigitsVictim) -> None:
    told_all, told_labels = (ATTACKS["copycat"](knowledge, 100, 0) for _ in range(2))
    batch = told_all.next_batch()
    answers = victim.answer(batch)
    told_all.observe(batch, answers)
    told_labels.observe(batch, Answers(np.eye(10)[answers.labels]))
    one, other = (thief.clone().probabilities(split.test.features) for thief in (told_all, told_labels))
    np.testing.assert_array_equal(one, other)
