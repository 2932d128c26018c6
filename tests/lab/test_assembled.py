"""Inputs that thieves make up from natural rows, and what each row may tell of its parents."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.answers import Victim
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.assembled import Recipe, crossover, kernel_density, mixture, mixup
from detector.lab.attackers.attacker import Attacker, Knowledge, run_offline
from detector.lab.attackers.input_space import InputSpace
from detector.lab.attackers.substitute import SEEDS
from detector.lab.data import Dataset
from detector.lab.datasets import credit
from detector.lab.experiment import count_leading
from detector.lab.fidelity import agreement

MADE_UP = ("crossover", "crossover of eight", "crossover of unsent rows", "kernel density", "mixture", "mixup")


def asked(attacker: Attacker, victim: Victim) -> NDArray[np.float32]:
    batches = []
    while len(batch := attacker.next_batch()):
        batches.append(batch)
        attacker.observe(batch, victim.answer(batch))
    return np.concatenate(batches)


@pytest.fixture(scope="module")
def table() -> Dataset:
    return credit()


@pytest.mark.parametrize("name", MADE_UP)
def test_natural_rows_come_first_and_the_clone_is_better_than_chance(name: str, split: Dataset, victim: Victim) -> None:
    attacker = ATTACKS[name](Knowledge.of(split), 300, 1)
    queries = asked(attacker, victim)
    assert len(queries) == 300
    assert count_leading(queries, split.thief.features) == SEEDS
    assert agreement(victim, attacker.clone(), split.test.features) > 0.8


@pytest.mark.parametrize("parents", [2, 8])
def test_a_crossover_takes_each_feature_from_one_of_its_parents(parents: int, table: Dataset) -> None:
    rows = table.thief.features[:parents]
    made = crossover(rows, InputSpace.of(Knowledge.of(table)), 200, np.random.default_rng(0), parents)
    assert (made[:, None] == rows).any(axis=1).all()
    most = (made[:, None] == rows).sum(axis=2).max(axis=1)
    assert most.mean() < table.dimension * 0.9


def test_a_mixup_lies_between_two_rows_with_the_categories_of_the_first(table: Dataset) -> None:
    one, other = rows = table.thief.features[:2]
    made = mixup(rows, InputSpace.of(Knowledge.of(table)), 100, np.random.default_rng(0))
    continuous = table.categories == 0
    free = continuous & (one != other)
    shares = (made - one)[:, free] / (other - one)[free]
    np.testing.assert_allclose(shares, np.broadcast_to(shares[:, :1], shares.shape), atol=1e-4)
    assert ((shares > -1e-4) & (shares < 1 + 1e-4)).all()
    assert np.ptp(shares) > 0.9
    assert (made[:, None, ~continuous] == rows[:, ~continuous]).all(axis=2).any(axis=1).all()


@pytest.mark.parametrize("recipe", [kernel_density, mixture, mixup, partial(crossover, parents=3)])
def test_made_up_rows_keep_to_the_ranges_and_to_whole_categories(recipe: Recipe, table: Dataset) -> None:
    made = recipe(table.thief.features, InputSpace.of(Knowledge.of(table)), 500, np.random.default_rng(2))
    assert made.shape == (500, table.dimension)
    assert made.dtype == np.float32
    assert ((made >= table.low) & (made <= table.high)).all()
    hot = made[:, table.categories > 0]
    assert (hot == np.rint(hot)).all()


def test_kernel_density_stays_near_a_row_and_is_no_row(table: Dataset) -> None:
    rows = table.thief.features
    made = kernel_density(rows, InputSpace.of(Knowledge.of(table)), 100, np.random.default_rng(3))
    gaps = np.linalg.norm(made[:, None] - rows, axis=2).min(axis=1)
    apart = np.linalg.norm(rows[:100, None] - rows[100:], axis=2).min(axis=1)
    assert (gaps > 0).all()
    assert np.median(gaps) < 2 * np.median(apart)


def test_parents_may_be_rows_that_were_never_asked(split: Dataset, victim: Victim) -> None:
    queries = asked(ATTACKS["crossover of unsent rows"](Knowledge.of(split), 200, 1), victim)
    sent, made = queries[:SEEDS], queries[SEEDS:]
    unsent = np.array([row for row in split.thief.features if not (row == sent).all(axis=1).any()])
    near_unsent, near_sent = ((made[:, None] == rows).sum(axis=2).max(axis=1).mean() for rows in (unsent, sent))
    assert near_unsent > near_sent


def test_own_rows_are_each_asked_once(split: Dataset, victim: Victim) -> None:
    queries = asked(ATTACKS["own rows"](Knowledge.of(split), 1_000, 1), victim)
    assert sorted(row.tobytes() for row in queries) == sorted(row.tobytes() for row in split.thief.features)


def test_one_row_makes_nothing_up(split: Dataset) -> None:
    poor = Knowledge(10, split.low, split.high, split.categories, split.thief.features[:1], split.thief.features)
    with pytest.raises(LabError, match="fewer than two"):
        ATTACKS["mixup"](poor, 100, 1)


def test_uniform_inputs_follow_the_rows(split: Dataset, victim: Victim) -> None:
    attacker = ATTACKS["uniform after rows"](Knowledge.of(split), 400, 1)
    assert run_offline(attacker, victim) == 400
    assert agreement(victim, attacker.clone(), split.test.features) > 0.8
