"""Thieves do not care in what units a service wants its features."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.input_space import InputSpace
from detector.lab.data import Dataset
from detector.lab.victims.digits import DigitsVictim
from tests.lab.thieves import asked, spent

TIMES = 16


@dataclass
class InSixteenths:
    """The digits victim, queried in the original units of its data, 0 to 16 of ink, less 8."""

    victim: DigitsVictim
    output_kind: OutputKind = "probabilities"

    def answer(self, features: NDArray[np.float32]) -> Answers:
        return Answers(self.probabilities(features))

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        return self.victim.probabilities(((features + 8) / TIMES).astype(np.float32))


@pytest.mark.parametrize("name", ["jbda", "t-rnd-i-fgsm", "cloudleak featurefool", "color", "uncertainty"])
def test_a_service_in_other_units_is_stolen_by_the_same_queries(
    name: str, split: Dataset, victim: DigitsVictim
) -> None:
    knowledge = Knowledge.of(split)
    high = np.full(64, 8, np.float32)
    own, pool = (rows * TIMES - 8 for rows in (knowledge.natural, knowledge.pool))
    other = replace(knowledge, low=-high, high=high, natural=own, pool=pool)
    queries = asked(name, knowledge, victim, 300)
    np.testing.assert_allclose(asked(name, other, InSixteenths(victim), 300), TIMES * queries - 8, atol=0.05)
    clone = spent(name, other, InSixteenths(victim), 300).clone()
    labels = victim.answer(split.test.features).labels
    assert (clone.probabilities(split.test.features * TIMES - 8).argmax(axis=1) == labels).mean() > 0.3


def test_categories_are_whole_and_a_feature_that_never_changes_stays(split: Dataset) -> None:
    low, high = np.array([0, -1, 5], np.float32), np.array([3, 1, 5], np.float32)
    knowledge = Knowledge(2, low, high, np.array([4, 0, 0]), low[None], low[None])
    ranges = InputSpace.of(knowledge)
    np.testing.assert_array_equal(ranges.features(np.array([[0.4, 0.4, 0.0]])), np.array([[1, -0.2, 5]], np.float32))
    np.testing.assert_array_equal(ranges.features(np.array([[1.4, -0.4, 0.0]])), np.array([[3, -1, 5]], np.float32))
    np.testing.assert_array_equal(ranges.shares(high[None]), [[1, 1, 0]])
