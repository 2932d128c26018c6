"""How large D may become before it is a verdict, from the largest D of honest accounts that the standards do not
know."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log

import numpy as np
from numpy.typing import NDArray

from detector.core.standards import FLOOR, FLOOR_BUDGET

_TAIL = 0.2
_FEWEST = 4
_SURE = 0.75
_LARGEST = 3.0
_ODD = 1.25
_APART = 2.0


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

        The largest excess counts as three times the mean of the others at most, so that no account alone decides. The sum
        of k exponential excesses is gamma distributed (2 sum / mean ~ chi squared with 2k degrees), which bounds their
        mean. Pickands (1975) for why tails above a high level are of this family.
        """
        from scipy.stats import chi2

        ordered = np.sort(largest)[::-1]
        count = min(max(ceil(_TAIL * len(ordered)), _FEWEST), len(ordered))
        start = float(ordered[count]) if count < len(ordered) else 0.0
        above = ordered[:count] - start
        above[0] = min(above[0], _LARGEST * above[1:].mean()) if count > 1 else above[0]
        excess = float(above.mean())
        return cls(start, count / len(ordered), excess * 2 * count / float(chi2.ppf(1 - _SURE, 2 * count)))

    def threshold(self, budget: float) -> float:
        """The D that a share ``budget`` of honest accounts exceeds at most; never below 5 at a budget of 1 percent, and
        as far from that at another as the tail says."""
        lift = max(FLOOR - self._reached(FLOOR_BUDGET), 0.0)
        return self._reached(budget) + lift

    def _reached(self, share: float) -> float:
        return self.start + self.excess * max(log(self.share / share), 0.0)


def odd_ones(largest: NDArray[np.float64], budget: float) -> NDArray[np.bool_]:
    """bool (n,): accounts whose D is a quarter above what all others allow and twice as large as theirs, one in five at
    most. They are kinds of their own, which excuse their like; the tail of the rest says nothing of them, nor they of
    it. As many as stand out together are taken: each would hide the others if these stayed with the rest."""
    order = np.argsort(-largest)
    odd = np.zeros(len(largest), np.bool_)
    for count in range(max(len(largest) // 5, 1), 0, -1):
        least, rest = largest[order[count - 1]], largest[order[count:]]
        if least > max(_ODD * Tail.of(rest).threshold(budget), _APART * rest.max()):
            odd[order[:count]] = True
            break
    return odd
