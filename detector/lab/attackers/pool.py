"""Thieves who ask for rows of a public pool, each at most once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.substitute import SubstituteTraining

ROUND = 100


class PoolThief(SubstituteTraining):
    """Asks in rounds of at most ROUND rows that ``_chosen`` names; ends with the budget or the pool.

    ``_left`` bool (m,): the rows of the pool that have not been asked. LabError for a pool without rows.
    """

    def __init__(self, knowledge: Knowledge, *, budget: int, seed: int) -> None:
        super().__init__(knowledge, budget=budget, seed=seed)
        if not len(knowledge.pool):
            raise LabError("this attack asks what is in a public pool, and the thief has none")
        self._left = np.ones(len(knowledge.pool), dtype=bool)

    def _round(self) -> NDArray[np.float32]:
        count = min(ROUND, self._budget - len(self._features), int(self._left.sum()))
        rows = self._chosen(count) if count else np.empty(0, dtype=np.int64)
        self._left[rows] = False
        return self._knowledge.pool[rows]

    def _chosen(self, count: int) -> NDArray[np.int64]:
        """Different rows (count,) of the pool that are left, in the order in which to ask. Here at random."""
        return self._draws().choice(np.flatnonzero(self._left), count, replace=False)
