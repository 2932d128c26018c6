"""CloudLeak: adversarial examples of natural inputs, where the substitute is least sure."""

from __future__ import annotations

import numpy as np
import pytest

from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.cloudleak import ROUND
from detector.lab.attackers.substitute import SEEDS
from detector.lab.data import Dataset
from detector.lab.victims.digits import DigitsVictim
from tests.lab.thieves import asked, is_seeded, progress

NAMES = (
    "cloudleak pgd",
    "cloudleak cw",
    "cloudleak feature adversary",
    "cloudleak featurefool",
    "cloudleak featurefool 0.1",
    "cloudleak featurefool 0.8",
)


@pytest.fixture(scope="module")
def knowledge(split: Dataset) -> Knowledge:
    return Knowledge.of(split)


@pytest.mark.parametrize("name", NAMES)
def test_clones_improve_with_queries(name: str, knowledge: Knowledge, split: Dataset, victim: DigitsVictim) -> None:
    early, late = progress(name, knowledge, victim, split, 600)
    assert early < late
    assert late > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_queries_are_seeded(name: str, knowledge: Knowledge, victim: DigitsVictim) -> None:
    assert is_seeded(name, knowledge, victim, 220)


@pytest.mark.parametrize("name", NAMES)
def test_a_round_lies_nearer_to_the_substitute_s_boundary_than_natural_inputs(
    name: str, knowledge: Knowledge, split: Dataset, victim: DigitsVictim
) -> None:
    thief = ATTACKS[name](knowledge, 1_000, 0)
    seeds = thief.next_batch()
    assert len(seeds) == SEEDS
    assert set(map(bytes, seeds)) <= set(map(bytes, knowledge.own))
    thief.observe(seeds, victim.answer(seeds))
    clone, examples = thief.clone(), thief.next_batch()
    assert len(examples) == ROUND

    def margin(features: np.ndarray) -> float:
        ordered = np.sort(clone.probabilities(features), axis=1)
        return float(np.median(ordered[:, -1] - ordered[:, -2]))

    assert margin(examples) < 0.75 * margin(split.honest.features)


def test_feature_fool_gets_further_from_nature_with_a_greater_margin(
    knowledge: Knowledge, victim: DigitsVictim
) -> None:
    def distance(name: str) -> float:
        examples = asked(name, knowledge, victim, SEEDS + 2 * ROUND)[SEEDS:]
        apart = np.linalg.norm(examples[:, None] - knowledge.own[None], axis=2)
        return float(apart.min(axis=1).mean())

    near, middle, far = (distance(f"cloudleak featurefool{margin}") for margin in (" 0.1", "", " 0.8"))
    assert near < middle < far
