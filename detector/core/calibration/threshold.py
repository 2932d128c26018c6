"""Computes the threshold of D from the largest D of honest accounts, each judged without its own data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log

import numpy as np
from numpy.typing import NDArray

from detector.core.profile.standards import FLOOR, FLOOR_BUDGET

_TAIL = 0.2
_FEWEST = 4
_SURE = 0.75
_ODD = 1.25
_APART = 2.0
_LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class Tail:
    """The upper ``share`` of honest accounts exceed ``start`` by ``excess`` on average, at most, with 75 percent
    confidence."""

    start: float
    share: float
    excess: float

    @classmethod
    def of(cls, largest: NDArray[np.float64]) -> Tail:
        """Of the largest D of each of n honest accounts, taken as exponential above the highest fifth (four accounts
        at least).

        The sum of k exponential excesses is gamma distributed (2 sum / mean ~ chi squared with 2k degrees), which
        bounds their mean. Pickands (1975) for why tails above a high level are of this family.
        """
        ordered = np.sort(largest)[::-1]
        count = min(max(ceil(_TAIL * len(ordered)), _FEWEST), len(ordered))
        start = float(ordered[count]) if count < len(ordered) else 0.0
        excess = float((ordered[:count] - start).mean())
        return cls(start, count / len(ordered), excess * _bound(count))

    @classmethod
    def beside(cls, largest: NDArray[np.float64], odd: NDArray[np.float64]) -> Tail:
        """The same, where accounts count the less the more they are ``odd``, float64 (n,)."""
        part = float(odd.max(initial=0.0))
        if part == 0:
            return cls.of(largest)
        own, rest = cls.of(largest), cls.of(largest[odd == 0])
        start, share, excess = (
            (1 - part) * getattr(own, name) + part * getattr(rest, name) for name in ("start", "share", "excess")
        )
        return cls(start, share, excess)

    def threshold(self, budget: float) -> float:
        """The D that a share ``budget`` of honest accounts exceeds at most; never below 5 at a budget of 1 percent, and
        as far from that at another as the tail says."""
        lift = max(FLOOR - self._reached(FLOOR_BUDGET), 0.0)
        return self._reached(budget) + lift

    def _reached(self, share: float) -> float:
        return self.start + self.excess * max(log(self.share / share), 0.0)


def oddness(largest: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 (n,): 1 for accounts whose D is a quarter above what all others allow at a budget of 1 percent and twice
    as large as theirs, 0 where it is within what they allow, and between in between; more than 0 for one in five at
    most. They are kinds of their own, which excuse their like; the tail of the rest says nothing of them, nor they of
    it. As many as stand out together are taken: each would hide the others if these stayed with the rest."""
    order = np.argsort(-largest, kind="stable")
    odd = np.zeros(len(largest))
    best, most = 0, 0.0
    for count in range(max(len(largest) // 5, 1), 0, -1):
        least, rest = largest[order[count - 1]], largest[order[count:]]
        limit = Tail.of(rest).threshold(FLOOR_BUDGET)
        border = max(_ODD * limit, _APART * rest.max(), limit + _LEAST)
        own = min(max((least - limit) / (border - limit), 0.0), 1.0)
        if own > most:
            best, most = count, own
    odd[order[:best]] = most
    return odd


@lru_cache
def _bound(count: int) -> float:
    """The factor by which the true mean of n exponential values may exceed theirs, with 75 percent confidence."""
    from scipy.stats import chi2

    return 2 * count / float(chi2.ppf(1 - _SURE, 2 * count))
