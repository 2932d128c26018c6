"""Disguises that weave cover between an attack's queries: dilution, washing, slow drift.

The thief's own natural rows are sent as they are; only what is not one of them is hidden. The thief learns from the
answers to the cover too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, cycle, islice
from math import sqrt

import numpy as np

from detector.lab.attackers.assembled import crossover
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.input_space import InputSpace
from detector.lab.data import Dataset
from detector.lab.honest.habit import Rows
from detector.lab.wrappers.disguises import Disguise, SentQueries

_MADE_AT_ONCE = 256

Amount = Callable[[int], int]
"""The number, from 0, of a query that must be hidden -> how many cover queries come before it."""


class Woven(Disguise):
    """Sends ``before`` rows (1, d) of ``cover``, which must be endless, before each query that is not in ``thief_rows``
    (n, d)."""

    learns_from_cover = True

    def __init__(self, thief_rows: Rows, cover: Iterator[Rows], before: Amount, pause: float) -> None:
        super().__init__(pause)
        self._natural_rows = {row.tobytes() for row in thief_rows}
        self._cover = cover
        self._before = before
        self._hidden = 0

    def wrap(self, batch: Rows) -> SentQueries:
        parts, source = [], []
        for number, row in enumerate(batch):
            if row.tobytes() not in self._natural_rows:
                cover = list(islice(self._cover, self._before(self._hidden)))
                self._hidden += 1
                parts += cover
                source += [-1] * len(cover)
            parts.append(row[None])
            source.append(number)
        account = np.zeros(len(source), np.int64)
        return SentQueries(np.concatenate(parts), np.array(source, np.int64), account, self._times(len(source)))


def diluted(dataset: Dataset, others: int, pause: float, seed: int) -> Woven:
    """Hides each query among ``others`` crossovers of the thief's own rows."""
    return Woven(dataset.thief.features, _crossovers(dataset, seed), lambda _: others, pause)


def washed(dataset: Dataset, block: int, rows: int, turns: int, pause: float, seed: int) -> Woven:
    """After each ``block`` of queries, sends the same ``rows`` of the thief's in turn, ``turns`` times."""
    thief_rows = dataset.thief.features
    kept = thief_rows[np.random.default_rng([seed, 14]).permutation(len(thief_rows))[:rows]]
    amount = len(kept) * turns
    return Woven(thief_rows, cycle(kept[:, None]), lambda number: 0 if number % block or not number else amount, pause)


def drifting(dataset: Dataset, over: int, pause: float, seed: int) -> Woven:
    """From the thief's own rows, and crossovers when these are used up, to nothing but the attack: its share grows
    evenly over ``over`` queries."""
    thief_rows = dataset.thief.features
    natural = thief_rows[np.random.default_rng([seed, 14]).permutation(len(thief_rows))]

    def place(number: int) -> float:
        return sqrt(2 * over * number) if 2 * number < over else float(over + number - over // 2)

    def before(number: int) -> int:
        return int(place(number + 1)) - int(place(number)) - 1

    return Woven(thief_rows, chain(natural[:, None], _crossovers(dataset, seed)), before, pause)


def _crossovers(dataset: Dataset, seed: int) -> Iterator[Rows]:
    """Yields endless crossovers (1, d) of two of the thief's rows."""
    space, rng = InputSpace.of(Knowledge.of(dataset)), np.random.default_rng([seed, 15])
    while True:
        yield from crossover(dataset.thief.features, space, _MADE_AT_ONCE, rng)[:, None]
