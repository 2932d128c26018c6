"""The behaviour that every thief must show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Classifier, Victim
from detector.lab.attackers import ATTACKS, NewAttacker
from detector.lab.attackers.attacker import Attacker, Knowledge, run_offline
from detector.lab.data import Dataset
from detector.lab.fidelity import agreement
from tests.lab.sklearn_cases import SklearnCase


def spent(name: str, knowledge: Knowledge, victim: Victim, budget: int, seed: int = 0) -> Attacker:
    """Returns the thief ``name`` after the whole budget, which must be used to the last query."""
    thief = ATTACKS[name](knowledge, budget, seed)
    assert run_offline(thief, victim) == budget
    return thief


def robbed(
    of: SklearnCase, new: NewAttacker, budget: int, *, served: Victim | None = None, seed: int = 0
) -> Classifier:
    """The clone after ``budget`` queries at most of ``served``, by default the victim of ``of`` as it is."""
    attacker = new(of.knowledge, budget, seed)
    assert run_offline(attacker, served or of.victim) <= budget
    return attacker.clone()


def progress(name: str, knowledge: Knowledge, victim: Victim, split: Dataset, budget: int) -> tuple[float, float]:
    """Agreement with the victim on unseen natural inputs after a quarter of ``budget``, and after all of it."""
    early, late = (
        agreement(victim, spent(name, knowledge, victim, queries).clone(), split.test.features)
        for queries in (budget // 4, budget)
    )
    return early, late


def asked(name: str, knowledge: Knowledge, victim: Victim, budget: int, seed: int = 0) -> NDArray[np.float32]:
    """Every query (n, d), in order."""
    thief = ATTACKS[name](knowledge, budget, seed)
    batches = []
    while len(batch := thief.next_batch()):
        assert batch.dtype == np.float32
        assert (batch >= knowledge.low).all()
        assert (batch <= knowledge.high).all()
        batches.append(batch)
        thief.observe(batch, victim.answer(batch))
    return np.concatenate(batches)
