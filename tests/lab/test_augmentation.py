"""Data-set augmentation: JBDA, its variants by PRADA, and COLOR."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.contracts.errors import LabError
from detector.lab.answers import Answers
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge, run_offline
from detector.lab.attackers.augmentation import SHIFT, SIGNED_STEP, STEP, JacobianAugmentation
from detector.lab.attackers.substitute import SEEDS
from detector.lab.data import Dataset
from detector.lab.fidelity import Yardstick
from detector.lab.networks import Network
from detector.lab.victims.digits import DigitsVictim
from tests.lab.thieves import asked, progress, spent


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


def test_a_thief_who_was_refused_half_way_makes_a_clone_of_the_answers(split: Dataset, victim: DigitsVictim) -> None:
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


VARIANTS = ("n-fgsm", "n-i-fgsm", "t-rnd-fgsm", "t-rnd-i-fgsm")
VARIANTS_BUDGET = 1_600


@pytest.mark.parametrize("name", VARIANTS)
def test_clones_of_the_variants_improve_with_queries(name: str, split: Dataset, victim: DigitsVictim) -> None:
    early, late = progress(name, Knowledge.of(split), victim, split, VARIANTS_BUDGET)
    assert early < late
    assert late > 0.95


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
        clone = spent(name, Knowledge.of(split), victim, VARIANTS_BUDGET).clone()
        return Yardstick.of(victim, split, seed=1).measure(clone, VARIANTS_BUDGET).uniform

    assert min(uniform(name) for name in VARIANTS) > uniform("jbda") + 0.1


def test_a_thief_without_natural_inputs_cannot_start(split: Dataset) -> None:
    knowledge = Knowledge.of(split)
    nothing = Knowledge(
        10, knowledge.low, knowledge.high, knowledge.categories, knowledge.natural[:0], knowledge.pool, 8
    )
    with pytest.raises(LabError, match="natural inputs"):
        ATTACKS["n-fgsm"](nothing, 100, 0)


def test_color_clones_improve_with_queries(split: Dataset, victim: DigitsVictim) -> None:
    early, late = progress("color", Knowledge.of(split), victim, split, 1_600)
    assert early < late
    assert late > 0.95


def test_every_pixel_of_an_image_is_shifted_alike(split: Dataset, victim: DigitsVictim) -> None:
    queries = asked("color", Knowledge.of(split), victim, 5 * SEEDS).reshape(5, SEEDS, 64)
    for repeat in queries[1:]:
        shifts = np.ma.masked_where((repeat == 0) | (repeat == 1), repeat - queries[0])
        assert np.abs(shifts).max() <= SHIFT + 1e-6
        assert np.ma.max(shifts.max(axis=1) - shifts.min(axis=1)) < 1e-6
        assert shifts.mean(axis=1).std() > SHIFT / 4


def test_channels_are_shifted_apart() -> None:
    grey = np.full((3, 12), 0.5, np.float32)
    zeros, ones = np.zeros(12, np.float32), np.ones(12, np.float32)
    thief = ATTACKS["color"](Knowledge(2, zeros, ones, np.zeros(12, np.int64), grey, grey, side=2), 6, 0)
    thief.observe(thief.next_batch(), Answers(np.full((3, 2), 0.5)))
    pixels = thief.next_batch().reshape(3, 4, 3)
    assert (pixels == pixels[:, :1]).all()
    assert (pixels[:, 0, 0] != pixels[:, 0, 1]).all()


def test_tables_have_no_colours(split: Dataset) -> None:
    with pytest.raises(LabError, match="images"):
        ATTACKS["color"](replace(Knowledge.of(split), side=None), 100, 0)
