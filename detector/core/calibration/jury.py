"""The unexplained deviation of each honest account, compared with the others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.core.calibration.invented import Invented
from detector.core.profile.standards import MOST, outermost, unexplained
from detector.core.state.arrays import Array

NOBODY = -1
"""The account number of a simulated user's exemplar."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Farthest:
    """The largest D of an account, after its query number ``row``, from 0; ``added`` float64 (j,), what each measure
    adds to it; the accounts that it rests on: without any others it would be the same; and who excuses most of it: the
    account ``excused_by``, who ``reached`` float64 (j,)."""

    largest: float
    added: Floats
    rests_on: frozenset[int]
    row: int
    excused_by: int
    reached: Floats


@dataclass(frozen=True, slots=True)
class Jury:
    """``scores`` of each account, float64 (queries, j), what it ``reached`` float64 (n, j), and the ``invented``
    users."""

    scores: Sequence[Floats]
    reached: Floats
    invented: Invented

    def outermost(self) -> Floats:
        """float64 (e, j): all exemplars on the Pareto front."""
        return outermost(self._exemplars(())[1])

    def farthest(self, at: int, without: Collection[int] = ()) -> Farthest:
        """Returns the result of account ``at`` against all others except those ``without``."""
        return self.judged(self.scores[at], {at, *without})

    def judged(self, scores: Floats, without: Collection[int] = ()) -> Farthest:
        """Returns the result of an account with ``scores`` float64 (queries, j) against all accounts except
        ``without``."""
        whose, exemplars = self._exemplars(without)
        largest, used = farthest(scores, exemplars)
        row, last = next(reversed(used.items()))
        added = np.clip(scores[row] - exemplars[last], 0.0, MOST)
        rests_on = frozenset(whose[list(used.values())].tolist())
        return Farthest(largest, added, rests_on, row, int(whose[last]), exemplars[last])

    def course(self, scores: Floats, without: Collection[int] = ()) -> Floats:
        """Returns float64 (queries,): D as of each query of an account with ``scores``, against all except
        ``without``."""
        return unexplained(scores, self._exemplars(without)[1])[0]

    def again(self, some: Collection[int], before: Sequence[Farthest]) -> list[Farthest]:
        """Returns the results if the accounts ``some`` do not excuse others, updated from those ``before``."""
        touched = (NOBODY, *some)
        return [own if own.rests_on.isdisjoint(touched) else self.farthest(at, some) for at, own in enumerate(before)]

    def without(self, some: Collection[int], before: Sequence[Farthest]) -> Floats:
        """Returns float64 (n,): the largest D in the results of ``again``."""
        return np.array([own.largest for own in self.again(some, before)])

    def _exemplars(self, without: Collection[int]) -> tuple[Array, Floats]:
        """Returns the accounts, int64 (e,), and exemplars, float64 (e, j), of all accounts except ``without``."""
        whose = np.delete(np.arange(len(self.reached)), list(without))
        invented = self.invented.exemplars(self.reached[whose], without)
        every = np.concatenate((np.maximum(self.reached[whose], 0.0), invented))
        return np.append(whose, np.full(len(invented), NOBODY)), every


def farthest(scores: Floats, exemplars: Floats) -> tuple[float, dict[int, int]]:
    """The largest D of ``scores`` (n, j) beside ``exemplars`` (e, j), and which of these it rests on, by row; that of
    the largest D is the last. Each exemplar bounds D of every row from above, so that few rows are held against all."""
    bound = np.clip(scores, 0.0, MOST).sum(axis=1)
    used: dict[int, int] = {}
    while (at := int(bound.argmax())) not in used:
        best = used[at] = int(np.clip(scores[at] - exemplars, 0.0, MOST).sum(axis=1).argmin())
        np.minimum(bound, np.clip(scores - exemplars[best], 0.0, MOST).sum(axis=1), out=bound)
    used[at] = used.pop(at)
    return float(bound[at]), used
