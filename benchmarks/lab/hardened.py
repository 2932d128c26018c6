"""What the training-time defences of the literature do to theft: victims and attacks of each family on digits."""

from __future__ import annotations

from functools import cache

import numpy as np

from benchmarks.lab._markdown import percent, table
from benchmarks.lab._networks import BUDGETS, SEEDS, clone_of
from benchmarks.lab._workers import Workers
from benchmarks.lab.answers import WITHIN
from detector.lab.answers import Victim
from detector.lab.fidelity import agreement
from detector.lab.victims import HARDENED, VICTIMS
from detector.lab.victims.digits import load_split

PLAIN = "multilayer perceptron"
LESS_STOLEN = ("diverse ensemble", "label smoothing")
"""Those of which it is published that they teach a clone less (Kariyappa et al. 2021, Müller et al. 2019)."""


@cache
def _trained(name: str) -> Victim:
    return VICTIMS[name](load_split(), 0)


def accuracy(name: str) -> float:
    test = load_split().test
    return float((_trained(name).answer(test.features).labels == test.labels).mean())


def stolen(name: str, attack: str, seed: int) -> tuple[float]:
    """Agreement of the clone on unseen digits."""
    split, victim = load_split(), _trained(name)
    return (agreement(victim, clone_of(victim, split, attack, BUDGETS[attack], seed), split.test.features),)


def tables(workers: Workers) -> str:
    names = [PLAIN, *HARDENED]
    calls = [(name, attack) for name in names for attack in BUDGETS]
    agreed = np.reshape(workers.means(stolen, calls, SEEDS), (len(names), len(BUDGETS)))
    right = workers.each(accuracy, [(name,) for name in names])
    columns = (
        "victim",
        "accuracy",
        *(f"{attack}, {budget:,}" for attack, budget in BUDGETS.items()),
        "published",
        "holds",
    )
    rows = [
        (name, percent(right[at]), *map(percent, agreed[at]), *_verdict(name, agreed[at], agreed[0]))
        for at, name in enumerate(names)
    ]
    return table(columns, rows)


def _verdict(name: str, agreed: np.ndarray, plain: np.ndarray) -> tuple[str, str]:
    if name not in LESS_STOLEN:
        return "", ""
    return "less", f"{(agreed < plain - WITHIN).sum()} of {len(plain)}"
