"""What honest accounts are like in every measure, and how far a principal is from all of them.

Each honest account of the calibration is an *exemplar*: the largest score it ever reached in each measure. A principal
is excused by the exemplar that explains most of him, and his suspicion is what even that one leaves unexplained:

    D = min over exemplars e of  sum over measures m of  min(max(0, z_m - e_m), most).

So an odd honest account excuses those who are odd in the same ways, and nobody else; many weak hints add up unless one
honest account shows them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array

MOST = 12.0
"""What one measure can add to D."""
FLOOR, FLOOR_BUDGET = 5.0, 0.01
"""No threshold is lower at this budget: so many standard deviations must be left unexplained, however alike honest
accounts are."""
PRIOR = 2.0
"""Every principal is taken to have asked so many ordinary queries before their first: with fewer, one query of nonsense
would be a verdict."""

_CLIP = 8.0
"""A query's score counts up to so many standard deviations of a single query, about the mean."""
_CHUNK = 1 << 20

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Of one measure each, float64 (j,): ``mean`` over honest accounts, standard deviation ``between`` accounts'
    averages, and ``within`` one account's queries."""

    mean: Floats
    between: Floats
    within: Floats

    def at(self, columns: Sequence[int] | slice) -> Spread:
        """Of the measures at ``columns``, in that order."""
        return Spread(self.mean[columns], self.between[columns], self.within[columns])

    def of_states(self, scores: Floats) -> Floats:
        """float64 (j, n): ``scores`` (j, n) that are no averages, (score - mean) / between; 0 where there is none."""
        return np.nan_to_num((scores - self.mean[:, None]) / self.between[:, None])

    def clip(self, values: Floats) -> Floats:
        """``values`` (j, n) of single queries, the extremes brought in."""
        reach = _CLIP * np.hypot(self.between, self.within)
        return np.minimum(np.maximum(values, (self.mean - reach)[:, None]), (self.mean + reach)[:, None])

    def standardised(self, total: Floats, weight: Floats) -> Floats:
        """float64 (j, n): (average - mean) / sqrt(between² + within² / queries), the largest over the memories, of the
        fading sums ``total`` (j, memories, n) and ``weight``, the queries they are of, ``PRIOR`` ordinary ones
        included."""
        mean, between, within = (column[:, None, None] for column in (self.mean, self.between, self.within))
        deviation = between**2 * weight
        deviation += within**2
        deviation *= weight
        np.sqrt(deviation, out=deviation)  # times the weight, of which the average is a share
        gap = mean * (PRIOR - weight)
        gap += total
        gap /= deviation
        return np.asarray(gap.max(axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class Standards:
    """``measures``: names of the j measures that ``spread`` and ``exemplars`` float64 (e, j), none negative, tell of.
    ``threshold``: a larger D is a verdict."""

    measures: tuple[str, ...]
    spread: Spread
    exemplars: Floats
    threshold: float

    def aligned(self, measures: Sequence[str]) -> Standards:
        """The same for ``measures`` in that order; one that the calibration did not know never counts."""
        own = [self.measures.index(name) if name in self.measures else -1 for name in measures]
        known, at = np.array(own) >= 0, np.array(own)
        columns = (
            np.where(known, column[at], 1.0) for column in (self.spread.mean, self.spread.between, self.spread.within)
        )
        exemplars = np.where(known, self.exemplars[:, at], np.inf)
        return Standards(tuple(measures), Spread(*columns), exemplars, self.threshold)

    def unexplained(self, scores: Floats) -> Floats:
        """float64 (n,): D of each row of standardised ``scores`` (n, j)."""
        return unexplained(scores, self.exemplars)[0]

    def contributions(self, scores: Floats) -> tuple[Floats, Floats]:
        """float64 (n, j) both: what each measure adds to D of each row of ``scores`` (n, j), and what the exemplar
        that explains most of it reached."""
        nearest = self.exemplars[unexplained(scores, self.exemplars)[1]]
        return np.clip(scores - nearest, 0.0, MOST), nearest

    def to_record(self) -> dict[str, Any]:
        return asdict(self) | {"measures": list(self.measures)}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Standards:
        spread = Spread(**record["spread"])
        return cls(tuple(record["measures"]), spread, record["exemplars"], float(record["threshold"]))


def unexplained(scores: Floats, exemplars: Floats) -> tuple[Floats, Array]:
    """D float64 (n,) of each row of ``scores`` (n, j), and which of the ``exemplars`` (e, j) explains it best, int64
    (n,)."""
    rows = max(_CHUNK // max(exemplars.size, 1), 1)
    parts = [_unexplained(scores[at : at + rows], exemplars) for at in range(0, max(len(scores), 1), rows)]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([left for left, _ in parts]), np.concatenate([best for _, best in parts])


def _unexplained(scores: Floats, exemplars: Floats) -> tuple[Floats, Array]:
    some = np.flatnonzero(scores.max(axis=0, initial=0.0) > exemplars.min(axis=0))
    left = np.repeat(scores.T[some, None, :], len(exemplars), axis=1)
    left -= exemplars.T[some, :, None]
    np.minimum(np.maximum(left, 0.0, out=left), MOST, out=left)
    total = left.sum(axis=0)
    best = total.argmin(axis=0)
    return total[best, np.arange(len(scores))], best


def outermost(exemplars: Floats) -> Floats:
    """The rows of ``exemplars`` (e, j), negative entries brought to 0, that no other row reaches in every measure."""
    rows = np.unique(np.maximum(exemplars, 0.0), axis=0)
    covered = (rows[:, None, :] <= rows[None]).all(axis=2) & ~np.eye(len(rows), dtype=bool)
    return rows[~covered.any(axis=1)]
