"""How each account of a log stands among the others, none of which is known to be honest.

D alone does not tell: thieves of one kind excuse one another, and an honest account may be the only one of its kind.
So the line is nearer for evidence in two families of measures, as thieves show it and odd honest users seldom, and D is
also taken without the few accounts that excuse most of it. There the line is farther, for honest accounts of a rare
habit excuse one another too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from detector.core.calibration.calibrate import Calibration
from detector.core.calibration.jury import NOBODY, Farthest
from detector.core.calibration.suspects import FAMILIES, NOTABLE, limits
from detector.core.calibration.threshold import oddness
from detector.core.standards import FLOOR

_ALONE = (1.5, 1.0, NOTABLE)
"""The line over what others allow with evidence in one family, with evidence in two, and how much of the second that
takes."""
_TOGETHER = (4.0, 2.2, 2 * NOTABLE)
"""The same for a few that excuse one another; what is not structure counts half as a second family, as structure alone
is how tools of honest users look."""
_FEW = 6.0
"""It is farther by this over the number of accounts: of few, most are the only ones of their kind."""
_MOST_ALLOWED = 2.5 * FLOOR
"""The tail of few accounts that are all unlike says nothing any more: no more is allowed."""
_EACH, _MOST_TOGETHER = 15, 4
"""Of so many accounts one may be of a group, and how many it may be."""
_NEAR = 0.5
"""A group counts from this share of the line on."""
_MOST_GONE = 1 / 6
"""No larger share of the accounts is taken out."""


@dataclass(frozen=True, slots=True)
class Rank:
    """``score``: D over the ``line``; ``with_others``: numbers of the accounts without which it is so high, if any."""

    score: float
    line: float
    with_others: tuple[int, ...] = ()


def line(found: Farthest, limit: float, measures: Sequence[str], accounts: int, *, together: bool = False) -> float:
    """The D above which an account stands out among so many ``accounts``, where the others allow ``limit``."""
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
    """Of the accounts of ``calibration`` at ``budget``, where those ``gone`` excuse nobody."""

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
        """Of each account, as it stands by itself."""
        return [self._rank(own, at) for at, own in enumerate(self.farthest)]

    def every(self) -> list[Rank]:
        """Of each account, by itself or with the few that excuse it, whichever makes it stand out more."""
        return [
            max((own, *self._together(at)), key=lambda rank: rank.score) if at not in self._gone else own
            for at, own in enumerate(self.alone())
        ]

    def _together(self, at: int) -> Iterator[Rank]:
        """Of account ``at`` with those that excuse it, one after another; a group stands as its least member does."""
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
    """The accounts, by number, that stand out once those that do excuse nobody; a quarter of all at most, farthest
    first."""
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
    """Those above the line that are not ``gone``, farthest first."""
    above = [(at, own) for at, own in enumerate(ranks) if own.score > 1 and at not in gone]
    return sorted(above, key=lambda found: -found[1].score)
