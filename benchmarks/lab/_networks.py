"""Attacks on a network that reads digits, one of each family that can run on it."""

from __future__ import annotations

import numpy as np

from detector.lab.answers import Classifier, Victim
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge, run_offline
from detector.lab.data import Dataset
from detector.lab.networks import Network, cross_entropy
from tests.lab.textures import textures

SEEDS = (2, 3, 4)
"""Not 0 and 1, on which the settings of data-free extraction were chosen."""
POOL_ROWS = 3_000
UNIFORM = "uniform inputs"

BUDGETS = {
    UNIFORM: 4_000,
    "equation solving mlp": 1_510,
    "rbf-svm retraining": 1_000,
    "jbda": 800,
    "knockoff random": 1_000,
    "copycat": 1_000,
    "cloudleak featurefool": 600,
}
"""Queries; of equation solving as many as its clone has parameters."""


def clone_of(victim: Victim, split: Dataset, attack: str, budget: int, seed: int) -> Classifier:
    """After ``budget`` queries; thieves with a pool hold 3,000 drawn textures."""
    if attack == UNIFORM:
        return _of_uniform_inputs(victim, split, budget, seed)
    thief = ATTACKS[attack](Knowledge.of(split, textures(POOL_ROWS, 8, seed=0)), budget, seed)
    run_offline(thief, victim)
    return thief.clone()


def _of_uniform_inputs(victim: Victim, split: Dataset, budget: int, seed: int) -> Network:
    asked = np.random.default_rng([seed, 6]).random((budget, split.dimension), dtype=np.float32)
    clone = Network(split.dimension, split.classes, np.random.default_rng(seed))
    clone.fit(asked.astype(np.float64), cross_entropy(victim.answer(asked).probabilities), epochs=20)
    return clone
