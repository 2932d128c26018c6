"""Every attack of the registry keeps the contract of ``Attacker``."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.answers import Victim
from detector.lab.attackers import ATTACKS, EVASIONS
from detector.lab.attackers.attacker import Attacker, Knowledge, run_offline
from detector.lab.data import Dataset
from detector.lab.experiment import victim_of

TARGETS = {
    "lowd-meek": ("linear", "logistic regression"),
    "path finding bottom-up": ("breast cancer", "decision tree"),
    "path finding top-down": ("breast cancer", "decision tree"),
}
"""Where an attack needs another model than the digits network."""

NOTHING_DRAWN = {"path finding top-down"}
BUDGET = 220

EACH = pytest.mark.parametrize("name", sorted(ATTACKS))


def target_of(name: str) -> tuple[Dataset, Victim]:
    return victim_of(*TARGETS.get(name, ("digits", "multilayer perceptron")))


def attacker_of(name: str, seed: int = 3) -> Attacker:
    return ATTACKS[name](Knowledge.of(target_of(name)[0]), BUDGET, seed)


def queries_of(name: str, seed: int, portions: int = 1) -> NDArray[np.float32]:
    """All queries (n, d), in order; ``observe`` is called with each round in ``portions``."""
    attacker, (_, victim) = attacker_of(name, seed), target_of(name)
    batches = []
    while len(batch := attacker.next_batch()):
        batches.append(batch)
        for portion in np.array_split(batch, min(portions, len(batch))):
            attacker.observe(portion, victim.answer(portion))
    return np.concatenate(batches)


@cache
def recorded(name: str) -> NDArray[np.float32]:
    """Returns the queries of seed 3, made once."""
    return queries_of(name, 3)


@EACH
def test_queries_are_float32_within_the_ranges_and_the_budget(name: str) -> None:
    dataset, _ = target_of(name)
    queries = recorded(name)
    assert queries.dtype == np.float32
    assert 0 < len(queries) <= BUDGET
    given = ~np.isnan(queries)
    assert (queries >= dataset.low)[given].all()
    assert (queries <= dataset.high)[given].all()


@EACH
def test_the_same_seed_gives_the_same_queries_byte_for_byte_and_another_one_others(name: str) -> None:
    again, other = (queries_of(name, seed).tobytes() for seed in (3, 4))
    assert again == recorded(name).tobytes()
    assert (again == other) == (name in NOTHING_DRAWN)


@EACH
def test_a_round_may_be_observed_in_portions(name: str) -> None:
    assert queries_of(name, 3, portions=2).tobytes() == recorded(name).tobytes()


@EACH
def test_a_clone_has_probabilities_of_every_class_and_evasions_have_no_clone(name: str) -> None:
    (dataset, victim), attacker = target_of(name), attacker_of(name)
    run_offline(attacker, victim)
    if name in EVASIONS:
        with pytest.raises(LabError, match="makes no clone"):
            attacker.clone()
    else:
        probabilities = attacker.clone().probabilities(dataset.test.features)
        assert probabilities.shape == (len(dataset.test), dataset.classes)
        assert probabilities.sum(axis=1) == pytest.approx(1)
