"""Data-free extraction: a generator instead of data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.data_free import BATCH, DIFFERENCE, STUDENT_BATCHES, InputGenerator
from detector.lab.data import Dataset
from detector.lab.victims.digits import DigitsVictim
from tests.lab.thieves import asked, progress

NOTHING = np.empty((0, 64), np.float32)


@pytest.fixture(scope="module")
def knowledge(split: Dataset) -> Knowledge:
    return replace(Knowledge.of(split), natural=NOTHING, pool=NOTHING)


def test_clones_improve_with_queries(knowledge: Knowledge, split: Dataset, victim: DigitsVictim) -> None:
    early, late = progress("data-free", knowledge, victim, split, 8_000)
    assert early + 0.1 < late
    assert late > 0.6


def test_the_generator_is_judged_by_pairs_a_small_step_apart(knowledge: Knowledge, victim: DigitsVictim) -> None:
    iteration = (2 + STUDENT_BATCHES) * BATCH
    queries = asked("data-free", knowledge, victim, 2 * iteration)
    for start in (0, iteration):
        here, there = np.split(queries[start : start + 2 * BATCH], 2)
        apart = np.linalg.norm(there - here, axis=1)
        assert apart.max() < 1.01 * DIFFERENCE
        assert np.median(apart) > 0.5 * DIFFERENCE


def test_a_round_refused_half_way_does_not_stop_him(knowledge: Knowledge, victim: DigitsVictim) -> None:
    thief = ATTACKS["data-free"](knowledge, 1_000, 0)
    pairs = thief.next_batch()
    thief.observe(pairs[:10], victim.answer(pairs[:10]))
    assert len(thief.next_batch()) == STUDENT_BATCHES * BATCH


def test_a_generator_climbs_the_slopes_it_is_given() -> None:
    rng = np.random.default_rng(0)
    generator = InputGenerator(6, rng)
    noise = generator.noise(50, rng)
    before = generator.shares(noise)
    for _ in range(20):
        generator.improve(noise, np.tile([1.0, -1.0, 0, 0, 0, 0], (50, 1)))
    change = (generator.shares(noise) - before).mean(axis=0)
    assert change[0] > 0.2
    assert change[1] < -0.2
