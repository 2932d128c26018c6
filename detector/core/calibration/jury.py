"""How far each honest account is from what others explain."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.calibration.invented import Invented
from detector.core.standards import MOST, outermost

NOBODY = -1
"""Whose exemplar an invented user is."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Farthest:
    """The largest D of an account; ``added`` float64 (j,), what each measure adds to it; and the accounts that it
    rests on: without any others it would be the same."""

    largest: float
    added: Floats
    rests_on: frozenset[int]


@dataclass(frozen=True, slots=True)
class Jury:
    """``scores`` of each account, float64 (queries, j), what it ``reached`` float64 (n, j), and the ``invented``
    users."""

    scores: Sequence[Floats]
    reached: Floats
    invented: Invented

    def outermost(self) -> Floats:
        """float64 (e, j): all exemplars that no other covers."""
        return outermost(self._exemplars(())[1])

    def farthest(self, at: int, without: Collection[int] = ()) -> Farthest:
        """Account ``at`` beside all others but those ``without``."""
        whose, exemplars = self._exemplars({at, *without})
        largest, added, used = farthest(self.scores[at], exemplars)
        return Farthest(largest, added, frozenset(whose[used].tolist()))

    def without(self, some: Collection[int], before: Sequence[Farthest]) -> Floats:
        """float64 (n,): the largest D of each account if those ``some`` did not excuse others, from what it was
        ``before``."""
        largest = np.array([own.largest for own in before])
        for at, own in enumerate(before):
            if not own.rests_on.isdisjoint((NOBODY, *some)):
                largest[at] = self.farthest(at, some).largest
        return largest

    def _exemplars(self, without: Collection[int]) -> tuple[Array, Floats]:
        """Whose they are, int64 (e,), and the exemplars float64 (e, j) of all accounts but those ``without``."""
        whose = np.delete(np.arange(len(self.reached)), list(without))
        invented = self.invented.exemplars(self.reached, without)
        every = np.concatenate((np.maximum(self.reached[whose], 0.0), invented))
        return np.append(whose, np.full(len(invented), NOBODY)), every


def farthest(scores: Floats, exemplars: Floats) -> tuple[float, Floats, Array]:
    """The largest D of ``scores`` (n, j) beside ``exemplars`` (e, j), what adds to it, float64 (j,), and which of these
    it rests on. Each bounds D of every row from above, so that few rows are held against all of them."""
    bound = np.clip(scores, 0.0, MOST).sum(axis=1)
    used: dict[int, int] = {}
    while (at := int(bound.argmax())) not in used:
        best = used[at] = int(np.clip(scores[at] - exemplars, 0.0, MOST).sum(axis=1).argmin())
        np.minimum(bound, np.clip(scores - exemplars[best], 0.0, MOST).sum(axis=1), out=bound)
    added = np.clip(scores[at] - exemplars[used[at]], 0.0, MOST)
    return float(bound[at]), added, np.unique(list(used.values()))
