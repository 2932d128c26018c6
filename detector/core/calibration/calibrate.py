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
from detector.core.calibration.crossfit import (
    COLUMNS,
    NOTHING,
    CrossFit,
    OwnerInputs,
    blank,
    record,
    standardised,
    unrecorded,
)
from detector.core.calibration.exemplars import AccountComparison, LargestD, SimulatedUser, d_of, simulate_users
from detector.core.measures import MEASURES
from detector.core.profile import Profile
from detector.core.reference.standards import Spread, Standards, Tails
from detector.core.signals import WEIGHED
from detector.core.signals.extremes import beyond_of
from detector.core.signals.suspicion import FOLLOWING, MeasuredQueries, clock_of

CONFIDENCE = 0.95
FEWEST_ACCOUNTS = 3
"""Fewer accounts do not show how accounts differ."""
GROUPS = 24
"""Maximum number of groups left out in turn to find the range of the threshold."""

_LEAST, _LEAST_PER_ACCOUNT, _LEAST_BUDGET = 3.25, 20.0, 0.01
"""However alike honest accounts are, the threshold at a budget of 1 percent (``_LEAST_BUDGET``) is at least 3.25
standard deviations left unexplained, plus 20 divided by the number of accounts: few do not show how others differ."""
_LEAST_STATE = (0.5, 0.0)
"""The lowest standard deviations of signals whose score is 1 at their own threshold; see ``Measure``."""
_WIDE, _WIDE_NORMAL = 0.85, 1.0364
"""A quantile of accounts, and that of the normal distribution."""
_UNEVEN = np.flatnonzero([measure.family in ("content", "outputs") for measure in MEASURES.values()])
"""Measures in which some habits, such as another device, are far from most others. The exemplars alone would excuse an
account as far as another happened to be, where the next device is off in another way."""
_CLOCK = clock_of(list(MEASURES.values()))[: len(MEASURES)]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


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
        return self._interval("two-sided")

    @property
    def bound(self) -> float:
        """The upper bound of the rate with 95 percent confidence, one-sided."""
        return self._interval("less")[1]

    def _interval(self, alternative: str) -> tuple[float, float]:
        from scipy.stats import binomtest

        found = binomtest(self.flagged, self.accounts, alternative=alternative).proportion_ci(CONFIDENCE, "exact")
        return float(found.low), float(found.high)


def fewest_to_show(budget: float) -> int:
    """Returns how many accounts, of which none is flagged, show with 95 percent confidence that at most a share
    ``budget`` of all is."""
    return ceil(log(1 - CONFIDENCE) / log(1 - budget))


@dataclass(frozen=True, slots=True)
class Tail:
    """How far the highest D of honest accounts reach. A ``share`` of the accounts exceed ``start``; with 75 percent
    confidence they do so by at most ``excess`` on average. ``least``: the lowest threshold at a budget of 1 percent."""

    start: float
    share: float
    excess: float
    least: float

    @classmethod
    def of(cls, largest: Floats) -> Tail:
        """Returns the tail of the ``largest`` D of each of n honest accounts, taken as exponential above the highest
        fifth (four accounts at least).

        The sum of k exponential excesses is gamma distributed (2 sum / mean ~ chi squared with 2k degrees), which
        bounds their mean. Pickands (1975) for why tails above a high level are of this family.
        """
        ordered = np.sort(largest)[::-1]
        count = min(max(ceil(0.2 * len(ordered)), 4), len(ordered))
        start = float(ordered[count]) if count < len(ordered) else 0.0
        excess = float((ordered[:count] - start).mean())
        return cls(start, count / len(ordered), excess * _mean_bound(count), _LEAST + _LEAST_PER_ACCOUNT / len(ordered))

    @classmethod
    def weighted(cls, largest: Floats, odd: Floats) -> Tail:
        """Returns the tail where accounts count the less the more they are ``odd``, float64 (n,)."""
        part = float(odd.max(initial=0.0))
        if part == 0:
            return cls.of(largest)
        whole, rest = cls.of(largest), cls.of(largest[odd == 0])
        return cls(*((1 - part) * getattr(whole, name) + part * getattr(rest, name) for name in cls.__slots__))

    def threshold(self, budget: float) -> float:
        """Returns the D that at most a share ``budget`` of honest accounts exceeds. If the tail gives less than
        ``least`` at a budget of 1 percent, the thresholds of all budgets are raised by the difference."""
        lift = max(self.least - self._reached(_LEAST_BUDGET), 0.0)
        return self._reached(budget) + lift

    def _reached(self, share: float) -> float:
        return self.start + self.excess * max(log(self.share / share), 0.0)


@lru_cache
def _mean_bound(count: int) -> float:
    """Returns the factor by which, with 75 percent confidence, the mean of an exponential distribution exceeds that of
    a sample of ``count`` at most."""
    from scipy.stats import chi2

    return 2 * count / float(chi2.ppf(0.25, 2 * count))


