"""Path finding on scikit-learn trees of at most 30 leaves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks.lab._markdown import percent, table
from benchmarks.lab._workers import Workers
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.input_space import InputSpace
from detector.lab.datasets import DATASETS
from detector.lab.fidelity import UNIFORM_ROWS, agreement
from detector.lab.victims.tabular import TreeVictim

NAMES = ("digits", "categorical", "breast cancer", "iris")
WAYS = ("path finding bottom-up", "path finding top-down")
PLENTY = 100_000


class Found(NamedTuple):
    """``test`` and ``uniform``: agreement of the clone. ``one``, ``two``: shares of successive pairs of queries
    that differ in exactly one feature, and in at most two."""

    leaves: int
    queries: int
    test: float
    uniform: float
    one: float
    two: float


def found(name: str, way: str) -> Found:
    dataset = DATASETS[name]()
    tree, knowledge = TreeVictim(dataset), Knowledge.of(dataset)
    thief, batches = ATTACKS[way](knowledge, PLENTY, 0), []
    while len(batch := thief.next_batch()):
        batches.append(batch)
        thief.observe(batch, tree.answer(batch))
    asked, clone = np.concatenate(batches), thief.clone()
    uniform = InputSpace.of(knowledge).uniform(UNIFORM_ROWS, np.random.default_rng(5))
    changed = ((asked[1:] != asked[:-1]) & ~(np.isnan(asked[1:]) & np.isnan(asked[:-1]))).sum(axis=1)
    return Found(
        tree.leaves,
        len(asked),
        agreement(tree, clone, dataset.test.features),
        agreement(tree, clone, uniform),
        float((changed == 1).mean()),
        float((changed <= 2).mean()),
    )


def tables(workers: Workers) -> str:
    every = workers.each(found, [(name, way) for name in NAMES for way in WAYS])
    columns = ("data set", "leaves", "way", "queries", "1 - R_test", "1 - R_unif", "one feature", "at most two")
    calls = [(name, way) for name in NAMES for way in WAYS]
    rows = [
        (
            name if way == WAYS[0] else "",
            f"{each.leaves}" if way == WAYS[0] else "",
            way.removeprefix("path finding "),
            f"{each.queries:,}",
            percent(each.test),
            percent(each.uniform, 2),
            percent(each.one),
            percent(each.two),
        )
        for (name, way), each in zip(calls, every, strict=True)
    ]
    return table(columns, rows)
