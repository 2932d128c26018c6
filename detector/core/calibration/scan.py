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

import numpy as np

from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Family
from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import Calibration, FlaggedRate, Floats, Mask, Tail, calibrate, oddness
from detector.core.calibration.crossfit import NOTHING, OwnerInputs, record, standardised
from detector.core.calibration.exemplars import SIMULATED, LargestD, d_of
from detector.core.signals.suspicion import FAMILIES, NOTABLE


@dataclass(frozen=True, slots=True)
class Outlier:
    """Account ``name``, number ``at`` of the calibration, whose D against all others is ``largest``, more than they
    allow: ``allowed``. ``contributions``: what measures add to it, largest first. ``excused``: names of the accounts
    that would be flagged too if this one were left out."""

    at: int
    name: str
    largest: float
    allowed: float
    contributions: tuple[tuple[str, float], ...]
    excused: tuple[str, ...] = ()

    @property
    def families(self) -> tuple[Family, ...]:
        """The families of measures with a notable contribution."""
        total: dict[Family, float] = {}
        for name, value in self.contributions:
            total[FAMILIES[name]] = total.get(FAMILIES[name], 0.0) + value
        return tuple(family for family, value in total.items() if value >= NOTABLE)

    @property
    def suspect(self) -> bool:
        """Whether it is extreme in two families: typical of thieves, rare for unusual honest users."""
        return len(self.families) >= 2


def outliers(calibration: Calibration, budget: float) -> list[Outlier]:
    """Returns the accounts that would be flagged if they were not in the calibration, largest first."""
    measures, largest = calibration.profile.standards.measures, calibration.largest
    limits, found = _limits(largest, calibration.odd, calibration.long, budget), []
    for at in np.flatnonzero(largest > limits).tolist():
        values = zip(measures, calibration.results[at].contributions.tolist(), strict=True)
        contributions = sorted((part for part in values if part[1] > 0), key=lambda part: -part[1])
        alone = d_of(calibration.comparison.recompare([at], calibration.results))
        excused = np.flatnonzero((largest <= limits) & (alone > limits)).tolist()
        found.append(
            Outlier(
                at,
                calibration.accounts[at],
                float(largest[at]),
                float(limits[at]),
                tuple(contributions),
                tuple(sorted(calibration.accounts[other] for other in excused)),
            )
        )
    return sorted(found, key=lambda outlier: -outlier.largest)


def _limits(largest: Floats, odd: Floats, counts: Mask, budget: float) -> Floats:
    """Returns float64 (n,): for each account with its ``largest`` D the threshold that those others give which
    ``counts`` names."""
    rest = [counts & (np.arange(len(largest)) != at) for at in range(len(largest))]
    return np.array([Tail.weighted(largest[part], odd[part]).threshold(budget) for part in rest])


@dataclass(frozen=True, slots=True)
class Screened:
    """``calibration`` on all accounts except those ``left_out``, by name. ``outliers``: its accounts that stand out
    from the others."""

    calibration: Calibration
    left_out: list[str]
    outliers: list[Outlier]

    @property
    def achieved(self) -> FlaggedRate:
        """The share of long accounts that the others would flag."""
        long = self.calibration.long
        return FlaggedRate(sum(bool(long[outlier.at]) for outlier in self.outliers), int(long.sum()))

    @property
    def length(self) -> int:
        """The median number of queries of these accounts."""
        return int(np.median(self.calibration.queries[self.calibration.long]))


def calibrate_screened(
    accounts: Sequence[QueryBatch],
    budget: float,
    leave_out: Collection[str] = (),
    progress: Callable[[int], None] | None = None,
    owner: OwnerInputs = NOTHING,
) -> Screened:
    """Calibrates as ``calibrate`` without the accounts in ``leave_out``. Raises ConfigurationError for an unknown
    name."""
    by_name = {_name(account): account for account in accounts}
    unknown = sorted(set(leave_out) - by_name.keys())
    if unknown:
        raise ConfigurationError(f"--leave-out: there is no account {', '.join(unknown)} in the honest logs")
    kept = [account for name, account in by_name.items() if name not in leave_out]
    calibration = calibrate(kept, budget, progress, owner)
    return Screened(calibration, sorted(leave_out), outliers(calibration, budget))


