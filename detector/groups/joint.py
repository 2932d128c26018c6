"""The accounts that have learned most of a model together: k of n (Kesarwani, Mukhoty, Arya and Mehta, ACSAC 2018).

What an account has learned is where its queries came: which rows of the profile's reference were nearest to them. Of
these a sampled sixteenth counts, in whose cells every query is linked (``links.sampled_cells``). The exposure of a set
of accounts is the share of these rows that they reached together, a monotone submodular function, so that choosing one
account after another by what it adds reaches at least 1 - 1/e of the best set (Nemhauser, Wolsey and Fisher 1978), and
the additions of before bound those that follow (the lazy greedy of Minoux 1978).

No alarm: as many honest queries reach as much. ``ordinary`` says how much that is.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.groups.accounts import Accounts

_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class JointLimit:
    """Of the ``accounts`` that have learned most together, those limited first whose union exceeds ``share`` of the
    model; None: nobody is."""

    accounts: int = 5
    share: float | None = None


@dataclass(slots=True)
class JointExposure:
    """What the most-learned accounts of one model version reach together, as measured ``at`` a policy time: ``reached``
    and ``ordinary``, shares of the reference. ``limited``: the accounts above the limit, in the order of what each
    added, and when each was told last."""

    at: float = -np.inf
    reached: float = 0.0
    ordinary: float = 0.0
    limited: dict[str, float] = field(default_factory=dict)

    def is_due(self, now: float) -> bool:
        return now >= self.at + _SECONDS

    def measure(self, accounts: Accounts, rows: int, limit: JointLimit, now: float) -> list[str]:
        """Measures again at ``now``, where the reference has ``rows`` rows; returns the accounts above ``limit``, in
        the order of what each added."""
        names = sorted(accounts.slot_of)
        slots = np.array([accounts.slot_of[name] for name in names], np.int64)
        most = most_learned(accounts.reached[slots], limit.accounts)
        shares = np.cumsum([added for _, added in most]) / accounts.regions
        queries = int((accounts.last[slots[[at for at, _ in most]]] + 1).sum())
        self.at, self.reached = now, float(shares[-1]) if most else 0.0
        self.ordinary = ordinary(queries, rows)
        if limit.share is None or self.reached <= limit.share:
            return []
        return [names[at] for at, _ in most[: int(np.searchsorted(shares, limit.share, "right")) + 1]]

    def dump(self) -> list[Any]:
        return [self.at, self.reached, self.ordinary, self.limited]


def most_learned(reached: NDArray[np.uint8], most: int) -> list[tuple[int, int]]:
    """Returns at most ``most`` rows of the bitmaps ``reached`` uint8 (n, b), each the one that adds most bits to those
    before it, the first of several; and how many it adds, at least one."""
    first = np.bitwise_count(reached).sum(axis=1, dtype=np.int64)
    heap = [(-int(first[row]), int(row), 0) for row in np.flatnonzero(first)]
    heapq.heapify(heap)
    union, chosen = np.zeros(reached.shape[1], np.uint8), list[tuple[int, int]]()
    while heap and len(chosen) < most:
        added, row, as_of = heap[0]
        if as_of == len(chosen):
            heapq.heappop(heap)
            chosen.append((row, -added))
            union |= reached[row]
            continue
        fresh = int(np.bitwise_count(reached[row] & ~union).sum(dtype=np.int64))
        if fresh:
            heapq.heapreplace(heap, (-fresh, row, len(chosen)))
        else:
            heapq.heappop(heap)
    return chosen


def ordinary(queries: int, rows: int) -> float:
    """Returns the share of ``rows`` reference rows, each of which is as likely the nearest, that as many independent
    honest ``queries`` reach on average."""
    return 1.0 - (1.0 - 1.0 / rows) ** queries
