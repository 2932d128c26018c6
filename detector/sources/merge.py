"""Reads several logs as one, sorted by time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from detector.contracts.batches import cut
from detector.contracts.queries import DecodedQueries

Portion = tuple[int, DecodedQueries]
"""The number of the log, and a portion of it."""


def one_after_another(logs: Sequence[Iterator[DecodedQueries]]) -> Iterator[Portion]:
    """Yields all portions of each log in turn."""
    for number, log in enumerate(logs):
        for portion in log:
            yield number, portion


def merge(logs: Sequence[Iterator[DecodedQueries]]) -> Iterator[Portion]:
    """Yields the rows of all logs in order of ``occurred_at``, equal times in the order of the logs.

    Holds only one portion of each log. The rows of one log keep their order: a row that is older than an earlier one
    gets the time of that row.
    """
    cursors = [_Cursor(log) for log in logs]
    heads: list[tuple[float, int]] = []  # the time of each log's next row, and the log's number

    def advance(number: int) -> Iterator[Portion]:
        cursor = cursors[number]
        for portion in cursor.load():
            yield number, portion
        if cursor.loaded:
            heapq.heappush(heads, (cursor.time, number))

    for number in range(len(cursors)):
        yield from advance(number)
    while heads:
        _, number = heapq.heappop(heads)
        yield number, cursors[number].take(number, *heads[0] if heads else (np.inf, number))
        yield from advance(number)


class _Cursor:
    """A position in a log."""

    def __init__(self, log: Iterator[DecodedQueries]) -> None:
        self._log = log
        self._portion: DecodedQueries | None = None
        self._times = np.zeros(0)
        self._at = 0
        self._latest = -np.inf

    @property
    def loaded(self) -> bool:
        return self._at < len(self._times)

    @property
    def time(self) -> float:
        return float(self._times[self._at])

    def load(self) -> Iterator[DecodedQueries]:
        """Reads until there is a row; yields portions without rows."""
        while not self.loaded:
            portion = next(self._log, None)
            if portion is None:
                return
            if portion.batch is None:
                yield portion
                continue
            self._portion, self._at = portion, 0
            self._times = np.maximum(np.maximum.accumulate(portion.batch.occurred_at), self._latest)
            self._latest = float(self._times[-1])

    def take(self, number: int, time: float, other: int) -> DecodedQueries:
        """Returns the next rows of log ``number`` before the row at ``time`` of log ``other``, at least one."""
        portion = self._portion
        assert portion is not None
        assert portion.batch is not None
        side: Literal["left", "right"] = "right" if number <= other else "left"
        start = self._at
        stop = self._at = max(int(np.searchsorted(self._times, time, side=side)), start + 1)
        rows = DecodedQueries(cut(portion.batch, start, stop), portion.rows[start:stop])
        return replace(rows, bad_rows=portion.bad_rows, repaired=portion.repaired) if start == 0 else rows
