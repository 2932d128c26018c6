"""Disguises of an attack: they change the thief's queries before the service sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.lab.data import Examples
from detector.lab.honest.habit import HonestRequest, Rows
from detector.lab.honest.images import steady
from detector.lab.query_log import DUMMY, Mark

_ROWS_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class SentQueries:
    """``m`` queries in the order in which they are sent.

    ``features`` float32 (m, d). ``source`` int64 (m,): the row of the thief's batch of each query, in order; -1 for a
    cover query. ``account`` int64 (m,): which of the thief's accounts sends it,
    from 0. ``at`` float64 (m,): seconds since the attack began, never decreasing.
    """

    features: Rows
    source: NDArray[np.int64]
    account: NDArray[np.int64]
    at: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.features)

    @property
    def cover(self) -> NDArray[np.bool_]:
        """Which queries are cover, bool (m,)."""
        return self.source < 0

    def take(self, rows: NDArray[np.int64] | slice) -> SentQueries:
        """Returns the queries ``rows``, int64 (n,) or a slice."""
        return SentQueries(self.features[rows], self.source[rows], self.account[rows], self.at[rows])


class Disguise:
    """No disguise: one account, one query every ``pause`` seconds; the base of all others.

    ``accounts``: the number of accounts of the thief. ``cover``: the true mark of cover queries.
    ``learns_from_cover``: whether the thief uses the answers to them.
    """

    accounts = 1
    learns_from_cover = False
    cover = Mark("extraction", DUMMY)

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._sent = 0

    def wrap(self, batch: Rows) -> SentQueries:
        """Returns what is sent in the next round, whose queries are ``batch`` (n, d)."""
        account = self._assign(batch)
        return SentQueries(batch, np.arange(len(batch)), account, self._times(len(batch)))

    def _assign(self, batch: Rows) -> NDArray[np.int64]:
        """Returns the account of each row of ``batch``, int64 (n,); called before they count as sent."""
        return np.zeros(len(batch), np.int64)

    def _times(self, count: int) -> NDArray[np.float64]:
        """Returns when the next ``count`` queries are sent, one every pause."""
        numbers = np.arange(self._sent, self._sent + count, dtype=np.float64)
        self._sent += count
        return numbers * self._pause


class RoundRobin(Disguise):
    """Spreads the attack over ``accounts`` accounts, which send ``block`` queries each in turn."""

    def __init__(self, accounts: int, pause: float, block: int = 1) -> None:
        super().__init__(pause)
        self.accounts = accounts
        self._block = block

    def _assign(self, batch: Rows) -> NDArray[np.int64]:
        return np.arange(self._sent, self._sent + len(batch), dtype=np.int64) // self._block % self.accounts


class RandomAccounts(RoundRobin):
    """Each query goes to an account drawn at random."""

    def __init__(self, accounts: int, pause: float, seed: int) -> None:
        super().__init__(accounts, pause)
        self._rng = np.random.default_rng([seed, 13])

    def _assign(self, batch: Rows) -> NDArray[np.int64]:
        return self._rng.integers(0, self.accounts, len(batch))


class Lineage(RoundRobin):
    """Each query goes to the account that sent the nearest query of the rounds before, its likely parent.

    Distances are Euclidean, a feature left out counting as 0. The first round, and in any case the first ``accounts``
    queries, have no parents: the accounts send them in turn.
    """

    def __init__(self, accounts: int, pause: float) -> None:
        super().__init__(accounts, pause)
        self._earlier: list[NDArray[np.float64]] = []
        self._accounts_of: list[NDArray[np.int64]] = []

    def _assign(self, batch: Rows) -> NDArray[np.int64]:
        rows = np.nan_to_num(batch.astype(np.float64))
        rooted = self._sent == 0 or self._sent < self.accounts
        account = super()._assign(batch) if rooted else self._inherited(rows)
        self._earlier.append(rows)
        self._accounts_of.append(account)
        return account

    def _inherited(self, rows: NDArray[np.float64]) -> NDArray[np.int64]:
        from scipy.spatial.distance import cdist

        earlier, accounts = np.concatenate(self._earlier), np.concatenate(self._accounts_of)
        pieces = np.array_split(rows, -(-len(rows) // _ROWS_AT_ONCE))
        nearest = [cdist(piece, earlier, "sqeuclidean").argmin(axis=1) for piece in pieces]
        inherited: NDArray[np.int64] = accounts[np.concatenate(nearest)]
        return inherited


class Dummies(Disguise):
    """Sends ``ratio`` of the thief's natural inputs for each query, evenly spread, without repeats while they last.

    Cover queries as in Quiring, Arp and Rieck 2018; PRADA's authors name them as the way around their detector.
    """

    def __init__(self, natural: Rows, ratio: float, pause: float, seed: int) -> None:
        super().__init__(pause)
        self._ratio = ratio
        self._wrapped = 0
        self._natural = natural
        self._rng = np.random.default_rng([seed, 11])
        self._left = np.empty(0, np.int64)

    def wrap(self, batch: Rows) -> SentQueries:
        before = np.diff(np.floor(np.arange(self._wrapped, self._wrapped + len(batch) + 1) * self._ratio)).astype(
            np.int64
        )
        self._wrapped += len(batch)
        source = np.full(len(batch) + before.sum(), -1)
        source[np.arange(len(batch)) + np.cumsum(before)] = np.arange(len(batch))
        features = np.empty((len(source), batch.shape[1]), np.float32)
        features[source >= 0] = batch
        features[source < 0] = self._natural[self._drawn(int(before.sum()))]
        return SentQueries(features, source, np.zeros(len(source), np.int64), self._times(len(source)))

    def _drawn(self, count: int) -> NDArray[np.int64]:
        while len(self._left) < count:
            self._left = np.concatenate([self._left, self._rng.permutation(len(self._natural))])
        drawn, self._left = self._left[:count], self._left[count:]
        return drawn


class Mixed(Disguise):
    """Steals under the account of an honest user, whose own queries continue."""

    cover = Mark("honest", "steady")

    def __init__(self, images: Examples, pause: float, seed: int) -> None:
        super().__init__(pause)
        self._requests = _timed(steady(images, np.random.default_rng([seed, 12])))
        self._next_at, self._next_row = next(self._requests)

    def wrap(self, batch: Rows) -> SentQueries:
        times_of_batch = self._times(len(batch))
        at, rows = self._requests_until(times_of_batch[-1])
        features = np.concatenate([*rows, batch])
        source = np.concatenate([np.full(len(at), -1), np.arange(len(batch))])
        times = np.concatenate([at, times_of_batch])
        order = np.argsort(times, kind="stable")
        return SentQueries(features[order], source[order], np.zeros(len(order), np.int64), times[order])

    def _requests_until(self, second: float) -> tuple[list[float], list[Rows]]:
        """Returns the user's queries until ``second``: their times, and rows (1, d)."""
        at, rows = [], []
        while self._next_at <= second:
            at.append(self._next_at)
            rows.append(self._next_row)
            self._next_at, self._next_row = next(self._requests)
        return at, rows


def _timed(requests: Iterator[HonestRequest]) -> Iterator[tuple[float, Rows]]:
    """Yields each row (1, d) with the second at which it is sent."""
    now = 0.0
    for request in requests:
        now += request.pause
        yield now, request.rows
