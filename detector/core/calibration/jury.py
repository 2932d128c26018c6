"""How far each honest account is from what others explain."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.core.calibration.invented import Invented
from detector.core.standards import MOST, outermost

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Jury:
    """``scores`` of each account, float64 (queries, j), what it ``reached`` float64 (n, j), and the ``invented``
    users."""

    scores: Sequence[Floats]
    reached: Floats
    invented: Invented

    def exemplars(self, without: Collection[int] = ()) -> Floats:
        """float64 (e, j): all that excuses, but of the accounts ``without``."""
        others = np.delete(self.reached, list(without), axis=0)
        return np.concatenate((np.maximum(others, 0.0), self.invented.exemplars(others, list(without))))

    def outermost(self) -> Floats:
        return outermost(self.exemplars())

    def farthest(self, at: int, without: Collection[int] = ()) -> tuple[float, Floats]:
        """The largest D of account ``at`` beside all others but those ``without``, and what each measure adds to it,
        float64 (j,)."""
        return farthest(self.scores[at], self.exemplars({at, *without}))


def farthest(scores: Floats, exemplars: Floats) -> tuple[float, Floats]:
    """The largest D of ``scores`` (n, j) beside ``exemplars`` (e, j), and what adds to it, float64 (j,). One exemplar
    bounds D of every row from above, so that few rows are held against all of them."""
    bound = np.clip(scores, 0.0, MOST).sum(axis=1)
    known = np.zeros(len(scores), np.bool_)
    while not known[at := int(bound.argmax())]:
        left = np.clip(scores[at] - exemplars, 0.0, MOST).sum(axis=1)
        best = exemplars[left.argmin()]
        np.minimum(bound, np.clip(scores - best, 0.0, MOST).sum(axis=1), out=bound)
        known[at] = True
    left = np.clip(scores[at] - exemplars, 0.0, MOST)
    added = left[left.sum(axis=1).argmin()]
    return float(added.sum()), added