_LINE_ALONE = (1.5, 1.0, NOTABLE)
"""Factors of the line with evidence in one family and in two, and the contribution of the second family that counts in
full."""
_LINE_TOGETHER = (4.0, 2.2, 2 * NOTABLE)
"""The same for a group that excuse one another. Evidence other than structure counts half as a second family, because
tools of honest users show structure alone."""
_LINE_AS_ONE = (5.6, 2.2, 8.0)
"""The same for a group taken as one account. Only structure is a second family here: honest accounts whose inputs have
drifted are as far off as a thief's in content and outputs, and there are several of them."""
_SMALL_LOG_FACTOR = 6.0
"""This over the number of accounts is added to the factor: in small logs, most accounts are the only ones of their
kind."""
_LEAST_ALLOWED, _MOST_ALLOWED = 5.0, 7.5
"""The range of the limit: the tail of a few different accounts is not reliable below or beyond it."""
_ACCOUNTS_PER_MEMBER, _MOST_TOGETHER = 15, 4
"""A group may have one account for each 15 accounts of the log, and at most 4."""
_MIN_GROUP_SCORE = 0.5
"""A group counts if its score is at least this."""
_MOST_LEFT_OUT = 1 / 6
"""Maximum share of accounts that are taken out."""


@dataclass(frozen=True, slots=True)
class Rank:
    """``score``: D divided by the ``line``. ``with_others``: numbers of the accounts excluded as excuses, if any."""

    score: float
    line: float
    with_others: tuple[int, ...] = ()


def line(
    result: LargestD,
    limit: float,
    measures: Sequence[str],
    accounts: int,
    *,
    together: bool = False,
    as_one: bool = False,
) -> float:
    """Returns the D above which one of ``accounts`` accounts stands out, if the others allow ``limit``. ``together``:
    one of those that excuse one another; ``as_one``: several of those, taken as one account."""
    total: dict[str, float] = dict.fromkeys(FAMILIES.values(), 0.0)
    for name, value in zip(measures, result.contributions.tolist(), strict=True):
        total[FAMILIES[name]] += value
    second = sorted(total.values())[-2]
    others = sum(total.values()) - total["structure"]
    if together:
        second = max(second, others / 2)
    elif as_one:
        second = min(total["structure"], others)
    one, two, enough = _LINE_TOGETHER if together else _LINE_AS_ONE if as_one else _LINE_ALONE
    factor = one + (two - one) * min(second / enough, 1.0) + _SMALL_LOG_FACTOR / accounts
    return min(max(limit, _LEAST_ALLOWED), _MOST_ALLOWED) * factor


