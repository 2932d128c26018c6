"""Finds the accounts of a log that stand out from all others, and makes a profile without them.

D alone is not enough: thieves of one kind excuse one another, and an honest account may be the only one of its kind.
So the line is lower for evidence in two families of measures, which is typical of thieves and rare for unusual honest
users. D is also computed without the few accounts that excuse most of it; there the line is higher, because honest
accounts with a rare habit excuse one another too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import NOTHING, Calibration, FlaggedRate, Tail, calibrate, oddness
from detector.core.calibration.crossfit import OwnerInputs, record
from detector.core.calibration.exemplars import NOBODY, LargestD
from detector.core.measures import MEASURES, Family
from detector.core.profile.standards import MIN_THRESHOLD
from detector.core.signals.suspicion import CHANGE

Floats = NDArray[np.float64]

NOTABLE = 2.0
"""A family of measures counts if its contribution to an account's D is at least this."""

FAMILIES: dict[str, Family] = {name: own.family for name, own in MEASURES.items()} | {
    "prada": "structure",
    "margin": "outputs",
    CHANGE: "content",
}
"""The family of each column of standards."""


@dataclass(frozen=True, slots=True)
class Outlier:
    """Account ``name``, number ``at`` of the calibration, whose D against all others is ``largest``, more than they
    allow: ``allowed``. ``added``: the measures that add to it, what each adds, most first. ``excused``: names of the
    accounts that would be flagged too if this one were left out."""

    at: int
    name: str
    largest: float
    allowed: float
    added: tuple[tuple[str, float], ...]
    excused: tuple[str, ...] = ()

    @property
    def families(self) -> tuple[Family, ...]:
        """The families of measures with a notable contribution."""
        total: dict[Family, float] = {}
        for name, value in self.added:
            total[FAMILIES[name]] = total.get(FAMILIES[name], 0.0) + value
        return tuple(family for family, value in total.items() if value >= NOTABLE)

    @property
    def suspect(self) -> bool:
        """Whether it is extreme in two families: typical of thieves, rare for unusual honest users."""
        return len(self.families) >= 2


def outliers(calibration: Calibration, budget: float) -> list[Outlier]:
    """Returns the accounts that would be flagged if they were not in the calibration, largest first."""
    found = list(_outliers(calibration, allowed(calibration, budget)))
    return sorted(found, key=lambda outlier: -outlier.largest)


def allowed(calibration: Calibration, budget: float) -> Floats:
    """Returns float64 (n,): for each account the threshold of all others."""
    return limits(calibration.largest, calibration.odd, calibration.long, budget)


def limits(largest: Floats, odd: Floats, counts: NDArray[np.bool_], budget: float) -> Floats:
    """float64 (n,): for each account with its ``largest`` D the threshold that those others give which ``counts``."""
    rest = [counts & (np.arange(len(largest)) != at) for at in range(len(largest))]
    return np.array([Tail.beside(largest[own], odd[own]).threshold(budget) for own in rest])


def _outliers(calibration: Calibration, limits: Floats) -> Iterator[Outlier]:
    measures, largest = calibration.profile.standards.measures, calibration.largest
    for at in np.flatnonzero(largest > limits).tolist():
        added = calibration.farthest[at].added
        order = [column for column in np.argsort(-added, kind="stable").tolist() if added[column] > 0]
        names = tuple((measures[column], cast("float", added[column].item())) for column in order)
        alone = calibration.jury.without([at], calibration.farthest)
        excused = np.flatnonzero((largest <= limits) & (alone > limits)).tolist()
        like = tuple(sorted(calibration.accounts[other] for other in excused))
        yield Outlier(at, calibration.accounts[at], float(largest[at]), float(limits[at]), names, like)


@dataclass(frozen=True, slots=True)
class Screened:
    """``calibration`` on all accounts except those ``left_out``, by name. ``outliers``: its accounts that stand out
    from the others."""

    calibration: Calibration
    left_out: list[str]
    outliers: list[Outlier]

    @property
    def achieved(self) -> FlaggedRate:
        """The number of long accounts that the others would flag, of all long accounts."""
        long = self.calibration.long
        return FlaggedRate(sum(bool(long[own.at]) for own in self.outliers), int(long.sum()))

    @property
    def length(self) -> int:
        """The median number of queries of these accounts."""
        return int(np.median(self.calibration.queries[self.calibration.long]))


