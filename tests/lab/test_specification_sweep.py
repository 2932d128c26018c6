"""The sweep picks the wanted model out of the zoo, and steals that one."""

from __future__ import annotations

import numpy as np
import pytest

from detector.contracts.errors import LabError
from detector.lab.answers import Classifier
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge, run_offline
from detector.lab.attackers.augmentation import JacobianAugmentation
from detector.lab.attackers.specification_sweep import SpecificationSweep
from detector.lab.data import Dataset
from detector.lab.fidelity import agreement
from detector.lab.victims.digits import DigitsVictim
from tests.lab import zoo
from tests.lab.zoo import Zoo, ZooModel, blind_offline, sweep_offline

BUDGET = 1_000
SWEEP = 1 + 2 * 14 + 15 * 4
"""Queries until the cell is found: is anything served; two edges of one probe; a fingerprint and one edge of four."""


@pytest.fixture(scope="module")
def models(split: Dataset) -> Zoo:
    return zoo.new(split, 0)


@pytest.fixture(scope="module")
def knowledge(split: Dataset) -> Knowledge:
    return Knowledge.of(split)


def test_a_zoo_answers_with_the_fastest_model_that_meets_the_specification(victim: DigitsVictim) -> None:
    small = Zoo([ZooModel(victim, 0.9, 30.0), ZooModel(victim, 0.7, 10.0), ZooModel(victim, 0.8, 40.0)])
    asked = np.array([[0.5, 50], [0.75, 50], [0.75, 20], [0.9, 30], [0.95, 50], [0.5, 5]], np.float32)
    assert [model.latency for model in small.models] == [10, 30, 40]
    np.testing.assert_array_equal(small.chosen(asked), [0, 1, -1, 1, -1, -1])
    assert [small.best_within(latency) for latency in (10, 29, 30, 50)] == [0, 0, 1, 1]


def test_the_model_chosen_answers_and_a_refusal_is_a_row_of_zeros(models: Zoo, split: Dataset) -> None:
    rows = split.test.features[:40]
    asked = np.random.default_rng(0).uniform((0.5, 0), (1, 100), (40, 2)).astype(np.float32)
    chosen, said = models.chosen(asked), models.answer(rows, asked).probabilities
    assert said.dtype == np.float64
    assert len(set(chosen)) >= 3 and -1 in chosen
    for row, index in enumerate(chosen):
        if index < 0:
            assert not said[row].any()
        else:
            expected = models.models[index].victim.probabilities(rows[row : row + 1])[0]
            np.testing.assert_allclose(said[row], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("latency", [2.0, 4.0, 10.0, 1_000.0])
def test_every_specification_of_the_cell_triggers_the_wanted_model(
    latency: float, models: Zoo, knowledge: Knowledge
) -> None:
    attacker = SpecificationSweep(knowledge, budget=SWEEP, seed=0, latency=latency)
    assert sweep_offline(attacker, models) == SWEEP
    assert attacker.cell is not None
    inside = np.random.default_rng(1).uniform(attacker.cell.low, attacker.cell.high, (500, 2))
    corners = [attacker.cell.low, attacker.cell.high, attacker.cell.middle]
    asked = np.concatenate([inside, corners]).astype(np.float32)
    assert set(models.chosen(asked)) == {models.best_within(latency)}


def test_the_cell_ends_where_another_model_or_a_refusal_begins(models: Zoo, knowledge: Knowledge) -> None:
    attacker = SpecificationSweep(knowledge, budget=SWEEP, seed=0, latency=10.0)
    sweep_offline(attacker, models)
    assert attacker.cell is not None
    (accuracy, latency), (highest, _) = attacker.cell.low, attacker.cell.high
    beyond = np.array([[accuracy - 2e-4, latency], [accuracy, latency - 2e-3], [highest + 2e-4, 10]], np.float32)
    outside = models.chosen(beyond)
    assert models.best_within(10.0) not in outside
    np.testing.assert_array_equal(outside[1:], -1)


def stolen_blindly(models: Zoo, knowledge: Knowledge, latency: float, seed: int) -> Classifier:
    thief = JacobianAugmentation(knowledge, BUDGET, seed)
    blind_offline(thief, models, latency=latency, budget=BUDGET, rng=np.random.default_rng([2, seed]))
    return thief.clone()


def test_the_sweep_steals_the_wanted_model_better_than_a_thief_who_knows_no_cell(
    models: Zoo, knowledge: Knowledge, split: Dataset
) -> None:
    latency = 10.0
    victim = models.models[models.best_within(latency)].victim
    informed, blind = [], []
    for seed in range(3):
        attacker = SpecificationSweep(knowledge, budget=BUDGET, seed=seed, latency=latency)
        assert sweep_offline(attacker, models) == BUDGET
        informed.append(agreement(victim, attacker.clone(), split.test.features))
        blind.append(agreement(victim, stolen_blindly(models, knowledge, latency, seed), split.test.features))
    assert np.mean(informed) > 0.85
    assert np.mean(informed) > np.mean(blind) + 0.1


def test_the_same_seed_asks_the_same_and_another_one_does_not(models: Zoo, knowledge: Knowledge) -> None:
    def asked(seed: int) -> tuple[np.ndarray, np.ndarray]:
        attacker = SpecificationSweep(knowledge, SWEEP + 50, seed)
        batches, specifications = [], []
        while len(batch := attacker.next_batch()):
            batches.append(batch)
            specifications.append(attacker.next_specifications())
            attacker.observe(batch, models.answer(batch, specifications[-1]))
        assert [len(batch) for batch in batches] == [len(each) for each in specifications]
        return np.concatenate(batches), np.concatenate(specifications)

    for one, again in zip(asked(3), asked(3), strict=True):
        np.testing.assert_array_equal(one, again)
        assert one.dtype == np.float32
    assert not np.array_equal(asked(3)[0], asked(4)[0])


def test_a_round_answered_in_part_is_asked_to_its_end(models: Zoo, knowledge: Knowledge) -> None:
    whole, halting = (SpecificationSweep(knowledge, SWEEP, 0) for _ in range(2))
    sweep_offline(whole, models)
    while len(batch := halting.next_batch()):
        asked = halting.next_specifications()
        halting.observe(batch[:1], models.answer(batch[:1], asked[:1]))
    assert halting.cell == whole.cell is not None


def test_before_the_cell_is_found_the_clone_is_made_of_what_was_said(
    models: Zoo, knowledge: Knowledge, split: Dataset
) -> None:
    attacker = SpecificationSweep(knowledge, 20, 0)
    with pytest.raises(LabError, match="nothing has been answered"):
        attacker.clone()
    assert sweep_offline(attacker, models) == 20
    assert attacker.cell is None
    assert attacker.clone().probabilities(split.test.features).shape == (len(split.test), 10)


def test_a_zoo_too_slow_is_named_as_such(models: Zoo, knowledge: Knowledge) -> None:
    with pytest.raises(LabError, match=r"no model answers within 1.0 ms"):
        sweep_offline(SpecificationSweep(knowledge, budget=100, seed=0, latency=1.0), models)
    with pytest.raises(LabError, match="at least one model"):
        Zoo([])


def test_an_api_without_specifications_is_a_zoo_of_one(
    victim: DigitsVictim, knowledge: Knowledge, split: Dataset
) -> None:
    attacker = ATTACKS["psml sweep"](knowledge, 400, 0)
    assert run_offline(attacker, victim) == 400
    assert agreement(victim, attacker.clone(), split.test.features) > 0.8