def oddness(largest: Floats) -> Floats:
    """Returns float64 (n,): how far accounts form separate kinds, by their ``largest`` D.

    1: the D is at least a quarter above the threshold that all others give at a budget of 1 percent, and twice the
    largest of theirs. 0: it is within that threshold. Between the two it rises; at most one in five is above 0. Such
    accounts excuse each other, and the tail of the rest does not describe them. Accounts that stand out together are
    judged together, since each would hide the others if these counted among the rest.
    """
    order = np.argsort(-largest, kind="stable")
    odd = np.zeros(len(largest))
    best, most = 0, 0.0
    for count in range(max(len(largest) // 5, 1), 0, -1):
        least, rest = largest[order[count - 1]], largest[order[count:]]
        limit = Tail.of(rest).threshold(_LEAST_BUDGET)
        border = max(1.25 * limit, 2.0 * rest.max(), limit + 1e-9)
        weight = min(max((least - limit) / (border - limit), 0.0), 1.0)
        if weight > most:
            best, most = count, weight
    odd[order[:best]] = most
    return odd


@dataclass(frozen=True, slots=True)
class Calibration:
    """A ``profile``, and the accounts it rests on, in an order that their content decides: their names, how many
    ``queries`` int64 (n,) each sent, and bool (n,) which are ``long`` enough to count; the ``results`` of each against
    all others, and ``odd`` float64 (n,), see ``oddness``; the ``tail`` of D, the ``comparison`` that it comes from, and
    the ``threshold_range`` when some accounts are left out."""

    profile: Profile
    accounts: list[str]
    queries: NDArray[np.int64]
    long: Mask
    results: list[LargestD]
    odd: Floats
    tail: Tail
    comparison: AccountComparison
    threshold_range: tuple[float, float]

    @property
    def largest(self) -> Floats:
        """float64 (n,): the largest D of each account."""
        return d_of(self.results)


def calibrate(
    accounts: Sequence[QueryBatch],
    budget: float,
    progress: Callable[[int], None] | None = None,
    owner: OwnerInputs = NOTHING,
    measures: Sequence[str] = COLUMNS,
) -> Calibration:
    """Returns a profile from honest ``accounts``, the queries of one principal to one model version each, such that a
    share ``budget`` of accounts like them is flagged. ``progress`` is called with the number of accounts replayed
    since. ``owner``: what else the model owner gives. ``measures``: those that count.

    Every account is compared with the others alone: with their queries as reference, less those that it sent itself,
    and with their scores as exemplars. Neither names nor the order of accounts change anything. Raises
    ConfigurationError for fewer than three accounts.
    """
    if len(accounts) < FEWEST_ACCOUNTS:
        raise ConfigurationError(
            f"{len(accounts)} honest accounts are too few to calibrate on; give the logs of {FEWEST_ACCOUNTS} or more, "
            "better of twenty with habits that differ"
        )
    fit = CrossFit(accounts)
    spread, tails, comparison = _compared(fit, progress or (lambda _: None), owner, measures)
    results = [comparison.largest_d(at) for at in range(len(accounts))]
    odd, tail = _tail(d_of(results), fit.long)
    standards = Standards(tuple(measures), spread, comparison.pareto_front(), tail.threshold(budget), tails)
    return Calibration(
        profile=owner.profile(fit, standards),
        accounts=[account.principals[account.principal_index[0]] for account in fit.accounts],
        queries=np.array([len(account) for account in fit.accounts]),
        long=fit.long,
        results=results,
        odd=odd,
        tail=tail,
        comparison=comparison,
        threshold_range=_threshold_range(comparison, results, fit.long, budget),
    )


def _tail(largest: Floats, long: Mask) -> tuple[Floats, Tail]:
    """Returns the oddness of each account, float64 (n,), and the tail of the rest."""
    odd = np.zeros(len(largest))
    odd[long] = oddness(largest[long])
    return odd, Tail.weighted(largest[long], odd[long])


def _threshold_range(
    comparison: AccountComparison, results: list[LargestD], long: Mask, budget: float
) -> tuple[float, float]:
    """Returns the smallest and the largest threshold with one account left out, or one group if there are many."""
    accounts = np.flatnonzero(long)
    count = min(len(accounts), GROUPS)
    thresholds = []
    for group in range(count):
        left_out = accounts[group::count]
        rest = long & ~np.isin(np.arange(len(long)), left_out)
        largest = d_of(comparison.recompare(left_out.tolist(), results))
        thresholds.append(_tail(largest, rest)[1].threshold(budget))
    return min(thresholds), max(thresholds)


def _compared(
    fit: CrossFit, progress: Callable[[int], None], owner: OwnerInputs, measures: Sequence[str]
) -> tuple[Spread, Tails, AccountComparison]:
    """Returns the spread of honest accounts in ``measures``, the tails of single queries, and the comparison of
    accounts."""
    records, simulated = _records(fit, progress, owner)
    counted = [queries for queries, long in zip(records, fit.long.tolist(), strict=True) if long]
    spread = _spread(counted)
    tails = _tails(counted, spread)
    columns = [COLUMNS.index(name) for name in measures]
    scores = [standardised(queries, spread, tails)[:, columns] for queries in records]
    reached = np.array([account_scores.max(axis=0) for account_scores in scores])
    users = [standardised(queries, spread, tails)[:, columns] for queries in simulated.values()]
    simulated_reached = np.array([user_scores.max(axis=0) for user_scores in users])
    return spread.at(columns), tails, AccountComparison(measures, scores, reached, list(simulated), simulated_reached)


def _records(
    fit: CrossFit, progress: Callable[[int], None], owner: OwnerInputs
) -> tuple[list[MeasuredQueries], dict[SimulatedUser, MeasuredQueries]]:
    """Returns the records of each account and of simulated users, each against accounts that share no queries with
    it."""
    records = [unrecorded(len(account)) for account in fit.accounts]
    simulated: dict[SimulatedUser, MeasuredQueries] = {}
    for fold in fit.folds:
        users = dict(simulate_users(fit, fold))
        for part in range(fold.parts):
            profile = owner.profile(fit, blank(), fold, part)
            inside = record([fit.accounts[at] for at in fold.inside], profile)
            for at, measured in zip(fold.inside, inside, strict=True):
                rows = fit.parts(at, fold) == part
                for column, new in zip(records[at], measured, strict=True):
                    column[rows] = new[rows]
        simulated |= zip(users, record(list(users.values()), profile), strict=True)
        progress(len(fold.inside))
    return records, simulated


def _spread(records: Sequence[MeasuredQueries]) -> Spread:
    """Returns the robust spread of honest accounts: medians and median deviations, at least the floor of each
    measure."""
    means, deviations = (np.array(column) for column in zip(*(_moments(queries) for queries in records), strict=True))
    known = ~np.isnan(means).all(axis=0)
    means, deviations = np.where(known, means, 0.0), np.where(known, deviations, 0.0)
    mean = np.nanmedian(means, axis=0)
    between = 1.4826 * np.nanmedian(np.abs(means - mean), axis=0)
    between[_UNEVEN] = np.fmax(between, (np.nanquantile(means, _WIDE, axis=0) - mean) / _WIDE_NORMAL)[_UNEVEN]
    within = np.nanmedian(deviations, axis=0)
    floors = [(measure.between + measure.few / len(records), measure.within) for measure in MEASURES.values()]
    floors += [_LEAST_STATE] * len(WEIGHED)
    least_between, least_within = np.array(floors).T
    bounded = np.fmax(between, least_between), np.fmax(within, least_within)
    # What follows is already in standard deviations, or nats, about 0.
    following = (np.full(len(FOLLOWING), value) for value in (0.0, 1.0, 0.0))
    return Spread(*(np.append(column, last) for column, last in zip((mean, *bounded), following, strict=True)))


def _tails(records: Sequence[MeasuredQueries], spread: Spread) -> Tails:
    """Returns the tails of single queries in each measure, all accounts counting the same. The mean excess is at least
    half a standard deviation."""
    count = len(MEASURES)
    floors = 0.5 * np.hypot(spread.between, spread.within)[:count]
    tails = [
        _tail_of([_weighed(queries, at) for queries in records], beyond_of(name)) for at, name in enumerate(MEASURES)
    ]
    start, excess = np.array(tails).T
    return Tails(tuple(MEASURES), spread.mean[:count], start, np.maximum(excess, floors))


def _weighed(queries: MeasuredQueries, column: int) -> Floats:
    """Returns the values of one measure that an account's queries have, of those that count."""
    values = queries.values[queries.weights[:, _CLOCK[column]] > 0, column]
    return np.asarray(values[~np.isnan(values)])


def _tail_of(values: Sequence[Floats], beyond: float) -> tuple[float, float]:
    """Returns the start and the mean excess of the tail of ``values`` of each account, a share ``beyond`` of them at
    most; the start is infinite without any."""
    pooled = np.concatenate(values)
    if not len(pooled):
        return np.inf, 0.0
    share = np.concatenate([np.full(len(part), 1 / max(len(part), 1)) for part in values])
    order = np.argsort(pooled, kind="stable")
    reached = np.cumsum(share[order]) / share.sum()
    start = pooled[order][min(int(np.searchsorted(reached, 1 - beyond)), len(pooled) - 1)]
    far = pooled > start
    if not far.any():
        return float(start), 0.0
    excess = np.average(pooled[far] - start, weights=share[far])
    return float(start), float(excess)


def _moments(queries: MeasuredQueries) -> tuple[Floats, Floats]:
    """Returns weighted mean and standard deviation of each column over the account's queries; NaN for a column without
    values."""
    weights = np.concatenate((queries.weights[:, _CLOCK], np.ones_like(queries.others)), axis=1)
    values = np.concatenate((queries.values, queries.others), axis=1)
    weights = np.where(np.isnan(values), 0.0, weights)
    total = weights.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (weights * np.nan_to_num(values)).sum(axis=0) / total
        variance = (weights * (np.nan_to_num(values) - mean) ** 2).sum(axis=0) / total
    return mean, np.sqrt(variance)