def calibrate_screened(
    accounts: Sequence[QueryBatch],
    budget: float,
    leave_out: Collection[str] = (),
    progress: Callable[[int], None] | None = None,
    owned: OwnerInputs = NOTHING,
) -> Screened:
    """Calibrates as ``calibrate`` without the accounts in ``leave_out``. Raises ConfigurationError for an unknown
    name."""
    names = {own.principals[own.principal_index[0]]: own for own in accounts}
    strangers = sorted(set(leave_out) - names.keys())
    if strangers:
        raise ConfigurationError(f"--leave-out: there is no account {', '.join(strangers)} in the honest logs")
    rest = [own for name, own in names.items() if name not in leave_out]
    calibration = calibrate(rest, budget, progress, owned)
    return Screened(calibration, sorted(leave_out), outliers(calibration, budget))


_ALONE = (1.5, 1.0, NOTABLE)
"""Factors of the line with evidence in one family and in two, and the contribution of the second family that counts in
full."""
_TOGETHER = (4.0, 2.2, 2 * NOTABLE)
"""The same for a group that excuse one another. Evidence other than structure counts half as a second family, because
tools of honest users show structure alone."""
_FEW = 6.0
"""This over the number of accounts is added to the factor: in small logs, most accounts are the only ones of their
kind."""
_MOST_ALLOWED = 2.5 * MIN_THRESHOLD
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


def line(found: LargestD, limit: float, measures: Sequence[str], accounts: int, *, together: bool = False) -> float:
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


class Ranking:
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

    def _without(self, at: int, members: Sequence[int]) -> LargestD:
        return self._jury.farthest(at, self._gone.union(members) - {at})

    def _of_group(self, at: int, found: LargestD) -> Rank:
        return self._rank(found, at, together=True)

    def _rank(self, found: LargestD, at: int, *, together: bool = False) -> Rank:
        own = line(found, float(self.limits[at]), self._measures, self._count, together=together)
        return Rank(found.largest / own, own)


def outstanding(calibration: Calibration, budget: float) -> set[int]:
    """Returns the numbers of the accounts that stand out, at most a sixth of all; these excuse no other account."""
    most = max(int(len(calibration.accounts) * _MOST_GONE), 1)
    gone: list[int] = []
    while len(gone) < most:
        standings = Ranking(calibration, budget, gone)
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


ENOUGH = 8
"""With fewer long accounts, no account stands out; they are only ranked."""
_ROUNDS = 4

Stage = Callable[[int], AbstractContextManager[Callable[[int], None]]]


def _silent(_: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _: None)


@dataclass(frozen=True, slots=True)
class ScannedAccount:
    """The result for the account ``name`` with ``queries``. ``score``: ``unexplained`` divided by ``line``, both in
    standard deviations of the other accounts. ``row``: the query, from 0, with the largest D. ``parts``: for each
    measure at that row the score, the value of the ``closest`` account (None: a simulated or the average one) and the
    contribution, largest first. ``crossed``: the row at which D crossed the line. ``like``: accounts that were not
    allowed to excuse it. ``left_out``: of the profile."""

    queries: int
    score: float
    unexplained: float
    line: float
    row: int
    crossed: int | None
    parts: tuple[tuple[str, float, float, float], ...]
    closest: str | None
    like: tuple[str, ...]
    name: str = ""
    left_out: bool = False
    stands_out: bool = False


@dataclass(frozen=True, slots=True)
class Scan:
    """``accounts``: of all accounts, most suspicious first. ``screened``: the calibration on those that do not stand
    out. ``enough``: whether there are enough accounts to tell which stand out."""

    accounts: list[ScannedAccount]
    screened: Screened
    enough: bool


