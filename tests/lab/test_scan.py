"""A scan of logs of the lab: honest accounts of all habits, and thieves that no label names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.calibration.scan import Scan, scan
from detector.lab.answers import Victim
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.data import Dataset
from detector.lab.experiment import victim_of
from detector.lab.honest import population
from tests.core.honest import account
from tests.lab.textures import textures

MODELS = {
    ("breast cancer", "decision tree"): ("path finding top-down", "uniform retraining", "jbda"),
    ("breast cancer", "logistic regression"): ("equation solving", "lowd-meek", "adaptive retraining"),
    ("digits", "multilayer perceptron"): ("jbda", "knockoff random", "line-search retraining"),
}
QUERIES, STOLEN = 80, 300


def named(name: str, rows: NDArray[np.float32], victim: Victim) -> QueryBatch:
    absent = np.isnan(rows)
    own = account(name, np.where(absent, 0.0, rows), 0)
    outputs = victim.answer(rows).probabilities.astype(np.float32)
    return replace(own, outputs=outputs, missing=absent if absent.any() else None)


def honest(dataset: Dataset, victim: Victim, count: int, seed: int) -> Iterator[QueryBatch]:
    for number, user in enumerate(population(dataset, count, seed)):
        rows: list[NDArray[np.float32]] = []
        while sum(map(len, rows)) < QUERIES and (ask := next(user.requests, None)) is not None:
            rows.append(ask.rows)
        yield named(f"key-{number}", np.concatenate(rows)[:QUERIES], victim)


def stolen(dataset: Dataset, victim: Victim, attack: str, seed: int) -> QueryBatch:
    pool = None if dataset.side is None else textures(500, dataset.side, seed)
    thief, rows = ATTACKS[attack](Knowledge.of(dataset, pool), STOLEN, seed), []
    while len(batch := thief.next_batch()):
        rows.append(batch)
        thief.observe(batch, victim.answer(batch))
    return named(f"key-{attack}-{seed}", np.concatenate(rows), victim)


def first_and_alone(found: Scan, thieves: list[QueryBatch]) -> None:
    """The thieves are first, stand out, and at most one honest account does too."""
    names = {thief.principals[0] for thief in thieves}
    assert {account.name for account in found.accounts[: len(names)]} == names
    out = [account.name for account in found.accounts if account.stands_out]
    assert names <= set(out) and len(out) <= len(names) + 1


@pytest.mark.parametrize("model", MODELS, ids=" by ".join)
def test_thieves_of_three_kinds_among_sixty_accounts_are_first(model: tuple[str, str]) -> None:
    dataset, victim = victim_of(*model)
    thieves = [stolen(dataset, victim, attack, 5) for attack in MODELS[model]]
    first_and_alone(scan([*honest(dataset, victim, 60, 5), *thieves], 0.01), thieves)


@pytest.mark.parametrize("model", MODELS, ids=" by ".join)
def test_a_thief_among_twelve_accounts_is_among_the_first_two(model: tuple[str, str]) -> None:
    """Of twelve accounts, the only one with its habit may come before the thief."""
    dataset, victim = victim_of(*model)
    thief = stolen(dataset, victim, MODELS[model][0], 5)
    found = scan([*honest(dataset, victim, 12, 6), thief], 0.01)
    assert thief.principals[0] in [account.name for account in found.accounts[:2]]
    assert sum(account.stands_out for account in found.accounts if account.name != thief.principals[0]) <= 1


def test_two_thieves_of_one_kind_among_sixty_accounts_are_first() -> None:
    dataset, victim = victim_of("digits", "multilayer perceptron")
    thieves = [stolen(dataset, victim, "knockoff random", seed) for seed in (5, 6)]
    first_and_alone(scan([*honest(dataset, victim, 60, 5), *thieves], 0.01), thieves)
