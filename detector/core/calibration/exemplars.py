"""The exemplars that accounts are compared with, honest accounts and simulated users, and the largest D beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import take
from detector.contracts.queries import QueryBatch
from detector.core.calibration.crossfit import CrossFit, Fold
from detector.core.measures import MEASURES
from detector.core.profile.standards import MAX_CONTRIBUTION, pareto_front, unexplained
from detector.core.state.arrays import Array

WHAT_IFS = ((30, 7), (6, 40))
"""Invented users of what-if tools: rows, and how often each is asked again with one field changed."""

Rows = NDArray[np.float32]


def what_if(account: QueryBatch, bases: Array, donors: Rows, changes: int, rng: np.random.Generator) -> QueryBatch:
    """Somebody who asks the queries ``bases`` int64 (b,) of ``account`` and each of them ``changes`` times more, every
    time with another field as some row of ``donors`` (n, d) has it. What the model would say is not known here; it is
    taken to say the same.
    """
    asked = take(account, np.repeat(bases, changes + 1))
    features = asked.features.copy()
    varied = [own for own in fields(donors) if (donors[:, own] != donors[0, own]).any()]
    changed = np.flatnonzero(np.arange(len(features)) % (changes + 1)) if varied else np.empty(0, np.int64)
    for row, field in zip(changed.tolist(), rng.integers(0, len(varied) or 1, len(changed)).tolist(), strict=True):
        own = varied[field]
        other = np.flatnonzero((donors[:, own] != features[row, own]).any(axis=1))
        features[row, own] = donors[rng.choice(other), own] if len(other) else features[row, own]
    return replace(asked, features=features)


def fields(rows: Rows) -> list[slice]:
    """The columns of ``rows`` (n, d) as what a person would fill in: one-hot encoded categories are neighbouring
    columns of 0 and 1 of which in every row exactly one is 1; any other column is a field of its own."""
    binary = ((rows == 0) | (rows == 1)).all(axis=0)
    found, start = [], 0
    while start < rows.shape[1]:
        end = _category(rows, binary, start) or start + 1
        found.append(slice(start, end))
        start = end
    return found


def _category(rows: Rows, binary: NDArray[np.bool_], start: int) -> int | None:
    """Where the one-hot encoded category that begins at ``start`` ends; None if there is none."""
    stop = start + int(np.argmin(np.append(binary[start:], False)))
    total = np.cumsum(rows[:, start:stop], axis=1)
    whole = np.flatnonzero((total == 1).all(axis=0))
    return start + int(whole[0]) + 1 if len(whole) and whole[0] else None


_DRAWS, _GROUPS = 12, 2
"""Simulated users of each kind, each made from another account where there are enough, and their groups."""
_DONORS = 512
_COVERED = 0.75
"""An exemplar is as extreme in each measure as this share of the invented users of its group at least."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SimulatedUser:
    """One invented user: of which ``kind``, with queries of account ``at``; with others of its ``group`` it makes one
    exemplar."""

    kind: int
    group: int
    at: int


def draws(fit: CrossFit, fold: Fold) -> Iterator[tuple[SimulatedUser, QueryBatch]]:
    """Those who ask queries of accounts inside ``fold``, with fields as others have them."""
    long = np.flatnonzero(fit.long)
    chosen = [
        SimulatedUser(kind, place % _GROUPS, int(at))
        for kind, own in enumerate((long, long[::-1]))
        for place, at in enumerate(own[:_DRAWS])
    ]
    mine = [draw for draw in chosen if draw.at in fold.inside]
    donors = fit.sample(_DONORS, fold).features if mine else np.empty((0, 0), np.float32)
    for draw in mine:
        rows, changes = WHAT_IFS[draw.kind]
        rng = np.random.default_rng([draw.kind, *fit.digests[draw.at]])
        bases = np.sort(fit.honest[draw.at].ranked[:rows])
        yield draw, what_if(fit.accounts[draw.at], bases, donors, changes, rng)


