"""Makes a profile from honest accounts: references, spread of accounts, exemplars and threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import QueryBatch
from detector.core.calibration.crossfit import CLOCK, COLUMNS, CrossFit, OwnerInputs, Recording, blank, record
from detector.core.calibration.exemplars import AccountComparison, LargestD, SimulatedUser, SimulatedUsers, draws
from detector.core.measures import MEASURES
from detector.core.profile.profile import Profile
from detector.core.profile.standards import MIN_THRESHOLD, MIN_THRESHOLD_BUDGET, Spread, Standards
from detector.core.signals import WEIGHED

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class FlaggedRate:
    """``flagged`` of ``accounts`` honest accounts, each judged by all others."""

    flagged: int
    accounts: int

    @property
    def rate(self) -> float:
        return self.flagged / self.accounts

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 percent confidence interval of the rate (Clopper and Pearson 1934)."""
        from scipy.stats import binomtest

        found = binomtest(self.flagged, self.accounts).proportion_ci(CONFIDENCE, method="exact")
        return float(found.low), float(found.high)

    @property
    def bound(self) -> float:
        """The upper bound of the rate with 95 percent confidence, one-sided."""
        from scipy.stats import binomtest

        found = binomtest(self.flagged, self.accounts, alternative="less").proportion_ci(CONFIDENCE, method="exact")
        return float(found.high)


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
        lift = max(MIN_THRESHOLD - self._reached(MIN_THRESHOLD_BUDGET), 0.0)
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
        limit = Tail.of(rest).threshold(MIN_THRESHOLD_BUDGET)
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


FEWEST_ACCOUNTS = 3
"""Fewer accounts do not show how accounts differ."""

NOTHING = OwnerInputs()

