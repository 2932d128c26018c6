"""Evasions turn an input's label by small changes; they steal nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.contracts.errors import LabError
from detector.lab.answers import Victim
from detector.lab.attackers import ATTACKS, EVASIONS, evasion
from detector.lab.attackers.attacker import Knowledge, run_offline
from detector.lab.attackers.evasion import STEP, STEPS, Evasion
from detector.lab.data import Dataset
from detector.lab.datasets import DATASETS
from detector.lab.victims.digits import DIMENSION, DigitsVictim
from tests.lab.coarser import LabelOnly

INPUTS = 10
PLENTY = 50_000
NAMES = pytest.mark.parametrize("name", sorted(EVASIONS & ATTACKS.keys()))


@pytest.fixture(scope="module")
def knowledge(split: Dataset) -> Knowledge:
    whole = Knowledge.of(split)
    return replace(whole, natural=whole.natural[:INPUTS])


def turned(attacker: Evasion, victim: Victim) -> np.ndarray:
    """Whether the victim names each input found and its original differently."""
    originals = attacker.originals[list(attacker.found)].astype(np.float32)
    found = np.stack(list(attacker.found.values())).astype(np.float32)
    return np.asarray(victim.answer(found).labels != victim.answer(originals).labels)


def test_finite_differences_turn_every_input_within_a_fraction_of_the_distance_between_inputs(
    knowledge: Knowledge, victim: DigitsVictim
) -> None:
    attacker = evasion.FiniteDifferences(knowledge, PLENTY, 0)
    queries = run_offline(attacker, victim)
    assert len(attacker.found) == INPUTS
    assert turned(attacker, victim).all()
    assert queries < 1_000 * INPUTS
    apart = np.linalg.norm(attacker.originals[:, None] - attacker.originals, axis=2)
    nearest_other = (apart + 1e9 * np.eye(INPUTS)).min(axis=1)
    assert np.median(attacker.distances()) < 0.5 * np.median(nearest_other)


def test_a_step_of_finite_differences_asks_the_input_and_two_neighbours_a_feature(
    knowledge: Knowledge, victim: DigitsVictim
) -> None:
    attacker = evasion.FiniteDifferences(knowledge, PLENTY, 0)
    first = attacker.next_batch()
    assert len(first) <= 2 * DIMENSION + 1
    assert ((first[1:] != first[0]).sum(axis=1) == 1).all()
    attacker.observe(first, victim.answer(first))
    second = attacker.next_batch()
    assert np.abs(second[0] - first[0]).max() == pytest.approx(STEP, abs=1e-6)


def test_finite_differences_get_nowhere_with_labels_only(knowledge: Knowledge, victim: DigitsVictim) -> None:
    attacker = evasion.FiniteDifferences(knowledge, PLENTY, 0)
    assert run_offline(attacker, LabelOnly(victim)) <= INPUTS * (2 * DIMENSION + 1)
    assert not attacker.found
    assert len(attacker.distances()) == 0


def test_a_boundary_walk_needs_labels_only_and_comes_nearer_with_more_queries(
    knowledge: Knowledge, victim: DigitsVictim
) -> None:
    one = replace(knowledge, natural=knowledge.natural[:1])
    medians = []
    for budget in (30, 200, 1_000):
        runs = [evasion.BoundaryWalk(one, budget, seed) for seed in range(5)]
        for attacker in runs:
            assert run_offline(attacker, LabelOnly(victim)) == budget
            assert turned(attacker, victim).all()
        medians.append(np.median([attacker.distances()[0] for attacker in runs]))
    start, soon, late = medians
    assert late < 0.75 * soon
    assert soon < 0.75 * start


def test_a_boundary_walk_ends_as_near_as_gradients_do(knowledge: Knowledge, victim: DigitsVictim) -> None:
    walk, gradients = evasion.BoundaryWalk(knowledge, PLENTY, 0), evasion.FiniteDifferences(knowledge, PLENTY, 0)
    run_offline(walk, LabelOnly(victim))
    run_offline(gradients, victim)
    assert len(walk.found) == INPUTS
    assert turned(walk, victim).all()
    assert np.median(walk.distances()) < 1.2 * np.median(gradients.distances())


@NAMES
def test_inputs_stay_in_range_and_the_same_seed_asks_the_same(
    name: str, knowledge: Knowledge, victim: DigitsVictim
) -> None:
    def asked(seed: int) -> np.ndarray:
        attacker, batches = ATTACKS[name](knowledge, 400, seed), []
        while len(batch := attacker.next_batch()):
            batches.append(batch)
            attacker.observe(batch, victim.answer(batch))
        return np.concatenate(batches)

    first = asked(1)
    assert len(first) == 400
    assert first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(first, asked(1))
    assert not np.array_equal(first, asked(2))


@NAMES
def test_it_makes_no_clone_and_takes_no_categories(name: str, knowledge: Knowledge) -> None:
    with pytest.raises(LabError, match="no clone"):
        ATTACKS[name](knowledge, 10, 0).clone()
    with pytest.raises(LabError, match="categorical"):
        ATTACKS[name](Knowledge.of(DATASETS["categorical"]()), 10, 0)


def test_finite_differences_give_an_input_up_after_so_many_steps(knowledge: Knowledge, victim: DigitsVictim) -> None:
    """A victim whose margin moves but whose label never turns."""

    class Stubborn(DigitsVictim):
        def __init__(self) -> None:
            """Trains nothing."""

        def probabilities(self, features: np.ndarray) -> np.ndarray:
            sure = 0.8 + 0.1 * features.mean(axis=1)
            return np.stack([sure, 1 - sure], axis=1)

    one = replace(knowledge, natural=np.full((1, DIMENSION), 0.999, np.float32))
    attacker = evasion.FiniteDifferences(one, PLENTY, 0)
    assert run_offline(attacker, Stubborn()) == STEPS * (2 * DIMENSION + 1)
    assert not attacker.found
