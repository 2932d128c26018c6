"""The spread of honest accounts in every measure, and how far a principal deviates from all of them.

Each honest account of the calibration is an *exemplar*: the largest deviation it reached in each measure. A principal
is compared with the exemplar that explains most of their deviations; what even that one leaves unexplained is D:

    D = min over exemplars e of  sum over measures m of  min(max(0, z_m - e_m), most).

So an unusual honest account excuses only accounts that are unusual in the same ways; many weak deviations add up unless
one honest account shows them all.

The *crowd* records how far honest accounts go within their first queries; groups are compared with it. One account of
few queries proves nothing: its D stays below any threshold. But honest accounts hardly ever reach even a small D so
early.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import allocating, compiled, plain

MAX_CONTRIBUTION = 12.0
"""The most that one measure can add to D."""
PRIOR = 3.0
"""The number of ordinary queries assumed before an account's first: with fewer, one query of nonsense would give a
verdict."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """By measure, float64 (j,): the ``mean`` over honest accounts, the standard deviation ``between`` accounts'
    averages, and the one ``within`` an account's queries."""

    mean: Floats
    between: Floats
    within: Floats

    def at(self, columns: Sequence[int] | slice) -> Spread:
        """Returns the spread of the measures at ``columns``, in that order."""
        return Spread(self.mean[columns], self.between[columns], self.within[columns])


@dataclass(frozen=True, slots=True, eq=False)
class Tails:
    """Of single honest queries in ``measures``, float64 (j,) each: the ``mean``, where the upper tail begins
    (``start``), and by how much values there exceed it on average (``excess``)."""

    measures: tuple[str, ...]
    mean: Floats
    start: Floats
    excess: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Standards:
    """``measures``: names of the j measures of ``spread`` and of the ``exemplars`` float64 (e, j), which are not
    negative. ``threshold``: a larger D is a verdict. ``tails``: those of single queries; None in older profiles."""

    measures: tuple[str, ...]
    spread: Spread
    exemplars: Floats
    threshold: float
    tails: Tails | None = None

    def aligned(self, measures: Sequence[str]) -> Standards:
        """Returns the same for ``measures`` in that order; a measure that the calibration did not know never counts."""
        at = np.array([self.measures.index(name) if name in self.measures else -1 for name in measures])
        known, spread = at >= 0, self.spread
        columns = (np.where(known, column[at], 1.0) for column in (spread.mean, spread.between, spread.within))
        exemplars = np.asfortranarray(np.where(known, self.exemplars[:, at], np.inf))  # as ``unexplained`` reads them
        return Standards(tuple(measures), Spread(*columns), exemplars, self.threshold, self.tails)

    def unexplained(self, scores: Floats) -> Floats:
        """Returns float64 (n,): D of each row of standardised ``scores`` (n, j)."""
        return unexplained(scores, self.exemplars)[0]

    def contributions(self, scores: Floats) -> tuple[Floats, Floats]:
        """Returns float64 (n, j) twice: what each measure adds to D of each row of ``scores`` (n, j), and the value of
        the exemplar that explains most of the row."""
        nearest = self.exemplars[unexplained(scores, self.exemplars)[1]]
        return np.clip(scores - nearest, 0.0, MAX_CONTRIBUTION), nearest

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Standards:
        spread, tails = Spread(**record["spread"]), record.get("tails")
        known = tails and Tails(**tails | {"measures": tuple(tails["measures"])})
        return cls(tuple(record["measures"]), spread, record["exemplars"], float(record["threshold"]), known)

    def to_record(self) -> dict[str, Any]:
        """Returns what ``from_record`` reads."""
        names = [name for name in self.__slots__ if name != "tails" or self.tails is not None]
        return {name: getattr(self, name) for name in names}


