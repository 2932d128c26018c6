"""Disguises for any attack, and their registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from detector.lab.data import Dataset
from detector.lab.wrappers.disguises import Disguise, Dummies, Lineage, Mixed, RandomAccounts, RoundRobin


@dataclass(frozen=True, slots=True)
class Means:
    """What there is to hide with: natural inputs of ``dataset``, ``pause`` seconds between queries, a ``seed``."""

    dataset: Dataset
    pause: float
    seed: int


PLAIN = "plain"

_ACCOUNTS = 10
_BLOCK = 160
_SLOWER = 300

WRAPPERS: dict[str, Callable[[Means], Disguise]] = {
    PLAIN: lambda means: Disguise(means.pause),
    "blocks": lambda means: RoundRobin(_ACCOUNTS, means.pause, _BLOCK),
    "dummies": lambda means: Dummies(means.dataset.thief.features, 1, means.pause, means.seed),
    "dummies-3-to-1": lambda means: Dummies(means.dataset.thief.features, 3, means.pause, means.seed),
    "lineage": lambda means: Lineage(_ACCOUNTS, means.pause),
    "mixed": lambda means: Mixed(means.dataset.honest, means.pause, means.seed),
    "random": lambda means: RandomAccounts(_ACCOUNTS, means.pause, means.seed),
    "round-robin": lambda means: RoundRobin(_ACCOUNTS, means.pause),
    "slow": lambda means: Disguise(means.pause * _SLOWER),
}
"""Three dummies a query are what PRADA's authors reckon with; 1,600 queries of JBDA over ten accounts are what hides it
from PRADA when they share them at random, and does not by lineage. ``slow`` is two queries a minute instead of ten a
second."""
