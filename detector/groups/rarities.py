"""How rare the accounts of all clusters are together: what the population itself says about chance.

The profile says how rare an account is among honest ones, from some dozens of calibration accounts. Over tens of
thousands of accounts its small errors add up: recent queries lie closer together than in the calibration, and habits
come up that it never saw. Such errors make accounts rare in many clusters, and a theft makes them rare in one. So where
many accounts of *other* clusters are as rare, those of a cluster count as less rare.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from detector.core.reference.standards import Floats
from detector.core.state.arrays import Array

FEWEST = 3
"""The fewest accounts of a group."""
_BINS, _PER_OCTAVE = 256, 4
_LEAST = 2.0 ** -((_BINS - 1) / _PER_OCTAVE)
_MANY = 10_000
"""The number of present accounts at which other clusters have an eighth of their full weight. Among few accounts they
have little: a ring may be most of a small population, and lie in several clusters."""
_RARE = 0.01
_WEIGHT = 4.0
"""A cluster is compared with this many times the others: it may be the largest of them by chance."""


class Rarities:
    """``counts`` int64 (256,): the accounts in clusters by rarity, in quarters of an octave, the rarest last."""

    def __init__(self, rarities: Iterable[float] = ()) -> None:
        self.counts = np.bincount(_bins(np.array(list(rarities), np.float64)), minlength=_BINS)

    def add(self, rarity: float) -> None:
        self.counts[_bins(np.array([rarity]))] += 1

    def remove(self, rarity: float) -> None:
        self.counts[_bins(np.array([rarity]))] -= 1

    def among_all(self, rarity: Floats, present: int) -> Floats:
        """Returns float64 (n,), ascending: the ``rarity`` float64 (n,) of all accounts of one cluster, of ``present``
        accounts; larger where accounts of other clusters are as rare."""
        ordered = np.sort(rarity)
        at = _bins(ordered)
        others = self.counts - np.bincount(at, minlength=_BINS)
        as_rare = np.cumsum(others[::-1])[::-1][at]
        share = _WEIGHT * (present / (present + _MANY)) ** 3
        return np.asarray(np.minimum(np.maximum(ordered, share * as_rare / max(present, 1)), 1.0))

    def honest(self, present: int) -> float:
        """Returns an upper estimate of how many of ``present`` accounts are honest: as many as are not as rare as one
        in a hundred, and that share more (Storey 2002, with one more as in Storey, Taylor and Siegmund 2004). A larger
        share would not do: where the profile is slightly out of date, many honest accounts are somewhat rare."""
        rare = int(self.counts[_bins(np.array([_RARE]))[0] :].sum())
        return float(min((present - rare + 1) / (1 - _RARE), present))


def chance_of(rarity: Floats, present: int) -> float:
    """Returns the smallest probability that as many of ``present`` accounts are as rare as those of a cluster, whose
    ``rarity`` is float64 (n,), ascending."""
    from scipy.special import bdtrc

    if len(rarity) < FEWEST:
        return 1.0
    return float(bdtrc(np.arange(FEWEST - 1, len(rarity)), present, rarity[FEWEST - 1 :]).min())


def _bins(rarity: Floats) -> Array:
    """Returns int64 (n,): the bin of each ``rarity`` float64 (n,), at most 1."""
    return np.asarray(-_PER_OCTAVE * np.log2(np.maximum(rarity, _LEAST)), np.int64)
