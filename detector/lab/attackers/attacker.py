"""The knowledge and the interface of every thief."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Answers, Classifier, Victim
from detector.lab.data import Dataset

_POOL_ROWS = 5_000


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The prior knowledge of a thief. ``low``, ``high`` float32 (d,) and ``categories`` int64 (d,): see ``Dataset``.

    ``own`` float32 (n, d): natural inputs of the victim's kind that the thief holds, without labels. ``pool`` float32
    (m, d): public inputs of another kind, scaled to the same ranges. ``side``: images are side x side, None for tables.
    """

    classes: int
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    categories: NDArray[np.int64]
    own: NDArray[np.float32]
    pool: NDArray[np.float32]
    side: int | None = None

    @classmethod
    def of(cls, dataset: Dataset, pool: NDArray[np.float32] | None = None) -> Knowledge:
        """Returns the knowledge of a thief about a victim trained on ``dataset``; ``pool`` (m, d), by default uniform
        over its range."""
        if pool is None:
            spread = np.random.default_rng(0).random((_POOL_ROWS, dataset.dimension), dtype=np.float32)
            pool = dataset.low + spread * (dataset.high - dataset.low)
        own = dataset.thief.features
        return cls(dataset.classes, dataset.low, dataset.high, dataset.categories, own, pool, dataset.side)

    @property
    def dimension(self) -> int:
        return len(self.low)


class Attacker(Protocol):
    """Adaptive extraction in rounds: ``next_batch``, ``observe``, and again until ``next_batch`` is empty.

    A round may be answered only in part (the service refused the rest): ``observe`` is given what was
    answered, and ``clone`` makes the best of everything observed so far. The same seed gives the same queries for the
    same answers.
    """

    def next_batch(self) -> NDArray[np.float32]:
        """Returns the inputs (n, d) to query next, in order; no rows when the budget is spent. NaN leaves a feature
        out."""
        ...

    def observe(self, features: NDArray[np.float32], answers: Answers) -> None:
        """Learns that the victim answered ``features`` (m, d) with ``answers``.

        May be called several times per round, each time with its next rows.
        """
        ...

    def clone(self) -> Classifier:
        """Returns a classifier trained on every answer observed. At least one must have been."""
        ...


def run_offline(attacker: Attacker, victim: Victim) -> int:
    """Lets ``attacker`` spend its whole budget on ``victim`` unhindered. Returns the number of queries."""
    queries = 0
    while len(batch := attacker.next_batch()):
        attacker.observe(batch, victim.answer(batch))
        queries += len(batch)
    return queries