def unexplained(scores: Floats, exemplars: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Returns D float64 (n,) of each row of ``scores`` (n, j), and int64 (n,): which of the ``exemplars`` (e, j)
    explains most of it, the first of several."""
    left, best = np.empty(len(scores)), np.empty(len(scores), np.int64)
    reached = plain(exemplars.T)
    _unexplained(plain(scores), reached, reached.min(axis=1), left, best)
    return left, best


@allocating
def _unexplained(scores: Floats, reached: Floats, least: Floats, left: Floats, best: NDArray[np.int64]) -> None:
    """Row after row and measure after measure, against all exemplars at once: ``reached`` (j, e), at least ``least``
    (j,) by each."""
    added = np.empty(reached.shape[1])
    for row in range(len(scores)):
        added[:] = 0.0
        for column in range(len(least)):
            score, by = scores[row, column], reached[column]
            if score <= least[column]:
                continue
            for at in range(len(added)):
                added[at] += min(max(0.0, score - by[at]), MAX_CONTRIBUTION)
        nearest = 0
        for at in range(1, len(added)):
            if added[at] < added[nearest]:
                nearest = at
        left[row], best[row] = added[nearest], nearest


def pareto_front(exemplars: Floats) -> Floats:
    """Returns the rows of ``exemplars`` (e, j), negative entries set to 0, that no other row reaches in every
    measure."""
    rows = np.unique(np.maximum(exemplars, 0.0), axis=0)
    covered = (rows[:, None, :] <= rows[None]).all(axis=2) & ~np.eye(len(rows), dtype=bool)
    return rows[~covered.any(axis=1)]


VOLUMES = np.array((1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256))
"""The numbers of queries at which an account is compared, within each 256 of its queries."""
_SURE = 0.9
_TAIL = 0.2
_FEWEST = 4
_ENOUGH = 10
_LEAST_REACHED, _LEAST_EXCESS = 1.0, 0.5
"""Honest accounts are taken to reach at least this D, and to exceed it by this much on average: those that are judged
draw from other rows than the calibration accounts, and a slight shift is no theft."""

EARLY = 4
"""Up to this volume an account is also compared with what honest accounts reach at that volume, as what they reach
later excuses too much of a single query."""


@dataclass(frozen=True, eq=False)
class Crowd:
    """``reached`` float64 (v, a): for each of ``VOLUMES`` the largest D of each honest account so far, descending; NaN,
    at the end, for accounts with fewer queries. ``early`` float64 (4, a, j + m): the deviations of each honest account,
    in measures and then in links, at the first volumes; 0 for accounts with fewer queries. ``early_reached`` float64
    (4, a): D of each compared with the others' ``early``, descending as above. ``links``: the spread of the link
    measures ``link_measures``, and ``link_exemplars`` float64 (a, m) the deviations that honest accounts reached in
    them."""

    reached: Floats
    early: Floats
    early_reached: Floats
    links: Spread
    link_exemplars: Floats
    link_measures: tuple[str, ...]

    def aligned(self, known: Sequence[str], measures: Sequence[str], links: Sequence[str]) -> Crowd:
        """Returns the same for ``measures`` and then ``links`` in that order, where ``known`` are the measures of the
        profile; one that the calibration did not know never counts."""
        at = _places(self.link_measures, links)
        columns = self.links.mean, self.links.between, self.links.within
        spread = (np.where(at >= 0, column[at], 1.0) for column in columns)
        return replace(
            self,
            early=_columns(self.early, _places((*known, *self.link_measures), (*measures, *links))),
            links=Spread(*spread),
            link_exemplars=_columns(self.link_exemplars, at),
            link_measures=tuple(links),
        )

    def rarity(self, volumes: Integers, distances: Floats) -> Floats:
        """Returns float64 (n,): upper bounds, 90 percent sure, of the share of honest accounts whose D reaches each of
        ``distances`` (n,) within as many queries as ``volumes`` int64 (n,) says; see ``_Tails``."""
        return self._tails(np.searchsorted(VOLUMES, volumes, "right") - 1, distances)

    def early_rarity(self, volumes: Integers, distances: Floats) -> Floats:
        """Returns the same for D compared with ``early``, for volumes of 4 at most."""
        return self._early_tails(volumes - 1, distances)

    def first_rarity(self, shown: Floats, direction: Floats, columns: Integers) -> Floats:
        """Returns float64 (n,): upper bounds, as above, of the share of honest accounts whose first query goes as far
        along ``direction`` (c,) as each of ``shown`` (n, c), deviations in ``columns`` of ``early``."""
        known = self.early[0][:, columns]
        reached = (np.where(np.isfinite(known), known, 0.0) * direction).sum(axis=1)
        return _Tails(-np.sort(-reached)[None])(np.zeros(len(shown), np.int64), (shown * direction).sum(axis=1))

    @cached_property
    def _tails(self) -> _Tails:
        return _Tails(self.reached)

    @cached_property
    def _early_tails(self) -> _Tails:
        return _Tails(self.early_reached)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Crowd:
        names = tuple(record.get("link_measures", _FIRST_LINKS))
        return cls(**record | {"links": Spread(**record["links"]), "link_measures": names})


_FIRST_LINKS = ("foreign_one_feature", "foreign_sign_steps", "foreign_crossings")
"""The measures of links of a crowd that does not name them."""


def _places(known: Sequence[str], names: Sequence[str]) -> Integers:
    """Returns int64 (n,): the position of each of ``names`` among ``known``, -1 for those that are not."""
    return np.array([known.index(name) if name in known else -1 for name in names], np.int64)


def _columns(values: Floats, at: Integers) -> Floats:
    """Returns the columns ``at`` (n,) of ``values`` (..., m), inf for -1."""
    return np.where(at >= 0, values[..., at], np.inf)


class _Tails:
    """The bounds of ``Crowd.rarity`` at each of the first v of ``VOLUMES``, of ``reached`` float64 (v, a), descending,
    NaN at the end.

    Within the range of the calibration accounts the bound is that of Clopper and Pearson (1934); beyond their largest
    value it falls off exponentially, by the mean excess of their highest fifth. At a volume that fewer than
    ``_ENOUGH`` accounts have, it is the bound at the last volume that more have, as many times as that volume goes into
    this one: of the parts of an account, one must reach D."""

    def __init__(self, reached: Floats) -> None:
        volumes, most = reached.shape
        self._ascending = np.full((volumes, most), np.inf)
        self._count, self._bounds = np.zeros(volumes, np.int64), np.ones((volumes, most + 1))
        self._start, self._excess = np.ones(volumes), np.ones(volumes)
        for at, descending in enumerate(reached):
            known = descending[~np.isnan(descending)]
            count = self._count[at] = len(known)
            if count:
                self._ascending[at, :count] = known[::-1]
                self._bounds[at, : count + 1] = [_bound(above, count) for above in range(count + 1)]
                self._start[at] = max(known[0], _LEAST_REACHED)
                top = max(int(_TAIL * count), min(_FEWEST, count - 1), 1)
                self._excess[at] = max(known[:top].mean() - known[min(top, count - 1)], _LEAST_EXCESS)
        enough = self._count >= min(_ENOUGH, self._count.max(initial=0))
        self._source = np.maximum.accumulate(np.where(enough, np.arange(volumes), 0))
        self._times = VOLUMES[:volumes] / VOLUMES[self._source]

    def __call__(self, at: Integers, distances: Floats) -> Floats:
        """Returns float64 (n,): the bounds of ``distances`` (n,) at the volumes ``at`` int64 (n,)."""
        found, tables = np.empty(len(distances)), (self._ascending, self._count, self._bounds)
        _find(self._source[at], distances, *tables, self._start, self._excess, found)
        return np.asarray(np.minimum(found * self._times[at], 1.0))


@compiled
def _find(
    at: Integers,
    distances: Floats,
    ascending: Floats,
    count: Integers,
    bounds: Floats,
    start: Floats,
    excess: Floats,
    found: Floats,
) -> None:
    """Fills ``found`` (n,) with the bounds of ``distances`` (n,) at the volumes ``at`` (n,)."""
    for row in range(len(at)):
        volume, distance = at[row], distances[row]
        if not count[volume] or distance < _LEAST_REACHED:
            found[row] = 1.0
            continue
        above = count[volume] - np.searchsorted(ascending[volume, : count[volume]], distance)
        found[row] = bounds[volume, above]
        if distance >= start[volume]:
            found[row] *= math.exp((start[volume] - distance) / excess[volume])


@lru_cache(maxsize=4096)
def _bound(above: int, count: int) -> float:
    """Returns the 90 percent upper bound of a share of which ``above`` of ``count`` were seen."""
    from scipy.stats import beta

    return 1.0 if above >= count else float(beta.ppf(_SURE, above + 1, count - above))
