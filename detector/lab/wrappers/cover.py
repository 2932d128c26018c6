"""Thieves that hide among other queries under their own account."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from detector.lab.data import Examples
from detector.lab.honest.habit import Ask
from detector.lab.honest.sampling import steady
from detector.lab.query_log import Mark
from detector.lab.wrappers.disguise import Disguise, Rows, Stream


class Dummies(Disguise):
    """Sends ``ratio`` of the thief's natural inputs for each query, evenly spread, none twice while they last.

    Cover queries as in Quiring, Arp and Rieck 2018; PRADA's authors name them as the way around their detector.
    """

    def __init__(self, natural: Rows, ratio: float, pause: float, seed: int) -> None:
        super().__init__(pause)
        self._ratio = ratio
        self._own = 0
        self._natural = natural
        self._rng = np.random.default_rng([seed, 11])
        self._left = np.empty(0, np.int64)

    def wrap(self, batch: Rows) -> Stream:
        before = np.diff(np.floor(np.arange(self._own, self._own + len(batch) + 1) * self._ratio)).astype(np.int64)
        self._own += len(batch)
        source = np.full(len(batch) + before.sum(), -1)
        source[np.arange(len(batch)) + np.cumsum(before)] = np.arange(len(batch))
        features = np.empty((len(source), batch.shape[1]), np.float32)
        features[source >= 0] = batch
        features[source < 0] = self._natural[self._drawn(int(before.sum()))]
        return Stream(features, source, np.zeros(len(source), np.int64), self._times(len(source)))

    def _drawn(self, count: int) -> NDArray[np.int64]:
        while len(self._left) < count:
            self._left = np.concatenate([self._left, self._rng.permutation(len(self._natural))])
        drawn, self._left = self._left[:count], self._left[count:]
        return drawn


class Mixed(Disguise):
    """Steals under the account of an honest user, whose own work goes on at its own pace."""

    cover = Mark("honest", "steady")

    def __init__(self, images: Examples, pause: float, seed: int) -> None:
        super().__init__(pause)
        self._asks = _timed(steady(images, np.random.default_rng([seed, 12])))
        self._next_at, self._next_row = next(self._asks)

    def wrap(self, batch: Rows) -> Stream:
        own = self._times(len(batch))
        at, rows = self._asked_until(own[-1])
        features = np.concatenate([*rows, batch])
        source = np.concatenate([np.full(len(at), -1), np.arange(len(batch))])
        times = np.concatenate([at, own])
        order = np.argsort(times, kind="stable")
        return Stream(features[order], source[order], np.zeros(len(order), np.int64), times[order])

    def _asked_until(self, second: float) -> tuple[list[float], list[Rows]]:
        """Returns the user's queries until ``second``: their times, and rows (1, d)."""
        at, rows = [], []
        while self._next_at <= second:
            at.append(self._next_at)
            rows.append(self._next_row)
            self._next_at, self._next_row = next(self._asks)
        return at, rows


def _timed(asks: Iterator[Ask]) -> Iterator[tuple[float, Rows]]:
    """Each row (1, d) with the second at which it is asked."""
    now = 0.0
    for ask in asks:
        now += ask.pause
        yield now, ask.rows