class Ranking:
    """Ranks the accounts of ``calibration`` at ``budget``, where those ``left_out`` excuse no account."""

    def __init__(self, calibration: Calibration, budget: float, left_out: Collection[int] = ()) -> None:
        self._comparison, self._measures = calibration.comparison, calibration.profile.standards.measures
        self._left_out = frozenset(left_out)
        self.results = calibration.results
        if left_out:
            self.results = self._comparison.recompare(self._left_out, self.results)
        largest, counts = d_of(self.results), calibration.long.copy()
        counts[list(left_out)] = False
        odd = np.zeros(len(largest))
        odd[counts] = oddness(largest[counts])
        self._limits = _limits(largest, odd, counts, budget)
        self._count = int(counts.sum())
        self._most = min(self._count // _ACCOUNTS_PER_MEMBER, _MOST_TOGETHER)

    def alone(self) -> list[Rank]:
        """Returns the rank of each account by itself."""
        return [self._rank(at, result) for at, result in enumerate(self.results)]

    def every(self) -> list[Rank]:
        """Returns the higher rank of each account: by itself, or with the few that excuse it."""
        return [
            max((alone, *self._together(at)), key=lambda rank: rank.score) if at not in self._left_out else alone
            for at, alone in enumerate(self.alone())
        ]

    def _together(self, at: int) -> Iterator[Rank]:
        """Yields the ranks of account ``at`` in groups with those that excuse it; a group ranks as its lowest
        member."""
        members, result = [at], self.results[at]
        while len(members) < self._most and result.closest != SIMULATED:
            members.append(result.closest)
            result = self._without(at, members)
            rank = self._rank(at, result, together=True)
            if rank.score >= _MIN_GROUP_SCORE:
                others = (self._rank(other, self._without(other, members), together=True) for other in members[1:])
                least = min(rank.score, *(other.score for other in others))
                yield Rank(least, result.d / least if least else rank.line, tuple(sorted(members[1:])))

    def _without(self, at: int, members: Sequence[int]) -> LargestD:
        return self._comparison.largest_d(at, self._left_out.union(members) - {at})

    def _rank(self, at: int, result: LargestD, *, together: bool = False) -> Rank:
        limit = line(result, float(self._limits[at]), self._measures, self._count, together=together)
        return Rank(result.d / limit, limit)


def outstanding(calibration: Calibration, budget: float) -> set[int]:
    """Returns the numbers of the accounts that stand out, at most a sixth of all; these excuse no other account."""
    most = max(int(len(calibration.accounts) * _MOST_LEFT_OUT), 1)
    left_out: list[int] = []
    while len(left_out) < most:
        ranking = Ranking(calibration, budget, left_out)
        found = _above_the_line(ranking.alone(), left_out) or _above_the_line(ranking.every(), left_out)[:1]
        if not found:
            break
        for at, rank in found:
            left_out += [member for member in (at, *rank.with_others) if member not in left_out]
    return set(left_out[:most])


def _above_the_line(ranks: Sequence[Rank], left_out: Collection[int]) -> list[tuple[int, Rank]]:
    """Returns the accounts above the line that are not ``left_out``, largest first."""
    above = [(at, rank) for at, rank in enumerate(ranks) if rank.score > 1 and at not in left_out]
    return sorted(above, key=lambda found: -found[1].score)


ENOUGH = 8
"""With fewer long accounts, no account stands out; they are only ranked."""
_ROUNDS = 4

Stage = Callable[[int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True, slots=True)
class ScannedAccount:
    """The result for the account ``name`` with ``queries``. ``score``: ``unexplained``, its largest D, divided by
    ``line``. ``row``: the query, from 0, with the largest D. ``parts``: for each measure at that row the score, the
    value of the ``closest`` account (None: a simulated or the average one) and the contribution, largest first.
    ``crossed``: the row at which D crossed the line. ``not_excused_by``: accounts that were not allowed to excuse it.
    ``left_out``: of the profile."""

    queries: int
    score: float
    unexplained: float
    line: float
    row: int
    crossed: int | None
    parts: tuple[tuple[str, float, float, float], ...]
    closest: str | None
    not_excused_by: tuple[str, ...]
    name: str = ""
    left_out: bool = False
    stands_out: bool = False


@dataclass(frozen=True, slots=True)
class Scan:
    """``accounts``: all results, most suspicious first. ``screened``: the calibration on those that do not stand out.
    ``enough``: whether there are enough accounts to tell which stand out."""

    accounts: list[ScannedAccount]
    screened: Screened
    enough: bool


def scan(
    accounts: Sequence[QueryBatch],
    budget: float,
    stage: Stage = lambda _: nullcontext(lambda _: None),
    owner: OwnerInputs = NOTHING,
    apart: Collection[str] = (),
) -> Scan:
    """Returns which of ``accounts`` stand out, each the queries of one principal to one model version. At most a share
    ``budget`` of honest accounts stands out. ``stage`` gets the number of accounts for each calibration; it yields a
    function that is called with the number replayed since. ``apart``: names of accounts that are left out in any case.

    Leaves out the accounts that stand out and calibrates on the others again, until the same accounts stand out.
    Raises ConfigurationError for fewer than three accounts.
    """
    left_out = frozenset(apart)
    cleared: set[str] = set()
    for _ in range(_ROUNDS):
        with stage(len(accounts) - len(left_out)) as progress:
            screened = calibrate_screened(accounts, budget, left_out, progress, owner)
        calibration = screened.calibration
        enough = bool(calibration.long.sum() + len(left_out) >= ENOUGH)
        outside = [_scan_outside(account, calibration, enough) for account in accounts if _name(account) in left_out]
        found = outstanding(calibration, budget) if enough else set()
        cleared |= {account.name for account in outside if not account.stands_out and account.name not in apart}
        after = left_out.union(calibration.accounts[at] for at in found) - cleared
        if after == left_out:
            break
        left_out = after
    inside = [
        _at_the_line(account) if account.name in cleared else account
        for account in _scan_inside(calibration, budget, enough)
    ]
    return Scan(sorted([*outside, *inside], key=lambda account: -account.score), screened, enough)


def _at_the_line(account: ScannedAccount) -> ScannedAccount:
    """Returns ``account``, with a score of at most 1, for an account that a profile without it does not flag."""
    if account.score <= 1:
        return account
    return replace(account, score=1.0, line=account.unexplained, crossed=None, stands_out=False)


def _name(account: QueryBatch) -> str:
    return str(account.principals[account.principal_index[0]])


def judge_as_one(queries: QueryBatch, calibration: Calibration) -> ScannedAccount:
    """Returns the result of several accounts outside ``calibration``, whose ``queries`` in order of time are taken as
    those of one account."""
    alone = replace(queries, principals=[""], principal_index=np.zeros(len(queries), np.int32))
    return _scan_outside(alone, calibration, enough=True, as_one=True)


def _scan_outside(
    account: QueryBatch, calibration: Calibration, enough: bool, *, as_one: bool = False
) -> ScannedAccount:
    """Returns the result of an account outside the calibration, judged by its profile as in ``replay``."""
    standards = calibration.profile.standards
    [queries] = record([account], calibration.profile)
    scores = standardised(queries, standards.spread, standards.tails)
    result = calibration.comparison.compare(scores)
    limit = line(result, standards.threshold, standards.measures, int(calibration.long.sum()), as_one=as_one)
    scanned = _scanned(calibration, Rank(result.d / limit, limit), result, scores, ())
    return replace(scanned, name=_name(account), left_out=True, stands_out=enough and scanned.score > 1)


def _scan_inside(calibration: Calibration, budget: float, enough: bool) -> Iterator[ScannedAccount]:
    """Yields the result of each account against all others."""
    comparison = calibration.comparison
    for at, rank in enumerate(Ranking(calibration, budget).every()):
        result = comparison.largest_d(at, rank.with_others) if rank.with_others else calibration.results[at]
        scanned = _scanned(calibration, rank, result, comparison.scores[at], {at, *rank.with_others})
        yield replace(scanned, name=calibration.accounts[at], stands_out=enough and rank.score > 1)


def _scanned(
    calibration: Calibration, rank: Rank, result: LargestD, scores: Floats, without: Collection[int]
) -> ScannedAccount:
    """Returns the result of an account with ``scores`` float64 (queries, j), which ``without`` do not excuse."""
    crossed = None
    if rank.score > 1:
        above = np.flatnonzero(calibration.comparison.by_query(scores, without) > rank.line)
        crossed = int(above[0]) if len(above) else result.row
    columns = (column.tolist() for column in (scores[result.row], result.closest_values, result.contributions))
    parts = zip(calibration.profile.standards.measures, *columns, strict=True)
    names = calibration.accounts
    return ScannedAccount(
        queries=len(scores),
        score=rank.score,
        unexplained=result.d,
        line=rank.line,
        row=result.row,
        crossed=crossed,
        parts=tuple(sorted((part for part in parts if part[3] > 0), key=lambda part: -part[3])),
        closest=None if result.closest == SIMULATED else names[result.closest],
        not_excused_by=tuple(sorted(names[other] for other in rank.with_others)),
    )