def scan(
    accounts: Sequence[QueryBatch],
    budget: float,
    stage: Stage = _silent,
    owned: OwnerInputs = NOTHING,
) -> Scan:
    """Returns which of ``accounts`` stand out, each the queries of one principal to one model version. At most a share
    ``budget`` of honest accounts stands out. ``stage`` gets the number of accounts for each calibration; it yields a
    function that is called with the number replayed since.

    Leaves out the accounts that stand out and calibrates on the others again, until the same accounts stand out.
    Raises ConfigurationError for fewer than three accounts.
    """
    gone: frozenset[str] = frozenset()
    cleared: set[str] = set()
    for _ in range(_ROUNDS):
        with stage(len(accounts) - len(gone)) as progress:
            screened = calibrate_screened(accounts, budget, gone, progress, owned)
        calibration = screened.calibration
        enough = bool(calibration.long.sum() + len(gone) >= ENOUGH)
        left = [own for own in accounts if _name(own) in gone]
        outside = [_outside(own, calibration, enough) for own in left]
        found = outstanding(calibration, budget) if enough else set()
        cleared |= {own.name for own in outside if not own.stands_out}
        after = gone.union(calibration.accounts[at] for at in found) - cleared
        if after == gone:
            break
        gone = after
    inside = [_at_the_line(own) if own.name in cleared else own for own in _inside(calibration, budget, enough)]
    order = sorted([*outside, *inside], key=lambda own: -own.score)
    return Scan(order, screened, enough)


def _at_the_line(own: ScannedAccount) -> ScannedAccount:
    """Returns ``own``, with a score of at most 1, for an account that a profile without it does not flag."""
    if own.score <= 1:
        return own
    return replace(own, score=1.0, line=own.unexplained, crossed=None, stands_out=False)


def _name(account: QueryBatch) -> str:
    return str(account.principals[account.principal_index[0]])


def _outside(account: QueryBatch, calibration: Calibration, enough: bool) -> ScannedAccount:
    """Returns the scanned of an account outside the calibration, judged by its profile as in ``replay``."""
    standards = calibration.profile.standards
    [recording] = record([account], calibration.profile)
    scores = recording.scores(standards.spread)
    found = calibration.jury.judged(scores)
    own = line(found, standards.threshold, standards.measures, int(calibration.long.sum()))
    scanned = _scanned(calibration, Rank(found.largest / own, own), found, scores, ())
    return replace(scanned, name=_name(account), left_out=True, stands_out=enough and scanned.score > 1)


def _inside(calibration: Calibration, budget: float, enough: bool) -> Iterator[ScannedAccount]:
    """Yields the scanned of each account against all others."""
    for at, rank in enumerate(Ranking(calibration, budget).every()):
        found = calibration.farthest[at]
        if rank.with_others:
            found = calibration.jury.farthest(at, rank.with_others)
        scanned = _scanned(calibration, rank, found, calibration.jury.scores[at], {at, *rank.with_others})
        yield replace(scanned, name=calibration.accounts[at], stands_out=enough and rank.score > 1)


def _scanned(
    calibration: Calibration, rank: Rank, found: LargestD, scores: Floats, without: Collection[int]
) -> ScannedAccount:
    """Returns the scanned of an account with ``scores`` float64 (queries, j), which ``without`` do not excuse."""
    crossed = None
    if rank.score > 1:
        above = np.flatnonzero(calibration.jury.course(scores, without) > rank.line)
        crossed = int(above[0]) if len(above) else found.row
    columns = (column.tolist() for column in (scores[found.row], found.reached, found.added))
    parts = zip(calibration.profile.standards.measures, *columns, strict=True)
    names = calibration.accounts
    return ScannedAccount(
        queries=len(scores),
        score=rank.score,
        unexplained=found.largest,
        line=rank.line,
        row=found.row,
        crossed=crossed,
        parts=tuple(sorted((part for part in parts if part[3] > 0), key=lambda part: -part[3])),
        closest=None if found.excused_by == NOBODY else names[found.excused_by],
        like=tuple(sorted(names[other] for other in rank.with_others)),
    )
