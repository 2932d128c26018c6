"""The base of disguises: turns the thief's queries into the stream that the service sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.lab.query_log import DUMMY, Mark

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Stream:
    """``m`` queries in the order in which they are sent.

    ``features`` float32 (m, d). ``source`` int64 (m,): the row of the thief's batch of each query, in order; -1 for a
    cover query, whose answer the thief does not see. ``account`` int64 (m,): which of the thief's accounts sends it,
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

    def first(self, count: int) -> Stream:
        """The first ``count`` queries."""
        return Stream(self.features[:count], self.source[:count], self.account[:count], self.at[:count])


class Disguise:
    """No disguise: one account, one query every ``pause`` seconds; the base of all others.

    ``accounts``: the number of accounts of the thief. ``cover``: the true mark of cover queries.
    """

    accounts = 1
    cover = Mark("extraction", DUMMY)

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._sent = 0

    def wrap(self, batch: Rows) -> Stream:
        """The stream of the next round, whose queries are ``batch`` (n, d)."""
        count = len(batch)
        return Stream(batch, np.arange(count), np.zeros(count, np.int64), self._times(count))

    def _times(self, count: int) -> NDArray[np.float64]:
        """When the next ``count`` queries are sent, one every pause."""
        numbers = np.arange(self._sent, self._sent + count, dtype=np.float64)
        self._sent += count
        return numbers * self._pause
