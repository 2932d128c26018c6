"""Thieves learn from answers."""

from __future__ import annotations

import numpy as np
import pytest

from detector.lab.attackers.attacker import Knowledge, run_offline
from detector.lab.attackers.augmentation import STEP, JacobianAugmentation
from detector.lab.data import Dataset
from detector.lab.fidelity import Yardstick
from detector.lab.networks import Network
from detector.lab.victims.digits import DigitsVictim


def thief(split: Dataset, budget: int, seed: int = 0) -> JacobianAugmentation:
    return JacobianAugmentation(Knowledge.of(split), budget, seed, split.thief.features[:100])


def test_more_queries_give_a_better_clone(split: Dataset, victim: DigitsVictim) -> None:
    fidelities = []
    for budget in (20, 100, 3_200):
        attacker = thief(split, budget)
        assert run_offline(attacker, victim) == budget
        fidelities.append(Yardstick.of(victim, split, seed=1).measure(attacker.clone(), budget))
    few, seeds, many = fidelities
    assert few.test < seeds.test < many.test
    assert seeds.uniform < many.uniform
    assert many.test > 0.9


def test_a_round_moves_every_known_input_by_the_step_and_stays_in_the_input_space(
    split: Dataset, victim: DigitsVictim
) -> None:
    attacker = thief(split, budget=1_000)
    seeds = attacker.next_batch()
    attacker.observe(seeds, victim.answer(seeds))
    moved = attacker.next_batch()
    assert len(moved) == 100
    assert moved.min() >= 0
    assert moved.max() <= 1
    steps = np.abs(moved - seeds)
    inside = (moved > 0) & (moved < 1) & (steps > 0)
    assert inside.any()
    np.testing.assert_allclose(steps[inside], STEP, atol=1e-6)


def test_a_thief_who_was_refused_half_way_makes_a_clone_of_what_he_has(split: Dataset, victim: DigitsVictim) -> None:
    attacker = thief(split, budget=1_000)
    seeds = attacker.next_batch()
    attacker.observe(seeds[:40], victim.answer(seeds[:40]))
    assert Yardstick.of(victim, split, seed=1).measure(attacker.clone(), 40).test > 0.5


def test_the_same_seed_gives_the_same_queries_and_another_one_others(split: Dataset, victim: DigitsVictim) -> None:
    def second_round(seed: int) -> np.ndarray:
        attacker = thief(split, 1_000, seed)
        seeds = attacker.next_batch()
        attacker.observe(seeds, victim.answer(seeds))
        return attacker.next_batch()

    np.testing.assert_array_equal(second_round(3), second_round(3))
    assert not np.array_equal(second_round(3), second_round(4))


def test_the_input_gradient_is_that_of_the_probability() -> None:
    rng = np.random.default_rng(0)
    network = Network(5, 3, rng)
    features = rng.random((4, 5))
    classes = np.array([0, 2, 1, 0])
    gradient = network.probability_gradient(features, classes)
    rows, small = np.arange(4), 1e-6
    for pixel in range(5):
        up, down = features.copy(), features.copy()
        up[:, pixel] += small
        down[:, pixel] -= small
        difference = network.probabilities(up)[rows, classes] - network.probabilities(down)[rows, classes]
        assert gradient[:, pixel] == pytest.approx(difference / (2 * small), abs=1e-5)


def test_the_victim_reads_digits_it_never_saw(split: Dataset, victim: DigitsVictim) -> None:
    right = victim.probabilities(split.test.features).argmax(axis=1) == split.test.labels
    assert right.mean() > 0.93


def test_no_image_is_in_two_of_the_sets(split: Dataset) -> None:
    parts = (split.training, split.honest, split.thief, split.test)
    sets = [{row.tobytes() for row in part.features} for part in parts]
    assert sum(map(len, sets)) == len(set.union(*sets))
