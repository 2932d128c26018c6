"""What every thief can do."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detector.lab.fidelity import Classifier


class Attacker(Protocol):
    """Adaptive extraction in rounds: ``next_batch``, ``observe``, and again until ``next_batch`` is empty.

    A round may be answered only in part (the service refused the rest): ``observe`` is given what was
    answered, and ``clone`` makes the best of everything observed so far.
    """

    def next_batch(self) -> NDArray[np.float32]:
        """The inputs (n, d) to ask next, in order; no rows when the budget is spent."""
        ...

    def observe(self, features: NDArray[np.float32], probabilities: NDArray[np.float64]) -> None:
        """Learn that the victim answered ``features`` (m, d) with ``probabilities`` (m, k)."""
        ...

    def clone(self) -> Classifier:
        """A classifier trained on every answer observed. At least one must have been."""
        ...


def run_offline(attacker: Attacker, victim: Classifier) -> int:
    """Lets ``attacker`` spend his whole budget on ``victim`` unhindered; the number of queries he made."""
    queries = 0
    while len(batch := attacker.next_batch()):
        attacker.observe(batch, victim.probabilities(batch))
        queries += len(batch)
    return queries
