"""Thieves with several accounts, each of which sends only a part of the attack."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.lab.wrappers.disguise import Disguise, Rows, Stream

_ROWS_AT_ONCE = 512


class Split(Disguise):
    """Spreads the attack over ``accounts`` accounts. The base uses them in turn, query by query."""

    def __init__(self, accounts: int, pause: float) -> None:
        super().__init__(pause)
        self.accounts = accounts

    def wrap(self, batch: Rows) -> Stream:
        account = self._assign(batch)
        return Stream(batch, np.arange(len(batch)), account, self._times(len(batch)))

    def _assign(self, batch: Rows) -> NDArray[np.int64]:
        """The account of each row of ``batch``, int64 (n,); called before they count as sent."""
        return self._numbers(batch) % self.accounts

    def _numbers(self, batch: Rows) -> NDArray[np.int64]:
        return np.arange(self._sent, self._sent + len(batch), dtype=np.int64)


class Blocks(Split):
    """One account asks ``block`` queries, then the next one; after the last the first again."""

    def __init__(self, accounts: int, block: int, pause: float) -> None:
        super().__init__(accounts, pause)
        self._block = block

    def _assign(self, batch: Rows) -> NDArray[np.int64]:
        return self._numbers(batch) // self._block % self.accounts


class Shuffled(Split):
    """Each query goes to an account drawn at random."""

    def __init__(self, accounts: int, pause: float, seed: int) -> None:
        super().__init__(accounts, pause)
        self._rng = np.random.default_rng([seed, 13])

    def _assign(self, batch: Rows) -> NDArray[np.int64]:
        return self._rng.integers(0, self.accounts, len(batch))


class Lineage(Split):
    """Each query goes to the account that asked the nearest query of the rounds before, its likely parent.

    Distances are Euclidean, a feature left out counting as 0. The first round, and in any case the first ``accounts``
    queries, have no parents: the accounts ask them in turn.
    """

    def __init__(self, accounts: int, pause: float) -> None:
        super().__init__(accounts, pause)
        self._earlier: list[NDArray[np.float64]] = []
        self._accounts_of: list[NDArray[np.int64]] = []

    def _assign(self, batch: Rows) -> NDArray[np.int64]:
        rows = np.nan_to_num(batch.astype(np.float64))
        rooted = self._sent == 0 or self._sent < self.accounts
        account = self._numbers(batch) % self.accounts if rooted else self._inherited(rows)
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
