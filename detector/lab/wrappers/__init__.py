"""Disguises for any attack, and their registry."""

from __future__ import annotations

from collections.abc import Callable

from detector.lab.data import Dataset
from detector.lab.wrappers.disguises import Disguise, Dummies, Lineage, Mixed, RandomAccounts, RoundRobin
from detector.lab.wrappers.weaving import diluted, drifting, washed

NewDisguise = Callable[[Dataset, float, int], Disguise]
"""(the data set with natural inputs to hide among, seconds between queries, seed) -> a disguise."""

PLAIN = "plain"

_ACCOUNTS = 10
_BLOCK = 160
_SLOWER = 300
_FRESH_ACCOUNTS, _QUERIES_OF_FRESH = 1_000_000, 3
_OTHERS = 7
_WASHED_BLOCK, _WASHING_ROWS, _TURNS = 4, 40, 3
_DRIFT = 2_000

WRAPPERS: dict[str, NewDisguise] = {
    PLAIN: lambda _, pause, __: Disguise(pause),
    "blocks": lambda _, pause, __: RoundRobin(_ACCOUNTS, pause, _BLOCK),
    "diluted": lambda dataset, pause, seed: diluted(dataset, _OTHERS, pause, seed),
    "dummies": lambda dataset, pause, seed: Dummies(dataset.thief.features, 1, pause, seed),
    "dummies-3-to-1": lambda dataset, pause, seed: Dummies(dataset.thief.features, 3, pause, seed),
    "fresh accounts": lambda _, pause, __: RoundRobin(_FRESH_ACCOUNTS, pause, _QUERIES_OF_FRESH),
    "lineage": lambda _, pause, __: Lineage(_ACCOUNTS, pause),
    "mixed": lambda dataset, pause, seed: Mixed(dataset.honest, pause, seed),
    "random": lambda _, pause, seed: RandomAccounts(_ACCOUNTS, pause, seed),
    "round-robin": lambda _, pause, __: RoundRobin(_ACCOUNTS, pause),
    "slow": lambda _, pause, __: Disguise(pause * _SLOWER),
    "slow drift": lambda dataset, pause, seed: drifting(dataset, _DRIFT, pause, seed),
    "washed": lambda dataset, pause, seed: washed(dataset, _WASHED_BLOCK, _WASHING_ROWS, _TURNS, pause, seed),
}
"""PRADA's authors assume three dummies per query. 1,600 queries of JBDA over ten accounts escape PRADA when
accounts are drawn at random, and do not by lineage. ``slow`` is two queries a minute instead of ten a second."""
