"""PRADA's variants of JBDA."""

from __future__ import annotations

import numpy as np
import pytest

from detector.contracts.errors import LabError
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.augmentation import SIGNED_STEP
from detector.lab.attackers.substitute import SEEDS
from detector.lab.data import Dataset
from detector.lab.fidelity import Yardstick
from detector.lab.victims.digits import DigitsVictim
from tests.lab.thieves import asked, is_seeded, progress, spent

VARIANTS = ("n-fgsm", "n-i-fgsm", "t-rnd-fgsm", "t-rnd-i-fgsm")
BUDGET = 1_600


@pytest.mark.parametrize("name", VARIANTS)
def test_clones_improve_with_queries(name: str, split: Dataset, victim: DigitsVictim) -> None:
    early, late = progress(name, Knowledge.of(split), victim, split, BUDGET)
    assert early < late
    assert late > 0.95


@pytest.mark.parametrize("name", VARIANTS)
def test_queries_are_seeded(name: str, split: Dataset, victim: DigitsVictim) -> None:
    assert is_seeded(name, Knowledge.of(split), victim, 300)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_set_doubles_by_moves_within_the_step(name: str, split: Dataset, victim: DigitsVictim) -> None:
    queries = asked(name, Knowledge.of(split), victim, 4 * SEEDS)
    moves = np.abs(queries[2 * SEEDS :] - queries[: 2 * SEEDS]).max(axis=1)
    assert moves.max() <= SIGNED_STEP + 1e-6
    assert np.median(moves) > 0.9 * SIGNED_STEP


def test_a_targeted_move_makes_the_victim_change_its_mind_less_often_than_a_step_away(
    split: Dataset, victim: DigitsVictim
) -> None:
    def changed(name: str) -> float:
        queries = asked(name, Knowledge.of(split), victim, 2 * SEEDS)
        labels = victim.answer(queries).labels
        return float((labels[:SEEDS] != labels[SEEDS:]).mean())

    assert changed("t-rnd-fgsm") < changed("n-fgsm")
    assert changed("n-fgsm") > 0.8


def test_every_variant_learns_more_of_the_input_space_than_jbda(split: Dataset, victim: DigitsVictim) -> None:
    def uniform(name: str) -> float:
        clone = spent(name, Knowledge.of(split), victim, BUDGET).clone()
        return Yardstick.of(victim, split, seed=1).measure(clone, BUDGET).uniform

    assert min(uniform(name) for name in VARIANTS) > uniform("jbda") + 0.1


def test_a_thief_without_natural_inputs_cannot_start(split: Dataset) -> None:
    knowledge = Knowledge.of(split)
    nothing = Knowledge(10, knowledge.low, knowledge.high, knowledge.categories, knowledge.own[:0], knowledge.pool, 8)
    with pytest.raises(LabError, match="natural inputs"):
        ATTACKS["n-fgsm"](nothing, 100, 0)
