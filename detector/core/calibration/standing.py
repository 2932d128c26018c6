"""Ranks each account of an unlabelled log against the others.

D alone is not enough: thieves of one kind excuse one another, and an honest account may be the only one of its kind.
So the line is lower for evidence in two families of measures, which is typical of thieves and rare for unusual honest
users. D is also computed without the few accounts that excuse most of it; there the line is higher, because honest
accounts with a rare habit excuse one another too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from detector.core.calibration.calibrate import Calibration
from detector.core.calibration.jury import NOBODY, Farthest
from detector.core.calibration.suspects import FAMILIES, NOTABLE, limits
from detector.core.calibration.threshold import oddness
from detector.core.profile.standards import FLOOR

_ALONE = (1.5, 1.0, NOTABLE)
"""Factors of the line with evidence in one family and in two, and the contribution of the second family that counts in
full."""
_TOGETHER = (4.0, 2.2, 2 * NOTABLE)
"""The same for a group that excuse one another. Evidence other than structure counts half as a second family, because
tools of honest users show structure alone."""
_FEW = 6.0
"""This over the number of accounts is added to the factor: in small logs, most accounts are the only ones of their
kind."""
_MOST_ALLOWED = 2.5 * FLOOR
"""Maximum of the limit: the tail of a few different accounts is not reliable beyond it."""
_EACH, _MOST_TOGETHER = 15, 4
"""A group may have one account for each 15 accounts of the log, and at most 4."""
_NEAR = 0.5
"""A group counts if its score is at least this."""
_MOST_GONE = 1 / 6
"""Maximum share of accounts that are taken out."""


@dataclass(frozen=True, slots=True)
class Rank:
    """``score``: D divided by the ``line``. ``with_others``: numbers of the accounts excluded as excuses, if any."""

    score: float
    line: float
    with_others: tuple[int, ...] = ()


def line(found: Farthest, limit: float, measures: Sequence[str], accounts: int, *, together: bool = False) -> float:
    """Returns the D above which one of ``accounts`` accounts stands out, if the others allow ``limit``."""
    total: dict[str, float] = dict.fromkeys(FAMILIES.values(), 0.0)
    for name, value in zip(measures, found.added.tolist(), strict=True):
        total[FAMILIES[name]] += value
    second = sorted(total.values())[-2]
    if together:
        second = max(second, (sum(total.values()) - total["structure"]) / 2)
    one, two, enough = _TOGETHER if together else _ALONE
    factor = one + (two - one) * min(second / enough, 1.0) + _FEW / accounts
    return min(limit, _MOST_ALLOWED) * factor


class Standings:
    """Ranks the accounts of ``calibration`` at ``budget``, where those ``gone`` excuse no account."""

    def __init__(self, calibration: Calibration, budget: float, gone: Collection[int] = ()) -> None:
        self._jury = calibration.jury
        self._measures = calibration.profile.standards.measures
        self._gone = frozenset(gone)
        self.farthest = self._jury.again(self._gone, calibration.farthest) if gone else calibration.farthest
        largest = np.array([own.largest for own in self.farthest])
        counts = calibration.long.copy()
        counts[list(gone)] = False
        odd = np.zeros(len(largest))
        odd[counts] = oddness(largest[counts])
        self.limits = limits(largest, odd, counts, budget)
        self._count = int(counts.sum())
        self._most = min(self._count // _EACH, _MOST_TOGETHER)

    def alone(self) -> list[Rank]:
        """Returns the rank of each account by itself."""
        return [self._rank(own, at) for at, own in enumerate(self.farthest)]

    def every(self) -> list[Rank]:
        """Returns the higher rank of each account: by itself, or with the few that excuse it."""
        return [
            max((own, *self._together(at)), key=lambda rank: rank.score) if at not in self._gone else own
            for at, own in enumerate(self.alone())
        ]

    def _together(self, at: int) -> Iterator[Rank]:
        """Returns the rank of account ``at`` in a group with those that excuse it; a group ranks as its lowest
        member."""
        members, found = [at], self.farthest[at]
        while len(members) < self._most and found.excused_by != NOBODY:
            members.append(found.excused_by)
            found = self._without(at, members)
            own = self._of_group(at, found)
            if own.score >= _NEAR:
                others = [self._of_group(other, self._without(other, members)) for other in members[1:]]
                least = min(own.score, *(other.score for other in others))
                yield Rank(least, found.largest / least if least else own.line, tuple(sorted(members[1:])))

    def _without(self, at: int, members: Sequence[int]) -> Farthest:
        return self._jury.farthest(at, self._gone.union(members) - {at})

    def _of_group(self, at: int, found: Farthest) -> Rank:
        return self._rank(found, at, together=True)

    def _rank(self, found: Farthest, at: int, *, together: bool = False) -> Rank:
        own = line(found, float(self.limits[at]), self._measures, self._count, together=together)
        return Rank(found.largest / own, own)


def standing_out(calibration: Calibration, budget: float) -> set[int]:
    """Returns the numbers of the accounts that stand out, at most a sixth of all; these excuse no other account."""
    most = max(int(len(calibration.accounts) * _MOST_GONE), 1)
    gone: list[int] = []
    while len(gone) < most:
        standings = Standings(calibration, budget, gone)
        found = _above(standings.alone(), gone) or _above(standings.every(), gone)[:1]
        if not found:
            break
        for at, own in found:
            gone += [one for one in (at, *own.with_others) if one not in gone]
    return set(gone[:most])


def _above(ranks: Sequence[Rank], gone: Collection[int]) -> list[tuple[int, Rank]]:
    """Returns the accounts above the line that are not ``gone``, largest first."""
    above = [(at, own) for at, own in enumerate(ranks) if own.score > 1 and at not in gone]
    return sorted(above, key=lambda found: -found[1].score)
