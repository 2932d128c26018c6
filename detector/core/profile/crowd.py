"""How far honest accounts go within their first queries: what a group of accounts is compared with.

One account of few queries proves nothing: its D stays below any threshold. But honest accounts hardly ever reach even a
small D so early, and many accounts that do are no chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.profile.standards import Spread

VOLUMES = np.array((1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256))
"""The numbers of queries at which an account is compared, within each 256 of its queries."""
_SURE = 0.9
_TAIL = 0.2
_FEWEST = 4
_LEAST_REACHED, _LEAST_EXCESS = 1.0, 0.5
"""Honest accounts are taken to reach at least this D, and to exceed it by this much on average: those that are judged
draw from other rows than the calibration accounts, and a slight shift is no theft."""

Floats = NDArray[np.float64]


EARLY = 4
"""Up to this volume an account is also compared with what honest accounts reach at that volume, as what they reach
later excuses too much of a single query."""


@dataclass(frozen=True, eq=False)
class Crowd:
    """``reached`` float64 (v, a): for each of ``VOLUMES`` the largest D of each honest account so far, descending; NaN,
    at the end, for accounts with fewer queries. ``early`` float64 (4, a, j + m): the deviations of each honest account,
    in measures and then in links, at the first volumes; 0 for accounts with fewer queries. ``early_reached`` float64
    (4, a): D of each compared with the others' ``early``, descending as above. ``links``: the spread of the link
    measures, and ``link_exemplars`` float64 (a, m) the deviations that honest accounts reached in them."""

    reached: Floats
    early: Floats
    early_reached: Floats
    links: Spread
    link_exemplars: Floats

    def rarity(self, volume: int, distance: float) -> float:
        """Returns an upper bound, 90 percent sure, of the share of honest accounts whose D reaches ``distance`` within
        ``volume`` queries; see ``_rarity``."""
        return _rarity(self.reached[int(np.searchsorted(VOLUMES, volume, "right")) - 1], distance)

    def early_rarity(self, volume: int, distance: float) -> float:
        """Returns the same for D compared with ``early``, for a volume of 4 at most."""
        return _rarity(self.early_reached[volume - 1], distance)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Crowd:
        return cls(**record | {"links": Spread(**record["links"])})


def _rarity(reached: Floats, distance: float) -> float:
    """Within the range of the calibration accounts, ``reached`` float64 (a,), the bound is that of Clopper and Pearson
    (1934); beyond their largest value it falls off exponentially, by the mean excess of their highest fifth."""
    count = int((~np.isnan(reached)).sum())
    if not count or distance < _LEAST_REACHED:
        return 1.0
    bound = _bound(int((reached[:count] >= distance).sum()), count)
    start = max(float(reached[0]), _LEAST_REACHED)
    if distance < start:
        return bound
    top = max(int(_TAIL * count), min(_FEWEST, count - 1), 1)
    excess = max(float(reached[:top].mean() - reached[min(top, count - 1)]), _LEAST_EXCESS)
    return float(bound * np.exp((start - distance) / excess))


@lru_cache(maxsize=4096)
def _bound(above: int, count: int) -> float:
    """The 90 percent upper bound of a share of which ``above`` of ``count`` were seen."""
    from scipy.stats import beta

    return 1.0 if above >= count else float(beta.ppf(_SURE, above + 1, count - above))
