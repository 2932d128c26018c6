"""The exemplars that accounts are compared with, honest accounts and simulated users, and the D that they leave."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import take
from detector.contracts.queries import QueryBatch
from detector.core.calibration.crossfit import CrossFit, Fold
from detector.core.measures import MEASURES
from detector.core.reference.standards import MAX_CONTRIBUTION, pareto_front, unexplained
from detector.core.state.arrays import Array

WHAT_IFS = ((30, 7), (6, 40))
"""The kinds of simulated users of what-if tools: rows, and how often each is sent again with one field changed."""
SIMULATED = -1
"""The account number of a simulated user's exemplar."""

_USERS, _GROUPS = 12, 2
"""Simulated users of each kind, each made from another account where there are enough, and their groups."""
_DONORS = 512
_COVERED_SHARE = 0.75
"""An exemplar is as extreme in each measure as this share of the simulated users of its group at least."""

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]


class SimulatedUser(NamedTuple):
    """A user of one ``kind``, with queries of ``account``; with others of its ``group`` it makes one exemplar."""

    kind: int
    group: int
    account: int


def simulate_users(fit: CrossFit, fold: Fold) -> Iterator[tuple[SimulatedUser, QueryBatch]]:
    """Yields users with queries of accounts inside ``fold``, and with field values of the others."""
    long = np.flatnonzero(fit.long)
    users = [
        SimulatedUser(kind, number % _GROUPS, int(account))
        for kind, ordered in enumerate((long, long[::-1]))
        for number, account in enumerate(ordered[:_USERS])
        if account in fold.inside
    ]
    donors = fit.sample(_DONORS, fold).features if users else np.empty((0, 0), np.float32)
    for user in users:
        rows, changes = WHAT_IFS[user.kind]
        rng = np.random.default_rng([user.kind, *fit.digests[user.account]])
        bases = np.sort(fit.honest[user.account].ranked[:rows])
        yield user, what_if(fit.accounts[user.account], bases, donors, changes, rng)


def what_if(account: QueryBatch, bases: Array, donors: Rows, changes: int, rng: np.random.Generator) -> QueryBatch:
    """Returns the queries ``bases`` int64 (b,) of ``account``, each followed by ``changes`` copies with one field as in
    some row of ``donors`` (n, d). The model's answers to the copies are unknown and taken to be the same."""
    queries = take(account, np.repeat(bases, changes + 1))
    features = queries.features.copy()
    varied = [column for column in fields(donors) if (donors[:, column] != donors[0, column]).any()]
    changed = np.flatnonzero(np.arange(len(features)) % (changes + 1)) if varied else np.empty(0, np.int64)
    for row, field in zip(changed.tolist(), rng.integers(0, len(varied) or 1, len(changed)).tolist(), strict=True):
        column = varied[field]
        other = np.flatnonzero((donors[:, column] != features[row, column]).any(axis=1))
        features[row, column] = donors[rng.choice(other), column] if len(other) else features[row, column]
    return replace(queries, features=features)


def fields(rows: Rows) -> list[slice]:
    """Returns the columns of ``rows`` (n, d) as a person fills them in: a one-hot encoded category, neighbouring
    columns of 0 and 1 of which in every row exactly one is 1, is one field; any other column is a separate field."""
    binary = ((rows == 0) | (rows == 1)).all(axis=0)
    found, start = [], 0
    while start < rows.shape[1]:
        end = _category_end(rows, binary, start)
        found.append(slice(start, end))
        start = end
    return found


def _category_end(rows: Rows, binary: NDArray[np.bool_], start: int) -> int:
    """Returns the end of the one-hot encoded category that begins at ``start``, or of that column alone."""
    stop = start + int(np.argmin(np.append(binary[start:], False)))
    total = np.cumsum(rows[:, start:stop], axis=1)
    whole = np.flatnonzero((total == 1).all(axis=0))
    return start + int(whole[0]) + 1 if len(whole) else start + 1


@dataclass(frozen=True, slots=True)
class LargestD:
    """The largest ``d`` of an account, after its query number ``row``, from 0. ``contributions`` float64 (j,): what
    each measure adds to it. ``closest``: the account that explains most of it, which reached ``closest_values`` float64
    (j,). ``rests_on``: without any other accounts it would be the same."""

    d: float
    contributions: Floats
    rests_on: frozenset[int]
    row: int
    closest: int
    closest_values: Floats