GROUPS = 24
"""Maximum number of groups left out in turn to find the range of the threshold."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """A ``profile``, and the accounts it rests on, in an order that their content decides: their names, how many
    ``queries`` int64 (n,) each asked, and bool (n,) which are ``long`` enough to say how far honest accounts go;
    ``farthest``, how far each was from all others, and ``odd`` float64 (n,), how unlike all others, from 0 to 1; the
    ``tail`` of that distance D, the ``jury`` that it comes from, and within what the threshold ``moves`` when some
    accounts are left out."""

    profile: Profile
    accounts: list[str]
    queries: NDArray[np.int64]
    long: NDArray[np.bool_]
    farthest: list[LargestD]
    odd: Floats
    tail: Tail
    jury: AccountComparison
    moves: tuple[float, float]

    @property
    def largest(self) -> Floats:
        """float64 (n,): the largest D of each account."""
        return np.array([own.largest for own in self.farthest])


def calibrate(
    accounts: Sequence[QueryBatch],
    budget: float,
    progress: Callable[[int], None] | None = None,
    owned: OwnerInputs = NOTHING,
    measures: Sequence[str] = COLUMNS,
) -> Calibration:
    """A profile from honest ``accounts``, the queries of one principal to one model version each, such that a share
    ``budget`` of accounts like them is flagged. ``progress`` is told how many accounts were replayed since. What the
    owner gives besides, if anything, is ``owned``. ``measures``: those that count.

    Every account is compared with the others alone: with their queries as reference, less those that it asked itself,
    and with their scores as exemplars. Neither names nor the order of accounts change anything. Raises
    ConfigurationError for fewer than three accounts.
    """
    if len(accounts) < FEWEST_ACCOUNTS:
        raise ConfigurationError(
            f"{len(accounts)} honest accounts are too few to calibrate on; give the logs of {FEWEST_ACCOUNTS} or more, "
            "better of twenty with habits that differ"
        )
    fit = CrossFit(accounts)
    spread, jury = _judged(fit, progress or (lambda _: None), owned, measures)
    farthest = [jury.farthest(at) for at in range(len(accounts))]
    odd, tail = _tail(np.array([own.largest for own in farthest]), fit.long)
    moves = _moves(jury, farthest, fit.long, budget)
    standards = Standards(tuple(measures), spread, jury.pareto_front(), tail.threshold(budget))
    names = [own.principals[own.principal_index[0]] for own in fit.accounts]
    queries = np.array([len(own) for own in fit.accounts])
    return Calibration(owned.profile(fit, standards), names, queries, fit.long, farthest, odd, tail, jury, moves)


def _tail(largest: Floats, long: NDArray[np.bool_]) -> tuple[Floats, Tail]:
    """Returns how unusual each account is, float64 (n,), and the tail of the rest."""
    odd = np.zeros(len(largest))
    odd[long] = oddness(largest[long])
    return odd, Tail.beside(largest[long], odd[long])


def _moves(
    jury: AccountComparison, farthest: list[LargestD], long: NDArray[np.bool_], budget: float
) -> tuple[float, float]:
    """Returns the smallest and the largest threshold with one account left out, or one group if there are many."""
    accounts = np.flatnonzero(long)
    count = min(len(accounts), GROUPS)
    found = []
    for group in range(count):
        gone = accounts[group::count]
        left = long & ~np.isin(np.arange(len(long)), gone)
        found.append(_tail(jury.without(gone.tolist(), farthest), left)[1].threshold(budget))
    return min(found), max(found)


def _judged(
    fit: CrossFit, progress: Callable[[int], None], owned: OwnerInputs, measures: Sequence[str]
) -> tuple[Spread, AccountComparison]:
    """Returns the spread of honest accounts in ``measures``, and the scores of each account."""
    recordings, invented = _recordings(fit, progress, owned)
    spread = _spread([own for own, long in zip(recordings, fit.long.tolist(), strict=True) if long])
    counting = [COLUMNS.index(name) for name in measures]
    scores = [own.scores(spread)[:, counting] for own in recordings]
    reached = np.array([own.max(axis=0) for own in scores])
    drawn = np.array([own.scores(spread)[:, counting].max(axis=0) for own in invented.values()])
    return spread.at(counting), AccountComparison(scores, reached, SimulatedUsers(list(invented), drawn, measures))


def _recordings(
    fit: CrossFit, progress: Callable[[int], None], owned: OwnerInputs
) -> tuple[list[Recording], dict[SimulatedUser, Recording]]:
    """Returns recordings of each account and of simulated users, each against accounts that share no queries with
    it."""
    found = [Recording.empty(len(own)) for own in fit.accounts]
    invented: dict[SimulatedUser, Recording] = {}
    for fold in fit.folds:
        made = dict(draws(fit, fold))
        for part in range(fold.parts):
            profile = owned.profile(fit, blank(), fold, part)
            inside = record([fit.accounts[at] for at in fold.inside], profile)
            for at, own in zip(fold.inside, inside, strict=True):
                found[at].take(fit.parts(at, fold) == part, own)
        invented |= zip(made, record(list(made.values()), profile), strict=True)
        progress(len(fold.inside))
    return found, invented


def _spread(recordings: Sequence[Recording]) -> Spread:
    """Returns the robust spread of honest accounts: medians and median deviations, at least the floor of each
    measure."""
    means, deviations = (np.array(column) for column in zip(*(_moments(own) for own in recordings), strict=True))
    known = ~np.isnan(means).all(axis=0)
    means, deviations = np.where(known, means, 0.0), np.where(known, deviations, 0.0)
    mean = np.nanmedian(means, axis=0)
    between = 1.4826 * np.nanmedian(np.abs(means - mean), axis=0)
    within = np.nanmedian(deviations, axis=0)
    floors = [(own.between, own.within) for own in MEASURES.values()] + [_LEAST_STATE] * len(WEIGHED)
    least_between, least_within = np.array(floors).T
    own = np.fmax(between, least_between), np.fmax(within, least_within)
    # Change is already in standard deviations, about 0.
    return Spread(*(np.append(column, last) for column, last in zip((mean, *own), (0.0, 1.0, 0.0), strict=True)))


_LEAST_STATE = (0.5, 0.0)
"""The floors for signals whose score is 1 at their own threshold."""


def _moments(own: Recording) -> tuple[Floats, Floats]:
    """Returns weighted mean and standard deviation of each column over the account's queries; NaN for a column without
    values."""
    weights = np.concatenate((own.weights[:, CLOCK], np.ones_like(own.others)), axis=1)
    values = np.concatenate((own.values, own.others), axis=1)
    weights = np.where(np.isnan(values), 0.0, weights)
    total = weights.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (weights * np.nan_to_num(values)).sum(axis=0) / total
        variance = (weights * (np.nan_to_num(values) - mean) ** 2).sum(axis=0) / total
    return mean, np.sqrt(variance)