@dataclass(frozen=True, slots=True)
class SimulatedUsers:
    """What the invented users of ``drawn`` ``reached`` float64 (i, j) in each of the ``measures``."""

    drawn: Sequence[SimulatedUser]
    reached: Floats
    measures: Sequence[str]

    def exemplars(self, others: Floats, without: Collection[int] = ()) -> Floats:
        """float64 (e, j): the ordinary account, and one for each group of each kind, made without those that have
        queries of the accounts ``without``. What the model would have told them is not known, so they may be told
        whatever any of the ``others`` (n, j) was."""
        said = np.array([name in MEASURES and MEASURES[name].family == "outputs" for name in self.measures])
        found = [np.zeros(len(self.measures))]
        for kind, group in product(range(len(WHAT_IFS)), range(_GROUPS)):
            of_group = [at for at, draw in enumerate(self.drawn) if (draw.kind, draw.group) == (kind, group)]
            own = [at for at in of_group if self.drawn[at].at not in without]
            if own:
                likely = np.quantile(self.reached[own], _COVERED, axis=0)
                found.append(np.where(said, np.maximum(likely, others.max(axis=0)), likely))
        return np.array(found)


NOBODY = -1
"""The account number of a simulated user's exemplar."""


@dataclass(frozen=True, slots=True)
class LargestD:
    """The largest D of an account, after its query number ``row``, from 0; ``added`` float64 (j,), what each measure
    adds to it; the accounts that it rests on: without any others it would be the same; and who excuses most of it: the
    account ``excused_by``, who ``reached`` float64 (j,)."""

    largest: float
    added: Floats
    rests_on: frozenset[int]
    row: int
    excused_by: int
    reached: Floats


@dataclass(frozen=True, slots=True)
class AccountComparison:
    """``scores`` of each account, float64 (queries, j), what it ``reached`` float64 (n, j), and the ``invented``
    users."""

    scores: Sequence[Floats]
    reached: Floats
    invented: SimulatedUsers

    def pareto_front(self) -> Floats:
        """float64 (e, j): all exemplars on the Pareto front."""
        return pareto_front(self._exemplars(())[1])

    def farthest(self, at: int, without: Collection[int] = ()) -> LargestD:
        """Returns the result of account ``at`` against all others except those ``without``."""
        return self.judged(self.scores[at], {at, *without})

    def judged(self, scores: Floats, without: Collection[int] = ()) -> LargestD:
        """Returns the result of an account with ``scores`` float64 (queries, j) against all accounts except
        ``without``."""
        whose, exemplars = self._exemplars(without)
        largest, used = farthest(scores, exemplars)
        row, last = next(reversed(used.items()))
        added = np.clip(scores[row] - exemplars[last], 0.0, MAX_CONTRIBUTION)
        rests_on = frozenset(whose[list(used.values())].tolist())
        return LargestD(largest, added, rests_on, row, int(whose[last]), exemplars[last])

    def course(self, scores: Floats, without: Collection[int] = ()) -> Floats:
        """Returns float64 (queries,): D as of each query of an account with ``scores``, against all except
        ``without``."""
        return unexplained(scores, self._exemplars(without)[1])[0]

    def again(self, some: Collection[int], before: Sequence[LargestD]) -> list[LargestD]:
        """Returns the results if the accounts ``some`` do not excuse others, updated from those ``before``."""
        touched = (NOBODY, *some)
        return [own if own.rests_on.isdisjoint(touched) else self.farthest(at, some) for at, own in enumerate(before)]

    def without(self, some: Collection[int], before: Sequence[LargestD]) -> Floats:
        """Returns float64 (n,): the largest D in the results of ``again``."""
        return np.array([own.largest for own in self.again(some, before)])

    def _exemplars(self, without: Collection[int]) -> tuple[Array, Floats]:
        """Returns the accounts, int64 (e,), and exemplars, float64 (e, j), of all accounts except ``without``."""
        whose = np.delete(np.arange(len(self.reached)), list(without))
        invented = self.invented.exemplars(self.reached[whose], without)
        every = np.concatenate((np.maximum(self.reached[whose], 0.0), invented))
        return np.append(whose, np.full(len(invented), NOBODY)), every


def farthest(scores: Floats, exemplars: Floats) -> tuple[float, dict[int, int]]:
    """The largest D of ``scores`` (n, j) beside ``exemplars`` (e, j), and which of these it rests on, by row; that of
    the largest D is the last. Each exemplar bounds D of every row from above, so that few rows are held against all."""
    bound = np.clip(scores, 0.0, MAX_CONTRIBUTION).sum(axis=1)
    used: dict[int, int] = {}
    while (at := int(bound.argmax())) not in used:
        best = used[at] = int(np.clip(scores[at] - exemplars, 0.0, MAX_CONTRIBUTION).sum(axis=1).argmin())
        np.minimum(bound, np.clip(scores - exemplars[best], 0.0, MAX_CONTRIBUTION).sum(axis=1), out=bound)
    used[at] = used.pop(at)
    return float(bound[at]), used