@dataclass(frozen=True, slots=True)
class AccountComparison:
    """Compares accounts with each other in ``measures``. ``scores`` of each account, float64 (queries, j), and what it
    ``reached`` float64 (n, j); ``simulated`` users, and what they reached, float64 (i, j)."""

    measures: Sequence[str]
    scores: Sequence[Floats]
    reached: Floats
    simulated: Sequence[SimulatedUser]
    simulated_reached: Floats

    def pareto_front(self) -> Floats:
        """Returns float64 (e, j): all exemplars on the Pareto front."""
        return pareto_front(self._exemplars(())[1])

    def largest_d(self, account: int, without: Collection[int] = ()) -> LargestD:
        """Returns the result of ``account`` against all others except those ``without``."""
        return self.compare(self.scores[account], {account, *without})

    def compare(self, scores: Floats, without: Collection[int] = ()) -> LargestD:
        """Returns the result of an account with ``scores`` float64 (queries, j) against all except ``without``."""
        owners, exemplars = self._exemplars(without)
        d, used = largest_unexplained(scores, exemplars)
        row, last = next(reversed(used.items()))
        contributions = np.clip(scores[row] - exemplars[last], 0.0, MAX_CONTRIBUTION)
        rests_on = frozenset(owners[list(used.values())].tolist())
        return LargestD(d, contributions, rests_on, row, int(owners[last]), exemplars[last])

    def by_query(self, scores: Floats, without: Collection[int] = ()) -> Floats:
        """Returns float64 (queries,): D as of each query of an account with ``scores``, against all except
        ``without``."""
        return unexplained(scores, self._exemplars(without)[1])[0]

    def recompare(self, without: Collection[int], before: Sequence[LargestD]) -> list[LargestD]:
        """Returns the results if the accounts ``without`` excuse no others, updated from those ``before``."""
        touched = (SIMULATED, *without)
        return [
            result if result.rests_on.isdisjoint(touched) else self.largest_d(at, without)
            for at, result in enumerate(before)
        ]

    def _exemplars(self, without: Collection[int]) -> tuple[Array, Floats]:
        """Returns the accounts, int64 (e,), and exemplars, float64 (e, j), of all accounts except ``without``.

        Simulated users with queries of accounts ``without`` are left out too. One exemplar is the average account.
        """
        owners = np.delete(np.arange(len(self.reached)), list(without))
        simulated = [np.zeros(len(self.measures)), *self._simulated(self.reached[owners], without)]
        every = np.concatenate((np.maximum(self.reached[owners], 0.0), simulated))
        return np.append(owners, np.full(len(simulated), SIMULATED)), every

    def _simulated(self, others: Floats, without: Collection[int]) -> Iterator[Floats]:
        """Yields float64 (j,) for each group of each kind. The model's answers to simulated users are unknown, so that
        these count as whatever any of the ``others`` (n, j) got."""
        answers = np.array([name in MEASURES and MEASURES[name].family == "outputs" for name in self.measures])
        for kind, group in product(range(len(WHAT_IFS)), range(_GROUPS)):
            users = enumerate(self.simulated)
            chosen = [at for at, user in users if user[:2] == (kind, group) and user.account not in without]
            if chosen:
                likely = np.quantile(self.simulated_reached[chosen], _COVERED_SHARE, axis=0)
                yield np.where(answers, np.maximum(likely, others.max(axis=0)), likely)


def d_of(results: Sequence[LargestD]) -> Floats:
    """Returns float64 (n,): the D of each result."""
    return np.array([result.d for result in results])


def largest_unexplained(scores: Floats, exemplars: Floats) -> tuple[float, dict[int, int]]:
    """Returns the largest D of ``scores`` (n, j) against ``exemplars`` (e, j), and which of these it rests on, by row;
    the row of the largest D comes last.

    Each exemplar bounds D of every row from above, so that few rows are compared with all.
    """
    bound = np.clip(scores, 0.0, MAX_CONTRIBUTION).sum(axis=1)
    used: dict[int, int] = {}
    while (at := int(bound.argmax())) not in used:
        best = used[at] = int(np.clip(scores[at] - exemplars, 0.0, MAX_CONTRIBUTION).sum(axis=1).argmin())
        np.minimum(bound, np.clip(scores - exemplars[best], 0.0, MAX_CONTRIBUTION).sum(axis=1), out=bound)
    used[at] = used.pop(at)
    return float(bound[at]), used
